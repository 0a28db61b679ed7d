/* What a guard has decided for heads that do not simply pass: shared by all slots with the same answer.
 *
 * A head that passes needs none of this: its slot holds its mask. The others are aliases, whose number is limited, and
 * whose texts are.
 */
#ifndef PENSTOCK_GUARD_OUTCOME_H
#define PENSTOCK_GUARD_OUTCOME_H

#include "line.h"
#include "mix.h"
#include "slots.h"

#define GUARD_OVERFLOWED 1u /* a tag was replaced, or went, since there are too many series */
#define GUARD_OBSERVED 2u   /* it would have been */

#define GUARD_SHAPED 4u     /* rules have changed its head */

#define GUARD_NO_OUTCOME UINT32_MAX
#define GUARD_TEXTS_BYTES (32u << 20) /* of all texts */

typedef struct {
    uint8_t *text; /* owned: the head in place of the one that came, padded; NULL: that one stays */
    uint64_t key;  /* by which it is found */
    uint32_t text_length;
    uint32_t users; /* slots; of one that is free, the next free one */
    uint16_t mask;
    int16_t reason; /* drop_t */
    uint8_t flags;
} guard_outcome_t;

typedef struct {
    guard_outcome_t *items; /* owned */
    uint32_t count, room, free_first;
    uint64_t text_bytes;
    slots_t by_key; /* `value` is the index */
} guard_outcomes_t;

static inline void guard_outcomes_open(guard_outcomes_t *o, uint64_t count_max)
{
    slots_open(&o->by_key, false, count_max);
    o->free_first = GUARD_NO_OUTCOME;
}

static inline void guard_outcomes_close(guard_outcomes_t *o)
{
    for (uint32_t i = 0; i < o->count; i++)
        free(o->items[i].text);
    free(o->items);
    o->items = NULL;
    o->count = 0;
    slots_close(&o->by_key);
}

/* One slot less has this outcome. */
static inline void guard_outcome_release(guard_outcomes_t *o, uint32_t index)
{
    guard_outcome_t *outcome = &o->items[index];
    if (--outcome->users > 0)
        return;
    slots_forget(&o->by_key, outcome->key);
    if (outcome->text != NULL)
        o->text_bytes -= outcome->text_length;
    free(outcome->text);
    *outcome = (guard_outcome_t){.users = o->free_first};
    o->free_first = index;
}

/* A place for one more; GUARD_NO_OUTCOME without memory. */
static inline uint32_t guard_outcome_place(guard_outcomes_t *o)
{
    uint32_t index = o->free_first;
    if (index != GUARD_NO_OUTCOME) {
        o->free_first = o->items[index].users;
        return index;
    }
    if (o->count == o->room) {
        uint32_t room = o->room ? 2 * o->room : 64;
        guard_outcome_t *items = realloc(o->items, room * sizeof *items);
        if (items == NULL)
            return GUARD_NO_OUTCOME;
        o->items = items;
        o->room = room;
    }
    return o->count++;
}

/* The index of an outcome like this one, whose text is copied, for one more slot. GUARD_NO_OUTCOME if there is no room. */
static inline uint32_t guard_outcome_share(guard_outcomes_t *o, const mix_key_t *key, guard_outcome_t like)
{
    uint64_t seed = like.mask | (uint64_t)(uint16_t)like.reason << 16 | (uint64_t)like.flags << 32;
    like.key = mix_bytes(key, seed, like.text, like.text_length);
    slot_t *slot = slots_find(&o->by_key, like.key);
    if (slot != NULL) {
        o->items[slot->value].users++;
        return slot->value;
    }
    if (o->text_bytes + like.text_length > GUARD_TEXTS_BYTES || (slot = slots_add(&o->by_key, like.key)) == NULL)
        return GUARD_NO_OUTCOME;
    uint8_t *text = like.text_length ? malloc(like.text_length + PORT_PADDING) : NULL;
    uint32_t index = like.text_length && text == NULL ? GUARD_NO_OUTCOME : guard_outcome_place(o);
    if (index == GUARD_NO_OUTCOME) {
        free(text);
        slots_forget(&o->by_key, like.key);
        return GUARD_NO_OUTCOME;
    }
    if (text != NULL) {
        memcpy(text, like.text, like.text_length);
        memset(text + like.text_length, 0, PORT_PADDING);
        o->text_bytes += like.text_length;
    }
    slot->value = index & 0xFFFFFF;
    like.text = text;
    like.users = 1;
    o->items[index] = like;
    return index;
}

#endif
