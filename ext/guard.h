/* The guard: the one place that every line passes between its reader and the rings, where there are rules for it.
 *
 *   line ─▶ hash of its head ─▶ slot ─┬ known ──────────────────────┬─▶ the rings of its mask
 *                                     └ unknown ─▶ decide ─▶ slot ──┘
 *
 * What is decided hangs on the head alone, that is on measurement and tags, those that the agent adds included. So it is
 * decided once for each head, and then found by its hash: 64 bits under a key that nobody knows (a head that has the hash
 * of another one is taken for that one: once in 2^64 / slots). A guard is a cache for one writer, thrown away whenever the
 * rules, the rings or the agent's tags change; a head that has no slot is decided again each time.
 *
 * Heads that pass have a slot at their first sight: the book (book.h) limits how many there are. All others, whose heads
 * are changed or dropped, are aliases. They get one at their second sight, and only so many: heads that come once, however
 * many, take nothing away. An alias is decided anew in each epoch: there may be room for it by then.
 *
 * Bits of a mask are places in the writer's list of rings. The two are only right together, which is why they are
 * exchanged together.
 */
#ifndef PENSTOCK_GUARD_H
#define PENSTOCK_GUARD_H

#include "book.h"
#include "guard_outcome.h"
#include "plan_map.h"
#include "plan_route.h"
#include "types_refused.h"

#define GUARD_SLOTS_MAX (1u << 20)   /* heads that pass, where no limit says how many there are; 30 to 38 bytes each */
#define GUARD_ALIASES_MIN (1u << 16) /* at least so many may be kept, or a quarter of the series */
#define GUARD_ALIAS (1u << 16)       /* outcomes of slots from here on are aliases */
#define GUARD_EPOCH_NS INT64_C(450000000000) /* without a book: a head is forgotten after eight to nine of silence */
#define GUARD_SWEEP_SECOND 4096u     /* places that the sweep looks at in a second, or a 64th of all */
#define GUARD_SWEEP_NEW 8u           /* and with each new head */
#define GUARD_DOORS 65536u           /* first sights that are remembered */
#define GUARD_SEQUENCE 1000000u      /* nanoseconds over which lines of one overflow series are spread */
#define GUARD_NO_TIME INT64_MAX      /* in place of a slot's newest time: no line has been seen since it was made */

/* How much is to be decided. */
typedef enum {
    GUARD_ALL,
    GUARD_DECIDED, /* of an aggregated series: what becomes of it has been decided when it was new */
} guard_stages_t;

/* One writer's. */
typedef struct guard {
    slots_t slots;             /* `value`: a mask, or GUARD_ALIAS and an index into the next */
    guard_outcomes_t outcomes;
    const plan_routes_t *plan; /* borrowed, as the next */
    const plan_rules_t *rules; /* borrowed; NULL: heads stay as they come */
    book_t *book;              /* NULL: there may be any number of series */
    types_writer_t *types;     /* owned; NULL: fields may have any type */
    types_refused_t refused;   /* fields that did not have theirs */
    mix_key_t key;             /* of the process: that of the tags' hashes, too */
    head_t head;
    plan_work_t work;
    uint8_t *text;             /* owned: a head that is changed, HEAD_BYTES_MAX and padding */
    uint32_t aliases, aliases_max;
    uint32_t sequence;
    uint64_t chance;           /* a random number, of no good quality */
    uint32_t doors[GUARD_DOORS]; /* upper halves of hashes that were seen once, by their lower ones */
    uint8_t epoch;
    uint64_t time_first[2]; /* digits 1 to 8 and 4 to 11 of the last time that was read, */
    int64_t time_first_ns;  /* and what they stand for */
    bool collisions; /* runs are marked in which lines of one series and time may be; see line_emit.h */
    uint8_t time[20 + PORT_PADDING];
    counter_t unknown;         /* heads that had to be decided */
    counter_t given_up;        /* of them, those with a name that took a rule or a filter too long */
    counter_t heads, bytes;    /* as of the last second: slots in use, and memory */
} guard_t;

/* What becomes of a line. */
typedef struct {
    const uint8_t *text;  /* the head in place of its own, the agent's tags in it; borrowed until the next line. NULL: its own */
    uint32_t text_length;
    uint32_t mask;
    drop_t reason;        /* DROP_NONE: it goes to the rings of the mask */
    uint8_t flags;
    int64_t *newest;      /* of the times of this head; borrowed until the next line. NULL: nobody knows */
} guarded_t;

static inline void guard_close(guard_t *g)
{
    slots_close(&g->slots);
    guard_outcomes_close(&g->outcomes);
    head_close(&g->head);
    plan_close(&g->work);
    free(g->text);
    free(g->types);
    free(g->refused.bytes);
    g->refused.bytes = NULL;
    g->types = NULL;
    g->text = NULL;
}

/* g: zeroed. plan, book (may be NULL): borrowed. series_max: that of the book. False without memory; guard_close is due
 * either way. */
static inline bool guard_open(guard_t *g, const plan_routes_t *plan, book_t *book, uint64_t series_max, const mix_key_t *key)
{
    g->aliases_max = (uint32_t)(series_max / 4 > GUARD_ALIASES_MIN ? series_max / 4 : GUARD_ALIASES_MIN);
    uint64_t passing = book == NULL ? GUARD_SLOTS_MAX : series_max + BOOK_OVERFLOW_MAX;
    slots_open(&g->slots, false, passing + g->aliases_max);
    guard_outcomes_open(&g->outcomes, g->aliases_max);
    g->plan = plan;
    g->book = book;
    g->key = *key;
    g->text = malloc(HEAD_BYTES_MAX + PORT_PADDING);
    bool head = head_open(&g->head), work = plan_open(&g->work, 0);
    return head && work && g->text != NULL;
}

/* Has the guard keep fields to their types, which are borrowed. False without memory. */
static inline bool guard_keep_types(guard_t *g, types_t *types, types_rules_t rules)
{
    g->types = calloc(1, sizeof *g->types);
    g->refused.bytes = malloc(REFUSED_BYTES);
    return g->types != NULL && g->refused.bytes != NULL && types_writer_open(g->types, types, rules);
}

/* Has the guard mark what may collide, for which it keeps the newest time of each head. Before the first line. */
static inline void guard_mark_collisions(guard_t *g)
{
    g->collisions = true;
    slots_open(&g->slots, true, g->slots.count_max);
}

/* Whether a head with this slot passes as it is, and was heard of in this epoch. */
static inline bool guard_slot_passes(const guard_t *g, const slot_t *slot)
{
    uint32_t both;
    memcpy(&both, slot, sizeof both); /* the epoch in the upper eight bits: one comparison does for both */
    return both - ((uint32_t)g->epoch << 24) - 1 < GUARD_ALIAS - 1;
}

/* Where the newest time of a head is kept; NULL if none is. */
static inline int64_t *guard_newest(guard_t *g, uint64_t hash, const slot_t *slot)
{
    return g->collisions ? slots_time(&g->slots, hash, slot) : NULL;
}

/* Has the guard apply rules, which are borrowed. False without memory. */
static inline bool guard_set_rules(guard_t *g, const plan_rules_t *rules)
{
    uint32_t map = rules->map.index.words, shape = rules->shape.index.words;
    g->rules = rules;
    return plan_room(&g->work, map > shape ? map : shape);
}

/* Once for each burst, and whatever else has a time. */
static inline void guard_begin(guard_t *g, int64_t now_ns)
{
    g->epoch = g->book != NULL ? book_epoch(g->book) : (uint8_t)(now_ns / GUARD_EPOCH_NS);
}

/* Lets go of what a slot stands for, before it goes or gets another outcome. */
static inline void guard_leave(guard_t *g, const slot_t *slot)
{
    if (slot->value < GUARD_ALIAS)
        return;
    guard_outcome_release(&g->outcomes, slot->value - GUARD_ALIAS);
    g->aliases--;
}

static inline void guard_gone(void *guard, uint64_t hash, const slot_t *slot)
{
    guard_leave(guard, slot);
}

/* Once a second: forgets what was silent. */
static inline void guard_second(guard_t *g)
{
    uint64_t places = g->slots.places / 64;
    places = places > GUARD_SWEEP_SECOND ? places : GUARD_SWEEP_SECOND;
    slots_sweep(&g->slots, g->epoch, (uint32_t)places, guard_gone, g);
    uint64_t bytes = g->slots.bytes + g->outcomes.by_key.bytes + g->outcomes.room * sizeof(guard_outcome_t);
    atomic_store_explicit(&g->heads, g->slots.count, memory_order_relaxed);
    atomic_store_explicit(&g->bytes, bytes + g->outcomes.text_bytes + sizeof *g, memory_order_relaxed);
}

/* Whether it is worth keeping what becomes of a head that does not just pass: it was here before, not long ago. Of two that
 * share a door, and come by turns, each must get in some day: so it is left to chance who is remembered. */
static inline bool guard_second_sight(guard_t *g, uint64_t hash)
{
    uint32_t *door = &g->doors[hash % GUARD_DOORS], seen = (uint32_t)(hash >> 32);
    bool second = *door == seen;
    g->chance = g->chance * UINT64_C(6364136223846793005) + 1442695040888963407;
    if (*door == 0 || g->chance >> 63)
        *door = seen;
    return second;
}

/* Keeps what was decided for a head. slot: the one that it has, or NULL. Returns that of a head that passes, or NULL. */
static inline slot_t *guard_keep(guard_t *g, uint64_t hash, slot_t *slot, const guarded_t *found)
{
    bool passes = found->text == NULL && found->flags == 0 && (found->reason == DROP_NONE || found->reason == DROP_UNROUTED);
    uint32_t outcome = found->mask;
    if (slot != NULL) {
        guard_leave(g, slot);
    } else {
        if (!passes && (g->aliases >= g->aliases_max || !guard_second_sight(g, hash)))
            return NULL;
        slots_sweep(&g->slots, g->epoch, GUARD_SWEEP_NEW, guard_gone, g);
        slot = slots_add(&g->slots, hash);
        if (slot == NULL)
            return NULL;
    }
    slot->epoch = g->epoch;
    if (g->collisions)
        *slots_time(&g->slots, hash, slot) = GUARD_NO_TIME;
    slot->value = outcome & (GUARD_ALIAS - 1);
    if (passes)
        return slot;
    outcome = guard_outcome_share(&g->outcomes, &g->key,
                                  (guard_outcome_t){.text = (uint8_t *)found->text,
                                                    .text_length = found->text_length,
                                                    .mask = (uint16_t)found->mask,
                                                    .reason = (int16_t)found->reason,
                                                    .flags = found->flags});
    if (outcome == GUARD_NO_OUTCOME || outcome >= (1u << 24) - GUARD_ALIAS) {
        if (outcome != GUARD_NO_OUTCOME)
            guard_outcome_release(&g->outcomes, outcome);
        slots_forget(&g->slots, hash);
        return NULL;
    }
    g->aliases++;
    slot->value = (GUARD_ALIAS + outcome) & 0xFFFFFF;
    return NULL;
}

/* The head that is left of g->head, written. */
static inline drop_t guard_write(guard_t *g, guarded_t *found)
{
    found->text_length = head_write(&g->head, g->text, HEAD_BYTES_MAX);
    if (found->text_length == 0)
        return DROP_KEY_TOO_LONG;
    if (line_tags_fatal(head_tags(&g->head)))
        return DROP_TAG;
    memset(g->text + found->text_length, 0, PORT_PADDING);
    found->text = g->text;
    return DROP_NONE;
}

/* Asks the book about g->head, and changes it as the book says. */
static inline void guard_count(guard_t *g, guard_stages_t stages, guarded_t *found)
{
    uint64_t identity;
    if (stages == GUARD_DECIDED) {
        /* It has passed, or was changed, before the book forgot it or was begun: it is there. */
        book_admit(g->book, &g->head, head_identity(&g->head, &g->book->key), 0);
        return;
    }
    switch (book_decide(g->book, &g->head, &identity)) {
    case BOOK_PASSES:
        return;
    case BOOK_OVERFLOWS:
        found->flags |= GUARD_OVERFLOWED;
        found->reason = guard_write(g, found);
        return;
    case BOOK_OBSERVED:
        found->flags |= GUARD_OBSERVED;
        return;
    case BOOK_DROPS:
        found->reason = DROP_CARDINALITY;
    }
}

/* Applies [[shape]] to g->head; says so if it has changed. */
static inline void guard_shape(guard_t *g, guarded_t *found)
{
    if (g->rules == NULL)
        return;
    plan_begin(&g->work);
    found->reason = plan_shape(&g->rules->shape, &g->work, &g->head);
    if (g->work.patterns.given_up)
        counter_add(&g->given_up, 1);
    if (g->head.changed)
        found->flags |= GUARD_SHAPED;
}

/* All that is decided for g->head, but which rings it is for. */
static inline void guard_head(guard_t *g, guard_stages_t stages, guarded_t *found)
{
    if (stages == GUARD_ALL)
        guard_shape(g, found);
    if (found->reason == DROP_NONE && g->book != NULL)
        guard_count(g, stages, found);
    if (found->reason == DROP_NONE && found->flags & GUARD_SHAPED && found->text == NULL)
        found->reason = guard_write(g, found);
}

/* First sight of a head, or there was no slot for it, or it is an alias in another epoch. */
static __attribute__((noinline)) void guard_decide(guard_t *g, const line_t *l, guard_stages_t stages, uint64_t hash, slot_t *slot,
                                                   guarded_t *found)
{
    *found = (guarded_t){.mask = (1u << g->plan->count) - 1, .reason = DROP_NONE};
    counter_add(&g->unknown, 1);
    /* Without memory for its tags, which may be there in a moment, the line goes everywhere. */
    if (unlikely(!head_read(&g->head, l->series, l->series_length, l->extra, l->extra_length)))
        return;
    guard_head(g, stages, found);
    if (found->reason == DROP_NONE) {
        bool given_up;
        found->mask = plan_route(g->plan, &g->work.patterns, &g->head, &given_up);
        if (unlikely(given_up))
            counter_add(&g->given_up, 1);
        if (found->mask == 0)
            found->reason = DROP_UNROUTED;
    }
    slot = guard_keep(g, hash, slot, found);
    found->newest = slot != NULL ? guard_newest(g, hash, slot) : NULL;
}

/* A known head that passes is heard of in another epoch: the book is to keep it, too. */
static __attribute__((noinline)) void guard_touch(guard_t *g, const line_t *l, slot_t *slot)
{
    slot->epoch = g->epoch;
    if (g->book != NULL && head_read(&g->head, l->series, l->series_length, l->extra, l->extra_length))
        book_touch(g->book, head_identity(&g->head, &g->book->key));
}

/* By which a head is found; tags: what is added to lines of this kind. */
static inline uint64_t guard_hash(const guard_t *g, const line_tags_t *tags, const uint8_t *series, uint32_t n)
{
    return mix_long(&g->key, tags->hash, series, n);
}

/* What becomes of the line, whose head has this hash. slot: what is kept of it, or NULL. */
static inline void guard_line(guard_t *g, const line_t *l, uint64_t hash, slot_t *slot, guard_stages_t stages, guarded_t *found)
{
    bool stale = slot == NULL || slot->epoch != g->epoch;
    if (unlikely(slot == NULL || (stale && slot->value >= GUARD_ALIAS))) {
        guard_decide(g, l, stages, hash, slot, found);
        return;
    }
    if (likely(slot->value < GUARD_ALIAS)) {
        if (unlikely(stale))
            guard_touch(g, l, slot);
        *found = (guarded_t){.mask = slot->value, .reason = slot->value ? DROP_NONE : DROP_UNROUTED, .newest = guard_newest(g, hash, slot)};
        return;
    }
    const guard_outcome_t *outcome = &g->outcomes.items[slot->value - GUARD_ALIAS];
    *found = (guarded_t){outcome->text, outcome->text_length, outcome->mask, (drop_t)outcome->reason, outcome->flags, NULL};
}

/* The time of a line that has one, in nanoseconds. False if it is none. */
static inline bool guard_time(guard_t *g, const line_t *l, int64_t *time)
{
    static const int64_t units[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000};
    const uint8_t *p = l->time;
    if (likely(l->time_length == 19 && (uint8_t)(*p - '1') < 8)) { /* digits all, as a reader has found */
        uint64_t first = port_load64(p), next = port_load64(p + 3);
        if (unlikely(((first ^ g->time_first[0]) | (next ^ g->time_first[1])) != 0)) {
            g->time_first[0] = first;
            g->time_first[1] = next;
            g->time_first_ns = num_digits8(first) * INT64_C(100000000000) + num_digits8(next) % 1000 * INT64_C(100000000);
        }
        *time = g->time_first_ns + num_digits8(port_load64(p + 11));
        return true;
    }
    return num_read_i64(l->time, l->time_length, time) && !__builtin_mul_overflow(*time, units[l->time_zeros], time);
}

/* Puts the fields that leave a line where they are kept: each as a line of its own. */
static inline void guard_refuse_fields(guard_t *g, const line_t *l, const uint8_t *stamp, uint32_t stamp_length)
{
    const types_mended_t *mended = &g->types->mended;
    static const uint8_t space[] = " ", zeros[] = "000000000";
    for (uint32_t i = 0; i < mended->refused_count; i++) {
        const types_field_t *f = &mended->refusals[i].field;
        refused_part_t parts[] = {{l->series, l->series_length}, {l->extra, l->extra_length}, {space, 1},
                                  {f->key, (uint32_t)(f->value + f->value_length - f->key)}, {space, 1},
                                  {l->time ? l->time : stamp, l->time ? l->time_length : stamp_length},
                                  {zeros, l->time ? l->time_zeros : 0}};
        refused_put(&g->refused, mended->refusals[i].kept, f->kind, parts, sizeof parts / sizeof *parts);
    }
    if (mended->refused > mended->refused_count)
        counter_add(&g->refused.unsaved, mended->refused - mended->refused_count);
}

/* Brings the fields of a line to their types. shape: see types_line. Returns what became of them; *l is changed where they
 * were. */
static inline types_verdict_t guard_fields(guard_t *g, line_t *l, uint64_t shape)
{
    uint32_t n = 0;
    while (n < l->series_length && l->series[n] != ',')
        n += l->series[n] == '\\' && n + 1 < l->series_length && (l->series[n + 1] == ',' || l->series[n + 1] == ' ') ? 2 : 1;
    types_verdict_t verdict = types_line(g->types, l->series, n, l->fields, l->fields_length, shape);
    if (likely(verdict != TYPES_MENDED))
        return verdict;
    const types_mended_t *mended = &g->types->mended;
    l->fields = mended->fields;
    l->fields_length = mended->fields_length;
    l->fields_signed = mended->fields_signed;
    l->fields_signed_length = mended->fields_signed_length;
    l->clamped = mended->clamped;
    l->joined = false;
    l->marks = NULL;
    return verdict;
}

/* The line as it is to be written, with the head that was decided. False if it has become too long.
 *
 * Lines of many series come together in an overflow series, where a database keeps one for each time: those with a time of
 * their own are spread over a millisecond. (Stamps differ by themselves.) */
static inline bool guard_rewrite(guard_t *g, const guarded_t *found, line_t *l)
{
    if (found->text_length > l->series_length + l->extra_length &&
        (uint64_t)found->text_length + 4 + l->fields_length > LINE_KEY_BYTES)
        return false;
    l->series = found->text;
    l->series_length = found->text_length;
    l->extra_length = 0;
    l->joined = false;
    l->marks = NULL; /* they lead into the text that came */
    int64_t time;
    if (!(found->flags & GUARD_OVERFLOWED) || l->time == NULL || !guard_time(g, l, &time) ||
        __builtin_add_overflow(time, (int64_t)(g->sequence++ % GUARD_SEQUENCE), &time) || time > LINE_TIME_MAX)
        return true;
    l->time = g->time;
    l->time_length = (uint32_t)num_write_i64(g->time, time);
    l->time_zeros = 0;
    return true;
}

#endif
