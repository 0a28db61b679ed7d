/* The feed: a lane without a thread. Threads of the control plane hand it finished messages, such as the bodies of
 * HTTP requests; they take turns under its lock, so that it is the one writer of its rings.
 *
 *   feed_begin ─▶ lock ─▶ readers ─▶ rings ─▶ feed_end: publish, count ─▶ unlock
 *
 * What feed_end has counted as accepted is in the rings: whoever is told so later finds it there, even if the process
 * is killed meanwhile.
 */
#ifndef PENSTOCK_FEED_H
#define PENSTOCK_FEED_H

#include <pthread.h>
#include <time.h>

#include "burst.h"
#include "graphite.h"
#include "line_reader.h"
#include "objects.h"
#include "otlp_read.h"
#include "remote_read.h"

#define FEED_LISTENERS 64u
#define FEED_RINGS 16u
#define FEED_KEEP_BYTES (1u << 20) /* a copy larger than this is not kept for the next message */

typedef enum { FEED_LINE, FEED_GRAPHITE, FEED_PROTOBUF, FEED_OTLP } feed_format_t;

/* One message, and how it is to be read. */
typedef struct {
    const uint8_t *bytes; /* borrowed, read-only */
    uint32_t length;
    uint16_t listener; /* below FEED_LISTENERS */
    feed_format_t format;
    const graphite_t *graphite; /* FEED_GRAPHITE: borrowed */
    line_precision_t precision;
    uint32_t line_bytes_max;
    bool whole;             /* if one line is bad, none is taken */
    line_errors_t *errors;  /* borrowed, may be NULL */
    const line_tags_t *tags; /* borrowed; NULL: those of the feed */
} feed_message_t;

typedef struct {
    line_reader_t reader;
    line_tags_t *tags; /* owned */
    line_sample_t sample;
    listener_stats_t listeners[FEED_LISTENERS];
    _Alignas(CACHE_LINE) counter_t receives; /* messages */
    counter_t accepted;
    counter_t cpu_ns; /* of all callers, under the lock */

    pthread_mutex_t lock; /* guards the reader, the tags, the copy, and the writers' side of the rings */
    uint8_t *text;        /* owned: the message that is read, since readers write into it for a moment */
    size_t text_bytes;
} feed_t;

static inline int64_t feed_clock(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- life ---- */

static inline void feed_close(feed_t *feed)
{
    free(feed->text);
    line_tags_free(feed->tags);
    line_reader_close(&feed->reader);
    pthread_mutex_destroy(&feed->lock);
}

/* feed: zeroed, CACHE_LINE-aligned memory. False without memory; feed_close is due either way. */
static inline bool feed_open(feed_t *feed, scan_index_fn scan)
{
    pthread_mutex_init(&feed->lock, NULL);
    feed->tags = line_tags_new();
    if (feed->tags == NULL)
        return false;
    line_reader_open(&feed->reader, scan, feed->tags);
    feed->reader.sample = &feed->sample;
    return true;
}

/* ---- one message, or several at once ---- */

/* Takes the lock and makes the rings ready; feed_end is due. No Python lock may be held. */
static inline void feed_begin(feed_t *feed, uint16_t listener)
{
    pthread_mutex_lock(&feed->lock);
    line_reader_t *reader = &feed->reader;
    reader->arrival_ns = feed_clock(CLOCK_REALTIME);
    reader->listener = listener;
    reader->precision = LINE_NS;
    reader->line_bytes_max = LINE_TEXT_MAX;
    if (reader->guard != NULL)
        guard_begin(reader->guard, reader->arrival_ns);
    for (uint32_t i = 0; i < reader->ring_count; i++) {
        ring_begin(reader->rings[i]);
        ring_from(reader->rings[i], (uint8_t)listener);
    }
}

/* Publishes and counts what has come since feed_begin, and gives the lock back. cpu_ns: of this thread at feed_begin. */
static inline void feed_end(feed_t *feed, const line_counts_t *counts, uint64_t messages, uint64_t bytes, int64_t cpu_ns)
{
    line_reader_t *reader = &feed->reader;
    for (uint32_t i = 0; i < reader->ring_count; i++)
        ring_end(reader->rings[i]);
    stats_add(&feed->listeners[reader->listener], counts, messages, bytes);
    counter_add(&feed->accepted, counts->accepted);
    counter_add(&feed->receives, messages);
    for (uint32_t i = 0; i < reader->ring_count; i++)
        ring_count_accepted(reader->rings[i], counts->points);
    counter_add(&feed->cpu_ns, (uint64_t)(feed_clock(CLOCK_THREAD_CPUTIME_ID) - cpu_ns));
    pthread_mutex_unlock(&feed->lock);
}

/* Copies the message to where readers may write; false without memory. The lock is held. */
static inline bool feed_copy(feed_t *feed, const feed_message_t *message)
{
    size_t need = (size_t)message->length + 2 * PORT_PADDING;
    if (need > feed->text_bytes) {
        free(feed->text);
        feed->text_bytes = 0;
        feed->text = malloc(need);
        if (feed->text == NULL)
            return false;
        feed->text_bytes = need;
    }
    if (message->length)
        memcpy(feed->text, message->bytes, message->length);
    memset(feed->text + message->length, 0, 2 * PORT_PADDING);
    return true;
}

/* Reads the copy with the reader as it is set up. */
static inline void feed_dispatch(feed_t *feed, const feed_message_t *message, line_counts_t *counts)
{
    feed->reader.precision = message->precision;
    feed->reader.line_bytes_max = message->line_bytes_max;
    feed->reader.errors = message->errors;
    if (message->tags != NULL)
        feed->reader.tags = message->tags;
    switch (message->format) {
    case FEED_LINE:
        line_read(&feed->reader, feed->text, message->length, counts);
        break;
    case FEED_GRAPHITE:
        graphite_read(message->graphite, &feed->reader, feed->text, message->length, counts);
        break;
    case FEED_PROTOBUF:
        remote_read(&feed->reader, feed->text, message->length, counts);
        break;
    case FEED_OTLP:
        otlp_read(&feed->reader, feed->text, message->length, counts);
        break;
    }
    feed->reader.errors = NULL;
    feed->reader.tags = feed->tags;
}

/* Reads the copy without writing anything. True if every line is good; else counts has why not, and its good lines as
 * dropped, DROP_BODY_REFUSED. */
static inline bool feed_is_whole(feed_t *feed, const feed_message_t *message, line_counts_t *counts)
{
    line_reader_t *reader = &feed->reader;
    uint32_t rings = reader->ring_count;
    guard_t *guard = reader->guard;
    reader->ring_count = 0; /* so each good line finds no ring with room */
    reader->guard = NULL;   /* it is asked when the lines are written */
    feed_dispatch(feed, message, counts);
    reader->ring_count = rings;
    reader->guard = guard;
    bool whole = counts->dropped[DROP_RING_FULL] == counts->received;
    counts->dropped[DROP_BODY_REFUSED] = counts->dropped[DROP_RING_FULL];
    counts->dropped[DROP_RING_FULL] = 0;
    return whole;
}

/* Reads a message into the rings. counts: zeroed; what became of it. False without memory: nothing is counted then. */
static inline bool feed_read(feed_t *feed, const feed_message_t *message, line_counts_t *counts)
{
    int64_t cpu_ns = feed_clock(CLOCK_THREAD_CPUTIME_ID);
    feed_begin(feed, message->listener);
    bool copied = feed_copy(feed, message);
    if (copied && (!message->whole || feed_is_whole(feed, message, counts))) {
        memset(counts, 0, sizeof *counts);
        feed_dispatch(feed, message, counts);
    }
    if (feed->text_bytes > FEED_KEEP_BYTES) {
        free(feed->text);
        feed->text = NULL;
        feed->text_bytes = 0;
    }
    feed_end(feed, counts, copied, copied ? message->length : 0, cpu_ns);
    return copied;
}

/* Writes points that are built into the rings, and counts them. counts: of earlier parts of the same messages, whose
 * numbers go on in `errors`; they are added to. clock: of a burst; NULL: they arrive now. With one, stamps depend on nothing
 * else, so that the same burst can be given the same ones again; the last one given is left in it. */
static inline void feed_write(feed_t *feed, objects_t *points, uint16_t listener, uint32_t line_bytes_max, line_errors_t *errors,
                              line_counts_t *counts, uint64_t messages, uint64_t bytes, burst_note_t *clock)
{
    int64_t cpu_ns = feed_clock(CLOCK_THREAD_CPUTIME_ID);
    uint64_t before = counts->received;
    line_counts_t part = {.received = before};
    feed_begin(feed, listener);
    feed->reader.line_bytes_max = line_bytes_max;
    feed->reader.errors = errors;
    int64_t stamp_ns = feed->reader.stamp_ns;
    if (clock != NULL) {
        feed->reader.arrival_ns = clock->arrival_ns;
        line_stamp_after(&feed->reader, clock->stamp_ns);
    }
    objects_emit(points, &feed->reader, &part);
    if (clock != NULL) {
        clock->stamp_ns = feed->reader.stamp_ns;
        line_stamp_after(&feed->reader, stamp_ns);
    }
    feed->reader.errors = NULL;
    part.received -= before;
    feed_end(feed, &part, messages, bytes, cpu_ns);
    counts->received += part.received;
    counts->accepted += part.accepted;
    counts->rewritten += part.rewritten;
    counts->clamped += part.clamped;
    counts->shaped += part.shaped;
    counts->overflowed += part.overflowed;
    counts->observed += part.observed;
    counts->coerced += part.coerced;
    counts->fields_rejected += part.fields_rejected;
    for (int i = 0; i < DROP_REASONS; i++)
        counts->dropped[i] += part.dropped[i];
}

/* Counts messages that were not even looked at. */
static inline void feed_refuse(feed_t *feed, uint16_t listener, const line_counts_t *counts, uint64_t messages, uint64_t bytes)
{
    pthread_mutex_lock(&feed->lock);
    stats_add(&feed->listeners[listener], counts, messages, bytes);
    pthread_mutex_unlock(&feed->lock);
}

/* ---- for the control plane ---- */

/* Closes the runs that messages have left open. The lock is held. */
static inline void feed_close_runs(feed_t *feed)
{
    for (uint32_t i = 0; i < feed->reader.ring_count; i++) {
        ring_publish(feed->reader.rings[i]);
        ring_notify(feed->reader.rings[i]);
    }
}

/* The same, for once a second. */
static inline void feed_publish(feed_t *feed)
{
    pthread_mutex_lock(&feed->lock);
    feed_close_runs(feed);
    if (feed->reader.guard != NULL)
        guard_second(feed->reader.guard);
    pthread_mutex_unlock(&feed->lock);
}

/* Adds these tags and writes to these rings, FEED_RINGS at most, from the next message on; guard: made for them, or NULL.
 * Returns the former tags. */
static inline line_tags_t *feed_set_layout(feed_t *feed, line_tags_t *tags, ring_t *const *rings, uint32_t count, guard_t *guard)
{
    pthread_mutex_lock(&feed->lock);
    line_tags_t *before = feed->tags;
    feed_close_runs(feed); /* those that go have no writer from here on */
    feed->tags = tags;
    feed->reader.tags = tags;
    memcpy(feed->reader.rings, rings, count * sizeof *rings);
    feed->reader.ring_count = count;
    feed->reader.guard = guard;
    pthread_mutex_unlock(&feed->lock);
    return before;
}

/* Bytes that so much input is taken to become in a ring: itself and, for each 32 bytes, a timestamp and the agent's tags.
 * As samples, which all have the labels of their line, six times that. An estimate, but for one thing: an empty ring is
 * always enough for a start. */
static inline uint64_t feed_estimate(uint64_t input, uint64_t tag_bytes, const ring_t *r)
{
    uint64_t need = input + input / 32 * (tag_bytes + 20) + 4096, capacity = r->capacity;
    if (r->encoding == RING_PB)
        need *= 6;
    return need < capacity / 4 * 3 ? need : capacity / 4 * 3;
}

/* Whether a ring with so much waiting has room for it. Any thread: the counters are a moment old. */
static inline bool feed_ring_has_room(ring_t *r, uint64_t input, uint64_t tag_bytes)
{
    uint64_t freed = counter_get(&r->freed_bytes);
    uint64_t used = counter_get(&r->restored_bytes) + counter_get(&r->written_bytes) - freed;
    uint64_t need = feed_estimate(input, tag_bytes, r);
    return used + need <= r->capacity && ring_slots_used(r) < RING_SLOTS - RING_SLOTS / 16;
}

#endif
