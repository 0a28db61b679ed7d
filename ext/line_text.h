/* The text of one line from its first byte on: where its parts end, also those of a line that is dropped.
 *
 * Terms: a blank is a space, tab or NUL; a separator is a space or tab, followed by any blanks. A line's text ends
 * at LF or CR LF. Behind the last byte of the input stands a LF that the caller has put there, so a walk that
 * stops at the line's end stays inside.
 */
#ifndef PENSTOCK_LINE_TEXT_H
#define PENSTOCK_LINE_TEXT_H

#include "line.h"
#include "utf8.h"

typedef enum { NAME_MEASUREMENT, NAME_TAG, NAME_FIELD } line_name_t;

/* The text of one datagram from the line's first byte on: p[0..n), and a LF at p[n]. Borrowed. */
typedef struct {
    const uint8_t *p;
    uint32_t n;
} line_text_t;

static inline bool line_ends(line_text_t t, uint32_t at)
{
    return t.p[at] == '\n' || (t.p[at] == '\r' && t.p[at + 1] == '\n' && at < t.n);
}

static inline bool line_separates(line_text_t t, uint32_t at)
{
    return t.p[at] == ' ' || t.p[at] == '\t';
}

static inline uint32_t line_skip_blanks(line_text_t t, uint32_t at)
{
    while (at < t.n && (t.p[at] == ' ' || t.p[at] == '\t' || t.p[at] == 0))
        at++;
    return at;
}

/* The first LF at or behind `at`: always there, at t.n at the latest. */
static inline uint32_t line_feed(line_text_t t, uint32_t at)
{
    const uint8_t *lf = memchr(t.p + at, '\n', t.n - at);
    return lf ? (uint32_t)(lf - t.p) : t.n;
}

static inline bool line_escapable(uint8_t byte)
{
    return byte == ',' || byte == '=' || byte == ' ';
}

/* ---- names ---- */

/* Walks over a measurement, tag key, tag value or field key; *at is left behind it.
 *
 *   a\ b,  a backslash escapes the byte behind it if that could end the name
 *    ^^
 *   a\xb   anywhere else it is an ordinary byte, even before a second backslash
 *
 * *even is set if an escaped byte stands behind an even number of backslashes (`\\,`), *even_space if it is a
 * space: some versions take backslashes by pairs there. */
static inline drop_t line_walk_name(line_text_t t, uint32_t *at, line_name_t kind, bool *even, bool *even_space)
{
    uint32_t i = *at;
    for (;; i++) {
        uint8_t byte = t.p[i];
        if (byte == ',' || (byte == '=' && kind != NAME_MEASUREMENT) || line_separates(t, i) || line_ends(t, i))
            break;
        if (byte == '\\') {
            uint8_t next = t.p[i + 1];
            if (line_escapable(next) && (next != '=' || kind != NAME_MEASUREMENT)) {
                uint32_t run = 1;
                while (run <= i && t.p[i - run] == '\\' && i - run >= *at)
                    run++;
                if (run % 2 == 0) {
                    *even = true;
                    *even_space |= next == ' ';
                }
                i++;
                continue;
            }
            bool ambiguous = (next == '"' && kind != NAME_TAG) || (next == '=' && kind == NAME_MEASUREMENT);
            if (ambiguous || next == '\t' || line_ends(t, i + 1))
                return DROP_BACKSLASH;
        }
        if (byte < 0x20 || byte == 0x7F)
            return DROP_CONTROL_CHARACTER;
    }
    *at = i;
    return DROP_NONE;
}

/* ---- where a line ends ---- */

#define LINE_OPEN UINT32_MAX /* not known yet */

/* How far the search for a line's end has come: in which part of the line it is. */
typedef enum { LINE_AT_START, LINE_AT_KEY, LINE_AT_VALUE, LINE_IN_STRING, LINE_IN_PLAIN, LINE_BEHIND_VALUE, LINE_IN_REST } line_part_t;

/* All zero at the start of a line. */
typedef struct {
    uint32_t at;    /* what is before has been looked at */
    uint32_t first; /* the first LF, once the part is not LINE_AT_START */
    line_part_t part;
} line_end_t;

/* Leaves the head of a line, which has no LF. False if nothing but the first LF can be its end. */
static inline bool line_end_head(line_end_t *e, const uint8_t *p, uint32_t first)
{
    line_text_t t = {p, first};
    uint32_t at = line_skip_blanks(t, 0);
    if (p[at] == '#' || memchr(p + at, '"', first - at) == NULL)
        return false;
    for (; !line_separates(t, at); at += p[at] == '\\' && line_escapable(p[at + 1]) ? 2 : 1)
        if (at >= first)
            return false;
    e->first = first;
    e->at = line_skip_blanks(t, at);
    e->part = LINE_AT_KEY;
    return true;
}

/* Looks on for the end of the line that p[0..n) begins with: its LF, or n where the text ends, or LINE_OPEN if that
 * depends on what comes behind, unless `last`: then nothing comes. Goes on where the call before stopped, which saw a
 * beginning of the same text; so each byte is looked at once.
 *
 * A line ends at its first LF, so that an unterminated quote never costs the lines behind it. Only where it has the
 * plain shape of head, fields and rest, with each string closed and followed by a comma, a separator or the line's end,
 * does it end behind its strings: what stands inside of them, which anybody may have written, never becomes a line of
 * its own, not even where another field is malformed. */
static inline uint32_t line_end_find(line_end_t *e, const uint8_t *p, uint32_t n, bool last)
{
    if (e->part == LINE_AT_START) {
        const uint8_t *lf = memchr(p + e->at, '\n', n - e->at);
        if (lf == NULL && !last) {
            e->at = n;
            return LINE_OPEN;
        }
        uint32_t first = lf ? (uint32_t)(lf - p) : n;
        if (!line_end_head(e, p, first))
            return first;
    }
    for (; e->at < n; e->at++) {
        uint8_t byte = p[e->at];
        bool known = e->at + 1 < n; /* the byte behind it */
        uint8_t next = known ? p[e->at + 1] : '\n';
        if (!known && !last && (byte == '\\' || byte == '\r'))
            return LINE_OPEN;
        bool ends = byte == '\n' || (byte == '\r' && next == '\n'), separates = byte == ' ' || byte == '\t';
        if (e->part == LINE_AT_VALUE) {
            e->part = byte == '"' ? LINE_IN_STRING : LINE_IN_PLAIN;
            if (byte == '"')
                continue;
        }
        switch (e->part) {
        case LINE_AT_KEY:
            if (byte == '=')
                e->part = LINE_AT_VALUE;
            else if (byte == ',' || separates || ends)
                return e->first;
            else if (byte == '\\' && line_escapable(next))
                e->at++;
            break;
        case LINE_IN_STRING:
            if (byte == '\\')
                e->at++;
            else if (byte == '"')
                e->part = LINE_BEHIND_VALUE;
            break;
        case LINE_IN_PLAIN:
            if (byte == '"')
                return e->first;
            if (byte != ',' && !separates && !ends)
                break;
            /* fall through */
        case LINE_BEHIND_VALUE:
            if (byte != ',' && !separates && !ends)
                return e->first;
            e->part = byte == ',' ? LINE_AT_KEY : LINE_IN_REST;
            if (byte == '\n')
                return e->at;
            break;
        default: /* LINE_IN_REST */
            if (byte == '\n')
                return e->at;
            if (byte == '"' || byte == '=')
                return e->first;
        }
    }
    if (!last)
        return LINE_OPEN;
    return e->part == LINE_AT_KEY || e->part == LINE_IN_STRING ? e->first : n;
}

/* The LF that ends a line that is dropped. */
static inline uint32_t line_dropped_end(line_text_t t)
{
    line_end_t e = {0};
    return line_end_find(&e, t.p, t.n, true);
}

#endif
