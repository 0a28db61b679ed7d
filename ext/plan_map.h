/* [[map]]: names of StatsD and Graphite, taken apart into measurement, tags and field.
 *
 *   match = "web.*.requests.*"          web.eu1.requests.200
 *   measurement = "requests"                ^^^          ^^^
 *   tags = { host = "$1", code = "$2" }      $1           $2     ─▶  requests,host=eu1,code=200
 *
 * The first rule that matches counts. What it says is put together of pieces: texts of the rule, captures, nodes of the
 * name, and all nodes from one on with a text between them, as Telegraf's templates have them.
 */
#ifndef PENSTOCK_PLAN_MAP_H
#define PENSTOCK_PLAN_MAP_H

#include "plan_shape.h"
#include "utf8.h"

#define MAP_NODES_MAX 64u
#define MAP_TEXT_BYTES 65536u /* of what a rule puts together */

typedef enum { MAP_TEXT, MAP_CAPTURE, MAP_NODE, MAP_REST } map_piece_kind_t;

typedef struct {
    uint8_t kind;
    uint8_t number;   /* of the capture, or of the node, from 0 */
    bool joined;      /* stands behind others with the rule's `join` between them, if they are not empty */
    plan_text_t text; /* of MAP_TEXT */
} map_piece_t;

typedef struct {
    const map_piece_t *pieces;
    uint32_t count;
} map_form_t;

typedef struct {
    plan_text_t key;
    map_form_t value;
} map_tag_t;

typedef struct {
    const pattern_t *pattern;
    uint64_t listeners; /* a bit for each */
    uint8_t types;      /* of StatsD, a bit for each */
    bool drop;
    bool nodes;       /* it has pieces that are nodes */
    plan_text_t join; /* between nodes */
    map_form_t measurement, field;
    const map_tag_t *tags;
    uint32_t tag_count;
} map_rule_t;

typedef struct {
    plan_index_t index;
    const map_rule_t *rules;
} map_t;

/* A name, and what stands in it. */
typedef struct {
    const uint8_t *p;
    uint32_t n;
    pattern_found_t found;
    uint32_t node_count;
    uint32_t start[MAP_NODES_MAX + 1]; /* of each node; behind the last one, one more than its end */
} map_name_t;

static inline void map_split(map_name_t *name)
{
    uint32_t at = 0;
    for (name->node_count = 0; name->node_count < MAP_NODES_MAX; name->node_count++) {
        name->start[name->node_count] = at;
        const uint8_t *dot = at <= name->n ? memchr(name->p + at, '.', name->n - at) : NULL;
        at = dot ? (uint32_t)(dot - name->p) + 1 : name->n + 1;
        if (dot == NULL) {
            name->node_count++;
            break;
        }
    }
    name->start[name->node_count] = at;
}

/* Adds bytes behind the n of `to`; false if there is no room for them. */
static inline bool map_put(uint8_t *to, uint32_t *n, const uint8_t *p, uint32_t length)
{
    if (length > MAP_TEXT_BYTES - *n)
        return false;
    memcpy(to + *n, p, length);
    *n += length;
    return true;
}

/* Puts a piece behind the n bytes of `to`. */
static inline bool map_piece(const map_rule_t *rule, const map_piece_t *piece, const map_name_t *name, uint8_t *to, uint32_t *n)
{
    if (piece->kind == MAP_TEXT)
        return map_put(to, n, piece->text.p, piece->text.n);
    if (piece->kind == MAP_CAPTURE) {
        uint32_t start = name->found.start[piece->number];
        return start == PATTERN_NONE || map_put(to, n, name->p + start, name->found.end[piece->number] - start);
    }
    if (piece->number >= name->node_count)
        return true;
    uint32_t at = name->start[piece->number];
    uint32_t end = piece->kind == MAP_REST ? name->n : name->start[piece->number + 1] - 1;
    if (piece->joined && !map_put(to, n, rule->join.p, rule->join.n))
        return false;
    for (;;) {
        const uint8_t *dot = memchr(name->p + at, '.', end - at);
        uint32_t stop = dot ? (uint32_t)(dot - name->p) : end;
        if (!map_put(to, n, name->p + at, stop - at))
            return false;
        if (stop == end)
            return true;
        if (!map_put(to, n, rule->join.p, rule->join.n))
            return false;
        at = stop + 1;
    }
}

/* What the form makes of a name, as it may stand in a head: *text of *n bytes, perhaps none. */
static inline drop_t map_form(const map_rule_t *rule, const map_form_t *form, const map_name_t *name, head_t *h, const uint8_t **text,
                              uint32_t *n)
{
    *n = 0;
    *text = NULL;
    if (form->count == 0)
        return DROP_NONE;
    if (h->text_room - h->used < MAP_TEXT_BYTES + 1)
        return DROP_KEY_TOO_LONG;
    uint8_t *to = h->text + h->used; /* which is where head_text puts it, too */
    for (uint32_t i = 0; i < form->count; i++)
        if (!map_piece(rule, &form->pieces[i], name, to, n))
            return DROP_KEY_TOO_LONG;
    if (!utf8_valid(to, *n))
        return DROP_UTF8;
    *text = head_text(h, to, *n);
    return *text != NULL ? DROP_NONE : DROP_KEY_TOO_LONG;
}

static inline drop_t map_measurement(const map_rule_t *rule, const map_name_t *name, head_t *h)
{
    const uint8_t *text;
    uint32_t n;
    drop_t reason = map_form(rule, &rule->measurement, name, h, &text, &n);
    if (reason != DROP_NONE || n == 0)
        return reason;
    if (*text == '#') /* the line would be a comment */
        h->text[text - h->text] = '_';
    h->changed |= !head_is(h->measurement, h->measurement_length, text, n);
    h->measurement = text;
    h->measurement_length = n;
    return DROP_NONE;
}

static inline drop_t map_field(const map_rule_t *rule, const map_name_t *name, head_t *h)
{
    uint32_t n;
    drop_t reason = map_form(rule, &rule->field, name, h, &h->field, &n);
    if (reason != DROP_NONE || n == 0)
        return reason;
    if (head_is(h->field, n, (const uint8_t *)"time", 4)) { /* which InfluxDB reserves; the text is the last one of the head's */
        h->text[h->used++] = '_';
        n++;
    }
    h->field_length = n;
    h->changed = true;
    return DROP_NONE;
}

static inline drop_t map_apply(const map_rule_t *rule, const map_name_t *name, head_t *h)
{
    const uint8_t *text;
    uint32_t n;
    drop_t reason = map_measurement(rule, name, h);
    for (uint32_t i = 0; i < rule->tag_count && reason == DROP_NONE; i++) {
        plan_text_t key = rule->tags[i].key;
        if (head_find(h, key.p, key.n) != NULL)
            continue;
        reason = map_form(rule, &rule->tags[i].value, name, h, &text, &n);
        if (reason == DROP_NONE && !head_add(h, key.p, key.n, text, n))
            reason = DROP_KEY_TOO_LONG;
    }
    return reason != DROP_NONE ? reason : map_field(rule, name, h);
}

/* Applies the first rule that matches a name to its head, which is as it would be without a rule. type: a bit of StatsD's
 * types, or 0. *mapped: whether there is such a rule. Returns why the metric is dropped, or DROP_NONE. */
static inline drop_t plan_map(const map_t *map, plan_work_t *w, uint32_t listener, uint8_t type, const uint8_t *p, uint32_t n, head_t *h,
                              bool *mapped)
{
    map_name_t name = {.p = p, .n = n};
    *mapped = false;
    if (map->index.prefix_count == 0)
        return DROP_NONE;
    plan_search(&map->index, w, p, n);
    for (uint32_t i = plan_next(&map->index, w, 0); i != PLAN_NONE; i = plan_next(&map->index, w, i + 1)) {
        const map_rule_t *rule = &map->rules[i];
        if (!(rule->listeners >> listener & 1) || (type != 0 && !(rule->types & type)))
            continue;
        bool matches = pattern_match(rule->pattern, &w->patterns, p, n, &name.found);
        if (!plan_goes_on(w))
            break;
        if (!matches)
            continue;
        *mapped = true;
        if (rule->nodes)
            map_split(&name);
        drop_t reason = rule->drop ? DROP_DENIED : map_apply(rule, &name, h);
        plan_tell(w, PLAN_MAP, i, h, reason);
        return reason;
    }
    return DROP_NONE;
}

/* All rules, shared by all writers. What they point at belongs to whoever made them. */
typedef struct {
    map_t map;
    shape_t shape;
} plan_rules_t;

#endif
