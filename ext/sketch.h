/* Quantiles of a stream with a guaranteed relative error, and its exact moments.
 *
 * The algorithm is DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with
 * relative-error guarantees", PVLDB 12, 2019): a value falls into the bucket of its logarithm, and a bucket spans a
 * factor of (1 + a) / (1 - a), so that one value stands for all in it with a relative error of at most a. Instead of
 * the logarithm a cubic polynomial of the mantissa is taken, which is monotone, meets the true one at the powers of
 * two, and rises nowhere slower than 10/7 of a binary unit for each natural one: buckets are made that much finer.
 *
 * Two sketches with one scale are merged by adding their buckets: nothing is lost by it.
 */
#ifndef PENSTOCK_SKETCH_H
#define PENSTOCK_SKETCH_H

#include <math.h>
#include <stdlib.h>

#include "port.h"

#define SKETCH_SLACK 16u        /* buckets of room on the side on which a window had to grow */
#define SKETCH_KEEP_MAX 4096u   /* buckets of a sketch that is kept for the next interval */

typedef struct {
    double buckets_per_unit; /* bucket = floor(sketch_log(x) * buckets_per_unit) */
    double relative_error;
} sketch_scale_t;

/* Counts of the buckets first .. first + length - 1. */
typedef struct {
    void *counts; /* owned: of the sketch's width */
    int32_t first;
    uint32_t length, room;
} sketch_bins_t;

typedef struct sketch {
    struct sketch *next; /* in a pool */
    uint64_t samples;
    double weight; /* sum of 1 / rate */
    double sum, sum_low; /* Neumaier's compensated sum */
    double mean, squares; /* Welford: sum of weighted squared distances from the mean */
    double least, most;
    double zero; /* weight of values too small for a bucket */
    sketch_bins_t above, below; /* positive values, and the magnitudes of negative ones */
    uint8_t width; /* bytes of a count: 0 and 2 uint16_t, 4 uint32_t, 8 double (once a weight is not whole) */
} sketch_t;

static inline sketch_scale_t sketch_scale(double relative_error)
{
    double width = log((1 + relative_error) / (1 - relative_error)) * (10.0 / 7.0);
    return (sketch_scale_t){1 / width, relative_error};
}

/* x > 0, normal. Monotone; about 1.0 to 1.06 times log2 between powers of two, equal to it there. */
static inline double sketch_log(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    double exponent = (double)((int64_t)(bits >> 52) - 1023);
    bits = (bits & UINT64_C(0x000FFFFFFFFFFFFF)) | UINT64_C(0x3FF0000000000000);
    double s;
    memcpy(&s, &bits, sizeof s);
    s -= 1;
    return exponent + ((6.0 / 35 * s - 3.0 / 5) * s + 10.0 / 7) * s;
}

/* The x for which sketch_log(x) is y. */
static inline double sketch_exp(double y)
{
    double exponent = floor(y), left = y - exponent, low = 0, high = 1;
    for (int i = 0; i < 60; i++) {
        double s = (low + high) / 2;
        if (((6.0 / 35 * s - 3.0 / 5) * s + 10.0 / 7) * s < left)
            low = s;
        else
            high = s;
    }
    return ldexp(1 + (low + high) / 2, (int)exponent);
}

static inline int32_t sketch_bucket(const sketch_scale_t *scale, double magnitude)
{
    double at = sketch_log(magnitude) * scale->buckets_per_unit;
    int32_t bucket = (int32_t)at;
    return bucket - (at < bucket);
}

/* The value that stands for a bucket: within the relative error of both of its ends. */
static inline double sketch_value(const sketch_scale_t *scale, int32_t bucket)
{
    double low = sketch_exp(bucket / scale->buckets_per_unit), high = sketch_exp((bucket + 1) / scale->buckets_per_unit);
    return isfinite(high) ? 2 / (1 / low + 1 / high) : low * (1 + scale->relative_error);
}

static inline size_t sketch_width(const sketch_t *s)
{
    return s->width ? s->width : 2;
}

static inline double sketch_bin(const sketch_t *s, const sketch_bins_t *bins, uint32_t i)
{
    if (s->width == 8)
        return ((const double *)bins->counts)[i];
    return s->width == 4 ? ((const uint32_t *)bins->counts)[i] : ((const uint16_t *)bins->counts)[i];
}

/* Makes the window reach from `from` to `to` as well. False without memory. */
static inline bool sketch_widen(const sketch_t *s, sketch_bins_t *bins, int32_t from, int32_t to)
{
    size_t bytes = sketch_width(s);
    if (bins->length > 0) {
        if (from >= bins->first && to < bins->first + (int32_t)bins->length)
            return true;
        if (from < bins->first)
            from -= (int32_t)SKETCH_SLACK;
        else
            from = bins->first;
        if (to >= bins->first + (int32_t)bins->length)
            to += (int32_t)SKETCH_SLACK;
        else
            to = bins->first + (int32_t)bins->length - 1;
    }
    uint32_t length = (uint32_t)(to - from) + 1;
    uint32_t shift = bins->length > 0 ? (uint32_t)(bins->first - from) : 0;
    if (length > bins->room) {
        void *counts = realloc(bins->counts, length * bytes);
        if (counts == NULL)
            return false;
        bins->counts = counts;
        bins->room = length;
    }
    uint8_t *at = bins->counts;
    memmove(at + shift * bytes, at, bins->length * bytes);
    memset(at, 0, shift * bytes);
    memset(at + (shift + bins->length) * bytes, 0, (length - shift - bins->length) * bytes);
    bins->first = from;
    bins->length = length;
    return true;
}

/* Makes counts wider: uint16_t to uint32_t to double. False without memory. */
static inline bool sketch_go_wide(sketch_t *s, uint8_t width)
{
    sketch_bins_t *both[2] = {&s->above, &s->below};
    void *counts[2] = {NULL, NULL};
    for (int k = 0; k < 2; k++) {
        if (both[k]->room == 0)
            continue;
        counts[k] = malloc((size_t)both[k]->room * width);
        if (counts[k] == NULL) {
            free(counts[0]);
            return false;
        }
        for (uint32_t i = 0; i < both[k]->length; i++)
            if (width == 8)
                ((double *)counts[k])[i] = sketch_bin(s, both[k], i);
            else
                ((uint32_t *)counts[k])[i] = (uint32_t)sketch_bin(s, both[k], i);
    }
    for (int k = 0; k < 2; k++) {
        free(both[k]->counts);
        both[k]->counts = counts[k];
    }
    s->width = width;
    return true;
}

/* Adds weight to one bucket. A sketch without memory to grow keeps its moments and loses the bucket. */
static inline void sketch_count(sketch_t *s, sketch_bins_t *bins, int32_t bucket, double weight)
{
    uint32_t at = (uint32_t)(bucket - bins->first);
    if (unlikely(bins->length == 0 || at >= bins->length)) {
        if (!sketch_widen(s, bins, bucket, bucket))
            return;
        at = (uint32_t)(bucket - bins->first);
    }
    uint32_t whole = weight < 4e9 ? (uint32_t)weight : 0;
    if (s->width != 8 && unlikely(whole != weight) && !sketch_go_wide(s, 8))
        return;
    if (s->width == 0) {
        uint16_t *count = (uint16_t *)bins->counts + at;
        if (likely(*count + (uint64_t)whole <= UINT16_MAX)) {
            *count = (uint16_t)(*count + whole);
            return;
        }
        if (!sketch_go_wide(s, 4))
            return;
    }
    if (s->width == 4) {
        uint32_t *count = (uint32_t *)bins->counts + at;
        if (likely(*count <= UINT32_MAX - whole)) {
            *count += whole;
            return;
        }
        if (!sketch_go_wide(s, 8))
            return;
    }
    ((double *)bins->counts)[at] += weight;
}

/* Adds x, finite, `weight` times (> 0). */
static inline void sketch_add(sketch_t *s, const sketch_scale_t *scale, double x, double weight)
{
    if (s->samples == 0)
        s->least = s->most = x;
    s->samples++;
    s->weight += weight;
    double term = x * weight, total = s->sum + term;
    s->sum_low += fabs(s->sum) >= fabs(term) ? (s->sum - total) + term : (term - total) + s->sum;
    s->sum = total;
    double distance = x - s->mean;
    s->mean += distance * (weight / s->weight);
    s->squares += weight * distance * (x - s->mean);
    s->least = x < s->least ? x : s->least;
    s->most = x > s->most ? x : s->most;
    double magnitude = fabs(x);
    if (unlikely(magnitude < 2.2250738585072014e-308))
        s->zero += weight;
    else
        sketch_count(s, x > 0 ? &s->above : &s->below, sketch_bucket(scale, magnitude), weight);
}

/* Adds all of `from`. Both have the same scale. */
static inline void sketch_merge(sketch_t *s, const sketch_t *from)
{
    if (from->samples == 0)
        return;
    if (s->samples == 0) {
        s->least = from->least;
        s->most = from->most;
    }
    s->samples += from->samples;
    double term = from->sum, total = s->sum + term;
    s->sum_low += from->sum_low + (fabs(s->sum) >= fabs(term) ? (s->sum - total) + term : (term - total) + s->sum);
    s->sum = total;
    /* Chan, Golub, LeVeque: updating formulae for the sample variance, 1979. */
    double weight = s->weight + from->weight, distance = from->mean - s->mean;
    s->squares += from->squares + distance * distance * (s->weight * from->weight / weight);
    s->mean += distance * (from->weight / weight);
    s->weight = weight;
    s->least = from->least < s->least ? from->least : s->least;
    s->most = from->most > s->most ? from->most : s->most;
    s->zero += from->zero;
    const sketch_bins_t *theirs[2] = {&from->above, &from->below};
    sketch_bins_t *ours[2] = {&s->above, &s->below};
    for (int k = 0; k < 2; k++)
        for (uint32_t i = 0; i < theirs[k]->length; i++) {
            double count = sketch_bin(from, theirs[k], i);
            if (count > 0)
                sketch_count(s, ours[k], theirs[k]->first + (int32_t)i, count);
        }
}

/* The smallest value up to which the weights add up to more than `weight` (or to as much, unless `above`). */
static inline double sketch_rank(const sketch_t *s, const sketch_scale_t *scale, double weight, bool above)
{
    double passed = 0, value = s->most;
    bool found = false;
    for (uint32_t i = s->below.length; i > 0 && !found; i--) {
        passed += sketch_bin(s, &s->below, i - 1);
        found = passed > weight || (!above && passed == weight && passed > 0);
        if (found)
            value = -sketch_value(scale, s->below.first + (int32_t)i - 1);
    }
    if (!found && s->zero > 0) {
        passed += s->zero;
        found = passed > weight || (!above && passed == weight);
        if (found)
            value = 0;
    }
    for (uint32_t i = 0; i < s->above.length && !found; i++) {
        double count = sketch_bin(s, &s->above, i);
        passed += count;
        found = count > 0 && (passed > weight || (!above && passed == weight));
        if (found)
            value = sketch_value(scale, s->above.first + (int32_t)i);
    }
    return value < s->least ? s->least : value > s->most ? s->most : value;
}

/* The p-th percentile, 0 < p <= 100: etsy's rank, round(p / 100 * n). */
static inline double sketch_percentile(const sketch_t *s, const sketch_scale_t *scale, double p)
{
    return p >= 100 ? s->most : sketch_rank(s, scale, p / 100 * s->weight - 0.5, true);
}

/* The mean of the two values in the middle. */
static inline double sketch_median(const sketch_t *s, const sketch_scale_t *scale)
{
    double low = sketch_rank(s, scale, s->weight / 2, false), high = sketch_rank(s, scale, s->weight / 2, true);
    return low + (high - low) / 2;
}

static inline double sketch_sum(const sketch_t *s)
{
    return isfinite(s->sum) ? s->sum + s->sum_low : s->sum;
}

/* Population standard deviation. */
static inline double sketch_stddev(const sketch_t *s)
{
    return s->weight > 0 && s->squares > 0 ? sqrt(s->squares / s->weight) : 0;
}

/* Forgets the samples, and keeps the memory unless it is unusually much. */
static inline void sketch_reset(sketch_t *s)
{
    sketch_bins_t bins[2] = {s->above, s->below};
    uint8_t width = s->width;
    memset(s, 0, sizeof *s);
    for (int k = 0; k < 2; k++) {
        if (width != 0 || bins[k].room > SKETCH_KEEP_MAX) {
            free(bins[k].counts);
            bins[k] = (sketch_bins_t){NULL, 0, 0, 0};
        }
        bins[k].length = 0;
    }
    s->above = bins[0];
    s->below = bins[1];
}

static inline size_t sketch_bytes(const sketch_t *s)
{
    return sizeof *s + (s->above.room + s->below.room) * sketch_width(s);
}

static inline void sketch_free(sketch_t *s)
{
    free(s->above.counts);
    free(s->below.counts);
    free(s);
}

#endif
