/* What the book counts by, in tables of a fixed size: measurements, pairs of measurement and tag key, tags' values that
 * were seen, and the groups of series that count alike.
 *
 * Only hashes are kept. What comes when a table is full is counted together, as "other": TALLY_OTHER.
 */
#ifndef PENSTOCK_BOOK_TALLY_H
#define PENSTOCK_BOOK_TALLY_H

#include <stdlib.h>

#include "port.h"

#ifdef PENSTOCK_TEST
#define TALLY_MAX 512u
#define TALLY_GROUPS_MAX 2048u
#else
#define TALLY_MAX 65536u          /* measurements, and pairs */
#define TALLY_GROUPS_MAX 262144u
#endif
#define TALLY_OTHER 0u
#define TALLY_NONE UINT32_MAX

/* A measurement, a pair, or a group: found by its hash, known by its number. */
typedef struct {
    uint64_t hash;      /* 0: the number is free */
    uint64_t limits;    /* measurement: those whose glob takes it; group: those that its series count for, a bit each */
    uint32_t series;    /* measurement: of it; pair: charged to it; group: in it */
    uint32_t values[2]; /* pair: distinct values that were new in this window, and in the one before */
    uint32_t measurement, pair; /* group: numbers */
    uint32_t generation; /* measurement: of the limits that `limits` is about */
    bool needed;        /* a group of the book is for it; while it is cleaned up */
} tally_item_t;

typedef struct {
    tally_item_t *items; /* owned: item 0 is TALLY_OTHER */
    uint32_t *index;     /* owned: numbers by hash, 0 free; linear probing */
    uint32_t count, room, index_room, count_max;
    uint32_t free_count, free_from; /* numbers below count that are free; the first of them is not before */
} tally_t;

static inline void tally_close(tally_t *t)
{
    free(t->items);
    free(t->index);
    memset(t, 0, sizeof *t);
}

/* t: zeroed. False without memory; tally_close is due either way. */
static inline bool tally_open(tally_t *t, uint32_t count_max)
{
    t->count_max = count_max;
    t->count = 1;
    t->room = 64;
    t->index_room = 256;
    t->items = calloc(t->room, sizeof *t->items);
    t->index = calloc(t->index_room, sizeof *t->index);
    return t->items != NULL && t->index != NULL;
}

static inline uint64_t tally_bytes(const tally_t *t)
{
    return (uint64_t)t->room * sizeof *t->items + (uint64_t)t->index_room * sizeof *t->index;
}

/* The number of an item; TALLY_NONE if it is not there. hash: not 0. */
static inline uint32_t tally_find(const tally_t *t, uint64_t hash)
{
    for (uint32_t at = (uint32_t)(hash >> 32) & (t->index_room - 1);; at = (at + 1) & (t->index_room - 1)) {
        uint32_t number = t->index[at];
        if (number == 0)
            return TALLY_NONE;
        if (t->items[number].hash == hash)
            return number;
    }
}

static inline void tally_enter(tally_t *t, uint32_t number)
{
    uint32_t at = (uint32_t)(t->items[number].hash >> 32) & (t->index_room - 1);
    while (t->index[at] != 0)
        at = (at + 1) & (t->index_room - 1);
    t->index[at] = number;
}

static inline void tally_enter_all(tally_t *t)
{
    memset(t->index, 0, t->index_room * sizeof *t->index);
    for (uint32_t i = 1; i < t->count; i++)
        if (t->items[i].hash != 0)
            tally_enter(t, i);
}

static inline bool tally_grow(tally_t *t)
{
    tally_item_t *items = realloc(t->items, 2 * (size_t)t->room * sizeof *items);
    if (items == NULL)
        return false;
    t->items = items;
    t->room *= 2;
    uint32_t *index = realloc(t->index, 2 * (size_t)t->index_room * sizeof *index);
    if (index == NULL) {
        t->room /= 2; /* what is too much is given back with the next one */
        return false;
    }
    t->index = index;
    t->index_room *= 2;
    tally_enter_all(t);
    return true;
}

/* The number of a new item, all zero; TALLY_OTHER if the table is full, or without memory. Items may move. */
static inline uint32_t tally_add(tally_t *t, uint64_t hash)
{
    uint32_t number = t->count;
    if (t->free_count > 0) {
        while (t->items[t->free_from].hash != 0)
            t->free_from++;
        number = t->free_from;
        t->free_count--;
    } else if (t->count >= t->count_max || (t->count == t->room && !tally_grow(t))) {
        return TALLY_OTHER;
    } else {
        t->count++;
    }
    memset(&t->items[number], 0, sizeof *t->items);
    t->items[number].hash = hash;
    tally_enter(t, number);
    return number;
}

/* Forgets the items that nobody needs. */
static inline void tally_clean(tally_t *t)
{
    uint32_t last = 0;
    t->free_count = 0;
    t->free_from = 1;
    for (uint32_t i = 1; i < t->count; i++) {
        tally_item_t *item = &t->items[i];
        if (!item->needed && item->series == 0 && item->values[0] == 0 && item->values[1] == 0)
            item->hash = 0;
        item->needed = false;
        if (item->hash != 0)
            last = i;
    }
    t->count = last + 1;
    for (uint32_t i = 1; i < t->count; i++)
        t->free_count += t->items[i].hash == 0;
    tally_enter_all(t);
}

/* ---- values that were seen ---- */

/* A Bloom filter whose bits for one value stand in one line of the cache; 16 bits a value, four of them set: with all the
 * values that it is made for, one in 250 is taken for seen that was not. */
typedef struct {
    uint64_t *bits;  /* owned */
    uint64_t blocks; /* of 64 bytes; a power of two */
    uint64_t values; /* that were put in */
} seen_t;

#define SEEN_BITS 16u

static inline bool seen_open(seen_t *s, uint64_t values_max)
{
    s->blocks = 1024;
    while (s->blocks * 512 < values_max * SEEN_BITS)
        s->blocks *= 2;
    s->values = 0;
    s->bits = calloc(s->blocks, 64); /* large ones come as pages that are not there before they are written */
    return s->bits != NULL;
}

static inline void seen_close(seen_t *s)
{
    free(s->bits);
    memset(s, 0, sizeof *s);
}

static inline bool seen_full(const seen_t *s)
{
    return s->values * SEEN_BITS >= s->blocks * 512;
}

/* Whether a value is there. */
static inline bool seen_has(const seen_t *s, uint64_t hash)
{
    if (s->bits == NULL)
        return false;
    const uint64_t *block = &s->bits[(hash >> 36 & (s->blocks - 1)) * 8];
    for (uint32_t i = 0; i < 36; i += 9)
        if (!(block[hash >> (i + 6) & 7] >> (hash >> i & 63) & 1))
            return false;
    return true;
}

static inline void seen_put(seen_t *s, uint64_t hash)
{
    uint64_t *block = &s->bits[(hash >> 36 & (s->blocks - 1)) * 8];
    for (uint32_t i = 0; i < 36; i += 9)
        block[hash >> (i + 6) & 7] |= UINT64_C(1) << (hash >> i & 63);
    s->values++;
}

#endif
