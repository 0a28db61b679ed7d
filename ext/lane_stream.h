/* Connections: accepted, read in turns, held back while no ring has room, closed when they are silent for too long.
 *
 * All connections of a lane are in an epoll of their own, inside the lane's: however many have something to say, datagrams
 * get their turn after LANE_TURN_BYTES of them, and to stop reading from all of them is one system call.
 *
 * A line that no ring has room for is kept, nothing more is read, and the kernel makes the senders wait. What a lane keeps
 * that way is what one read became.
 */
#ifndef PENSTOCK_LANE_STREAM_H
#define PENSTOCK_LANE_STREAM_H

#include <sys/ioctl.h>
#include <sys/resource.h>

#include "lane_source.h"

#define LANE_TURN_BYTES (1u << 20)    /* of all connections, before datagrams have their turn */
#define LANE_TURN_EVENTS 64
#define LANE_ACCEPTS 64               /* at a time */
#define LANE_SPARE_FDS 96             /* descriptors that are not for connections */
#define LANE_PAUSE_MS 10              /* how long a full ring is left alone */
#define LANE_RESUME_BYTES (4u << 20)  /* with so much room, or a quarter of the ring, reading goes on */
#define LANE_PATIENCE_NS INT64_C(1000000)

/* ---- room ---- */

/* Bytes that a ring would take now; the writer's thread only. */
static inline uint64_t lane_ring_room(ring_t *r)
{
    ring_refresh(r);
    uint64_t used = r->position + PORT_PADDING;
    bool slot = r->run_metrics > 0 || ring_slots_used(r) < RING_SLOTS;
    return slot && r->limit > used ? r->limit - used : 0;
}

/* Whether a ring has room for a good deal more than what waits for it. *empty: a ring has all the room that it can have. */
static inline bool lane_has_room(lane_t *lane, bool *empty)
{
    bool found = lane->reader.ring_count == 0;
    *empty = found;
    for (uint32_t i = 0; i < lane->reader.ring_count; i++) {
        ring_t *r = lane->reader.rings[i];
        uint64_t wanted = r->capacity / 4 < LANE_RESUME_BYTES ? r->capacity / 4 : LANE_RESUME_BYTES;
        found |= lane_ring_room(r) >= wanted;
        *empty |= ring_slots_used(r) == 0 && r->run_metrics == 0;
    }
    return found;
}

/* ---- lines that wait for room ---- */

/* Reads the lines that wait once more; those that still find no room go on waiting, or, not `waiting`, are dropped. */
static inline void lane_read_late(lane_t *lane, bool waiting)
{
    line_late_t late = lane->late;
    lane->late = lane->late_spare;
    lane->late_spare = late;
    lane->late.length = 0;
    lane_socket_t socket = {.listener = lane->late_listener, .format = LANE_LINE, .precision = LINE_NS, .line_bytes_max = UINT32_MAX};
    line_counts_t counts = {0};
    lane_begin(lane, &socket);
    lane->reader.late = waiting ? &lane->late : NULL;
    lane_read(&lane->reader, &socket, late.text, late.length, &counts);
    lane->reader.late = NULL;
    lane_end(lane, &socket, &counts, 0, 0);
}

/* Tries to get rid of the lines that wait. True if none is left. A line that does not fit into an empty ring never will. */
static inline bool lane_settle_late(lane_t *lane)
{
    bool empty;
    if (lane->late.length == 0)
        return true;
    if (!lane_has_room(lane, &empty))
        return false;
    uint32_t before = lane->late.length;
    lane_read_late(lane, true);
    if (empty && lane->late.length == before)
        lane_read_late(lane, false);
    return lane->late.length == 0;
}

/* The same where the lane has nothing else to do, until `until_ns` at most. */
static inline void lane_await_room(lane_t *lane, int64_t until_ns)
{
    const struct timespec pause = {.tv_nsec = LANE_PATIENCE_NS};
    while (!lane_settle_late(lane) && lane_clock(CLOCK_MONOTONIC) < until_ns)
        nanosleep(&pause, NULL);
}

static inline void lane_listen_to_streams(lane_t *lane, bool on)
{
    struct epoll_event event = {.events = on ? EPOLLIN : 0, .data.u64 = LANE_EVENT_STREAMS};
    epoll_ctl(lane->epoll_fd, EPOLL_CTL_MOD, lane->stream_epoll_fd, &event);
    lane->paused = !on;
}

/* Goes on reading if there is room again. */
static inline void lane_resume(lane_t *lane)
{
    if (!lane->paused || !lane_settle_late(lane))
        return;
    lane->resumed_ns = lane_clock(CLOCK_MONOTONIC_COARSE);
    lane_listen_to_streams(lane, true);
}

/* ---- connections come and go ---- */

/* A free place, or NULL without memory. */
static inline lane_connection_t *lane_connection_new(lane_t *lane)
{
    if (lane->connection_free == LANE_NO_CONNECTION) {
        uint32_t room = lane->connection_room ? 2 * lane->connection_room : 64;
        lane_connection_t *more = realloc(lane->connections, room * sizeof *more);
        if (more == NULL)
            return NULL;
        for (uint32_t i = lane->connection_room; i < room; i++)
            more[i] = (lane_connection_t){.fd = -1, .next_free = i + 1 < room ? i + 1 : LANE_NO_CONNECTION};
        lane->connections = more;
        lane->connection_free = lane->connection_room;
        lane->connection_room = room;
    }
    lane_connection_t *c = &lane->connections[lane->connection_free];
    lane->connection_free = c->next_free;
    *c = (lane_connection_t){.fd = -1};
    return c;
}

/* Ends a connection, and counts why. */
static inline void lane_disconnect(lane_t *lane, lane_connection_t *c, close_t why)
{
    lane_socket_t *socket = &lane->sockets[c->socket];
    listener_stats_t *stats = &lane->listeners[socket->listener];
    if (stream_holds(&c->stream)) {
        line_counts_t counts = {0};
        lane_begin(lane, socket);
        if (lane->late.length == 0)
            lane->late_listener = socket->listener;
        lane->reader.late = lane->late_listener == socket->listener ? &lane->late : NULL;
        stream_end(&c->stream, &lane->reader, socket, why == CLOSE_ENDED, &counts);
        lane->reader.late = NULL;
        lane_end(lane, socket, &counts, 0, 0);
    }
    stream_forget(&c->stream);
    lane->held_count -= c->held;
    close(c->fd);
    c->fd = -1;
    c->next_free = lane->connection_free;
    lane->connection_free = (uint32_t)(c - lane->connections);
    atomic_fetch_sub_explicit(&socket->limit->open, 1, memory_order_relaxed);
    counter_add(&stats->connections, (uint64_t)-1);
    counter_add(&stats->connections_closed[why], 1);
}

/* Whether a descriptor is one of the last that the process may have: outputs and files need some as well. */
static inline bool lane_fd_is_spare(int fd)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 && (rlim_t)fd + LANE_SPARE_FDS >= limit.rlim_cur;
}

/* Takes a connection of this peer, SOURCE_NOBODY if the kernel knows it, that has come by `socket`. The descriptor is the
 * lane's from here on. Returns 0 or an errno. */
static inline int lane_connect(lane_t *lane, lane_socket_t *socket, int fd, source_peer_t peer)
{
    listener_stats_t *stats = &lane->listeners[socket->listener];
    uint32_t others = atomic_fetch_add_explicit(&socket->limit->open, 1, memory_order_relaxed);
    int error = others >= atomic_load_explicit(&socket->limit->most, memory_order_relaxed) ? EUSERS : 0;
    error = lane_fd_is_spare(fd) ? EMFILE : error;
    if (socket->sources != NULL) {
        peer = peer.kind == SOURCE_NOBODY ? source_of_connection(fd) : peer;
        error = source_is_allowed(socket->sources, &peer) ? error : EPERM;
    }
    lane_connection_t *c = error ? NULL : lane_connection_new(lane);
    if (c != NULL) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)(c - lane->connections)};
        c->fd = fd;
        c->socket = (uint16_t)(socket - lane->sockets);
        c->peer = peer;
        c->heard_ns = lane_clock(CLOCK_MONOTONIC_COARSE);
        if (epoll_ctl(lane->stream_epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0) {
            counter_add(&stats->connections, 1);
            counter_add(&stats->connections_accepted, 1);
            return 0;
        }
        error = errno;
        c->fd = -1;
        c->next_free = lane->connection_free;
        lane->connection_free = (uint32_t)(c - lane->connections);
    }
    close(fd);
    atomic_fetch_sub_explicit(&socket->limit->open, 1, memory_order_relaxed);
    counter_add(&stats->connections_refused, 1);
    return error ? error : ENOMEM;
}

/* Has the lane be told of new connections. With several lanes at one socket one of them is, not all. */
static inline int lane_listen(lane_t *lane, lane_socket_t *socket)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE,
                                .data.u64 = LANE_EVENT_SOCKET | (uint64_t)(socket - lane->sockets)};
    socket->muted = false;
    return epoll_ctl(lane->epoll_fd, EPOLL_CTL_ADD, socket->fd, &event) < 0 ? errno : 0;
}

/* Accepts what waits, or as much of it as is one turn. False if there is more, or may be. */
static inline bool lane_accept(lane_t *lane, lane_socket_t *socket)
{
    for (int i = 0; i < LANE_ACCEPTS; i++) {
        int fd = accept4(socket->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            lane_connect(lane, socket, fd, (source_peer_t){0});
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            /* They wait in the kernel; to be told so again and again would help nobody. */
            epoll_ctl(lane->epoll_fd, EPOLL_CTL_DEL, socket->fd, NULL);
            socket->muted = true;
            return true;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINVAL)
            return true; /* EINVAL: cut off, and nothing waits any more */
    }
    return false;
}

/* ---- reading ---- */

/* Reads once from a connection; `most` bytes at most, up to LANE_READ_BYTES. Returns how many came, 0 if it is closed
 * now, or -1 if nothing waits. */
static inline ssize_t lane_stream_read(lane_t *lane, lane_connection_t *c, uint32_t most)
{
    const lane_socket_t *socket = &lane->sockets[c->socket];
    uint8_t *text = lane->stream_buffer + LANE_HELD_STRIDE;
    ssize_t n = recv(c->fd, text, most, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return -1;
    if (n <= 0) {
        lane_disconnect(lane, c, n == 0 ? CLOSE_ENDED : CLOSE_RESET);
        return 0;
    }
    line_counts_t counts = {0};
    uint64_t frames = 0;
    lane_begin(lane, socket);
    lane->reader.late = &lane->late;
    lane->late_listener = socket->listener;
    c->stream.passed = false;
    stream_state_t state = stream_take(&c->stream, &lane->reader, socket, text, (uint32_t)n, &frames, &counts);
    lane->reader.late = NULL;
    lane_end(lane, socket, &counts, frames, (uint64_t)n);
    if (socket->sources != NULL)
        lane_charge(socket, c, counts.received);
    c->heard_ns = lane_clock(CLOCK_MONOTONIC_COARSE);
    if (!stream_holds(&c->stream))
        c->since_ns = 0;
    else if (c->stream.passed || c->since_ns == 0)
        c->since_ns = c->heard_ns;
    if (state == STREAM_ON)
        return n;
    lane_disconnect(lane, c, state == STREAM_BAD_FRAME ? CLOSE_FRAME : CLOSE_MEMORY);
    return 0;
}

/* The same if the source of the connection lets it. */
static inline ssize_t lane_stream_read_of_source(lane_t *lane, lane_connection_t *c)
{
    source_answer_t answer = lane_ask(&lane->sockets[c->socket], c);
    if (answer == SOURCE_PASSES)
        return lane_stream_read(lane, c, LANE_READ_BYTES);
    if (answer == SOURCE_OVER)
        lane_hold(lane, c);
    else
        lane_disconnect(lane, c, CLOSE_DENIED);
    return 0;
}

/* The connections' turn. */
static inline void lane_serve(lane_t *lane)
{
    struct epoll_event events[LANE_TURN_EVENTS];
    for (int64_t left = LANE_TURN_BYTES; left > 0;) {
        int n = epoll_wait(lane->stream_epoll_fd, events, LANE_TURN_EVENTS, 0);
        if (n <= 0)
            return;
        for (int i = 0; i < n; i++) {
            lane_connection_t *c = &lane->connections[events[i].data.u32];
            bool judged = lane->sockets[c->socket].sources != NULL;
            ssize_t bytes = judged ? lane_stream_read_of_source(lane, c) : lane_stream_read(lane, c, LANE_READ_BYTES);
            left -= bytes > 4096 ? bytes : 4096; /* a system call has its price as well */
            if (unlikely(lane->late.length > 0)) {
                lane_listen_to_streams(lane, false);
                return;
            }
        }
    }
}

/* Reads what the kernel holds of a connection at this moment, and closes it. */
static inline void lane_finish(lane_t *lane, lane_connection_t *c, int64_t until_ns)
{
    int left = 0;
    if (ioctl(c->fd, FIONREAD, &left) < 0)
        left = 0;
    for (;;) {
        lane_await_room(lane, until_ns);
        if (lane->late.length > 0 || lane_clock(CLOCK_MONOTONIC) >= until_ns)
            break;
        /* One more byte than there is: what says that the client has ended comes behind the last one. */
        ssize_t n = lane_stream_read(lane, c, left < (int)LANE_READ_BYTES ? (uint32_t)(left > 0 ? left : 1) : LANE_READ_BYTES);
        if (n == 0)
            return;
        left -= (int)n;
        if (n < 0 || left < 0)
            break;
    }
    lane_disconnect(lane, c, CLOSE_STOPPED);
}

/* Lets go of a socket and of all connections that have come by it. With `drain`, what the kernel holds of them at this
 * moment is read first, until `until_ns` at most. */
static inline void lane_finish_socket(lane_t *lane, lane_socket_t *socket, bool drain, int64_t until_ns)
{
    if (drain && socket->accepts && !socket->shared)
        while (!lane_accept(lane, socket))
            ;
    for (uint32_t i = 0; i < lane->connection_room; i++) {
        lane_connection_t *c = &lane->connections[i];
        if (c->fd < 0 || &lane->sockets[c->socket] != socket)
            continue;
        if (drain)
            lane_finish(lane, c, until_ns);
        else
            lane_disconnect(lane, c, CLOSE_STOPPED);
    }
    if (lane->late.length > 0 && lane->late_listener == socket->listener) {
        lane_await_room(lane, until_ns);
        if (lane->late.length > 0)
            lane_read_late(lane, false);
    }
}

/* ---- once a second ---- */

/* Closes connections that are silent, or inside one line, for longer than they may be. */
static inline void lane_sweep(lane_t *lane)
{
    int64_t now = lane_clock(CLOCK_MONOTONIC_COARSE);
    for (uint32_t i = 0; i < lane->connection_room && !lane->paused; i++) {
        lane_connection_t *c = &lane->connections[i];
        if (c->fd < 0 || c->held || lane->sockets[c->socket].idle_ns == 0)
            continue;
        int64_t since = now - lane->sockets[c->socket].idle_ns;
        /* Who could not be heard is not silent. */
        if ((c->heard_ns > lane->resumed_ns ? c->heard_ns : lane->resumed_ns) < since)
            lane_disconnect(lane, c, CLOSE_IDLE);
        else if (c->since_ns != 0 && (c->since_ns > lane->resumed_ns ? c->since_ns : lane->resumed_ns) < since)
            lane_disconnect(lane, c, CLOSE_SLOW);
        if (unlikely(lane->late.length > 0))
            lane_listen_to_streams(lane, false);
    }
    for (uint32_t i = 0; i < lane->socket_count; i++)
        if (lane->sockets[i].fd >= 0 && lane->sockets[i].muted)
            lane->sockets[i].muted = lane->sockets[i].accepts && lane_listen(lane, &lane->sockets[i]) != 0;
}

#endif
