/* The checksum of a run: tells one that came through whole from one that did not.
 *
 * It is no defence against somebody who wants to deceive, only against pages that were lost, cut, swapped or
 * written over; and it must cost next to nothing beside reading the same bytes.
 *
 * The bytes are taken as little-endian words of 64 bits, eight to a block, the last block filled up with zeros.
 * For lane i (0 to 7) of block b, with a key that is another one in each lane and each block:
 *
 *     y = word + key, by halves of 32 bits          lane += low(y) * high(y)          key += SUM_STEP
 *
 * The product makes a lane depend on where a word stands, so words that change places are noticed, and zeros count.
 * (Products of halves with keys added are the NH of Black, Halevi, Krawczyk, Krovetz, Rogaway, "UMAC", 1999; the
 * rest is our own.) A changed half of a word goes unnoticed where the other half makes the product zero, by a chance of
 * one in 2^32. At the end the lanes, the length and what the caller gives as a seed are mixed by multiplications.
 *
 * Two kernels give the same sum: a scalar one, and one for AVX2. From the caches of a Xeon with 2 MiB of L2 a core they
 * take 8.6 and 44 GB/s: 14 and 2.7 ns for a line of 117 bytes.
 */
#ifndef PENSTOCK_SUM_H
#define PENSTOCK_SUM_H

#include "scan.h"

#define SUM_LANES 8u
#define SUM_BLOCK (SUM_LANES * 8u)                  /* bytes */
#define SUM_STEP UINT64_C(0x9E3779B97F4A7C15)       /* odd, its bits without order: 2^64 by the golden ratio */
#define SUM_MULTIPLIER UINT64_C(0xD1B54A32D192ED03) /* odd: 2^64 by the plastic number, squared */

typedef struct {
    uint64_t lane[SUM_LANES];
    uint64_t key[SUM_LANES];
} sum_state_t;

/* Takes `blocks` whole blocks. */
typedef void (*sum_blocks_fn)(sum_state_t *s, const uint8_t *p, uint64_t blocks);

static inline void sum_blocks_scalar(sum_state_t *s, const uint8_t *p, uint64_t blocks)
{
    for (; blocks > 0; blocks--, p += SUM_BLOCK)
        for (uint32_t i = 0; i < SUM_LANES; i++) {
            uint64_t word = port_load64(p + 8 * i), key = s->key[i];
            uint64_t low = (uint32_t)((uint32_t)word + (uint32_t)key);
            uint64_t high = (uint32_t)((uint32_t)(word >> 32) + (uint32_t)(key >> 32));
            s->lane[i] += low * high;
            s->key[i] = key + SUM_STEP;
        }
}

#if defined(__x86_64__)

__attribute__((target("avx2"))) static inline void sum_blocks_avx2(sum_state_t *s, const uint8_t *p, uint64_t blocks)
{
    const __m256i step = _mm256_set1_epi64x((long long)SUM_STEP);
    __m256i lane0 = _mm256_loadu_si256((const __m256i *)s->lane);
    __m256i lane1 = _mm256_loadu_si256((const __m256i *)s->lane + 1);
    __m256i key0 = _mm256_loadu_si256((const __m256i *)s->key);
    __m256i key1 = _mm256_loadu_si256((const __m256i *)s->key + 1);
    for (; blocks > 0; blocks--, p += SUM_BLOCK) {
        __m256i y0 = _mm256_add_epi32(_mm256_loadu_si256((const __m256i *)p), key0);
        __m256i y1 = _mm256_add_epi32(_mm256_loadu_si256((const __m256i *)p + 1), key1);
        /* Halves are exchanged by a shuffle: a shift would compete with the product for the same units. */
        lane0 = _mm256_add_epi64(lane0, _mm256_mul_epu32(y0, _mm256_shuffle_epi32(y0, 0xB1)));
        lane1 = _mm256_add_epi64(lane1, _mm256_mul_epu32(y1, _mm256_shuffle_epi32(y1, 0xB1)));
        key0 = _mm256_add_epi64(key0, step);
        key1 = _mm256_add_epi64(key1, step);
    }
    _mm256_storeu_si256((__m256i *)s->lane, lane0);
    _mm256_storeu_si256((__m256i *)s->lane + 1, lane1);
    _mm256_storeu_si256((__m256i *)s->key, key0);
    _mm256_storeu_si256((__m256i *)s->key + 1, key1);
}

#else

static inline void sum_blocks_avx2(sum_state_t *s, const uint8_t *p, uint64_t blocks)
{
    sum_blocks_scalar(s, p, blocks);
}

#endif

/* Takes one more number into h; different numbers give different results. */
static inline uint64_t sum_mix(uint64_t h, uint64_t number)
{
    h = (h ^ number) * SUM_MULTIPLIER;
    return h ^ h >> 32;
}

/* The sum of n bytes. */
static inline uint64_t sum_bytes(sum_blocks_fn blocks, const uint8_t *p, uint64_t n, uint64_t seed)
{
    sum_state_t s;
    for (uint32_t i = 0; i < SUM_LANES; i++) {
        s.lane[i] = 0;
        s.key[i] = (i + 1) * SUM_MULTIPLIER;
    }
    uint64_t rest = n % SUM_BLOCK;
    if (n >= SUM_BLOCK)
        blocks(&s, p, n / SUM_BLOCK);
    if (rest) {
        uint8_t last[SUM_BLOCK] = {0};
        memcpy(last, p + (n - rest), rest);
        sum_blocks_scalar(&s, last, 1);
    }
    uint64_t h = sum_mix(seed, n);
    for (uint32_t i = 0; i < SUM_LANES; i++)
        h = sum_mix(h, s.lane[i]);
    return sum_mix(h, SUM_STEP);
}

#endif
