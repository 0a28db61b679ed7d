/* An attribute of OpenTelemetry as the text of a tag.
 *
 * Strings are themselves; numbers and booleans are written in decimal and as true or false; arrays and maps as JSON; bytes
 * in base64, as OTLP's JSON has them. https://opentelemetry.io/docs/specs/otel/common/#attribute
 */
#ifndef PENSTOCK_OTLP_VALUE_H
#define PENSTOCK_OTLP_VALUE_H

#include "foreign.h"
#include "num_shortest.h"
#include "proto.h"

#define OTLP_DEPTH_MAX 16u /* of arrays and maps in one another */

typedef enum { OTLP_NOTHING, OTLP_STRING = 1, OTLP_BOOL, OTLP_INT, OTLP_DOUBLE, OTLP_ARRAY, OTLP_MAP, OTLP_BYTES } otlp_kind_t;

/* An AnyValue; bytes and length as in proto_field_t. */
typedef struct {
    otlp_kind_t kind;
    uint64_t value;
    const uint8_t *bytes;
    uint64_t length;
} otlp_value_t;

/* Where text is put together; too_much once it did not fit, or was too deep. */
typedef struct {
    uint8_t *to, *end;
    bool too_much;
} otlp_text_t;

/* Reads the AnyValue at [p, end). Of several values the last counts. False if it is malformed. */
static inline bool otlp_value(const uint8_t *p, const uint8_t *end, otlp_value_t *v)
{
    static const uint8_t kinds[8] = {0, PROTO_BYTES, PROTO_VARINT, PROTO_VARINT, PROTO_FIXED64, PROTO_BYTES, PROTO_BYTES, PROTO_BYTES};
    proto_field_t f = {0};
    *v = (otlp_value_t){OTLP_NOTHING, 0, NULL, 0};
    while (p < end) {
        if (!proto_next(&p, end, &f))
            return false;
        if (f.number > OTLP_BYTES)
            continue;
        if (f.kind != kinds[f.number])
            return false;
        *v = (otlp_value_t){(otlp_kind_t)f.number, f.value, f.bytes, f.length};
    }
    return true;
}

/* Reads the KeyValue at [p, end): *key, which may be empty, and its value. False if it is malformed. */
static inline bool otlp_key_value(const uint8_t *p, const uint8_t *end, const uint8_t **key, uint64_t *key_length, otlp_value_t *v)
{
    proto_field_t f = {0};
    *key_length = 0;
    *key = p;
    *v = (otlp_value_t){OTLP_NOTHING, 0, NULL, 0};
    while (p < end) {
        if (!proto_next(&p, end, &f))
            return false;
        if (f.number > 2)
            continue;
        if (f.kind != PROTO_BYTES)
            return false;
        if (f.number == 1) {
            *key = f.bytes;
            *key_length = f.length;
        } else if (!otlp_value(f.bytes, p, v)) {
            return false;
        }
    }
    return true;
}

static inline void otlp_put(otlp_text_t *t, const void *p, uint64_t n)
{
    if (n > (uint64_t)(t->end - t->to)) {
        t->too_much = true;
        return;
    }
    memcpy(t->to, p, n);
    t->to += n;
}

static inline void otlp_put_word(otlp_text_t *t, const char *word)
{
    otlp_put(t, word, strlen(word));
}

static inline void otlp_put_double(otlp_text_t *t, double v)
{
    uint8_t text[NUM_SHORTEST_BYTES];
    if (isfinite(v))
        otlp_put(t, text, num_write_shortest(text, v));
    else
        otlp_put_word(t, v != v ? "NaN" : v > 0 ? "Infinity" : "-Infinity");
}

static inline void otlp_put_base64(otlp_text_t *t, const uint8_t *p, uint64_t n)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (uint64_t i = 0; i < n && !t->too_much; i += 3) {
        uint32_t left = n - i < 3 ? (uint32_t)(n - i) : 3;
        uint32_t bits = (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0);
        uint8_t four[4];
        for (uint32_t k = 0; k < 4; k++)
            four[k] = k <= left ? (uint8_t)letters[bits >> (18 - 6 * k) & 63] : '=';
        otlp_put(t, four, 4);
    }
}

/* A string of JSON. Its UTF-8 is looked at where the tag is written. */
static inline void otlp_put_quoted(otlp_text_t *t, const uint8_t *p, uint64_t n)
{
    static const char hex[] = "0123456789abcdef";
    otlp_put(t, "\"", 1);
    for (uint64_t i = 0; i < n && !t->too_much; i++) {
        if (p[i] == '"' || p[i] == '\\')
            otlp_put(t, (uint8_t[]){'\\', p[i]}, 2);
        else if (p[i] < 0x20)
            otlp_put(t, (uint8_t[]){'\\', 'u', '0', '0', (uint8_t)hex[p[i] >> 4], (uint8_t)hex[p[i] & 15]}, 6);
        else
            otlp_put(t, p + i, 1);
    }
    otlp_put(t, "\"", 1);
}

/* A value, inside arrays and maps as JSON. False if it is malformed. The recursion is OTLP_DEPTH_MAX deep. */
static bool otlp_put_value(otlp_text_t *t, const otlp_value_t *v, uint32_t depth)
{
    uint8_t number[24];
    proto_field_t f = {0};
    otlp_value_t inner;
    bool first = true;
    switch (v->kind) {
    case OTLP_NOTHING:
        if (depth > 0)
            otlp_put_word(t, "null");
        return true;
    case OTLP_STRING:
        if (depth > 0)
            otlp_put_quoted(t, v->bytes, v->length);
        else
            otlp_put(t, v->bytes, v->length);
        return true;
    case OTLP_BOOL:
        otlp_put_word(t, v->value ? "true" : "false");
        return true;
    case OTLP_INT:
        otlp_put(t, number, num_write_i64(number, (int64_t)v->value));
        return true;
    case OTLP_DOUBLE:
        if (depth > 0 && !isfinite(proto_double(v->value)))
            otlp_put(t, "\"", 1);
        otlp_put_double(t, proto_double(v->value));
        if (depth > 0 && !isfinite(proto_double(v->value)))
            otlp_put(t, "\"", 1);
        return true;
    case OTLP_BYTES:
        if (depth > 0)
            otlp_put(t, "\"", 1);
        otlp_put_base64(t, v->bytes, v->length);
        if (depth > 0)
            otlp_put(t, "\"", 1);
        return true;
    default:
        break;
    }
    if (depth == OTLP_DEPTH_MAX) {
        t->too_much = true;
        return true;
    }
    bool map = v->kind == OTLP_MAP;
    const uint8_t *p = v->bytes, *end = p + v->length;
    otlp_put(t, map ? "{" : "[", 1);
    while (p < end && !t->too_much) {
        if (!proto_next(&p, end, &f))
            return false;
        if (f.number != 1)
            continue;
        const uint8_t *key = NULL;
        uint64_t key_length = 0;
        if (f.kind != PROTO_BYTES || !(map ? otlp_key_value(f.bytes, p, &key, &key_length, &inner) : otlp_value(f.bytes, p, &inner)))
            return false;
        if (!first)
            otlp_put(t, ",", 1);
        first = false;
        if (map) {
            otlp_put_quoted(t, key, key_length);
            otlp_put(t, ":", 1);
        }
        if (!otlp_put_value(t, &inner, depth + 1))
            return false;
    }
    otlp_put(t, map ? "}" : "]", 1);
    return true;
}

/* Adds the KeyValue at [p, end) as a tag; of two with one key the first stays. False if it is malformed. */
static inline bool otlp_tag(foreign_t *s, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *key;
    uint64_t key_length;
    otlp_value_t v;
    if (!otlp_key_value(p, end, &key, &key_length, &v))
        return false;
    if (key_length > LINE_KEY_BYTES || (v.kind == OTLP_STRING && v.length > LINE_KEY_BYTES)) {
        foreign_wrong(s, DROP_KEY_TOO_LONG);
        return true;
    }
    if (v.kind == OTLP_STRING) {
        foreign_tag(s, key, (uint32_t)key_length, v.bytes, (uint32_t)v.length, false);
        return true;
    }
    /* Put together in the second half of the point's text, and the key before it: one limit is for both. */
    uint8_t *work = s->text + 2 * FOREIGN_TEXT_MAX, *text = work + key_length;
    otlp_text_t t = {text, work + 2 * FOREIGN_TEXT_MAX - PORT_PADDING, false};
    memcpy(work, key, key_length);
    if (!otlp_put_value(&t, &v, 0))
        return false;
    if (t.too_much) {
        foreign_wrong(s, DROP_TAG);
        return true;
    }
    const uint8_t *limit = s->limit;
    s->limit = s->text + FOREIGN_TEXT_BYTES;
    foreign_tag(s, work, (uint32_t)key_length, text, (uint32_t)(t.to - text), false);
    s->limit = limit;
    return true;
}

#endif
