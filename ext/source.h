/* Rates: how many metrics a listener takes in a second, and how many of each source.
 *
 * A bucket is the time at which all that it has let pass is paid for. What has passed moves that time on by 1/rate for each
 * metric; a bucket that is `burst` ahead of the clock is in debt, and lets nothing pass until the clock has come closer:
 *
 *        now                    paid
 *   ──────┼───────────────────────┼─────────┼──▶         passes while  paid - now < burst
 *         ◀────────── burst ────────────────▶
 *
 * So in any time t there pass rate * t + rate * burst metrics and the rest of one message, since a message is charged with
 * what it turned out to hold. A bucket whose time is over is full, and as good as a new one: its place may be given away.
 *
 * The listener's bucket is shared fairly. The half of it that is left when it is half empty is for the shares: rate divided by
 * the sources that have sent something within the last second. Who keeps to its share passes; who does not passes only while
 * the listener's bucket is above half. So a source that floods loses what it has too much, and nobody else loses anything.
 *
 * All lanes and inputs of a listener ask the same buckets, from any thread. Sources are in sets of four places; one that finds
 * no place in its set shares a bucket with others of that kind until there is one. What a set holds is under its lock, for
 * some ten nanoseconds; the listener's bucket is one atomic number. All times are monotonic nanoseconds.
 */
#ifndef PENSTOCK_SOURCE_H
#define PENSTOCK_SOURCE_H

#include <errno.h>
#include <sched.h>
#include <sys/mman.h>

#include "mix.h"
#include "source_peer.h"

#define SOURCE_WAYS 4u
#define SOURCE_LOSERS 64u      /* that are told apart */
#define SOURCE_SPINS 100       /* before a thread that waits for a lock gives way */
#define SOURCE_SECOND INT64_C(1000000000)
#define SOURCE_COST_MAX (SOURCE_SECOND * 1000000) /* of one message: the slowest rate and the largest message do not overflow */

typedef enum { SOURCE_PASSES, SOURCE_OVER, SOURCE_DENIED } source_answer_t;

typedef struct {
    uint64_t value;
    int64_t own_ns;    /* paid until then, by its own rate */
    int64_t share_ns;  /* and by its share of the listener's */
    uint32_t kind;     /* source_kind_t */
    uint32_t second;   /* in which it was last seen */
} source_t;

_Static_assert(sizeof(source_t) == 32, "two of them fill a line of the cache");

typedef struct {
    _Alignas(CACHE_LINE) source_t ways[SOURCE_WAYS];
    source_t others;
    _Atomic uint32_t lock;
} source_set_t;

/* A source that lost metrics. Of those that there was no place for, some may be in `error`: one more is taken in for the
 * least, and inherits what that had lost (SpaceSaving). */
typedef struct {
    source_key_t key;
    source_answer_t why;
    uint64_t lost, error;
} source_loser_t;

typedef struct {
    source_set_t *sets; /* owned */
    uint64_t set_count; /* a power of two */
    mix_key_t key;
    _Alignas(CACHE_LINE) _Atomic int64_t paid_ns;          /* the listener's bucket */
    _Atomic uint32_t second, active, active_before;        /* sources in this second, and in the one before it */
    _Alignas(CACHE_LINE) _Atomic uint32_t losers_lock;
    uint32_t loser_count;
    source_loser_t losers[SOURCE_LOSERS];
} sources_t;

/* What is allowed. Never changed: other rules are another one of these, with the same sources. */
typedef struct {
    sources_t *sources;    /* borrowed */
    double cost_ns;        /* of a metric by the listener's rate; 0: any */
    double source_cost_ns; /* by that of a source */
    int64_t burst_ns;
    bool all;              /* anybody may send; else those of the networks */
    source_networks_t ipv4, ipv6;
} source_rules_t;

/* ---- memory ---- */

/* s: zeroed. Room for `most` sources at least. Returns 0 or an errno; sources_close is due either way. */
static inline int sources_open(sources_t *s, uint64_t most)
{
    s->set_count = 1;
    while (s->set_count * SOURCE_WAYS < most)
        s->set_count *= 2;
    if (!mix_key_draw(&s->key))
        return EAGAIN;
    /* Mapped: pages that no source falls into cost no memory. */
    void *map = mmap(NULL, s->set_count * sizeof *s->sets, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    s->sets = map == MAP_FAILED ? NULL : map;
    return map == MAP_FAILED ? errno : 0;
}

static inline void sources_close(sources_t *s)
{
    if (s->sets != NULL)
        munmap(s->sets, s->set_count * sizeof *s->sets);
    s->sets = NULL;
}

static inline void source_take_lock(_Atomic uint32_t *lock)
{
    for (uint32_t spins = 0; unlikely(atomic_exchange_explicit(lock, 1, memory_order_acquire)); spins++)
        if (spins >= SOURCE_SPINS)
            sched_yield();
}

static inline void source_give_lock(_Atomic uint32_t *lock)
{
    atomic_store_explicit(lock, 0, memory_order_release);
}

/* ---- the table ---- */

static inline source_set_t *source_set(const sources_t *s, source_key_t key)
{
    uint64_t hash = mix_fold(key.value ^ s->key.k[0], (uint64_t)key.kind ^ s->key.k[1]);
    return &s->sets[mix_fold(hash ^ s->key.k[2], s->key.k[3]) & (s->set_count - 1)];
}

/* When a bucket is full again: a source of which nothing needs to be remembered. */
static inline int64_t source_full_ns(const source_t *one)
{
    return one->own_ns > one->share_ns ? one->own_ns : one->share_ns;
}

/* The source's bucket: its own, a place that is free or was full for the longest, or that of the others. The lock is held. */
static inline source_t *source_find(source_set_t *set, source_key_t key, int64_t now_ns)
{
    source_t *place = NULL;
    for (uint32_t i = 0; i < SOURCE_WAYS; i++) {
        source_t *one = &set->ways[i];
        if (one->value == key.value && one->kind == (uint32_t)key.kind)
            return one;
        bool free = one->kind == SOURCE_NOBODY || source_full_ns(one) <= now_ns;
        if (free && (place == NULL || (place->kind != SOURCE_NOBODY &&
                                       (one->kind == SOURCE_NOBODY || source_full_ns(one) < source_full_ns(place)))))
            place = one;
    }
    if (place == NULL)
        return &set->others;
    /* It may have been one of the others, and owe what they do. */
    *place = set->others;
    place->value = key.value;
    place->kind = (uint32_t)key.kind;
    place->second = 0;
    return place;
}

/* Sources that have sent something in this second or the last one, whichever had more. */
static inline uint32_t source_active(sources_t *s)
{
    uint32_t now = atomic_load_explicit(&s->active, memory_order_relaxed);
    uint32_t before = atomic_load_explicit(&s->active_before, memory_order_relaxed);
    uint32_t most = now > before ? now : before;
    return most ? most : 1;
}

/* Notes that a source has sent something. Another lane may do so in the same instant: then one too many, or too few, is
 * counted, until the second is over. */
static inline void source_see(sources_t *s, source_t *one, int64_t now_ns)
{
    uint32_t second = (uint32_t)(now_ns / SOURCE_SECOND) + 1, last = atomic_load_explicit(&s->second, memory_order_relaxed);
    if (unlikely(last != second) && atomic_compare_exchange_strong_explicit(&s->second, &last, second, memory_order_relaxed, memory_order_relaxed)) {
        uint32_t counted = atomic_exchange_explicit(&s->active, 0, memory_order_relaxed);
        atomic_store_explicit(&s->active_before, second - last == 1 ? counted : 0, memory_order_relaxed);
    }
    if (one->second != second) {
        one->second = second;
        atomic_fetch_add_explicit(&s->active, 1, memory_order_relaxed);
    }
}

/* ---- questions ---- */

static inline bool source_has_rates(const source_rules_t *rules)
{
    return rules->cost_ns > 0 || rules->source_cost_ns > 0;
}

static inline bool source_is_allowed(const source_rules_t *rules, const source_peer_t *peer)
{
    if (rules->all)
        return true;
    if (peer->kind == SOURCE_IPV4)
        return source_is_within(&rules->ipv4, peer);
    return (peer->kind == SOURCE_IPV6 || peer->kind == SOURCE_LINK) && source_is_within(&rules->ipv6, peer);
}

/* How long until this bucket lets something pass again, at the most of `room_ns` ahead of the clock; 0: it does. */
static inline int64_t source_debt_ns(int64_t paid_ns, int64_t now_ns, int64_t room_ns)
{
    return paid_ns - now_ns < room_ns ? 0 : paid_ns - now_ns - room_ns + 1;
}

/* How long the source must wait until something of it passes; 0: it passes now. It is allowed. */
static inline int64_t source_wait_ns(const source_rules_t *rules, const source_peer_t *peer, int64_t now_ns)
{
    sources_t *s = rules->sources;
    if (!source_has_rates(rules))
        return 0;
    source_key_t key = source_key(peer);
    source_set_t *set = source_set(s, key);
    source_take_lock(&set->lock);
    source_t *one = source_find(set, key, now_ns);
    if (rules->cost_ns > 0)
        source_see(s, one, now_ns);
    int64_t own_ns = one->own_ns, share_ns = one->share_ns;
    source_give_lock(&set->lock);
    int64_t wait_ns = rules->source_cost_ns > 0 ? source_debt_ns(own_ns, now_ns, rules->burst_ns) : 0;
    if (wait_ns > 0 || rules->cost_ns == 0)
        return wait_ns;
    int64_t paid_ns = atomic_load_explicit(&s->paid_ns, memory_order_relaxed);
    int64_t half_ns = source_debt_ns(paid_ns, now_ns, rules->burst_ns / 2);
    int64_t out_ns = source_debt_ns(share_ns, now_ns, rules->burst_ns / 2);
    wait_ns = half_ns < out_ns ? half_ns : out_ns;
    int64_t debt_ns = source_debt_ns(paid_ns, now_ns, rules->burst_ns);
    return wait_ns > debt_ns ? wait_ns : debt_ns;
}

/* Whether a message of this peer is to be read. source_charge is due if it is. */
static inline source_answer_t source_ask(const source_rules_t *rules, const source_peer_t *peer, int64_t now_ns)
{
    if (!source_is_allowed(rules, peer))
        return SOURCE_DENIED;
    return source_wait_ns(rules, peer, now_ns) > 0 ? SOURCE_OVER : SOURCE_PASSES;
}

/* The time at which so many metrics more are paid for. Rounded up: a rate is never exceeded. */
static inline int64_t source_pay(int64_t paid_ns, int64_t now_ns, double cost_ns, uint64_t metrics)
{
    double cost = cost_ns * (double)metrics + 0.999;
    return (paid_ns > now_ns ? paid_ns : now_ns) + (cost < (double)SOURCE_COST_MAX ? (int64_t)cost : SOURCE_COST_MAX);
}

/* A message has passed, and held so many metrics. One that held none counts as one: it was looked at, too. */
static inline void source_charge(const source_rules_t *rules, const source_peer_t *peer, int64_t now_ns, uint64_t metrics)
{
    sources_t *s = rules->sources;
    if (!source_has_rates(rules))
        return;
    metrics += metrics == 0;
    source_key_t key = source_key(peer);
    source_set_t *set = source_set(s, key);
    source_take_lock(&set->lock);
    source_t *one = source_find(set, key, now_ns);
    if (rules->source_cost_ns > 0)
        one->own_ns = source_pay(one->own_ns, now_ns, rules->source_cost_ns, metrics);
    if (rules->cost_ns > 0) {
        /* What it got beyond its share since nobody wanted it is not held against it for longer than this. */
        int64_t share_ns = source_pay(one->share_ns, now_ns, rules->cost_ns * source_active(s), metrics);
        one->share_ns = share_ns < now_ns + rules->burst_ns ? share_ns : now_ns + rules->burst_ns;
    }
    source_give_lock(&set->lock);
    if (rules->cost_ns == 0)
        return;
    int64_t paid_ns = atomic_load_explicit(&s->paid_ns, memory_order_relaxed), next_ns;
    do
        next_ns = source_pay(paid_ns, now_ns, rules->cost_ns, metrics);
    while (!atomic_compare_exchange_weak_explicit(&s->paid_ns, &paid_ns, next_ns, memory_order_relaxed, memory_order_relaxed));
}

/* ---- who lost most ---- */

/* A source lost so many metrics. */
static inline void source_lose(sources_t *s, const source_peer_t *peer, source_answer_t why, uint64_t metrics)
{
    source_key_t key = source_key(peer);
    source_take_lock(&s->losers_lock);
    source_loser_t *least = &s->losers[0], *found = NULL;
    for (uint32_t i = 0; i < s->loser_count && found == NULL; i++) {
        source_loser_t *one = &s->losers[i];
        if (one->key.value == key.value && one->key.kind == key.kind && one->why == why)
            found = one;
        least = one->lost < least->lost ? one : least;
    }
    if (found == NULL && s->loser_count < SOURCE_LOSERS) {
        found = &s->losers[s->loser_count++];
        *found = (source_loser_t){.key = key, .why = why};
    } else if (found == NULL) {
        found = least;
        *found = (source_loser_t){.key = key, .why = why, .lost = least->lost, .error = least->lost};
    }
    found->lost += metrics;
    source_give_lock(&s->losers_lock);
}

/* Messages of one peer, one behind the other, that were taken at one time and are not to be read. All zero at its start. */
typedef struct {
    source_peer_t peer;
    source_answer_t why;
    uint64_t lost;
} source_run_t;

/* Counts what the run lost, and begins another one. */
static inline void source_run_end(const source_rules_t *rules, source_run_t *run)
{
    if (run->lost)
        source_lose(rules->sources, &run->peer, run->why, run->lost);
    *run = (source_run_t){0};
}

/* Like source_ask. Who was over its rate is so still, as no time has passed: a flood is asked for once in a burst. */
static inline source_answer_t source_ask_in_run(const source_rules_t *rules, source_run_t *run, const source_peer_t *peer, int64_t now_ns)
{
    if (run->lost && run->peer.low == peer->low && run->peer.high == peer->high && run->peer.kind == peer->kind)
        return run->why;
    source_run_end(rules, run);
    return source_ask(rules, peer, now_ns);
}

/* A message was not read, and would have held so many metrics. */
static inline void source_run_lose(source_run_t *run, const source_peer_t *peer, source_answer_t why, uint64_t metrics)
{
    run->peer = *peer;
    run->why = why;
    run->lost += metrics;
}

/* Copies those that lost something, SOURCE_LOSERS at most. Returns how many. */
static inline uint32_t source_losers(sources_t *s, source_loser_t *to)
{
    source_take_lock(&s->losers_lock);
    uint32_t count = s->loser_count;
    memcpy(to, s->losers, count * sizeof *to);
    source_give_lock(&s->losers_lock);
    return count;
}

#endif
