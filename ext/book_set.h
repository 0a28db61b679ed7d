/* The book's memory: the series that are known, what they are counted by, and how one is added.
 *
 * Everything is under one mutex, which is held for 50 to 100 ns with a head; what needs no lock is computed before.
 */
#ifndef PENSTOCK_BOOK_SET_H
#define PENSTOCK_BOOK_SET_H

#include <pthread.h>

#include "book_charge.h"
#include "slots.h"

#ifdef PENSTOCK_TEST
#define BOOK_OVERFLOW_MAX 50u
#else
#define BOOK_OVERFLOW_MAX 1000u
#endif
#define BOOK_SWEEP_ADMISSION 8u   /* places that each admission looks at */
#define BOOK_GROUP_OTHER 0u
#define BOOK_GROUP_OVERFLOW 1u
#define BOOK_GROUPS 2u

typedef enum { BOOK_KNOWN, BOOK_ADMITTED, BOOK_OVER } book_answer_t;

typedef struct {
    book_answer_t answer;
    uint8_t policy;
    bool observed; /* it is over a limit, and stays as it is */
    int32_t tag; /* the offender: index in the head's tags; -1: the name */
} book_found_t;

typedef struct {
    pthread_mutex_t lock; /* guards all that follows but `epoch` */
    _Atomic uint8_t epoch;
    mix_key_t key;        /* of identities; never changed */
    book_limits_t limits; /* all zero: none are set, and nothing passes */
    uint32_t generation;  /* of the limits */
    uint8_t *texts;       /* owned: those of the limits */
    slots_t known;
    tally_t measurements, pairs, groups;
    seen_t seen[2];       /* values: this window's, the one before's */
    uint32_t limit_series[BOOK_LIMITS]; /* of limits on tags */
    heavy_t heavy;
    int64_t epoch_at_ns;  /* monotonic: when the epoch began */
    uint32_t epochs;      /* since the window was last turned */
    int64_t realtime_ns, minute; /* as of the last sweep */
    uint64_t series, overflow_series, expired, refused, observed, unknown, touched;
    uint64_t name_pair;   /* hash: what new measurements are charged to */
} book_t;

/* b: zeroed. False without memory or randomness; book_close is due either way. */
static inline bool book_open(book_t *b)
{
    pthread_mutex_init(&b->lock, NULL);
    slots_open(&b->known, false, 0);
    bool drawn = mix_key_draw(&b->key);
    b->name_pair = b->key.k[0] | 1;
    return drawn && tally_open(&b->measurements, TALLY_MAX) && tally_open(&b->pairs, TALLY_MAX) &&
           tally_open(&b->groups, TALLY_GROUPS_MAX) && tally_add(&b->groups, 1) == BOOK_GROUP_OVERFLOW;
}

static inline void book_close(book_t *b)
{
    slots_close(&b->known);
    tally_close(&b->measurements);
    tally_close(&b->pairs);
    tally_close(&b->groups);
    seen_close(&b->seen[0]);
    seen_close(&b->seen[1]);
    free(b->texts);
    pthread_mutex_destroy(&b->lock);
}

/* ---- admission, under the lock ---- */

/* Finds out whom the head is charged to, and which limits take it. */
static inline void book_charge(book_t *b, const head_t *h, book_charge_t *c)
{
    c->measurement = tally_find(&b->measurements, c->measurement_hash);
    tally_item_t *m = c->measurement == TALLY_NONE ? NULL : &b->measurements.items[c->measurement];
    for (uint32_t i = 0; i < c->tag_count; i++) {
        c->tags[i].taken = false;
        c->tags[i].fresh = !h->tags[i].gone && !seen_has(&b->seen[0], c->tags[i].value) && !seen_has(&b->seen[1], c->tags[i].value);
    }
    book_charge_limits(c, &b->limits, h, m != NULL && m->generation == b->generation ? &m->limits : NULL);
    if (m != NULL) {
        m->limits = c->matching;
        m->generation = b->generation;
    }
    c->tag = m == NULL ? -1 : book_tag_most(c, &b->pairs, h);
    c->pair_hash = c->tag < 0 ? b->name_pair : c->tags[c->tag].pair;
    c->pair = tally_find(&b->pairs, c->pair_hash);
    /* Keys without end are charged to what they are counted by: together. */
    if (c->pair == TALLY_NONE && b->pairs.free_count == 0 && b->pairs.count >= b->pairs.count_max)
        c->pair = TALLY_OTHER;
}

/* Whether a series so charged is over a limit; sets the offender and the policy. */
static inline bool book_over(const book_t *b, const head_t *h, const book_charge_t *c, book_found_t *found)
{
    const book_limits_t *l = &b->limits;
    for (uint64_t left = c->carried; left; left &= left - 1) {
        uint32_t i = (uint32_t)__builtin_ctzll(left);
        if (b->limit_series[i] >= l->limit[i].series_max) {
            found->policy = l->limit[i].policy;
            found->tag = book_limited_tag(&l->limit[i], h);
            return true;
        }
    }
    found->tag = c->tag;
    bool own = false; /* there is a limit on the tag that it is charged to */
    for (uint64_t left = c->matching; left; left &= left - 1) {
        const book_limit_t *limit = &l->limit[__builtin_ctzll(left)];
        own |= limit->tag_length && c->tag >= 0 &&
               head_is(h->tags[c->tag].key, h->tags[c->tag].key_length, limit->tag, limit->tag_length);
    }
    for (uint64_t left = c->matching; left && c->measurement != TALLY_OTHER; left &= left - 1) {
        const book_limit_t *limit = &l->limit[__builtin_ctzll(left)];
        if (limit->tag_length)
            continue;
        found->policy = limit->policy;
        if ((c->measurement == TALLY_NONE ? 0 : b->measurements.items[c->measurement].series) >= limit->series_max)
            return true;
        break;
    }
    found->policy = l->policy;
    if (b->series >= l->series_max)
        return true;
    uint32_t charged = c->pair == TALLY_NONE ? 0 : b->pairs.items[c->pair].series;
    return l->reserve > 0 && !own && charged >= (1 / l->reserve - 1) * (double)(l->series_max - b->series);
}

/* The number of an item, made if it is not there. */
static inline uint32_t book_item(tally_t *t, uint64_t hash)
{
    uint32_t number = tally_find(t, hash);
    return number == TALLY_NONE ? tally_add(t, hash) : number;
}

static inline uint64_t book_group_hash(const book_t *b, uint32_t measurement, uint32_t pair, uint64_t limits)
{
    return mix_fold((uint64_t)measurement << 32 ^ pair ^ b->key.k[1], limits ^ b->key.k[2]) | 2;
}

/* Enters what a new series is counted by; the number of its group. */
static inline uint32_t book_enter(book_t *b, const book_charge_t *c)
{
    if (seen_full(&b->seen[0])) { /* more values than series: older ones are forgotten sooner */
        seen_close(&b->seen[1]);
        b->seen[1] = b->seen[0];
        if (!seen_open(&b->seen[0], b->limits.series_max))
            b->seen[0] = (seen_t){0};
    }
    uint32_t m = book_item(&b->measurements, c->measurement_hash);
    if (c->measurement == TALLY_NONE && m != TALLY_OTHER) {
        b->measurements.items[m].limits = c->matching;
        b->measurements.items[m].generation = b->generation;
    }
    for (uint32_t i = 0; i < c->tag_count; i++)
        if (c->tags[i].fresh) {
            if (b->seen[0].bits != NULL)
                seen_put(&b->seen[0], c->tags[i].value);
            uint32_t pair = book_item(&b->pairs, c->tags[i].pair);
            b->pairs.items[pair].values[0] += pair != TALLY_OTHER;
        }
    uint32_t pair = book_item(&b->pairs, c->pair_hash);
    uint64_t hash = book_group_hash(b, m, pair, c->carried);
    uint32_t group = tally_find(&b->groups, hash);
    if (group == TALLY_NONE && (group = tally_add(&b->groups, hash)) != BOOK_GROUP_OTHER) {
        b->groups.items[group].limits = c->carried;
        b->groups.items[group].measurement = m;
        b->groups.items[group].pair = pair;
    }
    return group;
}

/* Counts a series into, or out of, what its group says. */
static inline void book_count(book_t *b, uint32_t number, int32_t by)
{
    tally_item_t *group = &b->groups.items[number];
    group->series += (uint32_t)by;
    if (number == BOOK_GROUP_OVERFLOW) {
        b->overflow_series += (uint64_t)(int64_t)by;
        return;
    }
    b->series += (uint64_t)(int64_t)by;
    b->measurements.items[group->measurement].series += (uint32_t)by;
    b->pairs.items[group->pair].series += (uint32_t)by;
    for (uint64_t left = group->limits; left; left &= left - 1)
        b->limit_series[__builtin_ctzll(left)] += (uint32_t)by;
}

static void book_gone(void *book, uint64_t identity, const slot_t *known)
{
    book_t *b = book;
    book_count(b, known->value, -1);
    b->expired++;
}

/* Tells the heavy hitters of a head that was new. */
static inline void book_tell(book_t *b, const head_t *h, uint64_t identity, const book_charge_t *c, const book_found_t *found)
{
    bool over = found->answer == BOOK_OVER;
    int32_t at = over ? found->tag : c->tag;
    const head_tag_t *tag = at < 0 ? NULL : &h->tags[at];
    heavy_head_t head = {.pair = tag == NULL ? b->name_pair : at < (int32_t)c->tag_count ? c->tags[at].pair : c->pair_hash,
                         .head = identity,
                         .value = {h->measurement, h->measurement_length},
                         .now_ns = b->realtime_ns,
                         .minute = b->minute,
                         .policy = found->policy,
                         .refused = over};
    if (tag != NULL) {
        head.measurement = head.value;
        head.tag = (heavy_text_t){tag->key, tag->key_length};
        head.value = (heavy_text_t){tag->value, tag->value_length};
    }
    heavy_add(&b->heavy, &head);
}

/* How many overflow series there may be for one more that was treated so many times. Half of the room is for those with one
 * tag treated, half of the rest for those with two, and so on: else heads with another tag that explodes would leave none
 * for what is made of them in the end. */
static inline uint64_t book_overflow_room(uint32_t steps, bool last)
{
    return last ? BOOK_OVERFLOW_MAX : BOOK_OVERFLOW_MAX - (BOOK_OVERFLOW_MAX >> steps);
}

/* A head that a writer does not know. steps: how often the policy has been at it, and so it stands outside of the limits. */
static inline book_found_t book_admit(book_t *b, const head_t *h, uint64_t identity, uint32_t steps)
{
    book_charge_t c;
    book_found_t found = {.tag = -1};
    book_charge_hash(&c, &b->key, h);
    pthread_mutex_lock(&b->lock);
    uint8_t epoch = atomic_load_explicit(&b->epoch, memory_order_relaxed);
    slot_t *known = slots_find(&b->known, identity);
    b->unknown += steps == 0;
    if (known != NULL) {
        known->epoch = epoch;
        found.answer = BOOK_KNOWN;
        goto done;
    }
    book_charge(b, h, &c);
    if (steps > 0) {
        found.tag = c.tag >= 0 ? c.tag : book_tag_most(&c, &b->pairs, h);
        found.answer = b->overflow_series < book_overflow_room(steps, found.tag < 0) ? BOOK_ADMITTED : BOOK_OVER;
    } else {
        found.answer = book_over(b, h, &c, &found) ? BOOK_OVER : BOOK_ADMITTED;
        book_tell(b, h, identity, &c, &found);
        found.observed = found.answer == BOOK_OVER && b->limits.observe;
        b->observed += found.observed;
        b->refused += found.answer == BOOK_OVER && !found.observed;
    }
    if (found.answer == BOOK_OVER)
        goto done;
    slots_sweep(&b->known, epoch, BOOK_SWEEP_ADMISSION, book_gone, b);
    known = slots_add(&b->known, identity);
    if (known == NULL) { /* no memory */
        found.answer = BOOK_OVER;
        found.tag = -1;
        b->refused++;
        goto done;
    }
    known->epoch = epoch;
    known->value = steps > 0 ? BOOK_GROUP_OVERFLOW : book_enter(b, &c) & 0xFFFFFF;
    book_count(b, known->value, 1);
done:
    pthread_mutex_unlock(&b->lock);
    return found;
}

#endif
