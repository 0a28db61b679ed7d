#ifndef PENSTOCK_LINE_GENERAL_H
#define PENSTOCK_LINE_GENERAL_H
#include "line_fast.h"
typedef enum { LINE_FOUND_NOTHING, LINE_FOUND_GOOD, LINE_FOUND_BAD } line_found_t;
static inline line_found_t line_general(line_reader_t *c, const uint8_t *p, uint32_t n, line_t *l, uint32_t *taken, drop_t *reason)
{
    const uint8_t *lf = memchr(p, '\n', n + 1);
    *taken = (uint32_t)(lf - p) + 1;
    *reason = DROP_FIELD;
    return LINE_FOUND_BAD;
}
static inline uint64_t line_count(const uint8_t *p, uint64_t n) { return 0; }
static inline uint64_t line_offset(const uint8_t *p, uint64_t n, uint64_t lines) { return 0; }
#endif
