/* libFuzzer: arbitrary bytes through the line reader, and what must hold whatever they are.
 *
 *   - nothing is read or written out of bounds (ASan, UBSan);
 *   - the fast path and the general one, and both kernels, give the same bytes and the same counts;
 *   - received = accepted + dropped;
 *   - what was written is canonical: read again it is accepted whole and comes out unchanged.
 *
 * The first two bytes of the input choose precision, agent tags and whether unsigned integers may be written. */
#include <stdio.h>

#include "memory_ring.h"

#define FUZZ_BYTES_MAX 4096u

typedef struct {
    ring_batch_t batch;
    line_counts_t counts;
    uint8_t *bytes;
} outcome_t;

static ring_t *ring[2]; /* [unsigned_ok] */
static line_tags_t *no_tags, *tags;
static line_reader_t *reader;

static void require(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "violated: %s\n", what);
        abort();
    }
}

static outcome_t run(scan_index_fn scan, bool general, uint8_t flags, const uint8_t *data, uint32_t n)
{
    static const line_precision_t precisions[4] = {LINE_NS, LINE_US, LINE_MS, LINE_S};
    outcome_t o;
    line_reader_t *c = reader; /* large: one for all runs */
    c->scan = scan;
    c->tags = flags & 4 ? tags : no_tags;
    c->rings[0] = ring[flags >> 3 & 1];
    c->stamp_ns = 0;
    c->precision = precisions[flags & 3];
    c->general_only = general;
    c->arrival_ns = 1700000000000000000;
    c->line_bytes_max = flags & 16 ? 64 : LINE_TEXT_MAX;
    o.batch = memory_read(c, data, n, &o.counts);
    o.bytes = malloc(o.batch.length + 1);
    if (o.batch.length)
        memcpy(o.bytes, o.batch.bytes, o.batch.length);
    return o;
}

static void require_equal(const outcome_t *a, const outcome_t *b, const char *what)
{
    require(a->batch.length == b->batch.length && memcmp(a->bytes, b->bytes, a->batch.length) == 0, what);
    require(memcmp(&a->counts, &b->counts, sizeof a->counts) == 0, what);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    ring[0] = memory_ring_new(1 << 20, false);
    ring[1] = memory_ring_new(1 << 20, true);
    no_tags = line_tags_new();
    tags = line_tags_new();
    reader = memory_reader_new(scan_index_scalar, no_tags, ring[0]);
    line_tags_add(tags, (const uint8_t *)"dc", 2, (const uint8_t *)"eu\\ 1", 5);
    line_tags_add(tags, (const uint8_t *)"a\\=b", 4, (const uint8_t *)"v", 1);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > FUZZ_BYTES_MAX)
        return 0;
    uint8_t flags = data[0];
    data += 2;
    uint32_t n = (uint32_t)size - 2;
    outcome_t first = run(scan_index_scalar, false, flags, data, n);
    uint64_t dropped = 0;
    for (int i = 0; i < DROP_REASONS; i++)
        dropped += first.counts.dropped[i];
    require(first.counts.received == first.counts.accepted + dropped, "received = accepted + dropped");
    require(first.batch.metrics == first.counts.accepted, "the ring holds what was accepted");
    require(line_count(first.bytes, first.batch.length) == first.counts.accepted, "lines written = accepted");

    outcome_t general = run(scan_index_scalar, true, flags, data, n);
    require_equal(&first, &general, "fast and general path agree");
    if (scan_has_avx2()) {
        outcome_t vector = run(scan_index_avx2, false, flags, data, n);
        require_equal(&first, &vector, "kernels agree");
        free(vector.bytes);
    }
    outcome_t again = run(scan_index_scalar, false, flags & 8, first.bytes, (uint32_t)first.batch.length);
    require(again.counts.accepted == first.counts.accepted && again.counts.rewritten == 0, "what we write is canonical");
    require(again.batch.length == first.batch.length && memcmp(again.bytes, first.bytes, first.batch.length) == 0,
            "what we write comes out unchanged");
    free(again.bytes);
    free(general.bytes);
    free(first.bytes);
    return 0;
}
