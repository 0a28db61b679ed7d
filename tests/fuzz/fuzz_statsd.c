/* libFuzzer: arbitrary bytes through the StatsD reader, two tables, two ticks.
 *
 *   - nothing is read or written out of bounds, nothing is leaked (ASan, UBSan);
 *   - the fast path and the general one, and both kernels, give the same points and counts;
 *   - received = accepted + dropped;
 *   - what is written is canonical line protocol: our own line reader accepts all of it and changes nothing.
 *
 * The first bytes of the input choose dialect, gauge deltas, the agent's tags and the number of lanes. */
#include <stdio.h>

#include "memory_ring.h"
#include "ticker.h"

#define FUZZ_BYTES_MAX 4096u

static ring_t *ring, *points;
static line_tags_t *no_tags, *tags;
static line_reader_t *reader, *writer;
static ticker_t *ticker;
static aggregate_t *spare[2]; /* large: the same for all runs */
static statsd_reader_t *s;

typedef struct {
    uint8_t *bytes;
    uint64_t length;
    line_counts_t counts;
} outcome_t;

static void require(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "violated: %s\n", what);
        abort();
    }
}

static void append(outcome_t *o, ring_t *from)
{
    ring_batch_t batch;
    ring_publish(from);
    while (ring_take(from, UINT64_MAX, UINT64_MAX, true, &batch)) {
        o->bytes = realloc(o->bytes, o->length + batch.length);
        memcpy(o->bytes + o->length, batch.bytes, batch.length);
        o->length += batch.length;
        ring_free(from, &batch);
    }
}

static void tick(aggregate_t **tables, uint32_t lanes, const aggregate_settings_t *settings, outcome_t *o, int64_t at_ns)
{
    ticker_lane_t of[2] = {0};
    for (uint32_t i = 0; i < lanes; i++) {
        of[i].aggregate = tables[i];
        ticker_flip(&of[i], settings);
    }
    ticker->lanes = of;
    ticker->lane_count = lanes;
    ticker->settings = settings;
    ticker->rings = &points;
    ticker->ring_count = 1;
    ticker->writer = writer;
    ticker->at_ns = at_ns;
    require(ticker_run(ticker), "a tick has memory");
    append(o, points);
    for (uint32_t i = 0; i < lanes; i++) {
        ticker_remove(tables[i], of[i].forget, of[i].forget_tags, of[i].forget_count);
        tables[i]->table.held = false;
        free(of[i].forget);
        free(of[i].forget_tags);
    }
}

static outcome_t run(scan_index_fn scan, bool general, uint8_t flags, uint8_t dialect, const uint8_t *data, uint32_t n)
{
    aggregate_settings_t settings = {.scale = sketch_scale(0.01), .gauge_deltas = flags & 1, .reset_gauges = flags & 2,
                                     .dialect = dialect & DIALECT_AUTO, .separator_length = 1, .separator = "_",
                                     .percentile_count = 2, .percentiles = {90, 99.9}};
    for (int i = 0; i < SERIES_TYPES; i++)
        settings.expire_ticks[i] = 1 + (flags >> 2 & 1);
    uint32_t lanes = 1 + (flags >> 3 & 1);
    outcome_t o = {0};
    aggregate_t *tables[2] = {0};
    reader->tags = writer->tags = flags & 16 ? tags : no_tags;
    reader->general_only = general;
    reader->arrival_ns = 1700000000000000000;
    reader->stamp_ns = 0;
    reader->line_bytes_max = flags & 32 ? 64 : LINE_TEXT_MAX;
    uint8_t *text = malloc(n + PORT_PADDING);
    for (uint32_t i = 0; i < lanes; i++) {
        tables[i] = spare[i];
        memset(tables[i], 0, offsetof(aggregate_t, text));
        require(series_open(&tables[i]->table, flags & 64 ? 2 : 1000, 42), "a table has memory");
        tables[i]->settings = &settings;
    }
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < lanes; i++) {
            s->table = tables[i];
            s->reader = reader;
            s->scan = scan;
            if (n)
                memcpy(text, data, n);
            memset(text + n, 0x5A, PORT_PADDING);
            statsd_read(s, text, n, &o.counts);
            statsd_done(s, &o.counts);
        }
        append(&o, ring);
        tick(tables, lanes, &settings, &o, 1700000010000000000 + round);
    }
    tick(tables, lanes, &settings, &o, 1700000020000000000);
    tick(tables, lanes, &settings, &o, 1700000030000000000);
    for (uint32_t i = 0; i < lanes; i++)
        series_close(&tables[i]->table);
    free(text);
    return o;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    ring = memory_ring_new(1 << 22, RING_LP);
    points = memory_ring_new(1 << 22, RING_LP);
    no_tags = line_tags_new();
    tags = line_tags_new();
    line_tags_add(tags, (const uint8_t *)"dc", 2, (const uint8_t *)"eu\\ 1", 5);
    line_tags_add(tags, (const uint8_t *)"a\\=b", 4, (const uint8_t *)"v", 1);
    reader = memory_reader_new(scan_index_scalar, no_tags, ring);
    writer = memory_reader_new(scan_index_scalar, no_tags, points);
    ticker = calloc(1, sizeof *ticker);
    s = calloc(1, sizeof *s);
    for (int i = 0; i < 2; i++)
        spare[i] = calloc(1, sizeof **spare);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > FUZZ_BYTES_MAX)
        return 0;
    uint8_t flags = data[0], dialect = data[1];
    data += 2;
    uint32_t n = (uint32_t)size - 2;
    outcome_t first = run(scan_statsd_scalar, false, flags, dialect, data, n);
    uint64_t dropped = 0;
    for (int i = 0; i < DROP_REASONS; i++)
        dropped += first.counts.dropped[i];
    require(first.counts.received == first.counts.accepted + dropped, "received = accepted + dropped");

    outcome_t other = run(scan_has_avx2() ? scan_statsd_avx2 : scan_statsd_scalar, true, flags, dialect, data, n);
    require(first.length == other.length && (first.length == 0 || memcmp(first.bytes, other.bytes, first.length) == 0),
            "both paths give the same points");
    require(memcmp(&first.counts, &other.counts, sizeof first.counts) == 0, "both paths give the same counts");
    free(other.bytes);
    if (scan_has_avx2()) {
        other = run(scan_statsd_avx2, false, flags, dialect, data, n);
        require(first.length == other.length && (first.length == 0 || memcmp(first.bytes, other.bytes, first.length) == 0),
                "kernels agree");
        free(other.bytes);
    }

    line_counts_t counts;
    reader->tags = no_tags;
    reader->general_only = false;
    reader->line_bytes_max = 1 << 20;
    ring_batch_t again = memory_read(reader, first.bytes, (uint32_t)first.length, &counts);
    require(counts.received == counts.accepted && counts.rewritten == 0, "what we write is canonical");
    require(again.length == first.length && (first.length == 0 || memcmp(again.bytes, first.bytes, first.length) == 0),
            "what we write comes out unchanged");
    free(first.bytes);
    return 0;
}
