/* Fields on their way from a writer to the folder of what was rejected: one writer, one reader, no lock.
 *
 *   entry: length u32, kept u8, came u8, line without its newline
 *
 * What finds no room is counted; the line that the field came from goes its way all the same.
 */
#ifndef PENSTOCK_TYPES_REFUSED_H
#define PENSTOCK_TYPES_REFUSED_H

#include <stdlib.h>

#include "types_mend.h"

#define REFUSED_BYTES (256u << 10) /* a power of two */
#define REFUSED_HEAD 6u

typedef struct {
    uint8_t *bytes; /* owned: REFUSED_BYTES */
    _Atomic uint64_t written, read;
    counter_t unsaved; /* fields */
} types_refused_t;

static inline void refused_copy_in(types_refused_t *r, uint64_t at, const void *from, uint32_t n)
{
    uint32_t offset = (uint32_t)(at % REFUSED_BYTES), first = n < REFUSED_BYTES - offset ? n : REFUSED_BYTES - offset;
    if (n == 0)
        return; /* `from` may be NULL */
    memcpy(r->bytes + offset, from, first);
    memcpy(r->bytes, (const uint8_t *)from + first, n - first);
}

static inline void refused_copy_out(const types_refused_t *r, uint64_t at, void *to, uint32_t n)
{
    uint32_t offset = (uint32_t)(at % REFUSED_BYTES), first = n < REFUSED_BYTES - offset ? n : REFUSED_BYTES - offset;
    memcpy(to, r->bytes + offset, first);
    memcpy((uint8_t *)to + first, r->bytes, n - first);
}

/* One part of a line. */
typedef struct {
    const uint8_t *text; /* borrowed */
    uint32_t length;
} refused_part_t;

/* By the writer: a line of so many parts. */
static inline void refused_put(types_refused_t *r, type_kind_t kept, type_kind_t came, const refused_part_t *parts, uint32_t count)
{
    uint64_t at = atomic_load_explicit(&r->written, memory_order_relaxed), n = REFUSED_HEAD;
    for (uint32_t i = 0; i < count; i++)
        n += parts[i].length;
    if (n > REFUSED_BYTES - (at - atomic_load_explicit(&r->read, memory_order_acquire))) {
        counter_add(&r->unsaved, 1);
        return;
    }
    uint8_t head[REFUSED_HEAD] = {[4] = (uint8_t)kept, [5] = (uint8_t)came};
    uint32_t length = (uint32_t)(n - REFUSED_HEAD);
    memcpy(head, &length, 4);
    refused_copy_in(r, at, head, REFUSED_HEAD);
    at += REFUSED_HEAD;
    for (uint32_t i = 0; i < count; i++) {
        refused_copy_in(r, at, parts[i].text, parts[i].length);
        at += parts[i].length;
    }
    atomic_store_explicit(&r->written, at, memory_order_release);
}

/* By the reader: the length of the next line, or 0 if there is none. */
static inline uint32_t refused_next(const types_refused_t *r, type_kind_t *kept, type_kind_t *came)
{
    uint64_t at = atomic_load_explicit((_Atomic uint64_t *)&r->read, memory_order_relaxed);
    if (at == atomic_load_explicit((_Atomic uint64_t *)&r->written, memory_order_acquire))
        return 0;
    uint8_t head[REFUSED_HEAD];
    uint32_t length;
    refused_copy_out(r, at, head, REFUSED_HEAD);
    memcpy(&length, head, 4);
    *kept = (type_kind_t)head[4];
    *came = (type_kind_t)head[5];
    return length;
}

/* By the reader: takes the line that refused_next told of. */
static inline void refused_take(types_refused_t *r, uint8_t *to, uint32_t length)
{
    uint64_t at = atomic_load_explicit(&r->read, memory_order_relaxed) + REFUSED_HEAD;
    refused_copy_out(r, at, to, length);
    atomic_store_explicit(&r->read, at + length, memory_order_release);
}

#endif
