/* The ring: finished records between one writer (a lane) and one reader (a flusher), which outlive their process.
 *
 *   file:    | header, one page | slots, 65,536 of 32 bytes | data, capacity bytes |
 *   memory:  | header | slots |        | data | the same data again |
 *
 * The data are mapped twice in a row, so a run that passes the end goes on in the second mapping and is one
 * piece of memory for writer and reader. A slot describes one run: a few hundred records that one burst
 * brought. Positions are byte counts that only grow; `position % capacity` is the place in the data.
 *
 * Who writes what: the writer owns the data, the slots and `head`; the reader owns `tail` and the wake-up
 * thresholds. `head` is stored with release after the slot and its bytes, so the reader never sees half a run;
 * `tail` is stored with release after the last look at the bytes, so the writer never overwrites what is read.
 *
 * Where the writer finds everything freed it goes on at a multiple of the capacity, that is at the beginning:
 * a ring that is emptied as fast as it is filled touches a few pages only. No run, and no batch, lies across
 * such a jump, since a jump needs an empty ring. So the runs that wait always follow each other without a gap.
 *
 * A process may be killed between any two instructions. What it has stored is then in the file, and the next one goes
 * on with it (ring_adopt.h):
 *
 *   bytes ─▶ slot ─▶ checksum ─▶ head      killed before the head: the run was not there yet
 *   the answer of the server ─▶ tail       killed before the tail: the batch is sent again, which changes nothing
 *
 * What lies from the tail to the head is whole at every instant, for the writer overwrites only what lies before a
 * tail that is in the file. A run that stays open between two bursts is noted in the header, in two places by turns, so
 * that one of them is whole while the other is written. The checksums are for what a kill does not do: lost pages, and
 * others who write into the file.
 */
#ifndef PENSTOCK_RING_H
#define PENSTOCK_RING_H

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sum.h"

#define RING_MAGIC UINT64_C(0x31474e4952534e50) /* "PNSRING1" in memory order */
#define RING_LAYOUT 2
#ifndef RING_SLOTS /* tests have smaller ones */
#define RING_SLOTS 65536u
#endif
#define RING_OUT_MAX 256u /* batches that may be taken and not yet freed */

#define RING_BOOT_BYTES 16u

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
    uint64_t unsigned_ok;
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
    bool unsigned_ok;                           /* `1u` may be written; otherwise `1i`, clamped */
    sum_blocks_fn sum;                          /* NULL: no checksums, since nobody will read the file again */
    uint64_t seed;                              /* of the sums of this ring */
    _Atomic uint32_t slot_bytes_max;            /* a run is closed at either limit */
    _Atomic uint32_t slot_metrics_max;

    /* The writer's own. */
    _Alignas(CACHE_LINE) uint64_t position; /* next byte to write */
    uint8_t *cursor;                        /* = data + position % capacity, without the division */
    uint64_t limit;                         /* position may grow to here, by the tail as last seen */
    uint64_t head_own;                      /* = header->head */
    uint64_t run_start;
    uint32_t run_metrics; /* 0: no run is open */
    uint32_t note;        /* which of the two notes is the older one */
    int64_t run_oldest_ns;
    counter_t accepted;      /* metrics that the lane accepted while the ring was attached */
    counter_t written;       /* metrics */
    counter_t missed;        /* metrics that found this ring full while another one took them */
    counter_t written_bytes;
    counter_t restarts; /* jumps to the beginning */
    counter_t published_metrics; /* what was adopted included */
    counter_t published_bytes;
    counter_t restored; /* metrics that were adopted */
    counter_t restored_bytes;

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
    uint64_t end; /* first slot behind it */
    uint32_t metrics;
    int64_t oldest_ns;
} ring_batch_t;

/* ---- memory ---- */

static inline size_t ring_head_bytes(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes = page + RING_SLOTS * sizeof(ring_slot_t);
    return (bytes + page - 1) / page * page;
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

/* The sum of the header's constant part; seeds the sums of the runs. */
static inline uint64_t ring_header_sum(const ring_header_t *h)
{
    uint64_t sum = sum_mix(sum_mix(sum_mix(RING_MAGIC, h->layout), h->capacity), h->slots);
    sum = sum_mix(sum_mix(sum, port_load64(h->boot_id)), port_load64(h->boot_id + 8));
    return sum_mix(sum_mix(sum, h->unsigned_ok), (uint64_t)h->created_ns);
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
    h->unsigned_ok = r->unsigned_ok;
    h->created_ns = created_ns;
    if (boot_id != NULL)
        memcpy(h->boot_id, boot_id, RING_BOOT_BYTES);
    r->seed = h->sum = ring_header_sum(h);
    atomic_store_explicit(&h->magic, RING_MAGIC, memory_order_release);
    r->cursor = r->data;
    r->limit = r->capacity;
    return 0;
}

/* ---- writer ---- */

/* Learns what the reader has freed, and jumps to the beginning if that is everything. */
static inline void ring_refresh(ring_t *r)
{
    uint64_t tail = atomic_load_explicit(&r->header->tail, memory_order_acquire);
    if (tail != r->head_own) {
        r->limit = r->slots[tail % RING_SLOTS].position + r->capacity;
    } else if (r->run_metrics == 0) {
        uint64_t offset = (uint64_t)(r->cursor - r->data);
        if (offset != 0) {
            r->position += r->capacity - offset;
            r->cursor = r->data;
            counter_add(&r->restarts, 1);
        }
        r->limit = r->position + r->capacity;
    } else {
        r->limit = r->run_start + r->capacity;
    }
}

/* Room for n bytes (and PORT_PADDING behind them, for copies that overshoot), or NULL if the ring is full.
 * n is below 2^31. Nothing is visible to the reader until ring_commit and ring_publish. */
static inline uint8_t *ring_reserve(ring_t *r, uint64_t n)
{
    if (unlikely(r->position + n + PORT_PADDING > r->limit)) {
        ring_refresh(r);
        if (r->position + n + PORT_PADDING > r->limit)
            return NULL;
    }
    if (unlikely(r->run_metrics == 0) &&
        r->head_own - atomic_load_explicit(&r->header->tail, memory_order_acquire) >= RING_SLOTS)
        return NULL;
    return r->cursor;
}

/* What must be the same at both ends of a run's way: where it lies, what it is, its bytes. Reads all of them. */
static inline uint64_t ring_sum(const ring_t *r, uint64_t number, const ring_slot_t *slot)
{
    uint64_t seed = sum_mix(sum_mix(r->seed, number), slot->position);
    seed = sum_mix(sum_mix(seed, slot->metrics), (uint64_t)slot->oldest_ns);
    return sum_bytes(r->sum, r->data + slot->position % r->capacity, slot->length, seed);
}

/* Describes the open run. */
static inline void ring_describe(const ring_t *r, ring_slot_t *slot)
{
    slot->position = r->run_start;
    slot->length = (uint32_t)(r->position - r->run_start);
    slot->metrics = r->run_metrics;
    slot->oldest_ns = r->run_oldest_ns;
    if (r->sum != NULL)
        slot->sum = ring_sum(r, r->head_own, slot);
}

/* Closes the open run and makes it visible. */
static inline void ring_publish(ring_t *r)
{
    if (r->run_metrics == 0)
        return;
    ring_slot_t *slot = &r->slots[r->head_own % RING_SLOTS];
    uint32_t length = (uint32_t)(r->position - r->run_start);
    ring_describe(r, slot);
    counter_add(&r->written, r->run_metrics);
    counter_add(&r->written_bytes, length);
    counter_add(&r->published_metrics, r->run_metrics);
    counter_add(&r->published_bytes, length);
    r->run_metrics = 0;
    r->head_own++;
    atomic_store_explicit(&r->header->head, r->head_own, memory_order_release);
}

/* Wakes the reader if it sleeps and enough is published. Costs a fence: once for each burst. */
static inline void ring_notify(ring_t *r)
{
    /* Either we see that the reader is armed, or it sees what was published when it looks after arming. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!atomic_load_explicit(&r->armed, memory_order_relaxed))
        return;
    if (counter_get(&r->published_metrics) < atomic_load_explicit(&r->wake_metrics, memory_order_relaxed) &&
        counter_get(&r->published_bytes) < atomic_load_explicit(&r->wake_bytes, memory_order_relaxed))
        return;
    if (atomic_exchange_explicit(&r->armed, 0, memory_order_acq_rel)) {
        uint64_t one = 1;
        ssize_t ignored = write(r->wake_fd, &one, sizeof one); /* fails only where the counter is full: awake then */
        (void)ignored;
    }
}

/* The end of a burst: what it brought becomes visible. But where half of the slots wait for the reader, bursts of a
 * few metrics would use up the rest long before the bytes: the run stays open for the next burst then, and is closed
 * by its own limits, or by ring_publish once a second. The reader has plenty to take meanwhile. The metrics of the burst
 * are accepted all the same, so the run is noted where the next process finds it. */
static inline void ring_end(ring_t *r)
{
    if (r->head_own - atomic_load_explicit(&r->header->tail, memory_order_acquire) >= RING_SLOTS / 2) {
        if (r->sum != NULL && r->run_metrics != 0) {
            ring_note_t *note = &r->header->notes[r->note];
            note->number = r->head_own;
            ring_describe(r, &note->slot);
            r->note ^= 1;
        }
        return;
    }
    ring_publish(r);
    ring_notify(r);
}

/* Counts the n bytes just written at ring_reserve's place as one more run of `metrics` metrics. */
static inline void ring_commit(ring_t *r, uint64_t n, uint32_t metrics, int64_t arrival_ns)
{
    if (r->run_metrics == 0) {
        r->run_start = r->position;
        r->run_oldest_ns = arrival_ns;
    }
    r->position += n;
    r->cursor += n;
    if (unlikely(r->cursor >= r->data + r->capacity))
        r->cursor -= r->capacity;
    r->run_metrics += metrics;
    if (unlikely(r->run_metrics >= atomic_load_explicit(&r->slot_metrics_max, memory_order_relaxed) ||
                 r->position - r->run_start >= atomic_load_explicit(&r->slot_bytes_max, memory_order_relaxed))) {
        ring_publish(r);
        ring_notify(r);
    }
}

/* Called before a burst: at low fill the ring starts again at its beginning. */
static inline void ring_begin(ring_t *r)
{
    if (r->run_metrics == 0 && r->cursor != r->data &&
        atomic_load_explicit(&r->header->tail, memory_order_acquire) == r->head_own)
        ring_refresh(r);
}

/* ---- reader ---- */

/* Takes whole slots up to both limits, at least one. False if nothing waits, if less than either limit waits
 * and `partial` is false, or if RING_OUT_MAX batches are out. */
static inline bool ring_take(ring_t *r, uint64_t bytes_max, uint64_t metrics_max, bool partial, ring_batch_t *batch)
{
    uint64_t head = atomic_load_explicit(&r->header->head, memory_order_acquire);
    uint64_t at = r->taken;
    if (at == head || r->out_count == RING_OUT_MAX)
        return false;
    const ring_slot_t *slot = &r->slots[at % RING_SLOTS];
    uint64_t start = slot->position, length = 0, metrics = 0;
    int64_t oldest = slot->oldest_ns;
    bool full = false;
    for (; at != head; at++) {
        slot = &r->slots[at % RING_SLOTS];
        if (slot->position != start + length) {
            full = true; /* the writer jumped: the batch ends here */
            break;
        }
        if (at != r->taken && (length + slot->length > bytes_max || metrics + slot->metrics > metrics_max)) {
            full = true;
            break;
        }
        length += slot->length;
        metrics += slot->metrics;
        if (slot->oldest_ns < oldest)
            oldest = slot->oldest_ns;
    }
    if (!full && !partial && length < bytes_max && metrics < metrics_max)
        return false;
    batch->bytes = r->data + start % r->capacity;
    batch->length = length;
    batch->end = at;
    batch->metrics = (uint32_t)metrics;
    batch->oldest_ns = oldest;
    r->out[(r->out_first + r->out_count++) % RING_OUT_MAX] = (ring_out_t){at, (uint32_t)metrics, false};
    r->taken = at;
    r->taken_metrics += metrics;
    r->taken_bytes += length;
    return true;
}

/* Gives a batch's space back, in the order of taking: it is freed once all before it are. */
static inline void ring_free(ring_t *r, const ring_batch_t *batch)
{
    for (uint32_t i = 0; i < r->out_count; i++) {
        ring_out_t *out = &r->out[(r->out_first + i) % RING_OUT_MAX];
        if (out->end == batch->end) {
            out->done = true;
            break;
        }
    }
    counter_add(&r->freed, batch->metrics);
    counter_add(&r->freed_bytes, batch->length);
    while (r->out_count > 0 && r->out[r->out_first % RING_OUT_MAX].done) {
        atomic_store_explicit(&r->header->tail, r->out[r->out_first % RING_OUT_MAX].end, memory_order_release);
        r->out_first = (r->out_first + 1) % RING_OUT_MAX;
        r->out_count--;
    }
}

/* Asks for a wake-up once so much is published and not taken. True if it is already (then nothing is armed). */
static inline bool ring_arm(ring_t *r, uint64_t bytes_min, uint64_t metrics_min)
{
    uint64_t metrics = r->taken_metrics + metrics_min, bytes = r->taken_bytes + bytes_min;
    atomic_store_explicit(&r->wake_metrics, metrics, memory_order_relaxed);
    atomic_store_explicit(&r->wake_bytes, bytes, memory_order_relaxed);
    atomic_store_explicit(&r->armed, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    if (counter_get(&r->published_metrics) < metrics && counter_get(&r->published_bytes) < bytes)
        return false;
    atomic_store_explicit(&r->armed, 0, memory_order_relaxed);
    return true;
}

/* ---- counters, for the control plane ---- */

static inline uint64_t ring_slots_used(ring_t *r)
{
    uint64_t tail = atomic_load_explicit(&r->header->tail, memory_order_acquire);
    return atomic_load_explicit(&r->header->head, memory_order_acquire) - tail;
}

static inline void ring_count_accepted(ring_t *r, uint64_t metrics)
{
    counter_add(&r->accepted, metrics);
}

#endif
