/* Connections whose source is over its rate: held, and looked at again soon.
 *
 * Nothing of a connection is dropped: it is not read, the kernel's buffers fill, and its sender waits. A read is charged with
 * what it brought, so a source is ahead of its rate by one read, of 64 KiB, at most.
 */
#ifndef PENSTOCK_LANE_SOURCE_H
#define PENSTOCK_LANE_SOURCE_H

#include "lane_base.h"

#define LANE_HELD_MS 10 /* between two looks at those that are held */

/* Has the kernel say which process a datagram comes from, where that is asked, and not where it is not. */
static inline void lane_settle_credentials(const lane_socket_t *socket)
{
    int wanted = socket->sources != NULL;
    if (socket->limit == NULL && source_is_local(socket->fd))
        (void)setsockopt(socket->fd, SOL_SOCKET, SO_PASSCRED, &wanted, sizeof wanted);
}

/* Whether something may be read from a connection of this socket, which has `sources`. */
static inline source_answer_t lane_ask(const lane_socket_t *socket, lane_connection_t *c)
{
    if (c->peer.kind == SOURCE_NOBODY)
        c->peer = source_of_connection(c->fd);
    return source_ask(socket->sources, &c->peer, lane_clock(CLOCK_MONOTONIC));
}

/* A read has brought so many metrics. */
static inline void lane_charge(const lane_socket_t *socket, lane_connection_t *c, uint64_t metrics)
{
    if (c->peer.kind == SOURCE_NOBODY)
        c->peer = source_of_connection(c->fd);
    source_charge(socket->sources, &c->peer, lane_clock(CLOCK_MONOTONIC), metrics);
}

/* Tells of nothing that comes by a connection until lane_look_at_held. Not only silent: a peer that is gone would be heard. */
static inline void lane_hold(lane_t *lane, lane_connection_t *c)
{
    epoll_ctl(lane->stream_epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    if (lane->held_count++ == 0)
        lane->held_ns = lane_clock(CLOCK_MONOTONIC_COARSE);
    c->held = true;
}

/* Goes on with it. It was not silent: nobody has listened. */
static inline void lane_let_go(lane_t *lane, lane_connection_t *c, int64_t now_ns)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)(c - lane->connections)};
    if (epoll_ctl(lane->stream_epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0)
        return; /* no memory at the moment: looked at again */
    lane->held_count--;
    c->held = false;
    c->heard_ns = now_ns;
    if (c->since_ns != 0)
        c->since_ns = now_ns;
}

/* Goes on with those that are out of debt, every LANE_HELD_MS. Who may not send any more is told so when it is read. */
static inline void lane_look_at_held(lane_t *lane)
{
    int64_t now_ns = lane_clock(CLOCK_MONOTONIC_COARSE);
    if (lane->held_count == 0 || now_ns - lane->held_ns < LANE_HELD_MS * INT64_C(1000000))
        return;
    lane->held_ns = now_ns;
    for (uint32_t i = 0; i < lane->connection_room; i++) {
        lane_connection_t *c = &lane->connections[i];
        const lane_socket_t *socket = &lane->sockets[c->socket];
        if (c->fd >= 0 && c->held && (socket->sources == NULL || lane_ask(socket, c) != SOURCE_OVER))
            lane_let_go(lane, c, now_ns);
    }
}

#endif
