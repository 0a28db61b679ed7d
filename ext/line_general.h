/* The reader's second step for every other line: escapes, quotes, odd spacing, odd numbers, and all that is wrong.
 *
 * Byte by byte from left to right; the first thing that is wrong names the reason. What can be said in the safe
 * subset is written into scratch memory in that form; speed matters little here, exactness does. The rules, each
 * with its reason, are those of tests/reference/line_protocol.py, which gives the same bytes and counts.
 */
#ifndef PENSTOCK_LINE_GENERAL_H
#define PENSTOCK_LINE_GENERAL_H

#include "line_fast.h"
#include "line_value.h"

typedef enum {
    LINE_FOUND_NOTHING, /* a blank line or a comment */
    LINE_FOUND_GOOD,
    LINE_FOUND_BAD
} line_found_t;

/* ---- head ---- */

/* Measurement and tags; writes them at `to` and sets l->series. *at is left at the separator. */
static inline drop_t line_read_head(line_reader_t *c, line_text_t t, uint32_t *at, uint8_t *to, line_t *l, bool *even_space)
{
    bool even = false;
    drop_t reason = line_walk_name(t, at, NAME_MEASUREMENT, &even, even_space);
    if (reason != DROP_NONE)
        return reason;
    if (*at == 0)
        return DROP_MEASUREMENT;
    uint8_t *out = to;
    memcpy(out, t.p, *at);
    out += *at;
    line_set_clear(&c->keys);
    while (t.p[*at] == ',') {
        uint32_t key = ++*at;
        if ((reason = line_walk_name(t, at, NAME_TAG, &even, even_space)) != DROP_NONE)
            return reason;
        uint32_t key_length = *at - key;
        if (key_length == 0 || t.p[*at] != '=')
            return DROP_TAG;
        if (line_tag_reserved(t.p + key, key_length))
            return DROP_TAG_RESERVED;
        bool added;
        if (line_set_add(&c->keys, t.p + key, key_length, &added) == NULL)
            return DROP_LINE_TOO_LONG; /* no memory */
        if (!added)
            return DROP_TAG_DUPLICATE;
        uint32_t value = ++*at;
        /* An equals sign that begins the value is its first byte: InfluxDB looks for the others only. */
        bool leading = t.p[value] == '=';
        *at += leading;
        if ((reason = line_walk_name(t, at, NAME_TAG, &even, even_space)) != DROP_NONE)
            return reason;
        if (*at == value || t.p[*at] == '=')
            return DROP_TAG;
        *out++ = ',';
        memcpy(out, t.p + key, key_length + 1);
        out += key_length + 1;
        if (leading)
            *out++ = '\\';
        memcpy(out, t.p + value, *at - value);
        out += *at - value;
    }
    if (line_ends(t, *at))
        return DROP_FIELD;
    l->series = to;
    l->series_length = (uint32_t)(out - to);
    return DROP_NONE;
}

/* ---- fields ---- */

/* Writes the kept fields at `to`; unsigned ones as signed if asked for. Returns the place behind them. */
static inline uint8_t *line_put_fields(const line_set_t *set, bool as_signed, uint8_t *to, uint32_t *clamped)
{
    bool first = true;
    for (uint32_t i = 0; i < set->count; i++) {
        const line_entry_t *field = &set->entries[i];
        if (field->replaced)
            continue;
        if (!first)
            *to++ = ',';
        first = false;
        memcpy(to, field->key.text, field->key.length);
        to += field->key.length;
        *to++ = '=';
        if (as_signed && field->is_unsigned) {
            bool above = field->number > (uint64_t)INT64_MAX;
            to += num_write_i64(to, above ? INT64_MAX : (int64_t)field->number);
            *to++ = 'i';
            *clamped += above;
        } else {
            memcpy(to, field->value, field->value_length);
            to += field->value_length;
        }
    }
    return to;
}

/* Reads all fields; *at is left behind the last one. Values are kept at `to`, the finished texts behind them. */
static inline drop_t line_read_fields(line_reader_t *c, line_text_t t, uint32_t *at, uint8_t *to, line_t *l,
                                      uint32_t *key_longest)
{
    line_set_t *set = &c->keys;
    bool unsigned_there = false;
    uint32_t kept = 0;
    line_set_clear(set);
    *at = line_skip_blanks(t, *at);
    for (;; ++*at) {
        uint32_t key = *at;
        bool even = false, even_space = false;
        drop_t reason = line_walk_name(t, at, NAME_FIELD, &even, &even_space);
        if (reason != DROP_NONE)
            return reason;
        uint32_t key_length = *at - key;
        if (key_length == 0 || t.p[*at] != '=')
            return DROP_FIELD;
        if (even)
            return DROP_BACKSLASH; /* InfluxDB 1 and 2 take backslashes by pairs here, and end the key. */
        ++*at;
        bool added;
        line_entry_t *earlier = line_set_add(set, t.p + key, key_length, &added), *field = earlier;
        if (earlier != NULL && !added) { /* of several fields of one key the last is kept, in its own place */
            earlier->replaced = true;
            kept--;
            field = line_set_put_again(set, earlier);
        }
        if (field == NULL)
            return DROP_LINE_TOO_LONG; /* no memory */
        field->value = to;
        if ((reason = line_read_value(t, at, &to, field)) != DROP_NONE)
            return reason;
        field->value_length = (uint32_t)(to - field->value);
        kept++;
        if (t.p[*at] != ',')
            break;
    }
    *key_longest = 0;
    for (uint32_t i = 0; i < set->count; i++) {
        const line_entry_t *field = &set->entries[i];
        if (field->replaced)
            continue;
        /* InfluxDB leaves a field of this name out, and refuses a point that has no other. */
        if (kept == 1 && field->key.length == 4 && memcmp(field->key.text, "time", 4) == 0)
            return DROP_FIELD;
        unsigned_there |= field->is_unsigned;
        if (field->key.length > *key_longest)
            *key_longest = field->key.length;
    }
    l->clamped = 0;
    l->fields = to;
    to = line_put_fields(set, false, to, &l->clamped);
    l->fields_length = (uint32_t)(to - l->fields);
    l->fields_signed = l->fields;
    l->fields_signed_length = l->fields_length;
    if (unsigned_there) {
        l->fields_signed = to;
        to = line_put_fields(set, true, to, &l->clamped);
        l->fields_signed_length = (uint32_t)(to - l->fields_signed);
    }
    return DROP_NONE;
}

/* ---- time ---- */

/* Nanoseconds in one unit of a timestamp. LINE_AUTO goes by its size, as InfluxDB 3 does: what would be within 5 s of 1970
 * in nanoseconds is taken for seconds, within 5,000 s for milliseconds, within 5,000,000 s for microseconds. */
static inline int64_t line_unit_ns(line_precision_t precision, int64_t value)
{
    static const int64_t units[LINE_AUTO] = {
        [LINE_NS] = 1,
        [LINE_US] = 1000,
        [LINE_MS] = 1000000,
        [LINE_S] = 1000000000,
        [LINE_MINUTES] = INT64_C(60000000000),
        [LINE_HOURS] = INT64_C(3600000000000),
    };
    if (precision != LINE_AUTO)
        return units[precision];
    int64_t seconds = value / 1000000000;
    uint64_t size = seconds < 0 ? (uint64_t)-seconds : (uint64_t)seconds;
    return size < 5 ? units[LINE_S] : size < 5000 ? units[LINE_MS] : size < 5000000 ? units[LINE_US] : 1;
}

/* The timestamp, if there is one, and the line's end. The text in nanoseconds goes to c->time_text; *value is the
 * number as it came, *there whether it came. A number that is out of range sets *out_of_range. */
static inline drop_t line_read_time(line_reader_t *c, line_text_t t, uint32_t *at, line_t *l, int64_t *value, bool *there,
                                    bool *out_of_range)
{
    uint32_t start = line_skip_blanks(t, *at), end = start;
    while (!line_separates(t, end) && !line_ends(t, end))
        end++;
    uint32_t n = end - start;
    *there = n > 0;
    l->time = NULL;
    l->time_zeros = 0;
    if (*there) {
        bool negative = t.p[start] == '-';
        if (n == negative || !num_all_digits(t.p + start + negative, n - negative))
            return DROP_TIMESTAMP;
        int64_t ns = 0;
        *out_of_range = !num_read_i64(t.p + start, n, value) ||
                        __builtin_mul_overflow(*value, line_unit_ns(c->precision, *value), &ns) ||
                        ns < LINE_TIME_MIN || ns > LINE_TIME_MAX;
        l->time = c->time_text;
        l->time_length = (uint32_t)num_write_i64(c->time_text, ns);
    }
    while (line_separates(t, end))
        end++;
    if (!line_ends(t, end))
        return DROP_TIMESTAMP;
    *at = line_feed(t, end);
    return DROP_NONE;
}

/* ---- the whole line ---- */

typedef struct {
    bool fields, quoted;
    int64_t balance;
} line_split_t;

/* One piece of the text over which InfluxDB 1 and 2 look for a line's end; false if they would find it inside. */
static inline bool line_split_step(line_split_t *s, const uint8_t *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (p[i] == '\\') {
            i++;
            continue;
        }
        if (p[i] == '\n' && !s->quoted)
            return false;
        s->fields |= p[i] == ' ';
        if (s->fields && p[i] == '"' && s->balance > 0)
            s->quoted = !s->quoted;
        else if (s->fields && !s->quoted)
            s->balance += (p[i] == '=') - (p[i] == ',');
    }
    return true;
}

/* Whether InfluxDB 1 and 2 see one line in what we would write. They look for the LF in a pass of its own, in which
 * two backslashes are a pair: a space behind an even number of them begins the fields there, though their parser
 * proper takes it for an escaped one, and from there on quotes may count. No piece ends inside a pair: names that
 * end in a backslash have been dropped. */
static inline bool line_splits_alike(const line_t *l)
{
    line_split_t s = {false, false, 0};
    return line_split_step(&s, l->series, l->series_length) && line_split_step(&s, l->extra, l->extra_length) &&
           line_split_step(&s, (const uint8_t *)" ", 1) && line_split_step(&s, l->fields, l->fields_length) && !s.quoted;
}

/* Whether what is written differs from what came by more than an added time, added tags and scaling. */
static inline bool line_is_rewritten(const line_t *l, const uint8_t *came, uint32_t n, int64_t time, bool time_there)
{
    uint32_t head = l->series_length + 1 + l->fields_length;
    if (n < head || memcmp(came, l->series, l->series_length) != 0 || came[l->series_length] != ' ' ||
        memcmp(came + l->series_length + 1, l->fields, l->fields_length) != 0)
        return true;
    if (!time_there)
        return n != head;
    uint8_t text[24];
    uint32_t length = (uint32_t)num_write_i64(text, time);
    return n != head + 1 + length || came[head] != ' ' || memcmp(came + head + 1, text, length) != 0;
}

/* Takes the line at t apart into l. On success *end is its LF. */
static inline drop_t line_take_apart(line_reader_t *c, line_text_t t, line_t *l, uint32_t *end, int64_t *time, bool *time_there)
{
    uint32_t at = 0, key_longest = 0;
    bool even_space = false, out_of_range = false;
    l->joined = false;
    l->marks = NULL;
    l->extra_length = 0;
    l->extra = c->tags->text;
    drop_t reason = line_read_head(c, t, &at, c->scratch, l, &even_space);
    if (reason != DROP_NONE)
        return reason;
    uint64_t present = 0, tag_count = c->keys.count;
    if (c->tags->count) {
        for (uint32_t i = 0; i < c->keys.count; i++)
            present |= line_agent_tag(c->tags, &c->keys.entries[i].key);
        line_add_tags(c, l, present);
        tag_count += c->tags->count - (uint32_t)__builtin_popcountll(present);
    }
    uint8_t *to = c->scratch + l->series_length;
    if ((reason = line_read_fields(c, t, &at, to, l, &key_longest)) != DROP_NONE)
        return reason;
    if ((reason = line_read_time(c, t, &at, l, time, time_there, &out_of_range)) != DROP_NONE)
        return reason;
    if (out_of_range)
        return DROP_TIMESTAMP_RANGE;
    if (!utf8_valid(t.p, at))
        return DROP_UTF8;
    if ((uint64_t)l->series_length + l->extra_length + 4 + key_longest > LINE_KEY_BYTES)
        return DROP_KEY_TOO_LONG;
    if (line_tags_fatal(tag_count))
        return DROP_TAG;
    if (even_space && !line_splits_alike(l))
        return DROP_BACKSLASH;
    *end = at;
    return DROP_NONE;
}

/* Makes room for a line of n bytes in every form that it is held in: series (each byte may gain one), values (the
 * same), and the fields twice. False without memory. */
static inline bool line_scratch(line_reader_t *c, uint32_t n)
{
    size_t need = 12 * (size_t)n + 4096;
    if (need <= c->scratch_bytes)
        return true;
    uint8_t *scratch = realloc(c->scratch, need);
    if (scratch == NULL)
        return false;
    c->scratch = scratch;
    c->scratch_bytes = need;
    return true;
}

/* Looks at the line that starts at p; n bytes of the datagram follow, and a LF at p[n]. *taken is how many bytes it
 * had, with its LF; l borrows from p and from the reader until the next call. */
static inline line_found_t line_general(line_reader_t *c, const uint8_t *p, uint32_t n, line_t *l, uint32_t *taken,
                                        drop_t *reason)
{
    line_text_t whole = {p, n};
    uint32_t begin = line_skip_blanks(whole, 0), end = 0;
    if (line_ends(whole, begin) || p[begin] == '#') {
        *taken = line_feed(whole, begin) + 1;
        return LINE_FOUND_NOTHING;
    }
    line_text_t t = {p + begin, n - begin};
    int64_t time = 0;
    bool time_there = false;
    *reason = line_scratch(c, t.n) ? line_take_apart(c, t, l, &end, &time, &time_there) : DROP_LINE_TOO_LONG;
    if (*reason != DROP_NONE)
        end = line_dropped_end(t);
    end += begin;
    *taken = end + 1;
    if (end > c->line_bytes_max)
        *reason = DROP_LINE_TOO_LONG;
    if (*reason != DROP_NONE)
        return LINE_FOUND_BAD;
    l->rewritten = line_is_rewritten(l, p, end, time, time_there);
    return LINE_FOUND_GOOD;
}

#endif
