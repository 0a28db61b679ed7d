/* How long metrics take from their arrival to the answer that decides them: histograms, and the walk over a batch's slots.
 *
 * Each slot says when the oldest metric of its run arrived and how many metrics it has, so a batch is one observation a slot,
 * weighted. Nothing is measured where metrics are received: it is the reader of a ring that looks, when a batch is over.
 *
 * There are ten bounds in each power of ten, exact decimals, each inclusive: 1 1.25 1.6 2 2.5 3.15 4 5 6.3 8. Whoever writes
 * a histogram, or reads it, holds Python's lock; there is no other.
 */
#ifndef PENSTOCK_DELAYS_H
#define PENSTOCK_DELAYS_H

#include "ring_adopt.h"

#define HISTOGRAM_MAX 120u /* buckets */
#define HISTOGRAM_DECADES_MAX 11u
#define HISTOGRAM_EXPONENT_MAX 10 /* of the least bound, as a power of ten, up or down: all bounds are exact then */

typedef struct {
    uint32_t count; /* bounds; one bucket more, for what is above all of them */
    uint32_t last;  /* the bucket found last */
    double bounds[HISTOGRAM_MAX];
    uint64_t buckets[HISTOGRAM_MAX];
    double sum;
} histogram_t;

typedef struct {
    histogram_t *delay; /* borrowed; seconds */
    int64_t within_ns;
    uint64_t on_time;   /* metrics that took no longer than that, of those that this process has received */
} delays_t;

/* Bounds from 10^exponent on, for so many powers of ten, both ends included. h: zeroed. */
static inline void histogram_open(histogram_t *h, int exponent, uint32_t decades)
{
    static const double steps[10] = {100, 125, 160, 200, 250, 315, 400, 500, 630, 800};
    h->count = 10 * decades + 1;
    for (uint32_t i = 0; i < h->count; i++) {
        double power = 1;
        int tens = exponent + (int)(i / 10) - 2;
        for (int k = 0; k < (tens < 0 ? -tens : tens); k++)
            power *= 10;
        /* Both are whole numbers that a double has: the quotient is the double next to the decimal. */
        h->bounds[i] = tens < 0 ? steps[i % 10] / power : steps[i % 10] * power;
    }
}

/* The bucket that a value is in. */
static inline uint32_t histogram_find(const histogram_t *h, double value)
{
    uint32_t low = 0, high = h->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (value <= h->bounds[middle])
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Counts a value `weight` times. */
static inline void histogram_add(histogram_t *h, double value, uint64_t weight)
{
    uint32_t at = h->last; /* neighbours are mostly alike */
    if (!((at == 0 || value > h->bounds[at - 1]) && (at == h->count || value <= h->bounds[at])))
        at = h->last = histogram_find(h, value);
    h->buckets[at] += weight;
    h->sum += value * (double)weight;
}

/* So many metrics that arrived at `oldest_ns`. own: whether this process has received them. A clock that was set back makes
 * delays of 0. */
static inline void delays_add(delays_t *d, int64_t oldest_ns, uint64_t metrics, bool own, int64_t now_ns)
{
    int64_t took = now_ns > oldest_ns ? now_ns - oldest_ns : 0;
    histogram_add(d->delay, (double)took / 1e9, metrics);
    d->on_time += own && took <= d->within_ns ? metrics : 0;
}

/* The slots of a batch, from `begin` to `end`, which hold so many metrics. Of these the last `delivered` are counted: what was
 * refused or given up is left out at the oldest ones, so that nothing looks faster than it was. Before the batch is freed. */
static inline void delays_of_slots(delays_t *d, const ring_t *r, uint64_t begin, uint64_t end, uint64_t metrics, uint64_t delivered,
                                   int64_t now_ns)
{
    uint64_t over = delivered < metrics ? metrics - delivered : 0;
    for (uint64_t at = begin; at < end; at++) {
        const ring_slot_t *slot = &r->slots[at % RING_SLOTS];
        uint64_t weight = slot->metrics;
        if (unlikely(over)) {
            uint64_t passed = over < weight ? over : weight;
            over -= passed;
            weight -= passed;
        }
        if (likely(weight))
            delays_add(d, slot->oldest_ns, weight, at >= r->own_from, now_ns);
    }
}

#endif
