/* Protocol buffers on the wire: numbers of 7 bits a byte, and fields that say their number and their kind.
 *
 *   0A 07 0A 03 63 70 75 10 02
 *   ^^                            key: field number << 3 | kind, as a varint; here field 1 of kind PROTO_BYTES
 *      ^^                         length, as a varint
 *         ^^^^^^^^^^^^^^^^^^^^    so many bytes, which may be a message again
 *
 * Specification: https://protobuf.dev/programming-guides/encoding/
 * Writers compute their sizes first, so that nothing is ever moved. Readers take (cursor, end) and believe nothing.
 */
#ifndef PENSTOCK_PROTO_H
#define PENSTOCK_PROTO_H

#include "port.h"

#define PROTO_VARINT_BYTES_MAX 10u

/* How the value of a field is written. Groups (3 and 4) are of the past: whoever meets one takes it as malformed. */
typedef enum { PROTO_VARINT = 0, PROTO_FIXED64 = 1, PROTO_BYTES = 2, PROTO_FIXED32 = 5 } proto_kind_t;

/* The key of a field whose number is below 16: one byte. */
#define PROTO_KEY(number, kind) ((uint8_t)((number) << 3 | (kind)))

/* ---- writing ---- */

/* Bytes that v takes as a varint: 1 to 10. */
static inline uint32_t proto_varint_bytes(uint64_t v)
{
    return ((uint32_t)(63 - __builtin_clzll(v | 1)) * 9 + 73) / 64;
}

/* Writes v as a varint; returns the place behind it. */
static inline uint8_t *proto_put_varint(uint8_t *to, uint64_t v)
{
    while (v >= 0x80) {
        *to++ = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    *to++ = (uint8_t)v;
    return to;
}

/* Bytes that a field of kind PROTO_BYTES with a key of one byte takes, if it holds n bytes. */
static inline uint64_t proto_bytes_size(uint64_t n)
{
    return 1 + proto_varint_bytes(n) + n;
}

/* Writes the key and the length of such a field; its n bytes are to follow. */
static inline uint8_t *proto_put_head(uint8_t *to, uint8_t key, uint64_t n)
{
    *to++ = key;
    return proto_put_varint(to, n);
}

static inline uint8_t *proto_put_double(uint8_t *to, double v)
{
    memcpy(to, &v, sizeof v);
    return to + sizeof v;
}

/* ---- reading ---- */

/* One field as it was read. What does not belong to its kind is not set. */
typedef struct {
    uint32_t number;
    proto_kind_t kind;
    uint64_t value;       /* PROTO_VARINT; PROTO_FIXED64 and PROTO_FIXED32 as they stand in memory */
    const uint8_t *bytes; /* PROTO_BYTES: inside the message that is read, borrowed */
    uint64_t length;
} proto_field_t;

/* Reads a varint at *at; *at is left behind it. False if it is cut off, or has more than 64 bits. */
static inline bool proto_varint(const uint8_t **at, const uint8_t *end, uint64_t *v)
{
    const uint8_t *p = *at;
    if (likely(p < end && *p < 0x80)) {
        *v = *p;
        *at = p + 1;
        return true;
    }
    uint64_t value = 0;
    for (uint32_t shift = 0; shift < 64 && p < end; shift += 7) {
        uint64_t byte = *p++;
        if (unlikely(shift == 63 && byte > 1))
            return false;
        value |= (byte & 0x7F) << shift;
        if (byte < 0x80) {
            *v = value;
            *at = p;
            return true;
        }
    }
    return false;
}

/* Reads the field at *at, which is before end; *at is left behind it. False where it is malformed: cut off, longer than
 * what is there, of a number or a kind that does not exist. *at is not moved then. */
static inline bool proto_next(const uint8_t **at, const uint8_t *end, proto_field_t *field)
{
    const uint8_t *p = *at;
    uint64_t key;
    if (unlikely(!proto_varint(&p, end, &key) || key >> 3 == 0 || key >> 3 > 0x1FFFFFFF))
        return false;
    field->number = (uint32_t)(key >> 3);
    field->kind = (proto_kind_t)(key & 7);
    switch (field->kind) {
    case PROTO_VARINT:
        if (!proto_varint(&p, end, &field->value))
            return false;
        break;
    case PROTO_FIXED64:
        if (end - p < 8)
            return false;
        field->value = port_load64(p);
        p += 8;
        break;
    case PROTO_BYTES:
        if (!proto_varint(&p, end, &field->length) || field->length > (uint64_t)(end - p))
            return false;
        field->bytes = p;
        p += field->length;
        break;
    case PROTO_FIXED32:
        if (end - p < 4)
            return false;
        field->value = port_load32(p);
        p += 4;
        break;
    default:
        return false;
    }
    *at = p;
    return true;
}

static inline double proto_double(uint64_t value)
{
    double v;
    memcpy(&v, &value, sizeof v);
    return v;
}

#endif
