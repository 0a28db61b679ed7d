/* Hashes of text: seeded, so that nobody can choose what collides, and fixed, so that every process finds the same.
 *
 * Sixteen bytes are taken by one multiplication of 64 by 64 bits, whose halves are folded onto each other. Two such streams
 * run side by side, so that the processor need not wait for a product before it begins the next one. All four constants
 * belong to the key: with public ones text could be written whose words cancel out a factor, whatever the seed.
 */
#ifndef PENSTOCK_MIX_H
#define PENSTOCK_MIX_H

#include <sys/random.h>

#include "port.h"

#define MIX_BEHIND 15u /* bytes that mix_bytes may read behind the text */

typedef struct {
    uint64_t k[4];
} mix_key_t;

/* For what must be the same in every process, version and machine: which output a series belongs to. Never to be changed.
 * The digits of pi behind the point, as Blowfish has them. */
static const mix_key_t mix_fixed = {
    {UINT64_C(0x243F6A8885A308D3), UINT64_C(0x13198A2E03707344), UINT64_C(0xA4093822299F31D0), UINT64_C(0x082EFA98EC4E6C89)}};

/* A key that nobody can know. False if the system has no random numbers to give (before it has any, it waits). */
static inline bool mix_key_draw(mix_key_t *key)
{
    return getrandom(key->k, sizeof key->k, 0) == (ssize_t)sizeof key->k;
}

/* Both halves of a product, folded. */
static inline uint64_t mix_fold(uint64_t a, uint64_t b)
{
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* The first n bytes at p as two words, 1 <= n <= 16; what lies behind them is read, but does not count. */
static inline void mix_load(const uint8_t *p, uint32_t n, uint64_t *low, uint64_t *high)
{
    *low = port_load64(p) & ~UINT64_C(0) >> (n < 8 ? 64 - 8 * n : 0);
    *high = n > 8 ? port_load64(p + 8) & ~UINT64_C(0) >> (128 - 8 * n) : 0;
}

/* Mixes n bytes into h, a hash or any number that tells apart what is hashed. Reads up to MIX_BEHIND bytes behind them. */
static inline uint64_t mix_bytes(const mix_key_t *key, uint64_t h, const uint8_t *p, uint32_t n)
{
    uint64_t a = h ^ key->k[0], b = h ^ key->k[1], low = 0, high = 0;
    uint32_t left = n;
    for (; left > 32; left -= 32, p += 32) {
        a = mix_fold(port_load64(p) ^ key->k[2], port_load64(p + 8) ^ a);
        b = mix_fold(port_load64(p + 16) ^ key->k[3], port_load64(p + 24) ^ b);
    }
    if (left > 16) {
        a = mix_fold(port_load64(p) ^ key->k[2], port_load64(p + 8) ^ a);
        p += 16;
        left -= 16;
    }
    if (likely(left))
        mix_load(p, left, &low, &high);
    b = mix_fold(low ^ key->k[3], high ^ b);
    return mix_fold(a ^ key->k[1], b ^ key->k[2] ^ n);
}

/* Another hash of the same kind, for what is 16 bytes long as a rule: its last 16 are read again, whatever went before, where
 * mix_bytes masks what is left. */
static inline uint64_t mix_long(const mix_key_t *key, uint64_t h, const uint8_t *p, uint32_t n)
{
    if (unlikely(n < 16))
        return mix_bytes(key, h, p, n);
    uint64_t a = h ^ key->k[0], b = h ^ key->k[1];
    const uint8_t *last = p + n - 16;
    uint32_t left = n;
    for (; left > 32; left -= 32, p += 32) {
        a = mix_fold(port_load64(p) ^ key->k[2], port_load64(p + 8) ^ a);
        b = mix_fold(port_load64(p + 16) ^ key->k[3], port_load64(p + 24) ^ b);
    }
    if (left > 16)
        a = mix_fold(port_load64(p) ^ key->k[2], port_load64(p + 8) ^ a);
    b = mix_fold(port_load64(last) ^ key->k[3], port_load64(last + 8) ^ b);
    return mix_fold(a ^ key->k[1], b ^ key->k[2] ^ n);
}

/* Of a key and its value, with the border between them. Sums of these are the same whatever the order of the pairs. */
static inline uint64_t mix_pair(const mix_key_t *key, const uint8_t *name, uint32_t name_length, const uint8_t *value,
                                uint32_t value_length)
{
    return mix_bytes(key, mix_bytes(key, key->k[2], name, name_length), value, value_length);
}

#endif
