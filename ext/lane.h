/* The lane: one thread that receives from its sockets, reads what comes and writes its rings.
 *
 *   epoll_wait ─┬▶ recvmmsg(64) ─▶ each message ─▶ each datagram in it ─┬▶ lane_read ─▶ rings ─▶ publish
 *               ├▶ recv ─▶ the lines that have ended ────────────────────┘
 *               └▶ accept
 *
 * The control plane talks to a running lane through a mailbox: a command is queued under the lane's lock, an
 * eventfd wakes the lane, and the lane carries it out between two bursts. The lock is not touched for a
 * metric; the lane itself takes it for commands and once a second. Tags, rings and guard come by one command: they are
 * made for each other.
 */
#ifndef PENSTOCK_LANE_H
#define PENSTOCK_LANE_H

#include "ticker.h"

#include "lane_datagram.h"
#include "lane_stream.h"

typedef enum {
    LANE_ADD, LANE_REMOVE, LANE_CONNECT, LANE_LAYOUT, LANE_FLIP, LANE_FORGET, LANE_REPLAY, LANE_REFUSE, LANE_CAPTURE, LANE_STOP,
} lane_verb_t;

struct lane_command {
    struct lane_command *next;
    lane_verb_t verb;
    lane_socket_t socket;           /* LANE_ADD, LANE_REMOVE (fd), LANE_CONNECT (fd) */
    int connection;                 /* LANE_CONNECT: the lane's from then on, whatever the answer */
    source_peer_t peer;             /* the same: who is behind it; SOURCE_NOBODY: the one at its end */
    bool drain;                     /* LANE_REMOVE */
    bool gro;                       /* LANE_ADD */
    const char *name, *address;     /* LANE_ADD: by which a later process finds the listener again */
    burst_t *left;                  /* LANE_REPLAY, by socket.fd; LANE_REFUSE, at socket.listener */
    const burst_findings_t *found;  /* LANE_REFUSE */
    line_tags_t *tags;              /* LANE_LAYOUT: swapped with the lane's; the old ones come back here */
    ring_t *rings[LANE_RINGS];      /* LANE_LAYOUT, as the next two */
    uint32_t ring_count;
    guard_t *guard;                 /* made for these rings and tags; or NULL */
    capture_t *capture;             /* LANE_CAPTURE; NULL: none any more */
    int64_t drain_ns;               /* LANE_STOP */
    ticker_lane_t *ticker;          /* LANE_FLIP, LANE_FORGET */
    const aggregate_settings_t *settings; /* LANE_FLIP */
    uint32_t first, count;          /* LANE_FORGET: of ticker->forget; a count of 0 ends the tick */
    int error;                      /* answer: 0 or an errno */
    bool done;
};

/* ---- commands ---- */

static inline lane_socket_t *lane_find(lane_t *lane, int fd)
{
    for (uint32_t i = 0; i < lane->socket_count; i++)
        if (lane->sockets[i].fd == fd)
            return &lane->sockets[i];
    return NULL;
}

/* A socket that the lane has already gets other settings. */
static inline void lane_change(lane_t *lane, lane_socket_t *socket, const lane_socket_t *settings)
{
    lane_measure(lane, socket);
    if (socket->limit != NULL) {
        /* Its connections go with it. */
        uint32_t open = 0;
        for (uint32_t i = 0; i < lane->connection_room; i++)
            open += lane->connections[i].fd >= 0 && &lane->sockets[lane->connections[i].socket] == socket;
        counter_add(&lane->listeners[socket->listener].connections, -(uint64_t)open);
        counter_add(&lane->listeners[settings->listener].connections, open);
        atomic_fetch_sub_explicit(&socket->limit->open, open, memory_order_relaxed);
        atomic_fetch_add_explicit(&settings->limit->open, open, memory_order_relaxed);
    }
    lane_socket_t former = *socket;
    *socket = *settings;
    socket->muted = former.muted;
    if (former.accepts && !settings->accepts && !former.muted)
        epoll_ctl(lane->epoll_fd, EPOLL_CTL_DEL, socket->fd, NULL);
    else if (!former.accepts && settings->accepts)
        socket->muted = lane_listen(lane, socket) != 0; /* tried again within a second */
    socket->kernel_drops_seen = former.kernel_drops_seen;
    socket->queue_bytes = former.queue_bytes;
    socket->receive_buffer_bytes = former.receive_buffer_bytes;
}

static inline int lane_add(lane_t *lane, const lane_command_t *command)
{
    const lane_socket_t *settings = &command->socket;
    int on = command->gro;
    if (settings->fd < 0)
        return EBADF;
    if (settings->statsd != NULL)
        settings->statsd->reader = &lane->reader;
    /* Absent before Linux 5.0 and on other sockets: each datagram is a message then. */
    (void)setsockopt(settings->fd, SOL_UDP, UDP_GRO, &on, sizeof on);
    lane_settle_credentials(settings);
    if (command->name != NULL)
        burst_name(lane->burst, settings->listener, command->name, command->address);
    lane_socket_t *socket = lane_find(lane, settings->fd);
    if (socket != NULL) {
        lane_change(lane, socket, settings);
        return 0;
    }
    if ((socket = lane_find(lane, -1)) == NULL) {
        if (lane->socket_count == LANE_SOCKETS)
            return ENOSPC;
        socket = &lane->sockets[lane->socket_count];
    }
    int error = 0;
    lane_socket_t before = *socket;
    *socket = *settings;
    socket->kernel_drops_seen = 0; /* a passed socket may have lost datagrams before we were there: they count */
    if (settings->limit == NULL) {
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = LANE_EVENT_SOCKET | (uint64_t)(socket - lane->sockets)};
        error = epoll_ctl(lane->epoll_fd, EPOLL_CTL_ADD, settings->fd, &event) < 0 ? errno : 0;
    } else if (settings->accepts) {
        error = lane_listen(lane, socket);
    }
    if (error) {
        *socket = before;
        return error;
    }
    if (socket == &lane->sockets[lane->socket_count])
        lane->socket_count++;
    lane_measure(lane, socket);
    return 0;
}

static inline int lane_remove(lane_t *lane, int fd, bool drain)
{
    lane_socket_t *socket = lane_find(lane, fd);
    if (socket == NULL)
        return ENOENT;
    int64_t until_ns = lane_clock(CLOCK_MONOTONIC) + 1000000000;
    epoll_ctl(lane->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    if (socket->limit != NULL)
        lane_finish_socket(lane, socket, drain, until_ns);
    else if (drain)
        lane_drain(lane, socket, until_ns);
    lane_measure(lane, socket);
    *socket = (lane_socket_t){.fd = -1};
    return 0;
}

/* The lane's lock is held. */
static inline void lane_execute(lane_t *lane, lane_command_t *command)
{
    switch (command->verb) {
    case LANE_ADD:
        command->error = lane_add(lane, command);
        break;
    case LANE_REMOVE:
        command->error = lane_remove(lane, command->socket.fd, command->drain);
        break;
    case LANE_CONNECT: {
        lane_socket_t *socket = lane_find(lane, command->socket.fd);
        if (socket != NULL && socket->limit != NULL) {
            command->error = lane_connect(lane, socket, command->connection, command->peer);
        } else {
            close(command->connection);
            command->error = ENOENT;
        }
        break;
    }
    case LANE_LAYOUT: {
        line_tags_t *old = lane->tags;
        lane_publish(lane); /* rings that go have no writer from here on */
        lane->tags = command->tags;
        lane->reader.tags = lane->tags;
        command->tags = old;
        memcpy(lane->reader.rings, command->rings, sizeof command->rings);
        lane->reader.ring_count = command->ring_count;
        lane->reader.guard = command->guard;
        break;
    }
    case LANE_FLIP:
        ticker_flip(command->ticker, command->settings);
        break;
    case LANE_FORGET:
        command->count = ticker_remove(command->ticker->aggregate, command->ticker->forget + command->first,
                                       command->ticker->forget_tags + command->first, command->count);
        command->ticker->aggregate->table.held = false;
        break;
    case LANE_REPLAY: {
        lane_socket_t *socket = lane_find(lane, command->socket.fd);
        if (socket != NULL)
            lane_replay(lane, socket, command->left);
        else
            command->error = ENOENT;
        break;
    }
    case LANE_REFUSE:
        lane_refuse(lane, command->socket.listener, command->left, command->found);
        break;
    case LANE_CAPTURE:
        lane->capture = command->capture;
        break;
    case LANE_STOP:
        lane->stopping = true;
        lane->stop_at_ns = lane_clock(CLOCK_MONOTONIC) + command->drain_ns;
        break;
    }
}

/* Carries out what is queued. The lane's lock is held. */
static inline void lane_answer(lane_t *lane)
{
    while (lane->queue_first != NULL) {
        lane_command_t *command = lane->queue_first;
        lane->queue_first = command->next;
        if (lane->queue_first == NULL)
            lane->queue_last = &lane->queue_first;
        lane_execute(lane, command);
        command->done = true;
    }
    pthread_cond_broadcast(&lane->answered);
}

/* Has a command carried out, by the lane if it runs, else here. Returns the command's error. */
static inline int lane_call(lane_t *lane, lane_command_t *command)
{
    pthread_mutex_lock(&lane->lock);
    if (!lane->running) {
        lane_execute(lane, command);
        command->done = true;
    } else {
        command->next = NULL;
        *lane->queue_last = command;
        lane->queue_last = &command->next;
        uint64_t one = 1;
        ssize_t ignored = write(lane->wake_fd, &one, sizeof one); /* fails only if it is signalled already */
        (void)ignored;
        while (!command->done)
            pthread_cond_wait(&lane->answered, &lane->lock);
    }
    pthread_mutex_unlock(&lane->lock);
    return command->error;
}

/* ---- the loop ---- */

/* Fresh queue lengths and drops. The lock is held. */
static inline void lane_measure_all(lane_t *lane)
{
    for (uint32_t i = 0; i < lane->socket_count; i++)
        if (lane->sockets[i].fd >= 0)
            lane_measure(lane, &lane->sockets[i]);
}

/* One event of the lane's epoll. True if commands wait. */
static inline bool lane_event(lane_t *lane, uint64_t about)
{
    if (about == LANE_EVENT_WAKE)
        return true;
    if (about == LANE_EVENT_STREAMS) {
        lane_serve(lane);
        return false;
    }
    lane_socket_t *socket = &lane->sockets[(uint32_t)about];
    if (socket->limit != NULL)
        lane_accept(lane, socket);
    else
        lane_receive(lane, socket);
    return false;
}

static inline void lane_housekeeping(lane_t *lane, bool commands)
{
    int64_t now = lane_clock(CLOCK_MONOTONIC);
    if (!commands && now - lane->second_ns < INT64_C(1000000000))
        return;
    pthread_mutex_lock(&lane->lock);
    if (commands) {
        uint64_t count;
        ssize_t ignored = read(lane->wake_fd, &count, sizeof count);
        (void)ignored;
        lane_answer(lane);
    }
    if (now - lane->second_ns >= INT64_C(1000000000)) {
        lane->second_ns = now;
        lane_publish(lane);
        lane_measure_all(lane);
        lane_sweep(lane);
        if (lane->reader.guard != NULL)
            guard_second(lane->reader.guard);
    }
    pthread_mutex_unlock(&lane->lock);
}

/* Runs until a LANE_STOP. Returns 0 or an errno. One thread only. */
static inline int lane_run(lane_t *lane)
{
    struct epoll_event events[LANE_SOCKETS + 2];
    int error = 0;
    pthread_mutex_lock(&lane->lock);
    lane->running = true;
    lane->threaded = pthread_getcpuclockid(pthread_self(), &lane->cpu_clock) == 0;
    pthread_mutex_unlock(&lane->lock);
    while (!lane->stopping) {
        int wait_ms = lane->paused ? LANE_PAUSE_MS : lane->held_count ? LANE_HELD_MS : LANE_IDLE_MS;
        int n = epoll_wait(lane->epoll_fd, events, LANE_SOCKETS + 2, wait_ms);
        if (n < 0 && errno != EINTR) {
            error = errno;
            break;
        }
        counter_add(&lane->beats, 1);
        bool commands = false;
        for (int i = 0; i < n; i++)
            commands |= lane_event(lane, events[i].data.u64);
        lane_resume(lane);
        lane_look_at_held(lane);
        lane_housekeeping(lane, commands);
    }
    for (uint32_t i = 0; i < lane->socket_count; i++) {
        lane_socket_t *socket = &lane->sockets[i];
        if (socket->fd < 0)
            continue;
        if (socket->limit != NULL)
            lane_finish_socket(lane, socket, true, lane->stop_at_ns);
        else
            lane_drain(lane, socket, lane->stop_at_ns);
    }
    lane_publish(lane);
    pthread_mutex_lock(&lane->lock);
    lane_measure_all(lane);
    lane->cpu_ns = lane_clock(CLOCK_THREAD_CPUTIME_ID);
    lane->running = false;
    lane->threaded = false;
    lane_answer(lane);
    pthread_mutex_unlock(&lane->lock);
    return error;
}

/* ---- for the control plane ---- */

static inline void lane_lock(lane_t *lane)
{
    pthread_mutex_lock(&lane->lock);
}

static inline void lane_unlock(lane_t *lane)
{
    pthread_mutex_unlock(&lane->lock);
}

/* CPU time of the lane's thread, user and kernel, or of its last run. The lock is held. */
static inline int64_t lane_cpu_ns(lane_t *lane)
{
    if (lane->threaded)
        lane->cpu_ns = lane_clock(lane->cpu_clock);
    return lane->cpu_ns;
}

static inline bool sample_ready(line_sample_t *sample)
{
    return atomic_load_explicit(&sample->ready, memory_order_acquire);
}

static inline void sample_done(line_sample_t *sample)
{
    atomic_store_explicit(&sample->ready, false, memory_order_release);
}

#endif
