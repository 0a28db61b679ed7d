/* Mutated inputs for tests that have no fuzzer: a fixed sequence of random numbers, and small changes to bytes. */
#ifndef PENSTOCK_MUTATE_H
#define PENSTOCK_MUTATE_H

#include <stdint.h>
#include <string.h>

static uint64_t mutate_state = 0x2545F4914F6CDD1D;

static inline uint32_t mutate_below(uint32_t n)
{
    mutate_state ^= mutate_state << 13;
    mutate_state ^= mutate_state >> 7;
    mutate_state ^= mutate_state << 17;
    return (uint32_t)((mutate_state >> 33) % n);
}

/* Changes, takes out, puts in or repeats a few bytes; `bytes` are those that are put in. p has room for 64 more. */
static inline void mutate(uint8_t *p, uint32_t *n, const char *bytes, uint32_t byte_count)
{
    uint32_t at = *n ? mutate_below(*n) : 0;
    switch (mutate_below(4)) {
    case 0:
        p[at] = (uint8_t)bytes[mutate_below(byte_count)];
        break;
    case 1:
        if (*n > 1) {
            uint32_t cut = 1 + mutate_below(*n - at < 9 ? *n - at : 9);
            memmove(p + at, p + at + cut, *n - at - cut);
            *n -= cut;
        }
        break;
    case 2:
        memmove(p + at + 1, p + at, *n - at);
        p[at] = (uint8_t)bytes[mutate_below(byte_count)];
        ++*n;
        break;
    default:
        if (*n > 0) {
            uint32_t piece = 1 + mutate_below(*n - at < 40 ? *n - at : 40);
            memmove(p + at + piece, p + at, *n - at);
            *n += piece;
        }
    }
}

#endif
