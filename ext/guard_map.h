/* What the guard does with names of StatsD and Graphite: [[map]], before anything else is decided.
 *
 * What becomes of a name is kept as what becomes of a head is, under a hash of the name as it came: so a known one costs a
 * look into a table, however many rules there are. A name that is mapped has a text: its head, the agent's tags in it, and
 * behind a NUL the name of its field, if it has one.
 */
#ifndef PENSTOCK_GUARD_MAP_H
#define PENSTOCK_GUARD_MAP_H

#include "guard.h"

#define GUARD_NAMES UINT64_C(0x6A09E667F3BCC908) /* tells the hashes of names from those of heads */

/* A name as it came, and who it came from. */
typedef struct {
    const uint8_t *p; /* PORT_PADDING readable behind */
    uint32_t n;
    uint16_t listener;
    uint8_t type; /* of StatsD, as a bit; 0: Graphite */
} guard_name_t;

static inline bool guard_maps(const guard_t *g)
{
    return g != NULL && g->rules != NULL && g->rules->map.index.prefix_count > 0;
}

/* Length of the head in a text of this length: what stands behind a NUL is the field. */
static inline uint32_t guard_head_length(const uint8_t *text, uint32_t n)
{
    const uint8_t *end = memchr(text, 0, n);
    return end ? (uint32_t)(end - text) : n;
}

/* Reads a head that is as it would be without rules, and applies [[map]] to it. The agent's tags come behind what a rule
 * adds; a tag that is there already stays. extra: those of them that the head lacks. False if it is no head that can be read. */
static inline bool guard_map(guard_t *g, const guard_name_t *name, const uint8_t *series, uint32_t n, const line_tags_t *tags,
                             const uint8_t *extra, uint32_t extra_n, guarded_t *found, bool *mapped)
{
    *mapped = false;
    if (!guard_maps(g))
        return head_read(&g->head, series, n, extra, extra_n);
    if (!head_read(&g->head, series, n, NULL, 0))
        return false;
    plan_begin(&g->work);
    found->reason = plan_map(&g->rules->map, &g->work, name->listener, name->type, name->p, name->n, &g->head, mapped);
    if (g->work.patterns.given_up)
        counter_add(&g->given_up, 1);
    if (!*mapped)
        return head_read_tags(&g->head, extra, extra + extra_n);
    bool read = plan_add_tags(&g->head, tags->text, tags->length);
    plan_sort(&g->head);
    return read;
}

/* Puts the field of g->head behind the head in found->text: what a rule says, or `field`, which is escaped already. */
static inline drop_t guard_write_field(guard_t *g, const uint8_t *field, uint32_t field_n, guarded_t *found)
{
    uint8_t *to = g->text + found->text_length, *end = g->text + HEAD_BYTES_MAX;
    if (g->head.field_length == 0 && field_n == 0)
        return DROP_NONE;
    if ((size_t)(end - to) <= field_n)
        return DROP_KEY_TOO_LONG;
    *to++ = 0;
    if (g->head.field_length > 0) {
        if ((to = head_put(to, end, g->head.field, g->head.field_length, false)) == NULL)
            return DROP_KEY_TOO_LONG;
    } else {
        memcpy(to, field, field_n);
        to += field_n;
    }
    memset(to, 0, PORT_PADDING);
    found->text_length = (uint32_t)(to - g->text);
    return DROP_NONE;
}

/* Decides what becomes of a name whose head without rules is `series`, and its field `field`. found->text: NULL if no rule
 * matches; else borrowed until the next decision. */
static inline void guard_name(guard_t *g, const guard_name_t *name, const line_tags_t *tags, const uint8_t *series, uint32_t n,
                              const uint8_t *field, uint32_t field_n, guarded_t *found)
{
    bool mapped;
    *found = (guarded_t){.mask = 1, .reason = DROP_NONE};
    counter_add(&g->unknown, 1);
    if (!guard_map(g, name, series, n, tags, NULL, 0, found, &mapped) || !mapped || found->reason != DROP_NONE)
        return;
    found->reason = guard_write(g, found);
    found->flags = GUARD_SHAPED;
    if (found->reason == DROP_NONE)
        found->reason = guard_write_field(g, field, field_n, found);
}

/* What is known of a name, raw: as it came, tags included. False if nothing is. *hash: for guard_name_decide. */
static inline bool guard_name_known(guard_t *g, const guard_name_t *raw, const line_tags_t *tags, uint64_t *hash, guarded_t *found)
{
    *hash = mix_bytes(&g->key, tags->hash ^ GUARD_NAMES ^ ((uint64_t)raw->listener << 8 | raw->type), raw->p, raw->n);
    slot_t *slot = slots_find(&g->slots, *hash);
    if (slot == NULL || (slot->epoch != g->epoch && slot->value >= GUARD_ALIAS))
        return false;
    slot->epoch = g->epoch;
    *found = (guarded_t){.reason = DROP_NONE};
    if (slot->value >= GUARD_ALIAS) {
        const guard_outcome_t *outcome = &g->outcomes.items[slot->value - GUARD_ALIAS];
        *found = (guarded_t){outcome->text, outcome->text_length, outcome->mask, (drop_t)outcome->reason, outcome->flags,
                              NULL};
    }
    return true;
}

/* guard_name, and keeps it under the hash of guard_name_known. */
static __attribute__((noinline)) void guard_name_decide(guard_t *g, const guard_name_t *name, const line_tags_t *tags, uint64_t hash,
                                                        const uint8_t *series, uint32_t n, const uint8_t *field, uint32_t field_n,
                                                        guarded_t *found)
{
    guard_name(g, name, tags, series, n, field, field_n, found);
    guard_keep(g, hash, slots_find(&g->slots, hash), found);
}

/* What becomes of a series that is to be aggregated, by its canonical head and the agent's tags that it lacks. found->text,
 * if there is any, is what it is to be aggregated under, its field behind it. Masks are for when it is sent. */
static inline void guard_series(guard_t *g, const guard_name_t *name, const uint8_t *series, uint32_t n, const line_tags_t *tags,
                                const uint8_t *extra, uint32_t extra_n, guarded_t *found)
{
    bool mapped;
    *found = (guarded_t){.reason = DROP_NONE};
    if (g->book == NULL && g->rules == NULL)
        return;
    counter_add(&g->unknown, 1);
    if (!guard_map(g, name, series, n, tags, extra, extra_n, found, &mapped) || found->reason != DROP_NONE)
        return;
    if (mapped)
        found->flags |= GUARD_SHAPED;
    guard_head(g, GUARD_ALL, found);
    if (found->reason == DROP_NONE && found->text != NULL)
        found->reason = guard_write_field(g, NULL, 0, found);
}

#endif
