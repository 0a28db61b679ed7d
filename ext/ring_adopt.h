/* Rings that an earlier process left: what is in the file is looked at, and believed only where it must be so.
 *
 * A file that may be adopted is one that we wrote ourselves, in this layout, since this machine was started; the runs
 * that wait in it (from the tail to the head) follow each other without a gap, and the checksum of each holds. Then
 * writer and reader go on in it where they were. A process that is killed while it adopts has done nothing that the
 * next one could not do again: the only thing that is written is the run that was open, as one more slot.
 *
 * No number in the file is used before it is checked: whatever the bytes are, nothing outside of the mapping is read,
 * and no more than the capacity of the ring is summed up.
 */
#ifndef PENSTOCK_RING_ADOPT_H
#define PENSTOCK_RING_ADOPT_H

#include "ring.h"

typedef enum {
    RING_WHOLE,
    RING_UNFINISHED, /* its maker was killed before it was a ring: nothing can be in it */
    RING_FOREIGN,    /* no ring, or one of another size than it says */
    RING_OLDER,      /* of another layout, or from before the machine was started */
    RING_TORN,       /* of ours, and damaged; salvageable says whether some of it can be saved */
} ring_state_t;

typedef struct {
    ring_state_t state;
    bool salvageable;
    uint64_t runs, metrics, bytes;     /* that wait and are whole; the open run included */
    uint64_t torn_runs, torn_metrics;  /* that wait and are not; metrics by what their slots say, one at least */
} ring_findings_t;

/* Capacities that a file may have, bytes. Its size must fit, so this only keeps sums from overflowing. */
#define RING_CAPACITY_MAX (UINT64_C(1) << 40)
#define RING_POSITION_MAX (UINT64_C(1) << 62)
#define RING_CLAIM_MAX 65536u /* metrics; runs are closed long before that */

/* Whether a slot that claims to be number `number` is whole. left: bytes that may still be summed up; reduced. */
static inline bool ring_slot_whole(const ring_t *r, uint64_t number, const ring_slot_t *slot, uint64_t *left)
{
    if (slot->length == 0 || slot->metrics == 0 || slot->metrics > slot->length || slot->position > RING_POSITION_MAX ||
        slot->length > *left)
        return false;
    *left -= slot->length;
    return slot->sum == ring_sum(r, number, slot);
}

/* How many metrics a torn run is counted as. */
static inline uint32_t ring_claim(const ring_slot_t *slot)
{
    return slot->metrics > 0 && slot->metrics <= slot->length && slot->metrics <= RING_CLAIM_MAX ? slot->metrics : 1;
}

/* What kind of file this is, by its header. size: bytes of the file. The header may be any bytes. */
static inline ring_state_t ring_judge(const ring_header_t *h, uint64_t size, const uint8_t *boot_id)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t magic = atomic_load_explicit((_Atomic uint64_t *)&h->magic, memory_order_relaxed);
    uint64_t head = atomic_load_explicit((_Atomic uint64_t *)&h->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit((_Atomic uint64_t *)&h->tail, memory_order_relaxed);
    if (magic != RING_MAGIC)
        return magic == 0 && h->layout <= RING_LAYOUT && head == 0 && tail == 0 ? RING_UNFINISHED : RING_FOREIGN;
    if (h->layout != RING_LAYOUT || memcmp(h->boot_id, boot_id, RING_BOOT_BYTES) != 0)
        return RING_OLDER;
    if (h->sum != ring_header_sum(h))
        return RING_TORN;
    if (h->slots != RING_SLOTS || h->capacity == 0 || h->capacity % page || h->capacity > RING_CAPACITY_MAX ||
        h->encoding >= RING_ENCODINGS || size != ring_head_bytes() + h->capacity)
        return RING_FOREIGN;
    return head - tail > RING_SLOTS ? RING_TORN : RING_WHOLE;
}

/* The longest run that was open when the writer was killed, or NULL. `end` is where the last published run ends; an
 * empty ring has none, and its open run may lie anywhere. */
static inline const ring_note_t *ring_find_note(const ring_t *r, uint64_t head, bool empty, uint64_t end, uint64_t left)
{
    const ring_note_t *best = NULL;
    for (int i = 0; i < 2; i++) {
        const ring_note_t *note = &r->header->notes[i];
        uint64_t budget = left;
        if (note->number == head && (empty || note->slot.position == end) &&
            ring_slot_whole(r, head, &note->slot, &budget) && (best == NULL || note->slot.length > best->slot.length))
            best = note;
    }
    return best;
}

/* Looks at everything that waits in a mapped ring whose header is good; changes nothing. `note` gets the open run. */
static inline void ring_survey(const ring_t *r, ring_findings_t *found, const ring_note_t **note)
{
    uint64_t head = atomic_load_explicit(&r->header->head, memory_order_acquire);
    uint64_t tail = atomic_load_explicit(&r->header->tail, memory_order_acquire);
    uint64_t left = r->capacity, end = 0;
    bool gaps = false;
    for (uint64_t at = tail; at != head; at++) {
        const ring_slot_t *slot = &r->slots[at % RING_SLOTS];
        if (ring_slot_whole(r, at, slot, &left)) {
            gaps |= at != tail && slot->position != end;
            found->runs++;
            found->metrics += slot->metrics;
            found->bytes += slot->length;
        } else {
            found->torn_runs++;
            found->torn_metrics += ring_claim(slot);
        }
        end = slot->position + slot->length;
    }
    *note = head - tail < RING_SLOTS ? ring_find_note(r, head, head == tail, end, left) : NULL;
    if (*note != NULL) {
        found->runs++;
        found->metrics += (*note)->slot.metrics;
        found->bytes += (*note)->slot.length;
    }
    if (found->torn_runs || gaps)
        found->state = RING_TORN;
}

/* Maps the file fd if it is a ring, and says what it is. Returns 0 or an errno. The ring is mapped if the state is
 * RING_WHOLE, or RING_TORN and salvageable; else it is closed. prot: see ring_map. r->sum is set by the caller. */
static inline int ring_examine(ring_t *r, int fd, int prot, const uint8_t *boot_id, ring_findings_t *found,
                               const ring_note_t **note)
{
    struct stat status;
    uint8_t page[sizeof(ring_header_t)] __attribute__((aligned(CACHE_LINE))) = {0};
    const ring_header_t *header = (const ring_header_t *)page;
    memset(found, 0, sizeof *found);
    r->header = NULL;
    r->data = NULL;
    if (fstat(fd, &status) < 0)
        return errno;
    ssize_t n = pread(fd, page, sizeof page, 0); /* what a short file does not have is zero */
    if (n < 0)
        return errno;
    found->state = S_ISREG(status.st_mode) ? ring_judge(header, (uint64_t)status.st_size, boot_id) : RING_FOREIGN;
    if (found->state != RING_WHOLE)
        return 0;
    r->capacity = header->capacity;
    r->encoding = (ring_encoding_t)header->encoding;
    r->seed = header->sum;
    int error = ring_map(r, fd, prot);
    if (error)
        return error;
    found->salvageable = true;
    ring_survey(r, found, note);
    return 0;
}

/* Goes on with the ring in the file fd, if its state is RING_WHOLE; else the ring is closed. Returns 0 or an errno. */
static inline int ring_adopt(ring_t *r, int fd, const uint8_t *boot_id, ring_findings_t *found)
{
    const ring_note_t *note = NULL;
    int error = ring_examine(r, fd, PROT_READ | PROT_WRITE, boot_id, found, &note);
    if (!error && found->state == RING_WHOLE)
        error = posix_fallocate(fd, 0, (off_t)(ring_head_bytes() + r->capacity)); /* see ring_open */
    if (error || found->state != RING_WHOLE) {
        ring_close(r);
        return error;
    }
    uint64_t head = atomic_load_explicit(&r->header->head, memory_order_acquire);
    r->taken = atomic_load_explicit(&r->header->tail, memory_order_acquire);
    if (note != NULL) {
        r->slots[head % RING_SLOTS] = note->slot;
        head++;
        atomic_store_explicit(&r->header->head, head, memory_order_release);
    }
    r->head_own = head;
    for (uint64_t at = r->taken; at != head; at++)
        ring_mark_slot(r, at, true); /* nobody knows any more whether they were */
    for (uint64_t at = r->taken; at != head; at++)
        r->listeners[at % RING_SLOTS] = RING_SEVERAL;
    r->own_from = head;
    if (head != r->taken) {
        const ring_slot_t *first = &r->slots[r->taken % RING_SLOTS], *last = &r->slots[(head - 1) % RING_SLOTS];
        r->position = last->position + last->length;
        r->limit = first->position + r->capacity;
    } else {
        r->position = 0; /* nothing refers to any position */
        r->limit = r->capacity;
    }
    r->cursor = r->data + r->position % r->capacity;
    counter_add(&r->restored, found->metrics);
    counter_add(&r->restored_bytes, found->bytes);
    counter_add(&r->published_metrics, found->metrics);
    counter_add(&r->published_bytes, found->bytes);
    return 0;
}

/* Writes the whole runs of a ring that was examined into another one, which nobody else uses yet and which has the same
 * capacity, one behind the other. What does not fit (runs that overlap) counts as torn. */
static inline void ring_salvage(ring_t *to, const ring_t *from, const ring_note_t *note, ring_findings_t *found)
{
    uint64_t head = atomic_load_explicit(&from->header->head, memory_order_acquire);
    uint64_t tail = atomic_load_explicit(&from->header->tail, memory_order_acquire);
    uint64_t left = from->capacity;
    for (uint64_t at = tail; at != head + (note != NULL); at++) {
        const ring_slot_t *slot = at == head ? &note->slot : &from->slots[at % RING_SLOTS];
        if (at != head && !ring_slot_whole(from, at, slot, &left))
            continue;
        uint8_t *place = ring_reserve(to, slot->length);
        if (place == NULL) {
            found->runs--;
            found->metrics -= slot->metrics;
            found->bytes -= slot->length;
            found->torn_runs++;
            found->torn_metrics += slot->metrics;
            continue;
        }
        memcpy(place, from->data + slot->position % from->capacity, slot->length);
        ring_commit(to, slot->length, slot->metrics, slot->oldest_ns);
        ring_publish(to);
    }
}

#endif
