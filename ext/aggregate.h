/* Aggregation: what one lane has seen of the series of one StatsD listener since the last tick.
 *
 * Samples of a burst are collected first, up to AGGREGATE_BURST of them: their hashes are computed, the slots of the
 * index and then the series are asked for from memory, and only then are they updated. So the misses of the cache
 * overlap, and a table of a million series costs little more than one of a thousand.
 *
 * At the tick the lane flips the epoch between two bursts; from then on the other value of each series is the
 * ticker's (ticker.h) until the next tick.
 */
#ifndef PENSTOCK_AGGREGATE_H
#define PENSTOCK_AGGREGATE_H

#include <float.h>

#include "line.h"
#include "series.h"

#define AGGREGATE_BURST 128u
#define AGGREGATE_PERCENTILES 16u
#define STATSD_WORK_BYTES (8 * SERIES_KEY_MAX + 4096) /* measurement, escaped keys and values of one series */
#define AGGREGATE_TEXT_MAX 8192u /* canonical text, bytes */

typedef enum { DIALECT_NONE = 0, DIALECT_DOGSTATSD = 1, DIALECT_INFLUXDB = 2, DIALECT_LIBRATO = 4, DIALECT_SIGNALFX = 8, DIALECT_AUTO = 15 } dialect_t;

/* Settings of a listener. Immutable once a lane has them. */
typedef struct {
    sketch_scale_t scale;
    bool gauge_deltas, reset_gauges;
    uint8_t dialect;
    uint8_t separator_length;
    char separator[8];
    uint32_t expire_ticks[SERIES_TYPES]; /* ticks of silence after which a series is forgotten */
    uint32_t percentile_count;
    double percentiles[AGGREGATE_PERCENTILES];
} aggregate_settings_t;

/* One value on its way into its series. Pointers are borrowed from the datagram until the burst is done. */
typedef struct {
    const uint8_t *name, *tags, *member;
    uint32_t name_length, tags_length, member_length;
    uint8_t type;   /* series_type_t */
    bool change;    /* a gauge's delta */
    uint16_t weightless;
    uint32_t id;
    double value, rate;
    uint64_t hash;
} sample_t;

typedef struct {
    series_table_t table;
    const aggregate_settings_t *settings; /* owned by the Aggregator, which outlives us */
    uint32_t epoch;
    uint32_t burst_count;
    sample_t burst[AGGREGATE_BURST];
    counter_t samples;  /* that went into a series */
    uint64_t member_seed;
    uint8_t text[2][AGGREGATE_TEXT_MAX + PORT_PADDING]; /* canonical texts being made and compared */
    uint8_t key[SERIES_KEY_MAX + PORT_PADDING];
    uint8_t work[STATSD_WORK_BYTES];
} aggregate_t;

/* Makes the canonical text of a series from its raw bytes: measurement and sorted, escaped tags, metric_type among
 * them. `work` holds STATSD_WORK_BYTES. Returns the length, or 0 with the reason. *present: which of the agent's tags
 * (may be NULL) the series has, a bit for each. Defined in statsd.h. */
static inline uint32_t statsd_canonical(const aggregate_settings_t *settings, uint8_t type, const uint8_t *name,
                                        uint32_t name_length, const uint8_t *tags, uint32_t tags_length, uint8_t *work,
                                        uint8_t *to, const line_tags_t *agent, uint64_t *present, drop_t *reason);

static inline uint64_t aggregate_text_hash(const aggregate_t *a, uint8_t type, const uint8_t *text, uint32_t n)
{
    uint64_t h = series_mix(a->table.seed ^ UINT64_C(0x5851F42D4C957F2D) ^ type, text, n);
    return h ^ h >> 29;
}

/* The canonical text of a series that is in the table. */
static inline uint32_t aggregate_text_of(aggregate_t *a, const series_t *s, uint8_t *to)
{
    const uint8_t *key = series_key(s);
    drop_t reason;
    uint32_t n = (uint32_t)s->name_length + s->tags_length;
    memcpy(a->key, key, n); /* a copy with padding behind it */
    return statsd_canonical(a->settings, s->kind & SERIES_TYPE, a->key, s->name_length, a->key + s->name_length,
                            s->tags_length, a->work, to, NULL, NULL, &reason);
}

/* First sight of these bytes: a new series, or another spelling of a known one. */
static __attribute__((noinline)) uint32_t aggregate_create(aggregate_t *a, const sample_t *sample, drop_t *reason)
{
    series_table_t *t = &a->table;
    uint32_t bytes = sample->name_length + sample->tags_length;
    if (bytes > SERIES_KEY_MAX) {
        *reason = DROP_KEY_TOO_LONG;
        return SERIES_NONE;
    }
    uint32_t n = statsd_canonical(a->settings, sample->type, sample->name, sample->name_length, sample->tags,
                                  sample->tags_length, a->work, a->text[0], NULL, NULL, reason);
    if (n == 0)
        return SERIES_NONE;
    uint32_t tag = (uint32_t)(aggregate_text_hash(a, sample->type, a->text[0], n) >> 32), primary;
    series_walk_t walk = {0};
    while ((primary = series_walk(&t->canonical, tag, &walk)) != SERIES_NONE) {
        const series_t *s = series_at(t, primary);
        if ((s->kind & SERIES_TYPE) == sample->type && aggregate_text_of(a, s, a->text[1]) == n &&
            memcmp(a->text[0], a->text[1], n) == 0)
            break;
    }
    uint8_t kind = sample->type | (primary != SERIES_NONE ? SERIES_ALIAS : 0);
    uint32_t id = series_add(t, sample->hash, kind, sample->name, sample->name_length, sample->tags, sample->tags_length);
    if (id == SERIES_NONE) {
        *reason = DROP_SERIES_FULL;
        return primary; /* an alias is only a short way: without it the series is found all the same */
    }
    if (primary == SERIES_NONE) {
        series_index_put(&t->canonical, tag, id + 1);
        return id;
    }
    series_at(t, id)->value[0].primary = primary;
    series_at(t, id)->samples[a->epoch] = 1;
    return primary;
}

/* Adds to the part of a counter, keeping what is lost to rounding (Neumaier). */
static inline void aggregate_add_part(series_value_t *value, float *low, double v)
{
    double part = value->counter.part, sum = part + v;
    if (likely(isfinite(sum)))
        *low += (float)(fabs(part) >= fabs(v) ? (part - sum) + v : (v - sum) + part);
    value->counter.part = sum;
}

/* Adds one sample to its series. False without memory for a new sketch or set. */
static inline bool aggregate_update(aggregate_t *a, series_t *s, const sample_t *sample, int64_t arrival_ns)
{
    series_value_t *value = &s->value[a->epoch];
    switch (sample->type) {
    case SERIES_COUNTER: {
        double v = sample->value / sample->rate;
        if (unlikely(!isfinite(v)))
            v = copysign(DBL_MAX, v);
        int64_t whole = fabs(v) < 4e18 ? (int64_t)v : 0;
        int64_t sum;
        if (likely((double)whole == v && !__builtin_add_overflow(value->counter.whole, whole, &sum)))
            value->counter.whole = sum;
        else
            aggregate_add_part(value, &s->more.low[a->epoch], v);
        break;
    }
    case SERIES_GAUGE:
        if (sample->change) {
            value->gauge.value += sample->value;
        } else {
            value->gauge.value = sample->value;
            value->gauge.when = (uint64_t)arrival_ns | GAUGE_SET;
        }
        break;
    case SERIES_SET:
        if (value->set.members == NULL && (value->set.members = calloc(1, sizeof(members_t))) == NULL)
            return false;
        members_add(value->set.members, members_spread(series_mix(a->member_seed, sample->member, sample->member_length)));
        break;
    default:
        if (value->timing.sketch == NULL && (value->timing.sketch = calloc(1, sizeof(sketch_t))) == NULL)
            return false;
        sketch_add(value->timing.sketch, &a->settings->scale, sample->value, sample->rate == 1 ? 1 : 1 / sample->rate);
    }
    s->samples[a->epoch] += s->samples[a->epoch] != UINT32_MAX;
    return true;
}

/* Brings the collected samples into their series. */
static inline void aggregate_flush(aggregate_t *a, int64_t arrival_ns, line_counts_t *counts)
{
    uint32_t n = a->burst_count;
    const series_index_t *x = &a->table.raw;
    a->burst_count = 0;
    /* An index that has grown is moved also where no series is new: what it has not moved yet is found the long way. */
    series_index_move(&a->table, &a->table.raw, 2 * AGGREGATE_BURST);
    /* The slots have been asked for when the samples were added; now the series behind them. */
    for (uint32_t i = 0; i < n; i++) {
        sample_t *sample = &a->burst[i];
        uint32_t tag = (uint32_t)(sample->hash >> 32), at = tag & x->mask;
        sample->id = SERIES_NONE;
        while (x->slots[at].id != 0) {
            if (x->slots[at].tag == tag && x->slots[at].id != SERIES_NONE) {
                sample->id = x->slots[at].id - 1;
                const series_t *s = series_at(&a->table, sample->id);
                __builtin_prefetch(s, 1);
                __builtin_prefetch((const uint8_t *)s + CACHE_LINE, 1);
                break;
            }
            at = (at + 1) & x->mask;
        }
    }
    uint64_t taken = 0;
    for (uint32_t i = 0; i < n; i++) {
        const sample_t *sample = &a->burst[i];
        uint32_t id = sample->id;
        drop_t reason = DROP_NONE;
        if (unlikely(id == SERIES_NONE || !series_is(series_at(&a->table, id), sample->type, sample->name,
                                                     sample->name_length, sample->tags, sample->tags_length)))
            id = series_find(&a->table, sample->hash, sample->type, sample->name, sample->name_length, sample->tags,
                             sample->tags_length);
        if (unlikely(id == SERIES_NONE))
            id = aggregate_create(a, sample, &reason);
        else if (unlikely(series_at(&a->table, id)->kind & SERIES_ALIAS)) {
            series_t *alias = series_at(&a->table, id);
            alias->samples[a->epoch] = 1;
            id = alias->value[0].primary;
        }
        if (unlikely(id == SERIES_NONE || !aggregate_update(a, series_at(&a->table, id), sample, arrival_ns))) {
            counts->dropped[reason == DROP_NONE ? DROP_SERIES_FULL : reason]++;
            counts->any_dropped = true;
            continue;
        }
        taken++;
    }
    counts->accepted += taken;
    counts->aggregated += taken;
    counter_add(&a->samples, taken);
}

/* Place for one more sample; the caller fills it and calls aggregate_added. */
static inline sample_t *aggregate_next(aggregate_t *a, int64_t arrival_ns, line_counts_t *counts)
{
    if (a->burst_count == AGGREGATE_BURST)
        aggregate_flush(a, arrival_ns, counts);
    return &a->burst[a->burst_count];
}

static inline void aggregate_added(aggregate_t *a)
{
    sample_t *sample = &a->burst[a->burst_count++];
    sample->hash = series_hash(&a->table, sample->type, sample->name, sample->name_length, sample->tags, sample->tags_length);
    const series_index_t *x = &a->table.raw;
    __builtin_prefetch(&x->slots[(uint32_t)(sample->hash >> 32) & x->mask]);
}

#endif
