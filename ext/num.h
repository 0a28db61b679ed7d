/* Numbers as text: checking, reading and writing them.
 *
 * Into line protocol field values are passed on as the client wrote them, so floats are only checked there (form and
 * range), never converted and printed again. Integers and timestamps are read, since their range has to be checked.
 * What is written as a double is read by num_read_double, correctly rounded.
 */
#ifndef PENSTOCK_NUM_H
#define PENSTOCK_NUM_H

#include <locale.h>
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
    size_t i = 0;
    for (; i + 8 <= n; i += 8) { /* twice at most */
        uint64_t eight = port_load64(p + i);
        if (num_nondigits8(eight))
            return false;
        v = v * 100000000 + num_digits8(eight);
    }
    for (; i < n; i++) {
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

#define NUM_TENS 20

static const uint64_t num_tens[NUM_TENS] = {
    UINT64_C(1), UINT64_C(10), UINT64_C(100), UINT64_C(1000), UINT64_C(10000), UINT64_C(100000), UINT64_C(1000000),
    UINT64_C(10000000), UINT64_C(100000000), UINT64_C(1000000000), UINT64_C(10000000000), UINT64_C(100000000000),
    UINT64_C(1000000000000), UINT64_C(10000000000000), UINT64_C(100000000000000), UINT64_C(1000000000000000),
    UINT64_C(10000000000000000), UINT64_C(100000000000000000), UINT64_C(1000000000000000000),
    UINT64_C(10000000000000000000),
};

/* Decimal digits of v: 1 to 20. */
static inline uint32_t num_digits(uint64_t v)
{
    uint32_t digits = (uint32_t)(64 - __builtin_clzll(v | 1)) * 1233 >> 12;
    return digits + ((v | 1) >= num_tens[digits]);
}

/* Writes v in decimal, no leading zeros; returns the number of bytes (1 to 20). */
static inline size_t num_write_u64(uint8_t *to, uint64_t v)
{
    uint32_t n = num_digits(v);
    uint8_t *at = to + n;
    while (v >= 100) {
        at -= 2;
        memcpy(at, num_pairs + 2 * (v % 100), 2);
        v /= 100;
    }
    if (v >= 10)
        memcpy(to, num_pairs + 2 * v, 2);
    else
        *to = (uint8_t)('0' + v);
    return n;
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

/* ---- text to double ---- */

/* Powers of ten that are doubles. */
static const double num_exact_tens[23] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                          1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

/* 2^exponent; -1022 <= exponent <= 1023. */
static inline double num_two_to(int exponent)
{
    uint64_t bits = (uint64_t)(1023 + exponent) << 52;
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* The double nearest to w * 10^e, ties to even. False where that takes more than 128 bits to say.
 *
 * Where w and the power of ten are doubles, one operation rounds once. Else the product or the quotient is made in whole
 * numbers, 64 bits of it and whether anything is behind them; the conversion of these rounds once, and the scaling by a
 * power of two not at all. */
static inline bool num_scale(uint64_t w, int64_t e, double *value)
{
    if (w >> 53 == 0 && e >= -22 && e <= 22) {
        *value = e < 0 ? (double)w / num_exact_tens[-e] : (double)w * num_exact_tens[e];
        return true;
    }
    if (w == 0) {
        *value = 0;
        return true;
    }
    if (e <= -NUM_TENS || e >= NUM_TENS)
        return false;
    if (e < 0) {
        uint64_t ten = num_tens[-e];
        int up = __builtin_clzll(w), ten_up = __builtin_clzll(ten);
        __uint128_t over = (__uint128_t)(w << up) << 63;
        uint64_t below = ten << ten_up;
        uint64_t quotient = (uint64_t)(over / below); /* of numbers from 2^63 on: above 2^62, and below 2^64 */
        quotient |= over != (__uint128_t)quotient * below;
        *value = (double)quotient * num_two_to(ten_up - up - 63);
        return true;
    }
    __uint128_t product = (__uint128_t)w * num_tens[e];
    uint64_t high = (uint64_t)(product >> 64), low = (uint64_t)product;
    if (high == 0) {
        *value = (double)low;
        return true;
    }
    int up = __builtin_clzll(high);
    uint64_t top = (uint64_t)(product << up >> 64);
    top |= low << up != 0;
    *value = (double)top * num_two_to(64 - up);
    return true;
}

/* By the C library, whose strtod is correctly rounded in glibc and musl, with a point whatever the locale says. */
static __attribute__((noinline)) bool num_read_double_slowly(const uint8_t *p, size_t n, double *value)
{
    static _Atomic(locale_t) c_locale; /* made once, kept for ever */
    char small[128], *text = n < sizeof small ? small : malloc(n + 1);
    if (text == NULL)
        return false;
    memcpy(text, p, n);
    text[n] = 0;
    locale_t locale = atomic_load_explicit(&c_locale, memory_order_acquire);
    if (locale == NULL) {
        locale_t mine = newlocale(LC_ALL_MASK, "C", NULL);
        if (mine != NULL && atomic_compare_exchange_strong(&c_locale, &locale, mine))
            locale = mine;
        else if (mine != NULL)
            freelocale(mine);
    }
    *value = locale != NULL ? strtod_l(text, NULL, locale) : strtod(text, NULL);
    if (text != small)
        free(text);
    return true;
}

/* Any decimal number that num_check_float takes, digit by digit. */
static inline bool num_read_double_general(const uint8_t *p, size_t n, double *value)
{
    size_t i = *p == '-';
    uint64_t w = 0, digits = 0;
    int64_t e = 0;
    bool point = false;
    for (; i < n; i++) {
        uint64_t d = (uint64_t)p[i] - '0';
        if (d <= 9) {
            digits += w != 0 || d != 0;
            if (digits > 19)
                return num_read_double_slowly(p, n, value);
            w = w * 10 + d;
            e -= point;
        } else if (p[i] == '.') {
            point = true;
        } else {
            break;
        }
    }
    if (i < n) { /* e or E */
        bool negative = p[++i] == '-';
        int64_t exponent = 0;
        for (i += negative || p[i] == '+'; i < n && exponent < 100000; i++)
            exponent = exponent * 10 + (p[i] - '0');
        e += negative ? -exponent : exponent;
    }
    double v;
    if (!num_scale(w, e, &v))
        return num_read_double_slowly(p, n, value);
    *value = *p == '-' ? -v : v;
    return true;
}

/* Reads p[0..n), a number whose form and range num_check_float has found good, correctly rounded. False without memory
 * for one of more than 127 bytes. Reads up to PORT_PADDING behind p. */
static inline bool num_read_double(const uint8_t *p, size_t n, double *value)
{
    /* Up to 7 digits, a point, up to 7 digits: what most clients send, two words without a loop. */
    const uint64_t all = UINT64_C(0x8080808080808080);
    size_t start = *p == '-', left = n - start;
    const uint8_t *whole = p + start;
    uint64_t first = port_load64(whole);
    uint64_t stops = num_nondigits8(first) | (left < 8 ? all << 8 * left : 0);
    uint32_t k = stops ? (uint32_t)__builtin_ctzll(stops) >> 3 : 8;
    if (likely(k < 8 && k > 0)) {
        uint64_t w = num_digits8(first << (64 - 8 * k));
        if (k == left) {
            *value = start ? -(double)w : (double)w;
            return true;
        }
        if (likely(whole[k] == '.')) {
            uint64_t second = port_load64(whole + k + 1);
            left -= k + 1;
            stops = num_nondigits8(second) | (left < 8 ? all << 8 * left : 0);
            uint32_t m = stops ? (uint32_t)__builtin_ctzll(stops) >> 3 : 8;
            if (likely(m == left && m > 0)) { /* 15 digits at most */
                w = w * num_tens[m] + num_digits8(m == 8 ? second : second << (64 - 8 * m));
                double v = (double)w / num_exact_tens[m];
                *value = start ? -v : v;
                return true;
            }
        }
    }
    return num_read_double_general(p, n, value);
}

#endif
