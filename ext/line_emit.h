/* A line that was accepted goes into every ring that it is for, in that ring's encoding. */
#ifndef PENSTOCK_LINE_EMIT_H
#define PENSTOCK_LINE_EMIT_H

#include "guard.h"
#include "point.h"

/* The line as samples, if any of the reader's rings wants that; else NULL, as without memory. Borrowed from the reader
 * until its next line. */
static inline const point_t *line_point(line_reader_t *c, const line_t *l, ring_t *const *rings, uint32_t ring_count)
{
    for (uint32_t i = 0; i < ring_count; i++)
        if (unlikely(rings[i]->encoding == RING_PB))
            return point_make(c, l);
    return NULL;
}

/* Writes the line into one ring, all of it or nothing. False if there is no room. point: from line_point. */
static inline bool line_store(const line_reader_t *c, const line_t *l, const point_t *point, ring_t *r, int64_t arrival_ns)
{
    if (unlikely(r->encoding == RING_PB))
        return point != NULL && point_store(point, r, arrival_ns);
    uint32_t n = line_bytes(c, l, r->encoding);
    uint8_t *to = ring_reserve(r, n);
    if (unlikely(to == NULL))
        return false;
    line_put(c, l, r->encoding, to);
    ring_commit(r, n, 1, arrival_ns);
    return true;
}

/* Metrics that the line is for a ring. */
static inline uint32_t line_metrics(const point_t *point, const ring_t *r)
{
    return likely(r->encoding != RING_PB) ? 1 : point != NULL ? point->field_count : 0;
}

/* Keeps a line for later. It counts as received when it is read again. False if it cannot be kept. */
static inline bool line_keep_late(line_reader_t *c, const line_t *l, line_counts_t *counts)
{
    line_late_t *late = c->late;
    uint64_t n = (uint64_t)l->series_length + l->fields_length + (l->time ? l->time_length + l->time_zeros + 1 : 0) + 2;
    if (late->length + n > LINE_LATE_MAX)
        return false;
    if (late->length + n > late->room) {
        uint32_t room = late->room ? late->room : 65536;
        while (room < late->length + n)
            room *= 2;
        uint8_t *text = realloc(late->text, room + 2 * PORT_PADDING);
        if (text == NULL)
            return false;
        late->text = text;
        late->room = room;
    }
    uint8_t *to = late->text + late->length;
    memcpy(to, l->series, l->series_length);
    to += l->series_length;
    *to++ = ' ';
    memcpy(to, l->fields, l->fields_length);
    to += l->fields_length;
    if (l->time) {
        *to++ = ' ';
        memcpy(to, l->time, l->time_length);
        to += l->time_length;
        memset(to, '0', l->time_zeros);
        to += l->time_zeros;
    }
    *to = '\n';
    late->length += (uint32_t)n;
    counts->received--;
    return true;
}

/* Drops lines that are counted as received already. */
static inline void line_drop(line_counts_t *counts, drop_t reason, uint64_t lines)
{
    counts->dropped[reason] += lines;
    counts->any_dropped = true;
}

/* Whether a ring that the line is not for would have room for it. */
static inline bool line_others_have_room(const line_reader_t *c, const line_t *l, uint32_t mask)
{
    for (uint32_t i = 0; i < c->ring_count; i++)
        if (!(mask >> i & 1) && ring_reserve(c->rings[i], line_bytes(c, l, c->rings[i]->encoding)) != NULL)
            return true;
    return false;
}

/* Whether a line of a series and time that this one has may be before it in a ring: its time is not above all that its head
 * has had. Where that is not known, as of heads that are new, or that are changed (many may become one), it may be. newest: of
 * the head's times, or NULL. */
static inline bool guard_collides(int64_t *newest, int64_t time)
{
    if (unlikely(newest == NULL))
        return true;
    int64_t before = *newest;
    if (likely(time > before || before == GUARD_NO_TIME))
        *newest = time;
    return time <= before;
}

/* Whether the runs that the line comes into are to be marked. A stamp has to be given before. */
static inline bool line_collides(const line_reader_t *c, const line_t *l, int64_t *newest)
{
    int64_t time = c->stamp_ns;
    return (l->time != NULL && unlikely(!guard_time(c->guard, l, &time))) || guard_collides(newest, time);
}

/* The same as line_emit_marked for what is nearly all there is: one ring, of lines, with room. False if it is not so. A stamp has
 * to be given before. */
static inline __attribute__((always_inline)) bool line_emit_alone(line_reader_t *c, const line_t *l, uint32_t mask, bool marks,
                                                                  line_counts_t *counts)
{
    ring_t *r = c->rings[0];
    if (unlikely(c->ring_count != 1 || mask != 1 || r->encoding != RING_LP))
        return false;
    if (unlikely(marks))
        ring_mark(r);
    uint32_t n = line_bytes(c, l, RING_LP);
    uint8_t *to = ring_reserve(r, n);
    if (unlikely(to == NULL))
        return false;
    line_put(c, l, RING_LP, to);
    ring_commit(r, n, 1, c->arrival_ns);
    counts->accepted++;
    counts->points++;
    counts->rewritten += l->rewritten;
    return true;
}

/* Writes an accepted line into every ring of the mask that has room. came: the line as it came, which is what is kept if it has
 * to wait. marks: whether the runs that it comes into are to be marked. A stamp has to be given before. */
static inline __attribute__((always_inline)) void line_emit_marked(line_reader_t *c, const line_t *l, const line_t *came, uint32_t mask,
                                                                   bool marks, line_counts_t *counts)
{
    if (likely(line_emit_alone(c, l, mask, marks, counts)))
        return;
    uint32_t all = (1u << c->ring_count) - 1;
    bool some = (mask & all) != all; /* of the rings only */
    const point_t *point = line_point(c, l, c->rings, c->ring_count);
    uint32_t taken = 0, full = 0, clamped = 0;
    bool rewritten = l->rewritten;
    for (uint32_t i = 0; i < c->ring_count; i++) {
        ring_t *r = c->rings[i];
        if (some && !(mask >> i & 1))
            continue;
        if (unlikely(marks))
            ring_mark(r);
        if (unlikely(!line_store(c, l, point, r, c->arrival_ns))) {
            full |= 1u << i;
            continue;
        }
        taken++;
        if (r->encoding == RING_LP_SIGNED && l->fields_signed != l->fields) {
            rewritten = true;
            clamped = l->clamped;
        }
    }
    if (unlikely(taken == 0)) {
        /* A line waits only where all would have to: one dead output must not hold up what is for others. */
        bool waits = c->late != NULL && !(some && line_others_have_room(c, l, mask));
        if (waits && line_keep_late(c, came, counts))
            return;
        line_drop(counts, DROP_RING_FULL, 1);
        return;
    }
    if (unlikely(full || point != NULL))
        for (uint32_t i = 0; i < c->ring_count; i++) {
            if (some && !(mask >> i & 1))
                continue;
            uint32_t metrics = line_metrics(point, c->rings[i]);
            if (full >> i & 1)
                counter_add(&c->rings[i]->missed, metrics);
            c->rings[i]->offered += metrics;
        }
    if (some)
        for (uint32_t left = all & ~mask; left != 0; left &= left - 1)
            c->rings[__builtin_ctz(left)]->passed_over++;
    counts->accepted++;
    counts->points++;
    counts->rewritten += rewritten;
    counts->clamped += clamped;
}

/* The same for a line with a guard that has found something. */
static inline __attribute__((always_inline)) void line_emit_found(line_reader_t *c, const line_t *l, const line_t *came, uint32_t mask,
                                                                  int64_t *newest, line_counts_t *counts)
{
    if (l->time == NULL)
        line_stamp_next(c);
    line_emit_marked(c, l, came, mask, c->guard->collisions && line_collides(c, l, newest), counts);
}

/* Keeps, and counts, the fields that had to leave a line. */
static inline void line_refuse_fields(line_reader_t *c, const line_t *l, line_counts_t *counts)
{
    if (c->guard->types->mended.refused == 0)
        return;
    guard_refuse_fields(c->guard, l, c->stamp, c->stamp_length);
    counts->fields_rejected += c->guard->types->mended.refused;
}

/* The same for a reader that has a guard; hash: of the head, slot: what the guard keeps of it, or NULL. shape: of the fields,
 * see types_line. */
static __attribute__((noinline)) void line_emit_guarded(line_reader_t *c, const line_t *l, uint64_t hash, slot_t *slot, uint64_t shape,
                                                        line_counts_t *counts)
{
    guarded_t found;
    guard_line(c->guard, l, hash, slot, GUARD_ALL, &found);
    if (unlikely(found.reason != DROP_NONE)) {
        line_drop(counts, found.reason, 1);
        return;
    }
    if (likely(found.text == NULL && found.flags == 0 && c->guard->types == NULL)) {
        line_emit_found(c, l, l, found.mask, found.newest, counts);
        return;
    }
    line_t changed = *l;
    types_verdict_t types = TYPES_RIGHT;
    if (found.text != NULL && !guard_rewrite(c->guard, &found, &changed)) {
        line_drop(counts, DROP_KEY_TOO_LONG, 1);
        return;
    }
    if (c->guard->types != NULL && (types = guard_fields(c->guard, &changed, shape)) == TYPES_NOTHING_LEFT) {
        line_drop(counts, DROP_TYPE_CONFLICT, 1);
        if (changed.time == NULL)
            line_stamp_next(c);
        line_refuse_fields(c, &changed, counts);
        return;
    }
    uint64_t before = counts->accepted;
    line_emit_found(c, &changed, l, found.mask, found.newest, counts);
    if (types == TYPES_MENDED && counts->accepted != before) {
        counts->coerced += c->guard->types->mended.coerced + c->guard->types->mended.renamed > 0;
        line_refuse_fields(c, &changed, counts);
    }
    if (found.flags & GUARD_SHAPED)
        counts->shaped += counts->accepted - before;
    if (found.flags & GUARD_OVERFLOWED)
        counts->overflowed += counts->accepted - before;
    if (found.flags & GUARD_OBSERVED)
        counts->observed += counts->accepted - before;
}

/* Whether it has been kept: behind a line that waits all others wait, so that they stay in their order. */
static inline bool line_waits(line_reader_t *c, const line_t *l, line_counts_t *counts)
{
    return unlikely(c->late != NULL && c->late->length > 0) && line_keep_late(c, l, counts);
}

/* Writes an accepted line into every ring that it is for and that has room. */
static inline void line_emit(line_reader_t *c, const line_t *l, line_counts_t *counts)
{
    if (line_waits(c, l, counts))
        return;
    if (unlikely(c->guard != NULL)) {
        uint64_t hash = guard_hash(c->guard, c->tags, l->series, l->series_length);
        line_emit_guarded(c, l, hash, slots_find(&c->guard->slots, hash), 0, counts);
        return;
    }
    if (l->time == NULL)
        line_stamp_next(c);
    line_emit_marked(c, l, l, (1u << c->ring_count) - 1, false, counts);
}

/* Keeps a malformed line for the log, if the last one has been fetched. */
static inline void line_keep_sample(line_reader_t *c, const uint8_t *p, uint64_t n, drop_t reason)
{
    line_sample_t *sample = c->sample;
    if (sample == NULL || atomic_load_explicit(&sample->ready, memory_order_acquire))
        return;
    sample->length = (uint32_t)(n < LINE_SAMPLE_BYTES ? n : LINE_SAMPLE_BYTES);
    sample->listener = c->listener;
    sample->reason = (int16_t)reason;
    memcpy(sample->text, p, sample->length);
    atomic_store_explicit(&sample->ready, true, memory_order_release);
}

/* Drops the malformed line at p, which is counted as received already, and tells of it. */
static inline void line_refuse(line_reader_t *c, const uint8_t *p, uint64_t n, drop_t reason, line_counts_t *counts)
{
    line_drop(counts, reason, 1);
    line_keep_sample(c, p, n, reason);
    line_errors_t *errors = c->errors;
    if (errors == NULL || errors->count == errors->max)
        return;
    line_error_t *error = &errors->list[errors->count++];
    error->number = counts->received;
    error->reason = (int16_t)reason;
    error->length = (uint32_t)(n < LINE_SAMPLE_BYTES ? n : LINE_SAMPLE_BYTES);
    memcpy(error->text, p, error->length);
}

#endif
