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

/* ---- where a dropped line ends ---- */

/* Skips to an unescaped byte of a key's end; false if the line or the field ends before an `=`. */
static inline bool line_skip_key(line_text_t t, uint32_t *at)
{
    uint32_t i = *at;
    while (t.p[i] != '=') {
        if (line_ends(t, i) || t.p[i] == ',' || line_separates(t, i))
            return false;
        i += t.p[i] == '\\' && line_escapable(t.p[i + 1]) ? 2 : 1;
    }
    *at = i;
    return true;
}

/* The LF that ends a line that is dropped.
 *
 * That is the first one, so that an unterminated quote never costs the lines behind it. Only where the line has
 * the plain shape of head, fields and rest, with each string closed and followed by a comma, a separator or the
 * line's end, does it end behind its strings: a number out of range in one field must not turn the inside of
 * another, which anybody may have written, into lines of its own. */
static inline uint32_t line_dropped_end(line_text_t t)
{
    uint32_t first = line_feed(t, 0), at = 0;
    while (!line_separates(t, at)) {
        if (at >= first)
            return first;
        at += t.p[at] == '\\' && line_escapable(t.p[at + 1]) ? 2 : 1;
    }
    at = line_skip_blanks(t, at);
    for (;; at++) {
        if (!line_skip_key(t, &at))
            return first;
        at++;
        if (t.p[at] == '"') {
            at++;
            while (at < t.n && t.p[at] != '"')
                at += t.p[at] == '\\' ? 2 : 1;
            if (at >= t.n)
                return first;
            at++;
        } else {
            for (; !line_ends(t, at) && t.p[at] != ',' && !line_separates(t, at); at++)
                if (t.p[at] == '"')
                    return first;
        }
        if (t.p[at] != ',')
            break;
    }
    if (!line_ends(t, at) && !line_separates(t, at))
        return first;
    uint32_t end = line_feed(t, at);
    for (; at < end; at++)
        if (t.p[at] == '"' || t.p[at] == '=')
            return first;
    return end;
}

#endif
