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
    DROP_REASONS /* how many there are */
} drop_t;

static const char *const stats_reason_names[DROP_REASONS] = {
    "line_too_long", "datagram_too_large", "ring_full",       "measurement", "tag",
    "tag_duplicate", "tag_reserved",       "field",           "number",      "string",
    "timestamp",     "timestamp_range",    "utf8",            "control_character",
    "backslash",     "key_too_long",       "name",            "value",       "type",
    "rate",          "event",              "service_check",   "series_full",
};

/* What one burst brought; plain numbers, added to the listener's counters once per burst. */
typedef struct {
    uint64_t received; /* lines that are neither blank nor a comment */
    uint64_t accepted;
    uint64_t points;    /* written into rings at once */
    uint64_t rewritten; /* accepted, and changed into the safe subset */
    uint64_t clamped;   /* unsigned fields cut to the largest signed one */
    uint64_t aggregated; /* accepted, and kept in a series until the tick */
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
    counter_t dropped[DROP_REASONS];
    counter_t kernel_drops; /* of all its sockets, those closed as well; raised under the lane's lock */
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
    if (c->any_dropped)
        for (int i = 0; i < DROP_REASONS; i++)
            if (c->dropped[i])
                counter_add(&s->dropped[i], c->dropped[i]);
    counter_add(&s->accepted, c->accepted);
}

#endif
