/* The lines that every benchmark sends: each a function of its running number, and of a fixed length.
 *
 * Fixed lengths make the datagrams equal, which UDP_SEGMENT asks for, and let a sink check bytes by
 * counting. The number is in the line as the field `id`, so that a lost, repeated or torn line shows.
 * All of them are in the safe subset already: a reader passes them through byte for byte.
 *
 *   117  cpu,host=h000007,region=eu-central-1a usage_user=12.345678,usage_system=34.567890,id=1000000007i 17…\n
 *    64  load1,host=h000007 id=1000000007i,a=12.3456 1700000000007000000\n
 *
 * Without timestamps a tag of the same length takes their place. The values look random, so that gzip
 * finds about what it finds in real metrics.
 *
 * Two more are for StatsD, and have neither id nor time: counters, so that the sum of all that arrived is the
 * number of lines, and timings whose values spread as those of a service do.
 *
 *    25  web.requests.h000007:1|c\n
 *    24  ms.h000007:00096.123|ms\n
 *
 * And one is for Graphite, with one time for all:
 *
 *    46  web.requests.h000007.count 12.3456 1700000000\n
 *
 * Fresh series are made by a tag whose value is new in each line, up to a number of them: what a client does that
 * puts an id into a tag. Their lines are of these shapes, whatever the length that was asked for:
 *
 *    65  http,host=h000007,request_id=0000000007 n=1i 1700000000007000000\n
 *    42  req:1|c|#host:h000007,request_id:0000000007\n
 *
 * Series come in turn, or scattered: each line's is then drawn by its number, so that a table of them is
 * walked in another order than it was filled in.
 */
#ifndef PENSTOCK_BENCH_LINES_H
#define PENSTOCK_BENCH_LINES_H

#include "tool.h"

#define LINES_FIRST_ID 1000000000ull        /* ten digits, without a leading zero, for 9e9 lines */
#define LINES_TIME_NS 1700000000000000000ull
#define LINES_STEP_NS 1000000ull            /* VictoriaMetrics keeps milliseconds: none may coincide */
#define LINES_BYTES_MAX 128

typedef struct {
    const char *text;      /* with zeros where digits go */
    unsigned bytes;        /* with its line feed */
    unsigned host, id;     /* offsets of six and ten digits */
    unsigned value;        /* offset of two digits, a point and then more: 0 = none */
    unsigned value_digits; /* behind the point: 4 or 6 */
    unsigned value2;       /* the same for the second value: 0 = none */
    unsigned spread;       /* offset of five digits, a point and three: 0 = none */
    unsigned time;         /* offset of 19 digits: 0 = none */
} lines_shape_t;

typedef struct {
    lines_shape_t shape;
    uint64_t series;
    uint64_t time_ns, step_ns;
    uint64_t fresh; /* values of the tag that is new in each line; 0: there is none */
    bool scatter;
} lines_t;

static inline char *lines_pair(char *out, uint64_t value)
{
    static const char pairs[] = "0001020304050607080910111213141516171819202122232425262728293031323334"
                                "3536373839404142434445464748495051525354555657585960616263646566676869"
                                "707172737475767778798081828384858687888990919293949596979899";
    memcpy(out, pairs + 2 * value, 2);
    return out;
}

/* Write *value* as *digits* (an even number) decimal digits. */
static inline void lines_digits(char *out, uint64_t value, int digits)
{
    for (int at = digits - 2; at >= 0; at -= 2) {
        lines_pair(out + at, value % 100);
        value /= 100;
    }
}

/* From 10.00… to 99.99…, by a well-mixed 32-bit number. */
static inline void lines_value(char *out, uint64_t random, int digits)
{
    lines_pair(out, 10 + ((random & 0xffff) * 90 >> 16));
    lines_digits(out + 3, (random >> 16 & 0xffff) * 1000003 % (digits == 4 ? 10000 : 1000000), digits);
}

/* From 1.000 to 8187.904, half of them below 100, by a well-mixed number, whose lowest twelve bits are coins. */
static inline void lines_spread(char *out, uint64_t random)
{
    uint64_t thousandths = (1000 + (random >> 12) % 1000) << __builtin_popcountll(random & 0xfff);
    out[0] = '0';
    lines_digits(out + 1, thousandths / 1000, 4);
    out[6] = (char)('0' + thousandths / 100 % 10);
    lines_digits(out + 7, thousandths % 100, 2);
}

/* One of *series*, by a well-mixed number; other bits of it than the values show. */
static inline uint64_t lines_scattered(uint64_t random, uint64_t series)
{
    random = (random ^ random >> 32) * 0x94d049bb133111ebull;
    return (random >> 32) * series >> 32;
}

/* Where *mark* stands in *text*, plus its length; 0 if nowhere. */
static inline unsigned lines_behind(const char *text, const char *mark)
{
    const char *found = strstr(text, mark);
    return found ? (unsigned)(found - text) + (unsigned)strlen(mark) : 0;
}

/* Lines each of which has one of *fresh* values of a tag; of StatsD, or with a timestamp. */
MAYBE_UNUSED static lines_t lines_make_fresh(bool statsd, uint64_t fresh, uint64_t series, uint64_t time_ns, uint64_t step_ns)
{
    const char *text = statsd ? "req:1|c|#host:h000000,request_id:0000000000\n"
                              : "http,host=h000000,request_id=0000000000 n=1i 0000000000000000000\n";
    return (lines_t){
        .series = series,
        .fresh = fresh,
        .time_ns = time_ns,
        .step_ns = step_ns,
        .shape = {
            .text = text,
            .bytes = (unsigned)strlen(text),
            .host = lines_behind(text, statsd ? "host:h" : "host=h"),
            .id = lines_behind(text, statsd ? "_id:" : "_id="),
            .time = statsd ? 0 : lines_behind(text, "1i "),
        },
    };
}

/* Lines of *bytes* bytes (24, 25, 46, 64 or 117), over *series* different series. */
MAYBE_UNUSED static lines_t lines_make(unsigned bytes, bool timestamps, uint64_t series, uint64_t time_ns,
                                       uint64_t step_ns, bool scatter)
{
    const char *text;
    if (bytes == 117)
        text = timestamps ? "cpu,host=h000000,region=eu-central-1a usage_user=00.000000,usage_system=00.000000,"
                            "id=0000000000i 0000000000000000000\n"
                          : "cpu,host=h000000,rack=r0000000000000,region=eu-central-1a "
                            "usage_user=00.000000,usage_system=00.000000,id=0000000000i\n";
    else if (bytes == 64)
        text = timestamps ? "load1,host=h000000 id=0000000000i,a=00.0000 0000000000000000000\n"
                          : "load1,host=h000000,zone=eu-west-1-az-b id=0000000000i,a=00.0000\n";
    else if (bytes == 25)
        text = "web.requests.h000000:1|c\n";
    else if (bytes == 24)
        text = "ms.h000000:00000.000|ms\n";
    else if (bytes == 46)
        text = "web.requests.h000000.count 00.0000 1700000000\n";
    else
        tool_usage("lines are of 24, 25, 46, 64 or 117 bytes", NULL);
    const bool dotted = bytes < 64;
    lines_t lines = {.series = series, .time_ns = time_ns, .step_ns = step_ns, .scatter = scatter};
    lines.shape = (lines_shape_t){
        .text = text,
        .bytes = (unsigned)strlen(text),
        .host = lines_behind(text, dotted ? ".h" : "host=h"),
        .id = lines_behind(text, "id="),
        .value = lines_behind(text, bytes == 117 ? "usage_user=" : bytes == 46 ? "count " : ",a="),
        .value_digits = bytes == 117 ? 6 : 4,
        .value2 = lines_behind(text, "usage_system="),
        .spread = bytes == 24 ? lines_behind(text, ":") : 0,
        .time = timestamps && !dotted ? lines_behind(text, bytes == 117 ? "0i " : ".0000 ") : 0,
    };
    if (lines.shape.bytes != bytes)
        tool_die("a line of %u bytes has %u", bytes, lines.shape.bytes);
    return lines;
}

/* Write line *number* to *out*. */
static inline void lines_put(const lines_t *lines, char *out, uint64_t number)
{
    const lines_shape_t *shape = &lines->shape;
    memcpy(out, shape->text, shape->bytes);
    uint64_t random = (number + 1) * 0x9e3779b97f4a7c15ull;
    random = (random ^ random >> 29) * 0xbf58476d1ce4e5b9ull;
    uint64_t series = lines->scatter ? lines_scattered(random, lines->series) : number % lines->series;
    lines_digits(out + shape->host, series, 6);
    if (shape->id)
        lines_digits(out + shape->id, lines->fresh ? number % lines->fresh : LINES_FIRST_ID + number, 10);
    if (shape->value)
        lines_value(out + shape->value, random >> 32, (int)shape->value_digits);
    if (shape->spread)
        lines_spread(out + shape->spread, random);
    if (shape->value2)
        lines_value(out + shape->value2, random & 0xffffffff, 6);
    if (shape->time) {
        uint64_t time_ns = lines->time_ns + number * lines->step_ns;
        out[shape->time] = (char)('0' + time_ns / 1000000000000000000ull);
        lines_digits(out + shape->time + 1, time_ns % 1000000000000000000ull, 18);
    }
}

#endif
