/* Data points of OpenTelemetry: their values as fields, and the line that they become. See otlp_read.h. */
#ifndef PENSTOCK_OTLP_POINT_H
#define PENSTOCK_OTLP_POINT_H

#include "otlp_value.h"

#define OTLP_BUCKETS_MAX 1024u /* bounds of a histogram, and quantiles of a summary */
#define OTLP_POWER_LEAST (-1075)
#define OTLP_POWER_MOST 1024
#define OTLP_POWERS (OTLP_POWER_MOST - OTLP_POWER_LEAST + 1)

/* Counts of an exponential histogram by powers of two, above or below zero. */
typedef struct {
    int32_t first, last; /* powers with a count; last < first: none */
    uint64_t count[OTLP_POWERS];
} otlp_powers_t;

/* What the reader works with. */
typedef struct {
    foreign_t point;
    uint8_t *to; /* behind the fields, which begin at point.text */
    uint32_t field_key_bytes; /* of the longest */
    uint64_t time_ns;         /* of the data point; 0: none */
    bool counter;             /* sums become counters */
    uint64_t bucket_count, bound_count;
    uint64_t buckets[OTLP_BUCKETS_MAX + 1];
    uint64_t bounds[OTLP_BUCKETS_MAX]; /* as proto_double takes them */
    otlp_powers_t above, below;
} otlp_t;

/* ---- fields ---- */

/* Begins a field with this key; false if there is no room left for it. */
static inline bool otlp_field(otlp_t *o, const void *key, uint32_t n)
{
    if ((uint64_t)(o->to - o->point.text) + n + 2 * NUM_SHORTEST_BYTES > FOREIGN_TEXT_MAX)
        return false;
    if (o->to != o->point.text)
        *o->to++ = ',';
    memcpy(o->to, key, n);
    o->to += n;
    *o->to++ = '=';
    o->field_key_bytes = n > o->field_key_bytes ? n : o->field_key_bytes;
    return true;
}

/* A field of a number; one that line protocol has no form for is left out. */
static inline bool otlp_field_double(otlp_t *o, const char *key, double v)
{
    if (!isfinite(v))
        return true;
    if (!otlp_field(o, key, (uint32_t)strlen(key)))
        return false;
    o->to += num_write_shortest(o->to, v);
    return true;
}

/* A field whose key is a number. */
static inline bool otlp_field_at(otlp_t *o, double key, double v)
{
    uint8_t text[NUM_SHORTEST_BYTES];
    if (!isfinite(v))
        return true;
    if (!otlp_field(o, text, (uint32_t)num_write_shortest(text, key)))
        return false;
    o->to += num_write_shortest(o->to, v);
    return true;
}

/* Writes the line. */
static inline drop_t otlp_emit(otlp_t *o, line_counts_t *counts)
{
    line_t l;
    drop_t reason = foreign_line(&o->point, &l, o->field_key_bytes);
    if (reason != DROP_NONE)
        return reason;
    if (o->time_ns > (uint64_t)LINE_TIME_MAX)
        return DROP_TIMESTAMP_RANGE;
    if (o->time_ns != 0 && !foreign_time(&o->point, &l, (int64_t)o->time_ns, 0))
        return DROP_TIMESTAMP_RANGE;
    foreign_fields(&l, o->point.text, (uint32_t)(o->to - o->point.text));
    line_emit(o->point.reader, &l, counts);
    return DROP_NONE;
}

/* ---- what data points have in common ---- */

/* Field by field; the numbers that fields have in a data point differ. False if it is malformed. */
typedef struct {
    uint32_t attributes, flags;
} otlp_places_t;

/* Takes a field that every data point has. *taken: it is one. */
static inline bool otlp_common(otlp_t *o, const proto_field_t *f, otlp_places_t places, bool *no_value, bool *taken)
{
    *taken = true;
    if (f->number == 3) {
        o->time_ns = f->value;
        return f->kind == PROTO_FIXED64;
    }
    if (f->number == places.attributes)
        return f->kind == PROTO_BYTES && otlp_tag(&o->point, f->bytes, f->bytes + f->length);
    if (f->number == places.flags) {
        *no_value = f->value & 1;
        return f->kind == PROTO_VARINT;
    }
    *taken = false;
    return true;
}

/* Sets *v if the field is this one. False if it is, and of another kind. */
static inline bool otlp_fixed(const proto_field_t *f, uint32_t number, uint64_t *v, bool *there)
{
    if (f->number != number)
        return true;
    *v = f->value;
    *there = true;
    return f->kind == PROTO_FIXED64;
}

/* Appends the fixed64 values of a repeated field, packed or not, to list; what is beyond max is only counted. */
static inline bool otlp_repeated(const proto_field_t *f, uint64_t *list, uint64_t *count, uint64_t max)
{
    if (f->kind == PROTO_FIXED64) {
        if (*count < max)
            list[*count] = f->value;
        ++*count;
        return true;
    }
    if (f->kind != PROTO_BYTES || f->length % 8 != 0)
        return false;
    for (uint64_t i = 0; i < f->length; i += 8, ++*count)
        if (*count < max)
            list[*count] = port_load64(f->bytes + i);
    return true;
}

/* count, sum, min and max, where they are there. */
typedef struct {
    uint64_t count, sum, min, max;
    bool count_there, sum_there, min_there, max_there;
} otlp_totals_t;

static inline bool otlp_put_totals(otlp_t *o, const otlp_totals_t *t)
{
    return otlp_field_double(o, "count", (double)t->count) && (!t->sum_there || otlp_field_double(o, "sum", proto_double(t->sum))) &&
           (!t->min_there || otlp_field_double(o, "min", proto_double(t->min))) &&
           (!t->max_there || otlp_field_double(o, "max", proto_double(t->max)));
}

/* ---- gauges and sums ---- */

static inline bool otlp_number(otlp_t *o, const uint8_t *p, const uint8_t *end, drop_t *reason)
{
    proto_field_t f = {0};
    uint64_t as_double = 0, as_int = 0;
    bool no_value = false, taken, is_double = false, is_int = false;
    o->time_ns = 0;
    while (p < end) {
        if (!proto_next(&p, end, &f) || !otlp_common(o, &f, (otlp_places_t){7, 8}, &no_value, &taken))
            return false;
        if (taken)
            continue;
        if (!otlp_fixed(&f, 4, &as_double, &is_double) || !otlp_fixed(&f, 6, &as_int, &is_int))
            return false;
        if (f.number == 4)
            is_int = false; /* one of the two: the last one counts */
        else if (f.number == 6)
            is_double = false;
    }
    if (no_value || !(is_double || is_int)) {
        *reason = DROP_VALUE;
        return true;
    }
    if (is_double && !isfinite(proto_double(as_double))) {
        *reason = DROP_NUMBER;
        return true;
    }
    otlp_field(o, o->counter ? "counter" : "gauge", o->counter ? 7 : 5);
    if (is_double) {
        o->to += num_write_shortest(o->to, proto_double(as_double));
    } else {
        o->to += num_write_i64(o->to, (int64_t)as_int);
        *o->to++ = 'i';
    }
    return true;
}

/* ---- histograms ---- */

/* The fields of buckets. Bounds grow, the last of them may be infinite. */
static inline drop_t otlp_put_buckets(otlp_t *o, uint64_t count)
{
    uint64_t n = o->bound_count, sum = 0;
    if (o->bucket_count == 0 && n == 0)
        return DROP_NONE;
    if (o->bucket_count != n && o->bucket_count != n + 1)
        return DROP_FIELD;
    if (n > OTLP_BUCKETS_MAX)
        return DROP_LINE_TOO_LONG;
    for (uint64_t i = 0; i < n; i++) {
        double bound = proto_double(o->bounds[i]);
        if (__builtin_add_overflow(sum, o->buckets[i], &sum) || bound != bound || (i > 0 && !(bound > proto_double(o->bounds[i - 1]))))
            return DROP_NUMBER;
        if (!isfinite(bound)) {
            if (bound < 0 || i + 1 < n)
                return DROP_NUMBER;
            break;
        }
        if (!otlp_field_at(o, bound, (double)sum))
            return DROP_LINE_TOO_LONG;
    }
    return otlp_field_double(o, "+Inf", (double)count) ? DROP_NONE : DROP_LINE_TOO_LONG;
}

static inline bool otlp_histogram(otlp_t *o, const uint8_t *p, const uint8_t *end, drop_t *reason)
{
    proto_field_t f = {0};
    otlp_totals_t t = {0};
    bool no_value = false, taken;
    o->time_ns = 0;
    o->bucket_count = o->bound_count = 0;
    while (p < end) {
        if (!proto_next(&p, end, &f) || !otlp_common(o, &f, (otlp_places_t){9, 10}, &no_value, &taken))
            return false;
        if (taken)
            continue;
        if (!otlp_fixed(&f, 4, &t.count, &t.count_there) || !otlp_fixed(&f, 5, &t.sum, &t.sum_there) ||
            !otlp_fixed(&f, 11, &t.min, &t.min_there) || !otlp_fixed(&f, 12, &t.max, &t.max_there))
            return false;
        if (f.number == 6 && !otlp_repeated(&f, o->buckets, &o->bucket_count, OTLP_BUCKETS_MAX + 1))
            return false;
        if (f.number == 7 && !otlp_repeated(&f, o->bounds, &o->bound_count, OTLP_BUCKETS_MAX))
            return false;
    }
    if (no_value)
        *reason = DROP_VALUE;
    else if (!otlp_put_totals(o, &t))
        *reason = DROP_LINE_TOO_LONG;
    else
        *reason = otlp_put_buckets(o, t.count);
    return true;
}

/* ---- exponential histograms ---- */

static inline int32_t otlp_zigzag(uint64_t v)
{
    uint32_t n = (uint32_t)v;
    return (int32_t)(n >> 1 ^ (0 - (n & 1)));
}

/* Adds the count of bucket `index`, which holds values from base^index up to base^(index + 1), base = 2^(2^-scale), to the
 * power of two that bounds it: from above, or for values below zero the power towards zero. False if a sum overflows. */
static inline bool otlp_power_add(otlp_powers_t *powers, int64_t index, int32_t scale, bool below, uint64_t count)
{
    int64_t power = index + !below;
    if (scale > 0)
        power = (index >> (scale < 62 ? scale : 62)) + !below;
    else
        power = power > OTLP_POWER_MOST || power < OTLP_POWER_LEAST ? power : power * (INT64_C(1) << (scale > -12 ? -scale : 12));
    power = power < OTLP_POWER_LEAST ? OTLP_POWER_LEAST : power > OTLP_POWER_MOST ? OTLP_POWER_MOST : power;
    uint64_t *sum = &powers->count[power - OTLP_POWER_LEAST];
    if (powers->last < powers->first) {
        powers->first = powers->last = (int32_t)power;
        *sum = 0;
    }
    for (; powers->last < power;)
        powers->count[++powers->last - OTLP_POWER_LEAST] = 0;
    for (; powers->first > power;)
        powers->count[--powers->first - OTLP_POWER_LEAST] = 0;
    return !__builtin_add_overflow(*sum, count, sum);
}

/* The Buckets at [p, end) into powers. *over: a sum is too great. False if they are malformed. */
static inline bool otlp_buckets(otlp_powers_t *powers, const uint8_t *p, const uint8_t *end, int32_t scale, bool below, bool *over)
{
    proto_field_t f = {0};
    int64_t index = 0;
    for (const uint8_t *at = p; at < end;) {
        if (!proto_next(&at, end, &f) || (f.number == 1 && f.kind != PROTO_VARINT))
            return false;
        if (f.number == 1)
            index = otlp_zigzag(f.value);
    }
    while (p < end) {
        if (!proto_next(&p, end, &f))
            return false;
        if (f.number != 2)
            continue;
        const uint8_t *at = f.bytes, *stop = f.kind == PROTO_BYTES ? p : f.bytes;
        if (f.kind == PROTO_VARINT)
            *over |= !otlp_power_add(powers, index++, scale, below, f.value);
        else if (f.kind != PROTO_BYTES)
            return false;
        while (at < stop) {
            uint64_t count;
            if (!proto_varint(&at, stop, &count))
                return false;
            *over |= !otlp_power_add(powers, index++, scale, below, count);
        }
    }
    return true;
}

/* Values below zero first, from the least on; those at zero count from there on. */
static inline drop_t otlp_put_powers(otlp_t *o, uint64_t zeros, uint64_t count)
{
    uint64_t sum = 0;
    if (o->below.last < o->below.first && o->above.last < o->above.first && zeros == 0)
        return DROP_NONE;
    for (int32_t power = o->below.last; power >= o->below.first; power--) {
        if (__builtin_add_overflow(sum, o->below.count[power - OTLP_POWER_LEAST], &sum))
            return DROP_NUMBER;
        double bound = -ldexp(1, power);
        if (bound != 0 && isfinite(bound) && !otlp_field_at(o, bound, (double)sum))
            return DROP_LINE_TOO_LONG;
    }
    if (__builtin_add_overflow(sum, zeros, &sum))
        return DROP_NUMBER;
    for (int32_t power = o->above.first; power <= o->above.last; power++) {
        if (__builtin_add_overflow(sum, o->above.count[power - OTLP_POWER_LEAST], &sum))
            return DROP_NUMBER;
        double bound = ldexp(1, power);
        if (bound != 0 && isfinite(bound) && !otlp_field_at(o, bound, (double)sum))
            return DROP_LINE_TOO_LONG;
    }
    return otlp_field_double(o, "+Inf", (double)count) ? DROP_NONE : DROP_LINE_TOO_LONG;
}

static inline bool otlp_exponential(otlp_t *o, const uint8_t *p, const uint8_t *end, drop_t *reason)
{
    proto_field_t f = {0}, above = {0}, below = {0};
    otlp_totals_t t = {0};
    uint64_t zeros = 0;
    int32_t scale = 0;
    bool no_value = false, taken, over = false, there;
    o->time_ns = 0;
    while (p < end) {
        if (!proto_next(&p, end, &f) || !otlp_common(o, &f, (otlp_places_t){1, 10}, &no_value, &taken))
            return false;
        if (taken)
            continue;
        if (!otlp_fixed(&f, 4, &t.count, &t.count_there) || !otlp_fixed(&f, 5, &t.sum, &t.sum_there) ||
            !otlp_fixed(&f, 7, &zeros, &there) || !otlp_fixed(&f, 12, &t.min, &t.min_there) ||
            !otlp_fixed(&f, 13, &t.max, &t.max_there))
            return false;
        if (f.number == 6) {
            if (f.kind != PROTO_VARINT)
                return false;
            scale = otlp_zigzag(f.value);
        } else if (f.number == 8 || f.number == 9) {
            if (f.kind != PROTO_BYTES)
                return false;
            *(f.number == 8 ? &above : &below) = f;
        }
    }
    o->above.first = o->below.first = 0;
    o->above.last = o->below.last = -1;
    if ((above.length && !otlp_buckets(&o->above, above.bytes, above.bytes + above.length, scale, false, &over)) ||
        (below.length && !otlp_buckets(&o->below, below.bytes, below.bytes + below.length, scale, true, &over)))
        return false;
    if (no_value)
        *reason = DROP_VALUE;
    else if (over)
        *reason = DROP_NUMBER;
    else if (!otlp_put_totals(o, &t) || !otlp_field_double(o, "zero_count", (double)zeros))
        *reason = DROP_LINE_TOO_LONG;
    else
        *reason = otlp_put_powers(o, zeros, t.count);
    return true;
}

/* ---- summaries ---- */

/* The field of a ValueAtQuantile at [p, end); its quantiles are remembered in o->bounds. */
static inline bool otlp_quantile(otlp_t *o, const uint8_t *p, const uint8_t *end, drop_t *reason)
{
    proto_field_t f = {0};
    uint64_t quantile = 0, value = 0;
    bool there;
    while (p < end)
        if (!proto_next(&p, end, &f) || !otlp_fixed(&f, 1, &quantile, &there) || !otlp_fixed(&f, 2, &value, &there))
            return false;
    double q = proto_double(quantile);
    if (!isfinite(q)) {
        *reason = DROP_NUMBER;
        return true;
    }
    for (uint64_t i = 0; i < o->bound_count; i++)
        if (proto_double(o->bounds[i]) == q)
            return true; /* the first one stays */
    if (o->bound_count == OTLP_BUCKETS_MAX) {
        *reason = DROP_LINE_TOO_LONG;
        return true;
    }
    o->bounds[o->bound_count++] = quantile;
    if (!otlp_field_at(o, q == 0 ? 0 : q, proto_double(value)))
        *reason = DROP_LINE_TOO_LONG;
    return true;
}

static inline bool otlp_summary(otlp_t *o, const uint8_t *p, const uint8_t *end, drop_t *reason)
{
    proto_field_t f = {0};
    otlp_totals_t t = {.sum_there = true};
    bool no_value = false, taken;
    const uint8_t *start = p;
    o->time_ns = 0;
    o->bound_count = 0;
    while (p < end) {
        if (!proto_next(&p, end, &f) || !otlp_common(o, &f, (otlp_places_t){7, 8}, &no_value, &taken))
            return false;
        if (!taken && (!otlp_fixed(&f, 4, &t.count, &t.count_there) || !otlp_fixed(&f, 5, &t.sum, &t.sum_there) ||
                       (f.number == 6 && f.kind != PROTO_BYTES)))
            return false;
    }
    otlp_put_totals(o, &t);
    for (p = start; p < end && proto_next(&p, end, &f);)
        if (f.number == 6 && !otlp_quantile(o, f.bytes, p, reason))
            return false;
    if (no_value)
        *reason = DROP_VALUE;
    return true;
}

#endif
