/* The tap: a look at what passes. Senders show it each batch that they have in hand; what it wants of that is copied, and taken
 * away by another thread.
 *
 *   batch ─▶ slots of the wanted listeners ─▶ lines that match ─▶ so many a second ─▶ buffer ─▶ tap_take
 *
 * It cannot hurt: whoever finds it busy with another batch goes on, and counts his as not looked at; it looks for `budget_ns` in
 * each second at most, whatever comes; and what finds no room in the buffer is counted only. Lanes know nothing of it.
 *
 * What is told adds up: `passed` are metrics of the wanted listeners; of these `skipped` were not looked at, of the others
 * `matched` match, and of those `shown` are in the buffer, or were.
 */
#ifndef PENSTOCK_TAP_H
#define PENSTOCK_TAP_H

#include <pthread.h>
#include <time.h>

#include "merge.h"
#include "point_body.h"

#define TAP_BYTES (1u << 20)    /* of lines that wait to be taken */
#define TAP_LINES 256u          /* that are looked at between two looks at the clock */
#define TAP_STEPS UINT64_C(200000) /* that their patterns may take meanwhile: about a millisecond */
#define TAP_SECOND INT64_C(1000000000)
#define TAP_TRIES 200           /* for the lock, which whoever takes what there is has for a moment only */

typedef struct {
    pthread_mutex_t lock;   /* guards all but the last */
    const pattern_t *match; /* borrowed; NULL: everything */
    pattern_work_t work;
    bool whole_head;        /* what must match is measurement and tags, not the measurement alone */
    bool anybody;           /* runs of any listener, those of several too */
    uint64_t listeners;     /* else these: bit n */
    double rate, tokens;    /* lines that may be shown in a second, and now */
    int64_t budget_ns, left_ns; /* the same of time */
    int64_t at_ns;          /* monotonic: up to then both have been filled */
    uint8_t *text, *spare;  /* owned: TAP_BYTES each */
    uint32_t used;
    uint8_t *line;          /* owned: a record as a line */
    uint64_t line_room;
    uint64_t passed, matched, shown, skipped;
    counter_t evaded;       /* metrics that came while another batch was looked at: passed, and skipped */
} tap_t;

static inline int64_t tap_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * TAP_SECOND + t.tv_nsec;
}

static inline void tap_close(tap_t *t)
{
    pattern_close(&t->work);
    free(t->text);
    free(t->spare);
    free(t->line);
    pthread_mutex_destroy(&t->lock);
}

/* t: zeroed. False without memory; tap_close is due either way. What it is to show is set by the caller. */
static inline bool tap_open(tap_t *t)
{
    pthread_mutex_init(&t->lock, NULL);
    t->text = malloc(TAP_BYTES);
    t->spare = malloc(TAP_BYTES);
    t->at_ns = tap_clock() - TAP_SECOND;
    return pattern_open(&t->work) && t->text != NULL && t->spare != NULL;
}

static inline void tap_lock(tap_t *t)
{
    pthread_mutex_lock(&t->lock);
}

static inline void tap_unlock(tap_t *t)
{
    pthread_mutex_unlock(&t->lock);
}

/* Takes the lines that there are: they stay where they are until the next call. The lock is held. */
static inline const uint8_t *tap_take(tap_t *t, uint32_t *used)
{
    uint8_t *text = t->text;
    *used = t->used;
    t->text = t->spare;
    t->spare = text;
    t->used = 0;
    return text;
}

/* Whether a line of ours matches. */
static inline bool tap_matches(tap_t *t, const uint8_t *line, uint64_t n)
{
    if (t->match == NULL)
        return true;
    const uint8_t *at = line, *end = line + n;
    while (at < end && *at != ' ' && (t->whole_head || *at != ','))
        at += *at == '\\' ? 2 : 1;
    pattern_found_t found;
    return pattern_match(t->match, &t->work, line, (uint32_t)((at < end ? at : end) - line), &found);
}

/* A line that was looked at. */
static inline void tap_line(tap_t *t, const uint8_t *line, uint64_t n)
{
    if (!tap_matches(t, line, n)) {
        if (unlikely(t->work.given_up)) {
            t->work.given_up = false;
            t->skipped++; /* nobody knows whether it matches */
        }
        return;
    }
    t->matched++;
    if (t->tokens < 1 || n > TAP_BYTES - t->used)
        return;
    memcpy(t->text + t->used, line, n);
    t->used += (uint32_t)n;
    t->tokens -= 1;
    t->shown++;
}

/* The record at *at as a line. Returns its length; 0 if it cannot be told. */
static inline uint64_t tap_record(tap_t *t, const uint8_t **at, const uint8_t *end)
{
    const uint8_t *start = *at;
    point_record_t record;
    if (!point_next_record(at, end, &record)) {
        *at = end;
        return 0;
    }
    uint64_t bytes = (uint64_t)(*at - start), room = POINT_LINE_BYTES(bytes);
    if (room > t->line_room) {
        free(t->line);
        t->line = malloc(room);
        t->line_room = t->line == NULL ? 0 : room;
        if (t->line == NULL)
            return 0;
    }
    uint64_t length = point_put_lines(start, bytes, t->line);
    return length == POINT_DAMAGED ? 0 : length;
}

/* Looks at the metrics of one run, until `until_ns`. Returns how many it did not look at. */
static inline uint64_t tap_run(tap_t *t, const uint8_t *p, const ring_slot_t *slot, bool records, int64_t until_ns)
{
    const uint8_t *end = p + slot->length;
    uint64_t left = slot->metrics;
    for (uint32_t i = 1; p < end && left > 0; i++, left--) {
        if (t->match == NULL && t->tokens < 1) {
            t->matched += left; /* none of them could be shown */
            return 0;
        }
        if (records) {
            uint64_t n = tap_record(t, &p, end);
            if (n == 0)
                t->skipped++;
            else
                tap_line(t, t->line, n);
        } else {
            const uint8_t *next = line_next(p, end);
            tap_line(t, p, (uint64_t)(next - p));
            p = next;
        }
        if (unlikely(i % TAP_LINES == 0 || t->work.budget < TAP_STEPS / 2)) {
            t->work.budget = TAP_STEPS;
            if (tap_clock() >= until_ns)
                return left - 1;
        }
    }
    return left;
}

/* Fills up what may be shown, and how long may be looked, for the time since. */
static inline void tap_fill(tap_t *t, int64_t now_ns)
{
    double seconds = (double)(now_ns - t->at_ns) / (double)TAP_SECOND;
    t->at_ns = now_ns;
    seconds = seconds < 0 ? 0 : seconds > 1 ? 1 : seconds;
    double most = t->rate < 1 ? 1 : t->rate;
    t->tokens = t->tokens + seconds * t->rate < most ? t->tokens + seconds * t->rate : most;
    int64_t left = t->left_ns + (int64_t)(seconds * (double)t->budget_ns);
    t->left_ns = left < t->budget_ns ? left : t->budget_ns;
}

/* Looks at a batch that is in hand. Any thread; waits for nothing. */
static inline void tap_offer(tap_t *t, const ring_t *r, const ring_batch_t *batch, int64_t now_ns)
{
    int tries = TAP_TRIES;
    while (pthread_mutex_trylock(&t->lock) != 0 && --tries > 0)
        ;
    if (tries == 0) {
        atomic_fetch_add_explicit(&t->evaded, batch->metrics, memory_order_relaxed);
        return;
    }
    tap_fill(t, now_ns);
    int64_t until_ns = now_ns + t->left_ns;
    bool over = t->left_ns <= 0;
    const uint8_t *p = batch->bytes;
    t->work.budget = TAP_STEPS;
    for (uint64_t at = batch->begin; at < batch->end; at++) {
        const ring_slot_t *slot = &r->slots[at % RING_SLOTS];
        uint8_t listener = r->listeners[at % RING_SLOTS];
        const uint8_t *run = p;
        p += slot->length;
        bool several = listener >= 64; /* whose lines are whose is not known */
        if (!t->anybody && !several && !(t->listeners >> listener & 1))
            continue;
        t->passed += slot->metrics;
        if (over || (several && !t->anybody)) {
            t->skipped += slot->metrics;
            continue;
        }
        uint64_t rest = tap_run(t, run, slot, r->encoding == RING_PB, until_ns);
        t->skipped += rest;
        over = rest > 0 || tap_clock() >= until_ns;
    }
    t->left_ns -= tap_clock() - now_ns;
    pthread_mutex_unlock(&t->lock);
}

#endif
