/* A point whose names come from another format: how they are written in line protocol.
 *
 * Names and values from outside never become structure. In the text of a series
 *
 *   comma, space, and in tags and field keys the equals sign     are escaped by a backslash
 *   a control character                                          becomes `_`
 *   a backslash at the end, or before one of , = SPACE \         becomes `/`: versions of InfluxDB differ about it; in a
 *                                                                measurement or field key before a quote, too
 *   `#` at the start of a measurement                            becomes `_`: the line would be a comment
 *   the tags time, _field and _measurement, the field time       get a `_` behind them: InfluxDB reserves them
 *
 * A tag without a key or without a value is left out, and invalid UTF-8 costs the point (reason utf8).
 *
 *   scratch:  | ......... measurement | tags ................ | text ....... |
 *                         ^ head      ^ tags          ^ to      fields, or what is put together for a name
 *
 * The measurement is written up against the tags, so that tags which many points share are written once.
 */
#ifndef PENSTOCK_FOREIGN_H
#define PENSTOCK_FOREIGN_H

#include "line_emit.h"
#include "line_general.h"

#define FOREIGN_NAME_BYTES (2 * 65536u)  /* an escaped name of LINE_KEY_BYTES */
#define FOREIGN_TAGS_BYTES (4 * 65536u)  /* tags of LINE_KEY_BYTES, and one escaped one more */
#define FOREIGN_TEXT_MAX 65536u          /* of fields, and of a name that is put together */
#define FOREIGN_TEXT_BYTES (4 * FOREIGN_TEXT_MAX) /* fields, and behind them what a name is put together of */
#define FOREIGN_BYTES (FOREIGN_NAME_BYTES + FOREIGN_TAGS_BYTES + FOREIGN_TEXT_BYTES)

typedef enum { FOREIGN_MEASUREMENT, FOREIGN_KEY, FOREIGN_VALUE } foreign_part_t;

typedef struct {
    line_reader_t *reader;
    const uint8_t *limit; /* names are readable up to here */
    uint8_t *head, *tags, *to, *text;
    uint64_t present;   /* the agent's tags that it has, a bit for each */
    uint64_t seen;      /* Bloom filter of its keys */
    uint32_t replaced;  /* tags that a later one of the same key replaces */
    drop_t reason;      /* what is wrong with it */
    bool rewritten;     /* a name was changed */
} foreign_t;

/* What a point was, to go on from there with another one. */
typedef struct {
    uint8_t *to;
    uint64_t present, seen;
    uint32_t count;
    drop_t reason;
    bool rewritten;
} foreign_mark_t;

/* The first thing that is wrong with a point is the reason why it is dropped. */
static inline void foreign_wrong(foreign_t *s, drop_t reason)
{
    if (s->reason == DROP_NONE)
        s->reason = reason;
}

/* ---- names ---- */

/* What has no meaning of its own in any name: printable ASCII but comma, equals sign, space and backslash. */
static inline bool foreign_is_plain(uint8_t byte)
{
    return byte > ' ' && byte < 0x7F && byte != ',' && byte != '=' && byte != '\\';
}

/* Bit i set: p[i] is not plain. Reads 16 bytes. */
static inline uint32_t foreign_odd_mask16(const uint8_t *p)
{
#if defined(__SSE2__)
    __m128i x = _mm_loadu_si128((const __m128i *)p);
    __m128i odd = _mm_cmplt_epi8(x, _mm_set1_epi8(0x21)); /* signed: bytes from 0x80 too */
    odd = _mm_or_si128(odd, _mm_cmpeq_epi8(x, _mm_set1_epi8(',')));
    odd = _mm_or_si128(odd, _mm_cmpeq_epi8(x, _mm_set1_epi8('=')));
    odd = _mm_or_si128(odd, _mm_cmpeq_epi8(x, _mm_set1_epi8('\\')));
    odd = _mm_or_si128(odd, _mm_cmpeq_epi8(x, _mm_set1_epi8(0x7F)));
    return (uint32_t)_mm_movemask_epi8(odd);
#else
    uint32_t mask = 0;
    for (uint32_t i = 0; i < 16; i++)
        mask |= (uint32_t)!foreign_is_plain(p[i]) << i;
    return mask;
#endif
}

/* Copies bytes as long as they are plain; returns how many. Reads 15 bytes behind p[0..n), writes as many more. */
static inline uint32_t foreign_copy_padded(uint8_t *to, const uint8_t *p, uint32_t n)
{
    uint32_t i = 0;
    for (; i < n; i += 16) {
        uint32_t odd = foreign_odd_mask16(p + i);
        memcpy(to + i, p + i, 16);
        if (odd) {
            i += (uint32_t)__builtin_ctz(odd);
            break;
        }
    }
    return i < n ? i : n;
}

/* The same where there may be less to read. */
static inline uint32_t foreign_copy_plain(const foreign_t *s, uint8_t *to, const uint8_t *p, uint32_t n)
{
    uint32_t i = 0;
    if (likely((size_t)(s->limit - p) >= (size_t)n + 16))
        return foreign_copy_padded(to, p, n);
    for (; i < n && foreign_is_plain(p[i]); i++)
        to[i] = p[i];
    return i;
}

/* Goes on at p[i], which is not plain. */
static __attribute__((noinline)) uint8_t *foreign_escape_rest(foreign_t *s, uint8_t *to, const uint8_t *p, uint32_t i, uint32_t n,
                                                            foreign_part_t part)
{
    if (!utf8_valid(p, n)) {
        foreign_wrong(s, DROP_UTF8);
        return to;
    }
    while (i < n) {
        uint8_t byte = p[i];
        if (byte < 0x20 || byte == 0x7F) {
            byte = '_';
            s->rewritten = true;
        } else if (byte == '\\') {
            uint8_t next = i + 1 < n ? p[i + 1] : ' ';
            if (next == '\\' || next == ',' || next == '=' || next == ' ' || (next == '"' && part != FOREIGN_VALUE)) {
                byte = '/';
                s->rewritten = true;
            }
        } else if (byte == ',' || byte == ' ' || (byte == '=' && part != FOREIGN_MEASUREMENT)) {
            *to++ = '\\';
        }
        *to++ = byte;
        i++;
        uint32_t plain = foreign_copy_plain(s, to, p + i, n - i);
        i += plain;
        to += plain;
    }
    return to;
}

/* Writes p[0..n) at `to`, twice as long at most; returns the place behind it. */
static inline uint8_t *foreign_escape(foreign_t *s, uint8_t *to, const uint8_t *p, uint32_t n, foreign_part_t part)
{
    uint32_t i = foreign_copy_plain(s, to, p, n);
    return likely(i == n) ? to + n : foreign_escape_rest(s, to + i, p, i, n, part);
}

/* ---- the series ---- */

/* Begins points that are written by c; names are readable up to `limit`. False without memory. */
static inline bool foreign_open(foreign_t *s, line_reader_t *c, const uint8_t *limit)
{
    if (c->scratch_bytes < FOREIGN_BYTES) {
        uint8_t *scratch = realloc(c->scratch, FOREIGN_BYTES);
        if (scratch == NULL)
            return false;
        c->scratch = scratch;
        c->scratch_bytes = FOREIGN_BYTES;
    }
    s->reader = c;
    s->limit = limit;
    s->tags = c->scratch + FOREIGN_NAME_BYTES;
    s->text = s->tags + FOREIGN_TAGS_BYTES;
    return true;
}

/* Begins a point: no measurement, no tags. */
static inline void foreign_begin(foreign_t *s)
{
    s->head = s->to = s->tags;
    s->present = s->seen = 0;
    s->replaced = 0;
    s->reason = DROP_NONE;
    s->rewritten = false;
    line_set_clear(&s->reader->keys);
}

static inline foreign_mark_t foreign_mark(const foreign_t *s)
{
    return (foreign_mark_t){s->to, s->present, s->seen, s->reader->keys.count, s->reason, s->rewritten};
}

/* Takes back what was added since the mark; no tag may have been replaced. */
static inline void foreign_rewind(foreign_t *s, const foreign_mark_t *mark)
{
    s->to = mark->to;
    s->present = mark->present;
    s->seen = mark->seen;
    s->reason = mark->reason;
    s->rewritten = mark->rewritten;
    if (s->reader->keys.count != mark->count) {
        s->reader->keys.count = mark->count;
        s->reader->keys.table_size = 0; /* made again when it is needed */
    }
}

/* Sets the measurement, in place of one that it has. */
static inline void foreign_measurement(foreign_t *s, const uint8_t *p, uint32_t n)
{
    if (unlikely(n == 0 || n > LINE_KEY_BYTES)) {
        foreign_wrong(s, n ? DROP_KEY_TOO_LONG : DROP_MEASUREMENT);
        return;
    }
    /* Written from the left first, since only then it is known how long it gets. */
    uint8_t *at = s->tags - FOREIGN_NAME_BYTES;
    uint8_t *end = foreign_escape(s, at, p, n, FOREIGN_MEASUREMENT);
    if (unlikely(*at == '#')) {
        *at = '_';
        s->rewritten = true;
    }
    uint32_t length = (uint32_t)(end - at);
    s->head = s->tags - length;
    if (likely(length - 16 <= 16)) { /* without a call */
        memcpy(s->head, at, 16);
        memcpy(s->tags - 16, end - 16, 16);
    } else {
        memmove(s->head, at, length);
    }
}

/* Adds a tag. Of two with the same key the first stays, or the last. */
static inline void foreign_tag(foreign_t *s, const uint8_t *key, uint32_t key_length, const uint8_t *value, uint32_t value_length,
                             bool last_stays)
{
    line_reader_t *c = s->reader;
    uint8_t *start = s->to;
    if (key_length == 0 || value_length == 0)
        return;
    if (unlikely((uint64_t)(start - s->tags) + key_length + value_length + 2 > LINE_KEY_BYTES)) {
        foreign_wrong(s, DROP_KEY_TOO_LONG);
        return;
    }
    *start = ',';
    uint8_t *to = foreign_escape(s, start + 1, key, key_length, FOREIGN_KEY);
    if (unlikely(line_tag_reserved(start + 1, (uint32_t)(to - start - 1)))) {
        *to++ = '_';
        s->rewritten = true;
    }
    line_key_t written = {start + 1, (uint32_t)(to - start - 1), 0};
    if (unlikely(written.length == 0))
        return; /* invalid, and told already */
    written.hash = line_hash(written.text, written.length);
    uint64_t bit = UINT64_C(1) << (written.hash >> 58);
    line_entry_t *entry;
    if (likely(!(s->seen & bit) && c->keys.count < LINE_SET_LINEAR)) {
        entry = line_set_append(&c->keys, written);
    } else {
        bool added;
        entry = line_set_add(&c->keys, written.text, written.length, &added);
        if (entry != NULL && !added) {
            s->rewritten = true;
            if (!last_stays)
                return;
            entry->replaced = true;
            s->replaced++;
            entry = line_set_put_again(&c->keys, entry);
            if (entry != NULL)
                entry->key.text = written.text;
        }
    }
    if (unlikely(entry == NULL)) {
        foreign_wrong(s, DROP_LINE_TOO_LONG); /* no memory */
        return;
    }
    s->seen |= bit;
    if (c->tags->count)
        s->present |= line_agent_tag(c->tags, &written);
    *to++ = '=';
    s->to = foreign_escape(s, to, value, value_length, FOREIGN_VALUE);
    entry->value = start;
    entry->value_length = (uint32_t)(s->to - start);
}

/* Closes the gaps of tags that were replaced. */
static inline void foreign_close_gaps(foreign_t *s)
{
    const line_set_t *keys = &s->reader->keys;
    uint8_t *to = s->tags;
    for (uint32_t i = 0; i < keys->count; i++) {
        const line_entry_t *entry = &keys->entries[i];
        if (entry->replaced)
            continue;
        memmove(to, entry->value, entry->value_length);
        to += entry->value_length;
    }
    s->to = to;
}

/* ---- the line ---- */

/* foreign_line for a point of which nothing is wrong, whose series stands from head to `to`, with so many tags. */
static inline drop_t foreign_head(foreign_t *s, line_t *l, uint64_t tags, uint32_t field_key_bytes)
{
    line_reader_t *c = s->reader;
    /* A compound literal would be cleared by a string instruction, which takes longer than all the rest. */
    l->series = s->head;
    l->series_length = (uint32_t)(s->to - s->head);
    l->extra = NULL;
    l->extra_length = 0;
    l->time = NULL;
    l->time_length = l->time_zeros = 0;
    l->clamped = 0;
    l->joined = false;
    l->rewritten = s->rewritten;
    l->marks = NULL;
    l->mark_base = NULL;
    if (c->tags->count) {
        line_add_tags(c, l, s->present);
        tags += c->tags->count - (uint32_t)__builtin_popcountll(s->present);
    }
    if ((uint64_t)l->series_length + l->extra_length + 4 + field_key_bytes > LINE_KEY_BYTES)
        return DROP_KEY_TOO_LONG;
    return line_tags_fatal(tags) ? DROP_TAG : DROP_NONE;
}

/* Makes the head of a line of the point: series and the agent's tags. Fields, and the time if it has one, are for the
 * caller. field_key_bytes: of its longest field key. Returns what is wrong, or DROP_NONE. The point takes no more tags. */
static inline drop_t foreign_line(foreign_t *s, line_t *l, uint32_t field_key_bytes)
{
    if (s->reason != DROP_NONE)
        return s->reason;
    if (s->head == s->tags)
        return DROP_MEASUREMENT;
    if (unlikely(s->replaced))
        foreign_close_gaps(s);
    return foreign_head(s, l, s->reader->keys.count - s->replaced, field_key_bytes);
}

/* Gives the line a time: `value` with so many zeros behind it is nanoseconds. False if that is out of range. */
static inline bool foreign_time(foreign_t *s, line_t *l, int64_t value, uint32_t zeros)
{
    static const int64_t units[10] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000};
    if (value > LINE_TIME_MAX / units[zeros] || value < LINE_TIME_MIN / units[zeros])
        return false;
    l->time = s->reader->time_text;
    l->time_length = (uint32_t)num_write_i64(s->reader->time_text, value);
    l->time_zeros = value ? zeros : 0;
    return true;
}

/* Gives the line its fields. */
static inline void foreign_fields(line_t *l, const uint8_t *fields, uint32_t n)
{
    l->fields = l->fields_signed = fields;
    l->fields_length = l->fields_signed_length = n;
}

#endif
