/* libFuzzer: arbitrary bytes through the line reader into a ring of samples beside a ring of lines.
 *
 *   - nothing is read or written out of bounds (ASan, UBSan);
 *   - what is in the ring is a WriteRequest in the form of the specification: labels sorted by name, each once, none
 *     empty, names of the letters that are allowed, __name__ there, one sample, and no byte besides;
 *   - as many records as the ring counts, and each line all of it or nothing;
 *   - the fast path and the general one, and both kernels, give the same records.
 *
 * The first two bytes of the input choose precision and agent tags. */
#include <math.h>
#include <stdio.h>

#include "../c/memory_ring.h"

#define FUZZ_BYTES_MAX 4096u

static ring_t *lines_ring, *samples_ring;
static line_tags_t *no_tags, *tags;
static line_reader_t *reader;

static void require(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "violated: %s\n", what);
        abort();
    }
}

static bool name_good(const uint8_t *p, uint64_t n, bool colon)
{
    for (uint64_t i = 0; i < n; i++)
        if (!((p[i] | 0x20) >= 'a' && (p[i] | 0x20) <= 'z') && p[i] != '_' && !(colon && p[i] == ':') &&
            !(i > 0 && p[i] >= '0' && p[i] <= '9'))
            return false;
    return n > 0;
}

static void check_label(proto_field_t label, const uint8_t **last, uint64_t *last_length, uint32_t *names)
{
    proto_field_t name, value;
    const uint8_t *at = label.bytes, *end = at + label.length;
    require(proto_next(&at, end, &name) && name.number == 1 && name.kind == PROTO_BYTES, "a label has a name");
    require(proto_next(&at, end, &value) && value.number == 2 && value.kind == PROTO_BYTES && at == end, "and a value");
    require(value.length > 0 && utf8_valid(value.bytes, (uint32_t)value.length), "no value is empty, all are UTF-8");
    bool metric = name.length == 8 && memcmp(name.bytes, "__name__", 8) == 0;
    *names += metric;
    require(name_good(name.bytes, name.length, false), "the name of a label is allowed");
    require(!metric || name_good(value.bytes, value.length, true), "the name of a metric is allowed");
    uint64_t n = name.length < *last_length ? name.length : *last_length;
    int order = *last == NULL ? -1 : memcmp(*last, name.bytes, n);
    require(order < 0 || (order == 0 && *last_length < name.length), "labels are sorted, and each is there once");
    *last = name.bytes;
    *last_length = name.length;
}

static uint64_t check_body(const uint8_t *at, const uint8_t *end)
{
    uint64_t records = 0;
    for (proto_field_t series, field; at < end; records++) {
        require(proto_next(&at, end, &series) && series.number == 1 && series.kind == PROTO_BYTES, "a record is a TimeSeries");
        const uint8_t *p = series.bytes, *stop = p + series.length, *last = NULL;
        uint64_t last_length = 0;
        uint32_t names = 0, samples = 0;
        while (p < stop) {
            require(proto_next(&p, stop, &field) && field.kind == PROTO_BYTES && field.number <= 2, "of labels and samples");
            if (field.number == 1) {
                require(samples == 0, "labels come first");
                check_label(field, &last, &last_length, &names);
                continue;
            }
            samples++;
            proto_field_t value, time;
            const uint8_t *q = field.bytes, *q_end = q + field.length;
            require(proto_next(&q, q_end, &value) && value.number == 1 && value.kind == PROTO_FIXED64, "a sample has a value");
            require(isfinite(proto_double(value.value)), "that is finite");
            require(proto_next(&q, q_end, &time) && time.number == 2 && time.kind == PROTO_VARINT && q == q_end, "and a time");
        }
        require(names == 1 && samples == 1, "one name and one sample");
    }
    return records;
}

static uint8_t *run(scan_index_fn scan, bool general, uint8_t flags, const uint8_t *data, uint32_t n, uint64_t *length,
                    line_counts_t *counts)
{
    static const line_precision_t precisions[4] = {LINE_NS, LINE_US, LINE_MS, LINE_S};
    line_reader_t *c = reader;
    c->scan = scan;
    c->tags = flags & 4 ? tags : no_tags;
    c->stamp_ns = 0;
    c->precision = precisions[flags & 3];
    c->general_only = general;
    c->arrival_ns = flags & 8 ? 1700000000000000000 : 5;
    c->rings[0] = lines_ring;
    c->rings[1] = samples_ring;
    c->ring_count = 2;
    uint64_t before = counter_get(&samples_ring->written), accepted = counter_get(&samples_ring->accepted);
    uint64_t missed = counter_get(&samples_ring->missed);
    ring_begin(samples_ring);
    memory_read(c, data, n, counts);
    ring_publish(samples_ring);
    ring_count_accepted(samples_ring, counts->points);
    ring_batch_t batch = {0};
    uint64_t taken = 0;
    uint8_t *bytes = malloc(1);
    *length = 0;
    while (ring_take(samples_ring, UINT64_MAX, UINT64_MAX, true, &batch)) {
        bytes = realloc(bytes, *length + batch.length + 1);
        memcpy(bytes + *length, batch.bytes, batch.length);
        *length += batch.length;
        taken += batch.metrics;
        ring_free(samples_ring, &batch);
    }
    uint64_t written = counter_get(&samples_ring->written) - before;
    missed = counter_get(&samples_ring->missed) - missed;
    require(taken == written, "what was written is taken");
    require(counter_get(&samples_ring->accepted) - accepted == written + missed, "accepted = written + missed");
    require(check_body(bytes, bytes + *length) == written, "a record for each sample");
    return bytes;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    lines_ring = memory_ring_new(1 << 20, RING_LP);
    samples_ring = memory_ring_new(1 << 20, RING_PB);
    no_tags = line_tags_new();
    tags = line_tags_new();
    reader = memory_reader_new(scan_index_scalar, no_tags, lines_ring);
    line_tags_add(tags, (const uint8_t *)"dc", 2, (const uint8_t *)"eu\\ 1", 5);
    line_tags_add(tags, (const uint8_t *)"a\\=b", 4, (const uint8_t *)"v", 1);
    line_tags_add(tags, (const uint8_t *)"Zone", 4, (const uint8_t *)"1", 1);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > FUZZ_BYTES_MAX)
        return 0;
    uint8_t flags = data[0];
    data += 2;
    uint32_t n = (uint32_t)size - 2;
    line_counts_t counts;
    uint64_t length, other;
    uint8_t *bytes = run(scan_index_scalar, false, flags, data, n, &length, &counts);
    uint8_t *general = run(scan_index_scalar, true, flags, data, n, &other, &counts);
    require(length == other && (length == 0 || memcmp(bytes, general, length) == 0), "fast and general path agree");
    free(general);
    if (scan_has_avx2()) {
        uint8_t *vector = run(scan_index_avx2, false, flags, data, n, &other, &counts);
        require(length == other && (length == 0 || memcmp(bytes, vector, length) == 0), "kernels agree");
        free(vector);
    }
    free(bytes);
    return 0;
}
