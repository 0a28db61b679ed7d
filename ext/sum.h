/* The checksum of a run: tells one that came through whole from one that did not.
 *
 * It is no defence against somebody who wants to deceive, only against pages that were lost, cut, swapped or
 * written over; and it must cost next to nothing beside reading the same bytes.
 *
 * The bytes are taken as signed words of 16 bits, 16 to a step of 32 bytes, eight steps to a block; the last step is
 * filled up with zeros. Steps go by turns to two rows of eight lanes of 32 bits, whose arithmetic wraps:
 *
 *     step:     lane[i] += word[2i] * key[2i] + word[2i + 1] * key[2i + 1]       another 16 keys for each step of a block
 *     block:    lane[i] *= 5                                                     after each whole one
 *
 * That is one instruction of multiplying and one of adding for 32 bytes. A word that changes is always noticed, since
 * no key is zero; words that change places are, since their keys differ, or the powers of 5; and for anything larger
 * to pass, every lane that it touches would have to come out the same by chance, one in 2^32 for each. At the end
 * the lanes, the length and what the caller gives as a seed are brought together by odd multipliers.
 *
 * Three kernels give the same sum: a scalar one, one for SSE2, which every x86-64 has, and one for AVX2. The last takes
 * 75 GB/s from the caches of a Xeon.
 */
#ifndef PENSTOCK_SUM_H
#define PENSTOCK_SUM_H

#include "scan.h"

#define SUM_STEP 32u                        /* bytes */
#define SUM_STEPS 8u                        /* of a block */
#define SUM_BLOCK (SUM_STEP * SUM_STEPS)    /* bytes */
#define SUM_LANES 16u
#define SUM_MULTIPLIER UINT64_C(0x9E3779B97F4A7C15) /* odd, its bits without order: 2^64 by the golden ratio */

/* Odd numbers without order, all different: the multiples of SUM_MULTIPLIER, their upper 16 bits made odd. */
#define SUM_KEY(n) ((int16_t)((uint16_t)(((n) + 1) * SUM_MULTIPLIER >> 48) | 1))
#define SUM_KEYS4(n) SUM_KEY(n), SUM_KEY((n) + 1), SUM_KEY((n) + 2), SUM_KEY((n) + 3)
#define SUM_KEYS16(n) SUM_KEYS4(n), SUM_KEYS4((n) + 4), SUM_KEYS4((n) + 8), SUM_KEYS4((n) + 12)
static const _Alignas(CACHE_LINE) int16_t sum_keys[SUM_STEPS][16] = {
    {SUM_KEYS16(0)},  {SUM_KEYS16(16)}, {SUM_KEYS16(32)}, {SUM_KEYS16(48)},
    {SUM_KEYS16(64)}, {SUM_KEYS16(80)}, {SUM_KEYS16(96)}, {SUM_KEYS16(112)},
};

/* Sums n bytes up in lanes, which were set to zero before the first of them. May be done in parts, all of which but the
 * last are whole blocks. PORT_PADDING must be readable behind the bytes. */
typedef void (*sum_lanes_fn)(uint32_t lanes[SUM_LANES], const uint8_t *p, uint64_t n);

static inline void sum_step_scalar(uint32_t *lanes, const uint8_t *p, uint32_t step)
{
    const int16_t *key = sum_keys[step];
    uint32_t *row = lanes + 8 * (step & 1);
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t words = port_load32(p + 4 * i);
        row[i] += (uint32_t)((int16_t)words * key[2 * i]) + (uint32_t)((int16_t)(words >> 16) * key[2 * i + 1]);
    }
}

static inline void sum_lanes_scalar(uint32_t lanes[SUM_LANES], const uint8_t *p, uint64_t n)
{
    for (; n >= SUM_BLOCK; n -= SUM_BLOCK, p += SUM_BLOCK) {
        for (uint32_t step = 0; step < SUM_STEPS; step++)
            sum_step_scalar(lanes, p + SUM_STEP * step, step);
        for (uint32_t i = 0; i < SUM_LANES; i++)
            lanes[i] *= 5;
    }
    uint32_t step = 0;
    for (; n >= SUM_STEP; n -= SUM_STEP, p += SUM_STEP)
        sum_step_scalar(lanes, p, step++);
    if (n) {
        uint8_t last[SUM_STEP] = {0};
        memcpy(last, p, n);
        sum_step_scalar(lanes, last, step);
    }
}

#if defined(__x86_64__)

/* SUM_STEP ones and as many zeros: what lies n before the middle keeps the first n bytes of a step, and no other. A copy
 * into zeros would be waited for by the load that follows it. */
static const _Alignas(CACHE_LINE) uint8_t sum_mask[2 * SUM_STEP] = {
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
};

static inline void sum_step_sse2(__m128i row[2], __m128i first, __m128i second, uint32_t step)
{
    const __m128i *keys = (const __m128i *)sum_keys[step];
    row[0] = _mm_add_epi32(row[0], _mm_madd_epi16(first, _mm_load_si128(keys)));
    row[1] = _mm_add_epi32(row[1], _mm_madd_epi16(second, _mm_load_si128(keys + 1)));
}

static inline __m128i sum_load_sse2(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

static inline void sum_lanes_sse2(uint32_t lanes[SUM_LANES], const uint8_t *p, uint64_t n)
{
    __m128i rows[2][2];
    memcpy(rows, lanes, sizeof rows);
    for (; n >= SUM_BLOCK; n -= SUM_BLOCK, p += SUM_BLOCK) {
        for (uint32_t step = 0; step < SUM_STEPS; step++)
            sum_step_sse2(rows[step & 1], sum_load_sse2(p + SUM_STEP * step), sum_load_sse2(p + SUM_STEP * step + 16), step);
        for (uint32_t i = 0; i < 4; i++)
            rows[i / 2][i % 2] = _mm_add_epi32(rows[i / 2][i % 2], _mm_slli_epi32(rows[i / 2][i % 2], 2));
    }
    uint32_t step = 0;
    for (; n >= SUM_STEP; n -= SUM_STEP, p += SUM_STEP, step++)
        sum_step_sse2(rows[step & 1], sum_load_sse2(p), sum_load_sse2(p + 16), step);
    if (n) {
        const uint8_t *mask = sum_mask + SUM_STEP - n;
        __m128i first = _mm_and_si128(sum_load_sse2(p), sum_load_sse2(mask));
        __m128i second = _mm_and_si128(sum_load_sse2(p + 16), sum_load_sse2(mask + 16));
        sum_step_sse2(rows[step & 1], first, second, step);
    }
    memcpy(lanes, rows, sizeof rows);
}

__attribute__((target("avx2"))) static inline __m256i sum_load_avx2(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

__attribute__((target("avx2"))) static inline __m256i sum_step_avx2(__m256i words, uint32_t step)
{
    return _mm256_madd_epi16(words, _mm256_load_si256((const __m256i *)sum_keys[step]));
}

__attribute__((target("avx2"))) static inline void sum_lanes_avx2(uint32_t lanes[SUM_LANES], const uint8_t *p, uint64_t n)
{
    __m256i even = _mm256_loadu_si256((const __m256i *)lanes), odd = _mm256_loadu_si256((const __m256i *)lanes + 1);
    for (; n >= SUM_BLOCK; n -= SUM_BLOCK, p += SUM_BLOCK) {
        for (uint32_t step = 0; step < SUM_STEPS; step += 2) {
            even = _mm256_add_epi32(even, sum_step_avx2(sum_load_avx2(p + SUM_STEP * step), step));
            odd = _mm256_add_epi32(odd, sum_step_avx2(sum_load_avx2(p + SUM_STEP * (step + 1)), step + 1));
        }
        even = _mm256_add_epi32(even, _mm256_slli_epi32(even, 2));
        odd = _mm256_add_epi32(odd, _mm256_slli_epi32(odd, 2));
    }
    uint32_t step = 0;
    for (; n >= 2 * SUM_STEP; n -= 2 * SUM_STEP, p += 2 * SUM_STEP, step += 2) {
        even = _mm256_add_epi32(even, sum_step_avx2(sum_load_avx2(p), step));
        odd = _mm256_add_epi32(odd, sum_step_avx2(sum_load_avx2(p + SUM_STEP), step + 1));
    }
    if (n >= SUM_STEP) {
        even = _mm256_add_epi32(even, sum_step_avx2(sum_load_avx2(p), step++));
        n -= SUM_STEP;
        p += SUM_STEP;
    }
    if (n) {
        __m256i mask = sum_load_avx2(sum_mask + SUM_STEP - n);
        __m256i products = sum_step_avx2(_mm256_and_si256(sum_load_avx2(p), mask), step);
        if (step & 1)
            odd = _mm256_add_epi32(odd, products);
        else
            even = _mm256_add_epi32(even, products);
    }
    _mm256_storeu_si256((__m256i *)lanes, even);
    _mm256_storeu_si256((__m256i *)lanes + 1, odd);
}

#else

static inline void sum_lanes_sse2(uint32_t lanes[SUM_LANES], const uint8_t *p, uint64_t n)
{
    sum_lanes_scalar(lanes, p, n);
}

static inline void sum_lanes_avx2(uint32_t lanes[SUM_LANES], const uint8_t *p, uint64_t n)
{
    sum_lanes_scalar(lanes, p, n);
}

#endif

/* The fastest kernel of this processor. */
static inline sum_lanes_fn sum_lanes_best(void)
{
    return scan_has_avx2() ? sum_lanes_avx2 : sum_lanes_sse2;
}

/* Takes one more number into h; with the same h, different numbers give different results. */
static inline uint64_t sum_mix(uint64_t h, uint64_t number)
{
    h = (h ^ number) * SUM_MULTIPLIER;
    return h ^ h >> 32;
}

/* The sum of the n bytes that were summed up in lanes. */
static inline uint64_t sum_finish(const uint32_t lanes[SUM_LANES], uint64_t n, uint64_t seed)
{
    uint64_t h = n;
    for (uint32_t i = 0; i < SUM_LANES; i += 2)
        h += ((uint64_t)lanes[i] << 32 | lanes[i + 1]) * (SUM_MULTIPLIER + 2 * i);
    return sum_mix(sum_mix(seed, h), SUM_MULTIPLIER);
}

/* The sum of n bytes. */
static inline uint64_t sum_bytes(sum_lanes_fn sum_lanes, const uint8_t *p, uint64_t n, uint64_t seed)
{
    _Alignas(CACHE_LINE) uint32_t lanes[SUM_LANES] = {0};
    sum_lanes(lanes, p, n);
    return sum_finish(lanes, n, seed);
}

#endif
