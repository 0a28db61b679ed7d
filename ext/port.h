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

/* n < 8 bytes, and zeros above them: no call of memcpy, whose length the compiler would not know. */
static inline uint64_t port_load_short(const uint8_t *p, size_t n)
{
    if (n >= 4)
        return port_load32(p) | (uint64_t)port_load32(p + n - 4) << (8 * (n - 4));
    if (n == 0)
        return 0;
    return p[0] | (uint64_t)p[n / 2] << (8 * (n / 2)) | (uint64_t)p[n - 1] << (8 * (n - 1));
}

/* Whether n >= 1 bytes are the same; reads up to 7 bytes behind them. */
static inline bool port_equal(const uint8_t *p, const uint8_t *q, size_t n)
{
    size_t i = 0;
    for (; i + 8 < n; i += 8)
        if (port_load64(p + i) != port_load64(q + i))
            return false;
    return (port_load64(p + i) ^ port_load64(q + i)) << (64 - 8 * (n - i)) == 0;
}

/* 16 bytes that go through one register. */
typedef uint8_t port_16_t __attribute__((vector_size(16)));

/* Copies n bytes in steps of 32. May read and write up to 31 bytes too far: both sides need PORT_PADDING. */
static inline void port_copy(uint8_t *restrict to, const uint8_t *restrict from, size_t n)
{
    size_t i = 0;
    do {
        port_16_t first, second; /* one array of 32 bytes would go through memory */
        memcpy(&first, from + i, 16);
        memcpy(&second, from + i + 16, 16);
        memcpy(to + i, &first, 16);
        memcpy(to + i + 16, &second, 16);
        i += 32;
    } while (i < n);
}

/* Stores stay on their side of it, for whoever looks at what a process has left that was killed between two instructions.
 * Only the compiler could move them: what a processor has carried out, it has carried out. */
static inline void port_in_order(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

/* A note of a byte: where it is, a mark that it is one, the byte. */
#define PORT_LENT_SHIFT 9
#define PORT_LENT 256u

/* Notes the byte at p, which lies in the memory at `base`, before it is overwritten for a moment. */
static inline void port_lend(_Atomic uint64_t *note, const uint8_t *base, const uint8_t *p)
{
    atomic_store_explicit(note, (uint64_t)(p - base) << PORT_LENT_SHIFT | PORT_LENT | *p, memory_order_relaxed);
    port_in_order();
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
