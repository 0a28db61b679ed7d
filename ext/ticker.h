/* The tick: what the lanes have aggregated since the last one becomes points.
 *
 * Runs in a thread of its own, which is the writer of rings of its own. Each lane has flipped its epoch before, between
 * two bursts, so the values of the other epoch are ours. With several lanes the same series may be in the tables of
 * some of them: they are brought together by a hash of their canonical text (64 bits, seeded).
 */
#ifndef PENSTOCK_TICKER_H
#define PENSTOCK_TICKER_H

#include <time.h>

#include "line_reader.h"
#include "statsd_reader.h"

#define TICKER_FIELDS_BYTES 8192u /* 23 of AGGREGATE_FIELD_MAX and a number each */
#define TICKER_PAUSE_NS 500000 /* between two looks at a ring that is full */

/* A series in the table of one lane. */
typedef struct {
    uint64_t hash;
    uint32_t id;
    uint32_t lane;
} ticker_ref_t;

/* One lane's table as it was when its epoch was flipped. */
typedef struct {
    aggregate_t *aggregate; /* borrowed */
    uint32_t count;         /* ids */
    uint32_t epoch;         /* the one that is ours */
    uint32_t *forget;       /* owned: ids that have been silent for too long */
    uint32_t *forget_tags;  /* owned: upper halves of the hashes of their canonical texts */
    uint32_t forget_count, forget_room;
} ticker_lane_t;

typedef struct {
    ticker_lane_t *lanes; /* owned */
    uint32_t lane_count;
    const aggregate_settings_t *settings; /* those under which the values were collected */
    ring_t **rings;                       /* borrowed */
    uint32_t ring_count;
    line_reader_t *writer; /* borrowed: the agent's tags, and room to put them together */
    int64_t at_ns;
    int64_t patience_ns; /* monotonic: until when a full ring is waited for */
    uint64_t points, ring_full, unrouted, conflicts;
    uint64_t value_bytes; /* of the sketches and sets that were in use */
    uint8_t work[STATSD_WORK_BYTES];
    uint8_t key[SERIES_KEY_MAX + PORT_PADDING];
    uint8_t text[AGGREGATE_TEXT_MAX + PORT_PADDING];
    uint8_t fields[TICKER_FIELDS_BYTES + PORT_PADDING];
    uint8_t time[NUM_SHORTEST_BYTES + PORT_PADDING];
    uint32_t time_length;
    const uint8_t *field; /* of a mapped name: what the value is called, escaped; borrowed from the series */
    uint32_t field_length;
} ticker_t;

/* All that the series of one group have collected. */
typedef struct {
    __int128 whole;
    double part, low;
    double base, change, absolute;
    uint64_t when;
    bool based, moved;
    sketch_t *sketch;
    members_t *members;
    uint64_t samples;
    uint32_t quiet;
} ticker_sum_t;

static inline int64_t ticker_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline double ticker_finite(double v)
{
    return v > 1.7976931348623157e308 ? 1.7976931348623157e308 : v < -1.7976931348623157e308 ? -1.7976931348623157e308 : v == v ? v : 0;
}

/* The name of a field, with a comma before it if it is not the first one. Of a mapped name it stands behind the field that a
 * rule says, which takes the place of `value`. */
static inline uint8_t *ticker_name(const ticker_t *k, uint8_t *to, const char *name)
{
    if (likely(k->field_length == 0))
        return statsd_text_put(to, name);
    if (*name == ',')
        *to++ = (uint8_t)*name++;
    memcpy(to, k->field, k->field_length);
    to += k->field_length;
    if (strcmp(name, "value") == 0)
        return to;
    *to++ = '_';
    return statsd_text_put(to, name);
}

static inline uint8_t *ticker_field(const ticker_t *k, uint8_t *to, const char *name, double v)
{
    to = ticker_name(k, to, name);
    *to++ = '=';
    return to + num_write_shortest(to, ticker_finite(v));
}

/* Writes a point into every ring that it is for; waits for room as long as there is patience. */
static inline void ticker_emit(ticker_t *k, uint32_t text_length, uint64_t present, uint32_t fields_length)
{
    line_t l = {.series = k->text, .series_length = text_length, .fields = k->fields, .fields_length = fields_length,
                .fields_signed = k->fields, .fields_signed_length = fields_length, .time = k->time, .time_length = k->time_length};
    if (k->writer->tags->count)
        line_add_tags(k->writer, &l, present);
    uint32_t mask = UINT32_MAX;
    bool marks = false;
    if (k->writer->guard != NULL) {
        guarded_t found;
        uint64_t hash = guard_hash(k->writer->guard, k->writer->tags, l.series, l.series_length);
        guard_line(k->writer->guard, &l, hash, slots_find(&k->writer->guard->slots, hash), GUARD_DECIDED, &found);
        mask = found.mask;
        marks = k->writer->guard->collisions && guard_collides(found.newest, k->at_ns);
    }
    if (mask == 0) {
        k->unrouted++;
        return;
    }
    if (k->writer->guard != NULL && k->writer->guard->types != NULL) {
        types_verdict_t types = guard_fields(k->writer->guard, &l, 0);
        if (types != TYPES_RIGHT)
            guard_refuse_fields(k->writer->guard, &l, NULL, 0);
        if (types == TYPES_NOTHING_LEFT) {
            k->conflicts++;
            return;
        }
    }
    const point_t *point = line_point(k->writer, &l, k->rings, k->ring_count);
    bool taken = false;
    for (uint32_t i = 0; i < k->ring_count; i++) {
        ring_t *r = k->rings[i];
        if (!(mask >> i & 1)) {
            counter_add(&r->filtered, 1);
            continue;
        }
        uint32_t metrics = line_metrics(point, r);
        bool stored;
        while (true) {
            if (unlikely(marks))
                ring_mark(r); /* the run that was may have been closed below */
            stored = line_store(k->writer, &l, point, r, k->at_ns);
            if (stored || ticker_clock() >= k->patience_ns)
                break;
            ring_publish(r);
            ring_notify(r);
            nanosleep(&(struct timespec){0, TICKER_PAUSE_NS}, NULL);
        }
        r->offered += metrics;
        ring_count_accepted(r, 1);
        if (!stored)
            counter_add(&r->missed, metrics);
        taken |= stored;
    }
    k->points += taken;
    k->ring_full += !taken;
}

/* Adds the values of one series, and clears them. */
static inline void ticker_collect(ticker_sum_t *sum, series_t *s, uint32_t epoch)
{
    series_value_t *value = &s->value[epoch];
    uint32_t samples = s->samples[epoch];
    s->quiet = samples ? 0 : s->quiet + (s->quiet != UINT16_MAX);
    sum->quiet = s->quiet < sum->quiet ? s->quiet : sum->quiet;
    sum->samples += samples;
    uint8_t type = s->kind & SERIES_TYPE;
    if (type == SERIES_GAUGE && s->marks & SERIES_BASED) {
        sum->base = s->more.base;
        sum->based = true;
    }
    if (samples == 0)
        return;
    s->samples[epoch] = 0;
    switch (type) {
    case SERIES_COUNTER: {
        sum->whole += value->counter.whole;
        double before = sum->part, part = value->counter.part;
        sum->part += part;
        if (isfinite(sum->part))
            sum->low += (fabs(before) >= fabs(part) ? (before - sum->part) + part : (part - sum->part) + before) + s->more.low[epoch];
        s->more.low[epoch] = 0;
        break;
    }
    case SERIES_GAUGE:
        if (!(value->gauge.when & GAUGE_SET)) {
            sum->change += value->gauge.value;
        } else if (value->gauge.when >= sum->when) {
            sum->when = value->gauge.when;
            sum->absolute = value->gauge.value;
        }
        sum->moved = true;
        break;
    case SERIES_SET:
        if (sum->members == NULL)
            sum->members = value->set.members;
        else
            members_merge(sum->members, value->set.members);
        return;
    default:
        if (sum->sketch == NULL)
            sum->sketch = value->timing.sketch;
        else
            sketch_merge(sum->sketch, value->timing.sketch);
        return;
    }
    memset(value, 0, sizeof *value);
}

static inline uint8_t *ticker_fields_of_sketch(const ticker_t *k, uint8_t *to, const sketch_t *s)
{
    const sketch_scale_t *scale = &k->settings->scale;
    double count = nearbyint(s->weight);
    to = ticker_field(k, to, "mean", s->mean < s->least ? s->least : s->mean > s->most ? s->most : s->mean);
    to = ticker_field(k, to, ",median", sketch_median(s, scale));
    to = ticker_field(k, to, ",stddev", sketch_stddev(s));
    to = ticker_field(k, to, ",sum", sketch_sum(s));
    to = ticker_field(k, to, ",upper", s->most);
    to = ticker_field(k, to, ",lower", s->least);
    to = ticker_name(k, to, ",count");
    *to++ = '=';
    to += num_write_i64(to, count < 9.2e18 ? (int64_t)count : INT64_MAX);
    *to++ = 'i';
    for (uint32_t i = 0; i < k->settings->percentile_count; i++) {
        char name[NUM_SHORTEST_BYTES + 16] = ",";
        uint32_t n = 1 + (uint32_t)num_write_shortest((uint8_t *)name + 1, k->settings->percentiles[i]);
        strcpy(name + n, "_percentile");
        to = ticker_field(k, to, name, sketch_percentile(s, scale, k->settings->percentiles[i]));
    }
    return to;
}

/* All that a counter has counted, rounded once. */
static inline double ticker_counter(const ticker_sum_t *sum)
{
    if (!isfinite(sum->part))
        return sum->part;
    return (double)((long double)sum->whole + (long double)sum->part + (long double)sum->low);
}

/* The fields of a group; 0 if there is nothing to say. */
static inline uint32_t ticker_fields(ticker_t *k, uint8_t type, ticker_sum_t *sum)
{
    uint8_t *to = k->fields;
    if (type == SERIES_GAUGE) {
        double value = (sum->when ? sum->absolute : sum->based ? sum->base : 0) + sum->change;
        bool kept = sum->samples || (sum->based && !k->settings->reset_gauges && sum->quiet < k->settings->expire_ticks[type]);
        sum->base = ticker_finite(value);
        if (!kept)
            return 0;
        return (uint32_t)(ticker_field(k, to, "value", value) - k->fields);
    }
    if (sum->samples == 0)
        return 0;
    if (type == SERIES_COUNTER)
        return (uint32_t)(ticker_field(k, to, "value", ticker_counter(sum)) - k->fields);
    if (type == SERIES_SET)
        return (uint32_t)(ticker_field(k, to, "value", (double)members_count(sum->members)) - k->fields);
    return (uint32_t)(ticker_fields_of_sketch(k, to, sum->sketch) - k->fields);
}

/* Text of a series into k->text, and which of the agent's tags it has. */
static inline uint32_t ticker_text(ticker_t *k, const series_t *s, uint64_t *present)
{
    const uint8_t *key = series_key(s);
    drop_t reason;
    if (s->kind & SERIES_TEXT) {
        *present = ~UINT64_C(0); /* what the agent adds is in it */
        memcpy(k->text, key, s->name_length);
        memset(k->text + s->name_length, 0, PORT_PADDING);
        return s->name_length;
    }
    *present = 0;
    memcpy(k->key, key, (uint32_t)s->name_length + s->tags_length);
    return statsd_canonical(k->settings, s->kind & SERIES_TYPE, k->key, s->name_length, k->key + s->name_length, s->tags_length,
                            k->work, k->text, k->writer->tags, present, &reason);
}

static inline void ticker_forget(ticker_t *k, ticker_lane_t *lane, uint32_t id)
{
    series_t *s = series_at(&lane->aggregate->table, id);
    if (lane->forget_count == lane->forget_room) {
        uint32_t room = lane->forget_room ? 2 * lane->forget_room : 1024;
        uint32_t *ids = realloc(lane->forget, room * sizeof *ids);
        if (ids != NULL)
            lane->forget = ids;
        uint32_t *tags = realloc(lane->forget_tags, room * sizeof *tags);
        if (tags != NULL)
            lane->forget_tags = tags;
        if (ids == NULL || tags == NULL)
            return; /* it is looked at again at the next tick */
        lane->forget_room = room;
    }
    uint64_t present;
    uint32_t tag = 0;
    if (!(s->kind & SERIES_ALIAS)) {
        uint32_t n = ticker_text(k, s, &present);
        tag = (uint32_t)(aggregate_text_hash(lane->aggregate, s->kind & SERIES_TYPE, k->text, n) >> 32);
    }
    lane->forget[lane->forget_count] = id;
    lane->forget_tags[lane->forget_count++] = tag;
}

/* One series, in the tables of one or more lanes. */
static inline void ticker_group(ticker_t *k, const ticker_ref_t *refs, uint32_t n)
{
    series_t *first = series_at(&k->lanes[refs->lane].aggregate->table, refs->id);
    uint8_t type = first->kind & SERIES_TYPE;
    ticker_sum_t sum = {.quiet = UINT32_MAX};
    for (uint32_t i = 0; i < n; i++)
        ticker_collect(&sum, series_at(&k->lanes[refs[i].lane].aggregate->table, refs[i].id), k->lanes[refs[i].lane].epoch);
    uint32_t head = 0;
    k->field_length = 0;
    if (unlikely(first->kind & SERIES_TEXT)) {
        const uint8_t *key = series_key(first);
        head = guard_head_length(key, first->name_length);
        k->field = key + head + 1;
        k->field_length = head < first->name_length ? first->name_length - head - 1 : 0;
    }
    uint32_t fields = ticker_fields(k, type, &sum);
    if (fields) {
        uint64_t present;
        uint32_t text = ticker_text(k, first, &present);
        if (head) {
            text = head;
            memset(k->text + head, 0, PORT_PADDING); /* in place of the field's name */
        }
        ticker_emit(k, text, present, fields);
    }
    for (uint32_t i = 0; i < n; i++) {
        ticker_lane_t *lane = &k->lanes[refs[i].lane];
        series_t *s = series_at(&lane->aggregate->table, refs[i].id);
        if (type == SERIES_GAUGE) {
            s->more.base = sum.base;
            s->marks = k->settings->reset_gauges ? s->marks & ~SERIES_BASED : s->marks | SERIES_BASED;
        }
        if (type == SERIES_SET && s->value[lane->epoch].set.members) {
            k->value_bytes += members_bytes(s->value[lane->epoch].set.members);
            members_reset(s->value[lane->epoch].set.members);
        }
        if (type >= SERIES_TIMING && s->value[lane->epoch].timing.sketch) {
            k->value_bytes += sketch_bytes(s->value[lane->epoch].timing.sketch);
            sketch_reset(s->value[lane->epoch].timing.sketch);
        }
        bool over = s->quiet >= k->settings->expire_ticks[type] || (type == SERIES_GAUGE && k->settings->reset_gauges && s->quiet > 0);
        if (over && !(s->marks & SERIES_NAMED))
            ticker_forget(k, lane, refs[i].id);
    }
}

static inline int ticker_compare(const void *a, const void *b)
{
    const ticker_ref_t *x = a, *y = b;
    return x->hash < y->hash ? -1 : x->hash > y->hash;
}

/* Aliases first: they say which series are still led to. */
static inline void ticker_aliases(ticker_t *k, ticker_lane_t *lane)
{
    series_table_t *t = &lane->aggregate->table;
    for (uint32_t id = 0; id < lane->count; id++)
        series_at(t, id)->marks &= (uint8_t)~SERIES_NAMED;
    for (uint32_t id = 0; id < lane->count; id++) {
        series_t *s = series_at(t, id);
        if (!(s->kind & SERIES_ALIAS) || s->kind & SERIES_FREE)
            continue;
        s->quiet = s->samples[lane->epoch] ? 0 : s->quiet + (s->quiet != UINT16_MAX);
        s->samples[lane->epoch] = 0;
        if (s->quiet >= k->settings->expire_ticks[s->kind & SERIES_TYPE])
            ticker_forget(k, lane, id);
        else
            series_at(t, s->value[0].primary)->marks |= SERIES_NAMED;
    }
}

/* Turns everything collected into points. False without memory to bring several lanes together (nothing is lost: the
 * values stay for the next tick). */
static inline bool ticker_run(ticker_t *k)
{
    k->time_length = (uint32_t)num_write_i64(k->time, k->at_ns);
    if (k->writer->guard != NULL) {
        guard_begin(k->writer->guard, k->at_ns);
        guard_second(k->writer->guard);
    }
    ticker_ref_t *refs = NULL;
    uint64_t count = 0, room = 0;
    for (uint32_t j = 0; j < k->lane_count; j++)
        ticker_aliases(k, &k->lanes[j]);
    for (uint32_t j = 0; j < k->lane_count; j++) {
        ticker_lane_t *lane = &k->lanes[j];
        for (uint32_t id = 0; id < lane->count; id++) {
            series_t *s = series_at(&lane->aggregate->table, id);
            if (s->kind & (SERIES_ALIAS | SERIES_FREE))
                continue;
            if (k->lane_count == 1) {
                ticker_group(k, &(ticker_ref_t){0, id, 0}, 1);
                continue;
            }
            if (count == room) {
                room = room ? 2 * room : 4096;
                ticker_ref_t *more = realloc(refs, room * sizeof *refs);
                if (more == NULL) {
                    free(refs);
                    return false;
                }
                refs = more;
            }
            uint64_t present;
            uint32_t n = ticker_text(k, s, &present);
            refs[count++] = (ticker_ref_t){aggregate_text_hash(lane->aggregate, s->kind & SERIES_TYPE, k->text, n), id, j};
        }
    }
    if (k->lane_count > 1) {
        if (count)
            qsort(refs, count, sizeof *refs, ticker_compare);
        for (uint64_t i = 0, next; i < count; i = next) {
            for (next = i + 1; next < count && refs[next].hash == refs[i].hash;)
                next++;
            ticker_group(k, refs + i, (uint32_t)(next - i));
        }
        free(refs);
    }
    for (uint32_t i = 0; i < k->ring_count; i++) {
        ring_publish(k->rings[i]);
        ring_notify(k->rings[i]);
    }
    return true;
}

/* ---- in the lane, between two bursts ---- */

/* Flips the epoch; the settings take effect with it. */
static inline void ticker_flip(ticker_lane_t *lane, const aggregate_settings_t *settings)
{
    aggregate_t *a = lane->aggregate;
    lane->epoch = a->epoch;
    lane->count = a->table.count;
    a->epoch ^= 1;
    a->table.held = true;
    a->settings = settings;
}

/* Removes series that are still silent. Returns how many. */
static inline uint32_t ticker_remove(aggregate_t *a, const uint32_t *ids, const uint32_t *tags, uint32_t n)
{
    uint32_t removed = 0;
    for (uint32_t i = 0; i < n; i++) {
        series_t *s = series_at(&a->table, ids[i]);
        if (s->kind & SERIES_FREE || s->samples[0] || s->samples[1])
            continue;
        for (int e = 0; e < 2 && !(s->kind & SERIES_ALIAS); e++) {
            uint8_t type = s->kind & SERIES_TYPE;
            if (type == SERIES_SET && s->value[e].set.members)
                members_free(s->value[e].set.members);
            if (type >= SERIES_TIMING && s->value[e].timing.sketch)
                sketch_free(s->value[e].timing.sketch);
        }
        series_remove(&a->table, ids[i], tags[i]);
        removed++;
    }
    return removed;
}

#endif
