/* The lane's memory: what it owns, and what a burst does with it whatever its sockets are. */
#ifndef PENSTOCK_LANE_BASE_H
#define PENSTOCK_LANE_BASE_H

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "capture.h"
#include "stream.h"

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif
#define LANE_MEMINFO_RMEM_ALLOC 0 /* indices into SO_MEMINFO's answer, linux/sock_diag.h */
#define LANE_MEMINFO_RCVBUF 1
#define LANE_MEMINFO_DROPS 8
#define LANE_MEMINFO_VARS 9

#define LANE_ROUNDS 16       /* receives from one socket before the others have their turn */
#define LANE_SOCKETS 256u
#define LANE_LISTENERS BURST_LISTENERS
#define LANE_RINGS 16u
#define LANE_DRAIN_ERRORS 64
#define LANE_IDLE_MS 1000    /* also how often an idle lane beats */

/* Where the text of a read begins in the buffer of streams: before it there is room for what is held. */
#define LANE_HELD_STRIDE (STREAM_HELD_MAX + CACHE_LINE - STREAM_HELD_MAX % CACHE_LINE)
#define LANE_READ_BYTES 65536u        /* of one connection at a time */
#define LANE_STREAM_BYTES (LANE_HELD_STRIDE + LANE_READ_BYTES + 2 * PORT_PADDING)

/* What an event of the lane's epoll is about: in the upper half; a socket's place in the lower one. */
#define LANE_EVENT_WAKE UINT64_C(0)
#define LANE_EVENT_SOCKET (UINT64_C(1) << 32)
#define LANE_EVENT_STREAMS (UINT64_C(2) << 32)

#define LANE_NO_CONNECTION UINT32_MAX

typedef struct lane_command lane_command_t;

typedef struct {
    int fd;              /* owned; -1: this place is free */
    uint32_t next_free;
    uint16_t socket;     /* by which it has come */
    bool held;           /* its source is over its rate: nothing is read (lane_source.h) */
    source_peer_t peer;  /* SOURCE_NOBODY: not looked at yet */
    int64_t heard_ns;    /* monotonic, as the next: when something came last */
    int64_t since_ns;    /* when the line or frame began whose end has not come; 0: there is none */
    stream_t stream;
} lane_connection_t;

typedef struct {
    line_reader_t reader;
    line_tags_t *tags; /* owned */
    line_sample_t sample;
    listener_stats_t listeners[LANE_LISTENERS];
    _Alignas(CACHE_LINE) counter_t beats; /* turns of the loop: the watchdog's proof of life */
    counter_t receives;                   /* recvmmsg calls that brought something */
    counter_t accepted;

    lane_socket_t sockets[LANE_SOCKETS];
    uint32_t socket_count; /* places used so far; some may be free */
    int epoll_fd, wake_fd;

    lane_connection_t *connections; /* owned: connection_room places */
    uint32_t connection_room, connection_free;
    int stream_epoll_fd;            /* of the connections; inside epoll_fd */
    bool paused;                    /* nothing is read from connections: no ring has room */
    int64_t resumed_ns;             /* monotonic: when that was last over */
    uint32_t held_count;            /* connections that are held */
    int64_t held_ns;                /* monotonic: when they were last looked at */
    line_late_t late, late_spare;   /* owned: lines that wait for room, all of one listener */
    uint16_t late_listener;
    uint8_t *stream_buffer;         /* owned: LANE_STREAM_BYTES */

    bool stopping;
    int64_t stop_at_ns; /* monotonic */
    int64_t second_ns;  /* monotonic: when sockets were last measured */

    pthread_mutex_t lock; /* guards what follows, and the sockets array against readers of the counters */
    pthread_cond_t answered;
    lane_command_t *queue_first, **queue_last; /* borrowed: the callers wait for their answers */
    bool running;
    bool threaded; /* cpu_clock is valid */
    clockid_t cpu_clock;
    int64_t cpu_ns; /* as last read */

    burst_t *burst; /* borrowed: what datagrams are received into */
    capture_t *capture; /* borrowed: where they are kept besides; NULL: nowhere */
} lane_t;

static inline int64_t lane_clock(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- life ---- */

/* Releases what lane_open acquired; safe after a failed open. The lane must not run. */
static inline void lane_close(lane_t *lane)
{
    if (lane->epoll_fd >= 0)
        close(lane->epoll_fd);
    if (lane->wake_fd >= 0)
        close(lane->wake_fd);
    if (lane->stream_epoll_fd >= 0)
        close(lane->stream_epoll_fd);
    if (lane->stream_buffer != NULL)
        munmap(lane->stream_buffer, LANE_STREAM_BYTES);
    for (uint32_t i = 0; i < lane->connection_room; i++) {
        stream_forget(&lane->connections[i].stream);
        if (lane->connections[i].fd >= 0)
            close(lane->connections[i].fd);
    }
    free(lane->connections);
    free(lane->late.text);
    free(lane->late_spare.text);
    line_tags_free(lane->tags);
    line_reader_close(&lane->reader);
    pthread_mutex_destroy(&lane->lock);
    pthread_cond_destroy(&lane->answered);
}

/* lane: zeroed, CACHE_LINE-aligned memory. Returns 0 or an errno; lane_close is due either way. */
static inline int lane_open(lane_t *lane, scan_index_fn scan, burst_t *burst)
{
    lane->burst = burst;
    pthread_mutex_init(&lane->lock, NULL);
    pthread_cond_init(&lane->answered, NULL);
    lane->queue_last = &lane->queue_first;
    lane->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    lane->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    lane->stream_epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    lane->connection_free = LANE_NO_CONNECTION;
    if (lane->wake_fd < 0 || lane->epoll_fd < 0 || lane->stream_epoll_fd < 0)
        return errno;
    struct epoll_event wake = {.events = EPOLLIN, .data.u64 = LANE_EVENT_WAKE};
    struct epoll_event streams = {.events = EPOLLIN, .data.u64 = LANE_EVENT_STREAMS};
    if (epoll_ctl(lane->epoll_fd, EPOLL_CTL_ADD, lane->wake_fd, &wake) < 0 ||
        epoll_ctl(lane->epoll_fd, EPOLL_CTL_ADD, lane->stream_epoll_fd, &streams) < 0)
        return errno;
    lane->tags = line_tags_new();
    if (lane->tags == NULL)
        return ENOMEM;
    line_reader_open(&lane->reader, scan, lane->tags);
    lane->reader.sample = &lane->sample;
    /* Mapped, not allocated: pages that nothing reaches cost no memory. */
    void *map = mmap(NULL, LANE_STREAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return errno;
    lane->stream_buffer = map;
    return 0;
}

/* ---- a burst ---- */

/* Before what one receive call brought from `socket` is read. */
static inline void lane_begin(lane_t *lane, const lane_socket_t *socket)
{
    line_reader_t *reader = &lane->reader;
    reader->arrival_ns = lane_clock(CLOCK_REALTIME);
    reader->listener = socket->listener;
    reader->precision = socket->precision;
    reader->line_bytes_max = socket->line_bytes_max;
    if (reader->guard != NULL)
        guard_begin(reader->guard, reader->arrival_ns);
    for (uint32_t i = 0; i < reader->ring_count; i++) {
        ring_begin(reader->rings[i]);
        ring_from(reader->rings[i], (uint8_t)socket->listener);
    }
}

/* After it: what was read is in the rings, is published and is counted. */
static inline void lane_end(lane_t *lane, const lane_socket_t *socket, line_counts_t *counts, uint64_t datagrams, uint64_t bytes)
{
    line_reader_t *reader = &lane->reader;
    lane_read_done(socket, counts);
    /* Before anything is said to be accepted: whoever is told so finds it in the ring, even if we are killed now. */
    for (uint32_t i = 0; i < reader->ring_count; i++)
        ring_end(reader->rings[i]);
    stats_add(&lane->listeners[socket->listener], counts, datagrams, bytes);
    counter_add(&lane->accepted, counts->accepted);
    counter_add(&lane->receives, 1);
    for (uint32_t i = 0; i < reader->ring_count; i++)
        ring_count_accepted(reader->rings[i], counts->points);
}

/* Closes the runs that bursts have left open. */
static inline void lane_publish(lane_t *lane)
{
    for (uint32_t i = 0; i < lane->reader.ring_count; i++) {
        ring_publish(lane->reader.rings[i]);
        ring_notify(lane->reader.rings[i]);
    }
}

#endif
