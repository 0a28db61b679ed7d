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

static void *write_records(void *argument)
{
    ring_t *r = argument;
    for (uint32_t i = 0; i < RECORDS;) {
        ring_begin(r);
        for (uint32_t k = 0; k < 1 + i % 7 && i < RECORDS; k++) {
            uint32_t n = record_bytes(i);
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
    ring_t *r = memory_ring_new(65536, true);
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
    ring_t *r = memory_ring_new(65536, true);
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
    ring_t *r = memory_ring_new(1 << 22, true);
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
    ring_t *r = memory_ring_new(4 << 20, true);
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
    ring_t *r = memory_ring_new(65536, true);
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

int main(void)
{
    test_full_keeps_what_it_has();
    test_slots_run_out();
    test_small_bursts_do_not_use_up_the_slots();
    test_batches_respect_both_limits();
    test_two_threads();
    return check_report("ring");
}
