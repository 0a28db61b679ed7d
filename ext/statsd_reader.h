/* Reads the lines of one StatsD datagram: samples into the lane's table, points into its rings. */
#ifndef PENSTOCK_STATSD_READER_H
#define PENSTOCK_STATSD_READER_H

#include "statsd_event.h"
#include "statsd_metric.h"

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
    sample_t *sample = aggregate_next(s->table, s->reader, counts);
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
    if (!last && c->lent != NULL)
        port_lend(c->lent, c->lent_base, b + bytes);
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
    aggregate_flush(s->table, s->reader, counts);
}

#endif
