/* Reads the lines of one datagram (or of any other piece of text) and writes them into the rings. */
#ifndef PENSTOCK_LINE_READER_H
#define PENSTOCK_LINE_READER_H

#include <time.h>

#include "line_body.h"
#include "line_emit.h"
#include "line_general.h"

/* ---- agent tags ---- */

static inline void line_tags_free(line_tags_t *tags)
{
    if (tags != NULL)
        free(tags->text);
    free(tags);
}

/* No tags yet; NULL without memory. */
static inline line_tags_t *line_tags_new(void)
{
    line_tags_t *tags = calloc(1, sizeof *tags);
    if (tags == NULL)
        return NULL;
    tags->text = calloc(1, LINE_TAGS_TEXT_MAX + PORT_PADDING);
    if (tags->text == NULL) {
        free(tags);
        return NULL;
    }
    return tags;
}

/* Appends a tag whose key and value are escaped already. False if there is no room. */
static inline bool line_tags_add(line_tags_t *tags, const uint8_t *key, uint32_t key_length, const uint8_t *value,
                                 uint32_t value_length)
{
    uint64_t need = (uint64_t)key_length + value_length + 2;
    if (tags->count == LINE_TAGS_MAX || tags->length + need > LINE_TAGS_TEXT_MAX)
        return false;
    uint8_t *to = tags->text + tags->length;
    tags->tag[tags->count].start = tags->length;
    *to = ',';
    memcpy(to + 1, key, key_length);
    to[1 + key_length] = '=';
    memcpy(to + 2 + key_length, value, value_length);
    tags->length += (uint32_t)need;
    tags->tag[tags->count].end = tags->length;
    tags->tag[tags->count].key = (line_key_t){to + 1, key_length, line_hash(to + 1, key_length)};
    tags->count++;
    return true;
}

/* ---- life ---- */

static inline void line_reader_close(line_reader_t *c)
{
    free(c->scratch);
    c->scratch = NULL;
    c->scratch_bytes = 0;
    line_set_free(&c->keys);
    point_free(c->point);
    c->point = NULL;
}

/* c: zeroed. tags: borrowed. */
static inline void line_reader_open(line_reader_t *c, scan_index_fn scan, const line_tags_t *tags)
{
    c->scan = scan;
    c->tags = tags;
    c->line_bytes_max = LINE_TEXT_MAX;
    c->marks = 1;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    c->keys.seed = ((uint64_t)now.tv_nsec * UINT64_C(0x9E3779B97F4A7C15)) ^ (uint64_t)(uintptr_t)c;
}

/* ---- reading ---- */

/* Has line_general look at the line at p; n bytes follow, with a LF at p[n]. Returns how many it took. */
static __attribute__((noinline)) uint32_t line_read_general(line_reader_t *c, const uint8_t *p, uint32_t n,
                                                            line_counts_t *counts)
{
    line_t l;
    uint32_t taken = 0;
    drop_t reason = DROP_NONE;
    line_found_t found = line_general(c, p, n, &l, &taken, &reason);
    if (found == LINE_FOUND_NOTHING)
        return taken;
    counts->received++;
    if (found == LINE_FOUND_GOOD) {
        line_emit(c, &l, counts);
        return taken;
    }
    line_refuse(c, p, taken, reason, counts);
    return taken;
}

/* Reads lines from text[at] on, LINE_WINDOW bytes at most; returns where to go on. text[n] is a LF. guarded, typed (constants):
 * whether there is a guard, and whether it keeps types; nothing is to be seen of what there is not. */
static inline __attribute__((always_inline)) uint32_t line_read_window(line_reader_t *c, uint8_t *text, uint32_t at, uint32_t n,
                                                                       bool guarded, bool typed, line_counts_t *counts)
{
    uint8_t *b = text + at;
    uint32_t bytes = n - at < LINE_WINDOW ? n - at : LINE_WINDOW;
    bool last = at + bytes == n;
    uint8_t behind = b[bytes];
    if (!last && c->lent != NULL)
        port_lend(c->lent, c->lent_base, b + bytes);
    b[bytes] = '\n';
    uint32_t count = c->scan(b, bytes, c->index);
    c->index[count] = bytes; /* the LF that ends the walk; several, since the walk may look ahead */
    c->index[count + 1] = bytes;
    c->index[count + 2] = bytes;
    const uint32_t *mark = c->index, *marks_end = c->index + count;
    /* Lines behind the last LF are cut by the window's end: they are read with the next window. */
    uint32_t whole = bytes;
    if (!last) {
        uint32_t k = count;
        while (k > 0 && b[c->index[k - 1]] != '\n')
            k--;
        whole = k > 0 ? c->index[k - 1] : 0;
    }
    uint32_t start = 0;
    line_t l = {0};
    line_head_t head = LINE_NO_HEAD, ahead = LINE_NO_HEAD; /* of this line, and of the next one */
    while (start < bytes && (start <= whole || start == 0)) {
        if (unlikely(b[start] == '\n')) {
            start++;
            mark++;
            continue;
        }
        uint32_t end;
        if (guarded && unlikely(head.start != start)) {
            head = line_head_find(c, b, start, mark);
            ahead = line_head_guess(c, b, mark, c->marks, marks_end);
        }
        line_sight_t sight = {0};
        const uint32_t *next = typed && LINE_FAST(c) ? line_known(c, b, start, mark, &l, &end, &head, &sight) : NULL;
        bool known = typed && likely(next != NULL);
        if (!known && LINE_FAST(c))
            next = line_fast(c, b, start, mark, &l, &end, guarded ? &head : NULL, &sight, typed);
        if (likely(next != NULL && (end < bytes || last))) {
            counts->received++;
            start = end + 1;
            if (guarded) {
                line_head_t found = head;
                c->marks = (uint32_t)(next - mark);
                head = likely(ahead.start == start) ? ahead : line_head_find(c, b, start, next);
                ahead = line_head_guess(c, b, next, c->marks, marks_end); /* its slot comes while two lines are read */
                mark = next;
                if (unlikely(!line_emit_hashed(c, &l, &found, &sight, known, counts))) {
                    head.way = slots_way(&c->guard->slots, head.way.hash);
                    ahead.way = slots_way(&c->guard->slots, ahead.way.hash);
                }
            } else {
                mark = next;
                line_emit(c, &l, counts);
            }
            continue;
        }
        b[bytes] = behind;
        start += line_read_general(c, b + start, n - at - start, counts);
        b[bytes] = '\n';
        while (mark < marks_end && *mark < start)
            mark++;
    }
    b[bytes] = behind;
    return at + start;
}

/* The kinds of windows, each by itself: what is in one costs the others nothing. */
static __attribute__((noinline)) uint32_t line_read_plain(line_reader_t *c, uint8_t *text, uint32_t at, uint32_t n, line_counts_t *counts)
{
    return line_read_window(c, text, at, n, false, false, counts);
}

static __attribute__((noinline)) uint32_t line_read_guarded(line_reader_t *c, uint8_t *text, uint32_t at, uint32_t n, line_counts_t *counts)
{
    return line_read_window(c, text, at, n, true, false, counts);
}

static __attribute__((noinline)) uint32_t line_read_typed(line_reader_t *c, uint8_t *text, uint32_t at, uint32_t n, line_counts_t *counts)
{
    return line_read_window(c, text, at, n, true, true, counts);
}

/* Reads text[0..n). The byte at text[n] is borrowed (overwritten and put back), and PORT_PADDING more are readable. */
static inline void line_read(line_reader_t *c, uint8_t *text, uint32_t n, line_counts_t *counts)
{
    uint8_t behind = text[n];
    text[n] = '\n';
    for (uint32_t at = 0; at < n;)
        if (c->guard == NULL)
            at = line_read_plain(c, text, at, n, counts);
        else if (c->guard->types == NULL)
            at = line_read_guarded(c, text, at, n, counts);
        else
            at = line_read_typed(c, text, at, n, counts);
    text[n] = behind;
}

/* Drops the lines of a datagram that is never read, so quotes do not matter. */
static inline void line_drop_unread(const uint8_t *text, uint32_t n, drop_t reason, line_counts_t *counts)
{
    uint64_t lines = 0;
    const uint8_t *p = text, *end = text + n;
    while (p < end) {
        const uint8_t *lf = memchr(p, '\n', (size_t)(end - p));
        const uint8_t *stop = lf ? lf : end;
        lines += stop > p && *p != '#';
        p = stop + 1;
    }
    lines += lines == 0; /* whatever it held, something was lost */
    counts->received += lines;
    line_drop(counts, reason, lines);
}

/* The same for one that is over the limit. */
static inline void line_drop_datagram(line_reader_t *c, const uint8_t *text, uint32_t n, line_counts_t *counts)
{
    line_drop_unread(text, n, DROP_DATAGRAM_TOO_LARGE, counts);
    line_keep_sample(c, text, n, DROP_DATAGRAM_TOO_LARGE);
}

#endif
