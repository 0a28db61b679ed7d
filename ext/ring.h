/* The ring: finished records between one writer (a lane) and one reader (a flusher), which outlive their process.
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

#include "ring_file.h"

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

/* Marks the open run, or the next one: something in it is to be looked at by who takes it. Called before the record that it is
 * for is reserved: a run may be closed by the commit. What is not written in the end has marked a run for nothing. */
static inline void ring_mark(ring_t *r)
{
    r->run_marked = true;
}

/* Whether the run of a slot is marked. */
static inline bool ring_slot_marked(const ring_t *r, uint64_t number)
{
    uint64_t place = number % RING_SLOTS;
    return atomic_load_explicit(&r->marks[place / 64], memory_order_relaxed) >> place % 64 & 1;
}

/* Marks the run of a slot, or takes the mark away that the last one had there. Before it is visible to the reader. */
static inline void ring_mark_slot(ring_t *r, uint64_t number, bool marked)
{
    uint64_t place = number % RING_SLOTS;
    if (likely(ring_slot_marked(r, number) == marked))
        return;
    uint64_t others = atomic_load_explicit(&r->marks[place / 64], memory_order_relaxed) & ~(UINT64_C(1) << place % 64);
    atomic_store_explicit(&r->marks[place / 64], others | (uint64_t)marked << place % 64, memory_order_relaxed);
}

/* What else must be the same at both ends of a run's way, besides its bytes and their number. */
static inline uint64_t ring_seed(const ring_t *r, uint64_t number, const ring_slot_t *slot)
{
    /* Products by different odd numbers do not wait for each other. */
    uint64_t seed = r->seed + number * UINT64_C(0xD1B54A32D192ED03) + slot->position * UINT64_C(0xABC98388FB8FAC03);
    return seed + slot->metrics * UINT64_C(0x8CB92BA72F3D8DD7) + (uint64_t)slot->oldest_ns * UINT64_C(0xAEF17502108EF2D9);
}

/* The sum of a run, by its bytes. */
static inline uint64_t ring_sum(const ring_t *r, uint64_t number, const ring_slot_t *slot)
{
    return sum_bytes(r->sum, r->data + slot->position % r->capacity, slot->length, ring_seed(r, number, slot));
}

/* Sums n more bytes of the open run up in lanes. */
static inline void ring_sum_on(const ring_t *r, uint32_t *lanes, uint64_t n)
{
    const uint8_t *bytes = r->cursor - (r->position - r->run_summed);
    r->sum(lanes, bytes < r->data ? bytes + r->capacity : bytes, n);
}

/* Describes the open run. */
static inline void ring_describe(const ring_t *r, ring_slot_t *slot)
{
    slot->position = r->run_start;
    slot->length = (uint32_t)(r->position - r->run_start);
    slot->metrics = r->run_metrics;
    slot->oldest_ns = r->run_oldest_ns;
    if (r->sum != NULL) {
        uint32_t lanes[SUM_LANES];
        memcpy(lanes, r->run_lanes, sizeof lanes);
        ring_sum_on(r, lanes, r->position - r->run_summed);
        slot->sum = sum_finish(lanes, slot->length, ring_seed(r, r->head_own, slot));
    }
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
    ring_mark_slot(r, r->head_own, r->run_marked);
    r->run_marked = false;
    r->listeners[r->head_own % RING_SLOTS] = r->run_listener;
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

/* Sets the position at which ring_check is due. */
static inline void ring_set_check(ring_t *r, uint32_t bytes_max)
{
    r->check_at = r->run_start + bytes_max;
    if (r->sum != NULL && r->run_summed + RING_SUM_BYTES + RING_SUM_LAG < r->check_at)
        r->check_at = r->run_summed + RING_SUM_BYTES + RING_SUM_LAG;
}

/* Closes the open run if it has reached a limit, or sums up what has come to it. */
static inline void ring_check(ring_t *r)
{
    uint32_t bytes_max = atomic_load_explicit(&r->slot_bytes_max, memory_order_relaxed);
    if (r->run_metrics >= atomic_load_explicit(&r->slot_metrics_max, memory_order_relaxed) ||
        r->position - r->run_start >= bytes_max) {
        ring_publish(r);
        ring_notify(r);
        return;
    }
    if (r->sum != NULL && r->position - r->run_summed >= RING_SUM_BYTES + RING_SUM_LAG) {
        uint64_t n = (r->position - r->run_summed - RING_SUM_LAG) / SUM_BLOCK * SUM_BLOCK;
        ring_sum_on(r, r->run_lanes, n);
        r->run_summed += n;
    }
    ring_set_check(r, bytes_max);
}

/* Counts the n bytes just written at ring_reserve's place as one more run of `metrics` metrics. */
static inline void ring_commit(ring_t *r, uint64_t n, uint32_t metrics, int64_t arrival_ns)
{
    if (r->run_metrics == 0) {
        r->run_start = r->run_summed = r->position;
        r->run_oldest_ns = arrival_ns;
        r->run_listener = r->listener_now;
        ring_set_check(r, atomic_load_explicit(&r->slot_bytes_max, memory_order_relaxed));
        memset(r->run_lanes, 0, sizeof r->run_lanes);
    }
    r->position += n;
    r->cursor += n;
    if (unlikely(r->cursor >= r->data + r->capacity))
        r->cursor -= r->capacity;
    r->run_metrics += metrics;
    if (unlikely(r->position >= r->check_at ||
                 r->run_metrics >= atomic_load_explicit(&r->slot_metrics_max, memory_order_relaxed)))
        ring_check(r);
}

/* Called before a burst: at low fill the ring starts again at its beginning. */
static inline void ring_begin(ring_t *r)
{
    if (r->run_metrics == 0 && r->cursor != r->data &&
        atomic_load_explicit(&r->header->tail, memory_order_acquire) == r->head_own)
        ring_refresh(r);
}

/* Called after ring_begin: what is written from now on came by this listener, RING_SEVERAL if by several or by none. A run that
 * an earlier burst has left open is then one of several. */
static inline void ring_from(ring_t *r, uint8_t listener)
{
    r->listener_now = listener;
    if (unlikely(r->run_metrics != 0) && r->run_listener != listener)
        r->run_listener = RING_SEVERAL;
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
    bool full = false, marked = false;
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
        marked |= ring_slot_marked(r, at);
    }
    if (!full && !partial && length < bytes_max && metrics < metrics_max)
        return false;
    batch->bytes = r->data + start % r->capacity;
    batch->length = length;
    batch->begin = r->taken;
    batch->end = at;
    batch->metrics = (uint32_t)metrics;
    batch->oldest_ns = oldest;
    batch->marked = marked;
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

/* Metrics of the slots from `begin` to `end` that this process has written and that arrived at `since_ns` or later. */
static inline uint64_t ring_young_of(const ring_t *r, uint64_t begin, uint64_t end, int64_t since_ns)
{
    uint64_t metrics = 0;
    for (uint64_t at = begin > r->own_from ? begin : r->own_from; at < end; at++) {
        const ring_slot_t *slot = &r->slots[at % RING_SLOTS];
        metrics += slot->oldest_ns >= since_ns ? slot->metrics : 0;
    }
    return metrics;
}

/* Metrics that this process has written, that are not freed and that arrived at `since_ns` or later. What was freed out of
 * order is not among them. All slots that wait are looked at: a clock that was set has left them in no order. */
static inline uint64_t ring_young(const ring_t *r, int64_t since_ns)
{
    uint64_t head = atomic_load_explicit(&r->header->head, memory_order_acquire);
    uint64_t at = atomic_load_explicit(&r->header->tail, memory_order_relaxed), metrics = 0;
    for (uint32_t i = 0; i < r->out_count; i++) {
        const ring_out_t *out = &r->out[(r->out_first + i) % RING_OUT_MAX];
        if (!out->done)
            metrics += ring_young_of(r, at, out->end, since_ns);
        at = out->end;
    }
    return metrics + ring_young_of(r, at, head, since_ns);
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

/* Counts what the writer has accepted since the last call: so many points, which are the metrics of a ring of lines, but
 * for those that are for other rings only. In a ring of samples a point is any number of metrics, which have been added
 * up in `offered`. */
static inline void ring_count_accepted(ring_t *r, uint64_t points)
{
    counter_add(&r->accepted, r->encoding == RING_PB ? r->offered : points - r->passed_over);
    r->offered = 0;
    if (r->passed_over) {
        counter_add(&r->filtered, r->passed_over);
        r->passed_over = 0;
    }
}

#endif
