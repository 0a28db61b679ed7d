/* A double as the shortest decimal text that reads back to it, and of those the one nearest to it.
 *
 * A decimal of up to 15 digits, which is what people and most sensors write, is found by scaling. All others go through
 * the algorithm of Raffaello Giulietti, "The Schubfach way to render doubles" (2020): one multiplication with a power of
 * ten of 126 bits or more for the value, and one for each end of the interval of what rounds to it, rounded to odd.
 */
#ifndef PENSTOCK_NUM_SHORTEST_H
#define PENSTOCK_NUM_SHORTEST_H

#include <math.h>

#include "num.h"
#include "num_powers.h"

/* Room for the longest text, `-0.000012345678901234567` or `-1.2345678901234567e-308`, and for copies that overshoot. */
#define NUM_SHORTEST_BYTES 40u

/* digits * 10^exponent; digits is 0 for zero only, and does not end in a zero. */
typedef struct {
    uint64_t digits;
    int32_t exponent;
} num_decimal_t;

static inline int32_t num_floor_log2_pow10(int32_t e)
{
    return (e * 1741647) >> 19;
}

/* The upper 64 bits of a product of 192, the lowest of them set if anything is behind them. */
static inline uint64_t num_round_to_odd(const uint64_t power[2], uint64_t factor)
{
    __uint128_t low = (__uint128_t)power[1] * factor;
    __uint128_t high = (__uint128_t)power[0] * factor + (uint64_t)(low >> 64);
    return (uint64_t)(high >> 64) | ((uint64_t)high > 1);
}

static inline num_decimal_t num_without_zeros(num_decimal_t d)
{
    while (d.digits % 100 == 0) {
        d.digits /= 100;
        d.exponent += 2;
    }
    if (d.digits % 10 == 0) {
        d.digits /= 10;
        d.exponent++;
    }
    return d;
}

/* The shortest decimal of a positive finite double, from its bits. */
static inline num_decimal_t num_schubfach(uint64_t bits)
{
    uint64_t fraction = bits & ((UINT64_C(1) << 52) - 1);
    int32_t biased = (int32_t)(bits >> 52);
    uint64_t c = biased ? fraction | UINT64_C(1) << 52 : fraction;
    int32_t q = (biased ? biased : 1) - 1075; /* the value is c * 2^q */
    bool even = (c & 1) == 0;
    bool closer = fraction == 0 && biased > 1; /* the next smaller double is only half as far as the next greater */
    int32_t k = (q * 1262611 - (closer ? 524031 : 0)) >> 22; /* floor of log10 of the interval's width */
    int32_t h = q + num_floor_log2_pow10(-k) + 1;
    const uint64_t *power = num_powers[-k - NUM_POWER_FIRST];
    uint64_t lower = num_round_to_odd(power, (4 * c - 2 + closer) << h);
    uint64_t value = num_round_to_odd(power, 4 * c << h);
    uint64_t upper = num_round_to_odd(power, (4 * c + 2) << h);
    lower += !even; /* the ends round to an even neighbour */
    upper -= !even;
    uint64_t s = value / 4;
    if (s >= 10) {
        uint64_t tens = s / 10;
        bool below = lower <= 40 * tens, above = 40 * tens + 40 <= upper;
        if (below != above)
            return num_without_zeros((num_decimal_t){tens + above, k + 1});
    }
    bool below = lower <= 4 * s, above = 4 * s + 4 <= upper;
    if (below != above)
        return num_without_zeros((num_decimal_t){s + above, k});
    uint64_t middle = 4 * s + 2;
    bool up = value > middle || (value == middle && (s & 1));
    return num_without_zeros((num_decimal_t){s + up, k});
}

/* Eight digits of v < 10^8 as bytes 0 to 9, the first in the lowest: halves are taken apart side by side. */
static inline uint64_t num_spread8(uint32_t v)
{
    uint64_t fours = v / 10000 | (uint64_t)(v % 10000) << 32;
    uint64_t hundreds = fours * 10486 >> 20 & UINT64_C(0x0000007F0000007F);
    uint64_t pairs = hundreds | (fours - 100 * hundreds) << 16;
    uint64_t tens = pairs * 103 >> 10 & UINT64_C(0x000F000F000F000F);
    return tens | (pairs - 10 * tens) << 8;
}

/* Writes digits / 10^places, which is no whole number; digits < 10^16, 5 <= places <= 15. Needs NUM_SHORTEST_BYTES.
 *
 *   0000123456700000        16 digits, places 10
 *         ^^^^              12.34567: zeros are left out at both ends, but one before the point stays
 */
static inline size_t num_write_places(uint8_t *to, uint64_t digits, uint32_t places)
{
    uint64_t first = num_spread8((uint32_t)(digits / 100000000)), last = num_spread8((uint32_t)(digits % 100000000));
    uint32_t zeros = first ? (uint32_t)__builtin_ctzll(first) / 8 : 8 + (uint32_t)__builtin_ctzll(last) / 8;
    uint32_t behind = last ? (uint32_t)__builtin_clzll(last) / 8 : 8 + (uint32_t)__builtin_clzll(first) / 8;
    const uint64_t ascii = UINT64_C(0x3030303030303030);
    __uint128_t text = (__uint128_t)(last | ascii) << 64 | (first | ascii);
    uint32_t whole = 16 - places; /* so many digits before the point, zeros among them */
    zeros = zeros < whole ? zeros : whole - 1;
    __uint128_t part = text >> 8 * zeros;
    memcpy(to, &part, 16);
    to += whole - zeros;
    *to = '.';
    part = text >> 8 * whole;
    memcpy(to + 1, &part, 16);
    return whole - zeros + 1 + places - behind;
}

/* Writes a finite double; returns the number of bytes. `to` has room for NUM_SHORTEST_BYTES, the text is 25 at most. Numbers
 * below 1e-5 and from 1e17 on have an exponent, without a plus, which not all take. */
static inline size_t num_write_shortest(uint8_t *to, double v)
{
    uint8_t *start = to;
    if (signbit(v)) {
        *to++ = '-';
        v = -v;
    }
    if (v < 1e15 && v == (double)(int64_t)v)
        return (size_t)(to - start) + num_write_u64(to, (uint64_t)v);
    /* digits / 10^places is rounded once, and correctly, as both are exact; among decimals of 15 digits at most there
     * is one that reads back to a double. */
    if (v >= 1e-3 && v < 1e10) {
        uint32_t places = v < 1 ? 15 : v < 1e5 ? 10 : 5;
        double ten = v < 1 ? 1e15 : v < 1e5 ? 1e10 : 1e5;
        int64_t digits = (int64_t)(v * ten + 0.5);
        if ((double)digits / ten == v)
            return (size_t)(to - start) + num_write_places(to, (uint64_t)digits, places);
    }
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    num_decimal_t d = num_schubfach(bits);
    uint8_t text[40] = {0}; /* 17 digits, and what copies of 16 bytes read behind them */
    int32_t n = (int32_t)num_write_u64(text, d.digits);
    int32_t point = n + d.exponent; /* digits before the point */
    if (point > 17 || point < -4) {
        *to++ = text[0];
        if (n > 1) {
            *to++ = '.';
            memcpy(to, text + 1, (size_t)n - 1);
            to += n - 1;
        }
        *to++ = 'e';
        to += num_write_i64(to, point - 1);
    } else if (point <= 0) {
        memcpy(to, "0.0000", 6);
        to += 2 - point;
        memcpy(to, text, (size_t)n);
        to += n;
    } else if (point >= n) {
        memcpy(to, text, (size_t)n);
        memset(to + n, '0', (size_t)(point - n));
        to += point;
    } else {
        memcpy(to, text, 16);
        to[point] = '.';
        memcpy(to + point + 1, text + point, 16);
        to += n + 1;
    }
    return (size_t)(to - start);
}

#endif
