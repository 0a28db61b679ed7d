/* Which outputs a series is for: those whose filter lets it through, and of each group of shards one.
 *
 * Of the members of a group that a series is not filtered from, the one gets it that has the highest score: a mix of the
 * series' identity, or in some groups of its measurement alone, and the output's name ("rendezvous hashing", D. Thaler and C. Ravishankar, 1998). So which one it is
 * hangs on nothing else, neither on a restart nor on the order of the tags, and an output that is added takes its part
 * from all others, and moves nothing between them.
 */
#ifndef PENSTOCK_PLAN_ROUTE_H
#define PENSTOCK_PLAN_ROUTE_H

#include "heads.h"
#include "pattern.h"

#define PLAN_OUTPUTS 16u
#define PLAN_NO_GROUP (-1)

/* What the value of a tag must be; "" is the value of one that is not there. */
typedef struct {
    const uint8_t *key; /* without escapes; padded */
    uint32_t key_length;
    pattern_list_t values;
} plan_tag_t;

/* What it points at belongs to whoever made it. */
typedef struct {
    pattern_list_t measurements;
    const plan_tag_t *tags; /* all of them must agree */
    uint32_t tag_count;
    uint64_t name_hash; /* of its name, fixed */
    int32_t group;      /* of shards; PLAN_NO_GROUP: it gets all that its filter lets through */
    bool by_measurement; /* what the outputs of its group share: measurements, whatever their tags; else series */
} plan_output_t;

typedef struct {
    plan_output_t outputs[PLAN_OUTPUTS];
    uint32_t count;
} plan_routes_t;

/* How much a series of this identity (by mix_fixed) belongs to an output. */
static inline uint64_t plan_score(const plan_output_t *output, uint64_t identity)
{
    uint8_t text[2 * sizeof identity] = {0};
    memcpy(text, &identity, sizeof identity);
    return mix_bytes(&mix_fixed, output->name_hash, text, sizeof identity);
}

/* Whether an output's filter lets the series through. One that takes too long for this name does. */
static inline bool plan_passes(const plan_output_t *output, pattern_work_t *w, const head_t *h)
{
    static const uint8_t none[PORT_PADDING];
    w->budget = PATTERN_BUDGET;
    w->given_up = false;
    bool passes = pattern_wanted(&output->measurements, w, h->measurement, h->measurement_length);
    for (uint32_t i = 0; i < output->tag_count && passes; i++) {
        const plan_tag_t *wanted = &output->tags[i];
        const head_tag_t *tag = head_find(h, wanted->key, wanted->key_length);
        passes = pattern_wanted(&wanted->values, w, tag ? tag->value : none, tag ? tag->value_length : 0);
    }
    return passes || w->given_up;
}

/* The outputs that the series is for, a bit for each. *given_up: a filter that took too long let it through. */
static inline uint32_t plan_route(const plan_routes_t *routes, pattern_work_t *w, head_t *h, bool *given_up)
{
    *given_up = false;
    uint32_t mask = 0, best[PLAN_OUTPUTS];
    uint64_t score[PLAN_OUTPUTS], identities[2] = {0};
    bool sharded[PLAN_OUTPUTS] = {false};
    for (uint32_t i = 0; i < routes->count; i++) {
        const plan_output_t *output = &routes->outputs[i];
        bool passes = plan_passes(output, w, h);
        *given_up |= w->given_up;
        if (!passes)
            continue;
        if (output->group == PLAN_NO_GROUP) {
            mask |= 1u << i;
            continue;
        }
        uint64_t *identity = &identities[output->by_measurement];
        if (*identity == 0)
            *identity = output->by_measurement ? mix_bytes(&mix_fixed, 0, h->measurement, h->measurement_length)
                                               : head_identity(h, &mix_fixed);
        uint32_t group = (uint32_t)output->group;
        uint64_t mine = plan_score(output, *identity);
        if (sharded[group] && mine <= score[group])
            continue;
        if (sharded[group])
            mask &= ~(1u << best[group]);
        sharded[group] = true;
        score[group] = mine;
        best[group] = i;
        mask |= 1u << i;
    }
    return mask;
}

#endif
