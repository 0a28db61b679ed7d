/* The counters of a lane: one block for each listener, raised by the lane only, never reset. */
#ifndef PENSTOCK_STATS_H
#define PENSTOCK_STATS_H

#include "port.h"

/* Why a metric was dropped by a lane. The order is that of stats_reason_names. */
typedef enum {
    DROP_NONE = -1,
    DROP_LINE_TOO_LONG = 0,
    DROP_DATAGRAM_TOO_LARGE,
    DROP_RING_FULL,
    DROP_MEASUREMENT,
    DROP_TAG,
    DROP_TAG_DUPLICATE,
    DROP_TAG_RESERVED,
    DROP_FIELD,
    DROP_NUMBER,
    DROP_STRING,
    DROP_TIMESTAMP,
    DROP_TIMESTAMP_RANGE,
    DROP_UTF8,
    DROP_CONTROL_CHARACTER,
    DROP_BACKSLASH,
    DROP_KEY_TOO_LONG,
    DROP_NAME,
    DROP_VALUE,
    DROP_TYPE,
    DROP_RATE,
    DROP_EVENT,
    DROP_SERVICE_CHECK,
    DROP_SERIES_FULL,
    DROP_BODY_REFUSED, /* a good line of a body that was to be taken whole or not at all */
    DROP_JSON,    /* a message, or a part of one, that is no JSON */
    DROP_MSGPACK, /* the rest of a message that is no MessagePack */
    DROP_OBJECT,  /* a value that is no metric */
    DROP_UNFINISHED,
    DROP_PROTOBUF,    /* the rest of a message that is malformed somewhere */
    DROP_UNSUPPORTED, /* a kind of sample that has no form here */
    DROP_BURST_TORN,    /* a datagram that a killed process had in hand, in a file that cannot be trusted */
    DROP_LISTENER_GONE, /* the same, and there is no listener any more that could read it */
    DROP_UNROUTED,    /* no output wants it */
    DROP_CARDINALITY, /* one series too many */
    DROP_TYPE_CONFLICT, /* no field has the type that it is kept by */
    DROP_DENIED,      /* a rule says so */
    DROP_RATE_LIMITED,  /* of a message that was not read: the listener, or its source, is over its rate */
    DROP_SOURCE_DENIED, /* the same: its source may not send */
    DROP_REASONS /* how many there are */
} drop_t;

static const char *const stats_reason_names[DROP_REASONS] = {
    "line_too_long", "datagram_too_large", "ring_full",       "measurement", "tag",
    "tag_duplicate", "tag_reserved",       "field",           "number",      "string",
    "timestamp",     "timestamp_range",    "utf8",            "control_character",
    "backslash",     "key_too_long",       "name",            "value",       "type",
    "rate",          "event",              "service_check",   "series_full",
    "body_refused",
    "json",          "msgpack",            "object",
    "unfinished",    "protobuf",           "unsupported",     "burst_torn",  "listener_gone",
    "unrouted",      "cardinality",        "type_conflict",   "denied",
    "rate_limited",  "source_denied",
};

/* Why a connection was closed. The order is that of stats_close_names. */
typedef enum {
    CLOSE_ENDED = 0, /* by its client */
    CLOSE_RESET,
    CLOSE_IDLE,
    CLOSE_SLOW, /* it held a line for too long without ending it */
    CLOSE_FRAME,
    CLOSE_MEMORY,
    CLOSE_STOPPED, /* the listener has left, or the agent stops */
    CLOSE_DENIED,  /* its source may not send any more */
    CLOSE_REASONS
} close_t;

static const char *const stats_close_names[CLOSE_REASONS] = {
    "ended", "reset", "idle", "slow", "frame_too_large", "no_memory", "stopped", "source_denied",
};

/* What one burst brought; plain numbers, added to the listener's counters once per burst. */
typedef struct {
    uint64_t received; /* lines that are neither blank nor a comment */
    uint64_t accepted;
    uint64_t points;    /* written into rings at once */
    uint64_t rewritten; /* accepted, and changed into the safe subset */
    uint64_t clamped;   /* unsigned fields cut to the largest signed one */
    uint64_t aggregated; /* accepted, and kept in a series until the tick */
    uint64_t shaped;     /* accepted under a head that rules have changed */
    uint64_t overflowed; /* accepted, with a tag replaced or without it, since there are too many series */
    uint64_t observed;   /* accepted, and would have been that or dropped */
    uint64_t coerced;    /* accepted, with a field brought to its type */
    uint64_t fields_rejected; /* that left accepted lines, and dropped ones, for their types */
    uint64_t dropped[DROP_REASONS];
    bool any_dropped;
} line_counts_t;

typedef struct {
    _Alignas(CACHE_LINE) counter_t datagrams;
    counter_t bytes;
    counter_t received;
    counter_t accepted;
    counter_t rewritten;
    counter_t clamped;
    counter_t aggregated;
    counter_t shaped;
    counter_t overflowed;
    counter_t observed;
    counter_t coerced;
    counter_t fields_rejected;
    counter_t dropped[DROP_REASONS];
    counter_t kernel_drops; /* of all its sockets, those closed as well; raised under the lane's lock */
    counter_t connections;  /* open now */
    counter_t connections_accepted;
    counter_t connections_refused; /* there were too many, or no descriptor was left */
    counter_t connections_closed[CLOSE_REASONS];
} listener_stats_t;

static inline void stats_add(listener_stats_t *s, const line_counts_t *c, uint64_t datagrams, uint64_t bytes)
{
    counter_add(&s->datagrams, datagrams);
    counter_add(&s->bytes, bytes);
    /* Accepted last: a reader that adds up the ledger meanwhile never sees more accepted than received. */
    counter_add(&s->received, c->received);
    if (c->rewritten)
        counter_add(&s->rewritten, c->rewritten);
    if (c->clamped)
        counter_add(&s->clamped, c->clamped);
    if (c->aggregated)
        counter_add(&s->aggregated, c->aggregated);
    if (c->shaped)
        counter_add(&s->shaped, c->shaped);
    if (c->overflowed)
        counter_add(&s->overflowed, c->overflowed);
    if (c->observed)
        counter_add(&s->observed, c->observed);
    if (c->coerced)
        counter_add(&s->coerced, c->coerced);
    if (c->fields_rejected)
        counter_add(&s->fields_rejected, c->fields_rejected);
    if (c->any_dropped)
        for (int i = 0; i < DROP_REASONS; i++)
            if (c->dropped[i])
                counter_add(&s->dropped[i], c->dropped[i]);
    counter_add(&s->accepted, c->accepted);
}

#endif
