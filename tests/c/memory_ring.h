/* A ring over a memfd and a reader that writes into it, as the lane has them. */
#ifndef PENSTOCK_MEMORY_RING_H
#define PENSTOCK_MEMORY_RING_H

#include <sys/eventfd.h>
#include <sys/mman.h>

#include "line_reader.h"

static inline ring_t *memory_ring_new(uint64_t capacity, ring_encoding_t encoding)
{
    ring_t *r = aligned_alloc(CACHE_LINE, (sizeof *r + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    memset(r, 0, sizeof *r);
    r->wake_fd = eventfd(0, EFD_NONBLOCK);
    r->encoding = encoding;
    r->slot_bytes_max = 1 << 30;
    r->slot_metrics_max = 1 << 30;
    int fd = memfd_create("ring", 0);
    if (fd < 0 || ring_open(r, fd, capacity, NULL, 0))
        abort();
    close(fd);
    return r;
}

static inline void memory_ring_free(ring_t *r)
{
    ring_close(r);
    close(r->wake_fd);
    free(r);
}

static inline line_reader_t *memory_reader_new(scan_index_fn scan, line_tags_t *tags, ring_t *ring)
{
    line_reader_t *c = calloc(1, sizeof *c);
    if (c == NULL)
        abort();
    line_reader_open(c, scan, tags);
    c->rings[0] = ring;
    c->ring_count = 1;
    return c;
}

static inline void memory_reader_free(line_reader_t *c)
{
    line_reader_close(c);
    free(c);
}

/* Reads n bytes from a copy that ends right before unreadable padding would (ASan sees an overrun of it). Returns
 * what was written, borrowed from the ring until the next call. */
static inline ring_batch_t memory_read(line_reader_t *c, const uint8_t *data, uint32_t n, line_counts_t *counts)
{
    static const ring_batch_t nothing;
    ring_batch_t batch = nothing;
    uint8_t *text = malloc(n + PORT_PADDING);
    if (n)
        memcpy(text, data, n);
    memset(text + n, 0x5A, PORT_PADDING);
    memset(counts, 0, sizeof *counts);
    ring_begin(c->rings[0]);
    line_read(c, text, n, counts);
    ring_publish(c->rings[0]);
    for (uint32_t i = 0; i < PORT_PADDING; i++)
        if (text[n + i] != 0x5A)
            abort(); /* what was borrowed was not put back */
    free(text);
    if (ring_take(c->rings[0], UINT64_MAX, UINT64_MAX, true, &batch))
        ring_free(c->rings[0], &batch);
    return batch;
}

#endif
