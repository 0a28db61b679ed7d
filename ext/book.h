/* The book: which series the agent knows, whoever sent them, and what becomes of a new one.
 *
 * One for the process, under one mutex. Writers ask it for heads that they have not seen themselves: a known series
 * never comes here but once in an epoch, to be kept. A limit never stops a series that is known, by whichever writer it
 * comes.
 *
 *   head ─▶ identity ─┬ known ─────────────────────────────▶ passes
 *                     ├ new, within the limits ─ entered ──▶ passes
 *                     └ new, over one ─ policy ─▶ the tag becomes `__overflow__`, or goes ─▶ identity ─▶ … ─▶ passes
 *                                             └▶ nothing is left to change, or the policy is to drop ──────▶ dropped
 *
 * What the policy makes of a head is a series as well, and stands outside of the limits; there are BOOK_OVERFLOW_MAX of
 * these at most, and before they are used up further tags are treated alike. So no more than series_max +
 * BOOK_OVERFLOW_MAX series are ever known, whatever comes.
 *
 * Time is that of book_sweep: an eighth of the window is an epoch, and what was silent for eight whole ones is forgotten.
 */
#ifndef PENSTOCK_BOOK_H
#define PENSTOCK_BOOK_H

#include "book_set.h"

#define BOOK_STEPS 8u             /* tags that are treated one by one; then all that are left at once */
#define BOOK_SWEEP_AT_ONCE 4096u  /* places under the lock: 20 µs */

typedef enum { BOOK_PASSES, BOOK_OVERFLOWS, BOOK_OBSERVED, BOOK_DROPS } book_verdict_t;

typedef struct {
    uint64_t series, series_max, overflow_series, expired, refused, observed, unknown, touched, bytes;
} book_stats_t;

/* ---- what writers call ---- */

/* What becomes of a head that the writer does not know; it may be changed. *identity: of what passes. */
static inline book_verdict_t book_decide(book_t *b, head_t *h, uint64_t *identity)
{
    *identity = head_identity(h, &b->key);
    book_found_t found = book_admit(b, h, *identity, 0);
    if (found.answer != BOOK_OVER)
        return BOOK_PASSES;
    uint8_t policy = found.policy;
    if (found.observed)
        return BOOK_OBSERVED;
    for (uint32_t step = 1; policy != BOOK_DROP && found.tag >= 0; step++) {
        for (uint32_t i = 0; i < h->count; i++)
            if (!h->tags[i].gone && (i == (uint32_t)found.tag || step >= BOOK_STEPS))
                head_set(h, &h->tags[i], book_overflow_text, policy == BOOK_OVERFLOW ? BOOK_OVERFLOW_LENGTH : 0);
        *identity = head_identity(h, &b->key);
        found = book_admit(b, h, *identity, step);
        if (found.answer != BOOK_OVER)
            return BOOK_OVERFLOWS;
    }
    return BOOK_DROPS;
}

/* A known series was heard of in another epoch than before. */
static inline void book_touch(book_t *b, uint64_t identity)
{
    pthread_mutex_lock(&b->lock);
    slot_t *known = slots_find(&b->known, identity);
    if (known != NULL)
        known->epoch = atomic_load_explicit(&b->epoch, memory_order_relaxed);
    b->touched++;
    pthread_mutex_unlock(&b->lock);
}

static inline uint8_t book_epoch(const book_t *b)
{
    return atomic_load_explicit((_Atomic uint8_t *)&b->epoch, memory_order_relaxed);
}

/* ---- what the control plane calls ---- */

/* A window is over: values become older, and what nobody needs is forgotten. Under the lock. */
static inline void book_turn(book_t *b)
{
    seen_close(&b->seen[1]);
    b->seen[1] = b->seen[0];
    if (!seen_open(&b->seen[0], b->limits.series_max))
        b->seen[0] = (seen_t){0};
    for (uint32_t i = 1; i < b->pairs.count; i++) {
        b->pairs.items[i].values[1] = b->pairs.items[i].values[0];
        b->pairs.items[i].values[0] = 0;
    }
    for (uint32_t i = BOOK_GROUPS; i < b->groups.count; i++) {
        const tally_item_t *group = &b->groups.items[i];
        b->measurements.items[group->measurement].needed |= group->series > 0;
        b->pairs.items[group->pair].needed |= group->series > 0;
    }
    b->groups.items[BOOK_GROUP_OVERFLOW].needed = true;
    tally_clean(&b->groups);
    tally_clean(&b->measurements);
    tally_clean(&b->pairs);
}

/* Moves the time on, and forgets what was silent for too long. Once a second; both clocks in ns. */
static inline void book_sweep(book_t *b, int64_t monotonic_ns, int64_t realtime_ns)
{
    pthread_mutex_lock(&b->lock);
    b->realtime_ns = realtime_ns;
    b->minute = monotonic_ns / INT64_C(60000000000);
    int64_t epoch_ns = b->limits.window_ns / SLOTS_EPOCHS;
    if (b->epoch_at_ns == 0 || epoch_ns == 0)
        b->epoch_at_ns = monotonic_ns;
    for (uint32_t i = 0; epoch_ns > 0 && monotonic_ns - b->epoch_at_ns >= epoch_ns; i++) {
        if (i > SLOTS_EPOCHS + 1) { /* the process has slept */
            b->epoch_at_ns = monotonic_ns;
            break;
        }
        b->epoch_at_ns += epoch_ns;
        atomic_store_explicit(&b->epoch, (uint8_t)(book_epoch(b) + 1), memory_order_relaxed);
        if (++b->epochs % SLOTS_EPOCHS == 0)
            book_turn(b);
    }
    /* Once round in an epoch, and twice as fast, since admissions make the way longer. */
    uint64_t places = 2 * b->known.places + SLOTS_SEGMENTS;
    places = epoch_ns > INT64_C(1000000000) ? places / (uint64_t)(epoch_ns / INT64_C(1000000000)) : places;
    places = places < BOOK_SWEEP_AT_ONCE ? BOOK_SWEEP_AT_ONCE : places;
    for (uint64_t done = 0; done < places; done += BOOK_SWEEP_AT_ONCE) {
        slots_sweep(&b->known, book_epoch(b), BOOK_SWEEP_AT_ONCE, book_gone, b);
        pthread_mutex_unlock(&b->lock);
        pthread_mutex_lock(&b->lock);
    }
    pthread_mutex_unlock(&b->lock);
}

/* Copies the texts of limits, which were borrowed. False without memory. */
static inline bool book_own_texts(book_limits_t *l, uint8_t **texts)
{
    size_t bytes = 1;
    for (uint32_t i = 0; i < l->count; i++)
        bytes += l->limit[i].measurement_length + l->limit[i].tag_length;
    uint8_t *to = *texts = malloc(bytes);
    for (uint32_t i = 0; to != NULL && i < l->count; i++) {
        book_limit_t *limit = &l->limit[i];
        memcpy(to, limit->measurement, limit->measurement_length);
        limit->measurement = to;
        to += limit->measurement_length;
        memcpy(to, limit->tag, limit->tag_length);
        limit->tag = to;
        to += limit->tag_length;
    }
    return *texts != NULL;
}

/* Groups count for limits by their places: these have changed. A limit on the same tag of the same measurements goes on
 * counting; one that is new counts what comes from now on. */
static inline void book_move_limits(book_t *b, const book_limits_t *former)
{
    uint64_t stays = 0;
    uint32_t place[BOOK_LIMITS], series[BOOK_LIMITS] = {0};
    for (uint32_t i = 0; i < former->count; i++)
        for (uint32_t k = 0; k < b->limits.count && former->limit[i].tag_length; k++) {
            const book_limit_t *old = &former->limit[i], *now = &b->limits.limit[k];
            if (head_is(old->tag, old->tag_length, now->tag, now->tag_length) &&
                head_is(old->measurement, old->measurement_length, now->measurement, now->measurement_length)) {
                stays |= UINT64_C(1) << i;
                place[i] = k;
                series[k] = b->limit_series[i];
                break;
            }
        }
    memcpy(b->limit_series, series, sizeof series);
    for (uint32_t i = BOOK_GROUPS; i < b->groups.count; i++) {
        tally_item_t *group = &b->groups.items[i];
        uint64_t limits = 0;
        for (uint64_t left = group->limits & stays; left; left &= left - 1)
            limits |= UINT64_C(1) << place[__builtin_ctzll(left)];
        group->limits = limits;
        if (group->hash != 0)
            group->hash = book_group_hash(b, group->measurement, group->pair, limits);
    }
    tally_enter_all(&b->groups);
    b->generation++;
}

/* Other limits; what is known stays known. Texts are copied. False without memory: all is as it was. */
static inline bool book_configure(book_t *b, const book_limits_t *limits)
{
    book_limits_t now = *limits, former;
    uint8_t *texts;
    seen_t seen = {0};
    if (!book_own_texts(&now, &texts))
        return false;
    if (!seen_open(&seen, limits->series_max)) {
        free(texts);
        return false;
    }
    pthread_mutex_lock(&b->lock);
    former = b->limits;
    b->limits = now;
    book_move_limits(b, &former);
    free(b->texts);
    b->texts = texts;
    b->known.count_max = limits->series_max + BOOK_OVERFLOW_MAX;
    if (seen.blocks > b->seen[0].blocks) {
        seen_close(&b->seen[1]);
        b->seen[1] = b->seen[0];
        b->seen[0] = seen;
        seen = (seen_t){0};
    }
    pthread_mutex_unlock(&b->lock);
    seen_close(&seen);
    return true;
}

/* Forgets all series: nobody asks any more. */
static inline void book_clear(book_t *b)
{
    pthread_mutex_lock(&b->lock);
    slots_close(&b->known);
    b->series = b->overflow_series = 0;
    memset(b->limit_series, 0, sizeof b->limit_series);
    memset(&b->heavy, 0, sizeof b->heavy);
    for (uint32_t i = 0; i < b->groups.count; i++)
        b->groups.items[i].series = 0;
    for (uint32_t i = 0; i < b->measurements.count; i++)
        b->measurements.items[i].series = 0;
    for (uint32_t i = 0; i < b->pairs.count; i++)
        b->pairs.items[i].series = b->pairs.items[i].values[0] = 0;
    book_turn(b);
    seen_close(&b->seen[1]);
    pthread_mutex_unlock(&b->lock);
}

/* One of the heavy hitters as it stands. */
typedef struct {
    heavy_entry_t entry;
    uint32_t series; /* charged to it that are known */
    int64_t minute;  /* now */
} book_offender_t;

/* Copies those that there are to `to`, which has room for HEAVY_MAX; returns how many. */
static inline uint32_t book_read_offenders(book_t *b, book_offender_t *to)
{
    uint32_t count = 0;
    pthread_mutex_lock(&b->lock);
    for (uint32_t i = 0; i < HEAVY_MAX; i++) {
        const heavy_entry_t *e = &b->heavy.entry[i];
        if (e->count == 0)
            continue;
        uint32_t pair = tally_find(&b->pairs, e->pair);
        to[count++] = (book_offender_t){*e, pair == TALLY_NONE ? 0 : b->pairs.items[pair].series, b->minute};
    }
    pthread_mutex_unlock(&b->lock);
    return count;
}

static inline void book_read_stats(book_t *b, book_stats_t *s)
{
    pthread_mutex_lock(&b->lock);
    *s = (book_stats_t){.series = b->series,
                        .series_max = b->limits.series_max,
                        .overflow_series = b->overflow_series,
                        .expired = b->expired,
                        .refused = b->refused,
                        .observed = b->observed,
                        .unknown = b->unknown,
                        .touched = b->touched,
                        .bytes = sizeof *b + b->known.bytes + tally_bytes(&b->measurements) + tally_bytes(&b->pairs) +
                                 tally_bytes(&b->groups) + 64 * (b->seen[0].blocks + b->seen[1].blocks)};
    pthread_mutex_unlock(&b->lock);
}

#endif
