/* libFuzzer: arbitrary bytes through the line reader, and what must hold whatever they are.
 *
 *   - nothing is read or written out of bounds (ASan, UBSan);
 *   - the fast path and the general one, and both kernels, give the same bytes and the same counts;
 *   - received = accepted + dropped;
 *   - what was written is canonical: read again it is accepted whole and comes out unchanged;
 *   - a guard that lets everything pass changes nothing, whatever it knows of the heads from earlier inputs; one that keeps
 *     types leaves both paths alike, and what they write canonical.
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

static ring_t *ring[2]; /* by ring_encoding_t */
static line_tags_t *no_tags, *tags;
static line_reader_t *reader;
static guard_t guard, typed;
static types_t types;

static void require(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "violated: %s\n", what);
        abort();
    }
}

/* What holds of every outcome. */
static void require_lawful(const outcome_t *o)
{
    uint64_t dropped = 0;
    for (int i = 0; i < DROP_REASONS; i++)
        dropped += o->counts.dropped[i];
    require(o->counts.received == o->counts.accepted + dropped, "received = accepted + dropped");
    require(o->batch.metrics == o->counts.accepted, "the ring holds what was accepted");
    require(line_count(o->bytes, o->batch.length) == o->counts.accepted, "lines written = accepted");
}

static outcome_t run(scan_index_fn scan, bool general, uint8_t flags, const uint8_t *data, uint32_t n)
{
    static const line_precision_t precisions[4] = {LINE_NS, LINE_US, LINE_MS, LINE_S};
    outcome_t o;
    line_reader_t *c = reader; /* large: one for all runs */
    c->scan = scan;
    c->tags = flags & 4 ? tags : no_tags;
    c->rings[0] = ring[flags >> 3 & 1 ? RING_LP : RING_LP_SIGNED];
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
    ring[RING_LP] = memory_ring_new(1 << 20, RING_LP);
    ring[RING_LP_SIGNED] = memory_ring_new(1 << 20, RING_LP_SIGNED);
    no_tags = line_tags_new();
    tags = line_tags_new();
    tags->hash = 1;
    static plan_routes_t plan = {.count = 1, .outputs = {{.group = PLAN_NO_GROUP}}};
    mix_key_t key;
    require(mix_key_draw(&key) && guard_open(&guard, &plan, NULL, 0, &key) && guard_open(&typed, &plan, NULL, 0, &key) &&
                types_open(&types, -1, 1000) == 0 && guard_keep_types(&typed, &types, (types_rules_t){.coerce = true}),
            "there is memory");
    guard_mark_collisions(&guard);
    guard_begin(&guard, 1700000000000000000);
    guard_begin(&typed, 1700000000000000000);
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
    require_lawful(&first);

    outcome_t general = run(scan_index_scalar, true, flags, data, n);
    require_equal(&first, &general, "fast and general path agree");
    if (scan_has_avx2()) {
        outcome_t vector = run(scan_index_avx2, false, flags, data, n);
        require_equal(&first, &vector, "kernels agree");
        free(vector.bytes);
    }
    reader->guard = &guard;
    for (int known = 0; known < 2; known++) {
        outcome_t guarded = run(scan_index_scalar, false, flags, data, n);
        require_equal(&first, &guarded, "a guard that lets everything pass");
        free(guarded.bytes);
    }
    reader->guard = &typed;
    outcome_t one = run(scan_index_scalar, true, flags, data, n), other = run(scan_index_scalar, false, flags, data, n);
    require_lawful(&one);
    require_equal(&one, &other, "fast and general path agree about types");
    reader->guard = NULL;
    outcome_t typed_again = run(scan_index_scalar, false, flags & 8, one.bytes, (uint32_t)one.batch.length);
    require(typed_again.batch.length == one.batch.length && memcmp(typed_again.bytes, one.bytes, one.batch.length) == 0,
            "what is coerced is canonical");
    free(typed_again.bytes);
    free(other.bytes);
    free(one.bytes);
    outcome_t again = run(scan_index_scalar, false, flags & 8, first.bytes, (uint32_t)first.batch.length);
    require(again.counts.accepted == first.counts.accepted && again.counts.rewritten == 0, "what we write is canonical");
    require(again.batch.length == first.batch.length && memcmp(again.bytes, first.bytes, first.batch.length) == 0,
            "what we write comes out unchanged");
    free(again.bytes);
    free(general.bytes);
    free(first.bytes);
    return 0;
}
