/* The series table: each series that a StatsD listener has seen, found by the bytes that name it.
 *
 * A series is found by the raw bytes of its name, its tags and its type as they stand in the datagram, so a known
 * series costs a hash and a comparison: nothing is parsed, sorted or escaped. The canonical text (measurement and
 * sorted, escaped tags) is made when bytes are seen for the first time; if another spelling of the same series is
 * there already, the new bytes become an alias of it.
 *
 *   index of raw keys ──▶ series ◀── index of canonical texts (primaries only)
 *                          alias ──▶ primary
 *
 * Values stand in the series itself, twice: the lane adds to value[epoch], and at the tick the epoch is flipped, so
 * that another thread can read and clear the other one while the lane goes on. An index that is full grows in steps,
 * a few slots with each insertion; series stand in chunks that never move.
 */
#ifndef PENSTOCK_SERIES_H
#define PENSTOCK_SERIES_H

#include <stdlib.h>

#include "members.h"
#include "sketch.h"

#ifdef PENSTOCK_TEST
#define SERIES_CHUNK 64u /* so that tests have many */
#else
#define SERIES_CHUNK 16384u
#endif
#define SERIES_NEAR 24u /* bytes of a key that are kept in the series itself */
#define SERIES_KEY_MAX 65535u /* raw bytes of a key */
#define SERIES_NONE UINT32_MAX
#define SERIES_BEHIND 16u /* bytes that series_mix may read behind a key */
#define SERIES_MOVES 16u /* slots that an insertion moves while an index grows */

typedef enum { SERIES_COUNTER, SERIES_GAUGE, SERIES_SET, SERIES_TIMING, SERIES_HISTOGRAM, SERIES_DISTRIBUTION, SERIES_TYPES } series_type_t;

#define SERIES_TYPE 0x07u
#define SERIES_ALIAS 0x08u
#define SERIES_FREE 0x10u
#define SERIES_TEXT 0x20u       /* its key is its canonical text, the agent's tags in it; only aliases lead to it */
#define SERIES_OVERFLOWED 0x40u /* it stands for many, since there are too many series */
#define SERIES_SHAPED 0x80u     /* rules have changed its head */

#define SERIES_BASED 1u /* base is known */
#define SERIES_NAMED 2u /* an alias leads to it */

#define GAUGE_SET 1u /* value[].gauge.when, low bit: an absolute value was set in this interval */

typedef union {
    struct {
        int64_t whole; /* exact */
        double part;   /* what is not whole, or does not fit */
    } counter;
    struct {
        double value;  /* the absolute value and the changes after it, or the changes alone */
        uint64_t when; /* arrival in ns of the last absolute value; low bit GAUGE_SET */
    } gauge;
    struct {
        sketch_t *sketch; /* owned */
    } timing;
    struct {
        members_t *members; /* owned */
    } set;
    uint32_t primary; /* of an alias, in value[0] */
} series_value_t;

typedef struct {
    series_value_t value[2];
    union {
        double base;  /* the ticker's: a gauge before this interval */
        float low[2]; /* a counter's: what rounding has taken from its part; one for each epoch */
    } more;
    uint32_t samples[2]; /* 0: silent in that epoch */
    uint16_t name_length, tags_length;
    uint8_t kind;   /* type and flags; written when it is made */
    uint8_t marks;  /* the ticker's: SERIES_BASED, SERIES_NAMED */
    uint16_t quiet; /* the ticker's: ticks without a sample */
    union {
        uint8_t near[SERIES_NEAR];
        uint8_t *far; /* owned, if the key is longer than SERIES_NEAR */
    } key;
} series_t;

typedef struct {
    uint32_t tag; /* upper half of the hash */
    uint32_t id;  /* + 1; 0: free; SERIES_NONE: was removed */
} series_slot_t;

typedef struct {
    series_slot_t *slots, *old; /* owned; old: being emptied into slots */
    uint32_t mask, old_mask;
    uint32_t used; /* slots that are not free */
    uint32_t moved; /* old slots that are done */
} series_index_t;

typedef struct {
    series_t **chunks; /* owned */
    uint32_t count;    /* ids given out, free ones included */
    uint32_t live;     /* series */
    uint32_t aliases;
    uint32_t room_max; /* of each of the two */
    uint32_t free_first; /* id of the first free series, chained through value[0].primary */
    bool held;           /* a ticker is looking at the series: free ones stay as they are */
    series_index_t raw, canonical;
    uint64_t seed;
    uint64_t bytes; /* memory, without sketches and sets */
} series_table_t;

static inline series_t *series_at(const series_table_t *t, uint32_t id)
{
    return &t->chunks[id / SERIES_CHUNK][id % SERIES_CHUNK];
}

static inline const uint8_t *series_key(const series_t *s)
{
    return (uint32_t)s->name_length + s->tags_length > SERIES_NEAR ? s->key.far : s->key.near;
}

/* Mixes n bytes into h; reads up to 15 bytes behind. */
static inline uint64_t series_mix(uint64_t h, const uint8_t *p, uint32_t n)
{
    const uint64_t k0 = UINT64_C(0x9E3779B97F4A7C15), k1 = UINT64_C(0xC2B2AE3D27D4EB4F);
    for (; n > 16; n -= 16, p += 16) {
        __uint128_t m = (__uint128_t)(port_load64(p) ^ h) * (port_load64(p + 8) ^ k0);
        h = (uint64_t)m ^ (uint64_t)(m >> 64) ^ k1;
    }
    uint64_t a = port_load64(p), b = port_load64(p + 8);
    a &= n >= 8 ? ~UINT64_C(0) : (UINT64_C(1) << 8 * n) - 1;
    b &= n >= 16 ? ~UINT64_C(0) : n > 8 ? (UINT64_C(1) << 8 * (n - 8)) - 1 : 0;
    __uint128_t m = (__uint128_t)(a ^ h) * (b ^ k0 ^ n);
    return (uint64_t)m ^ (uint64_t)(m >> 64) ^ k1 * n;
}

static inline uint64_t series_hash(const series_table_t *t, series_type_t type, const uint8_t *name, uint32_t name_length,
                                   const uint8_t *tags, uint32_t tags_length)
{
    uint64_t h = series_mix(t->seed + type, name, name_length);
    if (tags_length)
        h = series_mix(h, tags, tags_length);
    return h ^ h >> 29;
}

/* ---- index ---- */

static inline bool series_index_open(series_index_t *x, uint32_t slots)
{
    x->slots = calloc(slots, sizeof *x->slots);
    x->mask = slots - 1;
    return x->slots != NULL;
}

static inline void series_index_put(series_index_t *x, uint32_t tag, uint32_t id)
{
    uint32_t at = tag & x->mask;
    while (x->slots[at].id != 0)
        at = (at + 1) & x->mask;
    x->slots[at] = (series_slot_t){tag, id};
    x->used++;
}

static inline void series_index_move(series_table_t *t, series_index_t *x, uint32_t slots)
{
    for (; x->old != NULL && slots > 0; slots--) {
        series_slot_t *slot = &x->old[x->moved++];
        if (slot->id != 0 && slot->id != SERIES_NONE)
            series_index_put(x, slot->tag, slot->id);
        if (x->moved > x->old_mask) {
            t->bytes -= (uint64_t)(x->old_mask + 1) * sizeof *x->old;
            free(x->old);
            x->old = NULL;
        }
    }
}

/* Room for one more, made in steps. False without memory. */
static inline bool series_index_grow(series_table_t *t, series_index_t *x)
{
    series_index_move(t, x, SERIES_MOVES);
    if ((uint64_t)x->used * 4 < (uint64_t)(x->mask + 1) * 3)
        return true;
    series_index_move(t, x, UINT32_MAX);
    uint32_t size = x->mask + 1;
    series_index_t bigger = {.old = x->slots, .old_mask = x->mask};
    if (!series_index_open(&bigger, 2 * size))
        return false;
    t->bytes += (uint64_t)2 * size * sizeof *x->slots;
    *x = bigger;
    return true;
}

/* Marks a slot as removed. */
static inline void series_index_remove(series_index_t *x, uint32_t tag, uint32_t id)
{
    for (uint32_t at = tag & x->mask; x->slots[at].id != 0; at = (at + 1) & x->mask)
        if (x->slots[at].id == id) {
            x->slots[at].id = SERIES_NONE;
            return;
        }
    for (uint32_t at = tag & x->old_mask; x->old != NULL && x->old[at].id != 0; at = (at + 1) & x->old_mask)
        if (x->old[at].id == id) {
            x->old[at].id = SERIES_NONE;
            return;
        }
}

/* Walks over the ids with this tag: start with *step = 0; SERIES_NONE at the end. */
typedef struct {
    uint32_t at;
    bool in_old, begun;
} series_walk_t;

static inline uint32_t series_walk(const series_index_t *x, uint32_t tag, series_walk_t *w)
{
    if (!w->begun) {
        w->begun = true;
        w->at = tag & x->mask;
    }
    if (!w->in_old) {
        while (x->slots[w->at].id != 0) {
            const series_slot_t *slot = &x->slots[w->at];
            w->at = (w->at + 1) & x->mask;
            if (slot->tag == tag && slot->id != SERIES_NONE)
                return slot->id - 1;
        }
        if (x->old == NULL)
            return SERIES_NONE;
        w->in_old = true;
        w->at = tag & x->old_mask;
    }
    while (x->old[w->at].id != 0) {
        const series_slot_t *slot = &x->old[w->at];
        w->at = (w->at + 1) & x->old_mask;
        /* A slot that was moved is found in the new index; here it may still stand, and is the same series. */
        if (slot->tag == tag && slot->id != SERIES_NONE)
            return slot->id - 1;
    }
    return SERIES_NONE;
}

/* ---- table ---- */

static inline void series_close(series_table_t *t)
{
    for (uint32_t id = 0; t->chunks != NULL && id < t->count; id++) {
        series_t *s = series_at(t, id);
        if (s->kind & SERIES_FREE)
            continue;
        if ((uint32_t)s->name_length + s->tags_length > SERIES_NEAR)
            free(s->key.far);
        for (int e = 0; e < 2 && !(s->kind & SERIES_ALIAS); e++) {
            uint8_t type = s->kind & SERIES_TYPE;
            if (type >= SERIES_TIMING && s->value[e].timing.sketch)
                sketch_free(s->value[e].timing.sketch);
            if (type == SERIES_SET && s->value[e].set.members)
                members_free(s->value[e].set.members);
        }
    }
    for (uint32_t i = 0; t->chunks != NULL && i * SERIES_CHUNK < t->count; i++)
        free(t->chunks[i]);
    free(t->chunks);
    free(t->raw.slots);
    free(t->raw.old);
    free(t->canonical.slots);
    free(t->canonical.old);
    memset(t, 0, sizeof *t);
}

/* t: zeroed. room_max: series, aliases too. False without memory; series_close is due either way. */
static inline bool series_open(series_table_t *t, uint32_t room_max, uint64_t seed)
{
    t->seed = seed;
    t->room_max = room_max;
    t->free_first = SERIES_NONE;
    t->chunks = calloc(2 * (uint64_t)room_max / SERIES_CHUNK + 1, sizeof *t->chunks);
    t->bytes = 2 * 1024 * sizeof(series_slot_t) + (2 * (uint64_t)room_max / SERIES_CHUNK + 1) * sizeof *t->chunks;
    return t->chunks != NULL && series_index_open(&t->raw, 1024) && series_index_open(&t->canonical, 1024);
}

static inline bool series_is(const series_t *s, uint8_t type, const uint8_t *name, uint32_t name_length, const uint8_t *tags,
                             uint32_t tags_length)
{
    if ((s->kind & SERIES_TYPE) != type || s->name_length != name_length || s->tags_length != tags_length)
        return false;
    const uint8_t *key = series_key(s);
    return memcmp(key, name, name_length) == 0 && memcmp(key + name_length, tags, tags_length) == 0;
}

/* The id of the series with these raw bytes, an alias perhaps; SERIES_NONE if there is none. */
static inline uint32_t series_find(const series_table_t *t, uint64_t hash, uint8_t type, const uint8_t *name,
                                   uint32_t name_length, const uint8_t *tags, uint32_t tags_length)
{
    series_walk_t walk = {0};
    uint32_t id;
    while ((id = series_walk(&t->raw, (uint32_t)(hash >> 32), &walk)) != SERIES_NONE)
        if (series_is(series_at(t, id), type, name, name_length, tags, tags_length))
            break;
    return id;
}

/* A new series under its raw bytes, or with SERIES_TEXT under none, all else zero. SERIES_NONE if the table is full, or
 * without memory. */
static inline uint32_t series_add(series_table_t *t, uint64_t hash, uint8_t kind, const uint8_t *name, uint32_t name_length,
                                  const uint8_t *tags, uint32_t tags_length)
{
    if ((kind & SERIES_ALIAS ? t->aliases : t->live) >= t->room_max || !series_index_grow(t, &t->raw) || !series_index_grow(t, &t->canonical))
        return SERIES_NONE;
    uint32_t id = t->held ? SERIES_NONE : t->free_first, bytes = name_length + tags_length;
    uint8_t *far = NULL;
    if (bytes > SERIES_NEAR && (far = malloc(bytes)) == NULL)
        return SERIES_NONE;
    if (id != SERIES_NONE) {
        t->free_first = series_at(t, id)->value[0].primary;
    } else {
        id = t->count;
        if (id % SERIES_CHUNK == 0) {
            series_t *chunk = aligned_alloc(CACHE_LINE, SERIES_CHUNK * sizeof *chunk + CACHE_LINE);
            if (chunk == NULL) {
                free(far);
                return SERIES_NONE;
            }
            t->chunks[id / SERIES_CHUNK] = chunk;
            t->bytes += SERIES_CHUNK * sizeof *chunk;
        }
        t->count++;
    }
    series_t *s = series_at(t, id);
    memset(s, 0, sizeof *s);
    s->kind = kind;
    s->name_length = (uint16_t)name_length;
    s->tags_length = (uint16_t)tags_length;
    uint8_t *key = s->key.near;
    if (far) {
        s->key.far = key = far;
        t->bytes += bytes;
    }
    memcpy(key, name, name_length);
    memcpy(key + name_length, tags, tags_length);
    if (!(kind & SERIES_TEXT))
        series_index_put(&t->raw, (uint32_t)(hash >> 32), id + 1);
    *(kind & SERIES_ALIAS ? &t->aliases : &t->live) += 1;
    return id;
}

/* Takes a series out. canonical_tag is that of its canonical text; unused for an alias. */
static inline void series_remove(series_table_t *t, uint32_t id, uint32_t canonical_tag)
{
    series_t *s = series_at(t, id);
    const uint8_t *key = series_key(s);
    uint8_t copy[SERIES_KEY_MAX + SERIES_BEHIND]; /* series_mix reads behind the key */
    memcpy(copy, key, (uint32_t)s->name_length + s->tags_length);
    memset(copy + (uint32_t)s->name_length + s->tags_length, 0, SERIES_BEHIND);
    key = copy;
    uint64_t hash = series_hash(t, s->kind & SERIES_TYPE, key, s->name_length, key + s->name_length, s->tags_length);
    series_index_remove(&t->raw, (uint32_t)(hash >> 32), id + 1);
    if (!(s->kind & SERIES_ALIAS))
        series_index_remove(&t->canonical, canonical_tag, id + 1);
    if ((uint32_t)s->name_length + s->tags_length > SERIES_NEAR) {
        t->bytes -= (uint32_t)s->name_length + s->tags_length;
        free(s->key.far);
    }
    *(s->kind & SERIES_ALIAS ? &t->aliases : &t->live) -= 1;
    s->kind = SERIES_FREE;
    s->samples[0] = s->samples[1] = 0;
    s->value[0].primary = t->free_first;
    t->free_first = id;
}

#endif
