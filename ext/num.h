/* Numbers as text: checking, reading and writing them.
 *
 * Field values are passed on as the client wrote them, so floats are only checked (form and range), never
 * converted and printed again. Integers and timestamps are read, since their range has to be checked.
 */
#ifndef PENSTOCK_NUM_H
#define PENSTOCK_NUM_H

#include <stdlib.h>

#include "port.h"

/* A mask with 0x80 in each byte of x that is not an ASCII digit. */
static inline uint64_t num_nondigits8(uint64_t x)
{
    const uint64_t high = UINT64_C(0x8080808080808080);
    uint64_t low7 = x & ~high;
    uint64_t above9 = low7 + UINT64_C(0x4646464646464646);                /* 0x80 set if the byte > '9' */
    uint64_t below0 = ~(low7 + UINT64_C(0x5050505050505050));             /* 0x80 set if the byte < '0' */
    return (x | above9 | below0) & high;
}

/* The value of eight digits, first digit in the lowest byte; caller must ensure that they are digits. */
static inline uint32_t num_digits8(uint64_t x)
{
    x = (x & UINT64_C(0x0F0F0F0F0F0F0F0F)) * 2561 >> 8;
    x = (x & UINT64_C(0x00FF00FF00FF00FF)) * 6553601 >> 16;
    return (uint32_t)((x & UINT64_C(0x0000FFFF0000FFFF)) * UINT64_C(42949672960001) >> 32);
}

/* Whether p[0..n) are all digits. n >= 1; reads up to PORT_PADDING behind p. */
static inline bool num_all_digits(const uint8_t *p, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        if (num_nondigits8(port_load64(p + i)))
            return false;
    if (i == n)
        return true;
    return (num_nondigits8(port_load64(p + i)) << (64 - 8 * (n - i))) == 0;
}

/* Reads p[0..n) as an unsigned number. False if empty, not all digits, or above 2^64 - 1. Leading zeros are fine. */
static inline bool num_read_u64(const uint8_t *p, size_t n, uint64_t *value)
{
    while (n > 1 && *p == '0')
        p++, n--;
    if (n == 0 || n > 20)
        return false;
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t d = (uint64_t)p[i] - '0';
        if (d > 9)
            return false;
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) || __builtin_add_overflow(v, d, &v))
            return false;
    }
    *value = v;
    return true;
}

/* Reads p[0..n) as a signed number with an optional `-`. False if malformed or outside int64. */
static inline bool num_read_i64(const uint8_t *p, size_t n, int64_t *value)
{
    bool negative = n > 0 && *p == '-';
    uint64_t v;
    if (!num_read_u64(p + negative, n - negative, &v))
        return false;
    if (v > (uint64_t)INT64_MAX + negative)
        return false;
    *value = negative ? (int64_t)(0 - v) : (int64_t)v;
    return true;
}

/* "00" to "99", one behind the other. */
static const char num_pairs[] =
    "00010203040506070809101112131415161718192021222324"
    "25262728293031323334353637383940414243444546474849"
    "50515253545556575859606162636465666768697071727374"
    "75767778798081828384858687888990919293949596979899";

/* Writes v in decimal, no leading zeros; returns the number of bytes (1 to 20). */
static inline size_t num_write_u64(uint8_t *to, uint64_t v)
{
    uint8_t text[20];
    size_t at = sizeof text;
    while (v >= 100) {
        at -= 2;
        memcpy(text + at, num_pairs + 2 * (v % 100), 2);
        v /= 100;
    }
    if (v >= 10) {
        at -= 2;
        memcpy(text + at, num_pairs + 2 * v, 2);
    } else {
        text[--at] = (uint8_t)('0' + v);
    }
    memcpy(to, text + at, sizeof text - at);
    return sizeof text - at;
}

/* Writes v in decimal; returns the number of bytes (1 to 20). */
static inline size_t num_write_i64(uint8_t *to, int64_t v)
{
    if (v >= 0)
        return num_write_u64(to, (uint64_t)v);
    *to = '-';
    return 1 + num_write_u64(to + 1, 0 - (uint64_t)v);
}

/* What num_check_float found out. */
typedef enum {
    NUM_BAD = 0,     /* not a number, or one that rounds to infinity */
    NUM_PLAIN = 1,   /* may be passed on as it stands */
    NUM_BARE_DOT = 2 /* `1.` `.5` `1.e5`: needs a digit on the side of the point where there is none */
} num_float_t;

/* Whether the decimal number p[0..n), form already checked, rounds to a finite double.
 *
 * The decimal exponent of the first significant digit decides all but those near 1.797e308, for which
 * strtod (correctly rounded in glibc and musl) is asked. The C locale's point is used: nothing in
 * this process sets LC_NUMERIC. */
static inline bool num_is_finite(const uint8_t *p, size_t n)
{
    int64_t exponent = 0, before_point = 0, first = -1, digits = 0;
    bool point = false;
    size_t i = *p == '-';
    for (; i < n && p[i] != 'e' && p[i] != 'E'; i++) {
        if (p[i] == '.') {
            point = true;
            continue;
        }
        if (first < 0 && p[i] != '0')
            first = digits;
        digits++;
        if (!point)
            before_point++;
    }
    if (first < 0)
        return true; /* zero, whatever its exponent */
    if (i < n) {
        i++;
        bool negative = p[i] == '-';
        i += p[i] == '-' || p[i] == '+';
        for (; i < n && exponent < 100000000; i++)
            exponent = exponent * 10 + (p[i] - '0');
        if (negative)
            exponent = -exponent;
    }
    int64_t magnitude = before_point - first + exponent; /* value is 0.ddd * 10^magnitude */
    if (magnitude < 309)
        return true;
    if (magnitude > 309)
        return false;
    char *text = malloc(n + 1);
    if (text == NULL)
        return false;
    memcpy(text, p, n);
    text[n] = 0;
    double value = strtod(text, NULL);
    free(text);
    return value - value == 0;
}

/* Checks  [-] digits [. digits] [e [+-] digits]  where one of the two digit runs may be empty. */
static inline num_float_t num_check_float(const uint8_t *p, size_t n)
{
    size_t i = 0;
    if (i < n && p[i] == '-')
        i++;
    size_t start = i;
    while (i < n && (uint8_t)(p[i] - '0') <= 9)
        i++;
    size_t whole = i - start, part = 0;
    bool point = i < n && p[i] == '.';
    if (point) {
        start = ++i;
        while (i < n && (uint8_t)(p[i] - '0') <= 9)
            i++;
        part = i - start;
    }
    if (whole + part == 0)
        return NUM_BAD;
    bool exponent = i < n && (p[i] == 'e' || p[i] == 'E');
    if (exponent) {
        i++;
        if (i < n && (p[i] == '-' || p[i] == '+'))
            i++;
        start = i;
        while (i < n && (uint8_t)(p[i] - '0') <= 9)
            i++;
        if (i == start)
            return NUM_BAD;
    }
    if (i != n)
        return NUM_BAD;
    if ((exponent || whole > 300) && !num_is_finite(p, n))
        return NUM_BAD;
    return point && (whole == 0 || part == 0) ? NUM_BARE_DOT : NUM_PLAIN;
}

#endif
