/* Tables of hashes: 256 segments by the upper bits, each a row of buckets, each growing by itself.
 *
 *   hash:  8 bits ─▶ segment,  the next 32 ─▶ bucket in it
 *   bucket, one line of the cache:  | 5 hashes | 5 slots |
 *
 * Nothing but its hash and a slot of four bytes is kept of a series; a table may have a time for each besides, in an array of
 * its own. What does not fit into its bucket goes into the next one that has room: whoever looks for it goes on as long as
 * buckets are full. Segments grow by a quarter when four fifths are in use, so 64 to 80 % always are: 16 to 20 bytes a series
 * (and the rest of a page).
 * What grows is one segment, a few thousand series of a million: nobody waits longer for that than for a burst. The bucket is
 * a product of hash and number, so there need not be a power of two of them.
 *
 * What was silent for SLOTS_EPOCHS whole epochs is forgotten, by a hand that goes round a few places at a time.
 */
#ifndef PENSTOCK_SLOTS_H
#define PENSTOCK_SLOTS_H

#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "port.h"

#define SLOTS_SEGMENTS 256u
#define SLOTS_BUCKET 5u
#define SLOTS_EPOCHS 8u /* whole ones of silence, after which a hash is forgotten; an epoch is a number of 8 bits */

/* What belongs to a hash. It stays in its place until the next call that adds or removes one. */
typedef struct {
    uint32_t value : 24, epoch : 8;
} slot_t;

typedef struct {
    _Alignas(64) uint64_t hashes[SLOTS_BUCKET]; /* never 0: that is a free place. Free ones are the last */
    slot_t slots[SLOTS_BUCKET];
} slots_bucket_t;
_Static_assert(sizeof(slots_bucket_t) == 64, "");

typedef struct {
    slots_bucket_t *buckets; /* owned; slots_nothing as long as there are none */
    int64_t *times;          /* in the same memory; NULL if the table has none */
    uint32_t count, room;    /* hashes, buckets */
} slots_segment_t;

typedef struct {
    slots_segment_t segments[SLOTS_SEGMENTS];
    uint64_t count, count_max;
    uint64_t bytes;              /* of memory */
    uint64_t places;             /* for hashes */
    bool timed;                  /* a time for each */
    uint32_t hand_segment, hand; /* where the sweep goes on */
} slots_t;

/* Called before a hash goes that was silent for too long. */
typedef void (*slots_gone_fn)(void *context, uint64_t hash, const slot_t *slot);

static slots_bucket_t slots_nothing;

/* Segments from this size on, that of a page, are mapped one by one, and fill their pages. On the heap each that grows would
 * leave a hole of another size than will be asked for again: a fifth of the memory of a million series. */
#define SLOTS_MAPPED 4096u

/* Zeroed memory of whole buckets, or NULL. */
static inline slots_bucket_t *slots_memory(size_t bytes)
{
    if (bytes >= SLOTS_MAPPED) {
        void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return mapped != MAP_FAILED ? mapped : NULL;
    }
    slots_bucket_t *buckets = aligned_alloc(sizeof(slots_bucket_t), bytes);
    if (buckets != NULL)
        memset(buckets, 0, bytes);
    return buckets;
}

/* Memory of so many buckets. */
static inline size_t slots_bytes(const slots_t *t, uint32_t room)
{
    size_t times = t->timed ? room * SLOTS_BUCKET * sizeof(int64_t) : 0;
    return room * sizeof(slots_bucket_t) + (times + sizeof(slots_bucket_t) - 1) / sizeof(slots_bucket_t) * sizeof(slots_bucket_t);
}

static inline size_t slots_pages(const slots_t *t, uint32_t room)
{
    return (slots_bytes(t, room) + SLOTS_MAPPED - 1) / SLOTS_MAPPED;
}

/* Gives a segment's memory back, if it has any. */
static inline void slots_release(slots_t *t, const slots_segment_t *s)
{
    if (s->buckets == &slots_nothing)
        return;
    size_t bytes = slots_bytes(t, s->room);
    t->bytes -= bytes;
    t->places -= (uint64_t)s->room * SLOTS_BUCKET;
    if (bytes >= SLOTS_MAPPED)
        munmap(s->buckets, bytes);
    else
        free(s->buckets);
}

static inline void slots_open(slots_t *t, bool timed, uint64_t count_max)
{
    memset(t, 0, sizeof *t);
    t->timed = timed;
    t->count_max = count_max;
    for (uint32_t i = 0; i < SLOTS_SEGMENTS; i++)
        t->segments[i] = (slots_segment_t){.buckets = &slots_nothing, .room = 1};
}

/* Forgets all. The table can be used on. */
static inline void slots_close(slots_t *t)
{
    for (uint32_t i = 0; i < SLOTS_SEGMENTS; i++)
        slots_release(t, &t->segments[i]);
    slots_open(t, t->timed, t->count_max);
}

static inline uint64_t slots_hash_of(uint64_t hash)
{
    return hash + (hash == 0);
}

static inline uint32_t slots_home(const slots_segment_t *s, uint64_t hash)
{
    return (uint32_t)((hash >> 24 & UINT32_MAX) * s->room >> 32);
}

static inline slots_segment_t *slots_segment(slots_t *t, uint64_t hash)
{
    return &t->segments[hash >> 56];
}

static inline uint32_t slots_next(const slots_segment_t *s, uint32_t bucket)
{
    return bucket + 1 == s->room ? 0 : bucket + 1;
}

static inline bool slots_full(const slots_bucket_t *b)
{
    return b->hashes[SLOTS_BUCKET - 1] != 0;
}

/* Where a hash is to be looked for; only until the next call that adds or removes one. */
typedef struct {
    const slots_segment_t *segment;
    uint64_t hash;
    uint32_t home;
} slots_way_t;

static inline slots_way_t slots_way(slots_t *t, uint64_t hash)
{
    hash = slots_hash_of(hash);
    const slots_segment_t *s = slots_segment(t, hash);
    return (slots_way_t){s, hash, slots_home(s, hash)};
}

/* Asks for what is there from memory. timed: for the time as well, of a table that has them. */
static inline void slots_prefetch(const slots_way_t *way, bool timed)
{
    __builtin_prefetch(&way->segment->buckets[way->home]);
    if (timed) /* an empty segment has no times: then it is nothing that is asked for */
        __builtin_prefetch((const void *)((uintptr_t)way->segment->times + (way->home * SLOTS_BUCKET + SLOTS_BUCKET / 2) * sizeof(int64_t)));
}

/* Bit i set: the hash stands at place i. Which of them it is nobody can foresee, neither can the processor: all are compared
 * without a branch. */
static inline uint32_t slots_match(const slots_bucket_t *b, uint64_t hash)
{
#if defined(__SSE2__)
    _Static_assert(SLOTS_BUCKET == 5, "");
    const __m128i *hashes = (const __m128i *)b->hashes;
    __m128i wanted = _mm_set1_epi64x((long long)hash);
    __m128 first = _mm_castsi128_ps(_mm_cmpeq_epi32(hashes[0], wanted));
    __m128 second = _mm_castsi128_ps(_mm_cmpeq_epi32(hashes[1], wanted));
    __m128 low = _mm_shuffle_ps(first, second, _MM_SHUFFLE(2, 0, 2, 0)), high = _mm_shuffle_ps(first, second, _MM_SHUFFLE(3, 1, 3, 1));
    return (uint32_t)_mm_movemask_ps(_mm_and_ps(low, high)) | (uint32_t)(b->hashes[4] == hash) << 4;
#else
    uint32_t found = 0;
    for (uint32_t i = 0; i < SLOTS_BUCKET; i++)
        found |= (uint32_t)(b->hashes[i] == hash) << i;
    return found;
#endif
}

/* The slot of a hash, or NULL. place: where it stands, number of its bucket times SLOTS_BUCKET and its place in that. */
static inline slot_t *slots_find_at(const slots_way_t *way, uint32_t *place)
{
    const slots_segment_t *s = way->segment;
    for (uint32_t at = way->home;; at = slots_next(s, at)) {
        slots_bucket_t *b = &s->buckets[at];
        uint32_t found = slots_match(b, way->hash);
        if (likely(found)) {
            uint32_t i = (uint32_t)__builtin_ctz(found);
            *place = at * SLOTS_BUCKET + i;
            return &b->slots[i];
        }
        if (likely(!slots_full(b)))
            return NULL;
    }
}

static inline slot_t *slots_find(slots_t *t, uint64_t hash)
{
    slots_way_t way = slots_way(t, hash);
    uint32_t place;
    return slots_find_at(&way, &place);
}

/* Where a slot stands, as slots_find_at has it. */
static inline uint32_t slots_place_of(const slots_segment_t *s, const slot_t *slot)
{
    size_t offset = (size_t)((const uint8_t *)slot - (const uint8_t *)s->buckets);
    size_t place = (offset % sizeof(slots_bucket_t) - offsetof(slots_bucket_t, slots)) / sizeof(slot_t);
    return (uint32_t)(offset / sizeof(slots_bucket_t) * SLOTS_BUCKET + place);
}

/* The time of a slot of a hash, of a table that has them. */
static inline int64_t *slots_time(slots_t *t, uint64_t hash, const slot_t *slot)
{
    const slots_segment_t *s = slots_segment(t, slots_hash_of(hash));
    return &s->times[slots_place_of(s, slot)];
}

/* A free place for a hash. */
static inline uint32_t slots_place(const slots_segment_t *s, uint64_t hash)
{
    uint32_t at = slots_home(s, hash), place = 0;
    while (slots_full(&s->buckets[at]))
        at = slots_next(s, at);
    while (s->buckets[at].hashes[place] != 0)
        place++;
    return at * SLOTS_BUCKET + place;
}

/* Copies all of one place to another. */
static inline void slots_move(slots_segment_t *to, uint32_t to_place, const slots_segment_t *from, uint32_t from_place)
{
    slots_bucket_t *t = &to->buckets[to_place / SLOTS_BUCKET];
    const slots_bucket_t *f = &from->buckets[from_place / SLOTS_BUCKET];
    t->hashes[to_place % SLOTS_BUCKET] = f->hashes[from_place % SLOTS_BUCKET];
    t->slots[to_place % SLOTS_BUCKET] = f->slots[from_place % SLOTS_BUCKET];
    if (to->times != NULL)
        to->times[to_place] = from->times[from_place];
}

/* A quarter more room, and what is left of the last page. False without memory: nothing has changed then. */
static inline bool slots_grow(slots_t *t, slots_segment_t *s)
{
    uint32_t room = s->room + s->room / 4 + 1;
    while (slots_bytes(t, room) >= SLOTS_MAPPED && slots_pages(t, room + 1) == slots_pages(t, room))
        room++;
    size_t bytes = slots_bytes(t, room);
    slots_bucket_t *buckets = slots_memory(bytes);
    if (buckets == NULL)
        return false;
    slots_segment_t more = {.buckets = buckets, .times = t->timed ? (int64_t *)(buckets + room) : NULL, .count = s->count, .room = room};
    for (uint32_t i = 0; i < s->room * SLOTS_BUCKET; i++) {
        uint64_t hash = s->buckets[i / SLOTS_BUCKET].hashes[i % SLOTS_BUCKET];
        if (hash != 0)
            slots_move(&more, slots_place(&more, hash), s, i);
    }
    t->bytes += bytes;
    t->places += (uint64_t)room * SLOTS_BUCKET;
    slots_release(t, s);
    *s = more;
    return true;
}

/* A new slot, all zero, for a hash that is not there yet. NULL if the table is full, or without memory. */
static inline slot_t *slots_add(slots_t *t, uint64_t hash)
{
    hash = slots_hash_of(hash);
    slots_segment_t *s = slots_segment(t, hash);
    bool room = s->buckets != &slots_nothing && (uint64_t)(s->count + 1) * 5 <= (uint64_t)s->room * SLOTS_BUCKET * 4;
    if (t->count >= t->count_max || (!room && !slots_grow(t, s)))
        return NULL;
    uint32_t place = slots_place(s, hash);
    slots_bucket_t *b = &s->buckets[place / SLOTS_BUCKET];
    b->hashes[place % SLOTS_BUCKET] = hash;
    b->slots[place % SLOTS_BUCKET] = (slot_t){0};
    if (s->times != NULL)
        s->times[place] = 0;
    s->count++;
    t->count++;
    return &b->slots[place % SLOTS_BUCKET];
}

/* A place, in the buckets behind, of a hash that belongs into `bucket` or before it: full as that was, it went on from there.
 * UINT32_MAX if there is none. */
static inline uint32_t slots_gone_on(const slots_segment_t *s, uint32_t bucket)
{
    for (uint32_t next = slots_next(s, bucket), away = 1; next != bucket; next = slots_next(s, next), away++) {
        const slots_bucket_t *b = &s->buckets[next];
        for (uint32_t i = 0; i < SLOTS_BUCKET && b->hashes[i] != 0; i++) {
            uint32_t home = slots_home(s, b->hashes[i]);
            if ((next >= home ? next - home : next + s->room - home) >= away)
                return next * SLOTS_BUCKET + i;
        }
        if (!slots_full(b))
            break;
    }
    return UINT32_MAX;
}

/* Empties a place; the last of its bucket takes it, and one that had gone on from there, the place of that. */
static inline void slots_remove(slots_t *t, slots_segment_t *s, uint32_t place)
{
    for (;;) {
        uint32_t bucket = place / SLOTS_BUCKET, last = SLOTS_BUCKET - 1;
        slots_bucket_t *b = &s->buckets[bucket];
        uint32_t from = slots_full(b) ? slots_gone_on(s, bucket) : UINT32_MAX;
        if (from == UINT32_MAX) {
            while (b->hashes[last] == 0)
                last--;
            slots_move(s, place, s, bucket * SLOTS_BUCKET + last);
            b->hashes[last] = 0;
            break;
        }
        slots_move(s, place, s, from);
        place = from;
    }
    s->count--;
    t->count--;
}

/* Takes out a hash, if it is there. */
static inline void slots_forget(slots_t *t, uint64_t hash)
{
    slots_segment_t *s = slots_segment(t, slots_hash_of(hash));
    const slot_t *slot = slots_find(t, hash);
    if (slot != NULL)
        slots_remove(t, s, slots_place_of(s, slot));
}

/* Moves the hand by so many places, and forgets what is there and has been silent for too long. Returns how many. */
static inline uint32_t slots_sweep(slots_t *t, uint8_t epoch, uint32_t places, slots_gone_fn gone, void *context)
{
    uint32_t removed = 0;
    for (; places > 0; places--) {
        slots_segment_t *s = &t->segments[t->hand_segment];
        if (t->hand >= s->room * SLOTS_BUCKET) {
            t->hand = 0;
            t->hand_segment = (t->hand_segment + 1) % SLOTS_SEGMENTS;
            continue;
        }
        slots_bucket_t *b = &s->buckets[t->hand / SLOTS_BUCKET];
        uint32_t i = t->hand % SLOTS_BUCKET;
        if (b->hashes[i] == 0 || (uint8_t)(epoch - b->slots[i].epoch) <= SLOTS_EPOCHS) {
            t->hand++;
            continue;
        }
        if (gone != NULL)
            gone(context, b->hashes[i], &b->slots[i]);
        slots_remove(t, s, t->hand); /* what has moved up to here is looked at next */
        removed++;
    }
    return removed;
}

#endif
