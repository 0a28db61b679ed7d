/* The lane: one thread that receives datagrams from its sockets, reads them and writes its rings.
 *
 *   epoll_wait ─▶ recvmmsg(64) ─▶ each message ─▶ each datagram in it ─▶ line_read ─▶ rings ─▶ publish
 *
 * With UDP_GRO the kernel hands over several datagrams of one sender glued together, and their size in a
 * control message; they are told apart again here. Buffers are 64 KiB each, which such a message can fill.
 *
 * The control plane talks to a running lane through a mailbox: a command is queued under the lane's lock, an
 * eventfd wakes the lane, and the lane carries it out between two bursts. The lock is not touched for a
 * metric; the lane itself takes it for commands and once a second.
 */
#ifndef PENSTOCK_LANE_H
#define PENSTOCK_LANE_H

#include <netinet/in.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#include "line_reader.h"
#include "ticker.h"

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif
#define LANE_MEMINFO_RMEM_ALLOC 0 /* indices into SO_MEMINFO's answer, linux/sock_diag.h */
#define LANE_MEMINFO_RCVBUF 1
#define LANE_MEMINFO_DROPS 8
#define LANE_MEMINFO_VARS 9

#define LANE_MESSAGES 64u    /* datagrams (or glued runs of them) for one recvmmsg */
#define LANE_MESSAGE_BYTES 65536u
/* Distance of two buffers: not a power of two, or all would compete for the same lines of the cache. */
#define LANE_STRIDE (LANE_MESSAGE_BYTES + 1024u + CACHE_LINE)
#define LANE_ROUNDS 16       /* receives from one socket before the others have their turn */
#define LANE_SOCKETS 256u
#define LANE_LISTENERS 64u
#define LANE_RINGS 16u
#define LANE_DRAIN_ERRORS 64
#define LANE_IDLE_MS 1000    /* also how often an idle lane beats */

typedef struct {
    int fd; /* borrowed: the control plane closes it after removing it */
    uint16_t listener;
    line_precision_t precision;
    statsd_reader_t *statsd; /* borrowed from an Aggregator; NULL: line protocol */
    uint32_t line_bytes_max;
    uint32_t datagram_bytes_max;
    uint32_t kernel_drops_seen; /* the socket's own 32-bit counter when last read */
    uint32_t queue_bytes;
    uint32_t receive_buffer_bytes;
} lane_socket_t;

typedef enum { LANE_ADD, LANE_REMOVE, LANE_TAGS, LANE_SET_RINGS, LANE_FLIP, LANE_FORGET, LANE_STOP } lane_verb_t;

typedef struct lane_command {
    struct lane_command *next;
    lane_verb_t verb;
    lane_socket_t socket;           /* LANE_ADD, LANE_REMOVE (fd) */
    bool drain;                     /* LANE_REMOVE */
    bool gro;                       /* LANE_ADD */
    line_tags_t *tags;              /* LANE_TAGS: swapped with the lane's; the old ones come back here */
    ring_t *rings[LANE_RINGS];      /* LANE_SET_RINGS */
    uint32_t ring_count;
    int64_t drain_ns;               /* LANE_STOP */
    ticker_lane_t *ticker;          /* LANE_FLIP, LANE_FORGET */
    const aggregate_settings_t *settings; /* LANE_FLIP */
    uint32_t first, count;          /* LANE_FORGET: of ticker->forget; a count of 0 ends the tick */
    int error;                      /* answer: 0 or an errno */
    bool done;
} lane_command_t;

typedef struct {
    line_reader_t reader;
    line_tags_t *tags; /* owned */
    line_sample_t sample;
    listener_stats_t listeners[LANE_LISTENERS];
    _Alignas(CACHE_LINE) counter_t beats; /* turns of the loop: the watchdog's proof of life */
    counter_t receives;                   /* recvmmsg calls that brought something */
    counter_t accepted;

    lane_socket_t sockets[LANE_SOCKETS];
    uint32_t socket_count;
    int epoll_fd, wake_fd;
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

    struct mmsghdr messages[LANE_MESSAGES];
    struct iovec vectors[LANE_MESSAGES];
    _Alignas(CACHE_LINE) uint8_t control[LANE_MESSAGES][CMSG_SPACE(sizeof(int))];
    uint8_t *buffers; /* owned: LANE_MESSAGES times LANE_STRIDE */
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
    if (lane->buffers != NULL)
        munmap(lane->buffers, (size_t)LANE_MESSAGES * LANE_STRIDE);
    line_tags_free(lane->tags);
    line_reader_close(&lane->reader);
    pthread_mutex_destroy(&lane->lock);
    pthread_cond_destroy(&lane->answered);
}

/* lane: zeroed, CACHE_LINE-aligned memory. Returns 0 or an errno; lane_close is due either way. */
static inline int lane_open(lane_t *lane, scan_index_fn scan)
{
    pthread_mutex_init(&lane->lock, NULL);
    pthread_cond_init(&lane->answered, NULL);
    lane->queue_last = &lane->queue_first;
    lane->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    lane->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (lane->wake_fd < 0 || lane->epoll_fd < 0)
        return errno;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = lane->wake_fd};
    if (epoll_ctl(lane->epoll_fd, EPOLL_CTL_ADD, lane->wake_fd, &event) < 0)
        return errno;
    lane->tags = line_tags_new();
    if (lane->tags == NULL)
        return ENOMEM;
    line_reader_open(&lane->reader, scan, lane->tags);
    lane->reader.sample = &lane->sample;
    /* Mapped, not allocated: pages that no datagram reaches cost no memory. */
    void *map = mmap(NULL, (size_t)LANE_MESSAGES * LANE_STRIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return errno;
    lane->buffers = map;
    for (uint32_t i = 0; i < LANE_MESSAGES; i++) {
        lane->vectors[i].iov_base = lane->buffers + (size_t)i * LANE_STRIDE;
        lane->vectors[i].iov_len = LANE_MESSAGE_BYTES;
        lane->messages[i].msg_hdr.msg_iov = &lane->vectors[i];
        lane->messages[i].msg_hdr.msg_iovlen = 1;
        lane->messages[i].msg_hdr.msg_control = lane->control[i];
        lane->messages[i].msg_hdr.msg_controllen = sizeof lane->control[i];
    }
    return 0;
}

/* ---- receiving ---- */

/* The size of the datagrams glued together in a message of `length` bytes; `length` itself if it is one. */
static inline uint32_t lane_segment_bytes(struct msghdr *message, uint32_t length)
{
    if (message->msg_controllen == 0)
        return length;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c))
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            int bytes;
            memcpy(&bytes, CMSG_DATA(c), sizeof bytes);
            if (bytes > 0)
                return (uint32_t)bytes;
        }
    return length;
}

/* Reads one message, which may hold several datagrams. Returns how many. */
static inline uint64_t lane_message(lane_t *lane, const lane_socket_t *socket, struct mmsghdr *message, uint8_t *text,
                                    line_counts_t *counts)
{
    uint32_t length = message->msg_len;
    uint32_t segment = lane_segment_bytes(&message->msg_hdr, length);
    bool cut = message->msg_hdr.msg_flags & MSG_TRUNC;
    uint64_t datagrams = 0;
    uint32_t at = 0;
    do {
        uint32_t bytes = length - at < segment ? length - at : segment;
        if (unlikely(bytes > socket->datagram_bytes_max || cut))
            line_drop_datagram(&lane->reader, text + at, bytes, counts);
        else if (socket->statsd != NULL)
            statsd_read(socket->statsd, text + at, bytes, counts);
        else
            line_read(&lane->reader, text + at, bytes, counts);
        at += bytes;
        datagrams++;
    } while (at < length);
    return datagrams;
}

/* Receives up to LANE_MESSAGES messages and publishes what they held. Returns how many, or -1 with errno. */
static inline int lane_burst(lane_t *lane, const lane_socket_t *socket)
{
    line_reader_t *reader = &lane->reader;
    int n = recvmmsg(socket->fd, lane->messages, LANE_MESSAGES, MSG_DONTWAIT, NULL);
    if (n <= 0)
        return n;
    reader->arrival_ns = lane_clock(CLOCK_REALTIME);
    reader->listener = socket->listener;
    reader->precision = socket->precision;
    reader->line_bytes_max = socket->line_bytes_max;
    for (uint32_t i = 0; i < reader->ring_count; i++)
        ring_begin(reader->rings[i]);
    line_counts_t counts = {0};
    uint64_t datagrams = 0, bytes = 0;
    /* Only the n messages that were filled: the others hold what an earlier call left there. */
    for (int i = 0; i < n; i++) {
        struct mmsghdr *message = &lane->messages[i];
        bytes += message->msg_len;
        datagrams += lane_message(lane, socket, message, message->msg_hdr.msg_iov->iov_base, &counts);
        message->msg_hdr.msg_controllen = sizeof lane->control[i];
    }
    if (socket->statsd != NULL)
        statsd_done(socket->statsd, &counts);
    /* Before anything is said to be accepted: whoever is told so finds it in the ring, even if we are killed now. */
    for (uint32_t i = 0; i < reader->ring_count; i++)
        ring_end(reader->rings[i]);
    stats_add(&lane->listeners[socket->listener], &counts, datagrams, bytes);
    counter_add(&lane->accepted, counts.accepted);
    counter_add(&lane->receives, 1);
    for (uint32_t i = 0; i < reader->ring_count; i++)
        counter_add(&reader->rings[i]->accepted, counts.points);
    return n;
}

/* Closes the runs that bursts have left open. */
static inline void lane_publish(lane_t *lane)
{
    for (uint32_t i = 0; i < lane->reader.ring_count; i++) {
        ring_publish(lane->reader.rings[i]);
        ring_notify(lane->reader.rings[i]);
    }
}

/* Empties a socket's queue, or as much of it as is one socket's turn. */
static inline void lane_receive(lane_t *lane, const lane_socket_t *socket)
{
    for (int round = 0; round < LANE_ROUNDS; round++)
        if (lane_burst(lane, socket) < (int)LANE_MESSAGES)
            break; /* empty, or an error that belongs to the sender (ECONNREFUSED); epoll tells if there is more */
}

/* Reads what a socket holds until it is empty or the time is over. Errors that wait in the socket (ICMP answers to
 * somebody) are fetched by the way; one that stays ends it. */
static inline void lane_drain(lane_t *lane, const lane_socket_t *socket, int64_t until_ns)
{
    for (int errors = 0; errors < LANE_DRAIN_ERRORS && lane_clock(CLOCK_MONOTONIC) < until_ns;) {
        int n = lane_burst(lane, socket);
        if (n == 0 || (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)))
            return;
        errors = n < 0 ? errors + 1 : 0;
    }
}

/* Reads a socket's queue length and drops. The lane's lock is held. */
static inline void lane_measure(lane_t *lane, lane_socket_t *socket)
{
    uint32_t info[LANE_MEMINFO_VARS] = {0};
    socklen_t size = sizeof info;
    if (getsockopt(socket->fd, SOL_SOCKET, SO_MEMINFO, info, &size) < 0)
        return;
    socket->queue_bytes = info[LANE_MEMINFO_RMEM_ALLOC];
    socket->receive_buffer_bytes = info[LANE_MEMINFO_RCVBUF];
    counter_add(&lane->listeners[socket->listener].kernel_drops, info[LANE_MEMINFO_DROPS] - socket->kernel_drops_seen);
    socket->kernel_drops_seen = info[LANE_MEMINFO_DROPS];
}

/* ---- commands ---- */

static inline lane_socket_t *lane_find(lane_t *lane, int fd)
{
    for (uint32_t i = 0; i < lane->socket_count; i++)
        if (lane->sockets[i].fd == fd)
            return &lane->sockets[i];
    return NULL;
}

static inline int lane_add(lane_t *lane, const lane_socket_t *settings, bool gro)
{
    int on = gro;
    if (settings->statsd != NULL)
        settings->statsd->reader = &lane->reader;
    /* Absent before Linux 5.0 and on Unix sockets: each datagram is a message then. */
    (void)setsockopt(settings->fd, SOL_UDP, UDP_GRO, &on, sizeof on);
    lane_socket_t *socket = lane_find(lane, settings->fd);
    if (socket != NULL) {
        lane_measure(lane, socket);
        socket->listener = settings->listener;
        socket->precision = settings->precision;
        socket->statsd = settings->statsd;
        socket->line_bytes_max = settings->line_bytes_max;
        socket->datagram_bytes_max = settings->datagram_bytes_max;
        return 0;
    }
    if (lane->socket_count == LANE_SOCKETS)
        return ENOSPC;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = settings->fd};
    if (epoll_ctl(lane->epoll_fd, EPOLL_CTL_ADD, settings->fd, &event) < 0)
        return errno;
    socket = &lane->sockets[lane->socket_count++];
    *socket = *settings;
    socket->kernel_drops_seen = 0; /* a passed socket may have lost datagrams before we were there: they count */
    lane_measure(lane, socket);
    return 0;
}

static inline int lane_remove(lane_t *lane, int fd, bool drain)
{
    lane_socket_t *socket = lane_find(lane, fd);
    if (socket == NULL)
        return ENOENT;
    epoll_ctl(lane->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    if (drain)
        lane_drain(lane, socket, lane_clock(CLOCK_MONOTONIC) + 1000000000);
    lane_measure(lane, socket);
    *socket = lane->sockets[--lane->socket_count];
    return 0;
}

/* The lane's lock is held. */
static inline void lane_execute(lane_t *lane, lane_command_t *command)
{
    switch (command->verb) {
    case LANE_ADD:
        command->error = lane_add(lane, &command->socket, command->gro);
        break;
    case LANE_REMOVE:
        command->error = lane_remove(lane, command->socket.fd, command->drain);
        break;
    case LANE_TAGS: {
        line_tags_t *old = lane->tags;
        lane->tags = command->tags;
        lane->reader.tags = lane->tags;
        command->tags = old;
        break;
    }
    case LANE_SET_RINGS:
        lane_publish(lane); /* those that go have no writer from here on */
        memcpy(lane->reader.rings, command->rings, sizeof command->rings);
        lane->reader.ring_count = command->ring_count;
        break;
    case LANE_FLIP:
        ticker_flip(command->ticker, command->settings);
        break;
    case LANE_FORGET:
        command->count = ticker_remove(command->ticker->aggregate, command->ticker->forget + command->first,
                                       command->ticker->forget_tags + command->first, command->count);
        command->ticker->aggregate->table.held = false;
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
        for (uint32_t i = 0; i < lane->socket_count; i++)
            lane_measure(lane, &lane->sockets[i]);
    }
    pthread_mutex_unlock(&lane->lock);
}

/* Runs until a LANE_STOP. Returns 0 or an errno. One thread only. */
static inline int lane_run(lane_t *lane)
{
    struct epoll_event events[LANE_SOCKETS + 1];
    int error = 0;
    pthread_mutex_lock(&lane->lock);
    lane->running = true;
    lane->threaded = pthread_getcpuclockid(pthread_self(), &lane->cpu_clock) == 0;
    pthread_mutex_unlock(&lane->lock);
    while (!lane->stopping) {
        int n = epoll_wait(lane->epoll_fd, events, LANE_SOCKETS + 1, LANE_IDLE_MS);
        if (n < 0 && errno != EINTR) {
            error = errno;
            break;
        }
        counter_add(&lane->beats, 1);
        bool commands = false;
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == lane->wake_fd) {
                commands = true;
                continue;
            }
            lane_socket_t *socket = lane_find(lane, events[i].data.fd);
            if (socket != NULL)
                lane_receive(lane, socket);
        }
        lane_housekeeping(lane, commands);
    }
    for (uint32_t i = 0; i < lane->socket_count; i++)
        lane_drain(lane, &lane->sockets[i], lane->stop_at_ns);
    lane_publish(lane);
    pthread_mutex_lock(&lane->lock);
    for (uint32_t i = 0; i < lane->socket_count; i++)
        lane_measure(lane, &lane->sockets[i]);
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

/* Fresh queue lengths and drops. The lock is held. */
static inline void lane_measure_all(lane_t *lane)
{
    for (uint32_t i = 0; i < lane->socket_count; i++)
        lane_measure(lane, &lane->sockets[i]);
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
