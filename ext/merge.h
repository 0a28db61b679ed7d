/* Lines of one series and one time in a batch: a database keeps one of them, so they are made one, or set apart.
 *
 *   cpu,host=a idle=1 1700000000000000000      last:  cpu,host=a idle=3,busy=2 1700000000000000000
 *   cpu,host=a busy=2 1700000000000000000      nudge: cpu,host=a idle=1,busy=2 1700000000000000000
 *   cpu,host=a idle=3 1700000000000000000             cpu,host=a idle=3 1700000000000000001
 *
 * Fields that the earlier line lacks are appended to it. Of a field that it has the later value takes the place, or with
 * `nudge` the later line is put one nanosecond on, and on, until no line of its series stands there. A series is what it
 * is whatever the order of its tags. Lines stay in the order of the first of each.
 */
#ifndef PENSTOCK_MERGE_H
#define PENSTOCK_MERGE_H

#include "line_body.h"
#include "types_mend.h"

#define MERGE_TAGS 256u /* of two heads that are compared tag by tag; those with more are equal only byte for byte */
#define MERGE_NONE UINT32_MAX

/* A field of a line that was merged. */
typedef struct {
    types_field_t field; /* borrowed from the body */
    uint32_t next;
} merge_field_t;

typedef struct {
    const uint8_t *head, *fields, *end; /* borrowed from the body: head, SPACE, fields, SPACE, time, LF up to end */
    uint32_t head_length, fields_length;
    int64_t time;
    uint64_t identity;
    int64_t nudged_to;     /* where the last one was put that came for this place; 0: none */
    uint32_t first, last;  /* of its fields in the pool, once it was merged; MERGE_NONE: it is as it came */
    uint32_t bytes;        /* of its head and fields now */
    bool odd;              /* no line of ours: stays as it is */
    bool moved;            /* its time is another than it was */
    bool gone;             /* it is in another one */
} merge_line_t;

typedef struct {
    merge_line_t *lines;   /* owned */
    uint32_t *table;       /* owned: number + 1 by identity and time, 0 free */
    merge_field_t *pool;   /* owned */
    uint32_t count, table_room, pool_count, pool_room;
    bool nudge, changed;
} merge_t;

/* ---- reading ---- */

/* Behind the name at p: at an unescaped comma, equals sign or space, or the end. */
static inline const uint8_t *merge_name(const uint8_t *p, const uint8_t *end, bool measurement)
{
    while (p < end && *p != ',' && *p != ' ' && (measurement || *p != '='))
        p += *p == '\\' && p + 1 < end && line_escapable(p[1]) && (p[1] != '=' || !measurement) ? 2 : 1;
    return p < end ? p : end;
}

/* Where a tag's value ends; an equals sign in it is escaped or not. */
static inline const uint8_t *merge_value(const uint8_t *p, const uint8_t *end)
{
    while (p < end && *p != ',' && *p != ' ')
        p += *p == '\\' && p + 1 < end && line_escapable(p[1]) ? 2 : 1;
    return p < end ? p : end;
}

/* Takes the line at p, which ends at `end`, apart. */
static inline void merge_read(merge_line_t *l, const uint8_t *p, const uint8_t *end)
{
    memset(l, 0, sizeof *l);
    l->head = p;
    l->end = end;
    l->first = MERGE_NONE;
    l->odd = true;
    const uint8_t *stop = end > p && end[-1] == '\n' ? end - 1 : end, *time = stop;
    while (time > p && time[-1] != ' ')
        time--;
    const uint8_t *at = merge_name(p, stop, true);
    l->identity = mix_bytes(&mix_fixed, 0, p, (uint32_t)(at - p));
    while (at < stop && *at == ',') {
        const uint8_t *key = at + 1, *equals = merge_name(key, stop, false);
        if (equals >= stop || *equals != '=')
            return;
        at = merge_value(equals + 1, stop);
        l->identity += mix_pair(&mix_fixed, key, (uint32_t)(equals - key), equals + 1, (uint32_t)(at - equals - 1));
    }
    if (at >= time || *at != ' ' || time - 1 <= at + 1 || !num_read_i64(time, (size_t)(stop - time), &l->time))
        return;
    l->head_length = (uint32_t)(at - p);
    l->fields = at + 1;
    l->fields_length = (uint32_t)(time - 1 - l->fields);
    l->bytes = l->head_length + 1 + l->fields_length;
    l->odd = false;
}

/* Whether a head has the tag that stands at p[0..n), ",key=value". */
static inline bool merge_has_tag(const merge_line_t *l, const uint8_t *p, uint32_t n)
{
    const uint8_t *end = l->head + l->head_length;
    for (const uint8_t *at = merge_name(l->head, end, true); at < end;) {
        const uint8_t *next = merge_value(at + 1, end);
        if ((uint32_t)(next - at) == n && memcmp(at, p, n) == 0)
            return true;
        at = next;
    }
    return false;
}

/* Whether two lines whose identities are equal are of one series. */
static inline bool merge_same_series(const merge_line_t *a, const merge_line_t *b)
{
    if (a->head_length != b->head_length)
        return false;
    if (memcmp(a->head, b->head, a->head_length) == 0)
        return true;
    const uint8_t *end = a->head + a->head_length, *at = merge_name(a->head, end, true);
    uint32_t n = (uint32_t)(at - a->head), tags = 0;
    if (memcmp(a->head, b->head, n) != 0 || (n < b->head_length && b->head[n] != ','))
        return false;
    while (at < end) {
        const uint8_t *next = merge_value(at + 1, end);
        if (++tags > MERGE_TAGS || !merge_has_tag(b, at, (uint32_t)(next - at)))
            return false;
        at = next;
    }
    return true;
}

/* ---- the table ---- */

/* The place of the line of this series and time, or the free one where it belongs. */
static inline uint32_t *merge_place(const merge_t *m, const merge_line_t *l)
{
    uint64_t hash = mix_fold(l->identity ^ mix_fixed.k[0], (uint64_t)l->time ^ mix_fixed.k[1]);
    for (uint32_t at = (uint32_t)(hash >> 32) & (m->table_room - 1);; at = (at + 1) & (m->table_room - 1)) {
        if (m->table[at] == 0)
            return &m->table[at];
        const merge_line_t *there = &m->lines[m->table[at] - 1];
        if (there->identity == l->identity && there->time == l->time && merge_same_series(there, l))
            return &m->table[at];
    }
}

/* ---- merging ---- */

/* Room in the pool for the fields of so many bytes of text, of which each takes three at least. False without memory. */
static inline bool merge_reserve(merge_t *m, uint32_t bytes)
{
    uint64_t room = m->pool_room ? m->pool_room : 256;
    while (room < (uint64_t)m->pool_count + bytes / 3 + 1)
        room *= 2;
    if (room == m->pool_room)
        return true;
    merge_field_t *pool = room < MERGE_NONE ? realloc(m->pool, room * sizeof *pool) : NULL;
    if (pool == NULL)
        return false;
    m->pool = pool;
    m->pool_room = (uint32_t)room;
    return true;
}

static inline void merge_append(merge_t *m, merge_line_t *l, const types_field_t *f)
{
    uint32_t number = m->pool_count++;
    m->pool[number] = (merge_field_t){*f, MERGE_NONE};
    if (l->first == MERGE_NONE)
        l->first = number;
    else
        m->pool[l->last].next = number;
    l->last = number;
}

static inline merge_field_t *merge_field(const merge_t *m, const merge_line_t *l, const types_field_t *f)
{
    for (uint32_t i = l->first; i != MERGE_NONE; i = m->pool[i].next)
        if (m->pool[i].field.key_length == f->key_length && memcmp(m->pool[i].field.key, f->key, f->key_length) == 0)
            return &m->pool[i];
    return NULL;
}

/* Brings the fields of line b into line a. False if it cannot be, and then nothing has changed; *same: they have one in
 * common, which was asked not to be. */
static inline bool merge_into(merge_t *m, merge_line_t *a, const merge_line_t *b, bool *same)
{
    types_field_t f;
    const uint8_t *p;
    int64_t bytes = a->bytes;
    *same = false;
    if (!merge_reserve(m, a->fields_length + b->fields_length))
        return false;
    if (a->first == MERGE_NONE)
        for (p = a->fields; types_next(&p, a->fields + a->fields_length, &f);)
            merge_append(m, a, &f);
    for (p = b->fields; types_next(&p, b->fields + b->fields_length, &f);) {
        const merge_field_t *there = merge_field(m, a, &f);
        if (there != NULL && m->nudge) {
            *same = true;
            return false;
        }
        bytes += there != NULL ? (int64_t)f.value_length - there->field.value_length : (int64_t)f.key_length + f.value_length + 2;
    }
    if (bytes > LINE_TEXT_MAX - 24)
        return false;
    for (p = b->fields; types_next(&p, b->fields + b->fields_length, &f);) {
        merge_field_t *there = merge_field(m, a, &f);
        if (there != NULL)
            there->field = f;
        else
            merge_append(m, a, &f);
    }
    a->bytes = (uint32_t)bytes;
    return true;
}

/* Puts a line where it belongs: in the table, into another line, or at a later time. */
static inline void merge_put(merge_t *m, uint32_t number)
{
    merge_line_t *l = &m->lines[number];
    uint32_t *place = merge_place(m, l);
    if (*place == 0) {
        *place = number + 1;
        return;
    }
    merge_line_t *there = &m->lines[*place - 1];
    bool same;
    if (merge_into(m, there, l, &same)) {
        l->gone = m->changed = true;
        return;
    }
    if (!same)
        return; /* the line would be too long: the database has the last word */
    if (there->nudged_to >= INT64_MAX - 1 || l->time >= LINE_TIME_MAX)
        return;
    l->time = there->nudged_to ? there->nudged_to : l->time;
    do {
        if (l->time >= LINE_TIME_MAX)
            return;
        l->time++;
        place = merge_place(m, l);
    } while (*place != 0);
    there->nudged_to = l->time;
    l->moved = m->changed = true;
    *place = number + 1;
}

/* Writes a line as it is now at `to`; returns the place behind it. */
static inline uint8_t *merge_write(const merge_t *m, const merge_line_t *l, uint8_t *to)
{
    if (l->odd || (l->first == MERGE_NONE && !l->moved)) {
        memcpy(to, l->head, (size_t)(l->end - l->head));
        return to + (l->end - l->head);
    }
    memcpy(to, l->head, l->head_length);
    to += l->head_length;
    *to++ = ' ';
    if (l->first == MERGE_NONE) {
        memcpy(to, l->fields, l->fields_length);
        to += l->fields_length;
    }
    for (uint32_t i = l->first; i != MERGE_NONE; i = m->pool[i].next) {
        const types_field_t *f = &m->pool[i].field;
        if (i != l->first)
            *to++ = ',';
        memcpy(to, f->key, f->key_length);
        to += f->key_length;
        *to++ = '=';
        memcpy(to, f->value, f->value_length);
        to += f->value_length;
    }
    *to++ = ' ';
    to += num_write_i64(to, l->time);
    *to++ = '\n';
    return to;
}

/* Bytes that `to` must have for a body of so many; a time may get one digit more. */
static inline uint64_t merge_room(uint64_t n)
{
    return n + n / 4 + 64;
}

/* Merges the lines of a body of ours into `to`, which has merge_room(n). False if there is nothing to merge, or without
 * memory: the body is to be sent as it is. Needs no lock and no GIL: everything is the caller's. */
static inline bool merge_lines(const uint8_t *p, uint64_t n, bool nudge, uint8_t *to, uint64_t *length, uint64_t *lines)
{
    merge_t m = {.nudge = nudge, .table_room = 64};
    const uint8_t *end = p + n;
    uint64_t count = line_count(p, n);
    if (count < 2 || count > UINT32_MAX / 4)
        return false;
    while (m.table_room < 2 * count)
        m.table_room *= 2;
    m.lines = malloc(count * sizeof *m.lines);
    m.table = calloc(m.table_room, sizeof *m.table);
    if (m.lines != NULL && m.table != NULL)
        for (; p < end; p = m.lines[m.count - 1].end) {
            merge_read(&m.lines[m.count], p, line_next(p, end));
            m.count++;
            if (!m.lines[m.count - 1].odd)
                merge_put(&m, m.count - 1);
        }
    uint8_t *out = to;
    *lines = 0;
    for (uint32_t i = 0; m.changed && i < m.count; i++)
        if (!m.lines[i].gone) {
            out = merge_write(&m, &m.lines[i], out);
            ++*lines;
        }
    *length = (uint64_t)(out - to);
    free(m.lines);
    free(m.table);
    free(m.pool);
    return m.changed;
}

#endif
