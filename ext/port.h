/* What the compiler is asked for, in one place: branch hints, unaligned loads, counters with one writer. */
#ifndef PENSTOCK_PORT_H
#define PENSTOCK_PORT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define CACHE_LINE 64

/* Bytes that must be readable behind any input, and writable behind any output that was reserved. */
#define PORT_PADDING 64

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "penstock is written for little-endian machines (x86-64, aarch64)"
#endif

static inline uint64_t port_load64(const uint8_t *p)
{
    uint64_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline uint32_t port_load32(const uint8_t *p)
{
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* Copies n bytes in steps of 32. May read and write up to 31 bytes too far: both sides need PORT_PADDING. */
static inline void port_copy(uint8_t *restrict to, const uint8_t *restrict from, size_t n)
{
    size_t i = 0;
    do {
        uint8_t chunk[32];
        memcpy(chunk, from + i, 32);
        memcpy(to + i, chunk, 32);
        i += 32;
    } while (i < n);
}

/* A counter that one thread raises and any thread reads. A relaxed store is a plain store; the type keeps
 * the compiler from tearing or caching it. */
typedef _Atomic uint64_t counter_t;

static inline void counter_add(counter_t *c, uint64_t n)
{
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n, memory_order_relaxed);
}

static inline uint64_t counter_get(const counter_t *c)
{
    return atomic_load_explicit((counter_t *)c, memory_order_relaxed);
}

#endif
