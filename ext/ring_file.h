/* The ring's file and its mapping: what lies where, made and mapped. What is done with it is in ring.h.
 *
 *   file:    | header, one page | slots, 65,536 of 32 bytes | data, capacity bytes |
 *   memory:  | header | slots |        | data | the same data again |
 *
 * The data are mapped twice in a row, so a run that passes the end goes on in the second mapping and is one
 * piece of memory for writer and reader. A slot describes one run: a few hundred records that one burst
 * brought. Positions are byte counts that only grow; `position % capacity` is the place in the data.
 */
#ifndef PENSTOCK_RING_FILE_H
#define PENSTOCK_RING_FILE_H

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sum.h"

#define RING_MAGIC UINT64_C(0x31474e4952534e50) /* "PNSRING1" in memory order */
#define RING_LAYOUT 3
#ifndef RING_SLOTS /* tests have smaller ones */
#define RING_SLOTS 65536u
#endif
#define RING_OUT_MAX 256u /* batches that may be taken and not yet freed */
/* An open run is summed up in parts of RING_SUM_BYTES while they are in the first cache, but RING_SUM_LAG behind the
 * writing: the latest bytes are on their way there still, and reading them would mean to wait for that. */
#ifndef RING_SUM_BYTES
#define RING_SUM_BYTES 4096u
#define RING_SUM_LAG 4096u
#endif

#define RING_BOOT_BYTES 16u

/* What is written into a ring. Records of either kind can be put one behind the other. */
typedef enum {
    RING_LP,        /* line protocol: one metric is one line */
    RING_LP_SIGNED, /* the same without unsigned integers: `1u` becomes `1i`, clamped */
    RING_PB,        /* TimeSeries of Prometheus remote write: one metric is one sample */
    RING_ENCODINGS
} ring_encoding_t;

#define RING_SEVERAL 255u /* in place of a listener: a run that has lines of several, or nobody knows of whom */

typedef struct {
    uint64_t position; /* of the first byte */
    uint32_t length;   /* bytes */
    uint32_t metrics;
    int64_t oldest_ns; /* realtime arrival of the first metric */
    uint64_t sum;      /* of all above, the number of the slot and the bytes; see ring_sum */
} ring_slot_t;

/* A run that was open at the end of a burst, as long as it was then. */
typedef struct {
    _Alignas(CACHE_LINE) uint64_t number; /* of the slot that it will have */
    ring_slot_t slot;
} ring_note_t;

typedef struct {
    _Atomic uint64_t magic; /* stored last */
    uint64_t layout;
    uint64_t capacity;
    uint64_t slots;
    uint8_t boot_id[RING_BOOT_BYTES]; /* of the system that wrote it: after a crash of that one pages may be missing */
    uint64_t encoding; /* ring_encoding_t */
    int64_t created_ns; /* realtime; also keeps the sums of two rings apart */
    uint64_t sum;       /* of all above but the magic */
    _Alignas(CACHE_LINE) _Atomic uint64_t head; /* slots published */
    _Alignas(CACHE_LINE) _Atomic uint64_t tail; /* slots freed */
    ring_note_t notes[2];
} ring_header_t;

/* One batch that was taken; kept until all before it are freed too. */
typedef struct {
    uint64_t end; /* first slot behind it */
    uint32_t metrics;
    bool done;
} ring_out_t;

typedef struct ring {
    /* Geometry, constant. */
    _Alignas(CACHE_LINE) ring_header_t *header; /* owned: mapping of header and slots */
    ring_slot_t *slots;                         /* inside the same mapping */
    uint8_t *data;                              /* owned: 2 * capacity bytes of address space, PORT_PADDING behind */
    uint64_t capacity;                          /* bytes, a multiple of the page size */
    int wake_fd;                                /* eventfd, owned by ring_t's owner */
    ring_encoding_t encoding;
    sum_lanes_fn sum;                           /* NULL: no checksums, since nobody will read the file again */
    uint64_t seed;                              /* of the sums of this ring */
    _Atomic uint32_t slot_bytes_max;            /* a run is closed at either limit */
    _Atomic uint32_t slot_metrics_max;

    /* The writer's own. */
    _Alignas(CACHE_LINE) uint64_t position; /* next byte to write */
    uint8_t *cursor;                        /* = data + position % capacity, without the division */
    uint64_t limit;                         /* position may grow to here, by the tail as last seen */
    uint64_t head_own;                      /* = header->head */
    uint64_t run_start;
    uint64_t run_summed;  /* what lies before this position is in run_lanes */
    uint64_t check_at;    /* position at which the run is to be closed, or summed up */
    uint32_t run_metrics; /* 0: no run is open */
    uint32_t note;        /* which of the two notes is the older one */
    bool run_marked;      /* see ring_mark */
    uint8_t run_listener, listener_now; /* whose lines are in the open run, and come now; see ring_from */
    int64_t run_oldest_ns;
    uint32_t run_lanes[SUM_LANES];
    uint64_t offered;        /* samples, where metrics are samples: accepted, and not yet in the next */
    uint64_t passed_over;    /* lines that are not for this ring, and not yet in `filtered` */
    counter_t accepted;      /* metrics that the lane accepted while the ring was attached */
    counter_t written;       /* metrics */
    counter_t missed;        /* metrics that found this ring full while another one took them */
    counter_t filtered;      /* lines that were accepted for other rings only: a filter or a shard left this one out */
    counter_t left_out;      /* fields of written lines that the encoding cannot hold: strings, and names that became the same */
    counter_t written_bytes;
    counter_t restarts; /* jumps to the beginning */
    counter_t published_metrics; /* what was adopted included */
    counter_t published_bytes;
    counter_t restored; /* metrics that were adopted */
    counter_t restored_bytes;
    _Atomic uint64_t marks[(RING_SLOTS + 63) / 64]; /* by slot, a bit each; see ring_mark. Not in the file */
    uint8_t listeners[RING_SLOTS]; /* by slot, stored before head: whose lines are in it; see ring_from. Not in the file */
    uint64_t own_from;             /* slots before this one were adopted */

    /* The reader's own. */
    _Alignas(CACHE_LINE) uint64_t taken; /* slots taken */
    uint64_t taken_metrics;
    uint64_t taken_bytes;
    counter_t freed; /* metrics */
    counter_t freed_bytes;
    ring_out_t out[RING_OUT_MAX]; /* circular */
    uint32_t out_first, out_count;

    /* Wake-up: thresholds set by the reader, looked at by the writer. */
    _Alignas(CACHE_LINE) _Atomic uint64_t wake_metrics;
    _Atomic uint64_t wake_bytes;
    _Atomic uint32_t armed;
} ring_t;

typedef struct {
    const uint8_t *bytes; /* borrowed from the ring until freed */
    uint64_t length;
    uint64_t begin; /* its first slot */
    uint64_t end;   /* first slot behind it */
    uint32_t metrics;
    int64_t oldest_ns;
    bool marked; /* one of its runs is; see ring_mark */
} ring_batch_t;

/* ---- memory ---- */

static inline size_t ring_head_bytes(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes = page + RING_SLOTS * sizeof(ring_slot_t);
    return (bytes + page - 1) / page * page;
}

/* When the ring was made, realtime: with it the number of a slot tells that slot from all others. */
static inline int64_t ring_made_ns(const ring_t *r)
{
    return r->header->created_ns;
}

/* Unmaps; the file stays. */
static inline void ring_close(ring_t *r)
{
    if (r->data != NULL)
        munmap(r->data, 2 * r->capacity + (size_t)sysconf(_SC_PAGESIZE));
    if (r->header != NULL)
        munmap(r->header, ring_head_bytes());
    r->data = NULL;
    r->header = NULL;
}

/* Maps the file fd, which has head and r->capacity, a whole number of pages. prot: of the pages, which are shared if
 * they may be written. Returns 0 or an errno; the ring is closed on failure. */
static inline int ring_map(ring_t *r, int fd, int prot)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), head = ring_head_bytes();
    int flags = prot & PROT_WRITE ? MAP_SHARED : MAP_PRIVATE, error;
    r->header = NULL;
    r->data = NULL;
    void *map = mmap(NULL, head, prot, flags, fd, 0);
    if (map == MAP_FAILED)
        return errno;
    r->header = map;
    r->slots = (ring_slot_t *)((uint8_t *)map + page);
    /* One more page behind the two mappings: copies may read (never write) a little beyond a run's end. */
    uint8_t *base = mmap(NULL, 2 * r->capacity + page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        error = errno;
        ring_close(r);
        return error;
    }
    r->data = base;
    for (int i = 0; i < 2; i++)
        if (mmap(base + (size_t)i * r->capacity, r->capacity, prot, flags | MAP_FIXED, fd, (off_t)head) == MAP_FAILED) {
            error = errno;
            ring_close(r);
            return error;
        }
    return 0;
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* Maps the first n bytes of the ring's pages now, so that its first lap costs the writer no page faults. The pages are
 * there already, and what is in them stays. Before kernel 5.14 nothing happens. */
static inline void ring_populate(ring_t *r, uint64_t n)
{
    (void)madvise(r->data, n < r->capacity ? n : r->capacity, MADV_POPULATE_WRITE);
}

/* The sum of the header's constant part; seeds the sums of the runs. */
static inline uint64_t ring_header_sum(const ring_header_t *h)
{
    uint64_t sum = sum_mix(sum_mix(sum_mix(RING_MAGIC, h->layout), h->capacity), h->slots);
    sum = sum_mix(sum_mix(sum, port_load64(h->boot_id)), port_load64(h->boot_id + 8));
    return sum_mix(sum_mix(sum, h->encoding), (uint64_t)h->created_ns);
}

/* Maps a new ring over fd, an empty file (a regular one or a memfd) that the caller may close afterwards.
 * capacity: bytes, rounded up to whole pages. boot_id: RING_BOOT_BYTES, or NULL where nobody will read it again.
 * Returns 0 or an errno; the ring is closed on failure.
 * Blocks are allocated first: a sparse file on a full disk would end the process with SIGBUS at a later write. */
static inline int ring_open(ring_t *r, int fd, uint64_t capacity, const uint8_t *boot_id, int64_t created_ns)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    r->capacity = (capacity + page - 1) / page * page;
    int error = posix_fallocate(fd, 0, (off_t)(ring_head_bytes() + r->capacity));
    if (!error)
        error = ring_map(r, fd, PROT_READ | PROT_WRITE);
    if (error)
        return error;
    ring_header_t *h = r->header;
    h->layout = RING_LAYOUT;
    h->capacity = r->capacity;
    h->slots = RING_SLOTS;
    h->encoding = r->encoding;
    h->created_ns = created_ns;
    if (boot_id != NULL)
        memcpy(h->boot_id, boot_id, RING_BOOT_BYTES);
    r->seed = h->sum = ring_header_sum(h);
    atomic_store_explicit(&h->magic, RING_MAGIC, memory_order_release);
    r->cursor = r->data;
    r->limit = r->capacity;
    return 0;
}

#endif
