/* What a line is as samples (point.h), and its names: what may not stand in one becomes `_`.
 *
 * The names of labels are letters, digits and `_`, those of metrics may have `:` too, and neither begins with a digit:
 * https://prometheus.io/docs/concepts/data_model/
 */
#ifndef PENSTOCK_POINT_NAMES_H
#define PENSTOCK_POINT_NAMES_H

#include "line.h"

/* A label as it is to be written. Texts are borrowed from the line or from point_t.text, PORT_PADDING readable behind. */
typedef struct {
    const uint8_t *name, *value;
    uint32_t name_length, value_length;
    uint64_t order; /* first eight bytes of the name, as a number that sorts like them */
    uint32_t at;    /* its place in the line */
} point_label_t;

typedef struct {
    const uint8_t *name; /* borrowed likewise; name_length 0: the metric has the measurement's name alone */
    uint32_t name_length;
    double value;
} point_field_t;

/* One line, ready to be written any number of times. */
typedef struct point {
    point_label_t *labels; /* owned, like all that has a room; in the order of their names, without __name__ */
    point_field_t *fields;
    uint8_t *text; /* names and values that could not be taken as they stand */
    uint32_t label_room, field_room, text_room;
    uint32_t label_count, field_count, text_length;
    uint32_t labels_before;  /* so many stand before __name__ */
    uint64_t labels_bytes;   /* of all of them, written */
    const uint8_t *name;     /* the measurement */
    uint32_t name_length;
    uint32_t left_out;       /* fields and tags of the line that are not in it */
    bool changed;            /* some name is not as it was: two may be the same now */
    uint8_t time[16];        /* key and varint of the time */
    uint32_t time_length;
    uint64_t bytes;          /* of all records */
    line_set_t names;        /* of fields, where some were changed */
} point_t;

static inline void point_free(point_t *t)
{
    if (t == NULL)
        return;
    free(t->labels);
    free(t->fields);
    free(t->text);
    line_set_free(&t->names);
    free(t);
}

/* ---- names ---- */

/* What a byte becomes in a name; those of metrics have the colon too. */
static inline uint8_t point_letter(uint8_t byte, bool colon)
{
    bool good = (uint8_t)((byte | 0x20) - 'a') < 26 || (uint8_t)(byte - '0') < 10 || (colon && byte == ':');
    return good ? byte : '_';
}

/* Whether all n >= 1 bytes may stand in a name, the first one apart. Reads up to 15 bytes behind p. */
static inline bool point_letters_only(const uint8_t *p, uint32_t n, bool colon)
{
#if defined(__SSE2__)
    for (uint32_t i = 0; i < n; i += 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)(p + i));
        /* Ranges by signed comparison: bytes from 0x80 are negative, and in none. */
        __m128i lower = _mm_or_si128(x, _mm_set1_epi8(0x20));
        __m128i letter = _mm_and_si128(_mm_cmpgt_epi8(lower, _mm_set1_epi8('a' - 1)), _mm_cmplt_epi8(lower, _mm_set1_epi8('z' + 1)));
        __m128i digit = _mm_and_si128(_mm_cmpgt_epi8(x, _mm_set1_epi8('0' - 1)),
                                      _mm_cmplt_epi8(x, _mm_set1_epi8((char)('9' + 1 + colon)))); /* `:` is behind `9` */
        __m128i good = _mm_or_si128(_mm_or_si128(letter, digit), _mm_cmpeq_epi8(x, _mm_set1_epi8('_')));
        uint32_t bad = ~(uint32_t)_mm_movemask_epi8(good);
        uint32_t left = n - i;
        if (left < 16)
            bad &= (UINT32_C(1) << left) - 1;
        if (bad & 0xFFFF)
            return false;
    }
    return true;
#else
    bool good = true;
    for (uint32_t i = 0; i < n; i++)
        good &= point_letter(p[i], colon) == p[i];
    return good;
#endif
}

static inline bool point_digit(uint8_t byte)
{
    return (uint8_t)(byte - '0') <= 9;
}

static inline bool point_escape(const uint8_t *p, const uint8_t *end)
{
    return *p == '\\' && p + 1 < end && (p[1] == ',' || p[1] == '=' || p[1] == ' ');
}

/* A name with letters in place of what may not stand in it, in point_t.text. first: it begins the whole name. */
static __attribute__((noinline)) void point_change_name(point_t *t, const uint8_t **name, uint32_t *length, bool colon, bool first)
{
    const uint8_t *p = *name, *end = p + *length;
    uint8_t *to = t->text + t->text_length, *start = to;
    for (; p < end; p++) {
        p += point_escape(p, end);
        *to++ = point_letter(*p, colon);
    }
    if (first && point_digit(*start))
        *start = '_';
    *name = start;
    *length = (uint32_t)(to - start);
    t->text_length += *length;
    t->changed = true;
}

static inline void point_fit_name(point_t *t, const uint8_t **name, uint32_t *length, bool colon, bool first)
{
    if (unlikely(!point_letters_only(*name, *length, colon) || (first && point_digit(**name))))
        point_change_name(t, name, length, colon, first);
}

/* A tag's value without its escapes. */
static inline void point_fit_value(point_t *t, const uint8_t **value, uint32_t *length)
{
    if (likely(memchr(*value, '\\', *length) == NULL))
        return;
    const uint8_t *p = *value, *end = p + *length;
    uint8_t *to = t->text + t->text_length, *start = to;
    for (; p < end; p++) {
        p += point_escape(p, end);
        *to++ = *p;
    }
    *value = start;
    *length = (uint32_t)(to - start);
    t->text_length += *length;
}

/* The first eight bytes of a name as a number, in big-endian order. */
static inline uint64_t point_order(const uint8_t *p, uint32_t n)
{
    uint64_t x = __builtin_bswap64(port_load64(p));
    return n >= 8 ? x : x >> (64 - 8 * n) << (64 - 8 * n);
}

/* Compares names; those that are equal by their places. */
static inline int point_compare(const void *a, const void *b)
{
    const point_label_t *x = a, *y = b;
    if (x->order != y->order)
        return x->order < y->order ? -1 : 1;
    uint32_t n = x->name_length < y->name_length ? x->name_length : y->name_length;
    int found = memcmp(x->name, y->name, n);
    if (found == 0 && x->name_length != y->name_length)
        return x->name_length < y->name_length ? -1 : 1;
    return found != 0 ? found : x->at < y->at ? -1 : 1;
}

static inline bool point_same_name(const point_label_t *x, const point_label_t *y)
{
    return x->name_length == y->name_length && memcmp(x->name, y->name, x->name_length) == 0;
}

#endif
