/* One line of line protocol, taken apart, and how it is written into the rings.
 *
 *   cpu,host=a,dc=eu1 idle=1.5,busy=2i 1700000000000000000 LF
 *   ^^^^^^^^^^^^^^^^^                                           series: measurement and tags
 *                     ^^^^^^^^^^^^^^^^                          fields
 *                                      ^^^^^^^^^^^^^^^^^^^      time: nanoseconds, decimal
 *
 * Specification of the text: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/
 * What we emit is the subset of it that every InfluxDB accepts.
 */
#ifndef PENSTOCK_LINE_H
#define PENSTOCK_LINE_H

#include "line_set.h"
#include "num.h"
#include "ring.h"
#include "scan.h"
#include "stats.h"

#define LINE_TAGS_MAX 64u      /* agent tags */
#define LINE_TAGS_TEXT_MAX 65536u /* bytes of all agent tags together */
#define LINE_KEYS_FAST 64u     /* tags, and fields, that the fast path takes; the general one takes any number */
#ifndef LINE_WINDOW /* tests have smaller ones */
#define LINE_WINDOW 16384u     /* bytes indexed at a time: text and index stay in the first-level cache */
#endif
#define LINE_KEY_BYTES 65535u  /* InfluxDB's limit of series key + 4 + field key */
/* InfluxDB 1 and 2 hold the places of a line's tags in a list that starts with 100 and is doubled one tag too late:
 * a line of exactly 100, 200, 400 … tags makes the server fail, and with it every line of the batch. */
#define LINE_TAGS_FATAL 100u
#define LINE_TIME_MIN (INT64_MIN + 2)
#define LINE_TIME_MAX (INT64_MAX - 1)
#define LINE_TEXT_MAX 65536u     /* default limit of a line, bytes */
#define LINE_SAMPLE_BYTES 256u
#define LINE_LATE_MAX (8u << 20) /* bytes of lines that wait for room; one read becomes a small part of it */

/* Precision of timestamps without a unit: how many decimal zeros make nanoseconds of it. Minutes and hours are no powers
 * of ten, and LINE_AUTO is guessed for each timestamp; only the general path knows them. */
typedef enum {
    LINE_NS = 0,
    LINE_US = 3,
    LINE_MS = 6,
    LINE_S = 9,
    LINE_MINUTES = 20,
    LINE_HOURS,
    LINE_AUTO,
} line_precision_t;

/* Agent tags, ready to be appended: text holds ",key=value" for each, one behind the other. */
typedef struct {
    uint8_t *text; /* owned, PORT_PADDING readable behind it */
    uint32_t length;
    uint32_t count;
    uint64_t hash; /* of text, seeded: tells apart what is added to one head; 0 without tags */
    struct {
        line_key_t key; /* inside text */
        uint32_t start, end; /* of ",key=value" in text */
    } tag[LINE_TAGS_MAX];
} line_tags_t;

/* A line in canonical form, in pieces that are borrowed until the next line is read. */
typedef struct {
    const uint8_t *series;
    const uint8_t *fields;
    const uint8_t *fields_signed; /* as fields, `u` written as `i`; for rings that may not hold unsigned */
    const uint8_t *extra;         /* agent tags to append to the series */
    const uint8_t *time;          /* decimal digits; NULL: to be stamped */
    uint32_t series_length;
    uint32_t fields_length;
    uint32_t fields_signed_length;
    uint32_t extra_length;
    uint32_t time_length;
    uint32_t time_zeros; /* to be written behind the digits */
    uint32_t clamped;    /* fields cut in fields_signed */
    /* Positions in mark_base of the marks `,` `=` SPACE of series and fields, one after the other, if there are no others and
     * all values are numbers or booleans (line_fast.h); else NULL. */
    const uint32_t *marks;
    const uint8_t *mark_base;
    bool joined;         /* series, SPACE and fields (and SPACE and time) stand in the text as they are to be written */
    bool rewritten;
} line_t;

/* A malformed line for the log. Filled by the lane when `ready` is false, emptied by the control plane. */
typedef struct {
    _Atomic bool ready;
    uint16_t listener;
    int16_t reason;
    uint32_t length;
    uint8_t text[LINE_SAMPLE_BYTES];
} line_sample_t;

/* A malformed line for whoever sent it. */
typedef struct {
    uint64_t number; /* from 1, of the lines that are neither blank nor a comment */
    int16_t reason;
    uint32_t length;
    uint8_t text[LINE_SAMPLE_BYTES];
} line_error_t;

typedef struct {
    line_error_t *list; /* owned by the caller, room for max */
    uint32_t count, max;
} line_errors_t;
/* Lines that no ring had room for, as canonical text, for a reader that can wait. */
typedef struct {
    uint8_t *text; /* owned, PORT_PADDING behind `room` */
    uint32_t length, room;
} line_late_t;

/* Tests compare the two paths: with PENSTOCK_TEST a reader can be told to take the general one always. */
#ifdef PENSTOCK_TEST
#define LINE_FAST(c) (!(c)->general_only)
#else
#define LINE_FAST(c) true
#endif

/* Everything a lane needs to read lines. Large: allocate once. */
typedef struct {
    scan_index_fn scan;
    const line_tags_t *tags; /* owned by the lane */
    ring_t *rings[16];       /* borrowed from their Ring objects */
    uint32_t ring_count;
    struct guard *guard;     /* borrowed; NULL: every line is for every ring (guard.h) */
    uint32_t line_bytes_max;
    line_precision_t precision;
    uint16_t listener;
    int64_t arrival_ns; /* of this burst */
    int64_t stamp_ns;   /* last one given */
    uint32_t stamp_length;
    uint8_t stamp[20 + PORT_PADDING]; /* stamp_ns as text */
    line_sample_t *sample;            /* may be NULL */
    line_errors_t *errors;            /* borrowed; NULL where nobody wants to know */
    line_late_t *late;                /* borrowed; NULL: what no ring has room for is dropped */
    _Atomic uint64_t *lent;           /* borrowed: where a byte inside of a datagram is noted, see port_lend; NULL: nowhere */
    const uint8_t *lent_base;
#ifdef PENSTOCK_TEST
    bool general_only;
#endif

    uint32_t marks; /* that the last line had; at least 1 */
    uint32_t index[LINE_WINDOW + SCAN_SLACK];
    uint8_t *scratch; /* owned: where the general path builds lines */
    size_t scratch_bytes;
    line_set_t keys; /* owned: tags, then fields, of a line in the general path */
    struct point *point; /* owned: a line as samples (point.h); NULL until a ring wants that */
    uint8_t time_text[20 + PORT_PADDING];
    uint8_t extra[LINE_TAGS_TEXT_MAX + PORT_PADDING]; /* agent tags that a line lacks, where it has some of them */
} line_reader_t;

/* Gives the next stamp: the burst's arrival, or one more than the last. */
static inline void line_stamp_next(line_reader_t *c)
{
    if (c->stamp_ns < c->arrival_ns) {
        c->stamp_ns = c->arrival_ns;
    } else {
        c->stamp_ns++;
        uint8_t *last = &c->stamp[c->stamp_length - 1];
        if (*last != '9' && c->stamp_ns > 0) {
            ++*last;
            return;
        }
    }
    c->stamp_length = (uint32_t)num_write_i64(c->stamp, c->stamp_ns);
}

/* Has the next stamp come behind this one, as if it had been the last. */
static inline void line_stamp_after(line_reader_t *c, int64_t stamp_ns)
{
    c->stamp_ns = stamp_ns;
    c->stamp_length = (uint32_t)num_write_i64(c->stamp, stamp_ns);
}

/* Bytes that the line takes in a ring. A stamp has to be given before. */
static inline uint32_t line_bytes(const line_reader_t *c, const line_t *l, ring_encoding_t encoding)
{
    uint32_t time = l->time ? l->time_length + l->time_zeros : c->stamp_length;
    return l->series_length + l->extra_length + (encoding == RING_LP ? l->fields_length : l->fields_signed_length) + time + 3;
}

/* Writes the line's bytes at `to`, which has room for line_bytes and PORT_PADDING. */
static inline void line_put(const line_reader_t *c, const line_t *l, ring_encoding_t encoding, uint8_t *to)
{
    if (l->joined && l->extra_length == 0) {
        uint32_t n = l->series_length + 1 + l->fields_length;
        if (l->time && l->time_zeros == 0) {
            n += 1 + l->time_length;
            port_copy(to, l->series, n);
            to[n] = '\n';
            return;
        }
        port_copy(to, l->series, n);
        to += n;
    } else {
        port_copy(to, l->series, l->series_length);
        to += l->series_length;
        if (l->extra_length) {
            port_copy(to, l->extra, l->extra_length);
            to += l->extra_length;
        }
        *to++ = ' ';
        uint32_t n = encoding == RING_LP ? l->fields_length : l->fields_signed_length;
        port_copy(to, encoding == RING_LP ? l->fields : l->fields_signed, n);
        to += n;
    }
    *to++ = ' ';
    if (l->time) {
        port_copy(to, l->time, l->time_length);
        to += l->time_length;
        memset(to, '0', 9); /* at most nine: the rest is overwritten or lies in the padding */
        to += l->time_zeros;
    } else {
        port_copy(to, c->stamp, c->stamp_length);
        to += c->stamp_length;
    }
    *to = '\n';
}

/* Which of the agent's tags a key is, as a bit; 0 if none. */
static inline uint64_t line_agent_tag(const line_tags_t *tags, const line_key_t *key)
{
    uint64_t found = 0;
    for (uint32_t i = 0; i < tags->count; i++)
        if (unlikely(key->hash == tags->tag[i].key.hash) && line_key_equal(key, &tags->tag[i].key))
            found |= UINT64_C(1) << i;
    return found;
}

/* Whether a line of so many tags makes a server fail. */
static inline bool line_tags_fatal(uint64_t count)
{
    uint64_t fatal = LINE_TAGS_FATAL;
    while (fatal < count)
        fatal *= 2;
    return fatal == count;
}

/* Puts the agent's tags into l->extra, but for those that the line has (`present`, a bit for each). */
static inline void line_add_tags(line_reader_t *c, line_t *l, uint64_t present)
{
    const line_tags_t *tags = c->tags;
    l->extra = tags->text;
    l->extra_length = tags->length;
    if (likely(present == 0))
        return;
    l->extra = c->extra;
    l->extra_length = 0;
    for (uint32_t i = 0; i < tags->count; i++)
        if (!(present >> i & 1)) {
            uint32_t n = tags->tag[i].end - tags->tag[i].start;
            memcpy(c->extra + l->extra_length, tags->text + tags->tag[i].start, n);
            l->extra_length += n;
        }
}

#endif
