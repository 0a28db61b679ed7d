/* The fields of a line brought to the types that are kept: coerced where that is exact, else left out or renamed.
 *
 *   kept ↓ came →   float             integer           unsigned          boolean, string
 *   float           same              as float, if it can hold the value  conflict
 *   integer         if it is whole    same              if it is in range conflict
 *   unsigned        if whole and ≥ 0  if ≥ 0            same              conflict
 *   boolean, string conflict          conflict          conflict          same kind only
 *
 * A writer remembers which sets of fields of a measurement were right, by a hash: lines that are as they were before cost
 * a walk over their fields and one look. Nothing else asks the table that all writers share.
 */
#ifndef PENSTOCK_TYPES_MEND_H
#define PENSTOCK_TYPES_MEND_H

#include "line_set.h"
#include "num.h"
#include "types.h"

#define TYPES_SHAPES 8192u         /* sets of fields that a writer remembers */
#define TYPES_TEXT_BYTES (5u * 65536u) /* of mended fields: a short number may become a long one */
#define TYPES_REFUSED_MAX 64u      /* fields of one line that are told of */

typedef struct {
    bool coerce, rename;
} types_rules_t;

/* One field as it stands in a line of ours. */
typedef struct {
    const uint8_t *key, *value; /* borrowed */
    uint32_t key_length, value_length;
    type_kind_t kind;
} types_field_t;

/* What became of a line's fields. Texts are borrowed from the writer until its next line. */
typedef struct {
    const uint8_t *fields, *fields_signed; /* the latter has `u` as `i`, for rings that may not hold unsigned */
    uint32_t fields_length, fields_signed_length;
    uint32_t clamped;       /* fields cut in fields_signed */
    uint32_t coerced, renamed, refused;
    uint32_t refused_count; /* that stand below */
    struct {
        types_field_t field; /* in the line as it came */
        type_kind_t kept;
    } refusals[TYPES_REFUSED_MAX];
} types_mended_t;

/* One writer's. */
typedef struct {
    types_t *types; /* borrowed */
    types_rules_t rules;
    mix_key_t key;
    uint64_t right[TYPES_SHAPES];
    types_mended_t mended;
    uint8_t key_text[TYPES_NAME_MAX + PORT_PADDING]; /* a field's new name */
    uint8_t text[TYPES_TEXT_BYTES + PORT_PADDING], text_signed[TYPES_TEXT_BYTES + PORT_PADDING];
} types_writer_t;

typedef enum { TYPES_RIGHT, TYPES_MENDED, TYPES_NOTHING_LEFT } types_verdict_t;

/* ---- reading ---- */

static inline type_kind_t types_kind(const uint8_t *value, uint32_t n)
{
    switch (value[0]) {
    case '"':
        return TYPE_STRING;
    case 't': case 'T': case 'f': case 'F':
        return TYPE_BOOLEAN;
    default:
        return value[n - 1] == 'i' ? TYPE_INTEGER : value[n - 1] == 'u' ? TYPE_UNSIGNED : TYPE_FLOAT;
    }
}

/* The field at *p of canonical fields; *p is left behind it and its comma. False at the end. */
static inline bool types_next(const uint8_t **p, const uint8_t *end, types_field_t *f)
{
    const uint8_t *at = *p;
    if (at >= end)
        return false;
    f->key = at;
    while (at < end && *at != '=')
        at += *at == '\\' && at + 1 < end && (at[1] == '=' || at[1] == ',' || at[1] == ' ') ? 2 : 1;
    f->key_length = (uint32_t)(at - f->key);
    if (at >= end || ++at >= end)
        return false;
    f->value = at;
    if (*at == '"') {
        for (at++; at < end && *at != '"'; at++)
            at += *at == '\\';
        at++;
    } else {
        const uint8_t *comma = memchr(at, ',', (size_t)(end - at));
        at = comma ? comma : end;
    }
    if (at > end || at == f->value)
        return false;
    f->value_length = (uint32_t)(at - f->value);
    f->kind = types_kind(f->value, f->value_length);
    *p = at + (at < end);
    return true;
}

/* Which fields there are, and their types; the same fields in another order are another shape. */
static inline uint64_t types_shape(const mix_key_t *key, uint64_t h, const uint8_t *fields, uint32_t n)
{
    types_field_t f;
    for (const uint8_t *p = fields; types_next(&p, fields + n, &f);)
        h = mix_bytes(key, h + f.kind, f.key, f.key_length);
    return h;
}

/* The first n bytes of a word in memory order, 0 <= n <= 8. */
static const uint64_t types_first_bytes[9] = {
    0, UINT64_C(0xFF), UINT64_C(0xFFFF), UINT64_C(0xFFFFFF), UINT64_C(0xFFFFFFFF), UINT64_C(0xFFFFFFFFFF),
    UINT64_C(0xFFFFFFFFFFFF), UINT64_C(0xFFFFFFFFFFFFFF), ~UINT64_C(0),
};

/* What the last byte of a plain value adds to the shape: digits end a number without a type, all others tell one (or tell a
 * boolean apart from itself). */
static const uint64_t types_endings[256] = {
    ['i'] = UINT64_C(0xD6E8FEB86659FD93), ['u'] = UINT64_C(0xA0761D6478BD642F), ['e'] = UINT64_C(0xE7037ED1A0B428DB),
    ['t'] = UINT64_C(0x8EBC6AF09C88C6E3), ['T'] = UINT64_C(0x589965CC75374CC3), ['f'] = UINT64_C(0x1D8E4E27C47D124F),
    ['F'] = UINT64_C(0xEB44ACCAB455D165),
};

/* The same as a reader finds it on its way, of one field more; 0 before the first. key: n >= 1 bytes, and PORT_PADDING. last:
 * of its plain value. The numbers are known, so that somebody may make fields that have the shape of others: then his are found
 * right that are not, and the database is left to refuse them. */
static inline uint64_t types_shape_add(uint64_t shape, const uint8_t *key, uint32_t n, uint8_t last)
{
    const uint64_t odd = UINT64_C(0x9FB21C651E98DF25);
    for (; unlikely(n > 8); n -= 8, key += 8) {
        shape = (shape ^ port_load64(key)) * odd;
        shape = (shape << 29 | shape >> 35) + 1;
    }
    shape = (shape ^ (port_load64(key) & types_first_bytes[n])) * odd;
    return (shape << 29 | shape >> 35) + types_endings[last];
}

/* Of a line of this measurement, as it is kept. */
static inline uint64_t types_shape_of(const types_writer_t *w, const uint8_t *m, uint32_t mn, uint64_t shape)
{
    uint64_t measurement;
    if (likely(mn <= 8))
        measurement = port_load64(m) & types_first_bytes[mn];
    else
        measurement = mix_bytes(&w->key, 0, m, mn);
    return mix_fold(measurement ^ w->key.k[1], shape ^ w->key.k[0]) | 1;
}

/* ---- coercing ---- */

/* A number that can be said in all three types that can hold it. */
typedef struct {
    bool negative, whole; /* whole: `magnitude` is it */
    uint64_t magnitude;
} types_number_t;

static inline types_number_t types_read_number(const types_field_t *f)
{
    types_number_t number = {0};
    int64_t integer = 0;
    double value;
    uint32_t digits = f->value_length - (f->kind != TYPE_FLOAT), sign = f->value[0] == '-';
    if (f->kind == TYPE_UNSIGNED) {
        number.whole = num_read_u64(f->value, digits, &number.magnitude);
    } else if (f->kind == TYPE_INTEGER) {
        number.whole = num_read_i64(f->value, digits, &integer);
        number.negative = integer < 0;
        number.magnitude = integer < 0 ? 0 - (uint64_t)integer : (uint64_t)integer;
    } else if (num_all_digits(f->value + sign, digits - sign) && num_read_u64(f->value + sign, digits - sign, &number.magnitude)) {
        number.whole = true; /* as it is written, though a double might not hold it */
        number.negative = sign && number.magnitude > 0;
    } else if (num_read_double(f->value, digits, &value) && value > -18446744073709551616.0 && value < 18446744073709551616.0) {
        number.negative = value < 0;
        number.magnitude = (uint64_t)(value < 0 ? -value : value);
        number.whole = (double)number.magnitude == (value < 0 ? -value : value);
    }
    return number;
}

/* Writes the field's value at `to`, which has room for 24 bytes, as another kind of number. Returns its length, 0 if that
 * would not be exact. */
static inline uint32_t types_coerce(const types_field_t *f, type_kind_t kept, uint8_t *to)
{
    if (kept > TYPE_UNSIGNED || f->kind > TYPE_UNSIGNED)
        return 0;
    types_number_t v = types_read_number(f);
    if (!v.whole || (kept == TYPE_UNSIGNED && v.negative))
        return 0;
    if (kept == TYPE_INTEGER && v.magnitude > (uint64_t)INT64_MAX + v.negative)
        return 0;
    /* At 2^64 the cast back would not be defined; no whole number of 64 bits rounds to it but those that it is not. */
    double value = (double)v.magnitude;
    if (kept == TYPE_FLOAT && (value >= 18446744073709551616.0 || (uint64_t)value != v.magnitude))
        return 0;
    uint32_t n = v.negative;
    to[0] = '-';
    n += (uint32_t)num_write_u64(to + n, v.magnitude);
    if (kept != TYPE_FLOAT)
        to[n++] = kept == TYPE_INTEGER ? 'i' : 'u';
    return n;
}

/* ---- mending ---- */

static inline bool types_has(const uint8_t *fields, uint32_t n, const uint8_t *key, uint32_t key_n)
{
    types_field_t f;
    for (const uint8_t *p = fields; types_next(&p, fields + n, &f);)
        if (f.key_length == key_n && memcmp(f.key, key, key_n) == 0)
            return true;
    return false;
}

/* Puts a field behind the others of a text; an unsigned one as signed if asked for. */
static inline uint32_t types_put(uint8_t *text, uint32_t at, const types_field_t *f, bool as_signed, uint32_t *clamped)
{
    if (at > 0)
        text[at++] = ',';
    memcpy(text + at, f->key, f->key_length);
    at += f->key_length;
    text[at++] = '=';
    uint64_t number;
    if (as_signed && f->kind == TYPE_UNSIGNED && num_read_u64(f->value, f->value_length - 1, &number)) {
        bool above = number > (uint64_t)INT64_MAX;
        at += (uint32_t)num_write_i64(text + at, above ? INT64_MAX : (int64_t)number);
        text[at++] = 'i';
        *clamped += above;
        return at;
    }
    memcpy(text + at, f->value, f->value_length);
    return at + f->value_length;
}

/* Brings one field to its kept type. False if it cannot stay; *kept is the type that it has. */
static inline bool types_mend_field(types_writer_t *w, const uint8_t *m, uint32_t mn, const uint8_t *fields, uint32_t n,
                                    types_field_t *f, uint8_t *key, uint8_t *value, type_kind_t *kept)
{
    *kept = types_of(w->types, m, mn, f->key, f->key_length, f->kind);
    if (*kept == f->kind)
        return true;
    uint32_t length = w->rules.coerce ? types_coerce(f, *kept, value) : 0;
    if (length > 0) {
        f->value = value;
        f->value_length = length;
        f->kind = *kept;
        w->mended.coerced++;
        return true;
    }
    uint32_t suffix = (uint32_t)strlen(type_names[f->kind]) + 1;
    if (!w->rules.rename || f->key_length + suffix + mn > TYPES_NAME_MAX - 4)
        return false;
    memcpy(key, f->key, f->key_length);
    key[f->key_length] = '_';
    memcpy(key + f->key_length + 1, type_names[f->kind], suffix - 1);
    if (types_has(fields, n, key, f->key_length + suffix) ||
        types_of(w->types, m, mn, key, f->key_length + suffix, f->kind) != f->kind)
        return false;
    f->key = key;
    f->key_length += suffix;
    w->mended.renamed++;
    return true;
}

/* A line whose fields have not been found right before. */
static __attribute__((noinline)) types_verdict_t types_mend(types_writer_t *w, const uint8_t *m, uint32_t mn,
                                                           const uint8_t *fields, uint32_t n, uint64_t shape)
{
    types_mended_t *mended = &w->mended;
    types_field_t f;
    uint8_t value[32];
    uint32_t at = 0, at_signed = 0;
    bool unsigned_there = false;
    memset(mended, 0, offsetof(types_mended_t, refusals));
    for (const uint8_t *p = fields; types_next(&p, fields + n, &f);) {
        types_field_t came = f;
        type_kind_t kept;
        bool stays = types_mend_field(w, m, mn, fields, n, &f, w->key_text, value, &kept);
        if (!stays || f.key_length + f.value_length + 24 > TYPES_TEXT_BYTES - at) {
            if (mended->refused_count < TYPES_REFUSED_MAX) {
                mended->refusals[mended->refused_count].field = came;
                mended->refusals[mended->refused_count++].kept = kept;
            }
            mended->refused++;
            continue;
        }
        unsigned_there |= f.kind == TYPE_UNSIGNED;
        at = types_put(w->text, at, &f, false, NULL);
        at_signed = types_put(w->text_signed, at_signed, &f, true, &mended->clamped);
    }
    if (mended->coerced + mended->renamed + mended->refused == 0) {
        w->right[shape % TYPES_SHAPES] = shape;
        return TYPES_RIGHT;
    }
    mended->fields = w->text;
    mended->fields_length = at;
    mended->fields_signed = unsigned_there ? w->text_signed : w->text;
    mended->fields_signed_length = unsigned_there ? at_signed : at;
    return at == 0 ? TYPES_NOTHING_LEFT : TYPES_MENDED;
}

/* Whether fields of this shape, as a reader has found it, were right in this measurement before. */
static inline bool types_right(const types_writer_t *w, const uint8_t *m, uint32_t mn, uint64_t shape)
{
    shape = types_shape_of(w, m, mn, shape);
    return w->right[shape % TYPES_SHAPES] == shape;
}

/* Whether the fields of a line of this measurement have their types; else w->mended says what became of them. Both are
 * canonical text, with PORT_PADDING readable behind. shape: as a reader has found it, or 0. */
static inline types_verdict_t types_line(types_writer_t *w, const uint8_t *m, uint32_t mn, const uint8_t *fields, uint32_t n,
                                         uint64_t shape)
{
    if (shape != 0)
        shape = types_shape_of(w, m, mn, shape);
    else
        shape = types_shape(&w->key, mix_bytes(&w->key, 0, m, mn), fields, n) | 1;
    if (likely(w->right[shape % TYPES_SHAPES] == shape))
        return TYPES_RIGHT;
    return types_mend(w, m, mn, fields, n, shape);
}

/* w: zeroed. False without randomness. */
static inline bool types_writer_open(types_writer_t *w, types_t *types, types_rules_t rules)
{
    w->types = types;
    w->rules = rules;
    return mix_key_draw(&w->key);
}

#endif
