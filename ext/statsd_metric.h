/* A metric line of StatsD in any form: the general path.
 *
 * A line is read twice: once to see whether all of it is good, once to take its values.
 */
#ifndef PENSTOCK_STATSD_METRIC_H
#define PENSTOCK_STATSD_METRIC_H

#include "statsd_point.h"

/* One group of a metric line: values, type, rate. */
typedef struct {
    const uint8_t *values;
    uint32_t values_length;
    series_type_t type;
    double rate;
} statsd_group_t;

/* What belongs to the whole line. */
typedef struct {
    const uint8_t *tags; /* of all `#` parts, joined by commas */
    uint32_t tags_length, tags_parts;
    uint64_t time_s; /* 0: none */
} statsd_rest_t;

static inline bool statsd_type(const uint8_t *p, uint32_t n, series_type_t *type)
{
    if (n == 2 && p[0] == 'm' && p[1] == 's') {
        *type = SERIES_TIMING;
        return true;
    }
    if (n != 1)
        return false;
    switch (*p) {
    case 'c': *type = SERIES_COUNTER; return true;
    case 'g': *type = SERIES_GAUGE; return true;
    case 's': *type = SERIES_SET; return true;
    case 'h': *type = SERIES_HISTOGRAM; return true;
    case 'd': *type = SERIES_DISTRIBUTION; return true;
    default: return false;
    }
}

/* A number of (0, 1] whose inverse is finite. */
static inline bool statsd_rate(const uint8_t *p, uint32_t n, double *rate)
{
    return statsd_number(p, n, rate) && *rate > 0 && *rate <= 1 && isfinite(1 / *rate);
}

static inline bool statsd_time(const uint8_t *p, uint32_t n, uint64_t *time)
{
    return n > 0 && num_read_u64(p, n, time) && *time >= 1 && *time <= STATSD_TIME_MAX_S;
}

/* The next value of a group: [*at, *end), empty ones skipped. False at the end. */
static inline bool statsd_next_value(const statsd_group_t *g, uint32_t *at, uint32_t *end)
{
    if (g->type == SERIES_SET) {
        *end = g->values_length;
        return *at == 0 && g->values_length > 0;
    }
    while (*at < g->values_length) {
        const uint8_t *colon = memchr(g->values + *at, ':', g->values_length - *at);
        *end = colon ? (uint32_t)(colon - g->values) : g->values_length;
        if (*end > *at)
            return true;
        *at = *end + 1;
    }
    return false;
}

/* Checks the values of a group; counts them. */
static inline drop_t statsd_check_values(const statsd_group_t *g, uint64_t *count)
{
    uint32_t at = 0, end = 0;
    uint64_t found = 0;
    for (; statsd_next_value(g, &at, &end); at = end + 1) {
        double value;
        if (g->type != SERIES_SET && !statsd_number(g->values + at, end - at, &value))
            return DROP_VALUE;
        found++;
        if (g->type == SERIES_SET)
            break;
    }
    *count += found;
    return found ? DROP_NONE : DROP_VALUE;
}

/* Adds a `#` part to those of the line; a second one is joined to the first in s->joined. */
static inline drop_t statsd_add_tags(statsd_reader_t *s, statsd_rest_t *rest, const uint8_t *p, uint32_t n)
{
    if (!utf8_valid(p, n))
        return DROP_UTF8;
    if (rest->tags_parts++ == 0) {
        rest->tags = p;
        rest->tags_length = n;
        return DROP_NONE;
    }
    uint8_t *joined = s->joined;
    if (rest->tags_parts == 2)
        memcpy(joined, rest->tags, rest->tags_length);
    joined[rest->tags_length] = ',';
    memcpy(joined + rest->tags_length + 1, p, n);
    rest->tags = joined;
    rest->tags_length += n + 1;
    return DROP_NONE;
}

/* Reads the group that begins at *at, and the parts behind it. *at is left at the next group, or at t.n + 1 at the end. */
static inline drop_t statsd_read_group(statsd_reader_t *s, statsd_line_t t, uint32_t *at, statsd_group_t *g,
                                       statsd_rest_t *rest, uint64_t *count)
{
    const uint8_t *bar = memchr(t.p + *at, '|', t.n - *at);
    if (bar == NULL)
        return DROP_TYPE;
    g->values = t.p + *at;
    g->values_length = (uint32_t)(bar - g->values);
    g->rate = 1;
    bool first = true;
    for (uint32_t start = (uint32_t)(bar - t.p) + 1;; first = false) {
        const uint8_t *p = t.p + start, *stop = memchr(p, '|', t.n - start);
        uint32_t n = stop ? (uint32_t)(stop - p) : t.n - start;
        const uint8_t *colon = n ? memchr(p, ':', n) : NULL;
        drop_t reason = DROP_NONE;
        bool splits = false;
        if (first) {
            if (!statsd_type(p, colon ? (uint32_t)(colon - p) : n, &g->type))
                return DROP_TYPE;
            reason = statsd_check_values(g, count);
            splits = colon != NULL;
        } else if (n > 0 && *p == '@') {
            splits = colon != NULL;
            if (!statsd_rate(p + 1, (uint32_t)((colon ? colon : p + n) - p) - 1, &g->rate))
                return DROP_RATE;
        } else if (n > 1 && *p == ':') {
            splits = true;
        } else if (n > 0 && *p == '#' && s->table->settings->dialect & DIALECT_DOGSTATSD) {
            reason = statsd_add_tags(s, rest, p + 1, n - 1);
        } else if (n > 0 && *p == 'T') {
            if (!statsd_time(p + 1, n - 1, &rest->time_s))
                return DROP_TIMESTAMP;
        }
        if (reason != DROP_NONE)
            return reason;
        if (splits) {
            *at = (uint32_t)(colon - t.p) + 1;
            return DROP_NONE;
        }
        if (stop == NULL) {
            *at = t.n + 1;
            return DROP_NONE;
        }
        start += n + 1;
    }
}

/* Puts the values of a group into the burst. */
static inline void statsd_take_group(statsd_reader_t *s, statsd_line_t t, uint32_t head, const statsd_group_t *g,
                                     const statsd_rest_t *rest, line_counts_t *counts)
{
    uint32_t at = 0, end = 0;
    for (; statsd_next_value(g, &at, &end); at = end + 1) {
        sample_t *sample = aggregate_next(s->table, s->reader, counts);
        *sample = (sample_t){.name = t.p, .name_length = head, .tags = rest->tags, .tags_length = rest->tags_length,
                             .member = g->values + at, .member_length = end - at, .type = g->type, .rate = g->rate};
        if (g->type != SERIES_SET)
            statsd_number(g->values + at, end - at, &sample->value);
        if (g->type == SERIES_GAUGE && s->table->settings->gauge_deltas) {
            while (statsd_blank(g->values[at]))
                at++;
            sample->change = g->values[at] == '+' || g->values[at] == '-';
        }
        aggregate_added(s->table);
        if (g->type == SERIES_SET)
            break;
    }
}

/* A point for a group with a timestamp: counters and gauges only. */
static inline void statsd_pass_group(statsd_reader_t *s, statsd_line_t t, uint32_t head, const statsd_group_t *g,
                                     const statsd_rest_t *rest, uint64_t values, line_counts_t *counts)
{
    line_reader_t *c = s->reader;
    uint32_t at = 0, end = 0;
    double value = 0, one = 0;
    for (; statsd_next_value(g, &at, &end); at = end + 1) {
        statsd_number(g->values + at, end - at, &one);
        one = g->type == SERIES_COUNTER ? one / g->rate : one;
        value = g->type == SERIES_COUNTER ? value + (isfinite(one) ? one : copysign(DBL_MAX, one)) : one;
        value = isfinite(value) ? value : copysign(DBL_MAX, value);
    }
    drop_t reason = DROP_NONE;
    uint64_t present = 0;
    uint8_t *text = s->table->text[0];
    uint32_t n = statsd_canonical(s->table->settings, g->type, t.p, head, rest->tags, rest->tags_length, s->table->work, text,
                                  c->tags, &present, &reason);
    uint8_t *fields = s->table->text[1], *stop = statsd_text_put(fields, "value");
    guarded_t found = {.text = NULL};
    if (unlikely(guard_maps(c->guard) && n > 0)) {
        uint32_t raw = statsd_raw_name(s->table->settings, t.p, head, s->table->key);
        guard_name_t name = {s->table->key, raw, c->listener, (uint8_t)(1u << g->type)};
        guard_name(c->guard, &name, c->tags, text, n, fields, 5, &found);
        uint32_t whole = found.text ? guard_head_length(found.text, found.text_length) : 0;
        if (found.reason == DROP_NONE && (whole > AGGREGATE_TEXT_MAX || found.text_length > whole + AGGREGATE_FIELD_MAX + 1))
            found.reason = DROP_KEY_TOO_LONG;
        if (found.reason != DROP_NONE) {
            line_drop(counts, found.reason, values);
            return;
        }
        if (found.text != NULL) { /* a copy: what the guard has may go */
            n = whole;
            memcpy(text, found.text, n);
            memset(text + n, 0, PORT_PADDING);
            memcpy(fields, found.text + n + 1, found.text_length - n - 1);
            stop = fields + found.text_length - n - 1;
            present = ~UINT64_C(0);
        }
    }
    *stop++ = '=';
    stop += num_write_shortest(stop, value);
    uint32_t digits = (uint32_t)num_write_u64(c->time_text, rest->time_s);
    memset(c->time_text + digits, '0', 9);
    line_counts_t one_point = {0};
    statsd_emit(c, text, n, fields, (uint32_t)(stop - fields), c->time_text, digits + 9, present, &one_point);
    drop_t dropped = DROP_RING_FULL;
    for (int i = 0; i < DROP_REASONS; i++)
        dropped = one_point.dropped[i] ? (drop_t)i : dropped;
    if (one_point.accepted) {
        counts->accepted += values;
        counts->shaped += found.text != NULL || one_point.shaped ? values : 0;
        counts->overflowed += one_point.overflowed ? values : 0;
        counts->observed += one_point.observed ? values : 0;
        counts->coerced += one_point.coerced ? values : 0;
    } else {
        counts->dropped[dropped] += values;
    }
    counts->fields_rejected += one_point.fields_rejected;
    counts->points += one_point.points;
    counts->any_dropped |= !one_point.accepted;
}

/* A metric line, any form. Values are taken only if all of it is good. */
static inline drop_t statsd_read_metric(statsd_reader_t *s, statsd_line_t t, uint64_t *values, line_counts_t *counts)
{
    const aggregate_settings_t *settings = s->table->settings;
    const uint8_t *colon = memchr(t.p, ':', t.n);
    if (colon == NULL)
        return DROP_VALUE;
    uint32_t head = (uint32_t)(colon - t.p);
    if (memchr(t.p, '|', head) != NULL)
        return DROP_NAME;
    if (!utf8_valid(t.p, head))
        return DROP_UTF8;
    drop_t reason = DROP_NONE, name_reason = DROP_NONE;
    statsd_rest_t rest = {.tags = t.p};
    statsd_group_t g;
    uint8_t *scratch = s->table->text[0];
    if (statsd_canonical(settings, SERIES_COUNTER, t.p, head, t.p, 0, s->table->work, scratch, NULL, NULL, &name_reason) == 0 &&
        name_reason == DROP_NAME)
        return DROP_NAME;
    *values = 0;
    for (uint32_t at = head + 1; at <= t.n;)
        if ((reason = statsd_read_group(s, t, &at, &g, &rest, values)) != DROP_NONE)
            return reason;
    /* Whether each series can be written. `again` goes through all groups, as `rest` did: so it makes the joined tags
     * anew, byte for byte the same. */
    statsd_rest_t again = {.tags = t.p};
    for (uint32_t at = head + 1; at <= t.n;) {
        uint64_t count = 0;
        statsd_read_group(s, t, &at, &g, &again, &count);
        if (statsd_canonical(settings, g.type, t.p, head, rest.tags, rest.tags_length, s->table->work, scratch, NULL, NULL, &reason) == 0)
            return reason;
    }
    counts->received += *values;
    again = (statsd_rest_t){.tags = t.p};
    for (uint32_t at = head + 1; at <= t.n;) {
        uint64_t count = 0;
        statsd_read_group(s, t, &at, &g, &again, &count);
        if (rest.time_s && (g.type == SERIES_COUNTER || g.type == SERIES_GAUGE))
            statsd_pass_group(s, t, head, &g, &rest, count, counts);
        else
            statsd_take_group(s, t, head, &g, &rest, counts);
    }
    if (rest.tags_parts > 1)
        aggregate_flush(s->table, s->reader, counts); /* the joined tags are the next line's */
    return DROP_NONE;
}

#endif
