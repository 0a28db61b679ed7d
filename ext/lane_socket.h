/* What a lane must know of one socket to read it, and the one place where formats are told apart. */
#ifndef PENSTOCK_LANE_SOCKET_H
#define PENSTOCK_LANE_SOCKET_H

#include "graphite.h"
#include "line_reader.h"
#include "remote_read.h"
#include "source.h"
#include "statsd_reader.h"

typedef enum { LANE_LINE, LANE_STATSD, LANE_GRAPHITE, LANE_PROTOBUF } lane_format_t;

/* How many connections a listener has, on all lanes, and may have. */
typedef struct {
    _Atomic uint32_t open, most;
} lane_limit_t;

static inline uint32_t limit_open(const lane_limit_t *limit)
{
    return atomic_load_explicit(&limit->open, memory_order_relaxed);
}

static inline uint32_t limit_most(const lane_limit_t *limit)
{
    return atomic_load_explicit(&limit->most, memory_order_relaxed);
}

static inline void limit_set(lane_limit_t *limit, uint32_t most)
{
    atomic_store_explicit(&limit->most, most, memory_order_relaxed);
}

typedef struct {
    int fd; /* borrowed: the control plane closes it after removing it. -1: this place is free */
    uint16_t listener;
    lane_format_t format;
    line_precision_t precision;
    statsd_reader_t *statsd; /* LANE_STATSD: borrowed from an Aggregator; NULL else */
    const graphite_t *graphite; /* LANE_GRAPHITE: borrowed from a Graphite; NULL else */
    uint32_t line_bytes_max;
    uint32_t datagram_bytes_max;
    lane_limit_t *limit; /* connections come by it: borrowed from a Connections; NULL: datagrams */
    const source_rules_t *sources; /* who may send how much: borrowed from a Sources; NULL: anybody, anything */
    bool local;          /* a Unix socket; told only where there are `sources` */
    int64_t idle_ns;     /* a connection that is silent for longer is closed; 0: never */
    bool accepts;        /* the lane accepts on it; else connections are brought by others */
    bool shared;         /* what waits to be accepted is for the next process, which gets the same socket */
    bool framed;         /* a connection may use DogStatsD's framing */
    bool muted;          /* the lane does not listen for a moment: it has no descriptor left */
    uint32_t kernel_drops_seen; /* the socket's own 32-bit counter when last read */
    uint32_t queue_bytes;
    uint32_t receive_buffer_bytes;
} lane_socket_t;

/* Reads text[0..n), whole lines or a whole datagram, in the socket's format. text[n] is borrowed (overwritten and put
 * back), PORT_PADDING more are readable. What is read may borrow from the text until lane_read_done. */
static inline void lane_read(line_reader_t *reader, const lane_socket_t *socket, uint8_t *text, uint32_t n, line_counts_t *counts)
{
    switch (socket->format) {
    case LANE_STATSD:
        statsd_read(socket->statsd, text, n, counts);
        break;
    case LANE_GRAPHITE:
        graphite_read(socket->graphite, reader, text, n, counts);
        break;
    case LANE_PROTOBUF:
        remote_read(reader, text, n, counts);
        break;
    default:
        line_read(reader, text, n, counts);
    }
}

/* The end of a burst of lane_read. */
static inline void lane_read_done(const lane_socket_t *socket, line_counts_t *counts)
{
    if (socket->format == LANE_STATSD)
        statsd_done(socket->statsd, counts);
}

#endif
