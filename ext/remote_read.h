/* Reads Prometheus remote write 1.0: a serialized WriteRequest, not compressed.
 *
 *   0A len  0A len 0A 08 __name__ 12 02 up   0A len 0A 03 job 12 01 a   12 len 09 double 10 varint
 *   ^^^^^^                                                                                            a TimeSeries
 *           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^   ^^^^^^^^^^^^^^^^^^^^^^^^^   ^^^^^^^^^^^^^^^^^^^^^^^      labels, samples
 *
 * https://prometheus.io/docs/specs/prw/remote_write_spec/
 *
 * The measurement is the label `__name__`, the other labels are tags, the field is `value`; each sample is a metric. A
 * sample that no line protocol can hold (NaN, with it what Prometheus calls stale, and infinities) is dropped as a
 * number. Exemplars and native histograms are dropped as unsupported; metadata carries no sample and is left out, as are
 * unknown fields. A TimeSeries is taken whole or not at all: of a message that is malformed somewhere, what stands
 * before is kept, and the rest is one metric that is dropped (reason protobuf).
 */
#ifndef PENSTOCK_REMOTE_READ_H
#define PENSTOCK_REMOTE_READ_H

#include "foreign.h"
#include "num_shortest.h"
#include "proto.h"

#define REMOTE_SERIES PROTO_KEY(1, PROTO_BYTES) /* WriteRequest */
#define REMOTE_LABEL PROTO_KEY(1, PROTO_BYTES)  /* TimeSeries */
#define REMOTE_NAME PROTO_KEY(1, PROTO_BYTES)   /* Label */
#define REMOTE_VALUE PROTO_KEY(2, PROTO_BYTES)
#define REMOTE_METRIC UINT64_C(0x5F5F656D616E5F5F) /* __name__ */
#define REMOTE_NUMBER PROTO_KEY(1, PROTO_FIXED64) /* Sample */
#define REMOTE_TIME PROTO_KEY(2, PROTO_VARINT)

typedef struct {
    double value;
    int64_t time_ms;
} remote_sample_t;

/* What a TimeSeries has besides its labels. */
typedef struct {
    const uint8_t *samples; /* the first one, with its key */
    uint64_t sample_count, unsupported;
    remote_sample_t sample; /* the last one */
} remote_found_t;

/* What the reader keeps from one sample to the next. */
typedef struct {
    foreign_t point;
    int64_t time_ms; /* whose text in nanoseconds stands in the reader's time_text */
    uint32_t time_length; /* 0: none does */
    uint32_t *marks;      /* where that of the space before the fields goes, in the reader's index; NULL: marks are not known */
    const uint8_t *known[LINE_KEYS_FAST]; /* labels that came one behind the other: their names are in order, and as they have to be */
    uint32_t known_count;
} remote_t;

/* ---- labels ---- */

/* A Label at [p, end). False if it is malformed. */
static inline bool remote_label(foreign_t *s, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *name = NULL, *value = NULL;
    uint64_t name_length = 0, value_length = 0;
    /* Both texts shorter than 128 bytes, name first: nearly all labels. */
    if (likely(end - p >= 4 && p[0] == REMOTE_NAME && p[1] < 0x80 && end - p - 4 >= p[1] && p[2 + p[1]] == REMOTE_VALUE &&
               p[3 + p[1]] == end - p - 4 - p[1] && p[3 + p[1]] < 0x80)) {
        name = p + 2;
        name_length = p[1];
        value = name + name_length + 2;
        value_length = (uint64_t)(end - value);
    } else {
        proto_field_t f;
        while (p < end) {
            if (!proto_next(&p, end, &f))
                return false;
            if (f.number > 2)
                continue;
            if (f.kind != PROTO_BYTES)
                return false;
            *(f.number == 1 ? &name : &value) = f.bytes;
            *(f.number == 1 ? &name_length : &value_length) = f.length;
        }
        if (name_length > LINE_KEY_BYTES || value_length > LINE_KEY_BYTES) {
            foreign_wrong(s, DROP_KEY_TOO_LONG);
            return true;
        }
    }
    if (name_length == 8 && port_load64(name) == REMOTE_METRIC) {
        if (value_length)
            foreign_measurement(s, value, (uint32_t)value_length);
    } else {
        foreign_tag(s, name, (uint32_t)name_length, value, (uint32_t)value_length, false);
    }
    return true;
}

/* A Sample at [p, end). False if it is malformed. */
static inline bool remote_sample(const uint8_t *p, const uint8_t *end, remote_sample_t *sample)
{
    uint64_t time;
    *sample = (remote_sample_t){0, 0};
    if (likely(end - p > 10 && p[0] == REMOTE_NUMBER && p[9] == REMOTE_TIME)) {
        const uint8_t *at = p + 10;
        if (likely(proto_varint(&at, end, &time) && at == end)) {
            *sample = (remote_sample_t){proto_double(port_load64(p + 1)), (int64_t)time};
            return true;
        }
    }
    proto_field_t f = {0};
    while (p < end) {
        if (!proto_next(&p, end, &f))
            return false;
        if (f.number == 1 && f.kind == PROTO_FIXED64)
            sample->value = proto_double(f.value);
        else if (f.number == 2 && f.kind == PROTO_VARINT)
            sample->time_ms = (int64_t)f.value;
        else if (f.number <= 2)
            return false;
    }
    return true;
}

/* Whether a name may be written as it stands, and comes behind the one before it. Both from their keys on, which this one
 * has; it has a key for its value, too.
 *
 *   0A len name 12
 */
static __attribute__((noinline)) bool remote_plain_name(const uint8_t *before, const uint8_t *label)
{
    uint32_t before_length = before[1], length = label[1], n = before_length < length ? before_length : length;
    uint8_t copy[128 + 16];
    if (label[0] != REMOTE_NAME || length == 0 || label[length + 2] != REMOTE_VALUE)
        return false;
    int order = memcmp(before + 2, label + 2, n);
    return (order ? order < 0 : before_length < length) && foreign_copy_padded(copy, label + 2, length) == length &&
           !line_tag_reserved(label + 2, length);
}

/* Takes the labels of a TimeSeries at [p, end) where they are as Prometheus sends them: `__name__`, then the others in the
 * order of their names, so that no two are the same; nothing in a name that would have to be changed; nothing longer than
 * 127 bytes.
 *
 *   0A len 0A len name 12 len value       ,name=value
 *   ^^^^^^^^^^^         ^^^^^^            ^    ^          six bytes that are not text, two marks in what is written
 *
 * Returns the place behind them, and the number of tags; NULL if they are for the general path, from the start. */
static inline const uint8_t *remote_plain_labels(remote_t *r, const uint8_t *p, const uint8_t *end, uint32_t *tag_count)
{
    foreign_t *s = &r->point;
    const line_tags_t *tags = s->reader->tags;
    if (!LINE_FAST(s->reader) || end - p < 15 || p[0] != REMOTE_LABEL || p[2] != REMOTE_NAME || p[3] != 8 ||
        port_load64(p + 4) != REMOTE_METRIC || p[12] != REMOTE_VALUE || p[13] == 0 || p[1] != p[13] + 12 || end - p < p[13] + 14)
        return NULL;
    uint32_t count = 0, value_length = p[13], *mark = s->reader->index;
    const uint8_t *name = p + 2, *value = p + 14;
    uint8_t *head = s->tags, *to = head + value_length;
    if (foreign_copy_padded(head, value, value_length) < value_length || *head == '#')
        return NULL;
    bool plain = true;
    for (p = value + value_length; end - p >= 8 && *p == REMOTE_LABEL; count++) {
        uint32_t length = p[1], key_length = p[3];
        if (length >= 0x80 || length + 2 > end - p || key_length + 4 >= length || count == LINE_KEYS_FAST)
            return NULL;
        if (unlikely(count >= r->known_count || !port_equal(p + 2, r->known[count], key_length + 3))) {
            if (!remote_plain_name(name, p + 2))
                return NULL;
            r->known[count] = p + 2;
            r->known_count = count + 1;
        }
        name = p + 2;
        value_length = p[5 + key_length];
        value = p + 6 + key_length;
        if (value_length + key_length + 4 != length)
            return NULL;
        *to = ',';
        port_copy(to + 1, p + 4, key_length);
        if (unlikely(tags->count)) {
            line_key_t written = {to + 1, key_length, line_hash(to + 1, key_length)};
            s->present |= line_agent_tag(tags, &written);
        }
        mark[0] = (uint32_t)(to - head);
        to += 1 + key_length;
        mark[1] = (uint32_t)(to - head);
        mark += 2;
        *to++ = '=';
        uint32_t copied = foreign_copy_padded(to, value, value_length);
        to += copied;
        if (unlikely(copied < value_length)) {
            to = foreign_escape_rest(s, to, value, copied, value_length, FOREIGN_VALUE);
            plain = false;
            if (s->reason != DROP_NONE)
                return NULL;
        }
        p = value + value_length;
    }
    s->to = to;
    *tag_count = count;
    r->marks = plain ? mark : NULL;
    return p;
}

/* ---- samples ---- */

/* Writes a sample of the series whose head is l. Fields and time are put together behind the series, as they are to be
 * written. */
static inline drop_t remote_emit(remote_t *r, line_t *l, const remote_sample_t *sample, line_counts_t *counts)
{
    line_reader_t *c = r->point.reader;
    if (unlikely(!isfinite(sample->value)))
        return DROP_NUMBER;
    if (unlikely(r->time_length == 0 || sample->time_ms != r->time_ms)) {
        if (!foreign_time(&r->point, l, sample->time_ms, LINE_MS))
            return DROP_TIMESTAMP_RANGE;
        memset(c->time_text + l->time_length, '0', 6);
        r->time_ms = sample->time_ms;
        r->time_length = l->time_length + l->time_zeros;
    }
    uint8_t *fields = r->point.to + 1;
    memcpy(fields - 1, " value=", 7);
    uint32_t n = 6 + (uint32_t)num_write_shortest(fields + 6, sample->value);
    foreign_fields(l, fields, n);
    fields[n] = ' ';
    memcpy(fields + n + 1, c->time_text, 32);
    l->time = fields + n + 1;
    l->time_length = r->time_length;
    l->time_zeros = 0;
    l->joined = true;
    if (r->marks != NULL) {
        uint32_t space = l->series_length;
        r->marks[0] = space;
        r->marks[1] = space + 6;
        r->marks[2] = space + 1 + n;
        l->marks = c->index;
        l->mark_base = l->series;
    }
    line_emit(c, l, counts);
    return DROP_NONE;
}

static inline void remote_emit_counted(remote_t *r, line_t *l, drop_t reason, const remote_sample_t *sample, const uint8_t *p,
                                       const uint8_t *end, line_counts_t *counts)
{
    counts->received++;
    if (reason == DROP_NONE)
        reason = remote_emit(r, l, sample, counts);
    if (unlikely(reason != DROP_NONE))
        line_refuse(r->point.reader, p, (uint64_t)(end - p), reason, counts);
}

/* Goes through the fields of a TimeSeries from p to its end, with its labels or without. False if one is malformed, or a
 * label that is not wanted. */
static inline bool remote_fields(remote_t *r, const uint8_t *p, const uint8_t *end, bool labels, remote_found_t *found)
{
    proto_field_t f = {0};
    while (p < end) {
        const uint8_t *at = p;
        if (!proto_next(&p, end, &f))
            return false;
        if (f.number > 4)
            continue;
        if (f.kind != PROTO_BYTES)
            return false;
        if (f.number == 1) {
            if (!labels || !remote_label(&r->point, f.bytes, p))
                return false;
        } else if (f.number == 2) {
            if (!remote_sample(f.bytes, p, &found->sample))
                return false;
            found->samples = found->sample_count++ ? found->samples : at;
        } else {
            found->unsupported++;
        }
    }
    return true;
}

/* A TimeSeries at [p, end). False if it is malformed: it is not counted then. */
static inline bool remote_series(remote_t *r, const uint8_t *p, const uint8_t *end, line_counts_t *counts)
{
    foreign_t *s = &r->point;
    remote_found_t found = {0};
    uint32_t tag_count = 0;
    foreign_begin(s);
    const uint8_t *behind = remote_plain_labels(r, p, end, &tag_count);
    bool plain = behind != NULL && remote_fields(r, behind, end, false, &found);
    if (unlikely(!plain)) {
        found = (remote_found_t){0};
        r->marks = NULL;
        foreign_begin(s);
        if (!remote_fields(r, p, end, true, &found))
            return false;
    }
    if (unlikely(found.unsupported)) {
        counts->received += found.unsupported;
        line_drop(counts, DROP_UNSUPPORTED, found.unsupported);
        line_keep_sample(s->reader, p, (uint64_t)(end - p), DROP_UNSUPPORTED);
    }
    if (found.sample_count == 0)
        return true;
    line_t l;
    drop_t reason = plain ? foreign_head(s, &l, tag_count, 5) : foreign_line(s, &l, 5);
    if (likely(found.sample_count == 1)) {
        remote_emit_counted(r, &l, reason, &found.sample, p, end, counts);
        return true;
    }
    proto_field_t f;
    for (const uint8_t *at = found.samples; at < end && proto_next(&at, end, &f);)
        if (f.number == 2 && remote_sample(f.bytes, at, &found.sample))
            remote_emit_counted(r, &l, reason, &found.sample, p, end, counts);
    return true;
}

/* Reads the WriteRequest at [p, p + n), PORT_PADDING readable behind it. */
static __attribute__((noinline)) void remote_read(line_reader_t *c, const uint8_t *p, uint64_t n, line_counts_t *counts)
{
    remote_t r;
    r.time_length = r.known_count = 0;
    const uint8_t *end = p + n;
    bool fine = foreign_open(&r.point, c, end + PORT_PADDING);
    drop_t reason = fine ? DROP_PROTOBUF : DROP_LINE_TOO_LONG;
    while (fine && p < end) {
        const uint8_t *at = p;
        proto_field_t f;
        fine = proto_next(&at, end, &f);
        if (fine && f.number == 1)
            fine = f.kind == PROTO_BYTES && remote_series(&r, f.bytes, at, counts);
        if (fine)
            p = at;
    }
    if (unlikely(!fine)) {
        counts->received++;
        line_refuse(c, p, (uint64_t)(end - p), reason, counts);
    }
}

#endif
