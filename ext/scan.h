/* Finds the bytes that mean something in line protocol: the first of the reader's two steps.
 *
 * scan_index writes the positions of all "marks" in a block of text. Marks are
 *
 *     , = SPACE " \ DEL     all control characters (LF among them)     all bytes from 0x80
 *
 * A line in which the second step meets only `,` `=` SPACE LF where it expects them needs no closer look at
 * its other bytes: they are printable ASCII without quotes or escapes.
 *
 * Two kernels give the same positions: a scalar one, and one for AVX2 that classifies 32 bytes by two table
 * look-ups (low and high half of each byte, as described by Langdale and Lemire, "Parsing Gigabytes of JSON
 * per Second", 2019). The choice is made once, at import.
 */
#ifndef PENSTOCK_SCAN_H
#define PENSTOCK_SCAN_H

#include "port.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Positions that one call may write: one for each byte, and slack because a kernel writes eight at a time. */
#define SCAN_SLACK 64

/* p: n bytes, PORT_PADDING readable behind them. out: n + SCAN_SLACK places. Returns how many were found. */
typedef uint32_t (*scan_index_fn)(const uint8_t *p, uint32_t n, uint32_t *out);

static const uint8_t scan_mark[256] = {
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    [' '] = 1, ['"'] = 1, [','] = 1, ['='] = 1, ['\\'] = 1, [127] = 1,
    [128 ... 255] = 1,
};

static inline uint32_t scan_index_scalar(const uint8_t *p, uint32_t n, uint32_t *out)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i++) {
        out[found] = i; /* Written always, kept only if it is a mark: no branch to mispredict. */
        found += scan_mark[p[i]];
    }
    return found;
}

/* StatsD's marks: `:` `|` DEL, control characters, bytes from 0x80. */
static inline uint32_t scan_statsd_scalar(const uint8_t *p, uint32_t n, uint32_t *out)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i++) {
        out[found] = i;
        found += p[i] < 0x20 || p[i] >= 0x7F || p[i] == ':' || p[i] == '|';
    }
    return found;
}

#if defined(__x86_64__)

/* Positions of the set bits of one 64-byte block. Eight are written at a time: most blocks have fewer marks
 * than that, and a loop with a foreseeable count beats one that ends at each block somewhere else. */
__attribute__((target("avx2,bmi"))) static inline uint32_t *scan_positions(uint64_t bits, uint32_t base, uint32_t *out)
{
    uint32_t count = (uint32_t)__builtin_popcountll(bits);
    for (uint32_t i = 0; i < 8; i++) {
        out[i] = base + (uint32_t)_tzcnt_u64(bits);
        bits = _blsr_u64(bits);
    }
    if (count > 8) {
        for (uint32_t i = 8; i < 16; i++) {
            out[i] = base + (uint32_t)_tzcnt_u64(bits);
            bits = _blsr_u64(bits);
        }
        if (unlikely(count > 16))
            for (uint32_t i = 16; i < count; i++) {
                out[i] = base + (uint32_t)_tzcnt_u64(bits);
                bits = _blsr_u64(bits);
            }
    }
    return out + count;
}

/* What makes a byte a mark: the class bits of its low half and of its high half meet. */
typedef struct {
    uint8_t by_low[16], by_high[16];
} scan_classes_t;

/* 1: 0x00-0x1F and 0x80-0xFF (any low half)   2: 0x2_ with 0, 2, C   4: 0x3D   8: 0x5C   16: 0x7F */
static const scan_classes_t scan_line_classes = {
    {1 + 2, 1, 1 + 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 + 2 + 8, 1 + 4, 1, 1 + 16},
    {1, 1, 2, 4, 0, 8, 0, 16, 1, 1, 1, 1, 1, 1, 1, 1},
};

/* 1: as above   2: 0x3A   4: 0x7C   8: 0x7F */
static const scan_classes_t scan_statsd_classes = {
    {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 + 2, 1, 1 + 4, 1, 1, 1 + 8},
    {1, 1, 0, 2, 0, 0, 0, 4 + 8, 1, 1, 1, 1, 1, 1, 1, 1},
};

__attribute__((target("avx2"))) static inline uint32_t scan_marks32(const uint8_t *p, __m256i by_low, __m256i by_high)
{
    const __m256i nibble = _mm256_set1_epi8(0x0F);
    __m256i x = _mm256_loadu_si256((const __m256i *)p);
    __m256i low = _mm256_shuffle_epi8(by_low, _mm256_and_si256(x, nibble));
    __m256i high = _mm256_shuffle_epi8(by_high, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble));
    __m256i none = _mm256_cmpeq_epi8(_mm256_and_si256(low, high), _mm256_setzero_si256());
    return ~(uint32_t)_mm256_movemask_epi8(none);
}

__attribute__((target("avx2,bmi,popcnt"))) static inline uint32_t scan_index_classes(const scan_classes_t *classes, const uint8_t *p,
                                                                                     uint32_t n, uint32_t *out)
{
    const __m256i by_low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)classes->by_low));
    const __m256i by_high = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)classes->by_high));
    uint32_t *start = out;
    uint32_t i = 0;
    for (; i + 64 <= n; i += 64) {
        uint64_t bits = scan_marks32(p + i, by_low, by_high) | (uint64_t)scan_marks32(p + i + 32, by_low, by_high) << 32;
        out = scan_positions(bits, i, out);
    }
    if (i < n) {
        uint64_t bits = scan_marks32(p + i, by_low, by_high) | (uint64_t)scan_marks32(p + i + 32, by_low, by_high) << 32;
        bits &= (UINT64_C(1) << (n - i)) - 1;
        out = scan_positions(bits, i, out);
    }
    return (uint32_t)(out - start);
}

__attribute__((target("avx2,bmi,popcnt"))) static inline uint32_t scan_index_avx2(const uint8_t *p, uint32_t n, uint32_t *out)
{
    return scan_index_classes(&scan_line_classes, p, n, out);
}

__attribute__((target("avx2,bmi,popcnt"))) static inline uint32_t scan_statsd_avx2(const uint8_t *p, uint32_t n, uint32_t *out)
{
    return scan_index_classes(&scan_statsd_classes, p, n, out);
}

static inline bool scan_has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("popcnt");
}

#else

static inline uint32_t scan_index_avx2(const uint8_t *p, uint32_t n, uint32_t *out)
{
    return scan_index_scalar(p, n, out);
}

static inline uint32_t scan_statsd_avx2(const uint8_t *p, uint32_t n, uint32_t *out)
{
    return scan_statsd_scalar(p, n, out);
}

static inline bool scan_has_avx2(void)
{
    return false;
}

#endif
#endif
