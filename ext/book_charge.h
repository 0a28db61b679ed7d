/* Whom a new series is charged to, and which limit it is over.
 *
 * A new series has one tag at least whose value is new in its measurement; the key of that tag is why it is new. So
 * http,host=web1,request_id=N is charged to request_id, however many hosts there are, and cpu,host=new to host. Where
 * several values are new, the key with the most values is charged; where none is, the same. A measurement that is new, and
 * a head without tags, are charged to the names of measurements.
 *
 * A series is over the limit by the first of these that holds:
 *
 *   1. a configured limit on a tag that it carries
 *   2. a configured limit on its measurement
 *   3. the agent's
 *   4. the reserve: the key that it is charged to has more than its share of what is left. With a reserve of a quarter
 *      the one with more than three times of what is left is stopped: one that explodes gets three quarters, a second one
 *      three quarters of the rest, and there is room for whoever comes late
 */
#ifndef PENSTOCK_BOOK_CHARGE_H
#define PENSTOCK_BOOK_CHARGE_H

#include "book_tally.h"
#include "heads.h"
#include "heavy.h"

#define BOOK_LIMITS 64u
#define BOOK_TAGS 256u /* of a head that are looked at; what has more is charged to one of these */

static const uint8_t book_overflow_text[12 + PORT_PADDING] = "__overflow__";
#define BOOK_OVERFLOW_LENGTH 12u

typedef enum { BOOK_OVERFLOW, BOOK_DROP_TAG, BOOK_DROP } book_policy_t;

/* One configured limit. */
typedef struct {
    const uint8_t *measurement; /* glob */
    const uint8_t *tag;
    uint32_t measurement_length, tag_length; /* tag_length 0: for each measurement by itself */
    uint32_t series_max;
    uint8_t policy;
} book_limit_t;

typedef struct {
    uint64_t series_max;
    int64_t window_ns;
    double reserve; /* 0: none */
    uint8_t policy;
    bool observe;
    uint32_t count;
    book_limit_t limit[BOOK_LIMITS];
} book_limits_t;

/* What the book knows of a head before it decides. */
typedef struct {
    uint64_t measurement_hash;
    uint32_t measurement, pair; /* numbers; TALLY_NONE: not there yet */
    uint64_t pair_hash;
    int32_t tag;                /* that it is charged to; -1: the name */
    uint64_t matching;          /* limits whose glob takes the measurement */
    uint64_t carried;           /* limits on tags that it counts for */
    uint32_t tag_count;         /* that are looked at */
    struct {
        uint64_t value, pair;   /* hashes */
        bool fresh;             /* the value is new */
        bool taken;             /* a limit is on it */
    } tags[BOOK_TAGS];
} book_charge_t;

/* Whether a glob takes a text: `*` is anything, `?` one byte, `[a-z]` one of these, `[!a-z]` one that is none of them.
 * Takes n times the glob's length at most: only the last star is ever gone back to. */
static inline bool book_glob(const uint8_t *g, uint32_t gn, const uint8_t *p, uint32_t n)
{
    uint32_t at = 0, i = 0, star = UINT32_MAX, from = 0;
    while (i < n) {
        if (at < gn && g[at] == '*') {
            star = at++;
            from = i;
            continue;
        }
        uint32_t next = at + 1;
        bool fits = at < gn && (g[at] == '?' || g[at] == p[i]);
        if (at < gn && g[at] == '[') {
            uint32_t first = at + 1 + (at + 1 < gn && g[at + 1] == '!'), end = first + 1;
            while (end < gn && g[end] != ']')
                end++;
            if (end < gn) {
                bool in = false;
                for (uint32_t c = first; c < end; c++) {
                    bool range = c + 2 < end && g[c + 1] == '-';
                    in |= range ? p[i] >= g[c] && p[i] <= g[c + 2] : p[i] == g[c];
                    c += range ? 2 : 0;
                }
                fits = in == (first == at + 1);
                next = end + 1;
            }
        }
        if (fits) {
            at = next;
            i++;
        } else if (star != UINT32_MAX) {
            at = star + 1;
            i = ++from;
        } else {
            return false;
        }
    }
    while (at < gn && g[at] == '*')
        at++;
    return at == gn;
}

static inline bool book_overflowed(const head_tag_t *tag)
{
    return head_is(tag->value, tag->value_length, book_overflow_text, BOOK_OVERFLOW_LENGTH);
}

/* Hashes: what needs no lock. The head's tags have theirs from head_identity. */
static inline void book_charge_hash(book_charge_t *c, const mix_key_t *key, const head_t *h)
{
    c->measurement_hash = mix_bytes(key, key->k[3], h->measurement, h->measurement_length) | 1;
    c->tag_count = h->count < BOOK_TAGS ? h->count : BOOK_TAGS;
    for (uint32_t i = 0; i < c->tag_count; i++) {
        const head_tag_t *tag = &h->tags[i];
        if (tag->gone)
            continue;
        c->tags[i].value = mix_fold(c->measurement_hash ^ key->k[0], tag->hash ^ key->k[1]);
        c->tags[i].pair = mix_bytes(key, c->measurement_hash, tag->key, tag->key_length) | 1;
    }
}

/* Distinct values of a tag in this window, or in the one before. */
static inline uint32_t book_values(const tally_t *pairs, uint64_t pair)
{
    uint32_t number = tally_find(pairs, pair);
    const tally_item_t *item = number == TALLY_NONE ? NULL : &pairs->items[number];
    return item == NULL ? 0 : item->values[0] > item->values[1] ? item->values[0] : item->values[1];
}

/* The tag with the most values, of those whose value is new if there are any; -1 if there is none that is not
 * `__overflow__` already. */
static inline int32_t book_tag_most(const book_charge_t *c, const tally_t *pairs, const head_t *h)
{
    int32_t most = -1;
    uint32_t values_most = 0;
    bool fresh_most = false;
    for (uint32_t i = 0; i < c->tag_count; i++) {
        if (h->tags[i].gone || book_overflowed(&h->tags[i]))
            continue;
        uint32_t values = book_values(pairs, c->tags[i].pair);
        bool fresh = c->tags[i].fresh;
        if (most < 0 || (fresh && !fresh_most) || (fresh == fresh_most && values > values_most)) {
            most = (int32_t)i;
            values_most = values;
            fresh_most = fresh;
        }
    }
    return most;
}

/* Which of the limits take this measurement, and which of those on tags this head counts for: of several on one tag the
 * first. */
static inline void book_charge_limits(book_charge_t *c, const book_limits_t *l, const head_t *h, const uint64_t *known)
{
    if (known != NULL) {
        c->matching = *known;
    } else {
        c->matching = 0;
        for (uint32_t i = 0; i < l->count; i++)
            if (book_glob(l->limit[i].measurement, l->limit[i].measurement_length, h->measurement, h->measurement_length))
                c->matching |= UINT64_C(1) << i;
    }
    c->carried = 0;
    for (uint64_t left = c->matching; left; left &= left - 1) {
        uint32_t i = (uint32_t)__builtin_ctzll(left);
        for (uint32_t at = 0; l->limit[i].tag_length && at < c->tag_count; at++)
            if (!h->tags[at].gone && !c->tags[at].taken && !book_overflowed(&h->tags[at]) &&
                head_is(h->tags[at].key, h->tags[at].key_length, l->limit[i].tag, l->limit[i].tag_length)) {
                c->tags[at].taken = true;
                c->carried |= UINT64_C(1) << i;
            }
    }
}

/* The tag of the head that a limit is on. */
static inline int32_t book_limited_tag(const book_limit_t *limit, const head_t *h)
{
    const head_tag_t *tag = head_find(h, limit->tag, limit->tag_length);
    return tag == NULL ? -1 : (int32_t)(tag - h->tags);
}

#endif
