/* A head taken apart and put together again: what a rule looks at, and what it may change.
 *
 *   cpu\ total,host=a,path=/user\,7
 *   ^^^^^^^^^^                        measurement: "cpu total", without its escapes
 *              ^^^^ ^                 a tag's key and value
 *                     ^^^^ ^^^^^^^^   "path" and "/user,7"
 *
 * A canonical head that is read and written again is the same, byte for byte, tags in their order. Text that did not
 * come from a head as it stands, or only a part of it, goes through head_text before it is put into one: so nothing
 * can become structure when it is written.
 */
#ifndef PENSTOCK_HEADS_H
#define PENSTOCK_HEADS_H

#include "line_set.h"
#include "mix.h"

#define HEAD_BYTES_MAX 65535u              /* of a head as it is written */
#define HEAD_TEXT_BYTES (6u * 65536u)      /* a head, agent's tags, and what rules make of them */

/* One tag, key and value without escapes. */
typedef struct {
    const uint8_t *key, *value; /* borrowed from the head's text, or from the one who put them there; padded */
    uint32_t key_length, value_length;
    uint64_t hash; /* of both, as of the last head_identity */
    bool gone;     /* is not written */
} head_tag_t;

/* Reused: each read takes the place of what was there. */
typedef struct {
    const uint8_t *measurement; /* without escapes */
    uint32_t measurement_length;
    uint32_t count, room; /* of tags, those that are gone included */
    head_tag_t *tags;     /* owned */
    const uint8_t *field; /* of a mapped name: what the value is called; NULL: as ever */
    uint32_t field_length;
    uint8_t type;    /* of a name's sample, for rules that ask for it */
    bool changed;    /* other than it was read */
    uint8_t *text;   /* owned: HEAD_TEXT_BYTES, and PORT_PADDING behind; never moves, so views into it stay */
    size_t text_room, used;
} head_t;

/* h: zeroed. False without memory; head_close is due either way. */
static inline bool head_open(head_t *h)
{
    h->room = 64;
    h->tags = malloc(h->room * sizeof *h->tags);
    h->text = malloc(HEAD_TEXT_BYTES + PORT_PADDING);
    h->text_room = h->text != NULL ? HEAD_TEXT_BYTES : 0;
    return h->tags != NULL && h->text != NULL;
}

static inline void head_close(head_t *h)
{
    free(h->tags);
    free(h->text);
    memset(h, 0, sizeof *h);
}

/* Whether the byte at p is a backslash that only escapes the one behind it. */
static inline bool head_escape(const uint8_t *p, const uint8_t *end, bool measurement)
{
    return *p == '\\' && p + 1 < end && (p[1] == ',' || p[1] == ' ' || (p[1] == '=' && !measurement));
}

/* A name up to an unescaped `stop` or ','; its text without escapes goes to the head's. Leaves *p behind the name. */
static inline bool head_name(head_t *h, const uint8_t **p, const uint8_t *end, uint8_t stop, bool measurement,
                             const uint8_t **name, uint32_t *length)
{
    const uint8_t *at = *p;
    uint8_t *to = h->text + h->used, *start = to;
    if ((size_t)(end - at) > h->text_room - h->used)
        return false;
    for (; at < end && *at != stop && *at != ','; at++) {
        at += head_escape(at, end, measurement);
        *to++ = *at;
    }
    *p = at;
    *name = start;
    *length = (uint32_t)(to - start);
    h->used += *length;
    return *length > 0;
}

/* Place for one more tag behind the others; NULL without memory. Tags may move. */
static inline head_tag_t *head_tag_next(head_t *h)
{
    if (h->count == h->room) {
        head_tag_t *tags = realloc(h->tags, 2 * (size_t)h->room * sizeof *tags);
        if (tags == NULL)
            return NULL;
        h->tags = tags;
        h->room *= 2;
    }
    head_tag_t *tag = &h->tags[h->count++];
    memset(tag, 0, sizeof *tag);
    return tag;
}

/* ",key=value" once or more. */
static inline bool head_read_tags(head_t *h, const uint8_t *p, const uint8_t *end)
{
    while (p < end) {
        head_tag_t *tag = *p == ',' ? head_tag_next(h) : NULL;
        if (tag == NULL)
            return false;
        p++;
        if (!head_name(h, &p, end, '=', false, &tag->key, &tag->key_length) || p == end || *p++ != '=' ||
            !head_name(h, &p, end, ',', false, &tag->value, &tag->value_length))
            return false;
    }
    return true;
}

/* Takes a canonical head apart, and the agent's tags behind it (",key=value" each; may be empty). False if it is none,
 * is too long, or without memory. */
static inline bool head_read(head_t *h, const uint8_t *series, uint32_t n, const uint8_t *extra, uint32_t extra_n)
{
    const uint8_t *p = series, *end = series + n;
    h->used = h->count = h->field_length = 0;
    h->field = NULL;
    h->changed = false;
    h->type = 0;
    if (!head_name(h, &p, end, ',', true, &h->measurement, &h->measurement_length) || !head_read_tags(h, p, end) ||
        (extra_n > 0 && !head_read_tags(h, extra, extra + extra_n)))
        return false;
    memset(h->text + h->used, 0, PORT_PADDING);
    return true;
}

/* What the series is called by, whatever the order of its tags; sets each tag's hash. */
static inline uint64_t head_identity(const head_t *h, const mix_key_t *k)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < h->count; i++) {
        head_tag_t *tag = &h->tags[i];
        if (tag->gone)
            continue;
        tag->hash = mix_pair(k, tag->key, tag->key_length, tag->value, tag->value_length);
        sum += tag->hash;
    }
    return mix_bytes(k, sum, h->measurement, h->measurement_length);
}

/* ---- changing it ---- */

/* A copy of any text so that it can stand in a head: control characters become `_`, backslashes that would escape
 * something `/`. Borrowed until the next head_read. NULL if there is no room. The length stays. */
static inline const uint8_t *head_text(head_t *h, const uint8_t *p, uint32_t n)
{
    if (n + PORT_PADDING > h->text_room - h->used)
        return NULL;
    uint8_t *to = h->text + h->used;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t byte = p[i], next = i + 1 < n ? p[i + 1] : ' ';
        if (byte < 0x20 || byte == 0x7F)
            byte = '_';
        else if (byte == '\\' && (next <= ' ' || next == '\\' || next == ',' || next == '=' || next == '"' || next == 0x7F))
            byte = '/';
        to[i] = byte;
    }
    memset(to + n, 0, PORT_PADDING);
    h->used += n;
    return to;
}

static inline bool head_is(const uint8_t *p, uint32_t n, const uint8_t *text, uint32_t text_n)
{
    return n == text_n && memcmp(p, text, n) == 0;
}

/* The tag of this key, without escapes; NULL if the head has none. */
static inline head_tag_t *head_find(const head_t *h, const uint8_t *key, uint32_t n)
{
    for (uint32_t i = 0; i < h->count; i++)
        if (!h->tags[i].gone && head_is(h->tags[i].key, h->tags[i].key_length, key, n))
            return &h->tags[i];
    return NULL;
}

/* Gives a tag another value, which is as head_text gave it; an empty one takes the tag away. */
static inline void head_set(head_t *h, head_tag_t *tag, const uint8_t *value, uint32_t n)
{
    if (!tag->gone && head_is(tag->value, tag->value_length, value, n))
        return;
    tag->value = value;
    tag->value_length = n;
    tag->gone = n == 0;
    h->changed = true;
}

/* Adds a tag that the head does not have, key and value as head_text gave them. False without memory. */
static inline bool head_add(head_t *h, const uint8_t *key, uint32_t key_n, const uint8_t *value, uint32_t value_n)
{
    if (key_n == 0 || value_n == 0)
        return true;
    head_tag_t *tag = head_tag_next(h);
    if (tag == NULL)
        return false;
    *tag = (head_tag_t){.key = key, .key_length = key_n, .value = value, .value_length = value_n};
    h->changed = true;
    return true;
}

/* Tags that are written. */
static inline uint32_t head_tags(const head_t *h)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < h->count; i++)
        count += !h->tags[i].gone;
    return count;
}

/* ---- writing it ---- */

/* Writes a name with its escapes at `to`; NULL if it does not fit before `end`. */
static inline uint8_t *head_put(uint8_t *to, const uint8_t *end, const uint8_t *p, uint32_t n, bool measurement)
{
    if ((size_t)(end - to) < n)
        return NULL;
    for (uint32_t i = 0; i < n; i++) {
        bool escaped = p[i] == ',' || p[i] == ' ' || (p[i] == '=' && !measurement);
        if (end - to < 1 + escaped)
            return NULL;
        if (escaped)
            *to++ = '\\';
        *to++ = p[i];
    }
    return to;
}

/* Writes the head in canonical form; returns its length, or 0 if it has more than `room` bytes or HEAD_BYTES_MAX. */
static inline uint32_t head_write(const head_t *h, uint8_t *to, uint32_t room)
{
    uint8_t *start = to, *end = to + (room < HEAD_BYTES_MAX ? room : HEAD_BYTES_MAX);
    to = head_put(to, end, h->measurement, h->measurement_length, true);
    for (uint32_t i = 0; to != NULL && i < h->count; i++) {
        const head_tag_t *tag = &h->tags[i];
        if (tag->gone)
            continue;
        if (to == end)
            return 0;
        *to++ = ',';
        to = head_put(to, end, tag->key, tag->key_length, false);
        if (to == NULL || to == end)
            return 0;
        *to++ = '=';
        to = head_put(to, end, tag->value, tag->value_length, false);
    }
    return to == NULL ? 0 : (uint32_t)(to - start);
}

#endif
