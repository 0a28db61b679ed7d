/* Tables of hashes against a plain array: found, added, forgotten; without memory; a million of them. */
#include <stddef.h>
#include <stdlib.h>

static long memory_left = -1; /* allocations that succeed; -1: all */

static void *test_alloc(size_t alignment, size_t bytes)
{
    if (memory_left == 0)
        return NULL;
    memory_left -= memory_left > 0;
    return aligned_alloc(alignment, bytes);
}
#define aligned_alloc test_alloc
#include "slots.h"
#undef aligned_alloc

#include "check.h"

static uint64_t random_state = 0x9E3779B97F4A7C15;

static uint64_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

typedef struct {
    uint64_t hash;
    uint32_t value;
    uint8_t epoch;
    bool there;
} plain_t;

static plain_t plain[4000];
static uint32_t plain_gone;

static void went(void *context, uint64_t hash, const slot_t *slot)
{
    CHECK(context == plain);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (plain[i].hash == hash) {
            CHECK(plain[i].there && slot->value == plain[i].value);
            plain[i].there = false;
            plain_gone++;
        }
}

static void check_same(slots_t *t, uint32_t used)
{
    uint64_t there = 0;
    for (uint32_t i = 0; i < used; i++) {
        const slot_t *slot = slots_find(t, plain[i].hash);
        CHECK((slot != NULL) == plain[i].there);
        there += plain[i].there;
        if (slot != NULL)
            CHECK(slot->value == plain[i].value && slot->epoch == plain[i].epoch);
        if (slot != NULL && t->timed)
            CHECK(*slots_time(t, plain[i].hash, slot) == -(int64_t)plain[i].hash);
    }
    CHECK(t->count == there);
}

/* Random hashes, among them many that want the same places, at random epochs, swept in random steps. */
static void test_against_an_array(bool timed)
{
    slots_t t;
    slots_open(&t, timed, 1 << 20);
    memset(plain, 0, sizeof plain);
    uint8_t epoch = 0;
    uint32_t used = 0;
    for (int round = 0; round < 20000; round++) {
        uint32_t what = (uint32_t)(random_next() % 10);
        if (what < 3 && used < sizeof plain / sizeof *plain) {
            plain_t *p = &plain[used++];
            p->hash = random_next() & UINT64_C(0x03C000000000FFFF); /* four segments, and few buckets in each */
            p->hash |= (uint64_t)used << 16 | 1; /* none twice */
            p->there = true;
            p->value = (uint32_t)random_next() & 0xFFFFFF;
            p->epoch = epoch;
            CHECK(slots_find(&t, p->hash) == NULL);
            slot_t *slot = slots_add(&t, p->hash);
            CHECK(slot != NULL && slots_find(&t, p->hash) == slot && slot->value == 0);
            *slot = (slot_t){.value = p->value & 0xFFFFFF, .epoch = epoch};
            if (timed)
                *slots_time(&t, p->hash, slot) = -(int64_t)p->hash;
        } else if (what < 8 && used) {
            plain_t *p = &plain[random_next() % used];
            slot_t *slot = slots_find(&t, p->hash);
            CHECK((slot != NULL) == p->there);
            if (slot != NULL)
                slot->epoch = p->epoch = epoch;
        } else if (what == 8) {
            uint32_t before = plain_gone;
            uint32_t removed = slots_sweep(&t, epoch, (uint32_t)(random_next() % 300), went, plain);
            CHECK(removed == plain_gone - before);
        } else {
            epoch += random_next() % 8 == 0;
        }
        if (round % 500 == 0)
            check_same(&t, used);
    }
    check_same(&t, used);
    CHECK(plain_gone > 100);
    /* Once round: what is silent for longer than eight whole epochs is gone, all else is there. */
    uint32_t places = SLOTS_SEGMENTS * (1 + SLOTS_BUCKET) + (uint32_t)t.places;
    slots_sweep(&t, epoch, places + (uint32_t)t.count, went, plain);
    for (uint32_t i = 0; i < used; i++)
        if (plain[i].there)
            CHECK((uint8_t)(epoch - plain[i].epoch) <= SLOTS_EPOCHS);
    check_same(&t, used);
    slots_close(&t);
    CHECK(t.count == 0 && t.bytes == 0 && t.places == 0 && slots_find(&t, 5) == NULL);
}

/* One that was heard in epoch 3 goes in epoch 12: eight whole epochs have passed it. */
static void test_epochs(void)
{
    slots_t t;
    slots_open(&t, false, 10);
    slots_add(&t, 7)->epoch = 3;
    CHECK(slots_sweep(&t, 11, 10000, NULL, NULL) == 0 && slots_find(&t, 7) != NULL);
    CHECK(slots_sweep(&t, 12, 10000, NULL, NULL) == 1 && slots_find(&t, 7) == NULL);
    slots_add(&t, 7)->epoch = 250; /* epochs begin again at 0 */
    CHECK(slots_sweep(&t, 2, 10000, NULL, NULL) == 0);
    CHECK(slots_sweep(&t, 3, 10000, NULL, NULL) == 1);
    slots_close(&t);
}

static void test_limits(void)
{
    slots_t t;
    slots_open(&t, false, 100);
    CHECK(slots_find(&t, 0) == NULL);
    CHECK(slots_add(&t, 0) != NULL && slots_find(&t, 0) != NULL); /* a hash like any other */
    for (uint64_t i = 1; i < 100; i++)
        CHECK(slots_add(&t, random_next()) != NULL);
    CHECK(slots_add(&t, random_next()) == NULL && t.count == 100);
    slots_close(&t);
}

/* Each allocation fails in turn; what is there stays there. */
static void test_no_memory(void)
{
    for (long fails = 0; fails < 30; fails++) {
        slots_t t;
        uint64_t hashes[400];
        uint32_t refused = 0;
        slots_open(&t, false, 1000);
        memory_left = fails;
        for (uint32_t i = 0; i < 400; i++) {
            hashes[i] = random_next() >> 6;
            if (slots_add(&t, hashes[i]) == NULL) {
                hashes[i] = 0;
                refused++;
            }
        }
        memory_left = -1;
        CHECK(refused > 0 && t.count + refused == 400);
        for (uint32_t i = 0; i < 400; i++)
            CHECK(hashes[i] == 0 || slots_find(&t, hashes[i]) != NULL);
        slots_close(&t);
    }
}

static void test_a_million(void)
{
    slots_t t;
    slots_open(&t, false, 2000000);
    uint64_t seed = random_state;
    double bytes_most = 0;
    for (int i = 0; i < 1000000; i++) {
        CHECK(slots_add(&t, random_next()) != NULL);
        if (i > 500000 && (double)t.bytes / (double)t.count > bytes_most)
            bytes_most = (double)t.bytes / (double)t.count;
    }
    random_state = seed;
    for (int i = 0; i < 1000000; i++)
        CHECK(slots_find(&t, random_next()) != NULL);
    for (int i = 0; i < 100000; i++)
        CHECK(slots_find(&t, random_next()) == NULL);
    CHECK(bytes_most <= 64.0 / 5 / 0.64 + (double)SLOTS_SEGMENTS * SLOTS_MAPPED / 500000); /* whole pages */
    slots_close(&t);
}

int main(void)
{
    test_against_an_array(false);
    test_against_an_array(true);
    test_epochs();
    test_limits();
    test_no_memory();
    test_a_million();
    return check_report("slots");
}
