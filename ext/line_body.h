/* Bodies of lines that we wrote: counted and cut without a parser. */
#ifndef PENSTOCK_LINE_BODY_H
#define PENSTOCK_LINE_BODY_H

#include "line_text.h"

/* The place behind the line at p in a body of ours. Newlines inside strings belong to the line. */
static inline const uint8_t *line_next(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *lf = memchr(p, '\n', (size_t)(end - p));
    if (lf == NULL)
        return end;
    if (memchr(p, '"', (size_t)(lf - p)) == NULL)
        return lf + 1;
    while (p < end && *p != ' ')
        p += *p == '\\' && p + 1 < end && line_escapable(p[1]) ? 2 : 1;
    do {
        p++; /* the space, or the comma */
        while (p < end && *p != '=')
            p += *p == '\\' && p + 1 < end && line_escapable(p[1]) ? 2 : 1;
        p++;
        if (p < end && *p == '"') {
            for (p++; p < end && *p != '"'; p++)
                p += *p == '\\';
            p++;
        } else {
            while (p < end && *p != ',' && *p != ' ' && *p != '\n')
                p++;
        }
    } while (p < end && *p == ',');
    if (p >= end)
        return end;
    lf = memchr(p, '\n', (size_t)(end - p));
    return lf == NULL ? end : lf + 1;
}

/* Lines in a body of ours. */
static inline uint64_t line_count(const uint8_t *p, uint64_t n)
{
    const uint8_t *end = p + n;
    uint64_t lines = 0;
    for (; p < end; lines++)
        p = line_next(p, end);
    return lines;
}

/* Offset behind the first `lines` lines. */
static inline uint64_t line_offset(const uint8_t *p, uint64_t n, uint64_t lines)
{
    const uint8_t *at = p, *end = p + n;
    for (; lines > 0 && at < end; lines--)
        at = line_next(at, end);
    return (uint64_t)(at - p);
}

#endif
