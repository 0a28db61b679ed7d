/* The values of a text that holds several of JSON, one behind the other, with or without line feeds between them.
 *
 *   {"name":"a",…}{"name":"b",…} LF {"name":"c",… LF {"name":"d",…}
 *   ^^^^^^^^^^^^^^ ^^^^^^^^^^^^^^   ^^^^^^^^^^^^^    ^^^^^^^^^^^^^^        the third is broken, and costs itself only
 *
 * Only strings and brackets are looked at; whether a piece is JSON is for a parser to say. Each byte is looked at twice
 * at most, whatever the text is.
 */
#ifndef PENSTOCK_JSON_SPLIT_H
#define PENSTOCK_JSON_SPLIT_H

#include "port.h"

typedef struct {
    const uint8_t *p; /* borrowed */
    size_t n, at;
    bool by_line; /* a value was never closed: from here on none goes beyond its line */
} json_split_t;

static inline bool json_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t';
}

/* The end of the line at `at`: its LF, or the end of the text. */
static inline size_t json_line_end(const json_split_t *s, size_t at)
{
    const uint8_t *lf = memchr(s->p + at, '\n', s->n - at);
    return lf ? (size_t)(lf - s->p) : s->n;
}

/* Whether the object or array at `at` is closed; *end is just behind it then. Else *end is where it breaks off: at a line
 * feed, or at the end of the text. */
static inline bool json_value_end(const json_split_t *s, size_t at, size_t *end)
{
    size_t depth = 0;
    bool quoted = false;
    for (*end = at; *end < s->n; ++*end) {
        uint8_t byte = s->p[*end];
        if (byte == '\n' && (quoted || s->by_line)) /* JSON has no line feed in a string */
            return false;
        if (quoted) {
            if (byte == '\\' && *end + 1 < s->n && s->p[*end + 1] != '\n')
                ++*end;
            else
                quoted = byte != '"';
        } else if (byte == '"') {
            quoted = true;
        } else if (byte == '{' || byte == '[') {
            depth++;
        } else if ((byte == '}' || byte == ']') && --depth == 0) {
            ++*end;
            return true;
        }
    }
    return false;
}

/* The next piece, [start, end) of the text; false if there is none. It is not empty, and has no blanks around it. */
static inline bool json_split_next(json_split_t *s, size_t *start, size_t *end)
{
    while (s->at < s->n && json_blank(s->p[s->at]))
        s->at++;
    if (s->at == s->n)
        return false;
    *start = s->at;
    if (s->p[s->at] == '{' || s->p[s->at] == '[') {
        /* What is never closed has perhaps swallowed its neighbours: it ends with its line. */
        if (!json_value_end(s, s->at, end) && *end == s->n && !s->by_line) {
            *end = json_line_end(s, s->at);
            s->by_line = true;
        }
    } else {
        size_t i = s->at, line = json_line_end(s, s->at);
        while (i < line && s->p[i] != '{' && s->p[i] != '[')
            i++;
        *end = i;
    }
    s->at = *end;
    return true;
}

#endif
