/* Runs globs and regular expressions that agent/patterns.py has compiled.
 *
 *   web.*.requests    glob of nodes          text       web.eu1.requests
 *                                            capture 1      ^^^
 *
 * A pattern matches all of a text or none of it. All ways through the program are followed at the same time, in the order
 * in which Python's `re` would try them one after the other: the time is at most steps × characters, whatever the
 * pattern, and the captures are those of `re.fullmatch`. What it reads are characters; a byte that is no part of one is
 * one of its own, U+DC80 and up, as Python's "surrogateescape" has it.
 * After Rob Pike's machine, https://swtch.com/~rsc/regexp/regexp2.html
 */
#ifndef PENSTOCK_PATTERN_H
#define PENSTOCK_PATTERN_H

#include <stdlib.h>

#include "port.h"

#define PATTERN_STEPS_MAX 2048u
#define PATTERN_CAPTURES_MAX 16u
#define PATTERN_NONE UINT32_MAX      /* of a capture that took no part */
#define PATTERN_BUDGET UINT64_C(200000) /* steps that the rules may take for one name, all together */

typedef enum {
    PATTERN_CHAR,  /* z: the character */
    PATTERN_CLASS, /* y: number of the class; x: characters from U+0100 are in it, too */
    PATTERN_RANGE, /* x << 16 | y to z: characters */
    PATTERN_ANY,   /* but a line feed */
    PATTERN_ALL,
    PATTERN_SPLIT, /* y first, z then */
    PATTERN_JUMP,  /* z */
    PATTERN_SAVE,  /* y: twice the number of the capture from 0, and 1 at its end */
    PATTERN_BEGIN,
    PATTERN_END, /* of the text, or before a line feed that ends it */
    PATTERN_FOUND,
    PATTERN_OPS,
} pattern_op_t;

/* All numbers are in the byte order of the machine. */
typedef struct {
    uint8_t op, x;
    uint16_t y;
    uint32_t z;
} pattern_step_t;
_Static_assert(sizeof(pattern_step_t) == 8, "as agent/patterns.py packs them");

typedef enum {
    PATTERN_PROGRAM, /* texts that begin with the literal, and for which the program finds an end */
    PATTERN_LITERAL, /* the one text that is the literal */
    PATTERN_PREFIX,  /* every text that begins with the literal */
} pattern_kind_t;

/* Immutable, shared by all threads; what it points at belongs to whoever made it. */
typedef struct {
    const pattern_step_t *steps;
    uint32_t count;
    uint16_t captures;
    uint8_t kind;                 /* pattern_kind_t */
    const uint8_t (*classes)[32]; /* bit c: U+00c is in it */
    uint32_t class_count;
    uint32_t literal_length;
    const uint8_t *literal;
} pattern_t;

/* Bytes of the text that the captures took, from 0; PATTERN_NONE for those that took none. */
typedef struct {
    uint32_t start[PATTERN_CAPTURES_MAX], end[PATTERN_CAPTURES_MAX];
} pattern_found_t;

typedef struct {
    uint32_t step;        /* PATTERN_NONE: put a capture back as it was */
    uint32_t slot, bytes;
} pattern_todo_t;

/* What one thread needs to run patterns; reused. */
typedef struct {
    uint64_t budget;     /* steps that are left; set by the caller before a name's first pattern */
    bool given_up;       /* the budget was used up: what was asked since has no answer. Cleared by the caller */
    uint64_t runs;       /* programs that were run */
    uint32_t generation;
    uint32_t *marks;     /* owned: for each step, the generation that has been there */
    uint32_t *list[2];   /* owned: steps that wait for a character, the preferred one first */
    uint32_t *saved[2];  /* owned: captures of each of them */
    pattern_todo_t *todo; /* owned */
    uint32_t now[2 * PATTERN_CAPTURES_MAX];
} pattern_work_t;

/* Globs of which a text must match one, and others of which it may match none. */
typedef struct {
    const pattern_t *const *patterns; /* first those that are wanted (none: all), then those that are not */
    uint32_t wanted, unwanted;
} pattern_list_t;

/* w: zeroed. False without memory; pattern_close is due either way. */
static inline bool pattern_open(pattern_work_t *w)
{
    w->marks = calloc(PATTERN_STEPS_MAX, sizeof *w->marks);
    w->todo = malloc((2 * PATTERN_STEPS_MAX + 1) * sizeof *w->todo);
    for (uint32_t i = 0; i < 2; i++) {
        w->list[i] = malloc(PATTERN_STEPS_MAX * sizeof *w->list[i]);
        w->saved[i] = malloc(PATTERN_STEPS_MAX * sizeof w->now);
    }
    w->budget = PATTERN_BUDGET;
    return w->marks && w->todo && w->list[0] && w->list[1] && w->saved[0] && w->saved[1];
}

static inline void pattern_close(pattern_work_t *w)
{
    free(w->marks);
    free(w->todo);
    for (uint32_t i = 0; i < 2; i++) {
        free(w->list[i]);
        free(w->saved[i]);
    }
    memset(w, 0, sizeof *w);
}

/* Whether a program can be run: every step and class that it names is there. */
static inline bool pattern_valid(const pattern_t *p)
{
    if (p->count == 0 || p->count > PATTERN_STEPS_MAX || p->captures > PATTERN_CAPTURES_MAX || p->kind > PATTERN_PREFIX)
        return false;
    for (uint32_t i = 0; i < p->count; i++) {
        const pattern_step_t *s = &p->steps[i];
        bool last = s->op == PATTERN_JUMP || s->op == PATTERN_SPLIT || s->op == PATTERN_FOUND;
        if (s->op >= PATTERN_OPS || (!last && i + 1 == p->count) || (s->op == PATTERN_CLASS && s->y >= p->class_count) ||
            ((s->op == PATTERN_JUMP || s->op == PATTERN_SPLIT) && s->z >= p->count) ||
            (s->op == PATTERN_SPLIT && s->y >= p->count) || (s->op == PATTERN_SAVE && s->y >= 2 * p->captures))
            return false;
    }
    return true;
}

/* The character at p; *bytes: its length. */
static inline uint32_t pattern_char(const uint8_t *p, uint32_t n, uint32_t *bytes)
{
    uint8_t lead = *p;
    *bytes = 1;
    if (likely(lead < 0x80))
        return lead;
    uint32_t more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1, c = lead & (0x3Fu >> more);
    if (lead < 0xC2 || lead > 0xF4 || n <= more)
        return 0xDC00u + lead;
    for (uint32_t i = 1; i <= more; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return 0xDC00u + lead;
        c = c << 6 | (p[i] & 0x3F);
    }
    /* Spelled longer than need be, half a pair, or behind the last one. */
    if ((more == 2 && (c < 0x800 || (c >= 0xD800 && c < 0xE000))) || (more == 3 && (c < 0x10000 || c > 0x10FFFF)))
        return 0xDC00u + lead;
    *bytes = more + 1;
    return c;
}

/* Whether a step takes the character. */
static inline bool pattern_takes(const pattern_t *p, const pattern_step_t *s, uint32_t c)
{
    switch (s->op) {
    case PATTERN_CHAR:
        return c == s->z;
    case PATTERN_CLASS:
        return c < 256 ? p->classes[s->y][c >> 3] >> (c & 7) & 1 : s->x;
    case PATTERN_RANGE:
        return c >= ((uint32_t)s->x << 16 | s->y) && c <= s->z;
    case PATTERN_ANY:
        return c != '\n';
    default:
        return s->op == PATTERN_ALL;
    }
}

/* Puts every step that can be reached from `step` without a character into list `to`, which has `count` of them, in the
 * order of preference; what is there already stays where it is. Returns how many there are then. */
static inline uint32_t pattern_follow(const pattern_t *p, pattern_work_t *w, uint32_t to, uint32_t count, uint32_t step,
                                      const uint8_t *text, uint32_t at, uint32_t n)
{
    uint32_t waiting = 1, slots = 2u * p->captures;
    w->todo[0] = (pattern_todo_t){.step = step};
    while (waiting > 0) {
        pattern_todo_t todo = w->todo[--waiting];
        if (todo.step == PATTERN_NONE) {
            w->now[todo.slot] = todo.bytes;
            continue;
        }
        for (step = todo.step; w->marks[step] != w->generation;) {
            const pattern_step_t *s = &p->steps[step];
            w->marks[step] = w->generation;
            w->budget--;
            if (s->op == PATTERN_JUMP) {
                step = s->z;
            } else if (s->op == PATTERN_SPLIT) {
                w->todo[waiting++] = (pattern_todo_t){.step = s->z};
                step = s->y;
            } else if (s->op == PATTERN_SAVE) {
                w->todo[waiting++] = (pattern_todo_t){.step = PATTERN_NONE, .slot = s->y, .bytes = w->now[s->y]};
                w->now[s->y] = at;
                step++;
            } else if (s->op == PATTERN_BEGIN && at == 0) {
                step++;
            } else if (s->op == PATTERN_END && (at == n || (at + 1 == n && text[at] == '\n'))) {
                step++;
            } else {
                if (s->op != PATTERN_BEGIN && s->op != PATTERN_END) {
                    w->list[to][count] = step;
                    memcpy(w->saved[to] + count * slots, w->now, slots * sizeof *w->now);
                    count++;
                }
                break;
            }
        }
    }
    return count;
}

static inline void pattern_next_generation(pattern_work_t *w)
{
    if (++w->generation == 0) {
        memset(w->marks, 0, PATTERN_STEPS_MAX * sizeof *w->marks);
        w->generation = 1;
    }
}

/* Runs the program. False if it does not match, or if the budget was used up (w->given_up). */
static inline bool pattern_run(const pattern_t *p, pattern_work_t *w, const uint8_t *text, uint32_t n, pattern_found_t *found)
{
    uint32_t from = 0, slots = 2u * p->captures, bytes;
    w->runs++;
    memset(w->now, 0xFF, sizeof w->now);
    pattern_next_generation(w);
    uint32_t count = pattern_follow(p, w, from, 0, 0, text, 0, n);
    for (uint32_t at = 0; at < n && count > 0; at += bytes, from ^= 1) {
        /* A character costs each step twice at most, so the budget does not go below zero. */
        if (unlikely(w->budget < 2 * p->count)) {
            w->given_up = true;
            return false;
        }
        uint32_t c = pattern_char(text + at, n - at, &bytes), next = 0;
        pattern_next_generation(w);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t step = w->list[from][i];
            w->budget--;
            if (!pattern_takes(p, &p->steps[step], c))
                continue;
            memcpy(w->now, w->saved[from] + i * slots, slots * sizeof *w->now);
            next = pattern_follow(p, w, from ^ 1, next, step + 1, text, at + bytes, n);
        }
        count = next;
    }
    for (uint32_t i = 0; i < count; i++)
        if (p->steps[w->list[from][i]].op == PATTERN_FOUND) {
            const uint32_t *saved = w->saved[from] + i * slots;
            for (uint32_t k = 0; found != NULL && k < p->captures; k++) {
                bool whole = saved[2 * k] != PATTERN_NONE && saved[2 * k + 1] != PATTERN_NONE;
                found->start[k] = whole ? saved[2 * k] : PATTERN_NONE;
                found->end[k] = whole ? saved[2 * k + 1] : PATTERN_NONE;
            }
            return true;
        }
    return false;
}

/* Whether the pattern matches all of text[0..n). found: may be NULL; of patterns without captures nothing is written. */
static inline bool pattern_match(const pattern_t *p, pattern_work_t *w, const uint8_t *text, uint32_t n, pattern_found_t *found)
{
    if (n < p->literal_length || (p->literal_length > 0 && memcmp(text, p->literal, p->literal_length) != 0))
        return false;
    if (p->kind != PATTERN_PROGRAM)
        return p->kind == PATTERN_PREFIX || n == p->literal_length;
    if (unlikely(w->budget < 2 * p->count))
        w->given_up = true;
    return !w->given_up && pattern_run(p, w, text, n, found);
}

/* Whether one of the patterns in [first, last) matches. */
static inline bool pattern_any(const pattern_list_t *l, uint32_t first, uint32_t last, pattern_work_t *w, const uint8_t *text,
                               uint32_t n)
{
    for (uint32_t i = first; i < last; i++)
        if (pattern_match(l->patterns[i], w, text, n, NULL))
            return true;
    return false;
}

/* Whether a list of globs takes the text. */
static inline bool pattern_wanted(const pattern_list_t *l, pattern_work_t *w, const uint8_t *text, uint32_t n)
{
    return (l->wanted == 0 || pattern_any(l, 0, l->wanted, w, text, n)) &&
           !pattern_any(l, l->wanted, l->wanted + l->unwanted, w, text, n);
}

#endif
