/* Histograms, and the walk over a batch: which metrics are counted, in which bucket, and which of them in time. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "delays.h"
#include "memory_ring.h"

static histogram_t *histogram_new(int exponent, uint32_t decades)
{
    histogram_t *h = calloc(1, sizeof *h);
    if (h == NULL)
        abort();
    histogram_open(h, exponent, decades);
    return h;
}

/* The bounds are what the decimals read as, and a value at a bound is below it. */
static void test_bounds_are_exact_decimals(void)
{
    static const char *steps[] = {"1", "1.25", "1.6", "2", "2.5", "3.15", "4", "5", "6.3", "8"};
    for (int exponent = -HISTOGRAM_EXPONENT_MAX; exponent <= HISTOGRAM_EXPONENT_MAX; exponent++) {
        histogram_t *h = histogram_new(exponent, HISTOGRAM_DECADES_MAX);
        CHECK(h->count + 1 <= HISTOGRAM_MAX);
        for (uint32_t i = 0; i < h->count; i++) {
            char text[32];
            snprintf(text, sizeof text, "%se%d", steps[i % 10], exponent + (int)(i / 10));
            CHECK(h->bounds[i] == strtod(text, NULL));
            CHECK(histogram_find(h, h->bounds[i]) == i);
            CHECK(histogram_find(h, nextafter(h->bounds[i], INFINITY)) == i + 1);
        }
        free(h);
    }
}

/* Whatever was found before, the next one is found. */
static void test_values_are_counted_where_they_belong(void)
{
    histogram_t *h = histogram_new(-4, 9);
    uint64_t expected[HISTOGRAM_MAX] = {0}, state = 7;
    double sum = 0;
    CHECK(h->count == 91 && h->bounds[0] == 1e-4 && h->bounds[90] == 1e5);
    for (uint32_t i = 0; i < 200000; i++) {
        state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
        double value = i % 50 == 0 ? 0 : i % 50 == 1 ? 1e9 : pow(10, (double)(state >> 40) / (double)(1 << 24) * 11 - 5);
        uint64_t weight = state >> 30 & 255;
        uint32_t at = 0;
        while (at < h->count && value > h->bounds[at])
            at++;
        expected[at] += weight;
        sum += value * (double)weight;
        histogram_add(h, value, weight);
        if (i % 3 == 0) { /* the same bucket again */
            expected[at]++;
            sum += value;
            histogram_add(h, value, 1);
        }
    }
    CHECK(memcmp(expected, h->buckets, sizeof expected) == 0);
    CHECK(h->sum == sum);
    histogram_add(h, NAN, 1); /* in no bucket with a bound */
    CHECK(h->buckets[h->count] == expected[h->count] + 1);
    free(h);
}

#define NOW INT64_C(1000000000000)

/* A ring with runs of 1, 2, … n metrics that came n, n-1, … 1 seconds ago. */
static ring_t *ring_of(uint32_t n)
{
    ring_t *r = memory_ring_new(1 << 20, RING_LP);
    for (uint32_t i = 0; i < n; i++) {
        memset(ring_reserve(r, 8), 0, 8);
        ring_commit(r, 8, i + 1, NOW - (int64_t)(n - i) * 1000000000);
        ring_publish(r);
    }
    return r;
}

static uint64_t total(const histogram_t *h)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i <= h->count; i++)
        n += h->buckets[i];
    return n;
}

static void test_what_was_not_delivered_is_left_out_at_the_oldest(void)
{
    enum { RUNS = 20, METRICS = RUNS * (RUNS + 1) / 2 };
    for (uint32_t delivered = 0; delivered <= METRICS + 1; delivered++)
        for (uint32_t own_from = 0; own_from <= RUNS; own_from += 5) {
            histogram_t *h = histogram_new(-4, 9);
            delays_t d = {.delay = h, .within_ns = INT64_C(12000000000)};
            ring_t *r = ring_of(RUNS);
            ring_batch_t batch = {0};
            r->own_from = own_from;
            CHECK(ring_take(r, 1 << 20, 1 << 20, true, &batch) && batch.metrics == METRICS);
            delays_of_slots(&d, r, batch.begin, batch.end, batch.metrics, delivered, NOW);
            uint32_t counted = delivered < METRICS ? delivered : METRICS, left = counted;
            uint64_t on_time = 0;
            double sum = 0;
            for (uint32_t i = RUNS; i-- > 0;) { /* the latest first */
                uint32_t weight = i + 1 < left ? i + 1 : left;
                left -= weight;
                sum += (double)(RUNS - i) * weight;
                on_time += RUNS - i <= 12 && i >= own_from ? weight : 0;
            }
            CHECK(total(h) == counted);
            CHECK(h->sum == sum);
            CHECK(d.on_time == on_time);
            memory_ring_free(r);
            free(h);
        }
}

static void test_a_clock_that_went_back_makes_delays_of_nothing(void)
{
    histogram_t *h = histogram_new(-4, 9);
    delays_t d = {.delay = h, .within_ns = 0};
    delays_add(&d, NOW + 5, 3, true, NOW);
    delays_add(&d, NOW, 4, true, NOW);
    delays_add(&d, NOW - 1, 5, true, NOW);
    delays_add(&d, NOW, 6, false, NOW);
    CHECK(h->buckets[0] == 18 && d.on_time == 7 && h->sum == 5e-9);
    free(h);
}

int main(void)
{
    test_bounds_are_exact_decimals();
    test_values_are_counted_where_they_belong();
    test_what_was_not_delivered_is_left_out_at_the_oldest();
    test_a_clock_that_went_back_makes_delays_of_nothing();
    return check_report("delays");
}
