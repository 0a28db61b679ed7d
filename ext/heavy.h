/* Heavy hitters: which tags make the most new series, in memory that does not grow with them.
 *
 * Space-saving (Metwally, Agrawal, El Abbadi 2005): each of HEAVY_MAX entries counts one pair of measurement and tag
 * key; a pair that has none takes the place of the smallest and inherits its count as its possible error. Whatever was
 * counted more often than the total / HEAVY_MAX is among them, and no count is too small.
 *
 * How fast a pair grows is the number of distinct heads of a minute, so that a client that repeats one refused head
 * does not look like one that invents them: a HyperLogLog of 1,024 registers for this minute and one for the last, good
 * to 3 %.
 */
#ifndef PENSTOCK_HEAVY_H
#define PENSTOCK_HEAVY_H

#include <math.h>

#include "port.h"

#define HEAVY_MAX 64u
#define HEAVY_NAME_MAX 128u  /* bytes of a name that are kept */
#define HEAVY_SAMPLES 4u
#define HEAVY_SAMPLE_MAX 64u /* bytes of a value that are kept */
#define HEAVY_REGISTERS 1024u

/* A text that was cut to what there is room for. */
typedef struct {
    const uint8_t *text; /* borrowed */
    uint32_t length;
} heavy_text_t;

typedef struct {
    uint64_t pair;  /* hash of measurement and key */
    uint64_t count; /* admitted and refused, at most so many; 0: free */
    uint64_t error; /* of these may be somebody else's */
    uint64_t refused;
    int64_t first_ns, last_ns; /* realtime */
    int64_t minute;            /* that registers[0] is for */
    uint8_t policy;            /* of the last refusal */
    uint8_t measurement_length, tag_length, sample_length[HEAVY_SAMPLES];
    uint8_t measurement[HEAVY_NAME_MAX], tag[HEAVY_NAME_MAX], sample[HEAVY_SAMPLES][HEAVY_SAMPLE_MAX];
    uint8_t registers[2][HEAVY_REGISTERS]; /* this minute, the one before */
} heavy_entry_t;

typedef struct {
    heavy_entry_t entry[HEAVY_MAX];
} heavy_t;

/* One head that was new. Texts are borrowed for the call. */
typedef struct {
    uint64_t pair, head; /* hashes */
    heavy_text_t measurement, tag, value; /* tag of no length: the measurement's name itself */
    int64_t now_ns;  /* realtime */
    int64_t minute;  /* any count of minutes that only rises */
    uint8_t policy;
    bool refused;
} heavy_head_t;

/* As many bytes as there is room for, whole characters of UTF-8 only. */
static inline uint8_t heavy_copy(uint8_t *to, uint32_t room, heavy_text_t from)
{
    uint32_t n = from.length < room ? from.length : room;
    while (n < from.length && n > 0 && (from.text[n] & 0xC0) == 0x80)
        n--;
    if (n)
        memcpy(to, from.text, n);
    return (uint8_t)n;
}

/* ---- distinct heads of a minute ---- */

static inline void heavy_turn(heavy_entry_t *e, int64_t minute)
{
    if (e->minute == minute)
        return;
    if (e->minute + 1 == minute)
        memcpy(e->registers[1], e->registers[0], HEAVY_REGISTERS);
    else
        memset(e->registers[1], 0, HEAVY_REGISTERS);
    memset(e->registers[0], 0, HEAVY_REGISTERS);
    e->minute = minute;
}

static inline void heavy_register(heavy_entry_t *e, uint64_t head)
{
    uint64_t rest = head << 10 | UINT64_C(1) << 9; /* a bit at the end, so that there is one */
    uint8_t rank = (uint8_t)(__builtin_clzll(rest) + 1);
    uint8_t *r = &e->registers[0][head >> 54];
    if (*r < rank)
        *r = rank;
}

static inline double heavy_distinct(const uint8_t *registers)
{
    double sum = 0, m = HEAVY_REGISTERS;
    uint32_t zeros = 0;
    for (uint32_t i = 0; i < HEAVY_REGISTERS; i++) {
        sum += ldexp(1, -registers[i]);
        zeros += registers[i] == 0;
    }
    double estimate = 0.7213 / (1 + 1.079 / m) * m * m / sum;
    return estimate <= 2.5 * m && zeros ? m * log(m / zeros) : estimate;
}

/* New heads a minute: of the last whole minute, or of this one if they are more already. */
static inline double heavy_per_minute(const heavy_entry_t *e, int64_t minute)
{
    double now = e->minute == minute ? heavy_distinct(e->registers[0]) : 0;
    double before = e->minute == minute ? heavy_distinct(e->registers[1]) : e->minute + 1 == minute ? heavy_distinct(e->registers[0]) : 0;
    return now > before ? now : before;
}

/* ---- counting ---- */

/* The entry of a pair, or the one whose place it gets. */
static inline heavy_entry_t *heavy_find(heavy_t *h, uint64_t pair)
{
    heavy_entry_t *least = &h->entry[0];
    for (uint32_t i = 0; i < HEAVY_MAX; i++) {
        heavy_entry_t *e = &h->entry[i];
        if (e->pair == pair && e->count > 0)
            return e;
        if (e->count < least->count)
            least = e;
    }
    return least;
}

static inline void heavy_add(heavy_t *h, const heavy_head_t *head)
{
    heavy_entry_t *e = heavy_find(h, head->pair);
    if (e->pair != head->pair || e->count == 0) {
        uint64_t count = e->count;
        memset(e, 0, sizeof *e);
        e->pair = head->pair;
        e->count = e->error = count;
        e->first_ns = head->now_ns;
        e->minute = head->minute;
        e->measurement_length = heavy_copy(e->measurement, HEAVY_NAME_MAX, head->measurement);
        e->tag_length = heavy_copy(e->tag, HEAVY_NAME_MAX, head->tag);
    }
    uint64_t own = ++e->count - e->error;
    e->last_ns = head->now_ns;
    e->refused += head->refused;
    if (head->refused)
        e->policy = head->policy;
    /* The first value, and then ever fewer: what is shown is from the beginning and from now. */
    if ((own & (own - 1)) == 0) {
        uint32_t at = own == 1 ? 0 : 1 + (uint32_t)__builtin_ctzll(own) % (HEAVY_SAMPLES - 1);
        e->sample_length[at] = heavy_copy(e->sample[at], HEAVY_SAMPLE_MAX, head->value);
    }
    heavy_turn(e, head->minute);
    heavy_register(e, head->head);
}

#endif
