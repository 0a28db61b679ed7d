/* What must hold for every reader of a format of others, whatever the bytes are.
 *
 *   - nothing is read or written out of bounds (ASan, UBSan), and the input is left as it is;
 *   - received = accepted + dropped, and the ring holds what was accepted;
 *   - what was written is canonical line protocol: our own line reader accepts all of it and changes nothing. */
#ifndef PENSTOCK_FUZZ_FORMAT_H
#define PENSTOCK_FUZZ_FORMAT_H

#include <stdio.h>

#include "memory_ring.h"

#define FORMAT_NOW_NS INT64_C(1700000000000000000)

/* Reads n bytes at p, PORT_PADDING readable behind them. */
typedef void (*format_read_fn)(line_reader_t *c, const uint8_t *p, uint32_t n, uint8_t flags, line_counts_t *counts);

static ring_t *format_ring;
static line_tags_t *format_no_tags, *format_tags;
static line_reader_t *format_reader;
static uint64_t format_sum; /* of what format_run has written */

static void format_require(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "violated: %s\n", what);
        abort();
    }
}

static uint64_t format_sum_on(uint64_t sum, const uint8_t *p, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        sum = (sum ^ p[i]) * UINT64_C(0x100000001B3);
    return sum;
}

static void format_open(void)
{
    format_ring = memory_ring_new(1 << 24, RING_LP);
    format_no_tags = line_tags_new();
    format_tags = line_tags_new();
    format_reader = memory_reader_new(scan_index_scalar, format_no_tags, format_ring);
    line_tags_add(format_tags, (const uint8_t *)"dc", 2, (const uint8_t *)"eu\\ 1", 5);
    line_tags_add(format_tags, (const uint8_t *)"a\\=b", 4, (const uint8_t *)"v", 1);
}

/* Reads data with the agent's tags (flags & 1), with a line limit of 64 (flags & 2); returns what was counted. */
static line_counts_t format_run(format_read_fn read, const uint8_t *data, uint32_t n, uint8_t flags)
{
    line_reader_t *c = format_reader;
    line_counts_t counts = {0}, again;
    uint64_t dropped = 0;
    c->tags = flags & 1 ? format_tags : format_no_tags;
    c->precision = LINE_S;
    c->arrival_ns = FORMAT_NOW_NS;
    c->stamp_ns = 0;
    c->line_bytes_max = flags & 2 ? 64 : LINE_TEXT_MAX;
    uint8_t *text = malloc(n + PORT_PADDING);
    if (n)
        memcpy(text, data, n);
    memset(text + n, 0x5A, PORT_PADDING);
    ring_begin(format_ring);
    read(c, text, n, flags, &counts);
    ring_publish(format_ring);
    format_require(n == 0 || memcmp(text, data, n) == 0, "the input is left as it is");
    free(text);
    for (int i = 0; i < DROP_REASONS; i++)
        dropped += counts.dropped[i];
    format_require(counts.received == counts.accepted + dropped, "received = accepted + dropped");
    uint64_t length = 0, metrics = 0;
    uint8_t *body = malloc(1);
    ring_batch_t batch;
    while (ring_take(format_ring, UINT64_MAX, UINT64_MAX, true, &batch)) {
        body = realloc(body, length + batch.length + 1);
        memcpy(body + length, batch.bytes, batch.length);
        length += batch.length;
        metrics += batch.metrics;
        ring_free(format_ring, &batch);
    }
    format_require(metrics == counts.accepted && line_count(body, length) == metrics, "the ring holds what was accepted");
    c->tags = format_no_tags;
    c->precision = LINE_NS;
    c->line_bytes_max = 1 << 20;
    batch = memory_read(c, body, (uint32_t)length, &again);
    format_require(again.accepted == metrics && again.rewritten == 0, "what we write is canonical");
    format_require(batch.length == length && (length == 0 || memcmp(batch.bytes, body, length) == 0), "what we write comes out unchanged");
    format_sum = format_sum_on(0, body, length);
    free(body);
    return counts;
}

#endif
