/* The types of fields that are kept: the first that came, or the one that the configuration pins.
 *
 * A database fixes the type of a field with its first value and refuses every other from then on; so does this table, for
 * all writers, and over restarts. The table is a file, mapped shared as the rings are, so that a process that is killed
 * loses nothing of it. Records are only ever appended:
 *
 *   ┌──────────────┬────────┬────────┬───
 *   │ head, 64 B   │ record │ record │ 0 …
 *   └──────────────┴────────┴────────┴───
 *   record: sum u32, type u8, 0 u8, length of measurement u16, of field u16, measurement, field, zeros to a multiple of 8
 *
 * The first record whose sum does not match ends the table: behind it is what a machine that went down had not finished.
 * Names are as they stand in lines, escapes included: in canonical lines there is one way to write each.
 */
#ifndef PENSTOCK_TYPES_H
#define PENSTOCK_TYPES_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mix.h"

typedef enum { TYPE_FLOAT, TYPE_INTEGER, TYPE_UNSIGNED, TYPE_BOOLEAN, TYPE_STRING, TYPE_KINDS } type_kind_t;

static const char *const type_names[TYPE_KINDS] = {"float", "integer", "unsigned", "boolean", "string"};

#define TYPES_MAGIC "penstock types 1"
#define TYPES_HEAD 64u
#define TYPES_RECORD 10u         /* bytes before the names */
#define TYPES_FIELD_BYTES 64u    /* of the file for each field that it is made for */
#define TYPES_NAME_MAX 65535u

typedef struct {
    uint8_t *bytes;  /* mapped, or owned memory; TYPES_HEAD and records */
    uint64_t room, used;
    uint32_t *index; /* owned: offset / 8 of a record, 0 free; linear probing by its hash */
    uint32_t index_room, count, count_max;
    uint64_t seed;   /* of the index: nobody can choose names that collide */
    bool mapped;
} types_table_t;

typedef struct {
    pthread_mutex_t lock;
    types_table_t kept, pinned;
    uint64_t unguarded; /* first sights of fields that there was no room for */
    bool dirty;         /* since the last types_sync */
} types_t;

static inline uint32_t types_record_bytes(uint32_t names)
{
    return (TYPES_RECORD + names + 7) / 8 * 8;
}

static inline uint64_t types_hash(uint64_t seed, const uint8_t *m, uint32_t mn, const uint8_t *f, uint32_t fn)
{
    uint64_t h = seed ^ mn;
    for (uint32_t i = 0; i < mn; i++)
        h = (h ^ m[i]) * UINT64_C(0x100000001B3);
    for (uint32_t i = 0; i < fn; i++)
        h = (h ^ f[i]) * UINT64_C(0x100000001B3);
    return mix_fold(h ^ mix_fixed.k[0], mix_fixed.k[1]);
}

/* What a record must have as its sum, never 0; everything behind the sum counts. */
static inline uint32_t types_sum(const uint8_t *record, uint32_t names)
{
    uint64_t h = UINT64_C(0xCBF29CE484222325);
    for (uint32_t i = 4; i < TYPES_RECORD + names; i++)
        h = (h ^ record[i]) * UINT64_C(0x100000001B3);
    h = mix_fold(h ^ mix_fixed.k[2], mix_fixed.k[3]);
    return (uint32_t)h | 1;
}

static inline uint32_t types_length(const uint8_t *record, bool field)
{
    uint16_t n;
    memcpy(&n, record + (field ? 8 : 6), 2);
    return n;
}

/* ---- a table ---- */

static inline bool types_is(const uint8_t *record, const uint8_t *m, uint32_t mn, const uint8_t *f, uint32_t fn)
{
    return types_length(record, false) == mn && types_length(record, true) == fn && memcmp(record + TYPES_RECORD, m, mn) == 0 &&
           memcmp(record + TYPES_RECORD + mn, f, fn) == 0;
}

/* The place in the index of a field, or the free one where it belongs. The index is never full. */
static inline uint32_t *types_place(const types_table_t *t, const uint8_t *m, uint32_t mn, const uint8_t *f, uint32_t fn)
{
    uint32_t at = (uint32_t)(types_hash(t->seed, m, mn, f, fn) >> 32) & (t->index_room - 1);
    while (t->index[at] != 0 && !types_is(t->bytes + (uint64_t)t->index[at] * 8, m, mn, f, fn))
        at = (at + 1) & (t->index_room - 1);
    return &t->index[at];
}

static inline bool types_grow_index(types_table_t *t)
{
    if (t->seed == 0 && getrandom(&t->seed, sizeof t->seed, 0) != (ssize_t)sizeof t->seed)
        return false;
    uint32_t room = t->index_room ? 2 * t->index_room : 256;
    uint32_t *index = calloc(room, sizeof *index), *old = t->index, old_room = t->index_room;
    if (index == NULL)
        return false;
    t->index = index;
    t->index_room = room;
    for (uint32_t i = 0; i < old_room; i++)
        if (old[i] != 0) {
            const uint8_t *record = t->bytes + (uint64_t)old[i] * 8, *m = record + TYPES_RECORD;
            uint32_t mn = types_length(record, false);
            *types_place(t, m, mn, m + mn, types_length(record, true)) = old[i];
        }
    free(old);
    return true;
}

/* The kept type of a field; -1 if there is none. */
static inline int types_find(const types_table_t *t, const uint8_t *m, uint32_t mn, const uint8_t *f, uint32_t fn)
{
    uint32_t at = t->count ? *types_place(t, m, mn, f, fn) : 0;
    return at ? t->bytes[(uint64_t)at * 8 + 4] : -1;
}

/* Enters a field that is not there. False without room or memory. */
static inline bool types_add(types_table_t *t, const uint8_t *m, uint32_t mn, const uint8_t *f, uint32_t fn, type_kind_t kind)
{
    uint32_t bytes = types_record_bytes(mn + fn);
    if (mn > TYPES_NAME_MAX || fn > TYPES_NAME_MAX || t->count >= t->count_max || bytes > t->room - t->used ||
        (2 * (t->count + 1) > t->index_room && !types_grow_index(t)))
        return false;
    uint8_t *record = t->bytes + t->used;
    uint16_t lengths[2] = {(uint16_t)mn, (uint16_t)fn};
    record[4] = (uint8_t)kind;
    record[5] = 0;
    memcpy(record + 6, lengths, 4);
    memcpy(record + TYPES_RECORD, m, mn);
    memcpy(record + TYPES_RECORD + mn, f, fn);
    /* Last, so that a process that is killed here leaves a record that does not count. */
    atomic_store_explicit((_Atomic uint32_t *)(void *)record, types_sum(record, mn + fn), memory_order_release);
    *types_place(t, m, mn, f, fn) = (uint32_t)(t->used / 8);
    t->used += bytes;
    t->count++;
    return true;
}

/* Reads the records that are there, up to the first that does not count; what is behind is cut off. False without memory. */
static inline bool types_load(types_table_t *t)
{
    t->used = TYPES_HEAD;
    while (t->room - t->used >= 16) {
        uint8_t *record = t->bytes + t->used;
        uint32_t mn = types_length(record, false), fn = types_length(record, true), bytes = types_record_bytes(mn + fn);
        if (t->count >= t->count_max || mn == 0 || fn == 0 || record[4] >= TYPE_KINDS || bytes > t->room - t->used ||
            port_load32(record) != types_sum(record, mn + fn))
            break;
        if (2 * (t->count + 1) > t->index_room && !types_grow_index(t))
            return false;
        uint32_t *place = types_place(t, record + TYPES_RECORD, mn, record + TYPES_RECORD + mn, fn);
        if (*place == 0) {
            *place = (uint32_t)(t->used / 8);
            t->count++;
        }
        t->used += bytes;
    }
    uint64_t end = t->room;
    for (uint64_t at = t->used; at < end; at += 4096) { /* only pages that are not zero already */
        uint64_t n = end - at < 4096 ? end - at : 4096;
        if (t->bytes[at] != 0 || memcmp(t->bytes + at, t->bytes + at + 1, n - 1) != 0)
            memset(t->bytes + at, 0, n);
    }
    return true;
}

static inline void types_table_close(types_table_t *t)
{
    if (t->mapped)
        munmap(t->bytes, t->room);
    else
        free(t->bytes);
    free(t->index);
    memset(t, 0, sizeof *t);
}

/* In memory only. */
static inline bool types_table_anonymous(types_table_t *t, uint32_t fields_max, uint64_t room)
{
    *t = (types_table_t){.room = room, .used = TYPES_HEAD, .count_max = fields_max, .bytes = calloc(1, room)};
    return t->bytes != NULL && types_grow_index(t);
}

/* ---- the types ---- */

/* t: zeroed. types_close is due either way. fd: of the file, which may be empty and is closed by the caller; -1: in memory
 * only. Returns 0 or an errno: ENOSPC if the disk has no room for it, EINVAL if the file is another's. */
static inline int types_open(types_t *t, int fd, uint32_t fields_max)
{
    pthread_mutex_init(&t->lock, NULL);
    uint64_t room = TYPES_HEAD + (uint64_t)fields_max * TYPES_FIELD_BYTES;
    if (fd < 0)
        return types_table_anonymous(&t->kept, fields_max, room) ? 0 : ENOMEM;
    struct stat s;
    if (fstat(fd, &s) != 0)
        return errno;
    /* A table that was made for more keeps its room: nothing of it is lost. */
    if ((uint64_t)s.st_size > room)
        room = (uint64_t)s.st_size / 8 * 8;
    int error = posix_fallocate(fd, 0, (off_t)room);
    if (error != 0)
        return error;
    types_table_t *kept = &t->kept;
    uint8_t *bytes = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED)
        return errno;
    *kept = (types_table_t){.bytes = bytes, .room = room, .mapped = true};
    kept->count_max = (uint32_t)((room - TYPES_HEAD) / 16);
    static const uint8_t nothing[TYPES_HEAD];
    if (memcmp(bytes, nothing, TYPES_HEAD) == 0)
        memcpy(bytes, TYPES_MAGIC, sizeof TYPES_MAGIC);
    else if (memcmp(bytes, TYPES_MAGIC, sizeof TYPES_MAGIC) != 0)
        return EINVAL;
    if (!types_load(kept))
        return ENOMEM;
    kept->count_max = fields_max > kept->count ? fields_max : kept->count;
    return 0;
}

static inline void types_close(types_t *t)
{
    types_table_close(&t->kept);
    types_table_close(&t->pinned);
    pthread_mutex_destroy(&t->lock);
}

/* The type that a field has, which is `came` if it is new. */
static inline type_kind_t types_of(types_t *t, const uint8_t *m, uint32_t mn, const uint8_t *f, uint32_t fn, type_kind_t came)
{
    pthread_mutex_lock(&t->lock);
    int kept = types_find(&t->pinned, m, mn, f, fn);
    if (kept < 0)
        kept = types_find(&t->kept, m, mn, f, fn);
    if (kept < 0) {
        kept = (int)came;
        if (types_add(&t->kept, m, mn, f, fn, came))
            t->dirty = true;
        else
            t->unguarded++;
    }
    pthread_mutex_unlock(&t->lock);
    return (type_kind_t)kept;
}

/* Takes over a table of pinned types, and gives back the former one in its place. */
static inline void types_pin(types_t *t, types_table_t *pinned)
{
    pthread_mutex_lock(&t->lock);
    types_table_t former = t->pinned;
    t->pinned = *pinned;
    *pinned = former;
    pthread_mutex_unlock(&t->lock);
}

/* Has the system write what is new to the disk. Returns 0 or an errno. */
static inline int types_sync(types_t *t)
{
    pthread_mutex_lock(&t->lock);
    bool due = t->dirty && t->kept.mapped;
    uint64_t used = t->kept.used;
    t->dirty = false;
    pthread_mutex_unlock(&t->lock);
    return due && msync(t->kept.bytes, used, MS_SYNC) != 0 ? errno : 0;
}

#endif
