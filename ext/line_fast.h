/* The reader's second step for the lines that clients really send: from mark to mark.
 *
 * A line is taken here if it is in canonical form already: single spaces, no escapes, no quotes, no byte
 * outside printable ASCII, plain numbers. Anything else, good or bad, is left to line_general.h, so this
 * file never rejects and never rewrites. Both give the same result for the lines that both can take;
 * a test compares them.
 */
#ifndef PENSTOCK_LINE_FAST_H
#define PENSTOCK_LINE_FAST_H

#include "line_emit.h"

/* Bit i set: p[i] is an ASCII digit. Reads 16 bytes. */
static inline uint32_t line_digit_mask16(const uint8_t *p)
{
#if defined(__SSE2__)
    __m128i x = _mm_loadu_si128((const __m128i *)p);
    __m128i shifted = _mm_add_epi8(x, _mm_set1_epi8((char)(128 - '0')));
    return (uint32_t)_mm_movemask_epi8(_mm_cmplt_epi8(shifted, _mm_set1_epi8((char)(-128 + 10))));
#else
    uint32_t mask = 0;
    for (int half = 0; half < 2; half++) {
        uint64_t bits = (~num_nondigits8(port_load64(p + 8 * half)) & UINT64_C(0x8080808080808080)) >> 7;
        mask |= (uint32_t)(bits * UINT64_C(0x0102040810204080) >> 56) << 8 * half;
    }
    return mask;
#endif
}

/* Whether a field value of n >= 1 bytes can be passed on as it is: a decimal number without exponent, an
 * integer that fits for its length alone, or a boolean. False means "look closer", not "malformed". */
static inline bool line_value_plain(const uint8_t *p, uint32_t n)
{
    uint32_t digits = line_digit_mask16(p);
    if (n > 16) {
        if (n > 24)
            return false;
        digits |= line_digit_mask16(p + 16) << 16;
    }
    uint32_t other = ~digits & ((UINT32_C(1) << n) - 1);
    if (other == 0)
        return true;
    uint32_t start = 0;
    if (*p == '-') {
        other &= other - 1;
        start = 1;
        if (other == 0)
            return n > 1;
    }
    if (other & (other - 1)) { /* two or more bytes that are not digits */
        if (n == 4)
            return port_load32(p) == 0x65757274; /* "true" */
        return n == 5 && port_load32(p) == 0x736c6166 && p[4] == 'e'; /* "false" */
    }
    uint32_t at = (uint32_t)__builtin_ctz(other);
    if (p[at] == '.')
        return at > start && at + 1 < n;
    if (p[at] != 'i' || at + 1 != n || at == start || n > 19)
        return false;
    return p[start] != '0' || n == 2; /* `007i` and `-0i` are written anew */
}

static inline bool line_tag_reserved(const uint8_t *p, uint32_t n)
{
    if (n == 4)
        return memcmp(p, "time", 4) == 0;
    if (n == 6)
        return memcmp(p, "_field", 6) == 0;
    return n == 12 && memcmp(p, "_measurement", 12) == 0;
}

/* Adds a key to a set kept as an array and a 64-bit Bloom filter. False if it is there already. */
static inline bool line_keys_add(line_key_t *keys, uint32_t count, uint64_t *seen, const uint8_t *p, uint32_t n)
{
    uint64_t hash = line_hash(p, n);
    uint64_t bit = UINT64_C(1) << (hash >> 58);
    line_key_t *key = &keys[count];
    key->text = p;
    key->length = n;
    key->hash = hash;
    if (unlikely(*seen & bit))
        for (uint32_t i = 0; i < count; i++)
            if (line_key_equal(&keys[i], key))
                return false;
    *seen |= bit;
    return true;
}

/* Zeros that make nanoseconds of the n >= 1 digits at p by LINE_AUTO (see line_unit_ns); no leading zero. */
static inline uint32_t line_guess_zeros(const uint8_t *p, uint32_t n)
{
    bool below = *p < '5';
    if (n < 10 || (n == 10 && below))
        return LINE_S;
    if (n < 13 || (n == 13 && below))
        return LINE_MS;
    return n < 16 || (n == 16 && below) ? LINE_US : LINE_NS;
}

/* The head of a line, found by its marks alone, for a reader that has a guard. */
typedef struct {
    const uint32_t *behind; /* the mark behind it; NULL: it has not the form of one */
    slots_way_t way;        /* by its hash */
    uint32_t start;         /* of the line */
} line_head_t;
#define LINE_NO_HEAD ((line_head_t){.start = UINT32_MAX})

/* What the guard knows of it, once the line has been read. */
typedef struct {
    slot_t *slot;   /* NULL: nothing */
    uint32_t place; /* of the slot */
    uint64_t shape; /* of the fields, see types_mend.h; 0: not found */
} line_sight_t;

/* Finds the head of the line that starts at b[start], whose first mark is *mark, and asks for its slot from memory. */
static inline __attribute__((always_inline)) line_head_t line_head_find(const line_reader_t *c, const uint8_t *b, uint32_t start,
                                                                        const uint32_t *mark)
{
    line_head_t head = {.start = start};
    while (b[*mark] == ',' && b[mark[1]] == '=')
        mark += 2;
    if (unlikely(b[*mark] != ' '))
        return head;
    head.behind = mark;
    head.way = slots_way(&c->guard->slots, guard_hash(c->guard, c->tags, b + start, *mark - start));
    slots_prefetch(&head.way, c->guard->collisions);
    return head;
}

/* The same for the line behind one of which only the first mark is known, and that it should have `marks` of them, as the one
 * before: memory takes longer than the reading of one line. */
static inline __attribute__((always_inline)) line_head_t line_head_guess(const line_reader_t *c, const uint8_t *b, const uint32_t *mark,
                                                                         uint32_t marks, const uint32_t *marks_end)
{
    if (unlikely(marks_end - mark <= (ptrdiff_t)marks) || b[mark[marks - 1]] != '\n')
        return LINE_NO_HEAD;
    return line_head_find(c, b, mark[marks - 1] + 1, mark + marks);
}

/* Looks up the head's slot. Whether the guard knows it: then it has been looked at before, byte for byte, and is as it must
 * be. Only where the agent adds no tags: which ones a head lacks is not known of it. */
static inline bool line_head_known(const line_reader_t *c, const line_head_t *head, line_sight_t *sight)
{
    sight->slot = head->behind != NULL ? slots_find_at(&head->way, &sight->place) : NULL;
    return sight->slot != NULL && c->tags->count == 0;
}

/* Takes what is behind the fields, whose last mark is *at; see line_fast. */
static inline __attribute__((always_inline)) const uint32_t *line_fast_end(const line_reader_t *c, const uint8_t *b, uint32_t start,
                                                                           const uint32_t *at, line_t *l, uint32_t *end)
{
    uint32_t mark = *at;
    l->joined = true;
    l->rewritten = false;
    l->clamped = 0;
    l->time = NULL;
    l->time_zeros = 0;
    if (b[mark] == ' ') {
        uint32_t time = mark + 1;
        mark = *++at;
        uint32_t n = mark - time, zeros = c->precision;
        if (unlikely(zeros > LINE_S)) {
            if (zeros != LINE_AUTO || n == 0)
                return NULL;
            zeros = line_guess_zeros(b + time, n);
        }
        /* No leading zero, and a first digit below 9 where 19 digits could pass the largest time. */
        if (likely(n == 19 && zeros == 0)) {
            if ((uint8_t)(b[time] - '1') > '8' - '1' || (line_digit_mask16(b + time) & line_digit_mask16(b + time + 3)) != 0xFFFF)
                return NULL;
        } else if (n == 0 || n + zeros > 19 || b[time] == '0' || (n + zeros == 19 && b[time] == '9') || !num_all_digits(b + time, n)) {
            return NULL;
        }
        l->time = b + time;
        l->time_length = n;
        l->time_zeros = zeros;
    }
    if (b[mark] != '\n' || mark - start + l->extra_length > LINE_KEY_BYTES - 4 || mark - start > c->line_bytes_max)
        return NULL;
    *end = mark;
    return at + 1;
}

/* Takes a line with a head that the guard knows, and fields that it has found right before: their keys have been looked at
 * then, only the values are new. Else as line_fast, which is tried next. */
static inline __attribute__((always_inline)) const uint32_t *line_known(const line_reader_t *c, const uint8_t *b, uint32_t start,
                                                                        const uint32_t *first, line_t *l, uint32_t *end,
                                                                        const line_head_t *head, line_sight_t *sight)
{
    if (!line_head_known(c, head, sight) || b[start] == '#')
        return NULL;
    const uint32_t *at = head->behind;
    uint32_t mark = *at, fields = mark + 1;
    uint64_t shape = 0;
    l->series = b + start;
    l->series_length = mark - start;
    l->extra_length = 0;
    do {
        uint32_t key = mark + 1, equals = *++at;
        if (b[equals] != '=' || equals == key)
            return NULL;
        mark = *++at;
        if (mark == equals + 1 || !line_value_plain(b + equals + 1, mark - equals - 1))
            return NULL;
        shape = types_shape_add(shape, b + key, equals - key, b[mark - 1]);
    } while (b[mark] == ',');
    if (at - head->behind > 2 * LINE_KEYS_FAST || !types_right(c->guard->types, b + start, *first - start, shape))
        return NULL;
    sight->shape = shape;
    l->fields = l->fields_signed = b + fields;
    l->fields_length = l->fields_signed_length = mark - fields;
    l->marks = first;
    l->mark_base = b;
    return line_fast_end(c, b, start, at, l, end);
}

/* Tries the line that starts at b[start], whose first mark is *at. On success fills l, sets *end to the place
 * of its LF and returns the mark behind that; returns NULL to have line_general.h look at it. The last mark
 * of the index is a LF, so the walk ends. head: what line_head_find has found there, if there is a guard; else NULL (a constant).
 * sight: of it, filled. typed (a constant): whether the shape of its fields is wanted. */
static inline __attribute__((always_inline)) const uint32_t *line_fast(line_reader_t *c, const uint8_t *b, uint32_t start,
                                                                       const uint32_t *at, line_t *l, uint32_t *end,
                                                                       const line_head_t *head, line_sight_t *sight, bool typed)
{
    line_key_t keys[LINE_KEYS_FAST];
    uint32_t tag_count = 0;
    uint64_t seen = 0;
    const uint32_t *first = at;
    uint32_t mark = *at;
    if (mark == start || b[start] == '#')
        return NULL;
    if (head != NULL && line_head_known(c, head, sight)) {
        at = head->behind;
        mark = *at;
    }
    uint8_t byte = b[mark];
    while (byte == ',') {
        uint32_t key = mark + 1, equals = *++at;
        if (b[equals] != '=' || equals == key || tag_count == LINE_KEYS_FAST)
            return NULL;
        mark = *++at;
        byte = b[mark];
        if (mark == equals + 1 || line_tag_reserved(b + key, equals - key))
            return NULL;
        if (!line_keys_add(keys, tag_count, &seen, b + key, equals - key))
            return NULL;
        tag_count++;
    }
    if (byte != ' ')
        return NULL;
    l->series = b + start;
    l->series_length = mark - start;
    l->extra_length = 0;
    if (c->tags->count) {
        uint64_t present = 0;
        for (uint32_t i = 0; i < tag_count; i++)
            present |= line_agent_tag(c->tags, &keys[i]);
        line_add_tags(c, l, present);
        if (unlikely(tag_count + c->tags->count >= LINE_TAGS_FATAL))
            return NULL;
    }

    uint32_t fields = mark + 1, field_count = 0;
    seen = 0;
    do {
        uint32_t key = mark + 1, equals = *++at;
        if (b[equals] != '=' || equals == key || field_count == LINE_KEYS_FAST)
            return NULL;
        mark = *++at;
        byte = b[mark];
        if (mark == equals + 1 || !line_value_plain(b + equals + 1, mark - equals - 1))
            return NULL;
        if (!line_keys_add(keys, field_count, &seen, b + key, equals - key))
            return NULL;
        if (typed)
            sight->shape = types_shape_add(sight->shape, b + key, equals - key, b[mark - 1]);
        field_count++;
    } while (byte == ',');
    /* InfluxDB refuses a point whose only field has this name. */
    if (field_count == 1 && keys[0].length == 4 && port_load32(keys[0].text) == 0x656d6974)
        return NULL;
    l->fields = l->fields_signed = b + fields;
    l->fields_length = l->fields_signed_length = mark - fields;
    l->marks = first;
    l->mark_base = b;
    return line_fast_end(c, b, start, at, l, end);
}

/* As line_emit, for a line that line_fast or line_known (a constant) has read. False if slots may have moved. */
static inline __attribute__((always_inline)) bool line_emit_hashed(line_reader_t *c, const line_t *l, const line_head_t *head,
                                                                   const line_sight_t *sight, bool known, line_counts_t *counts)
{
    guard_t *g = c->guard;
    if (line_waits(c, l, counts))
        return true;
    if (likely(sight->slot != NULL && guard_slot_passes(g, sight->slot) &&
               (known || g->types == NULL ||
                types_right(g->types, l->series, *l->marks - (uint32_t)(l->series - l->mark_base), sight->shape)))) {
        int64_t *newest = g->collisions ? &head->way.segment->times[sight->place] : NULL;
        line_emit_found(c, l, l, sight->slot->value, newest, counts);
        return true;
    }
    line_emit_guarded(c, l, head->way.hash, sight->slot, sight->shape, counts);
    return false;
}

#endif
