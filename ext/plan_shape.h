/* [[shape]]: what becomes of measurement and tags.
 *
 *   measurement = ["http*"]
 *   drop_tags = ["request_id"]               http,path=/user/7,request_id=x  ─▶  http,path=/user/:id
 *   [shape.tags.path]
 *   templates = ["/user/:id"]
 *
 * All rules that match are applied, in the order of the files; each sees what the ones before it have made. Within one:
 * drop, rename, drop_tags, rename_tags, tags (templates, allow, max_length), max_length, add_tags.
 * The rules, each with its reason, are those of tests/reference/rules.py.
 */
#ifndef PENSTOCK_PLAN_SHAPE_H
#define PENSTOCK_PLAN_SHAPE_H

#include "plan.h"

/* A value that matches becomes the text. */
typedef struct {
    const pattern_t *pattern;
    plan_text_t text;
} shape_template_t;

typedef struct {
    plan_text_t key;
    const shape_template_t *templates;
    uint32_t template_count;
    pattern_list_t allow;  /* empty: any value */
    plan_text_t otherwise; /* empty: the tag goes */
    uint32_t bytes_max;    /* 0: any */
} shape_tag_t;

/* All texts are such as head_text gives them. */
typedef struct {
    pattern_list_t match;
    bool drop;
    plan_text_t rename; /* empty: the measurement stays */
    pattern_list_t drop_tags;
    const plan_pair_t *rename_tags; /* from key to value */
    uint32_t rename_count;
    const shape_tag_t *tags;
    uint32_t tag_count;
    uint32_t bytes_max; /* of any tag's value; 0: any */
    const plan_pair_t *add;
    uint32_t add_count;
} shape_rule_t;

typedef struct {
    plan_index_t index;
    const shape_rule_t *rules;
} shape_t;

/* Cuts a value after the last character that ends within bytes_max. False without room. */
static inline bool shape_cut(head_t *h, head_tag_t *tag, uint32_t bytes_max)
{
    uint32_t n = bytes_max;
    if (bytes_max == 0 || tag->value_length <= bytes_max)
        return true;
    while (n > 0 && (tag->value[n] & 0xC0) == 0x80)
        n--;
    /* A backslash that is the last one now would escape what comes behind the value. */
    const uint8_t *value = head_text(h, tag->value, n);
    if (value == NULL)
        return false;
    head_set(h, tag, value, n);
    return true;
}

static inline bool shape_tag(const shape_tag_t *rule, plan_work_t *w, head_t *h)
{
    head_tag_t *tag = head_find(h, rule->key.p, rule->key.n);
    if (tag == NULL)
        return true;
    for (uint32_t i = 0; i < rule->template_count; i++)
        if (pattern_match(rule->templates[i].pattern, &w->patterns, tag->value, tag->value_length, NULL)) {
            head_set(h, tag, rule->templates[i].text.p, rule->templates[i].text.n);
            break;
        }
    if (rule->allow.wanted + rule->allow.unwanted > 0 && !pattern_wanted(&rule->allow, &w->patterns, tag->value, tag->value_length) &&
        !w->patterns.given_up)
        head_set(h, tag, rule->otherwise.p, rule->otherwise.n);
    return tag->gone || shape_cut(h, tag, rule->bytes_max);
}

/* Gives a tag another key; if there is one of that key already, that one stays and this one goes. */
static inline void shape_rename(head_t *h, plan_pair_t names)
{
    head_tag_t *tag = head_find(h, names.key.p, names.key.n);
    if (tag == NULL || head_is(names.key.p, names.key.n, names.value.p, names.value.n))
        return;
    if (head_find(h, names.value.p, names.value.n) != NULL) {
        tag->gone = true;
    } else {
        tag->key = names.value.p;
        tag->key_length = names.value.n;
    }
    h->changed = true;
}

/* Applies one rule that matches. */
static inline drop_t shape_apply(const shape_rule_t *rule, plan_work_t *w, head_t *h)
{
    if (rule->drop)
        return DROP_DENIED;
    if (rule->rename.n > 0 && !head_is(h->measurement, h->measurement_length, rule->rename.p, rule->rename.n)) {
        h->measurement = rule->rename.p;
        h->measurement_length = rule->rename.n;
        h->changed = true;
    }
    for (uint32_t i = 0; i < h->count; i++)
        if (!h->tags[i].gone && plan_takes(&rule->drop_tags, w, h->tags[i].key, h->tags[i].key_length))
            h->tags[i].gone = h->changed = true;
    for (uint32_t i = 0; i < rule->rename_count; i++)
        shape_rename(h, rule->rename_tags[i]);
    for (uint32_t i = 0; i < rule->tag_count; i++)
        if (!shape_tag(&rule->tags[i], w, h))
            return DROP_KEY_TOO_LONG;
    for (uint32_t i = 0; i < h->count; i++)
        if (!h->tags[i].gone && !shape_cut(h, &h->tags[i], rule->bytes_max))
            return DROP_KEY_TOO_LONG;
    for (uint32_t i = 0; i < rule->add_count; i++) {
        plan_pair_t add = rule->add[i];
        if (head_find(h, add.key.p, add.key.n) == NULL && !head_add(h, add.key.p, add.key.n, add.value.p, add.value.n))
            return DROP_KEY_TOO_LONG;
    }
    return DROP_NONE;
}

/* Applies the rules that match, in their order. */
static inline drop_t shape_all(const shape_t *shape, plan_work_t *w, head_t *h)
{
    plan_search(&shape->index, w, h->measurement, h->measurement_length);
    for (uint32_t i = plan_next(&shape->index, w, 0); i != PLAN_NONE; i = plan_next(&shape->index, w, i + 1)) {
        const shape_rule_t *rule = &shape->rules[i];
        bool matches = pattern_wanted(&rule->match, &w->patterns, h->measurement, h->measurement_length);
        if (!plan_goes_on(w))
            return DROP_NONE;
        if (!matches)
            continue;
        const uint8_t *measurement = h->measurement;
        drop_t reason = shape_apply(rule, w, h);
        plan_tell(w, PLAN_SHAPE, i, h, reason);
        if (reason != DROP_NONE || !plan_goes_on(w))
            return reason;
        if (h->measurement != measurement)
            plan_search(&shape->index, w, h->measurement, h->measurement_length);
    }
    return DROP_NONE;
}

/* Brings a head into its final form; returns why the metric is dropped, or DROP_NONE. h->changed: whether the head is
 * another one than it was when it was read. */
static inline drop_t plan_shape(const shape_t *shape, plan_work_t *w, head_t *h)
{
    drop_t reason = shape->index.prefix_count > 0 ? shape_all(shape, w, h) : DROP_NONE;
    if (h->changed)
        plan_sort(h);
    return reason;
}

#endif
