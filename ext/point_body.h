/* Bodies of samples that we wrote (point.h): counted and cut, turned back into lines, made into a Request of version 2.
 *
 * A body comes back from a ring or from a file, so it is not believed: whatever is not in the form of point.h is damaged.
 * Specification of version 2: https://prometheus.io/docs/specs/prw/remote_write_spec_2_0/
 */
#ifndef PENSTOCK_POINT_BODY_H
#define PENSTOCK_POINT_BODY_H

#include "num_shortest.h"
#include "point.h"

#define POINT_DAMAGED UINT64_MAX

/* Bytes that a record of n bytes may become as a line: each byte of a value may be escaped; value, time, what is between. */
#define POINT_LINE_BYTES(n) (2 * (n) + 64)

#define POINT2_SYMBOL PROTO_KEY(4, PROTO_BYTES) /* Request.symbols */
#define POINT2_SERIES PROTO_KEY(5, PROTO_BYTES) /* Request.timeseries */
#define POINT2_LABELS PROTO_KEY(1, PROTO_BYTES) /* TimeSeries.labels_refs, packed */

/* One record, its parts inside the body, borrowed. */
typedef struct {
    const uint8_t *labels, *labels_end; /* Label after Label */
    const uint8_t *sample;              /* Sample, with its key and length */
    const uint8_t *end;                 /* of the record */
    uint64_t value;                     /* of the sample: the bits of a double */
    int64_t ms;
} point_record_t;

typedef struct {
    const uint8_t *name, *value;
    uint64_t name_length, value_length;
} point_pair_t;

/* Reads the label at *at, which is left behind it. False if it is damaged. */
static inline bool point_next_label(const uint8_t **at, const uint8_t *end, point_pair_t *pair)
{
    proto_field_t label = {0}, name = {0}, value = {0};
    if (!proto_next(at, end, &label) || label.number != 1 || label.kind != PROTO_BYTES)
        return false;
    const uint8_t *p = label.bytes, *stop = p + label.length;
    if (!proto_next(&p, stop, &name) || name.number != 1 || name.kind != PROTO_BYTES || name.length == 0 ||
        !proto_next(&p, stop, &value) || value.number != 2 || value.kind != PROTO_BYTES || value.length == 0 || p != stop)
        return false;
    *pair = (point_pair_t){name.bytes, value.bytes, name.length, value.length};
    return true;
}

/* Reads the record at *at, which is left behind it. Labels are only looked at from outside. */
static inline bool point_next_record(const uint8_t **at, const uint8_t *end, point_record_t *r)
{
    proto_field_t series = {0}, field = {0}, value = {0}, time = {0};
    if (!proto_next(at, end, &series) || series.number != 1 || series.kind != PROTO_BYTES)
        return false;
    const uint8_t *p = series.bytes;
    r->end = p + series.length;
    r->labels = p;
    do {
        r->labels_end = p;
        if (!proto_next(&p, r->end, &field) || field.kind != PROTO_BYTES || field.number > 2)
            return false;
    } while (field.number == 1);
    r->sample = r->labels_end;
    const uint8_t *q = field.bytes, *stop = q + field.length;
    if (p != r->end || !proto_next(&q, stop, &value) || value.number != 1 || value.kind != PROTO_FIXED64 ||
        !proto_next(&q, stop, &time) || time.number != 2 || time.kind != PROTO_VARINT || q != stop)
        return false;
    r->value = value.value;
    r->ms = (int64_t)time.value;
    return true;
}

/* Records in a body, or POINT_DAMAGED. */
static inline uint64_t point_count(const uint8_t *p, uint64_t n)
{
    const uint8_t *end = p + n;
    point_record_t r;
    uint64_t records = 0;
    for (; p < end; records++)
        if (!point_next_record(&p, end, &r))
            return POINT_DAMAGED;
    return records;
}

/* Offset behind the first `records` records, or POINT_DAMAGED. */
static inline uint64_t point_offset(const uint8_t *p, uint64_t n, uint64_t records)
{
    const uint8_t *at = p, *end = p + n;
    point_record_t r;
    for (; records > 0 && at < end; records--)
        if (!point_next_record(&at, end, &r))
            return POINT_DAMAGED;
    return (uint64_t)(at - p);
}

/* ---- lines ---- */

/* A label's value with its escapes: no reader of ours lets one through that could not be written (line_text.h). */
static inline uint8_t *point_put_escaped(uint8_t *to, const uint8_t *p, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        if (p[i] == ',' || p[i] == '=' || p[i] == ' ')
            *to++ = '\\';
        *to++ = p[i];
    }
    return to;
}

/* Nanoseconds of a time in milliseconds, held within what a line may have. */
static inline int64_t point_nanoseconds(int64_t ms)
{
    int64_t ns;
    if (__builtin_mul_overflow(ms, INT64_C(1000000), &ns))
        return ms < 0 ? LINE_TIME_MIN : LINE_TIME_MAX;
    return ns < LINE_TIME_MIN ? LINE_TIME_MIN : ns > LINE_TIME_MAX ? LINE_TIME_MAX : ns;
}

/* Writes a body as lines, `metric,label=value value=1.5 time`, at `to`, which has room for POINT_LINE_BYTES of each
 * record. Read as samples they are the same again. Returns the bytes, or POINT_DAMAGED. */
static inline uint64_t point_put_lines(const uint8_t *p, uint64_t n, uint8_t *to)
{
    const uint8_t *end = p + n, *start = to;
    point_record_t r;
    point_pair_t pair;
    while (p < end) {
        if (!point_next_record(&p, end, &r))
            return POINT_DAMAGED;
        bool named = false;
        for (const uint8_t *at = r.labels; at < r.labels_end;) {
            if (!point_next_label(&at, r.labels_end, &pair))
                return POINT_DAMAGED;
            if (pair.name_length == 8 && memcmp(pair.name, point_name_label, 8) == 0) {
                memcpy(to, pair.value, pair.value_length);
                to += pair.value_length;
                named = true;
                break;
            }
        }
        if (!named)
            return POINT_DAMAGED;
        for (const uint8_t *at = r.labels; at < r.labels_end;) {
            if (!point_next_label(&at, r.labels_end, &pair))
                return POINT_DAMAGED;
            if (pair.name_length == 8 && memcmp(pair.name, point_name_label, 8) == 0)
                continue;
            *to++ = ',';
            memcpy(to, pair.name, pair.name_length);
            to += pair.name_length;
            *to++ = '=';
            to = point_put_escaped(to, pair.value, pair.value_length);
        }
        memcpy(to, " value=", 7);
        to += 7;
        double value = proto_double(r.value);
        if (value - value != 0)
            return POINT_DAMAGED;
        to += num_write_shortest(to, value);
        *to++ = ' ';
        to += num_write_i64(to, point_nanoseconds(r.ms));
        *to++ = '\n';
    }
    return (uint64_t)(to - start);
}

/* ---- version 2 ---- */

/* A Request in the making. symbols: the texts that stand in it, each once; number 0 is the empty one, which is not here. */
typedef struct {
    line_set_t symbols; /* owned */
    uint8_t *series;    /* owned: all TimeSeries, each with its key and length */
    uint64_t series_length;
    uint64_t symbols_length;
} point2_t;

static inline void point2_free(point2_t *t)
{
    line_set_free(&t->symbols);
    free(t->series);
    t->series = NULL;
}

/* The number of a text. 0 without memory. */
static inline uint32_t point2_symbol(point2_t *t, const uint8_t *text, uint64_t n)
{
    bool added;
    line_entry_t *entry = line_set_add(&t->symbols, text, (uint32_t)n, &added);
    if (entry == NULL)
        return 0;
    if (added)
        t->symbols_length += proto_bytes_size(n);
    return (uint32_t)(entry - t->symbols.entries) + 1;
}

/* Reads a body whose bytes stay where they are, with PORT_PADDING readable behind them. t: zeroed but for the seed of the
 * symbols. Returns the length of the Request, 0 without memory, or POINT_DAMAGED. */
static inline uint64_t point2_read(point2_t *t, const uint8_t *p, uint64_t n)
{
    const uint8_t *end = p + n;
    point_record_t r;
    point_pair_t pair;
    /* A label takes eight bytes, and no more as two numbers below 2^28; what a record has besides, 16 at most. */
    uint64_t room = n + n / 2 + 64;
    t->series = malloc(room);
    if (t->series == NULL)
        return 0;
    uint8_t *to = t->series;
    while (p < end) {
        if (!point_next_record(&p, end, &r))
            return POINT_DAMAGED;
        uint64_t labels = 0, sample = (uint64_t)(r.end - r.sample);
        /* The numbers go where they end up if both lengths take one byte each; else they are moved a little. */
        uint8_t *refs = to + 4, *ref = refs;
        for (const uint8_t *at = r.labels; at < r.labels_end; labels++) {
            if (!point_next_label(&at, r.labels_end, &pair))
                return POINT_DAMAGED;
            uint32_t name = point2_symbol(t, pair.name, pair.name_length);
            uint32_t value = point2_symbol(t, pair.value, pair.value_length);
            if (name == 0 || value == 0)
                return 0;
            ref = proto_put_varint(proto_put_varint(ref, name), value);
        }
        uint64_t length = (uint64_t)(ref - refs), inner = proto_bytes_size(length) + sample;
        uint64_t head = 1 + proto_varint_bytes(inner) + 1 + proto_varint_bytes(length);
        memmove(to + head, refs, length);
        to = proto_put_head(to, POINT2_SERIES, inner);
        to = proto_put_head(to, POINT2_LABELS, length) + length;
        memcpy(to, r.sample, sample);
        to += sample;
    }
    t->series_length = (uint64_t)(to - t->series);
    return 2 + t->symbols_length + t->series_length;
}

/* Writes the Request at `to`, which has room for what point2_read returned. */
static inline void point2_put(const point2_t *t, uint8_t *to)
{
    to = proto_put_head(to, POINT2_SYMBOL, 0);
    for (uint32_t i = 0; i < t->symbols.count; i++) {
        const line_key_t *symbol = &t->symbols.entries[i].key;
        to = proto_put_head(to, POINT2_SYMBOL, symbol->length);
        memcpy(to, symbol->text, symbol->length);
        to += symbol->length;
    }
    memcpy(to, t->series, t->series_length);
}

#endif
