/* What all rules have in common: their texts, how those that may match are found, and what one thread needs to apply them.
 *
 * A thousand rules are not tried one after the other. Each is known by the literals that its patterns begin with; these
 * stand sorted, each with the longest other one that it begins with, so that a binary search and a walk up that chain
 * give all rules that a text may match, in the order of the file:
 *
 *   ""  ◀── "web."  ◀── "web.eu."  ◀── "web.eu.req"          "web.eu.cpu" is behind the last one: which is no prefix of
 *                    ◀── "web.us."                           it, but the one before it is, and so are all above
 */
#ifndef PENSTOCK_PLAN_H
#define PENSTOCK_PLAN_H

#include "heads.h"
#include "pattern.h"
#include "stats.h"

#define PLAN_NONE UINT32_MAX
#define PLAN_TRACE_BYTES 65536u /* of one head that is told of */

/* A text of the rules; PORT_PADDING readable behind it. */
typedef struct {
    const uint8_t *p;
    uint32_t n;
} plan_text_t;

typedef struct {
    plan_text_t key, value;
} plan_pair_t;

/* Rules that have a pattern which begins with `text`. */
typedef struct {
    plan_text_t text;
    uint32_t parent;       /* the longest other one that `text` begins with, or PLAN_NONE */
    uint32_t first, count; /* in plan_index_t.rules */
} plan_prefix_t;

typedef struct {
    const plan_prefix_t *prefixes; /* sorted by their bytes */
    const uint32_t *rules;
    uint32_t prefix_count;
    uint32_t words; /* of 64 rules each */
} plan_index_t;

typedef enum { PLAN_MAP, PLAN_SHAPE } plan_stage_t;

/* Is told, for `penstock check --explain`, what a rule has made of a head: it matched, and is number `rule` of its kind. */
typedef void (*plan_tell_fn)(void *to, plan_stage_t stage, uint32_t rule, const head_t *h, drop_t verdict);

/* One thread's; reused. */
typedef struct {
    pattern_work_t patterns;
    uint64_t *candidates; /* owned: a bit for each rule */
    counter_t given_up; /* names for which the budget of steps was used up */
    plan_tell_fn tell;  /* may be NULL */
    void *tell_to;
} plan_work_t;

/* Makes room for rules of so many words. False without memory. */
static inline bool plan_room(plan_work_t *w, uint32_t words)
{
    uint64_t *candidates = realloc(w->candidates, ((size_t)words + 1) * sizeof *candidates);
    if (candidates == NULL)
        return false;
    w->candidates = candidates;
    return true;
}

/* w: zeroed. words: of the larger of the indexes that are used with it. False without memory; plan_close is due either way. */
static inline bool plan_open(plan_work_t *w, uint32_t words)
{
    bool patterns = pattern_open(&w->patterns);
    return plan_room(w, words) && patterns;
}

static inline void plan_close(plan_work_t *w)
{
    pattern_close(&w->patterns);
    free(w->candidates);
    memset(w, 0, sizeof *w);
}

/* Before the rules of a head: their budget is whole again. */
static inline void plan_begin(plan_work_t *w)
{
    w->patterns.budget = PATTERN_BUDGET;
    w->patterns.given_up = false;
}

/* Whether the rules go on; if the budget is used up, that is counted. */
static inline bool plan_goes_on(plan_work_t *w)
{
    if (unlikely(w->patterns.given_up))
        counter_add(&w->given_up, 1);
    return likely(!w->patterns.given_up);
}

static inline bool plan_begins(plan_text_t text, const uint8_t *p, uint32_t n)
{
    return text.n <= n && memcmp(text.p, p, text.n) == 0;
}

/* Sets the bit of each rule that the text may match. */
static inline void plan_search(const plan_index_t *index, plan_work_t *w, const uint8_t *p, uint32_t n)
{
    uint32_t low = 0, high = index->prefix_count;
    memset(w->candidates, 0, index->words * sizeof *w->candidates);
    while (low < high) { /* the first one that stands behind the text */
        uint32_t middle = low + (high - low) / 2;
        plan_text_t text = index->prefixes[middle].text;
        int order = memcmp(text.p, p, text.n < n ? text.n : n);
        if (order < 0 || (order == 0 && text.n <= n))
            low = middle + 1;
        else
            high = middle;
    }
    uint32_t at = low ? low - 1 : PLAN_NONE;
    while (at != PLAN_NONE && !plan_begins(index->prefixes[at].text, p, n))
        at = index->prefixes[at].parent;
    for (; at != PLAN_NONE; at = index->prefixes[at].parent) {
        const plan_prefix_t *prefix = &index->prefixes[at];
        for (uint32_t i = prefix->first; i < prefix->first + prefix->count; i++)
            w->candidates[index->rules[i] / 64] |= UINT64_C(1) << index->rules[i] % 64;
    }
}

/* The first rule from `rule` on that plan_search has found, or PLAN_NONE. */
static inline uint32_t plan_next(const plan_index_t *index, const plan_work_t *w, uint32_t rule)
{
    for (uint32_t word = rule / 64; word < index->words; word++) {
        uint64_t bits = w->candidates[word];
        if (word == rule / 64)
            bits &= ~UINT64_C(0) << rule % 64;
        if (bits != 0)
            return 64 * word + (uint32_t)__builtin_ctzll(bits);
    }
    return PLAN_NONE;
}

/* Whether a list of globs says anything, and takes the text. */
static inline bool plan_takes(const pattern_list_t *list, plan_work_t *w, const uint8_t *p, uint32_t n)
{
    return list->wanted + list->unwanted > 0 && pattern_wanted(list, &w->patterns, p, n);
}

static inline void plan_tell(const plan_work_t *w, plan_stage_t stage, uint32_t rule, const head_t *h, drop_t verdict)
{
    if (w->tell != NULL)
        w->tell(w->tell_to, stage, rule, h, verdict);
}

/* Adds tags, ",key=value" each, behind those that the head has; one whose key is there already stays out. False if they cannot
 * be read. */
static inline bool plan_add_tags(head_t *h, const uint8_t *tags, uint32_t n)
{
    uint32_t own = h->count;
    bool read = head_read_tags(h, tags, tags + n);
    for (uint32_t i = own; i < h->count; i++)
        h->tags[i].gone = head_find(h, h->tags[i].key, h->tags[i].key_length) != &h->tags[i];
    return read;
}

static inline int plan_tag_compare(const void *a, const void *b)
{
    const head_tag_t *x = a, *y = b;
    uint32_t n = x->key_length < y->key_length ? x->key_length : y->key_length;
    int order = memcmp(x->key, y->key, n);
    return order ? order : (x->key_length > y->key_length) - (x->key_length < y->key_length);
}

/* Brings the tags of a head that was changed into the order of their keys: then all that become one series are one text. */
static inline void plan_sort(head_t *h)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < h->count; i++)
        if (!h->tags[i].gone)
            h->tags[kept++] = h->tags[i];
    h->count = kept;
    if (kept > 1)
        qsort(h->tags, kept, sizeof *h->tags, plan_tag_compare);
}

#endif
