/* Reads metrics of OpenTelemetry: a serialized ExportMetricsServiceRequest, not compressed.
 *
 *   request ─▶ resource_metrics ─▶ scope_metrics ─▶ metric ─▶ data point
 *              attributes           name, version    name      attributes, time, values
 *
 * https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/metrics/v1/metrics.proto
 *
 * The mapping is that of Telegraf's input `opentelemetry` with the schema prometheus-v1. A data point is a metric here: the
 * measurement is the metric's name, tags are otel.library.name and otel.library.version, the resource's attributes and the
 * point's, of which the first with a key stays. Fields:
 *
 *   gauge, sums        gauge; counter, if the sum is cumulative and only grows
 *   histogram          count, sum, min, max, and for each bound, and +Inf, how many values are not above it
 *   exponential        the same by powers of two, into which its buckets fit whole; zero_count
 *   summary            count, sum, and a field for each quantile
 *
 * A data point is taken whole or not at all. Of a message that is malformed somewhere, what stands before is kept, and the
 * rest is one metric that is dropped (reason protobuf).
 */
#ifndef PENSTOCK_OTLP_READ_H
#define PENSTOCK_OTLP_READ_H

#include "otlp_point.h"

/* Which fields of a Metric hold its data. */
enum { OTLP_GAUGE = 5, OTLP_SUM = 7, OTLP_HISTOGRAM = 9, OTLP_EXPONENTIAL = 10, OTLP_SUMMARY = 11 };
enum { OTLP_CUMULATIVE = 2 };

/* A data point at [p, end). False if it is malformed: it is not counted then. */
static inline bool otlp_data_point(otlp_t *o, uint32_t kind, const uint8_t *p, const uint8_t *end, line_counts_t *counts)
{
    drop_t reason = DROP_NONE;
    bool fine;
    o->to = o->point.text;
    o->field_key_bytes = 0;
    switch (kind) {
    case OTLP_HISTOGRAM:
        fine = otlp_histogram(o, p, end, &reason);
        break;
    case OTLP_EXPONENTIAL:
        fine = otlp_exponential(o, p, end, &reason);
        break;
    case OTLP_SUMMARY:
        fine = otlp_summary(o, p, end, &reason);
        break;
    default:
        fine = otlp_number(o, p, end, &reason);
    }
    if (!fine)
        return false;
    counts->received++;
    if (reason == DROP_NONE)
        reason = otlp_emit(o, counts);
    if (unlikely(reason != DROP_NONE))
        line_refuse(o->point.reader, p, (uint64_t)(end - p), reason, counts);
    return true;
}

/* A Gauge, Sum, Histogram, ExponentialHistogram or Summary at [p, end): its data points. */
static inline bool otlp_data(otlp_t *o, uint32_t kind, const uint8_t *p, const uint8_t *end, line_counts_t *counts)
{
    proto_field_t f = {0};
    uint64_t temporality = 0, monotonic = 0;
    for (const uint8_t *at = p; at < end;) {
        if (!proto_next(&at, end, &f))
            break; /* found again below, behind the points that are whole */
        if (kind == OTLP_SUM && f.number == 2 && f.kind == PROTO_VARINT)
            temporality = f.value;
        if (kind == OTLP_SUM && f.number == 3 && f.kind == PROTO_VARINT)
            monotonic = f.value;
    }
    o->counter = kind == OTLP_SUM && temporality == OTLP_CUMULATIVE && monotonic;
    foreign_mark_t mark = foreign_mark(&o->point);
    while (p < end) {
        if (!proto_next(&p, end, &f))
            return false;
        if (f.number != 1) {
            if (kind == OTLP_SUM && (f.number == 2 || f.number == 3) && f.kind != PROTO_VARINT)
                return false;
            continue;
        }
        foreign_rewind(&o->point, &mark);
        if (f.kind != PROTO_BYTES || !otlp_data_point(o, kind, f.bytes, p, counts))
            return false;
    }
    return true;
}

/* A Metric at [p, end); the point has the tags of resource and scope. */
static inline bool otlp_metric(otlp_t *o, const uint8_t *p, const uint8_t *end, line_counts_t *counts)
{
    proto_field_t f = {0}, name = {0}, data = {0};
    while (p < end) {
        if (!proto_next(&p, end, &f))
            return false;
        bool is_data = f.number == OTLP_GAUGE || f.number == OTLP_SUM || (f.number >= OTLP_HISTOGRAM && f.number <= OTLP_SUMMARY);
        if (!is_data && f.number != 1)
            continue;
        if (f.kind != PROTO_BYTES)
            return false;
        *(is_data ? &data : &name) = f;
    }
    if (data.number == 0)
        return true; /* nothing, or a kind that is not known */
    foreign_measurement(&o->point, name.bytes, name.length > LINE_KEY_BYTES ? LINE_KEY_BYTES + 1 : (uint32_t)name.length);
    return otlp_data(o, data.number, data.bytes, data.bytes + data.length, counts);
}

/* The attributes of the Resource at [p, end). */
static inline bool otlp_resource_tags(foreign_t *s, const uint8_t *p, const uint8_t *end)
{
    proto_field_t f = {0};
    while (p < end) {
        if (!proto_next(&p, end, &f))
            return false;
        if (f.number != 1)
            continue;
        if (f.kind != PROTO_BYTES || !otlp_tag(s, f.bytes, p))
            return false;
    }
    return true;
}

/* Name and version of the InstrumentationScope at [p, end). */
static inline bool otlp_scope_tags(foreign_t *s, const uint8_t *p, const uint8_t *end)
{
    static const uint8_t keys[2][PORT_PADDING] = {"otel.library.name", "otel.library.version"};
    proto_field_t f = {0};
    while (p < end) {
        if (!proto_next(&p, end, &f))
            return false;
        if (f.number > 2)
            continue;
        if (f.kind != PROTO_BYTES)
            return false;
        if (f.length > LINE_KEY_BYTES) {
            foreign_wrong(s, DROP_KEY_TOO_LONG);
            continue;
        }
        /* The key stands elsewhere than what is readable up to the limit: it is copied first. */
        uint8_t *key = s->text + 2 * FOREIGN_TEXT_MAX, *value = key + PORT_PADDING;
        const uint8_t *limit = s->limit;
        memcpy(key, keys[f.number - 1], PORT_PADDING);
        memcpy(value, f.bytes, f.length);
        s->limit = s->text + FOREIGN_TEXT_BYTES;
        foreign_tag(s, key, f.number == 1 ? 17 : 20, value, (uint32_t)f.length, false);
        s->limit = limit;
    }
    return true;
}

/* Tags of what is field 1 of the message at [p, end): a Resource, or a scope. */
static inline bool otlp_each_tags(foreign_t *s, const uint8_t *p, const uint8_t *end, bool (*tags)(foreign_t *, const uint8_t *, const uint8_t *))
{
    proto_field_t f = {0};
    while (p < end) {
        if (!proto_next(&p, end, &f))
            return true; /* what is malformed is found by whoever reads the rest of the message */
        if (f.number == 1 && (f.kind != PROTO_BYTES || !tags(s, f.bytes, p)))
            return false;
    }
    return true;
}

/* A ScopeMetrics at [p, end), of the ResourceMetrics at [resource, resource_end). */
static inline bool otlp_scope(otlp_t *o, const uint8_t *resource, const uint8_t *resource_end, const uint8_t *p, const uint8_t *end,
                              line_counts_t *counts)
{
    foreign_t *s = &o->point;
    foreign_begin(s);
    if (!otlp_each_tags(s, p, end, otlp_scope_tags) || !otlp_each_tags(s, resource, resource_end, otlp_resource_tags))
        return false;
    foreign_mark_t mark = foreign_mark(s);
    proto_field_t f = {0};
    while (p < end) {
        if (!proto_next(&p, end, &f))
            return false;
        if (f.number != 2)
            continue;
        foreign_rewind(s, &mark);
        s->head = s->tags;
        if (f.kind != PROTO_BYTES || !otlp_metric(o, f.bytes, p, counts))
            return false;
    }
    return true;
}

/* A ResourceMetrics at [p, end). */
static inline bool otlp_resource(otlp_t *o, const uint8_t *p, const uint8_t *end, line_counts_t *counts)
{
    const uint8_t *start = p;
    proto_field_t f = {0};
    while (p < end) {
        if (!proto_next(&p, end, &f))
            return false;
        if (f.number == 2 && (f.kind != PROTO_BYTES || !otlp_scope(o, start, end, f.bytes, p, counts)))
            return false;
    }
    return true;
}

/* Reads the request at [p, p + n), PORT_PADDING readable behind it. */
static __attribute__((noinline)) void otlp_read(line_reader_t *c, const uint8_t *p, uint64_t n, line_counts_t *counts)
{
    otlp_t o;
    const uint8_t *end = p + n;
    bool fine = foreign_open(&o.point, c, end + PORT_PADDING);
    drop_t reason = fine ? DROP_PROTOBUF : DROP_LINE_TOO_LONG;
    proto_field_t f = {0};
    while (fine && p < end) {
        const uint8_t *at = p;
        fine = proto_next(&at, end, &f) && (f.number != 1 || (f.kind == PROTO_BYTES && otlp_resource(&o, f.bytes, at, counts)));
        if (fine)
            p = at;
    }
    if (unlikely(!fine)) {
        counts->received++;
        line_refuse(c, p, (uint64_t)(end - p), reason, counts);
    }
}

#endif
