/* Datagrams: received 64 at a time, told apart, read.
 *
 * With UDP_GRO the kernel hands over several datagrams of one sender glued together, and their size in a
 * control message; they are told apart again here. Buffers are 64 KiB each, which such a message can fill, and they lie in
 * a file (burst.h): a process that is killed leaves what it had in hand to the next one, whose lane reads it by
 * lane_replay.
 */
#ifndef PENSTOCK_LANE_DATAGRAM_H
#define PENSTOCK_LANE_DATAGRAM_H

#include "lane_base.h"

/* Reads one message of a burst, which may hold several datagrams. Returns how many. With a `reason` it is not read: all of it
 * is dropped. */
static inline uint64_t lane_message(lane_t *lane, const lane_socket_t *socket, burst_t *burst, uint32_t number, drop_t reason, line_counts_t *counts)
{
    struct mmsghdr *message = &burst->header->messages[number];
    uint8_t *text = burst->buffers + (size_t)number * BURST_STRIDE;
    uint32_t length = message->msg_len;
    uint32_t segment = burst_segment_bytes(&message->msg_hdr, length);
    bool cut = message->msg_hdr.msg_flags & MSG_TRUNC;
    uint64_t datagrams = 0;
    uint32_t at = 0;
    do {
        uint32_t bytes = length - at < segment ? length - at : segment;
        if (at + bytes < length)
            burst_lend(burst, 0, text + at + bytes); /* the first byte of the next one, which readers overwrite */
        if (unlikely(reason != DROP_NONE))
            line_drop_unread(text + at, bytes, reason, counts);
        else if (unlikely(bytes > socket->datagram_bytes_max || cut))
            line_drop_datagram(&lane->reader, text + at, bytes, counts);
        else
            lane_read(&lane->reader, socket, text + at, bytes, counts);
        at += bytes;
        datagrams++;
    } while (at < length);
    return datagrams;
}

/* The same if its source may send it, and is not in debt. One message has one source, also if it is several datagrams. */
static inline uint64_t lane_message_of_source(lane_t *lane, const lane_socket_t *socket, burst_t *burst, uint32_t number, int64_t now_ns,
                                              source_run_t *run, line_counts_t *counts)
{
    source_peer_t peer = source_of_message(&burst->header->messages[number].msg_hdr, socket->local);
    source_answer_t answer = source_ask_in_run(socket->sources, run, &peer, now_ns);
    drop_t reason = answer == SOURCE_PASSES ? DROP_NONE : answer == SOURCE_OVER ? DROP_RATE_LIMITED : DROP_SOURCE_DENIED;
    uint64_t before = counts->received;
    uint64_t datagrams = lane_message(lane, socket, burst, number, reason, counts);
    if (likely(answer == SOURCE_PASSES))
        source_charge(socket->sources, &peer, now_ns, counts->received - before);
    else
        source_run_lose(run, &peer, answer, counts->received - before);
    return datagrams;
}

/* Reads all messages in hand, of the first n, and publishes what they held. What an earlier process had in hand is read
 * whoever has sent it: it may have been charged already, and where it came from died with that process. */
static inline __attribute__((always_inline)) void lane_messages(lane_t *lane, const lane_socket_t *socket, burst_t *burst, uint32_t n,
                                                                bool judged)
{
    int64_t now_ns = judged ? lane_clock(CLOCK_MONOTONIC) : 0;
    source_run_t run = {0};
    line_counts_t counts = {0};
    uint64_t datagrams = 0, bytes = 0;
    lane->reader.lent = &burst->header->lent[1];
    lane->reader.lent_base = burst->buffers;
    for (uint32_t i = 0; i < n; i++) {
        if (unlikely(burst != lane->burst) && burst->header->messages[i].msg_len == 0)
            continue; /* not of this burst; one that was received may be empty */
        if (likely(burst == lane->burst))
            burst_close_passed(&burst->header->messages[i].msg_hdr);
        bytes += burst->header->messages[i].msg_len;
        if (judged)
            datagrams += lane_message_of_source(lane, socket, burst, i, now_ns, &run, &counts);
        else
            datagrams += lane_message(lane, socket, burst, i, DROP_NONE, &counts);
    }
    if (judged)
        source_run_end(socket->sources, &run);
    lane->reader.lent = NULL;
    BURST_STEP(BURST_READ);
    lane_end(lane, socket, &counts, datagrams, bytes);
    BURST_STEP(BURST_PUBLISHED);
}

/* The two kinds of bursts, each by itself: sources cost nothing where nobody asks for them. */
static __attribute__((noinline)) void lane_messages_plain(lane_t *lane, const lane_socket_t *socket, burst_t *burst, uint32_t n)
{
    lane_messages(lane, socket, burst, n, false);
}

static __attribute__((noinline)) void lane_messages_judged(lane_t *lane, const lane_socket_t *socket, burst_t *burst, uint32_t n)
{
    lane_messages(lane, socket, burst, n, true);
}

/* Receives up to BURST_MESSAGES messages and publishes what they held. Returns how many, or -1 with errno. */
static inline int lane_burst(lane_t *lane, const lane_socket_t *socket)
{
    burst_t *burst = lane->burst;
    bool judged = socket->sources != NULL, named = judged && !socket->local;
    if (unlikely(burst->named != named))
        burst_ask_names(burst, named);
    burst_expect(burst, socket->listener);
    int n = recvmmsg(socket->fd, burst->header->messages, BURST_MESSAGES, MSG_DONTWAIT, NULL);
    if (n <= 0)
        return n;
    BURST_STEP(BURST_TAKEN);
    lane_begin(lane, socket);
    burst_note(burst, lane->reader.arrival_ns, lane->reader.stamp_ns);
    BURST_STEP(BURST_NOTED);
    if (judged)
        lane_messages_judged(lane, socket, burst, (uint32_t)n);
    else
        lane_messages_plain(lane, socket, burst, (uint32_t)n);
    if (unlikely(lane->capture != NULL))
        capture_burst(lane->capture, socket->listener, burst, (uint32_t)n, lane->reader.arrival_ns);
    burst_done(burst, n);
    return n;
}

/* ---- what an earlier process had in hand ---- */

/* Reads a burst that was looked at (burst_left.h) as if it had come by `socket` when it did. */
static inline void lane_replay(lane_t *lane, const lane_socket_t *socket, burst_t *left)
{
    const burst_note_t *note = &left->header->note;
    int64_t stamp_ns = lane->reader.stamp_ns;
    lane_begin(lane, socket);
    lane->reader.arrival_ns = note->arrival_ns;
    line_stamp_after(&lane->reader, note->stamp_ns);
    lane_messages_plain(lane, socket, left, BURST_MESSAGES);
    if (lane->reader.stamp_ns < stamp_ns)
        line_stamp_after(&lane->reader, stamp_ns);
}

/* Counts what nobody can read as dropped, at the listener with the number. Of a burst that is not to be trusted each message
 * is one metric. */
static inline void lane_refuse(lane_t *lane, uint16_t listener, const burst_t *left, const burst_findings_t *found)
{
    line_counts_t counts = {0};
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < BURST_MESSAGES && found->state == BURST_WHOLE; i++) {
        struct mmsghdr *message = &left->header->messages[i];
        const uint8_t *text = left->buffers + (size_t)i * BURST_STRIDE;
        uint32_t length = message->msg_len, segment = burst_segment_bytes(&message->msg_hdr, length);
        for (uint32_t at = 0; at < length; at += segment)
            line_drop_unread(text + at, length - at < segment ? length - at : segment, DROP_LISTENER_GONE, &counts);
        bytes += length;
    }
    if (found->state != BURST_WHOLE) {
        counts.received = found->messages;
        line_drop(&counts, DROP_BURST_TORN, found->messages);
    }
    stats_add(&lane->listeners[listener], &counts, found->datagrams, bytes);
}

/* ---- sockets ---- */

/* Empties a socket's queue, or as much of it as is one socket's turn. */
static inline void lane_receive(lane_t *lane, const lane_socket_t *socket)
{
    for (int round = 0; round < LANE_ROUNDS; round++)
        if (lane_burst(lane, socket) < (int)BURST_MESSAGES)
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
    if (socket->limit != NULL)
        return; /* the streams' counterpart are windows that close */
    uint32_t info[LANE_MEMINFO_VARS] = {0};
    socklen_t size = sizeof info;
    if (getsockopt(socket->fd, SOL_SOCKET, SO_MEMINFO, info, &size) < 0)
        return;
    socket->queue_bytes = info[LANE_MEMINFO_RMEM_ALLOC];
    socket->receive_buffer_bytes = info[LANE_MEMINFO_RCVBUF];
    counter_add(&lane->listeners[socket->listener].kernel_drops, info[LANE_MEMINFO_DROPS] - socket->kernel_drops_seen);
    socket->kernel_drops_seen = info[LANE_MEMINFO_DROPS];
}

#endif
