/* Captures: copies of datagrams as they arrived, kept by the thread that received them until somebody has read them, or until
 * others take their place.
 *
 *   segments:  | piece, piece, piece … | piece … | … 16 of them, the oldest overwritten |
 *   piece:     | head: when, by which listener, which number | length, size of the glued ones, bytes | … |
 *
 * One writer, one reader, and neither waits for the other. The writer enters a segment with `generation` 0, and gives the
 * datagrams up that would be there if the reader has pinned it; the reader pins a segment before it looks which generation is
 * there. So no byte is written while somebody reads it, and what was lost is told by the numbers: each datagram that came has
 * one, kept or not.
 *
 * What is copied is what came: also what nobody takes, since it is malformed, denied or over a rate.
 */
#ifndef PENSTOCK_CAPTURE_H
#define PENSTOCK_CAPTURE_H

#include "burst.h"

#define CAPTURE_SEGMENTS 16u
#define CAPTURE_BYTES_MIN (CAPTURE_SEGMENTS * 2 * BURST_MESSAGE_BYTES) /* any message fits into a segment */
#define CAPTURE_LISTENERS 64u
#define CAPTURE_RECORD_BYTES 24u /* that a datagram takes in a block besides its own, at most */
#define CAPTURE_UNWANTED 255u

typedef struct {
    int64_t arrival_ns; /* realtime */
    uint64_t number;    /* of the first datagram, among all that have come */
    uint32_t bytes;     /* of the messages that follow */
    uint16_t listener, messages;
} capture_head_t;

typedef struct {
    uint32_t length, segment; /* bytes, and of each datagram in it but the last */
} capture_message_t;

typedef struct {
    _Alignas(CACHE_LINE) _Atomic uint64_t generation; /* 0: being entered, or empty */
    _Atomic uint32_t used;                            /* bytes of whole pieces */
    _Atomic uint32_t pinned;                          /* by the reader */
} capture_segment_t;

typedef struct {
    uint8_t *bytes; /* owned: CAPTURE_SEGMENTS times segment_bytes */
    uint32_t segment_bytes;
    capture_segment_t segments[CAPTURE_SEGMENTS];
    /* The writer's. */
    _Alignas(CACHE_LINE) uint64_t generation; /* of the segment that is written */
    uint32_t used;
    _Atomic uint64_t newest; /* = generation, for the reader */
    counter_t came;          /* datagrams */
    /* The reader's: where it goes on. */
    _Alignas(CACHE_LINE) uint64_t wanted; /* generation */
    uint32_t at;             /* of the piece in its segment */
    uint32_t message_at, datagram_at; /* inside the piece, behind its head; and in that message */
    uint64_t expected;       /* number of the next datagram; UINT64_MAX: whatever comes */
    uint64_t missed;         /* datagrams that were lost between two that were read */
} capture_t;

/* ---- life ---- */

static inline void capture_close(capture_t *c)
{
    if (c->bytes != NULL)
        munmap(c->bytes, (size_t)CAPTURE_SEGMENTS * c->segment_bytes);
    c->bytes = NULL;
}

/* c: zeroed, CACHE_LINE-aligned memory. bytes: in all, below 2^35. Returns 0 or an errno. Pages that nothing reaches cost
 * no memory. */
static inline int capture_open(capture_t *c, uint64_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    c->segment_bytes = (uint32_t)((bytes / CAPTURE_SEGMENTS + page - 1) / page * page);
    void *map = mmap(NULL, (size_t)CAPTURE_SEGMENTS * c->segment_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return errno;
    c->bytes = map;
    c->wanted = 1;
    return 0;
}

static inline uint8_t *capture_place(const capture_t *c, uint64_t generation)
{
    return c->bytes + (size_t)(generation % CAPTURE_SEGMENTS) * c->segment_bytes;
}

/* ---- writer ---- */

/* Enters the next segment. False if the reader is in it: the one before stays the newest then. */
static inline bool capture_enter(capture_t *c)
{
    capture_segment_t *s = &c->segments[(c->generation + 1) % CAPTURE_SEGMENTS];
    atomic_store_explicit(&s->generation, 0, memory_order_seq_cst);
    if (atomic_load_explicit(&s->pinned, memory_order_seq_cst))
        return false;
    atomic_store_explicit(&s->used, 0, memory_order_relaxed);
    c->generation++;
    c->used = 0;
    atomic_store_explicit(&s->generation, c->generation, memory_order_release);
    atomic_store_explicit(&c->newest, c->generation, memory_order_release);
    return true;
}

/* Makes a piece visible. */
static inline void capture_publish(capture_t *c, const capture_head_t *head)
{
    if (head->messages == 0)
        return;
    memcpy(capture_place(c, c->generation) + c->used, head, sizeof *head);
    c->used += (uint32_t)sizeof *head + head->bytes;
    atomic_store_explicit(&c->segments[c->generation % CAPTURE_SEGMENTS].used, c->used, memory_order_release);
}

/* Room for n bytes more in the piece, or for a new one behind it; NULL if there is none. */
static inline uint8_t *capture_reserve(capture_t *c, capture_head_t *head, uint32_t n)
{
    if (c->generation == 0 || c->used + sizeof *head + head->bytes + n > c->segment_bytes) {
        capture_publish(c, head);
        head->messages = 0;
        head->bytes = 0;
        if (sizeof *head + n > c->segment_bytes || !capture_enter(c))
            return NULL;
    }
    return capture_place(c, c->generation) + c->used + sizeof *head + head->bytes;
}

/* Keeps the first n messages of a burst. */
static inline void capture_burst(capture_t *c, uint16_t listener, const burst_t *burst, uint32_t n, int64_t arrival_ns)
{
    uint64_t number = counter_get(&c->came);
    capture_head_t head = {.arrival_ns = arrival_ns, .listener = listener};
    for (uint32_t i = 0; i < n; i++) {
        struct mmsghdr *message = &burst->header->messages[i];
        capture_message_t m = {message->msg_len, burst_segment_bytes(&message->msg_hdr, message->msg_len)};
        uint64_t datagrams = m.length ? (m.length + (uint64_t)m.segment - 1) / m.segment : 1;
        counter_add(&c->came, datagrams); /* before they are visible */
        uint8_t *to = capture_reserve(c, &head, (uint32_t)sizeof m + m.length);
        if (likely(to != NULL)) {
            if (head.messages == 0)
                head.number = number;
            memcpy(to, &m, sizeof m);
            memcpy(to + sizeof m, burst->buffers + (size_t)i * BURST_STRIDE, m.length);
            head.bytes += (uint32_t)sizeof m + m.length;
            head.messages++;
        } else {
            capture_publish(c, &head); /* numbers in a piece have no gaps */
            head.messages = 0;
            head.bytes = 0;
        }
        number += datagrams;
    }
    capture_publish(c, &head);
}

/* ---- reader ---- */

/* Goes on with what comes from now on; `oldest`: with the oldest that is there. */
static inline void capture_rewind(capture_t *c, bool oldest)
{
    uint64_t newest = atomic_load_explicit(&c->newest, memory_order_acquire);
    c->message_at = c->datagram_at = 0;
    c->missed = 0;
    if (oldest) {
        c->wanted = newest >= CAPTURE_SEGMENTS ? newest - CAPTURE_SEGMENTS + 1 : 1;
        c->at = 0;
        c->expected = UINT64_MAX;
    } else {
        c->wanted = newest ? newest : 1;
        c->at = newest ? atomic_load_explicit(&c->segments[newest % CAPTURE_SEGMENTS].used, memory_order_acquire) : 0;
        c->expected = counter_get(&c->came);
    }
}

/* Bytes that wait to be read, about. */
static inline uint64_t capture_waiting(const capture_t *c)
{
    uint64_t newest = atomic_load_explicit(&c->newest, memory_order_acquire);
    if (newest < c->wanted)
        return 0;
    uint64_t used = atomic_load_explicit(&c->segments[newest % CAPTURE_SEGMENTS].used, memory_order_relaxed);
    return (newest - c->wanted) * c->segment_bytes + used - (newest == c->wanted ? c->at : 0);
}

static inline void capture_unpin(capture_t *c)
{
    atomic_store_explicit(&c->segments[c->wanted % CAPTURE_SEGMENTS].pinned, 0, memory_order_release);
}

static inline void capture_skip(capture_t *c)
{
    c->wanted++;
    c->at = c->message_at = c->datagram_at = 0;
}

/* The piece that comes next: its head is copied, its messages are borrowed until capture_unpin. NULL if there is none; nothing
 * is pinned then. */
static inline const uint8_t *capture_pin(capture_t *c, capture_head_t *head)
{
    for (;;) {
        uint64_t newest = atomic_load_explicit(&c->newest, memory_order_acquire);
        if (newest < c->wanted)
            return NULL;
        if (newest - c->wanted >= CAPTURE_SEGMENTS) {
            c->wanted = newest - CAPTURE_SEGMENTS;
            capture_skip(c);
        }
        capture_segment_t *s = &c->segments[c->wanted % CAPTURE_SEGMENTS];
        atomic_store_explicit(&s->pinned, 1, memory_order_seq_cst);
        if (atomic_load_explicit(&s->generation, memory_order_seq_cst) == c->wanted) {
            uint32_t used = atomic_load_explicit(&s->used, memory_order_acquire);
            if (used > c->at) {
                const uint8_t *piece = capture_place(c, c->wanted) + c->at;
                memcpy(head, piece, sizeof *head);
                return piece + sizeof *head;
            }
            capture_unpin(c);
            if (c->wanted == newest)
                return NULL; /* the writer may still be in it */
        } else {
            capture_unpin(c); /* others have taken its place */
            if (c->wanted == newest)
                return NULL;
        }
        capture_skip(c);
    }
}

/* ---- a block of the file: what several writers have kept, in the order of arrival ---- */

typedef struct {
    const uint8_t *numbers; /* borrowed: CAPTURE_LISTENERS, what each listener is called in the file, or CAPTURE_UNWANTED */
    int64_t since_ns, until_ns; /* arrivals before and from which on nothing is taken; what is too old is passed over */
    uint64_t most;          /* datagrams */
    uint8_t *to;            /* borrowed: `room` bytes, at least CAPTURE_RECORD_BYTES + BURST_MESSAGE_BYTES */
    uint64_t room;
    /* What came of it. */
    uint64_t length, datagrams;
    int64_t first_ns, last_ns;
} capture_block_t;

static inline uint8_t *capture_varint(uint8_t *to, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        *to++ = (uint8_t)(value | 0x80);
    *to++ = (uint8_t)value;
    return to;
}

/* Adds a datagram; false if there is no room for it. */
static inline bool capture_put(capture_block_t *b, int64_t arrival_ns, uint8_t listener, const uint8_t *p, uint32_t n)
{
    if (b->datagrams == b->most || b->room - b->length < n + CAPTURE_RECORD_BYTES)
        return false;
    if (b->datagrams == 0)
        b->first_ns = b->last_ns = arrival_ns;
    int64_t after = arrival_ns - b->last_ns;
    uint8_t *to = capture_varint(b->to + b->length, (uint64_t)after << 1 ^ (uint64_t)(after >> 63));
    to = capture_varint(capture_varint(to, listener), n);
    memcpy(to, p, n);
    b->length = (uint64_t)(to + n - b->to);
    b->last_ns = arrival_ns;
    b->datagrams++;
    return true;
}

/* Takes the rest of a piece that is pinned. False if there is no room for all of it. */
static inline bool capture_take_piece(capture_t *c, const capture_head_t *head, const uint8_t *messages, capture_block_t *b)
{
    uint8_t called = head->listener < CAPTURE_LISTENERS ? b->numbers[head->listener] : CAPTURE_UNWANTED;
    bool wanted = called != CAPTURE_UNWANTED && head->arrival_ns >= b->since_ns;
    if (c->message_at == 0 && c->datagram_at == 0) {
        if (c->expected < head->number)
            c->missed += head->number - c->expected;
        c->expected = head->number;
    }
    while (c->message_at < head->bytes) {
        capture_message_t m;
        memcpy(&m, messages + c->message_at, sizeof m);
        const uint8_t *text = messages + c->message_at + sizeof m;
        do {
            uint32_t left = m.length - c->datagram_at, n = left < m.segment ? left : m.segment;
            if (wanted && !capture_put(b, head->arrival_ns, called, text + c->datagram_at, n))
                return false;
            c->datagram_at += n;
            c->expected++;
        } while (c->datagram_at < m.length);
        c->message_at += (uint32_t)sizeof m + m.length;
        c->datagram_at = 0;
    }
    c->at += (uint32_t)sizeof *head + head->bytes;
    c->message_at = 0;
    return true;
}

/* Fills a block from all captures. False if it is empty. One thread at a time for all of them. */
static inline bool capture_take(capture_t *const *captures, uint32_t count, capture_block_t *b)
{
    b->length = b->datagrams = 0;
    for (;;) {
        capture_t *first = NULL;
        capture_head_t head, first_head = {0};
        for (uint32_t i = 0; i < count; i++) {
            if (capture_pin(captures[i], &head) == NULL)
                continue;
            capture_unpin(captures[i]);
            if (head.arrival_ns < b->until_ns && (first == NULL || head.arrival_ns < first_head.arrival_ns)) {
                first = captures[i];
                first_head = head;
            }
        }
        if (first == NULL)
            break;
        const uint8_t *messages = capture_pin(first, &head); /* it may have been lapped by now: another piece, in any order */
        if (messages == NULL)
            continue;
        bool whole = head.arrival_ns >= b->until_ns || capture_take_piece(first, &head, messages, b);
        capture_unpin(first);
        if (!whole)
            break;
    }
    return b->datagrams > 0;
}

#endif
