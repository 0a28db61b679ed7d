/* A line becomes samples: one TimeSeries record of Prometheus remote write for each number and boolean in it.
 *
 *   cpu,host=a idle=1.5,busy=2i 1700000000123456789
 *
 *   {__name__="cpu_idle", host="a"} 1.5 at 1700000000123     {__name__="cpu_busy", host="a"} 2 at 1700000000123
 *
 *   0A len  0A len 0A 08 __name__ 12 len cpu_idle   0A len 0A 04 host 12 01 a   12 len 09 double 10 time
 *   ^^^^^^                                                                                             field 1 of WriteRequest
 *           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^                         labels, sorted by name
 *                                                                            ^^^^^^^^^^^^^^^^^^^^^^    one sample
 *
 * Specification: https://prometheus.io/docs/specs/prw/remote_write_spec/
 * The rules: the metric is called measurement_field, or measurement alone for a field `value`; what may not stand in a
 * name becomes `_`; of two names that become the same the first stays; times are cut to milliseconds, downwards; strings
 * are left out. A record is written with its key and length, so records in a row are a WriteRequest.
 *
 * Sizes are computed first and a line is written at once, or not at all.
 */
#ifndef PENSTOCK_POINT_H
#define PENSTOCK_POINT_H

#include "point_names.h"
#include "proto.h"

/* A line that would take more bytes as samples (its labels stand in each) finds no room in any ring. */
#define POINT_BYTES_MAX (4u << 20)
#define POINT_SORT_INSERTING 24u /* so many labels are sorted one by one */

#define POINT_SERIES PROTO_KEY(1, PROTO_BYTES) /* WriteRequest.timeseries */
#define POINT_LABEL PROTO_KEY(1, PROTO_BYTES)  /* TimeSeries.labels */
#define POINT_SAMPLE PROTO_KEY(2, PROTO_BYTES) /* TimeSeries.samples */
#define POINT_NAME PROTO_KEY(1, PROTO_BYTES)   /* Label.name */
#define POINT_VALUE PROTO_KEY(2, PROTO_BYTES)  /* Label.value */
#define POINT_NUMBER PROTO_KEY(1, PROTO_FIXED64) /* Sample.value */
#define POINT_TIME PROTO_KEY(2, PROTO_VARINT)    /* Sample.timestamp */

/* ---- taking the line apart ---- */

static inline void point_add_label(point_t *t, const uint8_t *name, uint32_t name_length, const uint8_t *value, uint32_t value_length)
{
    point_label_t *label = &t->labels[t->label_count];
    label->name = name;
    label->name_length = name_length;
    label->value = value;
    label->value_length = value_length;
    label->at = t->label_count++;
    point_fit_name(t, &label->name, &label->name_length, false, true);
    label->order = point_order(label->name, label->name_length);
}

/* The place of the first unescaped `byte` at or behind p, or end. */
static inline const uint8_t *point_find(const uint8_t *p, const uint8_t *end, uint8_t byte)
{
    while (p < end && *p != byte)
        p += point_escape(p, end) ? 2 : 1;
    return p < end ? p : end;
}

/* Tags in the form of line protocol, each with the comma before it. */
static inline void point_read_tags(point_t *t, const uint8_t *p, const uint8_t *end)
{
    while (p < end) {
        const uint8_t *name = ++p;
        const uint8_t *equals = point_find(name, end, '=');
        p = point_find(equals, end, ',');
        if (equals == name || p - equals < 2)
            continue; /* no reader of ours writes that */
        const uint8_t *value = equals + 1;
        uint32_t value_length = (uint32_t)(p - value);
        point_fit_value(t, &value, &value_length);
        point_add_label(t, name, (uint32_t)(equals - name), value, value_length);
    }
}

/* The place behind a string's closing quote. p: the opening one. */
static inline const uint8_t *point_skip_string(const uint8_t *p, const uint8_t *end)
{
    for (p++; p < end && *p != '"'; p++)
        p += *p == '\\';
    return p < end ? p + 1 : end;
}

/* A value in its canonical form. False for what is no number. */
static inline bool point_read_value(const uint8_t *p, uint32_t n, double *value)
{
    switch (p[n - 1]) {
    case 'i': {
        int64_t integer;
        if (!num_read_i64(p, n - 1, &integer))
            return false;
        *value = (double)integer;
        return true;
    }
    case 'u': {
        uint64_t integer;
        if (!num_read_u64(p, n - 1, &integer))
            return false;
        *value = (double)integer;
        return true;
    }
    case 'e': case 'E': case 't': case 'T': case 'f': case 'F': /* true, false, t, f and so on */
        *value = *p == 't' || *p == 'T';
        return true;
    default:
        return num_read_double(p, n, value);
    }
}

static inline void point_add_field(point_t *t, const uint8_t *name, uint32_t name_length, const uint8_t *value, uint32_t value_length)
{
    point_field_t *field = &t->fields[t->field_count];
    field->name = name;
    field->name_length = name_length;
    if (unlikely(value_length == 0 || !point_read_value(value, value_length, &field->value))) {
        t->left_out++;
        return;
    }
    if (name_length == 5 && memcmp(name, "value", 5) == 0)
        field->name_length = 0;
    else
        point_fit_name(t, &field->name, &field->name_length, true, false);
    t->field_count++;
}

static inline void point_read_fields(point_t *t, const uint8_t *p, const uint8_t *end)
{
    while (p < end) {
        const uint8_t *name = p, *equals = point_find(p, end, '=');
        if (equals == end)
            return;
        const uint8_t *value = equals + 1;
        if (value < end && *value == '"') {
            p = point_skip_string(value, end);
            t->left_out++;
        } else {
            p = memchr(value, ',', (size_t)(end - value));
            p = p == NULL ? end : p;
            point_add_field(t, name, (uint32_t)(equals - name), value, (uint32_t)(p - value));
        }
        p++; /* the comma */
    }
}

/* The same where the positions of all marks are known, and no value is a string. */
static inline void point_read_marks(point_t *t, const line_t *l)
{
    const uint8_t *b = l->mark_base;
    const uint32_t *mark = l->marks;
    uint32_t at = *mark;
    while (b[at] == ',') {
        uint32_t name = at + 1, equals = *++mark;
        at = *++mark;
        point_add_label(t, b + name, equals - name, b + equals + 1, at - equals - 1);
    }
    do {
        uint32_t name = at + 1, equals = *++mark;
        at = *++mark;
        point_add_field(t, b + name, equals - name, b + equals + 1, at - equals - 1);
    } while (b[at] == ',');
}

/* Milliseconds of the line's time, rounded downwards. */
static inline int64_t point_milliseconds(const line_reader_t *c, const line_t *l)
{
    int64_t ns = c->stamp_ns;
    if (l->time != NULL) {
        uint32_t digits = l->time_length + l->time_zeros;
        uint64_t ms;
        if (likely(*l->time != '-' && digits <= 19)) {
            /* The last six digits are what is cut off. */
            if (digits <= 6)
                return 0;
            uint32_t n = digits - 6 < l->time_length ? digits - 6 : l->time_length;
            if (likely(num_read_u64(l->time, n, &ms)))
                return (int64_t)(digits - 6 > n ? ms * num_tens[digits - 6 - n] : ms);
        }
        if (!num_read_i64(l->time, l->time_length, &ns))
            return 0;
        ns *= (int64_t)num_tens[l->time_zeros]; /* in range: the reader has seen to it */
    }
    int64_t ms = ns / 1000000;
    return ms - (ns % 1000000 < 0);
}

/* ---- order and duplicates ---- */

static const uint8_t point_name_label[] = "__name__";

static inline void point_sort_labels(point_t *t)
{
    point_label_t *labels = t->labels;
    if (unlikely(t->label_count > POINT_SORT_INSERTING)) {
        qsort(labels, t->label_count, sizeof *labels, point_compare);
        return;
    }
    for (uint32_t i = 1; i < t->label_count; i++) {
        if (likely(labels[i - 1].order < labels[i].order || point_compare(&labels[i - 1], &labels[i]) < 0))
            continue;
        point_label_t label = labels[i];
        uint32_t j = i;
        for (; j > 0 && point_compare(&labels[j - 1], &label) > 0; j--)
            labels[j] = labels[j - 1];
        labels[j] = label;
    }
}

/* Leaves out labels that have the name of an earlier one, or the metric's own. */
static inline void point_unite_labels(point_t *t)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < t->label_count; i++) {
        const point_label_t *label = &t->labels[i];
        bool again = t->changed && kept > 0 && point_same_name(&t->labels[kept - 1], label);
        again |= label->name_length == 8 && memcmp(label->name, point_name_label, 8) == 0;
        if (unlikely(again))
            t->left_out++;
        else
            t->labels[kept++] = *label;
    }
    t->label_count = kept;
}

/* Leaves out fields that have the name of an earlier one. False without memory. */
static __attribute__((noinline)) bool point_unite_fields(point_t *t)
{
    uint32_t kept = 0;
    line_set_clear(&t->names);
    for (uint32_t i = 0; i < t->field_count; i++) {
        bool added = true;
        if (t->fields[i].name_length > 0 && line_set_add(&t->names, t->fields[i].name, t->fields[i].name_length, &added) == NULL)
            return false;
        if (added)
            t->fields[kept++] = t->fields[i];
        else
            t->left_out++;
    }
    t->field_count = kept;
    return true;
}

/* ---- sizes ---- */

static inline uint32_t point_label_inner(uint32_t name_length, uint32_t value_length)
{
    return 2 + proto_varint_bytes(name_length) + name_length + proto_varint_bytes(value_length) + value_length;
}

static inline uint32_t point_metric_length(const point_t *t, const point_field_t *field)
{
    return t->name_length + (field->name_length ? 1 + field->name_length : 0);
}

/* Bytes of a TimeSeries, without its key and length. */
static inline uint64_t point_series_inner(const point_t *t, uint32_t metric_length)
{
    return t->labels_bytes + proto_bytes_size(point_label_inner(8, metric_length)) + 11 + t->time_length;
}

static inline void point_measure(point_t *t)
{
    t->labels_bytes = 0;
    t->labels_before = 0;
    uint64_t order = point_order(point_name_label, 8);
    for (uint32_t i = 0; i < t->label_count; i++) {
        t->labels_bytes += proto_bytes_size(point_label_inner(t->labels[i].name_length, t->labels[i].value_length));
        t->labels_before += t->labels[i].order < order;
    }
    t->bytes = 0;
    for (uint32_t i = 0; i < t->field_count; i++)
        t->bytes += proto_bytes_size(point_series_inner(t, point_metric_length(t, &t->fields[i])));
}

/* ---- the whole line ---- */

/* Makes room for `need` items of some size. False without memory. */
static inline bool point_room(void *items, uint32_t *room, uint64_t need, size_t size)
{
    if (likely(need <= *room))
        return true;
    uint64_t more = 2 * (uint64_t)*room > need ? 2 * (uint64_t)*room : need;
    void *memory = more < UINT32_MAX ? realloc(*(void **)items, more * size) : NULL;
    if (memory == NULL)
        return false;
    *(void **)items = memory;
    *room = (uint32_t)more;
    return true;
}

/* Room for whatever the line may hold: a tag takes four bytes of it at least, a field as many with its comma. */
static inline bool point_rooms(point_t *t, const line_t *l)
{
    uint64_t tags = (uint64_t)l->series_length + l->extra_length;
    return point_room(&t->labels, &t->label_room, tags / 4 + 64, sizeof *t->labels) &&
           point_room(&t->fields, &t->field_room, l->fields_length / 4 + 64, sizeof *t->fields) &&
           point_room(&t->text, &t->text_room, tags + l->fields_length + PORT_PADDING + 64, 1);
}

/* The line as samples, in c->point; NULL without memory. A stamp has to be given before. */
static __attribute__((noinline)) const point_t *point_make(line_reader_t *c, const line_t *l)
{
    if (c->point == NULL) {
        c->point = calloc(1, sizeof *c->point);
        if (c->point == NULL)
            return NULL;
        c->point->names.seed = c->keys.seed;
    }
    point_t *t = c->point;
    if (!point_rooms(t, l))
        return NULL;
    t->label_count = t->field_count = t->text_length = t->left_out = 0;
    const uint8_t *series_end = l->series + l->series_length;
    const uint8_t *name_end = l->marks != NULL ? l->mark_base + *l->marks : point_find(l->series, series_end, ',');
    t->name = l->series;
    t->name_length = (uint32_t)(name_end - l->series);
    point_fit_name(t, &t->name, &t->name_length, true, true);
    t->changed = false; /* the measurement makes no two names the same */
    if (likely(l->marks != NULL)) {
        point_read_marks(t, l);
    } else {
        point_read_tags(t, name_end, series_end);
        point_read_fields(t, l->fields, l->fields + l->fields_length);
    }
    if (l->extra_length)
        point_read_tags(t, l->extra, l->extra + l->extra_length);
    point_sort_labels(t);
    point_unite_labels(t);
    if (unlikely(t->changed) && !point_unite_fields(t))
        return NULL;
    t->time[0] = POINT_TIME;
    t->time_length = (uint32_t)(proto_put_varint(t->time + 1, (uint64_t)point_milliseconds(c, l)) - t->time);
    point_measure(t);
    return t;
}

/* ---- writing ---- */

static inline uint8_t *point_put_labels(uint8_t *to, const point_label_t *label, const point_label_t *end)
{
    for (; label < end; label++) {
        to = proto_put_head(to, POINT_LABEL, point_label_inner(label->name_length, label->value_length));
        to = proto_put_head(to, POINT_NAME, label->name_length);
        port_copy(to, label->name, label->name_length);
        to = proto_put_head(to + label->name_length, POINT_VALUE, label->value_length);
        port_copy(to, label->value, label->value_length);
        to += label->value_length;
    }
    return to;
}

static inline uint8_t *point_put_name(uint8_t *to, const point_t *t, const point_field_t *field, uint32_t length)
{
    to = proto_put_head(to, POINT_LABEL, point_label_inner(8, length));
    to = proto_put_head(to, POINT_NAME, 8);
    memcpy(to, point_name_label, 8);
    to = proto_put_head(to + 8, POINT_VALUE, length);
    port_copy(to, t->name, t->name_length);
    to += t->name_length;
    if (likely(field->name_length)) {
        *to++ = '_';
        port_copy(to, field->name, field->name_length);
        to += field->name_length;
    }
    return to;
}

/* Writes all records at `to`, which has room for t->bytes and PORT_PADDING; returns the place behind them. */
static inline uint8_t *point_put(const point_t *t, uint8_t *to)
{
    const point_label_t *middle = t->labels + t->labels_before, *end = t->labels + t->label_count;
    const uint8_t *before = NULL, *behind = NULL; /* labels that were written for the first field */
    uint32_t before_bytes = 0, behind_bytes = 0;
    for (uint32_t i = 0; i < t->field_count; i++) {
        const point_field_t *field = &t->fields[i];
        uint32_t length = point_metric_length(t, field);
        to = proto_put_head(to, POINT_SERIES, point_series_inner(t, length));
        if (likely(i > 0)) {
            if (before_bytes)
                port_copy(to, before, before_bytes);
            to = point_put_name(to + before_bytes, t, field, length);
            if (behind_bytes)
                port_copy(to, behind, behind_bytes);
            to += behind_bytes;
        } else {
            before = to;
            to = point_put_labels(to, t->labels, middle);
            before_bytes = (uint32_t)(to - before);
            to = point_put_name(to, t, field, length);
            behind = to;
            to = point_put_labels(to, middle, end);
            behind_bytes = (uint32_t)(to - behind);
        }
        to[0] = POINT_SAMPLE;
        to[1] = (uint8_t)(9 + t->time_length);
        to[2] = POINT_NUMBER;
        proto_put_double(to + 3, field->value);
        memcpy(to + 11, t->time, sizeof t->time);
        to += 11 + t->time_length;
    }
    return to;
}

/* Writes the records into a ring, all or none of them. False if there is no room. */
static inline bool point_store(const point_t *t, ring_t *r, int64_t arrival_ns)
{
    if (likely(t->field_count)) {
        if (unlikely(t->bytes > POINT_BYTES_MAX))
            return false;
        uint8_t *to = ring_reserve(r, t->bytes);
        if (unlikely(to == NULL))
            return false;
        point_put(t, to);
        ring_commit(r, t->bytes, t->field_count, arrival_ns);
    }
    if (unlikely(t->left_out))
        counter_add(&r->left_out, t->left_out);
    return true;
}

#endif
