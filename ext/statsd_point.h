/* What StatsD's readers share: the line, the reader, and points that go into the rings at once. */
#ifndef PENSTOCK_STATSD_POINT_H
#define PENSTOCK_STATSD_POINT_H

#include "line_emit.h"
#include "num_shortest.h"
#include "line_general.h"
#include "statsd.h"


/* A line that is read: p[0..n), blanks stripped. Borrowed. */
typedef struct {
    const uint8_t *p;
    uint32_t n;
} statsd_line_t;

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

#endif
