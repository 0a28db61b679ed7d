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

#include "guard_map.h"
#include "series.h"

#define AGGREGATE_BURST 128u
#define AGGREGATE_PERCENTILES 16u
#define STATSD_WORK_BYTES (8 * SERIES_KEY_MAX + 4096) /* measurement, escaped keys and values of one series */
#define AGGREGATE_FIELD_MAX 256u /* of a mapped name: what its value is called, escaped */
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

/* The name in a head, without tags, as it came; `to` has room for the head. Defined in statsd.h. */
static inline uint32_t statsd_raw_name(const aggregate_settings_t *settings, const uint8_t *head, uint32_t n, uint8_t *to);

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
    if (s->kind & SERIES_TEXT) {
        memcpy(to, key, n);
        return n;
    }
    memcpy(a->key, key, n); /* a copy with padding behind it */
    return statsd_canonical(a->settings, s->kind & SERIES_TYPE, a->key, s->name_length, a->key + s->name_length,
                            s->tags_length, a->work, to, NULL, NULL, &reason);
}

/* The primary with the canonical text a->text[0], and the tag of its slot. SERIES_NONE if there is none. */
static inline uint32_t aggregate_primary(aggregate_t *a, uint8_t type, uint32_t n, uint32_t *tag)
{
    series_walk_t walk = {0};
    uint32_t id;
    *tag = (uint32_t)(aggregate_text_hash(a, type, a->text[0], n) >> 32);
    while ((id = series_walk(&a->table.canonical, *tag, &walk)) != SERIES_NONE) {
        const series_t *s = series_at(&a->table, id);
        if ((s->kind & SERIES_TYPE) == type && aggregate_text_of(a, s, a->text[1]) == n && memcmp(a->text[0], a->text[1], n) == 0)
            break;
    }
    return id;
}

/* Another spelling of a series: a short way to it, without which it is found all the same. */
static inline void aggregate_alias(aggregate_t *a, const sample_t *sample, uint32_t primary, drop_t *reason)
{
    uint32_t id = series_add(&a->table, sample->hash, sample->type | SERIES_ALIAS, sample->name, sample->name_length, sample->tags,
                             sample->tags_length);
    if (id == SERIES_NONE) {
        *reason = DROP_SERIES_FULL;
        return;
    }
    series_at(&a->table, id)->value[0].primary = primary;
    series_at(&a->table, id)->samples[a->epoch] = 1;
}

/* The series that stands for one that is over a limit, or that rules have changed; found: what it is to be aggregated under.
 * Its raw bytes become an alias of it, if they come again: those of a series that explodes do not. */
static inline uint32_t aggregate_create_changed(aggregate_t *a, const sample_t *sample, guard_t *guard, const guarded_t *found,
                                                drop_t *reason)
{
    uint32_t n = found->text_length, tag;
    if (n > AGGREGATE_TEXT_MAX || n - guard_head_length(found->text, n) > AGGREGATE_FIELD_MAX + 1) {
        *reason = DROP_KEY_TOO_LONG;
        return SERIES_NONE;
    }
    memcpy(a->text[0], found->text, n + PORT_PADDING);
    uint32_t primary = aggregate_primary(a, sample->type, n, &tag);
    if (primary == SERIES_NONE) {
        uint8_t kind = sample->type | SERIES_TEXT | (found->flags & GUARD_OVERFLOWED ? SERIES_OVERFLOWED : 0) |
                       (found->flags & GUARD_SHAPED ? SERIES_SHAPED : 0);
        primary = series_add(&a->table, 0, kind, a->text[0], n, a->text[0] + n, 0);
        if (primary == SERIES_NONE) {
            *reason = DROP_SERIES_FULL;
            return SERIES_NONE;
        }
        series_index_put(&a->table.canonical, tag, primary + 1);
    } else if ((!(found->flags & GUARD_OVERFLOWED) || a->table.aliases < guard->aliases_max) && guard_second_sight(guard, sample->hash)) {
        drop_t full;
        aggregate_alias(a, sample, primary, &full);
    }
    return primary;
}

/* First sight of these bytes: a new series, or another spelling of a known one. */
static __attribute__((noinline)) uint32_t aggregate_create(aggregate_t *a, const sample_t *sample, line_reader_t *reader,
                                                           line_counts_t *counts, drop_t *reason)
{
    uint32_t bytes = sample->name_length + sample->tags_length, tag;
    uint64_t present = 0;
    if (bytes > SERIES_KEY_MAX) {
        *reason = DROP_KEY_TOO_LONG;
        return SERIES_NONE;
    }
    guard_t *guard = reader->guard;
    uint32_t n = statsd_canonical(a->settings, sample->type, sample->name, sample->name_length, sample->tags,
                                  sample->tags_length, a->work, a->text[0], guard ? reader->tags : NULL, guard ? &present : NULL, reason);
    if (n == 0)
        return SERIES_NONE;
    uint32_t primary = aggregate_primary(a, sample->type, n, &tag);
    if (primary != SERIES_NONE) {
        aggregate_alias(a, sample, primary, reason);
        return primary;
    }
    if (guard != NULL) {
        line_t l = {.extra_length = 0};
        guarded_t found;
        if (reader->tags->count)
            line_add_tags(reader, &l, present);
        uint32_t raw = guard_maps(guard) ? statsd_raw_name(a->settings, sample->name, sample->name_length, a->key) : 0;
        guard_name_t name = {a->key, raw, reader->listener, (uint8_t)(1u << sample->type)};
        guard_series(guard, &name, a->text[0], n, reader->tags, l.extra, l.extra_length, &found);
        *reason = found.reason;
        if (found.reason != DROP_NONE)
            return SERIES_NONE;
        if (found.text != NULL)
            return aggregate_create_changed(a, sample, guard, &found, reason);
        counts->observed += (found.flags & GUARD_OBSERVED) != 0;
    }
    uint32_t id = series_add(&a->table, sample->hash, sample->type, sample->name, sample->name_length, sample->tags, sample->tags_length);
    if (id == SERIES_NONE)
        *reason = DROP_SERIES_FULL;
    else
        series_index_put(&a->table.canonical, tag, id + 1);
    return id;
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

/* Brings the collected samples into their series. reader: arrival, and the agent's tags and guard for new ones. */
static inline void aggregate_flush(aggregate_t *a, line_reader_t *reader, line_counts_t *counts)
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
        bool long_way = id == SERIES_NONE;
        if (unlikely(long_way))
            id = aggregate_create(a, sample, reader, counts, &reason);
        else if (unlikely(series_at(&a->table, id)->kind & SERIES_ALIAS)) {
            series_t *alias = series_at(&a->table, id);
            alias->samples[a->epoch] = 1;
            id = alias->value[0].primary;
            long_way = true;
        }
        if (unlikely(id == SERIES_NONE || !aggregate_update(a, series_at(&a->table, id), sample, reader->arrival_ns))) {
            counts->dropped[reason == DROP_NONE ? DROP_SERIES_FULL : reason]++;
            counts->any_dropped = true;
            continue;
        }
        taken++;
        if (unlikely(long_way)) {
            counts->overflowed += (series_at(&a->table, id)->kind & SERIES_OVERFLOWED) != 0;
            counts->shaped += (series_at(&a->table, id)->kind & SERIES_SHAPED) != 0;
        }
    }
    counts->accepted += taken;
    counts->aggregated += taken;
    counter_add(&a->samples, taken);
}

/* Place for one more sample; the caller fills it and calls aggregate_added. */
static inline sample_t *aggregate_next(aggregate_t *a, line_reader_t *reader, line_counts_t *counts)
{
    if (a->burst_count == AGGREGATE_BURST)
        aggregate_flush(a, reader, counts);
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
