/* The value of one field, in any spelling that line protocol knows, written in the safe one. */
#ifndef PENSTOCK_LINE_VALUE_H
#define PENSTOCK_LINE_VALUE_H

#include "line_set.h"
#include "line_text.h"

/* A quoted string: `\"` and `\\` are escapes, other backslashes are themselves and get doubled. Except before
 * n, r and t: there line-protocol v2 reads a control character, and the others do not. */
static inline drop_t line_read_string(line_text_t t, uint32_t *at, uint8_t **to)
{
    uint8_t *out = *to;
    uint32_t i = *at + 1;
    *out++ = '"';
    for (;; i++) {
        if (i >= t.n)
            return DROP_STRING;
        uint8_t byte = t.p[i];
        if (byte == '"')
            break;
        *out++ = byte;
        if (byte != '\\')
            continue;
        uint8_t next = i + 1 < t.n ? t.p[i + 1] : 0;
        if (next == 'n' || next == 'r' || next == 't')
            return DROP_BACKSLASH;
        if (next == '"' || next == '\\') {
            *out++ = next;
            i++;
        } else {
            *out++ = '\\';
        }
    }
    *out++ = '"';
    i++;
    if (t.p[i] != ',' && !line_separates(t, i) && !line_ends(t, i))
        return DROP_STRING;
    *at = i;
    *to = out;
    return DROP_NONE;
}

static inline bool line_is_boolean(const uint8_t *p, uint32_t n)
{
    static const char *const words[] = {"t", "T", "f", "F", "true", "True", "TRUE", "false", "False", "FALSE"};
    if (n > 5 || memchr("tTfF", *p, 4) == NULL)
        return false;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strlen(words[i]) == n && memcmp(words[i], p, n) == 0)
            return true;
    return false;
}

/* A float: writes it with a digit on both sides of its point, and without the underscores that line-protocol v2
 * allows between digits. */
static inline drop_t line_read_float(const uint8_t *p, uint32_t n, uint8_t **to)
{
    uint8_t *text = *to;
    uint32_t length = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool between = p[i] == '_' && i > 0 && i + 1 < n && (uint8_t)(p[i - 1] - '0') <= 9 && (uint8_t)(p[i + 1] - '0') <= 9;
        if (!between)
            text[length++] = p[i];
    }
    num_float_t found = num_check_float(text, length);
    if (found == NUM_BAD)
        return DROP_NUMBER;
    if (found == NUM_BARE_DOT) {
        uint8_t *point = memchr(text, '.', length);
        uint32_t at = (uint32_t)(point - text);
        if (at + 1 == length || (uint8_t)(text[at + 1] - '0') > 9) {
            memmove(point + 2, point + 1, length - at - 1);
            point[1] = '0';
            length++;
        }
        if (at == 0 || text[at - 1] == '-') {
            memmove(point + 1, point, length - at);
            point[0] = '0';
            length++;
        }
    }
    *to = text + length;
    return DROP_NONE;
}

/* The value of a field; written at *to, which is left behind it. */
static inline drop_t line_read_value(line_text_t t, uint32_t *at, uint8_t **to, line_entry_t *field)
{
    if (t.p[*at] == '"')
        return line_read_string(t, at, to);
    uint32_t start = *at, end = start;
    while (t.p[end] != ',' && !line_separates(t, end) && !line_ends(t, end))
        end++;
    const uint8_t *p = t.p + start;
    uint32_t n = end - start;
    *at = end;
    if (n == 0)
        return DROP_FIELD;
    if (line_is_boolean(p, n)) {
        memcpy(*to, p, n);
        *to += n;
        return DROP_NONE;
    }
    if (memchr("-+.0123456789NnIi", *p, 17) == NULL)
        return DROP_FIELD;
    int64_t integer;
    if (p[n - 1] == 'i') {
        if (!num_read_i64(p, n - 1, &integer))
            return DROP_NUMBER;
        *to += num_write_i64(*to, integer);
        *(*to)++ = 'i';
        return DROP_NONE;
    }
    if (p[n - 1] == 'u') {
        if (!num_read_u64(p, n - 1, &field->number))
            return DROP_NUMBER;
        field->is_unsigned = true;
        *to += num_write_u64(*to, field->number);
        *(*to)++ = 'u';
        return DROP_NONE;
    }
    return line_read_float(p, n, to);
}

#endif
