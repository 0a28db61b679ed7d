/* Well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF (Unicode 15, table 3-7). */
#ifndef PENSTOCK_UTF8_H
#define PENSTOCK_UTF8_H

#include "port.h"

/* Whether p[0..n) has no byte above 0x7F. */
static inline bool utf8_ascii(const uint8_t *p, size_t n)
{
    uint64_t seen = 0;
    if (n < 8) {
        seen = port_load_short(p, n);
    } else {
        for (size_t i = 0; i + 8 < n; i += 8)
            seen |= port_load64(p + i);
        seen |= port_load64(p + n - 8);
    }
    return (seen & UINT64_C(0x8080808080808080)) == 0;
}

/* Whether p[0..n) is well-formed. */
static inline bool utf8_valid(const uint8_t *p, size_t n)
{
    if (likely(utf8_ascii(p, n)))
        return true;
    size_t i = 0;
    while (i < n) {
        uint8_t lead = p[i];
        if (lead < 0x80) {
            i += i + 8 <= n && !(port_load64(p + i) & UINT64_C(0x8080808080808080)) ? 8 : 1;
            continue;
        }
        size_t more;
        uint8_t low = 0x80, high = 0xBF; /* what the second byte may be */
        if (lead >= 0xC2 && lead <= 0xDF) {
            more = 1;
        } else if (lead >= 0xE0 && lead <= 0xEF) {
            more = 2;
            if (lead == 0xE0)
                low = 0xA0;
            if (lead == 0xED)
                high = 0x9F;
        } else if (lead >= 0xF0 && lead <= 0xF4) {
            more = 3;
            if (lead == 0xF0)
                low = 0x90;
            if (lead == 0xF4)
                high = 0x8F;
        } else {
            return false;
        }
        if (n - i <= more || p[i + 1] < low || p[i + 1] > high)
            return false;
        for (size_t k = 2; k <= more; k++)
            if ((p[i + k] & 0xC0) != 0x80)
                return false;
        i += more + 1;
    }
    return true;
}

#endif
