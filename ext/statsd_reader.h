/* Reads the lines of one StatsD datagram: samples into the lane's table, points into its rings. */
#ifndef PENSTOCK_STATSD_READER_H
#define PENSTOCK_STATSD_READER_H

#include "line_general.h"
#include "statsd.h"

#define STATSD_NUMBER_BYTES 32u

/* A line that is read: p[0..n), blanks stripped. Borrowed. */
typedef struct {
    const uint8_t *p;
    uint32_t n;
} statsd_line_t;

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

/* What the parts of an event or check may say. Pointers are borrowed; a length of 0 is "not said". */
typedef struct {
    statsd_items_t items;
    const uint8_t *host, *aggregation_key, *source_type, *message;
    uint32_t host_length, aggregation_key_length, source_type_length, message_length;
    const char *priority, *alert;
    uint64_t time_s;
    bool time_there;
} statsd_said_t;

/* What a lane needs to read one StatsD listener. */
typedef struct {
    aggregate_t *table;    /* borrowed */
    line_reader_t *reader; /* borrowed: rings, agent tags and stamps, for what passes unaggregated */
    scan_index_fn scan;    /* of StatsD's marks */
    statsd_said_t said;
    uint8_t point[4 * LINE_TEXT_MAX + PORT_PADDING]; /* fields of an event or check */
    uint8_t joined[LINE_TEXT_MAX + PORT_PADDING];    /* tags of several parts */
} statsd_reader_t;

/* ---- points ---- */

/* Writes a point into the rings. series and fields: canonical text, PORT_PADDING readable behind; time: digits or NULL. */
static inline void statsd_emit(line_reader_t *c, const uint8_t *series, uint32_t series_length, const uint8_t *fields,
                               uint32_t fields_length, const uint8_t *time, uint32_t time_length, uint64_t present,
                               line_counts_t *counts)
{
    line_t l = {.series = series, .series_length = series_length, .fields = fields, .fields_length = fields_length,
                .fields_signed = fields, .fields_signed_length = fields_length, .time = time, .time_length = time_length};
    if (c->tags->count)
        line_add_tags(c, &l, present);
    line_emit(c, &l, counts);
}

/* A double as the shortest of 15 to 17 digits that reads back to it; finite. Returns the number of bytes. */
static inline uint32_t statsd_number_put(uint8_t *to, double v)
{
    if (fabs(v) < 1e15 && v == (double)(int64_t)v && !(v == 0 && signbit(v)))
        return (uint32_t)num_write_i64(to, (int64_t)v);
    char text[STATSD_NUMBER_BYTES];
    int n = 0;
    for (int digits = 15; digits <= 17; digits++) {
        n = snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    /* `1e+20` has a point nowhere and a plus where not all take one. */
    uint32_t length = 0;
    for (int i = 0; i < n; i++)
        if (text[i] != '+')
            to[length++] = (uint8_t)text[i];
    return length;
}

/* A string field's text, quoted; `\n` (two bytes) becomes a newline if asked for. */
static inline uint8_t *statsd_string_put(uint8_t *to, const uint8_t *p, uint32_t n, bool newlines)
{
    *to++ = '"';
    for (uint32_t i = 0; i < n; i++) {
        if (newlines && p[i] == '\\' && i + 1 < n && p[i + 1] == 'n') {
            *to++ = '\n';
            i++;
            continue;
        }
        if (p[i] == '"' || p[i] == '\\')
            *to++ = '\\';
        *to++ = p[i];
    }
    *to++ = '"';
    return to;
}

static inline uint8_t *statsd_text_put(uint8_t *to, const char *text)
{
    size_t n = strlen(text);
    memcpy(to, text, n);
    return to + n;
}

/* ---- metrics, general path ---- */

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
        sample_t *sample = aggregate_next(s->table, s->reader->arrival_ns, counts);
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
    uint8_t *fields = s->table->text[1], *stop = statsd_text_put(fields, "value=");
    stop += statsd_number_put(stop, value);
    uint32_t digits = (uint32_t)num_write_u64(c->time_text, rest->time_s);
    memset(c->time_text + digits, '0', 9);
    line_counts_t one_point = {0};
    statsd_emit(c, text, n, fields, (uint32_t)(stop - fields), c->time_text, digits + 9, present, &one_point);
    if (one_point.accepted)
        counts->accepted += values;
    else
        counts->dropped[DROP_RING_FULL] += values;
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
        aggregate_flush(s->table, s->reader->arrival_ns, counts); /* the joined tags are the next line's */
    return DROP_NONE;
}

/* ---- events and service checks ---- */


static inline const char *statsd_one_of(const uint8_t *p, uint32_t n, const char *const *words, size_t count, const char *otherwise)
{
    for (size_t i = 0; i < count; i++)
        if (statsd_text_is(p, n, words[i]))
            return words[i];
    return otherwise;
}

/* Reads the parts from *at on; false if there are too many tags. */
static inline bool statsd_read_said(const aggregate_settings_t *settings, statsd_line_t t, uint32_t at, bool event, statsd_said_t *said)
{
    static const char *const priorities[] = {"low", "normal"}, *const alerts[] = {"error", "warning", "success", "info"};
    while (at < t.n) { /* t.p[at] is the bar before a part */
        const uint8_t *p = t.p + at + 1, *end = t.p + t.n, *stop = p < end ? memchr(p, '|', (size_t)(end - p)) : NULL;
        stop = stop ? stop : end;
        uint32_t n = (uint32_t)(stop - p);
        at = (uint32_t)(stop - t.p);
        if (n > 0 && *p == '#' && settings->dialect & DIALECT_DOGSTATSD) {
            if (!statsd_items_part(&said->items, p + 1, n - 1, true))
                return false;
            continue;
        }
        if (n < 3 || p[1] != ':')
            continue;
        const uint8_t *value = p + 2;
        uint64_t time;
        n -= 2;
        switch (*p) {
        case 'd':
            if (num_read_u64(value, n, &time) && time <= STATSD_TIME_MAX_S) {
                said->time_s = time;
                said->time_there = true;
            }
            break;
        case 'h':
            said->host = value;
            said->host_length = n;
            break;
        case 'k':
            if (event) {
                said->aggregation_key = value;
                said->aggregation_key_length = n;
            }
            break;
        case 'p':
            if (event)
                said->priority = statsd_one_of(value, n, priorities, 2, said->priority);
            break;
        case 't':
            if (event)
                said->alert = statsd_one_of(value, n, alerts, 4, said->alert);
            break;
        case 's':
            if (event) {
                said->source_type = value;
                said->source_type_length = n;
            }
            break;
        case 'm':
            if (!event) {
                said->message = value;
                said->message_length = n;
            }
            break;
        default:
            break;
        }
    }
    return true;
}

/* Sets a tag over what the sender's tags say. */
static inline void statsd_set_tag(statsd_items_t *items, const char *key, const uint8_t *value, uint32_t n)
{
    uint8_t text[PORT_PADDING] = {0};
    memcpy(text, key, strlen(key));
    statsd_item_add(items, text, (uint32_t)strlen(key), value, n, false);
}

static inline uint8_t *statsd_time_put(uint8_t *to, const statsd_said_t *said)
{
    if (!said->time_there)
        return to;
    to = statsd_text_put(to, ",ts=");
    to += num_write_u64(to, said->time_s);
    *to++ = 'i';
    return to;
}

/* Escapes an event's title for the place of a measurement. */
static inline uint8_t *statsd_title_put(uint8_t *to, const uint8_t *p, uint32_t n)
{
    uint8_t *start = to, *from = to + 2 * (size_t)n + 8, *end = statsd_escape(from, p, n);
    for (const uint8_t *at = from; at < end; at++)
        if (*at != '\\' || at + 1 == end || at[1] != '=')
            *to++ = *at;
    if (to > start && *start == '#')
        *start = '_';
    return to;
}

/* Finishes an event or check: items and measurement become the series. */
static inline drop_t statsd_point(statsd_reader_t *s, statsd_said_t *said, const uint8_t *measurement, uint32_t measurement_length,
                                  const uint8_t *fields, uint32_t fields_length, line_counts_t *counts)
{
    uint64_t present = 0;
    uint8_t *series = s->table->text[0];
    if (line_tags_fatal(said->items.count))
        return DROP_TAG;
    uint32_t n = statsd_head_put(&said->items, measurement, measurement_length, series, s->reader->tags, &present);
    if (n == 0)
        return DROP_KEY_TOO_LONG;
    counts->received++;
    statsd_emit(s->reader, series, n, fields, fields_length, NULL, 0, present, counts);
    return DROP_NONE;
}

/*  _e{5,4}:title|text|t:error|#tag:v
 *     ^ ^  ^^^^^ ^^^^                    lengths in bytes; so blanks behind the text are cut off only here */
static inline drop_t statsd_read_event(statsd_reader_t *s, statsd_line_t t, line_counts_t *counts)
{
    const uint8_t *comma = memchr(t.p, ',', t.n), *brace = memchr(t.p, '}', t.n);
    uint64_t title = 0, text = 0;
    if (comma == NULL || brace == NULL || comma > brace || !num_read_u64(t.p + 3, (size_t)(comma - t.p) - 3, &title) ||
        !num_read_u64(comma + 1, (size_t)(brace - comma) - 1, &text))
        return DROP_EVENT;
    uint64_t at = (uint64_t)(brace - t.p) + 1;
    if (title == 0 || title > t.n || text > t.n || at + 1 + title + 1 + text > t.n || t.p[at] != ':' || t.p[at + 1 + title] != '|')
        return DROP_EVENT;
    const uint8_t *title_at = t.p + at + 1, *text_at = title_at + title + 1;
    uint32_t behind = (uint32_t)(at + 1 + title + 1 + text);
    while (t.n > behind && statsd_blank(t.p[t.n - 1]))
        t.n--;
    if (behind < t.n && t.p[behind] != '|')
        return DROP_EVENT;
    if (!utf8_valid(t.p, t.n))
        return DROP_UTF8;
    statsd_said_t *said = &s->said;
    *said = (statsd_said_t){.items.to = s->table->work, .priority = "normal", .alert = "info"};
    uint8_t *measurement = said->items.to;
    said->items.to = statsd_title_put(measurement, title_at, (uint32_t)title);
    uint32_t measurement_length = (uint32_t)(said->items.to - measurement);
    if (!statsd_read_said(s->table->settings, t, behind, true, said))
        return DROP_TAG;
    if (said->host_length) {
        bool there = false;
        for (uint32_t i = 0; i < said->items.count; i++)
            there |= statsd_text_is(said->items.item[i].key, said->items.item[i].key_length, "source");
        if (!there)
            statsd_set_tag(&said->items, "source", said->host, said->host_length);
    }
    if (said->aggregation_key_length)
        statsd_set_tag(&said->items, "aggregation_key", said->aggregation_key, said->aggregation_key_length);
    uint8_t *fields = s->point, *to = statsd_text_put(fields, "alert_type=");
    to = statsd_string_put(to, (const uint8_t *)said->alert, (uint32_t)strlen(said->alert), false);
    if (said->source_type_length) {
        to = statsd_text_put(to, ",source_type_name=");
        to = statsd_string_put(to, said->source_type, said->source_type_length, false);
    }
    to = statsd_text_put(to, ",priority=");
    to = statsd_string_put(to, (const uint8_t *)said->priority, (uint32_t)strlen(said->priority), false);
    to = statsd_text_put(to, ",text=");
    to = statsd_string_put(to, text_at, (uint32_t)text, true);
    to = statsd_time_put(to, said);
    return statsd_point(s, said, measurement, measurement_length, fields, (uint32_t)(to - fields), counts);
}

/*  _sc|name|0|h:host|#tag:v|m:message  */
static inline drop_t statsd_read_check(statsd_reader_t *s, statsd_line_t t, line_counts_t *counts)
{
    static const char *const statuses[] = {"ok", "warning", "critical", "unknown"};
    const uint8_t *name = t.p + 4, *bar = t.n > 4 ? memchr(name, '|', t.n - 4) : NULL;
    if (bar == NULL || bar == name)
        return DROP_SERVICE_CHECK;
    uint32_t at = (uint32_t)(bar - t.p) + 1;
    if (at >= t.n || t.p[at] < '0' || t.p[at] > '3' || (at + 1 < t.n && t.p[at + 1] != '|'))
        return DROP_SERVICE_CHECK;
    uint32_t status = t.p[at] - '0';
    if (!utf8_valid(t.p, t.n))
        return DROP_UTF8;
    statsd_said_t *said = &s->said;
    *said = (statsd_said_t){.items.to = s->table->work};
    if (!statsd_read_said(s->table->settings, t, at + 1, false, said))
        return DROP_TAG;
    if (said->host_length) {
        bool there = false;
        for (uint32_t i = 0; i < said->items.count; i++)
            there |= statsd_text_is(said->items.item[i].key, said->items.item[i].key_length, "source");
        if (!there)
            statsd_set_tag(&said->items, "source", said->host, said->host_length);
    }
    statsd_set_tag(&said->items, "check_name", name, (uint32_t)(bar - name));
    uint8_t *fields = s->point, *to = fields;
    if (said->message_length) {
        to = statsd_text_put(to, "message=");
        to = statsd_string_put(to, said->message, said->message_length, true);
        *to++ = ',';
    }
    to = statsd_text_put(to, "status=");
    *to++ = (uint8_t)('0' + status);
    to = statsd_text_put(to, "i,status_text=");
    to = statsd_string_put(to, (const uint8_t *)statuses[status], (uint32_t)strlen(statuses[status]), false);
    to = statsd_time_put(to, said);
    static const uint8_t measurement[PORT_PADDING] = "statsd_service_check";
    return statsd_point(s, said, measurement, 20, fields, (uint32_t)(to - fields), counts);
}

/* ---- lines ---- */

/* Any line but a fast one. p[0..n) without its LF. */
static __attribute__((noinline)) void statsd_read_line(statsd_reader_t *s, const uint8_t *p, uint32_t n, line_counts_t *counts)
{
    statsd_line_t t = {p, n};
    drop_t reason = DROP_NONE;
    while (t.n > 0 && statsd_blank(*t.p))
        t.p++, t.n--;
    uint32_t whole = t.n;
    while (t.n > 0 && statsd_blank(t.p[t.n - 1]))
        t.n--;
    if (n > s->reader->line_bytes_max) {
        reason = DROP_LINE_TOO_LONG;
    } else if (t.n == 0) {
        return;
    } else if (t.n >= 3 && memcmp(t.p, "_e{", 3) == 0) {
        reason = statsd_read_event(s, (statsd_line_t){t.p, whole}, counts);
    } else if (t.n >= 4 && memcmp(t.p, "_sc|", 4) == 0) {
        reason = statsd_read_check(s, t, counts);
    } else {
        uint64_t values;
        reason = statsd_read_metric(s, t, &values, counts);
    }
    if (reason == DROP_NONE)
        return;
    counts->received++;
    line_drop(counts, reason, 1);
    line_keep_sample(s->reader, p, n, reason);
}

/* A line of one value, a rate perhaps, and tags perhaps. at: its first mark. most: where its LF may be at the
 * latest. Returns the mark behind its LF, or NULL for another look. */
static inline const uint32_t *statsd_fast(statsd_reader_t *s, const uint8_t *b, uint32_t start, const uint32_t *at, uint32_t most,
                                          uint32_t *end, line_counts_t *counts)
{
    const aggregate_settings_t *settings = s->table->settings;
    uint32_t head_end = *at;
    if (b[head_end] != ':' || head_end == start || b[start] == '_' || b[start] == ' ')
        return NULL;
    uint32_t value = head_end + 1, value_end = *++at;
    if (b[value_end] != '|')
        return NULL;
    uint32_t type_at = value_end + 1, type_end = *++at;
    series_type_t type;
    if (!statsd_type(b + type_at, type_end - type_at, &type))
        return NULL;
    double rate = 1;
    uint32_t tags = 0, tags_end = 0;
    if (b[type_end] == '|' && b[type_end + 1] == '@') {
        uint32_t rate_at = type_end + 2;
        type_end = *++at;
        if (!statsd_number_plain(b + rate_at, type_end - rate_at, &rate) || !(rate > 0 && rate <= 1) || rate < 1e-12)
            return NULL;
    }
    if (b[type_end] == '|') {
        if (b[type_end + 1] != '#' || !(settings->dialect & DIALECT_DOGSTATSD))
            return NULL;
        tags = type_end + 2;
        do
            type_end = *++at;
        while (b[type_end] == ':');
        tags_end = type_end;
        if (b[tags_end - 1] == ' ')
            return NULL;
    }
    if (b[type_end] != '\n' || type_end > most || type_end - start > s->reader->line_bytes_max)
        return NULL;
    double v = 0;
    if (type == SERIES_SET) {
        if (value_end == value)
            return NULL;
    } else if (!statsd_number_plain(b + value, value_end - value, &v)) {
        return NULL;
    }
    sample_t *sample = aggregate_next(s->table, s->reader->arrival_ns, counts);
    sample->name = b + start;
    sample->name_length = head_end - start;
    sample->tags = b + tags;
    sample->tags_length = tags_end - tags;
    sample->member = b + value;
    sample->member_length = value_end - value;
    sample->type = type;
    sample->change = type == SERIES_GAUGE && settings->gauge_deltas && (b[value] == '-' || b[value] == '+');
    sample->value = v;
    sample->rate = rate;
    aggregate_added(s->table);
    counts->received++;
    *end = type_end;
    return at + 1;
}

/* Reads text[at..n), LINE_WINDOW bytes at most; returns where to go on. text[n] is a LF. */
static inline uint32_t statsd_read_window(statsd_reader_t *s, uint8_t *text, uint32_t at, uint32_t n, line_counts_t *counts)
{
    line_reader_t *c = s->reader;
    uint8_t *b = text + at;
    uint32_t bytes = n - at < LINE_WINDOW ? n - at : LINE_WINDOW;
    bool last = at + bytes == n;
    uint8_t behind = b[bytes];
    b[bytes] = '\n';
    uint32_t count = s->scan(b, bytes, c->index);
    for (uint32_t i = 0; i < 6; i++)
        c->index[count + i] = bytes; /* the LF that ends the walk; it may look ahead */
    uint32_t whole = bytes;
    if (!last) {
        uint32_t k = count;
        while (k > 0 && b[c->index[k - 1]] != '\n')
            k--;
        whole = k > 0 ? c->index[k - 1] : 0;
    }
    const uint32_t *mark = c->index, *marks_end = c->index + count;
    uint32_t start = 0;
    while (start < bytes && (start <= whole || start == 0)) {
        uint32_t end;
        const uint32_t *next = LINE_FAST(c) ? statsd_fast(s, b, start, mark, last ? bytes : bytes - 1, &end, counts) : NULL;
        if (likely(next != NULL)) {
            start = end + 1;
            mark = next;
            continue;
        }
        b[bytes] = behind;
        const uint8_t *lf = memchr(b + start, '\n', n - at - start + 1);
        uint32_t length = (uint32_t)(lf - b) - start;
        statsd_read_line(s, b + start, length, counts);
        b[bytes] = '\n';
        start += length + 1;
        while (mark < marks_end && *mark < start)
            mark++;
    }
    b[bytes] = behind;
    return at + start;
}

/* Reads text[0..n). text[n] is borrowed, PORT_PADDING more are readable. What is read stays in the burst, and borrows
 * from the text, until statsd_done. */
static inline void statsd_read(statsd_reader_t *s, uint8_t *text, uint32_t n, line_counts_t *counts)
{
    uint8_t behind = text[n];
    text[n] = '\n';
    for (uint32_t at = 0; at < n;)
        at = statsd_read_window(s, text, at, n, counts);
    text[n] = behind;
}

/* The end of a burst: everything collected goes into its series. */
static inline void statsd_done(statsd_reader_t *s, line_counts_t *counts)
{
    aggregate_flush(s->table, s->reader->arrival_ns, counts);
}

#endif
