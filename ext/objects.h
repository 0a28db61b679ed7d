/* Points that are built part by part, and wait as finished lines until they are written into the rings.
 *
 *   objects_begin ─▶ objects_measurement ─▶ objects_tag … ─▶ objects_fields ─▶ objects_integer … ─▶ objects_end
 *                   with anything that is wrong                                             ─▶ objects_refuse
 *   objects_emit: all of them, into the rings
 *
 * Who walks over Python objects holds the GIL, who writes the rings holds the lane's lock: building first and writing
 * later keeps the two apart. One thread at a time.
 *
 * The text of one point, as it stands in `text`:
 *
 *   cpu,host=a SPACE idle=1.5,busy=2i SPACE 1700000000000000000
 *   ^^^^^^^^^^       ^^^^^^^^^^^^^^^^       ^^^^^^^^^^^^^^^^^^^      series, fields, time (or nothing)
 */
#ifndef PENSTOCK_OBJECTS_H
#define PENSTOCK_OBJECTS_H

#include "line_fast.h"
#include "num_shortest.h"
#include "object_text.h"

#define OBJECTS_LINE_MAX (4u * LINE_TEXT_MAX) /* where a point that grows and grows is given up */
#define OBJECTS_SIGNED_MAX "9223372036854775807i"

typedef struct {
    size_t at; /* in text */
    uint32_t series_length, fields_length, time_length;
    uint32_t signed_at;  /* relative to `at`: the fields again, `u` written as `i`; 0 if there is none */
    uint32_t signed_length;
    uint32_t clamped;
    uint32_t first_tag, tag_count; /* in tags */
    uint32_t key_longest;          /* of its fields */
    drop_t reason; /* DROP_NONE, or why it is none: text holds series_length bytes of it for the log then */
    bool rewritten; /* something that came is not in it */
} object_t;

/* A key in text. */
typedef struct {
    size_t at;
    uint32_t length;
} object_key_t;

typedef struct {
    object_key_t key;
    uint32_t value_length; /* of an unsigned value that is no signed one, else 0 */
} object_field_t;

/* Zeroed before the first use. */
typedef struct {
    uint8_t *text; /* owned, PORT_PADDING writable behind `room` */
    size_t used, room;
    object_t *points; /* owned */
    uint32_t count, objects_room;
    object_key_t *tags; /* owned */
    uint32_t tag_count, tags_room;
    uint32_t lost; /* refused, and no memory to note it */
    object_field_t *fields; /* owned; of the point that is built */
    uint32_t field_count, fields_room;
    object_t now;
    bool altered_tag, altered_field, has_unsigned;
    line_set_t set; /* owned */
} objects_t;

static inline void objects_free(objects_t *p)
{
    free(p->text);
    free(p->points);
    free(p->tags);
    free(p->fields);
    line_set_free(&p->set);
    memset(p, 0, sizeof *p);
}

/* Room for n more bytes of the point that is built. */
static inline bool objects_reserve(objects_t *p, size_t n)
{
    if (unlikely(p->used - p->now.at + n > OBJECTS_LINE_MAX))
        return false;
    if (likely(p->used + n <= p->room))
        return true;
    size_t room = 2 * (p->used + n) + 65536;
    uint8_t *text = realloc(p->text, room + PORT_PADDING);
    if (text == NULL)
        return false;
    p->text = text;
    p->room = room;
    return true;
}

/* Room for one more element of an array; false without memory. */
#define OBJECTS_GROW(array, count, room) ((count) < (room) || objects_grow(&(array), &(room), sizeof *(array)))

/* array: where a pointer to the array is. */
static inline bool objects_grow(void *array, uint32_t *room, size_t each)
{
    uint32_t wanted = *room ? 2 * *room : 256;
    void *before, *grown;
    memcpy(&before, array, sizeof before);
    grown = realloc(before, wanted * each);
    if (grown == NULL)
        return false;
    memcpy(array, &grown, sizeof grown);
    *room = wanted;
    return true;
}

/* ---- building ---- */

static inline void objects_begin(objects_t *p)
{
    p->now = (object_t){.at = p->used, .first_tag = p->tag_count, .reason = DROP_NONE};
    p->field_count = 0;
    p->altered_tag = p->altered_field = p->has_unsigned = false;
}

/* Gives the point up that is built: it is counted as dropped in its turn. text: what is shown of it in the log; NULL
 * for what has been built. */
static inline void objects_refuse(objects_t *p, drop_t reason, const uint8_t *text, size_t n)
{
    if (text == NULL)
        n = p->used - p->now.at;
    if (n > LINE_SAMPLE_BYTES)
        n = LINE_SAMPLE_BYTES;
    p->tag_count = p->now.first_tag;
    if (text != NULL) {
        p->used = p->now.at;
        if (objects_reserve(p, LINE_SAMPLE_BYTES))
            memcpy(p->text + p->used, text, n);
        else
            n = 0;
    }
    p->used = p->now.at + n;
    p->now = (object_t){.at = p->now.at, .first_tag = p->tag_count, .series_length = (uint32_t)n, .reason = reason};
    if (OBJECTS_GROW(p->points, p->count, p->objects_room))
        p->points[p->count++] = p->now;
    else
        p->lost++;
}

static inline drop_t objects_measurement(objects_t *p, const uint8_t *name, size_t n)
{
    if (!objects_reserve(p, 2 * n + 8))
        return DROP_LINE_TOO_LONG;
    uint8_t *start = p->text + p->used, *to = start;
    bool altered = false;
    drop_t reason = object_name_put(&to, name, n, NAME_MEASUREMENT, &altered);
    if (reason != DROP_NONE)
        return reason;
    if (to == start || *start == '#') /* such a line would be a comment */
        return DROP_MEASUREMENT;
    p->used += (size_t)(to - start);
    return DROP_NONE;
}

/* An empty key or value, and one that nothing is left of, is no tag. */
static inline drop_t objects_tag(objects_t *p, const uint8_t *key, size_t key_length, const uint8_t *value, size_t value_length)
{
    if (!objects_reserve(p, 2 * key_length + 2 * value_length + 24) || !OBJECTS_GROW(p->tags, p->tag_count, p->tags_room))
        return DROP_LINE_TOO_LONG;
    uint8_t *start = p->text + p->used, *to = start;
    *to++ = ',';
    bool altered = false, ignored = false;
    drop_t reason = object_name_put(&to, key, key_length, NAME_TAG, &altered);
    if (reason != DROP_NONE)
        return reason;
    uint32_t length = (uint32_t)(to - start - 1);
    *to++ = '=';
    uint8_t *behind = to;
    if ((reason = object_name_put(&to, value, value_length, NAME_TAG, &ignored)) != DROP_NONE)
        return reason;
    if (length == 0 || to == behind) {
        p->now.rewritten = true;
        return DROP_NONE;
    }
    if (line_tag_reserved(start + 1, length))
        return DROP_TAG_RESERVED;
    p->altered_tag |= altered;
    p->tags[p->tag_count++] = (object_key_t){p->used + 1, length};
    p->used += (size_t)(to - start);
    return DROP_NONE;
}

/* Whether two keys that came as different ones have become the same. */
static inline drop_t objects_check_keys(objects_t *p, const object_key_t *keys, size_t stride, uint32_t count, drop_t reason)
{
    line_set_clear(&p->set);
    for (uint32_t i = 0; i < count; i++) {
        const object_key_t *key = (const object_key_t *)((const uint8_t *)keys + i * stride);
        bool added;
        if (line_set_add(&p->set, p->text + key->at, key->length, &added) == NULL)
            return DROP_LINE_TOO_LONG;
        if (!added)
            return reason;
    }
    return DROP_NONE;
}

/* The tags are all there. */
static inline drop_t objects_fields(objects_t *p)
{
    p->now.tag_count = p->tag_count - p->now.first_tag;
    p->now.series_length = (uint32_t)(p->used - p->now.at);
    if (!objects_reserve(p, 1))
        return DROP_LINE_TOO_LONG;
    if (p->altered_tag) {
        drop_t reason = objects_check_keys(p, p->tags + p->now.first_tag, sizeof *p->tags, p->now.tag_count, DROP_TAG_DUPLICATE);
        if (reason != DROP_NONE)
            return reason;
    }
    p->text[p->used++] = ' ';
    return DROP_NONE;
}

/* Writes the key and `=`, with room for `room` bytes of value; *to is where it goes, NULL if the key is nothing. */
static inline drop_t objects_key(objects_t *p, const uint8_t *key, size_t n, size_t room, uint8_t **to)
{
    if (!objects_reserve(p, 2 * n + room + 16) || !OBJECTS_GROW(p->fields, p->field_count, p->fields_room))
        return DROP_LINE_TOO_LONG;
    uint8_t *start = p->text + p->used + (p->field_count > 0);
    *to = start;
    drop_t reason = object_name_put(to, key, n, NAME_FIELD, &p->altered_field);
    if (reason != DROP_NONE)
        return reason;
    uint32_t length = (uint32_t)(*to - start);
    if (length == 0) {
        *to = NULL;
        p->now.rewritten = true;
        return DROP_NONE;
    }
    if (p->field_count > 0)
        p->text[p->used] = ',';
    p->fields[p->field_count++] = (object_field_t){{(size_t)(start - p->text), length}, 0};
    if (length > p->now.key_longest)
        p->now.key_longest = length;
    *(*to)++ = '=';
    return DROP_NONE;
}

/* What is left out of the point. */
static inline void objects_left_out(objects_t *p)
{
    p->now.rewritten = true;
}

static inline drop_t objects_integer(objects_t *p, const uint8_t *key, size_t n, int64_t v, bool as_float)
{
    uint8_t *to;
    drop_t reason = objects_key(p, key, n, 24, &to);
    if (reason != DROP_NONE || to == NULL)
        return reason;
    to += num_write_i64(to, v);
    if (!as_float)
        *to++ = 'i';
    p->used = (size_t)(to - p->text);
    return DROP_NONE;
}

/* v > INT64_MAX; others are signed. */
static inline drop_t objects_unsigned(objects_t *p, const uint8_t *key, size_t n, uint64_t v, bool as_float)
{
    uint8_t *to;
    drop_t reason = objects_key(p, key, n, 24, &to);
    if (reason != DROP_NONE || to == NULL)
        return reason;
    uint32_t length = (uint32_t)num_write_u64(to, v);
    to += length;
    if (!as_float) {
        *to++ = 'u';
        p->fields[p->field_count - 1].value_length = length + 1;
        p->has_unsigned = true;
    }
    p->used = (size_t)(to - p->text);
    return DROP_NONE;
}

/* One that is not finite is left out, as Telegraf does: line protocol has no word for it. */
static inline drop_t objects_float(objects_t *p, const uint8_t *key, size_t n, double v)
{
    if (unlikely(!isfinite(v))) {
        p->now.rewritten = true;
        return DROP_NONE;
    }
    uint8_t *to;
    drop_t reason = objects_key(p, key, n, NUM_SHORTEST_BYTES, &to);
    if (reason != DROP_NONE || to == NULL)
        return reason;
    to += num_write_shortest(to, v);
    p->used = (size_t)(to - p->text);
    return DROP_NONE;
}

static inline drop_t objects_boolean(objects_t *p, const uint8_t *key, size_t n, bool v)
{
    uint8_t *to;
    drop_t reason = objects_key(p, key, n, 8, &to);
    if (reason != DROP_NONE || to == NULL)
        return reason;
    memcpy(to, v ? "true" : "false", v ? 4 : 5);
    p->used = (size_t)(to - p->text) + (v ? 4 : 5);
    return DROP_NONE;
}

static inline drop_t objects_string(objects_t *p, const uint8_t *key, size_t n, const uint8_t *text, size_t length)
{
    uint8_t *to;
    drop_t reason = objects_key(p, key, n, 2 * length + 2, &to);
    if (reason != DROP_NONE || to == NULL)
        return reason;
    to = object_string_put(to, text, length);
    p->used = (size_t)(to - p->text);
    return DROP_NONE;
}

/* Writes the fields again for rings that hold no unsigned numbers. */
static inline bool objects_put_signed(objects_t *p)
{
    size_t from = p->now.at + p->now.series_length + 1, end = from + p->now.fields_length;
    if (!objects_reserve(p, p->now.fields_length + 1))
        return false;
    uint8_t *start = p->text + p->used, *to = start;
    for (uint32_t i = 0; i < p->field_count; i++) {
        const object_field_t *field = &p->fields[i];
        if (field->value_length == 0)
            continue;
        size_t value = field->key.at + field->key.length + 1;
        memcpy(to, p->text + from, value - from);
        to += value - from;
        memcpy(to, OBJECTS_SIGNED_MAX, sizeof OBJECTS_SIGNED_MAX - 1);
        to += sizeof OBJECTS_SIGNED_MAX - 1;
        from = value + field->value_length;
        p->now.clamped++;
    }
    memcpy(to, p->text + from, end - from);
    to += end - from;
    p->now.signed_at = (uint32_t)(p->used - p->now.at);
    p->now.signed_length = (uint32_t)(to - start);
    p->used += p->now.signed_length;
    return true;
}

/* The fields are all there: the time, if any, and the end. */
static inline drop_t objects_end(objects_t *p, const int64_t *time)
{
    if (p->field_count == 0)
        return DROP_FIELD;
    /* InfluxDB leaves a field of this name out, and refuses a point that has no other. */
    if (p->field_count == 1 && p->fields->key.length == 4 && memcmp(p->text + p->fields->key.at, "time", 4) == 0)
        return DROP_FIELD;
    if (p->altered_field) {
        drop_t reason = objects_check_keys(p, &p->fields->key, sizeof *p->fields, p->field_count, DROP_FIELD);
        if (reason != DROP_NONE)
            return reason;
    }
    p->now.fields_length = (uint32_t)(p->used - p->now.at) - p->now.series_length - 1;
    if (!objects_reserve(p, 24) || !OBJECTS_GROW(p->points, p->count, p->objects_room))
        return DROP_LINE_TOO_LONG;
    if (time != NULL) {
        if (*time < LINE_TIME_MIN || *time > LINE_TIME_MAX)
            return DROP_TIMESTAMP_RANGE;
        p->text[p->used++] = ' ';
        p->now.time_length = (uint32_t)num_write_i64(p->text + p->used, *time);
        p->used += p->now.time_length;
    }
    if (p->has_unsigned && !objects_put_signed(p))
        return DROP_LINE_TOO_LONG;
    p->points[p->count++] = p->now;
    return DROP_NONE;
}

/* ---- writing ---- */

/* The line of a finished point, with the agent's tags; or why it cannot be one. */
static inline drop_t objects_line(const objects_t *p, const object_t *point, line_reader_t *c, line_t *l)
{
    const uint8_t *series = p->text + point->at, *fields = series + point->series_length + 1;
    *l = (line_t){.series = series, .series_length = point->series_length, .fields = fields,
                  .fields_length = point->fields_length, .fields_signed = fields, .fields_signed_length = point->fields_length,
                  .clamped = point->clamped, .joined = true, .rewritten = point->rewritten, .extra = c->tags->text};
    if (point->time_length) {
        l->time = fields + point->fields_length + 1;
        l->time_length = point->time_length;
    }
    if (unlikely(point->signed_at)) {
        l->fields_signed = series + point->signed_at;
        l->fields_signed_length = point->signed_length;
        l->joined = false;
    }
    uint64_t tags = point->tag_count;
    if (c->tags->count) {
        uint64_t present = 0;
        for (uint32_t i = 0; i < point->tag_count; i++) {
            const object_key_t *span = &p->tags[point->first_tag + i];
            line_key_t key = {p->text + span->at, span->length, line_hash(p->text + span->at, span->length)};
            present |= line_agent_tag(c->tags, &key);
        }
        line_add_tags(c, l, present);
        tags += c->tags->count - (uint32_t)__builtin_popcountll(present);
    }
    if (unlikely(point->series_length + 1 + point->fields_length + 1 + point->time_length > c->line_bytes_max))
        return DROP_LINE_TOO_LONG;
    if (unlikely((uint64_t)l->series_length + l->extra_length + 4 + point->key_longest > LINE_KEY_BYTES))
        return DROP_KEY_TOO_LONG;
    if (unlikely(line_tags_fatal(tags)))
        return DROP_TAG;
    return DROP_NONE;
}

/* Writes every point into the rings, counts them, and forgets them. */
static inline void objects_emit(objects_t *p, line_reader_t *c, line_counts_t *counts)
{
    for (uint32_t i = 0; i < p->count; i++) {
        const object_t *point = &p->points[i];
        line_t l;
        counts->received++;
        drop_t reason = point->reason == DROP_NONE ? objects_line(p, point, c, &l) : point->reason;
        if (likely(reason == DROP_NONE))
            line_emit(c, &l, counts);
        else
            line_refuse(c, p->text + point->at, point->series_length, reason, counts);
    }
    counts->received += p->lost;
    if (p->lost)
        line_drop(counts, DROP_LINE_TOO_LONG, p->lost);
    p->count = p->tag_count = p->lost = 0;
    p->used = 0;
}

#endif
