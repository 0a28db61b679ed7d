/* Reads Graphite's plaintext protocol.
 *
 *   servers.web1.cpu;dc=eu1;rack=r1 12.5 1700000000 LF
 *   ^^^^^^^^^^^^^^^^                                     path: nodes with dots between them
 *                   ^^^^^^^^^^^^^^^                      tags
 *                                   ^^^^ ^^^^^^^^^^      value, and time in seconds; none or -1 is "now"
 *
 * https://graphite.readthedocs.io/en/latest/feeding-carbon.html
 * https://github.com/influxdata/telegraf/blob/master/docs/TEMPLATE_PATTERN.md
 *
 * The last two words of a line are value and time, and what stands before them is the path, spaces included; of two
 * words the second is the value. Without a template the path is the measurement, as it stands, and the field is `value`.
 * The rules, each with its reason, are those of tests/reference/graphite.py.
 */
#ifndef PENSTOCK_GRAPHITE_H
#define PENSTOCK_GRAPHITE_H

#include "foreign.h"
#include "guard_map.h"

#define GRAPHITE_NODES_MAX 64u /* nodes of a filter, and parts of a template */
#define GRAPHITE_JOIN_MAX 8u
#define GRAPHITE_TEXT_MAX 4096u /* bytes of a tag's key, and of its constant value */
#define GRAPHITE_NONE UINT32_MAX

/* ---- templates ---- */

/* A run of bytes in graphite_t.text. */
typedef struct {
    uint32_t at, length;
} graphite_text_t;

/* What becomes of some nodes: they are joined, in this order. */
typedef struct {
    graphite_text_t key;      /* of a tag */
    graphite_text_t constant; /* of a tag: joined before the nodes */
    uint8_t node[GRAPHITE_NODES_MAX];
    uint8_t node_count;
    bool rest; /* the last node stands for all from there on */
} graphite_part_t;

typedef struct {
    graphite_part_t measurement, field;
    uint32_t tag_first, tag_count; /* in graphite_t.tags */
} graphite_template_t;

/* A node of the filters: its children stand one behind the other, sorted by length, then bytes. */
typedef struct {
    graphite_text_t text;
    uint32_t child_first, child_count;
    uint32_t star;     /* the child `*`, or GRAPHITE_NONE */
    uint32_t template; /* the one whose filter ends here, or GRAPHITE_NONE */
} graphite_filter_t;

/* Compiled templates; not written to while anybody reads. */
typedef struct {
    graphite_template_t *templates; /* owned, as all that follows */
    graphite_part_t *tags;
    graphite_filter_t *filters; /* the first one is the root; NULL: no template has a filter */
    uint8_t *text;              /* PORT_PADDING readable behind it */
    uint32_t by_default;        /* template of paths that no filter takes, or GRAPHITE_NONE */
    uint32_t depth;             /* nodes of the longest filter */
    uint8_t join[GRAPHITE_JOIN_MAX];
    uint32_t join_length;
} graphite_t;

static inline void graphite_free(graphite_t *g)
{
    if (g == NULL)
        return;
    free(g->templates);
    free(g->tags);
    free(g->filters);
    free(g->text);
    free(g);
}

/* A path, and where its first nodes begin and end: [start[i], start[i + 1] - 1). */
typedef struct {
    const uint8_t *p;
    uint32_t n, count;
    uint32_t start[GRAPHITE_NODES_MAX + 1];
} graphite_path_t;

static inline void graphite_split(graphite_path_t *path)
{
    uint32_t at = 0;
    for (path->count = 0; path->count < GRAPHITE_NODES_MAX; path->count++) {
        path->start[path->count] = at;
        const uint8_t *dot = at <= path->n ? memchr(path->p + at, '.', path->n - at) : NULL;
        at = dot ? (uint32_t)(dot - path->p) + 1 : path->n + 1;
        if (dot == NULL) {
            path->count++;
            break;
        }
    }
    path->start[path->count] = at;
}

/* The child of f that a node is, or GRAPHITE_NONE. */
static inline uint32_t graphite_child(const graphite_t *g, const graphite_filter_t *f, const uint8_t *p, uint32_t n)
{
    uint32_t low = f->child_first, high = low + f->child_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        graphite_text_t text = g->filters[middle].text;
        int order = text.length < n ? -1 : text.length > n ? 1 : memcmp(g->text + text.at, p, n);
        if (order == 0)
            return middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return GRAPHITE_NONE;
}

/* The template of the most special filter below f that the path begins with: a node by its name goes before `*`, and
 * further left counts more. Each filter is looked at once at most; the recursion is as deep as the longest filter. */
static uint32_t graphite_search(const graphite_t *g, uint32_t f, const graphite_path_t *path, uint32_t depth)
{
    const graphite_filter_t *filter = &g->filters[f];
    if (depth < path->count) {
        uint32_t start = path->start[depth], n = path->start[depth + 1] - 1 - start, found;
        uint32_t child = graphite_child(g, filter, path->p + start, n);
        if (child != GRAPHITE_NONE && (found = graphite_search(g, child, path, depth + 1)) != GRAPHITE_NONE)
            return found;
        if (filter->star != GRAPHITE_NONE && (found = graphite_search(g, filter->star, path, depth + 1)) != GRAPHITE_NONE)
            return found;
    }
    return filter->template;
}

/* Puts what a part says together at `to`, FOREIGN_TEXT_MAX bytes at most; returns its length, or that limit plus one. */
static inline uint32_t graphite_join(const graphite_t *g, const graphite_part_t *part, const graphite_path_t *path, uint8_t *to)
{
    uint32_t length = part->constant.length;
    bool first = length == 0;
    memcpy(to, g->text + part->constant.at, length);
    for (uint32_t k = 0; k < part->node_count; k++) {
        uint32_t node = part->node[k];
        if (node >= path->count)
            break;
        const uint8_t *p = path->p + path->start[node], *end = path->p + path->start[node + 1] - 1;
        const uint8_t *last = part->rest && k + 1 == part->node_count ? path->p + path->n : end;
        for (;; p = end + 1, end = memchr(p, '.', (size_t)(last - p)), end = end ? end : last) {
            uint32_t n = (uint32_t)(end - p);
            if (length + g->join_length + n > FOREIGN_TEXT_MAX)
                return FOREIGN_TEXT_MAX + 1;
            if (!first) {
                memcpy(to + length, g->join, g->join_length);
                length += g->join_length;
            }
            first = false;
            memcpy(to + length, p, n);
            length += n;
            if (end == last)
                break;
        }
    }
    return length;
}

/* ---- a line ---- */

/* What stands between words; a CR at the end of a line too. */
static inline bool graphite_blank(uint8_t byte)
{
    return byte == ' ' || (byte >= 9 && byte <= 13 && byte != 10);
}

/* The value as it is to be written, at *to. */
static inline drop_t graphite_value(const uint8_t *p, uint32_t n, uint8_t **to)
{
    if (likely(n <= 24 && line_value_plain(p, n) && (uint8_t)(p[n - 1] - '0') <= 9)) {
        memcpy(*to, p, 24);
        *to += n;
        return DROP_NONE;
    }
    bool plus = *p == '+' && n > 1 && p[1] != '-';
    return line_read_float(p + plus, n - plus, to);
}

/* Nanoseconds of a decimal number of units, of 10^zeros ns each, cut towards zero. *exact: nothing was cut. */
static inline drop_t graphite_time(const uint8_t *p, uint32_t n, uint32_t zeros, int64_t *ns, bool *exact)
{
    bool plus = *p == '+' && n > 1 && p[1] != '-', negative = *p == '-';
    p += plus;
    n -= plus;
    if (num_check_float(p, n) == NUM_BAD)
        return DROP_TIMESTAMP;
    uint32_t end = negative, point = UINT32_MAX; /* of the digits; where the point stands */
    for (; end < n && p[end] != 'e' && p[end] != 'E'; end++)
        if (p[end] == '.')
            point = end;
    int64_t exponent = 0;
    bool small = end + 1 < n && p[end + 1] == '-';
    for (uint32_t i = end + 1; i < n && exponent < 1000000; i++)
        if ((uint8_t)(p[i] - '0') <= 9)
            exponent = exponent * 10 + (p[i] - '0');
    int64_t before = (int64_t)(point == UINT32_MAX ? end : point) - negative; /* digits before the point */
    int64_t kept = before + (small ? -exponent : exponent) + zeros;           /* digits that make nanoseconds */
    uint64_t value = 0;
    *exact = true;
    for (uint32_t i = negative; i < end; i++) {
        if (p[i] == '.')
            continue;
        uint32_t digit = (uint32_t)p[i] - '0';
        if (kept-- <= 0)
            *exact &= digit == 0;
        else if (__builtin_mul_overflow(value, (uint64_t)10, &value) || __builtin_add_overflow(value, (uint64_t)digit, &value))
            return DROP_TIMESTAMP_RANGE;
    }
    for (; kept > 0 && value != 0; kept--)
        if (__builtin_mul_overflow(value, (uint64_t)10, &value))
            return DROP_TIMESTAMP_RANGE;
    if (value > (uint64_t)LINE_TIME_MAX)
        return DROP_TIMESTAMP_RANGE;
    *ns = negative ? -(int64_t)value : (int64_t)value;
    return DROP_NONE;
}

/* The time of a line, if it says one. */
static inline drop_t graphite_set_time(foreign_t *s, line_t *l, const uint8_t *p, uint32_t n)
{
    uint32_t zeros = s->reader->precision <= LINE_S ? s->reader->precision : LINE_S;
    if (likely(n > 0 && n + zeros <= 19 && *p != '0' && !(n + zeros == 19 && *p == '9') && num_all_digits(p, n))) {
        l->time = p;
        l->time_length = n;
        l->time_zeros = zeros;
        return DROP_NONE;
    }
    if (n == 0)
        return DROP_NONE;
    static const int64_t units[10] = {[LINE_NS] = 1, [LINE_US] = 1000, [LINE_MS] = 1000000, [LINE_S] = 1000000000};
    int64_t ns = 0;
    bool exact = true;
    drop_t reason = graphite_time(p, n, zeros, &ns, &exact);
    if (reason != DROP_NONE || (exact && ns == -units[zeros]))
        return reason;
    return foreign_time(s, l, ns, 0) ? DROP_NONE : DROP_TIMESTAMP_RANGE;
}

/* Tags behind the path: `;key=value`, one behind the other. Those without a key or a value are left out. */
static inline void graphite_tags(foreign_t *s, const uint8_t *p, const uint8_t *end)
{
    while (p < end) {
        const uint8_t *semicolon = memchr(p, ';', (size_t)(end - p)), *stop = semicolon ? semicolon : end;
        const uint8_t *equals = memchr(p, '=', (size_t)(stop - p));
        if (equals != NULL)
            foreign_tag(s, p, (uint32_t)(equals - p), equals + 1, (uint32_t)(stop - equals - 1), true);
        p = stop + 1;
    }
}

/* Measurement, field and tags of a path by a template. The field's escaped key goes to *to. */
static inline void graphite_apply(const graphite_t *g, const graphite_template_t *t, const graphite_path_t *path, foreign_t *s,
                                  uint8_t **to)
{
    uint8_t *work = s->text + 2 * FOREIGN_TEXT_MAX;
    const uint8_t *limit = s->limit;
    s->limit = s->text + FOREIGN_TEXT_BYTES;
    uint32_t n = graphite_join(g, &t->measurement, path, work);
    if (n > 0)
        foreign_measurement(s, work, n);
    for (uint32_t i = 0; i < t->tag_count; i++) {
        const graphite_part_t *tag = &g->tags[t->tag_first + i];
        uint32_t key = tag->key.length;
        memcpy(work, g->text + tag->key.at, key);
        n = graphite_join(g, tag, path, work + key);
        foreign_tag(s, work, key, work + key, n, true);
    }
    n = graphite_join(g, &t->field, path, work);
    if (n > FOREIGN_TEXT_MAX / 2) {
        foreign_wrong(s, DROP_KEY_TOO_LONG);
    } else if (n > 0) {
        uint8_t *key = *to;
        *to = foreign_escape(s, key, work, n, FOREIGN_KEY);
        if (*to - key == 4 && memcmp(key, "time", 4) == 0) {
            *(*to)++ = '_';
            s->rewritten = true;
        }
    }
    s->limit = limit;
}

/* Series, and the key of the field at *to, of path and tags at [p, end). */
static inline void graphite_series(const graphite_t *g, foreign_t *s, const uint8_t *p, const uint8_t *end, uint8_t **to)
{
    const uint8_t *semicolon = memchr(p, ';', (size_t)(end - p));
    graphite_path_t path = {.p = p, .n = (uint32_t)((semicolon ? semicolon : end) - p)};
    uint8_t *key = *to;
    foreign_begin(s);
    uint32_t template = GRAPHITE_NONE;
    if (path.n > 0 && g->templates != NULL) {
        graphite_split(&path);
        if (g->filters != NULL)
            template = graphite_search(g, 0, &path, 0);
        if (template == GRAPHITE_NONE)
            template = g->by_default;
    }
    if (template != GRAPHITE_NONE)
        graphite_apply(g, &g->templates[template], &path, s, to);
    if (s->head == s->tags)
        foreign_measurement(s, p, path.n);
    if (*to == key) {
        memcpy(*to, "value", 5);
        *to += 5;
    }
    if (semicolon != NULL)
        graphite_tags(s, semicolon + 1, end);
}

/* Asks [[map]] about path and tags at [p, p + n). False if no rule matches; else found->text is the head, the name of the
 * field behind it, or found->reason says why the metric is dropped. */
static __attribute__((noinline)) bool graphite_mapped(const graphite_t *g, foreign_t *s, const uint8_t *p, uint32_t n, guarded_t *found)
{
    line_reader_t *c = s->reader;
    guard_name_t name = {p, n, c->listener, 0};
    uint64_t hash;
    if (!guard_name_known(c->guard, &name, c->tags, &hash, found)) {
        line_t l;
        uint8_t *field = s->text, *to = field;
        graphite_series(g, s, p, p + n, &to);
        if (foreign_line(s, &l, 0) != DROP_NONE)
            return false; /* told when it is read as without rules */
        const uint8_t *semicolon = memchr(p, ';', n);
        name.n = semicolon ? (uint32_t)(semicolon - p) : n;
        guard_name_decide(c->guard, &name, c->tags, hash, l.series, l.series_length, field, (uint32_t)(to - field), found);
    }
    return found->text != NULL || found->reason != DROP_NONE;
}

/* Makes the head of a line of a mapped name, and puts the name of its field at *to. A copy: what the guard has may go. */
static inline void graphite_mapped_line(foreign_t *s, const guarded_t *found, line_t *l, uint8_t **to)
{
    uint32_t head = guard_head_length(found->text, found->text_length), field = found->text_length - head - 1;
    memcpy(s->tags, found->text, head);
    memset(s->tags + head, 0, PORT_PADDING);
    memcpy(*to, found->text + head + 1, field);
    *to += field;
    /* Field by field, as in foreign_line. */
    l->series = s->tags;
    l->series_length = head;
    l->extra = l->time = NULL;
    l->extra_length = l->time_length = l->time_zeros = l->clamped = 0;
    l->joined = false;
    l->marks = NULL;
    l->mark_base = NULL;
}

/* A line without its LF and the blanks around it; n > 0. */
static inline drop_t graphite_line(const graphite_t *g, foreign_t *s, const uint8_t *p, uint32_t n, line_counts_t *counts)
{
    uint32_t word[2], word_end[2]; /* the last word, and the one before it */
    uint32_t at = n;
    for (uint32_t k = 0; k < 2; k++) {
        word_end[k] = at;
        while (at > 0 && !graphite_blank(p[at - 1]))
            at--;
        word[k] = at;
        while (at > 0 && graphite_blank(p[at - 1]))
            at--;
        if (at == 0)
            break;
    }
    if (word[0] == 0)
        return DROP_VALUE; /* one word */
    bool timed = at > 0; /* something stands before the last two */
    uint32_t value = timed ? word[1] : word[0], value_end = timed ? word_end[1] : word_end[0];
    uint32_t path_end = timed ? at : word_end[1];
    if (path_end > FOREIGN_TEXT_MAX)
        return DROP_KEY_TOO_LONG;
    uint8_t *fields = s->text, *to = fields;
    line_t l;
    guarded_t found;
    bool mapped = unlikely(guard_maps(s->reader->guard)) && graphite_mapped(g, s, p, path_end, &found);
    if (unlikely(mapped)) {
        if (found.reason != DROP_NONE) {
            line_drop(counts, found.reason, 1);
            return DROP_NONE;
        }
        s->rewritten = false;
        graphite_mapped_line(s, &found, &l, &to);
    } else {
        graphite_series(g, s, p, p + path_end, &to);
    }
    uint32_t key = (uint32_t)(to - fields);
    *to++ = '=';
    uint8_t *text = to;
    if (value_end - value > FOREIGN_TEXT_MAX / 2)
        return DROP_NUMBER;
    drop_t reason = graphite_value(p + value, value_end - value, &to);
    if (reason != DROP_NONE)
        return reason;
    s->rewritten |= (uint32_t)(to - text) != value_end - value;
    l.rewritten = s->rewritten;
    if (!mapped && (reason = foreign_line(s, &l, key)) != DROP_NONE)
        return reason;
    if (timed && (reason = graphite_set_time(s, &l, p + word[0], word_end[0] - word[0])) != DROP_NONE)
        return reason;
    foreign_fields(&l, fields, (uint32_t)(to - fields));
    uint64_t accepted = counts->accepted, shaped = counts->shaped;
    line_emit(s->reader, &l, counts);
    if (mapped && counts->shaped == shaped)
        counts->shaped += counts->accepted - accepted;
    return DROP_NONE;
}

/* Reads the lines of text[0..n). PORT_PADDING more are readable. g: shared, read only. */
static __attribute__((noinline)) void graphite_read(const graphite_t *g, line_reader_t *c, const uint8_t *text, uint32_t n, line_counts_t *counts)
{
    foreign_t s;
    bool memory = foreign_open(&s, c, text + n + PORT_PADDING);
    const uint8_t *p = text, *end = text + n;
    while (p < end) {
        const uint8_t *lf = memchr(p, '\n', (size_t)(end - p)), *stop = lf ? lf : end, *start = p;
        uint32_t length = (uint32_t)(stop - p);
        while (p < stop && graphite_blank(*p))
            p++;
        const uint8_t *last = stop;
        while (last > p && graphite_blank(last[-1]))
            last--;
        if (last > p) {
            counts->received++;
            drop_t reason = !memory || length > c->line_bytes_max ? DROP_LINE_TOO_LONG
                                                                  : graphite_line(g, &s, p, (uint32_t)(last - p), counts);
            if (unlikely(reason != DROP_NONE))
                line_refuse(c, start, length, reason, counts);
        }
        p = stop + 1;
    }
}

#endif
