/* Receives datagrams for formats that Python decodes: many with one call, without Python's lock.
 *
 * A receiver has one socket and one thread. What it took is given out datagram by datagram, also where the kernel has glued
 * several together (lane_datagram.h).
 */
#ifndef PENSTOCK_RECEIVER_H
#define PENSTOCK_RECEIVER_H

#include <poll.h>
#include <sys/un.h>

#include "lane_datagram.h"

/* While datagrams keep coming so soon after each other, a receiver that has nothing waits a moment before it takes the
 * next ones: to be woken for each costs several times what reading it does. */
#define RECEIVER_SOON_NS INT64_C(5000000)
#define RECEIVER_GATHER_NS 1000000L

typedef struct {
    int fd;      /* borrowed */
    int wake_fd; /* owned */
    burst_t *burst; /* borrowed: what is received into */
    bool gathers;  /* not on a Unix socket: its queue is short, and its senders wait */
    int64_t taken_ns; /* monotonic: when something came last */
    uint32_t kernel_drops_seen; /* the socket's own 32-bit counter when last read */
    uint32_t taken, given; /* messages in hand, of the last receive call, and those of them that are given out */
    uint32_t at;           /* bytes of the next one that are given out */
    capture_t *capture;    /* borrowed: where datagrams are kept besides; NULL: nowhere */
    uint16_t listener;     /* whose they are there */
    burst_note_t clock;    /* when they arrived, and the last stamp that was given */
    const source_rules_t *sources; /* who may send how much: borrowed; NULL: anybody, anything */
    bool local;                    /* a Unix socket */
    uint32_t charged;              /* messages before this one are charged with what they turned out to hold */
    uint64_t passed;               /* messages of the burst that were given out, a bit for each */
    int64_t judged_ns;             /* monotonic: when the burst was taken */
    line_counts_t refused;         /* what was not given out, until it is counted; a datagram is a metric */
    uint64_t refused_datagrams, refused_bytes;
} receiver_t;

_Static_assert(BURST_MESSAGES <= 64, "a bit for each");

/* A datagram, borrowed until the next receiver_take. */
typedef struct {
    const uint8_t *text;
    uint32_t length;
    bool cut; /* there was more of it */
} receiver_datagram_t;

/* What a socket's queue holds, and what the kernel has dropped since the last look. */
typedef struct {
    uint32_t queue_bytes, receive_buffer_bytes, drops;
} receiver_queue_t;

static inline void receiver_close(receiver_t *r)
{
    if (r->wake_fd >= 0)
        close(r->wake_fd);
}

/* Whether the kernel may glue datagrams of one sender together; it fails where there is no such thing. */
static inline void receiver_glue(receiver_t *r, bool glue)
{
    int on = glue;
    (void)setsockopt(r->fd, SOL_UDP, UDP_GRO, &on, sizeof on);
}

/* r: zeroed. Returns 0 or an errno; receiver_close is due either way. */
static inline int receiver_open(receiver_t *r, int fd, burst_t *burst, bool glue)
{
    struct sockaddr_storage bound = {0};
    socklen_t size = sizeof bound;
    r->fd = fd;
    r->burst = burst;
    r->gathers = getsockname(fd, (struct sockaddr *)&bound, &size) == 0 && bound.ss_family != AF_UNIX;
    r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->wake_fd < 0)
        return errno;
    receiver_glue(r, glue);
    return 0;
}

/* What was given out is published. When that is all that was taken, nothing is in hand any more. */
static inline void receiver_done(receiver_t *r)
{
    if (r->taken == 0 || r->given < r->taken)
        return;
    burst_done(r->burst, (int)r->taken);
    r->taken = r->given = 0;
}

static inline bool receiver_take_now(receiver_t *r)
{
    bool named = r->sources != NULL && !r->local;
    if (unlikely(r->burst->named != named))
        burst_ask_names(r->burst, named);
    burst_expect(r->burst, 0);
    int n = recvmmsg(r->fd, r->burst->header->messages, BURST_MESSAGES, MSG_DONTWAIT, NULL);
    r->given = r->at = 0;
    r->charged = 0;
    r->passed = 0;
    r->taken = n > 0 ? (uint32_t)n : 0;
    if (r->taken) {
        r->taken_ns = r->judged_ns = lane_clock(CLOCK_MONOTONIC);
        r->clock.arrival_ns = lane_clock(CLOCK_REALTIME);
        burst_note(r->burst, r->clock.arrival_ns, r->clock.stamp_ns);
        for (uint32_t i = 0; i < r->taken; i++)
            burst_close_passed(&r->burst->header->messages[i].msg_hdr);
        if (unlikely(r->capture != NULL))
            capture_burst(r->capture, r->listener, r->burst, r->taken, r->clock.arrival_ns);
    }
    return r->taken;
}

/* Takes what waits, BURST_MESSAGES messages at most, unless there is some left of what was taken before; if there is nothing,
 * waits for timeout_ms. Nothing is there after the time, after receiver_wake, and for errors, which belong to a sender. */
static inline void receiver_take(receiver_t *r, int timeout_ms)
{
    if (r->given < r->taken)
        return;
    receiver_done(r);
    if (receiver_take_now(r) || timeout_ms == 0)
        return;
    struct pollfd wanted[2] = {{.fd = r->fd, .events = POLLIN}, {.fd = r->wake_fd, .events = POLLIN}};
    if (poll(wanted, 2, timeout_ms) <= 0)
        return;
    uint64_t count;
    if (wanted[1].revents && read(r->wake_fd, &count, sizeof count) < 0)
        return;
    if (r->gathers && lane_clock(CLOCK_MONOTONIC) - r->taken_ns < RECEIVER_SOON_NS)
        nanosleep(&(struct timespec){.tv_nsec = RECEIVER_GATHER_NS}, NULL);
    receiver_take_now(r);
}

/* ---- rates ---- */

/* Asks these sources from the next burst on; false if one is in hand, which was taken without their address. One thread,
 * that which takes. */
static inline bool receiver_set_sources(receiver_t *r, const source_rules_t *sources)
{
    int wanted = sources != NULL;
    if (r->given < r->taken)
        return false;
    receiver_done(r);
    r->sources = sources;
    r->local = source_is_local(r->fd);
    if (r->local)
        (void)setsockopt(r->fd, SOL_SOCKET, SO_PASSCRED, &wanted, sizeof wanted);
    return true;
}

static inline uint64_t receiver_datagrams(receiver_t *r, uint32_t number)
{
    struct mmsghdr *message = &r->burst->header->messages[number];
    uint32_t segment = burst_segment_bytes(&message->msg_hdr, message->msg_len);
    return message->msg_len ? (message->msg_len + (uint64_t)segment - 1) / segment : 1;
}

/* Whether the next message is to be given out. It is charged with its datagrams, and later with what they hold besides. */
static inline bool receiver_judge(receiver_t *r)
{
    struct mmsghdr *message = &r->burst->header->messages[r->given];
    source_peer_t peer = source_of_message(&message->msg_hdr, r->local);
    source_answer_t answer = source_ask(r->sources, &peer, r->judged_ns);
    uint64_t datagrams = receiver_datagrams(r, r->given);
    if (answer == SOURCE_PASSES) {
        source_charge(r->sources, &peer, r->judged_ns, datagrams);
        r->passed |= UINT64_C(1) << r->given;
        return true;
    }
    source_lose(r->sources->sources, &peer, answer, datagrams);
    r->refused.received += datagrams;
    line_drop(&r->refused, answer == SOURCE_OVER ? DROP_RATE_LIMITED : DROP_SOURCE_DENIED, datagrams);
    r->refused_datagrams += datagrams;
    r->refused_bytes += message->msg_len;
    return false;
}

/* What was given out since the last call held so many metrics: those that are more than its datagrams are charged, to each
 * message by its part of the bytes. Nobody knows better, since they were decoded together. */
static inline void receiver_charge(receiver_t *r, uint64_t metrics)
{
    uint64_t datagrams = 0, bytes = 0;
    uint32_t first = r->charged;
    for (uint32_t i = first; i < r->given && r->sources != NULL; i++)
        if (r->passed >> i & 1) {
            datagrams += receiver_datagrams(r, i);
            bytes += r->burst->header->messages[i].msg_len;
        }
    for (uint32_t i = first; i < r->given && metrics > datagrams && bytes; i++)
        if (r->passed >> i & 1) {
            struct mmsghdr *message = &r->burst->header->messages[i];
            source_peer_t peer = source_of_message(&message->msg_hdr, r->local);
            double part = (double)message->msg_len / (double)bytes;
            source_charge(r->sources, &peer, r->judged_ns, 1 + (uint64_t)((double)(metrics - datagrams) * part));
        }
    r->charged = r->given;
}

/* Passes by messages that are not to be given out. */
static inline void receiver_pass_by(receiver_t *r)
{
    while (r->given < r->taken && r->at == 0 && !receiver_judge(r))
        r->given++;
}

/* Gives out the next datagram of what was taken. False if there is none left. */
static inline bool receiver_next(receiver_t *r, receiver_datagram_t *datagram)
{
    if (r->sources != NULL && !(r->given < r->taken && r->passed >> r->given & 1))
        receiver_pass_by(r);
    if (r->given == r->taken)
        return false;
    struct mmsghdr *message = &r->burst->header->messages[r->given];
    uint32_t length = message->msg_len, segment = burst_segment_bytes(&message->msg_hdr, length);
    datagram->text = r->burst->buffers + (size_t)r->given * BURST_STRIDE + r->at;
    datagram->length = length - r->at < segment ? length - r->at : segment;
    datagram->cut = message->msg_hdr.msg_flags & MSG_TRUNC;
    r->at += datagram->length;
    if (r->at == length) {
        r->given++;
        r->at = 0;
    }
    return true;
}

static inline void receiver_wake(receiver_t *r)
{
    uint64_t one = 1;
    ssize_t ignored = write(r->wake_fd, &one, sizeof one); /* fails only if it is signalled already */
    (void)ignored;
}

/* Reads the socket's queue length and drops. One thread at a time. */
static inline receiver_queue_t receiver_measure(receiver_t *r)
{
    uint32_t info[LANE_MEMINFO_VARS] = {0};
    socklen_t size = sizeof info;
    receiver_queue_t found = {0};
    if (getsockopt(r->fd, SOL_SOCKET, SO_MEMINFO, info, &size) < 0)
        return found;
    found.queue_bytes = info[LANE_MEMINFO_RMEM_ALLOC];
    found.receive_buffer_bytes = info[LANE_MEMINFO_RCVBUF];
    found.drops = info[LANE_MEMINFO_DROPS] - r->kernel_drops_seen;
    r->kernel_drops_seen = info[LANE_MEMINFO_DROPS];
    return found;
}

#endif
