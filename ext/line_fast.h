/* The reader's second step for the lines that clients really send: from mark to mark.
 *
 * A line is taken here if it is in canonical form already: single spaces, no escapes, no quotes, no byte
 * outside printable ASCII, plain numbers. Anything else, good or bad, is left to line_general.h, so this
 * file never rejects and never rewrites. Both give the same result for the lines that both can take;
 * a test compares them.
 */
#ifndef PENSTOCK_LINE_FAST_H
#define PENSTOCK_LINE_FAST_H

#include "line.h"

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

/* Tries the line that starts at b[start], whose first mark is *at. On success fills l, sets *end to the place
 * of its LF and returns the mark behind that; returns NULL to have line_general.h look at it. The last mark
 * of the index is a LF, so the walk ends. */
static inline const uint32_t *line_fast(line_reader_t *c, const uint8_t *b, uint32_t start, const uint32_t *at,
                                        line_t *l, uint32_t *end)
{
    line_key_t keys[LINE_KEYS_FAST];
    uint32_t tag_count = 0;
    uint64_t seen = 0;
    uint32_t mark = *at;
    uint8_t byte = b[mark];
    if (mark == start || b[start] == '#')
        return NULL;
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
        field_count++;
    } while (byte == ',');
    /* InfluxDB refuses a point whose only field has this name. */
    if (field_count == 1 && keys[0].length == 4 && port_load32(keys[0].text) == 0x656d6974)
        return NULL;
    l->fields = l->fields_signed = b + fields;
    l->fields_length = l->fields_signed_length = mark - fields;
    l->joined = true;
    l->rewritten = false;
    l->clamped = 0;
    l->time = NULL;
    l->time_zeros = 0;
    if (byte == ' ') {
        uint32_t time = mark + 1;
        mark = *++at;
        byte = b[mark];
        uint32_t n = mark - time;
        /* No leading zero, and a first digit below 9 where 19 digits could pass the largest time. */
        if (n == 0 || n + c->precision > 19 || b[time] == '0' || (n + c->precision == 19 && b[time] == '9') ||
            !num_all_digits(b + time, n))
            return NULL;
        l->time = b + time;
        l->time_length = n;
        l->time_zeros = c->precision;
    }
    if (byte != '\n' || mark - start + l->extra_length > LINE_KEY_BYTES - 4 || mark - start > c->line_bytes_max)
        return NULL;
    *end = mark;
    return at + 1;
}

#endif
