/* The ring with its two threads: what the writer puts in comes out once, in order and whole.
 *
 * Meant for ThreadSanitizer. The ring is small, so that it is full, empty and wrapped thousands of times; each
 * record carries its number and bytes that follow from it; batches are freed out of order. */
#include <pthread.h>

#include "check.h"
#include "memory_ring.h"

#define RECORDS 400000u

static uint32_t record_bytes(uint32_t i)
{
    return 8 + (i * 2654435761u >> 16) % 200;
}

/* Which runs are marked: few, and some right behind each other. */
static bool marks(uint32_t i)
{
    return i % 97 == 0 || i % 97 == 3;
}

static void *write_records(void *argument)
{
    ring_t *r = argument;
    for (uint32_t i = 0; i < RECORDS;) {
        ring_begin(r);
        for (uint32_t k = 0; k < 1 + i % 7 && i < RECORDS; k++) {
            uint32_t n = record_bytes(i);
            if (marks(i))
                ring_mark(r);
            uint8_t *to = ring_reserve(r, n);
            if (to == NULL) {
                ring_publish(r);
                ring_notify(r);
                sched_yield();
                break;
            }
            memcpy(to, &i, 4);
            memset(to + 4, (int)(i & 0xFF), n - 4);
            ring_commit(r, n, 1, i);
            i++;
        }
        ring_publish(r);
        ring_notify(r);
    }
    return NULL;
}

static uint32_t check_batch(const ring_batch_t *batch, uint32_t expected)
{
    uint64_t at = 0;
    for (uint32_t i = expected; i < expected + batch->metrics; i++)
        CHECK(!marks(i) || batch->marked);
    CHECK(batch->oldest_ns == (int64_t)expected);
    for (uint32_t k = 0; k < batch->metrics; k++) {
        uint32_t i;
        memcpy(&i, batch->bytes + at, 4);
        if (i != expected) {
            CHECK(i == expected);
            return expected;
        }
        uint32_t n = record_bytes(i);
        for (uint32_t j = 4; j < n; j++)
            if (batch->bytes[at + j] != (uint8_t)i)
                CHECK(!"bytes of another record");
        at += n;
        expected++;
    }
    CHECK(at == batch->length);
    return expected;
}

static void test_two_threads(void)
{
    ring_t *r = memory_ring_new(65536, RING_LP);
    r->slot_metrics_max = 5;
    pthread_t writer;
    pthread_create(&writer, NULL, write_records, r);
    uint32_t seen = 0;
    ring_batch_t held[3];
    int held_count = 0;
    while (seen < RECORDS) {
        ring_batch_t batch;
        if (!ring_take(r, 4096, 40, seen % 3 == 0 || seen + 100 > RECORDS, &batch)) {
            for (; held_count > 0; held_count--) /* newest first: out of order */
                ring_free(r, &held[held_count - 1]);
            if (!ring_arm(r, 4096, 40)) {
                ring_batch_t rest;
                if (!ring_take(r, 4096, 40, true, &rest)) {
                    sched_yield();
                    continue;
                }
                batch = rest;
            } else {
                continue;
            }
        }
        seen = check_batch(&batch, seen);
        held[held_count++] = batch;
        if (held_count == 3)
            for (; held_count > 0; held_count--)
                ring_free(r, &held[held_count - 1]);
    }
    pthread_join(writer, NULL);
    for (; held_count > 0; held_count--)
        ring_free(r, &held[held_count - 1]);
    CHECK(counter_get(&r->written) == RECORDS);
    CHECK(counter_get(&r->freed) == RECORDS);
    CHECK(ring_slots_used(r) == 0);
    memory_ring_free(r);
}

static void test_full_keeps_what_it_has(void)
{
    ring_t *r = memory_ring_new(65536, RING_LP);
    uint32_t put = 0;
    for (;; put++) {
        uint8_t *to = ring_reserve(r, 100);
        if (to == NULL)
            break;
        memset(to, (int)put, 100);
        ring_commit(r, 100, 1, 0);
    }
    CHECK(put >= 650);
    CHECK(ring_reserve(r, 100) == NULL);
    ring_publish(r);
    ring_batch_t batch;
    CHECK(ring_take(r, 1000000, 1000000, true, &batch));
    CHECK(batch.metrics == put);
    for (uint32_t i = 0; i < put; i++)
        CHECK(batch.bytes[100 * i] == (uint8_t)i);
    CHECK(ring_reserve(r, 100) == NULL); /* taken is not freed */
    ring_free(r, &batch);
    ring_begin(r);
    CHECK(ring_reserve(r, 100) == r->data); /* empty: it starts again at its beginning */
    memory_ring_free(r);
}

static void test_slots_run_out(void)
{
    ring_t *r = memory_ring_new(1 << 22, RING_LP);
    uint32_t slots = 0;
    for (;; slots++) {
        uint8_t *to = ring_reserve(r, 1);
        if (to == NULL)
            break;
        *to = 'x';
        ring_commit(r, 1, 1, 0);
        ring_publish(r);
    }
    CHECK(slots == RING_SLOTS);
    ring_batch_t batch;
    CHECK(ring_take(r, 10, 1000, false, &batch));
    CHECK(batch.length == 10);
    ring_free(r, &batch);
    CHECK(ring_reserve(r, 1) != NULL);
    memory_ring_free(r);
}

/* Bursts of one metric fill the ring by its bytes, not by its slots. */
static void test_small_bursts_do_not_use_up_the_slots(void)
{
    ring_t *r = memory_ring_new(4 << 20, RING_LP);
    r->slot_metrics_max = 256;
    uint32_t put = 0;
    for (;; put++) {
        ring_begin(r);
        uint8_t *to = ring_reserve(r, 20);
        if (to == NULL)
            break;
        memset(to, (int)put, 20);
        ring_commit(r, 20, 1, put);
        ring_end(r);
    }
    CHECK(put > (4 << 20) / 20 - 10);
    CHECK(ring_slots_used(r) < RING_SLOTS);
    ring_publish(r);
    ring_batch_t batch;
    uint32_t seen = 0;
    while (ring_take(r, 100000, 5000, true, &batch)) {
        for (uint32_t i = 0; i < batch.metrics; i++, seen++)
            if (batch.bytes[20 * i] != (uint8_t)seen)
                CHECK(!"bytes of another metric");
        ring_free(r, &batch);
    }
    CHECK(seen == put);
    memory_ring_free(r);
}

static void test_batches_respect_both_limits(void)
{
    ring_t *r = memory_ring_new(65536, RING_LP);
    r->slot_metrics_max = 4;
    for (int i = 0; i < 40; i++) {
        ring_reserve(r, 10);
        ring_commit(r, 10, 1, 1000 + i);
    }
    ring_batch_t batch;
    CHECK(!ring_take(r, 1000, 1000, false, &batch));
    CHECK(ring_take(r, 1000, 12, false, &batch) && batch.metrics == 12 && batch.oldest_ns == 1000);
    CHECK(ring_take(r, 95, 1000, false, &batch) && batch.metrics == 8);
    CHECK(ring_take(r, 1, 1, false, &batch) && batch.metrics == 4); /* at least one slot */
    CHECK(ring_take(r, 1000, 1000, true, &batch) && batch.metrics == 16);
    CHECK(!ring_take(r, 1000, 1000, true, &batch));
    memory_ring_free(r);
}

/* A mark is that of a run, wherever it is closed, and not of the slot's next one. */
static void test_marks_are_of_runs(void)
{
    ring_t *r = memory_ring_new(1 << 20, RING_LP);
    r->slot_metrics_max = 2;
    ring_batch_t batch;
    for (uint32_t i = 0; i < 5 * RING_SLOTS; i++) {
        for (uint32_t k = 0; k < 2; k++) {
            if (i % 5 == 0 && k == i % 2)
                ring_mark(r);
            memset(ring_reserve(r, 8), 0, 8);
            ring_commit(r, 8, 1, 1); /* the second one closes the run */
        }
        if (i % 100 != 99)
            continue;
        for (uint32_t from = i - 99; from <= i; from += 2) {
            CHECK(ring_take(r, 1 << 20, 4, true, &batch) && batch.metrics == 4);
            CHECK(batch.marked == (from % 5 == 0 || (from + 1) % 5 == 0));
            ring_free(r, &batch);
        }
    }
    /* Of what finds no room the next run bears the mark, for nothing. */
    ring_mark(r);
    CHECK(ring_reserve(r, 2 << 20) == NULL);
    memset(ring_reserve(r, 8), 0, 8);
    ring_commit(r, 8, 1, 1);
    ring_publish(r);
    CHECK(ring_take(r, 1, 1, true, &batch) && batch.marked);
    ring_free(r, &batch);
    memory_ring_free(r);
}

/* A run bears its listener, one that several bursts have written "several", wherever the ring is. */
static void test_runs_know_their_listener(void)
{
    ring_t *r = memory_ring_new(1 << 20, RING_LP);
    r->slot_metrics_max = 4;
    ring_batch_t batch;
    uint64_t slots = 0;
    for (uint32_t i = 0; i < 3 * RING_SLOTS; i++) {
        uint8_t listener = (uint8_t)(i % 64);
        ring_begin(r);
        ring_from(r, listener);
        for (uint32_t k = 0; k < 6; k++) { /* the fourth closes a run */
            memset(ring_reserve(r, 8), 0, 8);
            ring_commit(r, 8, 1, 1);
        }
        ring_publish(r);
        CHECK(ring_take(r, 1 << 20, 100, true, &batch));
        CHECK(batch.begin == slots && batch.end == slots + 2);
        for (uint64_t at = batch.begin; at < batch.end; at++)
            CHECK(r->listeners[at % RING_SLOTS] == listener);
        slots = batch.end;
        ring_free(r, &batch);
    }
    /* One that stays open, to which another burst of the same adds, and then one of another. */
    for (uint8_t listener = 1; listener <= 2; listener++) {
        for (int k = 0; k < 2; k++) {
            ring_from(r, listener);
            memset(ring_reserve(r, 8), 0, 8);
            ring_commit(r, 8, 1, 1);
            CHECK(r->run_listener == (listener == 1 ? 1 : RING_SEVERAL));
        }
    }
    ring_from(r, 3); /* the fourth metric has closed it */
    memset(ring_reserve(r, 8), 0, 8);
    ring_commit(r, 8, 1, 1);
    ring_publish(r);
    CHECK(ring_take(r, 1 << 20, 100, true, &batch) && batch.end == batch.begin + 2);
    CHECK(r->listeners[batch.begin % RING_SLOTS] == RING_SEVERAL && r->listeners[(batch.begin + 1) % RING_SLOTS] == 3);
    memory_ring_free(r);
}

#define YOUNG_RUNS 20000u

/* Held against a plain list of all runs: what is taken, freed out of order and adopted; arrivals in no order. */
static void test_young_is_what_waits_and_came_late(void)
{
    static struct { int64_t arrived; uint32_t metrics; bool gone; } runs[YOUNG_RUNS];
    ring_t *r = memory_ring_new(1 << 20, RING_LP);
    ring_batch_t out[8];
    uint32_t count = 0, held = 0, state = 1;
    while (count < YOUNG_RUNS) {
        state = state * 1664525u + 1013904223u;
        uint32_t choice = state >> 28, number = state >> 12 & 7;
        if (choice < 8) {
            runs[count].arrived = 1000 + (int64_t)count - (int64_t)(state >> 16 & 63);
            runs[count].metrics = 1 + number;
            uint8_t *to = ring_reserve(r, 8);
            if (to == NULL)
                continue;
            memset(to, 0, 8);
            ring_commit(r, 8, runs[count].metrics, runs[count].arrived);
            ring_publish(r);
            count++;
        } else if (choice < 12 && held < 8) {
            held += ring_take(r, 1 << 20, 1 + 4 * number, true, &out[held]);
        } else if (held > 0) {
            uint32_t at = number % held;
            for (uint64_t i = out[at].begin; i < out[at].end; i++)
                runs[i].gone = true;
            ring_free(r, &out[at]);
            out[at] = out[--held];
        }
        if (choice == 0)
            r->own_from = count > 100 && count < 2000 ? 150 : r->own_from;
        int64_t since = 1000 + (int64_t)count - (int64_t)(state >> 20 & 127);
        uint64_t expected = 0;
        for (uint32_t i = count > 4000 ? count - 4000 : 0; i < count; i++)
            expected += !runs[i].gone && i >= r->own_from && runs[i].arrived >= since ? runs[i].metrics : 0;
        if (ring_young(r, since) != expected)
            CHECK(ring_young(r, since) == expected);
    }
    CHECK(r->own_from == 150 && ring_young(r, INT64_MAX) == 0);
    memory_ring_free(r);
}

int main(void)
{
    test_runs_know_their_listener();
    test_young_is_what_waits_and_came_late();
    test_full_keeps_what_it_has();
    test_slots_run_out();
    test_small_bursts_do_not_use_up_the_slots();
    test_batches_respect_both_limits();
    test_marks_are_of_runs();
    test_two_threads();
    return check_report("ring");
}
