/* The keys of one line: finds duplicates, in order, whatever their number.
 *
 * A few keys are compared one by one. From LINE_SET_LINEAR on a hash table is kept beside them, so that a datagram
 * made of nothing but keys costs no more per byte than another. Its hash takes in the whole key and a seed of the
 * process, so that nobody can choose keys that collide.
 */
#ifndef PENSTOCK_LINE_SET_H
#define PENSTOCK_LINE_SET_H

#include <stdlib.h>

#include "port.h"

#define LINE_SET_LINEAR 16u

/* A key as it stands in the text (escaped), with what finds equal ones fast. */
typedef struct {
    const uint8_t *text; /* borrowed */
    uint32_t length;
    uint64_t hash;
} line_key_t;

/* A key, and for fields what belongs to it. */
typedef struct {
    line_key_t key;
    const uint8_t *value; /* borrowed from the reader's scratch */
    uint32_t value_length;
    bool is_unsigned;
    bool replaced; /* a later field has the same key */
    uint64_t number; /* of an unsigned field */
} line_entry_t;

typedef struct {
    line_entry_t *entries; /* owned */
    uint32_t count, room;
    uint32_t *table; /* owned: index + 1 of an entry, 0 free */
    uint32_t table_size; /* a power of two; 0: not in use for this line */
    uint32_t table_room;
    uint64_t seed;
} line_set_t;

/* Hash of a key of n >= 1 bytes from its length, first eight and last eight; reads up to 8 behind the start. */
static inline uint64_t line_hash(const uint8_t *p, uint32_t n)
{
    uint64_t mask = n >= 8 ? ~UINT64_C(0) : (UINT64_C(1) << 8 * n) - 1;
    uint64_t first = port_load64(p) & mask;
    uint64_t last = port_load64(n >= 8 ? p + n - 8 : p) & mask;
    return (first ^ n) * UINT64_C(0x9E3779B97F4A7C15) ^ (last + n) * UINT64_C(0xC2B2AE3D27D4EB4F);
}

static inline bool line_key_equal(const line_key_t *a, const line_key_t *b)
{
    return a->hash == b->hash && a->length == b->length && memcmp(a->text, b->text, a->length) == 0;
}

/* Hash of every byte. */
static inline uint64_t line_hash_whole(uint64_t seed, const line_key_t *key)
{
    uint64_t h = seed ^ key->hash;
    for (uint32_t i = 0; i < key->length; i += 8) {
        uint64_t left = key->length - i;
        uint64_t mask = left >= 8 ? ~UINT64_C(0) : (UINT64_C(1) << 8 * left) - 1;
        __uint128_t product = (__uint128_t)(h ^ (port_load64(key->text + i) & mask)) * UINT64_C(0x9FB21C651E98DF25);
        h = (uint64_t)product ^ (uint64_t)(product >> 64) ^ seed;
    }
    return h;
}

static inline void line_set_free(line_set_t *s)
{
    free(s->entries);
    free(s->table);
    memset(s, 0, sizeof *s);
}

static inline void line_set_clear(line_set_t *s)
{
    s->count = 0;
    s->table_size = 0;
}

/* The place in the table of an equal key, or the free one where it belongs. */
static inline uint32_t *line_set_place(line_set_t *s, const line_key_t *key)
{
    uint32_t at = (uint32_t)(line_hash_whole(s->seed, key) >> 32) & (s->table_size - 1);
    while (s->table[at] != 0 && !line_key_equal(&s->entries[s->table[at] - 1].key, key))
        at = (at + 1) & (s->table_size - 1);
    return &s->table[at];
}

/* Makes a table of at least four times the entries. False without memory. */
static inline bool line_set_index(line_set_t *s)
{
    uint32_t size = 64;
    while (size < 4 * s->count)
        size *= 2;
    if (size > s->table_room) {
        uint32_t *table = realloc(s->table, size * sizeof *table);
        if (table == NULL)
            return false;
        s->table = table;
        s->table_room = size;
    }
    s->table_size = size;
    memset(s->table, 0, size * sizeof *s->table);
    for (uint32_t i = 0; i < s->count; i++)
        if (!s->entries[i].replaced)
            *line_set_place(s, &s->entries[i].key) = i + 1;
    return true;
}

/* A new entry at the end, all zero but the key; NULL without memory. Entries may move. */
static inline line_entry_t *line_set_append(line_set_t *s, line_key_t key)
{
    if (s->count == s->room) {
        uint32_t room = s->room ? 2 * s->room : 64;
        line_entry_t *entries = realloc(s->entries, room * sizeof *entries);
        if (entries == NULL)
            return NULL;
        s->entries = entries;
        s->room = room;
    }
    line_entry_t *entry = &s->entries[s->count++];
    memset(entry, 0, sizeof *entry);
    entry->key = key;
    return entry;
}

/* Finds the entry with this key (*added false), or adds one (*added true). NULL without memory. */
static inline line_entry_t *line_set_add(line_set_t *s, const uint8_t *text, uint32_t length, bool *added)
{
    line_key_t key = {text, length, line_hash(text, length)};
    *added = false;
    if (s->count < LINE_SET_LINEAR) {
        for (uint32_t i = 0; i < s->count; i++)
            if (!s->entries[i].replaced && line_key_equal(&s->entries[i].key, &key))
                return &s->entries[i];
        *added = true;
        return line_set_append(s, key);
    }
    if (s->table_size < 2 * s->count && !line_set_index(s))
        return NULL;
    uint32_t *place = line_set_place(s, &key);
    if (*place != 0)
        return &s->entries[*place - 1];
    *added = true;
    line_entry_t *entry = line_set_append(s, key);
    if (entry != NULL)
        *place = s->count;
    return entry;
}

/* Adds an entry with the key of one that is marked as replaced. NULL without memory. */
static inline line_entry_t *line_set_put_again(line_set_t *s, const line_entry_t *earlier)
{
    line_key_t key = earlier->key;
    uint32_t *place = s->table_size ? line_set_place(s, &key) : NULL;
    line_entry_t *entry = line_set_append(s, key);
    if (entry != NULL && place != NULL)
        *place = s->count;
    return entry;
}

#endif
