/* Events and service checks of DogStatsD: points in Telegraf's shape. */
#ifndef PENSTOCK_STATSD_EVENT_H
#define PENSTOCK_STATSD_EVENT_H

#include "statsd_point.h"


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

#endif
