/* The reader's second step for every other line: escapes, quotes, odd spacing, odd numbers, and all that is wrong.
 *
 * Byte by byte from left to right; the first thing that is wrong names the reason. What can be said in the safe
 * subset is written into scratch memory in that form; speed matters little here, exactness does. The rules, each
 * with its reason, are those of tests/reference/line_protocol.py, which gives the same bytes and counts.
 *
 * Terms: a blank is a space, tab or NUL; a separator is a space or tab, followed by any blanks. A line's text ends
 * at LF or CR LF. Behind the last byte of the input stands a LF that the caller has put there, so a walk that
 * stops at the line's end stays inside.
 */
#ifndef PENSTOCK_LINE_GENERAL_H
#define PENSTOCK_LINE_GENERAL_H

#include "line_fast.h"
#include "line_set.h"
#include "utf8.h"

typedef enum {
    LINE_FOUND_NOTHING, /* a blank line or a comment */
    LINE_FOUND_GOOD,
    LINE_FOUND_BAD
} line_found_t;

typedef enum { NAME_MEASUREMENT, NAME_TAG, NAME_FIELD } line_name_t;

/* The text of one datagram from the line's first byte on: p[0..n), and a LF at p[n]. Borrowed. */
typedef struct {
    const uint8_t *p;
    uint32_t n;
} line_text_t;

static inline bool line_ends(line_text_t t, uint32_t at)
{
    return t.p[at] == '\n' || (t.p[at] == '\r' && t.p[at + 1] == '\n' && at < t.n);
}

static inline bool line_separates(line_text_t t, uint32_t at)
{
    return t.p[at] == ' ' || t.p[at] == '\t';
}

static inline uint32_t line_skip_blanks(line_text_t t, uint32_t at)
{
    while (at < t.n && (t.p[at] == ' ' || t.p[at] == '\t' || t.p[at] == 0))
        at++;
    return at;
}

/* The first LF at or behind `at`: always there, at t.n at the latest. */
static inline uint32_t line_feed(line_text_t t, uint32_t at)
{
    const uint8_t *lf = memchr(t.p + at, '\n', t.n - at);
    return lf ? (uint32_t)(lf - t.p) : t.n;
}

static inline bool line_escapable(uint8_t byte)
{
    return byte == ',' || byte == '=' || byte == ' ';
}

/* ---- names ---- */

/* Walks over a measurement, tag key, tag value or field key; *at is left behind it.
 *
 *   a\ b,  a backslash escapes the byte behind it if that could end the name
 *    ^^
 *   a\xb   anywhere else it is an ordinary byte, even before a second backslash
 *
 * *even is set if an escaped byte stands behind an even number of backslashes (`\\,`), *even_space if it is a
 * space: some versions take backslashes by pairs there. */
static inline drop_t line_walk_name(line_text_t t, uint32_t *at, line_name_t kind, bool *even, bool *even_space)
{
    uint32_t i = *at;
    for (;; i++) {
        uint8_t byte = t.p[i];
        if (byte == ',' || (byte == '=' && kind != NAME_MEASUREMENT) || line_separates(t, i) || line_ends(t, i))
            break;
        if (byte == '\\') {
            uint8_t next = t.p[i + 1];
            if (line_escapable(next) && (next != '=' || kind != NAME_MEASUREMENT)) {
                uint32_t run = 1;
                while (run <= i && t.p[i - run] == '\\' && i - run >= *at)
                    run++;
                if (run % 2 == 0) {
                    *even = true;
                    *even_space |= next == ' ';
                }
                i++;
                continue;
            }
            bool ambiguous = (next == '"' && kind != NAME_TAG) || (next == '=' && kind == NAME_MEASUREMENT);
            if (ambiguous || next == '\t' || line_ends(t, i + 1))
                return DROP_BACKSLASH;
        }
        if (byte < 0x20 || byte == 0x7F)
            return DROP_CONTROL_CHARACTER;
    }
    *at = i;
    return DROP_NONE;
}

/* ---- where a dropped line ends ---- */

/* Skips to an unescaped byte of a key's end; false if the line or the field ends before an `=`. */
static inline bool line_skip_key(line_text_t t, uint32_t *at)
{
    uint32_t i = *at;
    while (t.p[i] != '=') {
        if (line_ends(t, i) || t.p[i] == ',' || line_separates(t, i))
            return false;
        i += t.p[i] == '\\' && line_escapable(t.p[i + 1]) ? 2 : 1;
    }
    *at = i;
    return true;
}

/* The LF that ends a line that is dropped.
 *
 * That is the first one, so that an unterminated quote never costs the lines behind it. Only where the line has
 * the plain shape of head, fields and rest, with each string closed and followed by a comma, a separator or the
 * line's end, does it end behind its strings: a number out of range in one field must not turn the inside of
 * another, which anybody may have written, into lines of its own. */
static inline uint32_t line_dropped_end(line_text_t t)
{
    uint32_t first = line_feed(t, 0), at = 0;
    while (!line_separates(t, at)) {
        if (at >= first)
            return first;
        at += t.p[at] == '\\' && line_escapable(t.p[at + 1]) ? 2 : 1;
    }
    at = line_skip_blanks(t, at);
    for (;; at++) {
        if (!line_skip_key(t, &at))
            return first;
        at++;
        if (t.p[at] == '"') {
            at++;
            while (at < t.n && t.p[at] != '"')
                at += t.p[at] == '\\' ? 2 : 1;
            if (at >= t.n)
                return first;
            at++;
        } else {
            for (; !line_ends(t, at) && t.p[at] != ',' && !line_separates(t, at); at++)
                if (t.p[at] == '"')
                    return first;
        }
        if (t.p[at] != ',')
            break;
    }
    if (!line_ends(t, at) && !line_separates(t, at))
        return first;
    uint32_t end = line_feed(t, at);
    for (; at < end; at++)
        if (t.p[at] == '"' || t.p[at] == '=')
            return first;
    return end;
}

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

/* ---- field values ---- */

/* A quoted string: `\"` and `\\` are escapes, other backslashes are themselves and get doubled. Except before
 * n, r and t: there line-protocol v2 reads a control character, and the others do not. */
static inline drop_t line_read_string(line_text_t t, uint32_t *at, uint8_t **to)
{
    uint8_t *out = *to;
    uint32_t i = *at + 1;
    *out++ = '"';
    for (;; i++) {
        if (i >= t.n)
            return DROP_STRING;
        uint8_t byte = t.p[i];
        if (byte == '"')
            break;
        *out++ = byte;
        if (byte != '\\')
            continue;
        uint8_t next = i + 1 < t.n ? t.p[i + 1] : 0;
        if (next == 'n' || next == 'r' || next == 't')
            return DROP_BACKSLASH;
        if (next == '"' || next == '\\') {
            *out++ = next;
            i++;
        } else {
            *out++ = '\\';
        }
    }
    *out++ = '"';
    i++;
    if (t.p[i] != ',' && !line_separates(t, i) && !line_ends(t, i))
        return DROP_STRING;
    *at = i;
    *to = out;
    return DROP_NONE;
}

static inline bool line_is_boolean(const uint8_t *p, uint32_t n)
{
    static const char *const words[] = {"t", "T", "f", "F", "true", "True", "TRUE", "false", "False", "FALSE"};
    if (n > 5 || memchr("tTfF", *p, 4) == NULL)
        return false;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strlen(words[i]) == n && memcmp(words[i], p, n) == 0)
            return true;
    return false;
}

/* A float: writes it with a digit on both sides of its point, and without the underscores that line-protocol v2
 * allows between digits. */
static inline drop_t line_read_float(const uint8_t *p, uint32_t n, uint8_t **to)
{
    uint8_t *text = *to;
    uint32_t length = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool between = p[i] == '_' && i > 0 && i + 1 < n && (uint8_t)(p[i - 1] - '0') <= 9 && (uint8_t)(p[i + 1] - '0') <= 9;
        if (!between)
            text[length++] = p[i];
    }
    num_float_t found = num_check_float(text, length);
    if (found == NUM_BAD)
        return DROP_NUMBER;
    if (found == NUM_BARE_DOT) {
        uint8_t *point = memchr(text, '.', length);
        uint32_t at = (uint32_t)(point - text);
        if (at + 1 == length || (uint8_t)(text[at + 1] - '0') > 9) {
            memmove(point + 2, point + 1, length - at - 1);
            point[1] = '0';
            length++;
        }
        if (at == 0 || text[at - 1] == '-') {
            memmove(point + 1, point, length - at);
            point[0] = '0';
            length++;
        }
    }
    *to = text + length;
    return DROP_NONE;
}

/* The value of a field; written at *to, which is left behind it. */
static inline drop_t line_read_value(line_text_t t, uint32_t *at, uint8_t **to, line_entry_t *field)
{
    if (t.p[*at] == '"')
        return line_read_string(t, at, to);
    uint32_t start = *at, end = start;
    while (t.p[end] != ',' && !line_separates(t, end) && !line_ends(t, end))
        end++;
    const uint8_t *p = t.p + start;
    uint32_t n = end - start;
    *at = end;
    if (n == 0)
        return DROP_FIELD;
    if (line_is_boolean(p, n)) {
        memcpy(*to, p, n);
        *to += n;
        return DROP_NONE;
    }
    if (memchr("-+.0123456789NnIi", *p, 17) == NULL)
        return DROP_FIELD;
    int64_t integer;
    if (p[n - 1] == 'i') {
        if (!num_read_i64(p, n - 1, &integer))
            return DROP_NUMBER;
        *to += num_write_i64(*to, integer);
        *(*to)++ = 'i';
        return DROP_NONE;
    }
    if (p[n - 1] == 'u') {
        if (!num_read_u64(p, n - 1, &field->number))
            return DROP_NUMBER;
        field->is_unsigned = true;
        *to += num_write_u64(*to, field->number);
        *(*to)++ = 'u';
        return DROP_NONE;
    }
    return line_read_float(p, n, to);
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

/* The timestamp, if there is one, and the line's end. The text in nanoseconds goes to c->time_text; *value is the
 * number as it came, *there whether it came. A number that is out of range sets *out_of_range. */
static inline drop_t line_read_time(line_reader_t *c, line_text_t t, uint32_t *at, line_t *l, int64_t *value, bool *there,
                                    bool *out_of_range)
{
    static const int64_t units[10] = {[LINE_NS] = 1, [LINE_US] = 1000, [LINE_MS] = 1000000, [LINE_S] = 1000000000};
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
        *out_of_range = !num_read_i64(t.p + start, n, value) || __builtin_mul_overflow(*value, units[c->precision], &ns) ||
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

/* ---- text that we wrote ---- */

/* The place behind the line at p in a body of ours. Newlines inside strings belong to the line. */
static inline const uint8_t *line_next(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *lf = memchr(p, '\n', (size_t)(end - p));
    if (lf == NULL)
        return end;
    if (memchr(p, '"', (size_t)(lf - p)) == NULL)
        return lf + 1;
    while (p < end && *p != ' ')
        p += *p == '\\' && p + 1 < end && line_escapable(p[1]) ? 2 : 1;
    do {
        p++; /* the space, or the comma */
        while (p < end && *p != '=')
            p += *p == '\\' && p + 1 < end && line_escapable(p[1]) ? 2 : 1;
        p++;
        if (p < end && *p == '"') {
            for (p++; p < end && *p != '"'; p++)
                p += *p == '\\';
            p++;
        } else {
            while (p < end && *p != ',' && *p != ' ' && *p != '\n')
                p++;
        }
    } while (p < end && *p == ',');
    if (p >= end)
        return end;
    lf = memchr(p, '\n', (size_t)(end - p));
    return lf == NULL ? end : lf + 1;
}

/* Lines in a body of ours. */
static inline uint64_t line_count(const uint8_t *p, uint64_t n)
{
    const uint8_t *end = p + n;
    uint64_t lines = 0;
    for (; p < end; lines++)
        p = line_next(p, end);
    return lines;
}

/* Offset behind the first `lines` lines. */
static inline uint64_t line_offset(const uint8_t *p, uint64_t n, uint64_t lines)
{
    const uint8_t *at = p, *end = p + n;
    for (; lines > 0 && at < end; lines--)
        at = line_next(at, end);
    return (uint64_t)(at - p);
}

#endif
