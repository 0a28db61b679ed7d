/* Reads StatsD and DogStatsD.
 *
 *   page.views:1|c|@0.1|#env:prod,host:web1 LF
 *   ^^^^^^^^^^                                    head: the name, and tags in three dialects
 *              ^ ^                                value(s) and type
 *                  ^^^^                           sample rate
 *                       ^^^^^^^^^^^^^^^^^^        tags of DogStatsD
 *
 * https://github.com/statsd/statsd/blob/master/docs/metric_types.md
 * https://docs.datadoghq.com/developers/dogstatsd/datagram_shell
 *
 * A line of one value in the usual form is taken apart by its marks (`:` `|` LF, and bytes that need a closer look)
 * and becomes a sample; its head and tags are not looked at if its series is known. All other lines are read twice
 * by the general path: once to see whether they are good, once to take their values; a malformed line has no effect.
 * The rules, each with its reason, are those of tests/reference/statsd.py.
 */
#ifndef PENSTOCK_STATSD_H
#define PENSTOCK_STATSD_H

#include "aggregate.h"
#include "utf8.h"

#define STATSD_ITEMS_MAX 128u
#define STATSD_TIME_MAX_S UINT64_C(9223372036)

static inline bool statsd_blank(uint8_t byte)
{
    return byte == 0 || (byte >= 9 && byte <= 13 && byte != 10) || byte == ' ';
}

static inline bool statsd_control(uint8_t byte)
{
    return byte < 0x20 || byte == 0x7F;
}

/* ---- numbers ---- */

/* Whole and decimal numbers of up to 15 digits: both parts are exact doubles, so one division is correctly rounded. */
static inline bool statsd_number_plain(const uint8_t *p, uint32_t n, double *value)
{
    static const double powers[16] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
    uint32_t i = n > 0 && (*p == '-' || *p == '+'), start = i, point = 0;
    if (n - i > 16 || n == i)
        return false;
    uint64_t digits = 0;
    for (; i < n; i++) {
        uint32_t d = (uint32_t)p[i] - '0';
        if (d <= 9) {
            digits = digits * 10 + d;
        } else if (p[i] == '.' && point == 0 && i > start) {
            point = i + 1;
        } else {
            return false;
        }
    }
    if (point == 0 && n - start > 15)
        return false;
    double v = (double)digits;
    if (point)
        v /= powers[n - point];
    *value = *p == '-' ? -v : v;
    return true;
}

/* Any number, blanks around it; false if it is none, or too great for a double. */
static inline bool statsd_number(const uint8_t *p, uint32_t n, double *value)
{
    while (n > 0 && statsd_blank(*p))
        p++, n--;
    while (n > 0 && statsd_blank(p[n - 1]))
        n--;
    if (statsd_number_plain(p, n, value))
        return true;
    bool plus = n > 0 && *p == '+';
    if (num_check_float(p + plus, n - plus) == NUM_BAD || (plus && n > 1 && p[1] == '-'))
        return false;
    return num_read_double(p + plus, n - plus, value) && isfinite(*value);
}

/* ---- the canonical text of a series ---- */

typedef struct {
    const uint8_t *key, *value; /* escaped, in the work area */
    uint32_t key_length, value_length;
} statsd_item_t;

typedef struct {
    statsd_item_t item[STATSD_ITEMS_MAX + 4];
    uint32_t count, seen;
    uint8_t *to; /* next free byte of the work area */
} statsd_items_t;

/* Writes a key or value so that it cannot become structure. */
static inline uint8_t *statsd_escape(uint8_t *to, const uint8_t *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint8_t byte = p[i];
        if (statsd_control(byte)) {
            byte = '_';
        } else if (byte == '\\') {
            uint8_t next = i + 1 < n ? p[i + 1] : ' ';
            if (next == '\\' || next == ',' || next == '=' || next == ' ' || next == '"' || statsd_control(next))
                byte = '/';
        } else if (byte == ',' || byte == '=' || byte == ' ') {
            *to++ = '\\';
        }
        *to++ = byte;
    }
    return to;
}

static inline bool statsd_text_is(const uint8_t *p, uint32_t n, const char *text)
{
    return n == strlen(text) && memcmp(p, text, n) == 0;
}

/* Adds a tag; one of the same key is replaced. */
static inline void statsd_item_add(statsd_items_t *items, const uint8_t *key, uint32_t key_length, const uint8_t *value,
                                   uint32_t value_length, bool raw_key)
{
    statsd_item_t item = {.key = items->to};
    items->to = statsd_escape(items->to, key, key_length);
    item.key_length = (uint32_t)(items->to - item.key);
    if (!raw_key && (statsd_text_is(item.key, item.key_length, "time") || statsd_text_is(item.key, item.key_length, "_measurement") ||
                     statsd_text_is(item.key, item.key_length, "_field") || statsd_text_is(item.key, item.key_length, "metric_type"))) {
        *items->to++ = '_';
        item.key_length++;
    }
    item.value = items->to;
    items->to = statsd_escape(items->to, value, value_length);
    item.value_length = (uint32_t)(items->to - item.value);
    for (uint32_t i = 0; i < items->count; i++)
        if (items->item[i].key_length == item.key_length && memcmp(items->item[i].key, item.key, item.key_length) == 0) {
            items->item[i] = item;
            return;
        }
    items->item[items->count++] = item;
}

/* Items of a head: `key=value`, others are ignored. False if there are too many. */
static inline bool statsd_items_head(statsd_items_t *items, const uint8_t *p, uint32_t n)
{
    const uint8_t *end = p + n;
    while (p < end) {
        const uint8_t *comma = memchr(p, ',', (size_t)(end - p)), *stop = comma ? comma : end;
        const uint8_t *equals = memchr(p, '=', (size_t)(stop - p));
        if (equals != NULL && equals > p && equals + 1 < stop) {
            if (++items->seen > STATSD_ITEMS_MAX)
                return false;
            statsd_item_add(items, p, (uint32_t)(equals - p), equals + 1, (uint32_t)(stop - equals - 1), false);
        }
        p = stop + 1;
    }
    return true;
}

/* Items of a `#` part: `key:value` or `key`. host_is_source: as events and checks have it. */
static inline bool statsd_items_part(statsd_items_t *items, const uint8_t *p, uint32_t n, bool host_is_source)
{
    static const uint8_t yes[PORT_PADDING] = "true", source[PORT_PADDING] = "source";
    const uint8_t *end = p + n;
    while (p < end) {
        const uint8_t *comma = memchr(p, ',', (size_t)(end - p)), *stop = comma ? comma : end;
        p += p < stop && *p == '#';
        const uint8_t *colon = memchr(p, ':', (uint32_t)(stop - p)), *key_end = colon ? colon : stop;
        if (key_end > p) {
            if (++items->seen > STATSD_ITEMS_MAX)
                return false;
            bool valued = colon != NULL && colon + 1 < stop;
            bool host = host_is_source && statsd_text_is(p, (uint32_t)(key_end - p), "host");
            statsd_item_add(items, host ? source : p, host ? 6 : (uint32_t)(key_end - p), valued ? colon + 1 : yes,
                            valued ? (uint32_t)(stop - colon - 1) : 4, false);
        }
        p = stop + 1;
    }
    return true;
}

static inline int statsd_item_compare(const void *a, const void *b)
{
    const statsd_item_t *x = a, *y = b;
    uint32_t n = x->key_length < y->key_length ? x->key_length : y->key_length;
    int order = memcmp(x->key, y->key, n);
    return order ? order : (x->key_length > y->key_length) - (x->key_length < y->key_length);
}

/* Writes measurement and sorted items; 0 if they are too long. */
static inline uint32_t statsd_head_put(statsd_items_t *items, const uint8_t *name, uint32_t name_length, uint8_t *to,
                                       const line_tags_t *agent, uint64_t *present)
{
    uint64_t length = name_length;
    qsort(items->item, items->count, sizeof *items->item, statsd_item_compare);
    for (uint32_t i = 0; i < items->count; i++)
        length += 2 + items->item[i].key_length + items->item[i].value_length;
    if (length > AGGREGATE_TEXT_MAX)
        return 0;
    memcpy(to, name, name_length);
    to += name_length;
    for (uint32_t i = 0; i < items->count; i++) {
        const statsd_item_t *item = &items->item[i];
        if (agent != NULL && agent->count) {
            line_key_t key = {item->key, item->key_length, line_hash(item->key, item->key_length)};
            *present |= line_agent_tag(agent, &key);
        }
        *to++ = ',';
        memcpy(to, item->key, item->key_length);
        to += item->key_length;
        *to++ = '=';
        memcpy(to, item->value, item->value_length);
        to += item->value_length;
    }
    /* With so many tags of its own a series goes without one of the agent's, rather than not at all. */
    if (agent != NULL && agent->count) {
        uint64_t all = agent->count == LINE_TAGS_MAX ? ~UINT64_C(0) : (UINT64_C(1) << agent->count) - 1;
        uint64_t missing = all & ~*present;
        if (unlikely(missing && line_tags_fatal(items->count + (uint32_t)__builtin_popcountll(missing))))
            *present |= missing & (0 - missing);
    }
    return (uint32_t)length;
}

/* Where the name ends and the items of a head stand. SignalFX's brackets take the items out of the middle. */
typedef struct {
    uint32_t name_end, items, items_end, rest; /* name: [0, name_end) and [rest, n) */
} statsd_split_t;

static inline statsd_split_t statsd_split_head(const aggregate_settings_t *settings, const uint8_t *p, uint32_t n)
{
    statsd_split_t split = {n, n, n, n};
    if (settings->dialect & DIALECT_SIGNALFX) {
        const uint8_t *open = memchr(p, '[', n), *any_close = memchr(p, ']', n);
        const uint8_t *close = open ? memchr(open, ']', n - (size_t)(open - p)) : NULL;
        if (close != NULL)
            return (statsd_split_t){(uint32_t)(open - p), (uint32_t)(open - p) + 1, (uint32_t)(close - p), (uint32_t)(close - p) + 1};
        if (open != NULL || any_close != NULL)
            return split;
    }
    for (uint32_t i = 0; i < n; i++)
        if ((p[i] == '#' && settings->dialect & DIALECT_LIBRATO) || (p[i] == ',' && settings->dialect & DIALECT_INFLUXDB))
            return (statsd_split_t){i, i + 1, n, n};
    return split;
}

/* A run of blanks becomes `_`, `/` becomes `-`, what is outside [A-Za-z0-9_.;=-] goes, then `.` becomes the separator. */
static inline uint8_t *statsd_name_put(const aggregate_settings_t *settings, uint8_t *to, const uint8_t *p, uint32_t n, bool *in_blanks)
{
    for (uint32_t i = 0; i < n; i++) {
        uint8_t byte = p[i];
        bool blank = byte == ' ' || (byte >= 9 && byte <= 13);
        if (blank && *in_blanks)
            continue;
        *in_blanks = blank;
        if (blank)
            byte = '_';
        else if (byte == '/')
            byte = '-';
        if (byte == '.') {
            memcpy(to, settings->separator, settings->separator_length);
            to += settings->separator_length;
        } else if ((byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') || byte == '_' ||
                   byte == ';' || byte == '=' || byte == '-') {
            *to++ = byte;
        }
    }
    return to;
}

static inline uint32_t statsd_raw_name(const aggregate_settings_t *settings, const uint8_t *head, uint32_t n, uint8_t *to)
{
    statsd_split_t split = statsd_split_head(settings, head, n);
    memcpy(to, head, split.name_end);
    memcpy(to + split.name_end, head + split.rest, n - split.rest);
    memset(to + split.name_end + (n - split.rest), 0, PORT_PADDING);
    return split.name_end + (n - split.rest);
}

static const char *const statsd_type_names[SERIES_TYPES] = {"counter", "gauge", "set", "timing", "histogram", "distribution"};

static inline uint32_t statsd_canonical(const aggregate_settings_t *settings, uint8_t type, const uint8_t *name,
                                        uint32_t name_length, const uint8_t *tags, uint32_t tags_length, uint8_t *work,
                                        uint8_t *to, const line_tags_t *agent, uint64_t *present, drop_t *reason)
{
    statsd_split_t split = statsd_split_head(settings, name, name_length);
    statsd_items_t items = {.to = work};
    bool in_blanks = false;
    uint8_t *end = statsd_name_put(settings, work, name, split.name_end, &in_blanks);
    end = statsd_name_put(settings, end, name + split.rest, name_length - split.rest, &in_blanks);
    uint32_t measurement = (uint32_t)(end - work);
    if (measurement == 0) {
        *reason = DROP_NAME;
        return 0;
    }
    items.to = end;
    if (!statsd_items_head(&items, name + split.items, split.items_end - split.items) ||
        !statsd_items_part(&items, tags, tags_length, false)) {
        *reason = DROP_TAG;
        return 0;
    }
    static const uint8_t metric_type[PORT_PADDING] = "metric_type";
    uint8_t kind[PORT_PADDING] = {0};
    memcpy(kind, statsd_type_names[type], strlen(statsd_type_names[type]));
    statsd_item_add(&items, metric_type, 11, kind, (uint32_t)strlen(statsd_type_names[type]), true);
    if (line_tags_fatal(items.count)) {
        *reason = DROP_TAG;
        return 0;
    }
    uint32_t n = statsd_head_put(&items, work, measurement, to, agent, present);
    if (n == 0)
        *reason = DROP_KEY_TOO_LONG;
    return n;
}

#endif
