/* Names and strings from formats that are no text of lines, written so that they cannot become structure.
 *
 * What comes in is any well-formed UTF-8; what goes out is what the general path of the line reader takes as it stands:
 *
 *   ,  =  space              get a backslash (`=` not in a measurement)
 *   tab LF FF CR             become a backslash and t, n, f or r: two ordinary bytes there, as Telegraf writes them
 *   other control characters, and a backslash before one of `, = space` (or before a quote, but in tags): no form
 *                            that all versions read alike, the point is dropped
 *   backslashes at the end   are left out, as Telegraf does: they would escape the byte behind the name
 */
#ifndef PENSTOCK_OBJECT_TEXT_H
#define PENSTOCK_OBJECT_TEXT_H

#include "line_text.h"

/* Eight bytes at a time: bits set in the lowest byte that needs a closer look, and perhaps in bytes above it. */
static inline uint64_t object_special8(uint64_t x)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), high = ones << 7;
    uint64_t low = x - 0x21 * ones;             /* below `!`: blanks and control characters */
    uint64_t comma = x ^ ones * ',', equals = x ^ ones * '=', backslash = x ^ ones * '\\', del = x ^ ones * 0x7F;
    uint64_t equal = ((comma - ones) & ~comma) | ((equals - ones) & ~equals) | ((backslash - ones) & ~backslash) |
                     ((del - ones) & ~del);
    return ((low & ~x) | equal) & high;
}

/* n < 8 bytes, filled up with letters. */
static inline uint64_t object_load_short(const uint8_t *p, size_t n)
{
    return port_load_short(p, n) | UINT64_C(0x6161616161616161) << (8 * n);
}

/* Byte by byte. *altered: what is written may be what another text becomes too. */
static inline drop_t object_name_escape(uint8_t **to, const uint8_t *p, size_t n, line_name_t kind, bool *altered)
{
    uint8_t *out = *to;
    if (n && p[n - 1] == '\\')
        *altered = true;
    while (n && p[n - 1] == '\\')
        n--;
    for (size_t i = 0; i < n; i++) {
        uint8_t byte = p[i];
        if (byte < 0x20 || byte == 0x7F) {
            static const uint8_t letters[32] = {['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};
            uint8_t letter = byte < 0x20 ? letters[byte] : 0;
            if (letter == 0)
                return DROP_CONTROL_CHARACTER;
            *out++ = '\\';
            byte = letter;
            *altered = true;
        } else if (byte == '\\') {
            uint8_t next = i + 1 < n ? p[i + 1] : 0;
            if (line_escapable(next) || (next == '"' && kind != NAME_TAG))
                return DROP_BACKSLASH;
        } else if (byte == ',' || byte == ' ' || (byte == '=' && kind != NAME_MEASUREMENT)) {
            *out++ = '\\';
        }
        *out++ = byte;
    }
    *to = out;
    return DROP_NONE;
}

/* Writes a measurement, tag key, tag value or field key of n bytes; *to is left behind it. Nothing may be left of it.
 * Needs 2 * n + 8 bytes at *to. */
static inline drop_t object_name_put(uint8_t **to, const uint8_t *p, size_t n, line_name_t kind, bool *altered)
{
    uint8_t *out = *to;
    if (n < 8) {
        uint64_t x = object_load_short(p, n);
        if (unlikely(object_special8(x)))
            return object_name_escape(to, p, n, kind, altered);
        memcpy(out, &x, 8);
    } else {
        /* The last eight bytes overlap those before them. */
        for (size_t i = 0, last = n - 8;; i = i + 8 < last ? i + 8 : last) {
            uint64_t x = port_load64(p + i);
            if (unlikely(object_special8(x)))
                return object_name_escape(to, p, n, kind, altered);
            memcpy(out + i, &x, 8);
            if (i == last)
                break;
        }
    }
    *to = out + n;
    return DROP_NONE;
}

/* Writes a string field's value, quoted. Needs 2 * n + 2 bytes. Any byte may be in it. */
static inline uint8_t *object_string_put(uint8_t *to, const uint8_t *p, size_t n)
{
    *to++ = '"';
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '"' || p[i] == '\\')
            *to++ = '\\';
        *to++ = p[i];
    }
    *to++ = '"';
    return to;
}

#endif
