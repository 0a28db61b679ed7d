/* How many different members a set has: exactly while they are few, then by HyperLogLog.
 *
 * Members are kept as 64-bit hashes. Above MEMBERS_EXACT_MAX they go into 2^14 registers: a standard error of
 * 1.04 / sqrt(2^14) = 0.81 %. The estimate is Ertl's, which needs no tables and no corrections
 * ("New cardinality estimation algorithms for HyperLogLog sketches", arXiv:1702.01284, section 2.3).
 */
#ifndef PENSTOCK_MEMBERS_H
#define PENSTOCK_MEMBERS_H

#include <math.h>
#include <stdlib.h>

#include "port.h"

#define MEMBERS_EXACT_MAX 1024u
#define MEMBERS_BITS 14
#define MEMBERS_REGISTERS (1u << MEMBERS_BITS)

typedef struct members {
    struct members *next; /* in a pool */
    uint64_t *hashes;     /* owned: open addressing, 0 free */
    uint32_t count, room; /* room: a power of two */
    uint8_t *registers;   /* owned; NULL while exact */
} members_t;

/* Spreads a hash over all its bits: registers are chosen by the upper ones, ranks come from the others. */
static inline uint64_t members_spread(uint64_t hash)
{
    hash ^= hash >> 32;
    hash *= UINT64_C(0xD6E8FEB86659FD93);
    hash ^= hash >> 32;
    hash *= UINT64_C(0xD6E8FEB86659FD93);
    return hash ^ hash >> 32;
}

static inline void members_register(members_t *m, uint64_t hash)
{
    uint32_t at = (uint32_t)(hash >> (64 - MEMBERS_BITS));
    uint64_t rest = hash << MEMBERS_BITS;
    uint8_t rank = rest ? (uint8_t)(__builtin_clzll(rest) + 1) : 64 - MEMBERS_BITS + 1;
    if (m->registers[at] < rank)
        m->registers[at] = rank;
}

/* Adds a hash to the exact table, which has room. */
static inline bool members_put(members_t *m, uint64_t hash)
{
    uint32_t at = (uint32_t)hash & (m->room - 1);
    while (m->hashes[at] != 0) {
        if (m->hashes[at] == hash)
            return false;
        at = (at + 1) & (m->room - 1);
    }
    m->hashes[at] = hash;
    return true;
}

/* Adds a member by its hash. Without memory it is left out. */
static inline void members_add(members_t *m, uint64_t hash)
{
    hash += hash == 0;
    if (m->registers != NULL) {
        members_register(m, hash);
        return;
    }
    if (m->count * 2 >= m->room) {
        uint32_t old_room = m->room, room = old_room ? 2 * old_room : 16;
        uint64_t *old = m->hashes;
        if (m->count >= MEMBERS_EXACT_MAX) {
            uint32_t at = (uint32_t)hash & (m->room - 1);
            for (; m->hashes[at] != 0; at = (at + 1) & (m->room - 1))
                if (m->hashes[at] == hash)
                    return;
            m->registers = calloc(1, MEMBERS_REGISTERS);
            if (m->registers == NULL)
                return;
            for (uint32_t i = 0; i < m->room; i++)
                if (m->hashes[i] != 0)
                    members_register(m, m->hashes[i]);
            members_register(m, hash);
            free(m->hashes);
            m->hashes = NULL;
            m->count = m->room = 0;
            return;
        }
        uint64_t *hashes = calloc(room, sizeof *hashes);
        if (hashes == NULL)
            return;
        m->hashes = hashes;
        m->room = room;
        for (uint32_t i = 0; i < old_room; i++)
            if (old[i] != 0)
                members_put(m, old[i]);
        free(old);
    }
    m->count += members_put(m, hash);
}

static inline void members_merge(members_t *m, const members_t *from)
{
    for (uint32_t i = 0; i < from->room; i++)
        if (from->hashes[i] != 0)
            members_add(m, from->hashes[i]);
    if (from->registers == NULL)
        return;
    if (m->registers == NULL) {
        m->registers = calloc(1, MEMBERS_REGISTERS);
        if (m->registers == NULL)
            return;
        for (uint32_t i = 0; i < m->room; i++)
            if (m->hashes[i] != 0)
                members_register(m, m->hashes[i]);
        free(m->hashes);
        m->hashes = NULL;
        m->count = m->room = 0;
    }
    for (uint32_t i = 0; i < MEMBERS_REGISTERS; i++)
        if (m->registers[i] < from->registers[i])
            m->registers[i] = from->registers[i];
}

static inline double members_sigma(double x)
{
    if (x == 1)
        return INFINITY;
    double y = 1, z = x, before;
    do {
        x *= x;
        before = z;
        z += x * y;
        y += y;
    } while (z != before);
    return z;
}

static inline double members_tau(double x)
{
    if (x == 0 || x == 1)
        return 0;
    double y = 1, z = 1 - x, before;
    do {
        x = sqrt(x);
        before = z;
        y *= 0.5;
        z -= (1 - x) * (1 - x) * y;
    } while (z != before);
    return z / 3;
}

static inline uint64_t members_count(const members_t *m)
{
    if (m->registers == NULL)
        return m->count;
    enum { Q = 64 - MEMBERS_BITS };
    uint32_t counts[Q + 2] = {0};
    for (uint32_t i = 0; i < MEMBERS_REGISTERS; i++)
        counts[m->registers[i]]++;
    double registers = MEMBERS_REGISTERS, z = registers * members_tau(1 - counts[Q + 1] / registers);
    for (int k = Q; k >= 1; k--)
        z = 0.5 * (z + counts[k]);
    z += registers * members_sigma(counts[0] / registers);
    return (uint64_t)(registers * registers / (2 * log(2) * z) + 0.5);
}

/* Forgets the members; a small table is kept. */
static inline void members_reset(members_t *m)
{
    free(m->registers);
    m->registers = NULL;
    if (m->room > 256) {
        free(m->hashes);
        m->hashes = NULL;
        m->room = 0;
    } else if (m->room) {
        memset(m->hashes, 0, m->room * sizeof *m->hashes);
    }
    m->count = 0;
}

static inline size_t members_bytes(const members_t *m)
{
    return sizeof *m + m->room * sizeof *m->hashes + (m->registers ? MEMBERS_REGISTERS : 0);
}

static inline void members_free(members_t *m)
{
    free(m->hashes);
    free(m->registers);
    free(m);
}

#endif
