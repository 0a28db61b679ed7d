/* libFuzzer: arbitrary bytes as a WriteRequest. The first byte of the input chooses the agent's tags.
 *
 * What must hold besides (format.h): labels taken the short way are what they are by the general path, as lines and as samples. */
#include "format.h"
#include "point_body.h"
#include "remote_read.h"

#define FUZZ_BYTES_MAX 4096u

static void read_remote(line_reader_t *c, const uint8_t *p, uint32_t n, uint8_t flags, line_counts_t *counts)
{
    (void)flags;
    remote_read(c, p, n, counts);
}

static ring_t *remote_ring;

/* Reads a message into a ring of samples; returns a sum of what is in it. */
static uint64_t remote_samples(const uint8_t *data, uint32_t n)
{
    uint64_t sum = 0;
    line_counts_t counts = {0};
    ring_batch_t batch;
    uint8_t *text = malloc(n + PORT_PADDING);
    if (n)
        memcpy(text, data, n);
    memset(text + n, 0x5A, PORT_PADDING);
    format_reader->rings[0] = remote_ring;
    ring_begin(remote_ring);
    remote_read(format_reader, text, n, &counts);
    ring_publish(remote_ring);
    while (ring_take(remote_ring, UINT64_MAX, UINT64_MAX, true, &batch)) {
        format_require(point_count(batch.bytes, batch.length) == batch.metrics, "records of samples are whole");
        sum = format_sum_on(sum, batch.bytes, batch.length);
        ring_free(remote_ring, &batch);
    }
    format_reader->rings[0] = format_ring;
    free(text);
    return sum;
}

static void remote_compare(const uint8_t *data, uint32_t n, uint8_t flags)
{
    line_counts_t counts[2];
    uint64_t lines[2], samples[2];
    for (int general = 0; general < 2; general++) {
        format_reader->general_only = general;
        counts[general] = format_run(read_remote, data, n, flags);
        lines[general] = format_sum;
        format_reader->tags = flags & 1 ? format_tags : format_no_tags;
        samples[general] = remote_samples(data, n);
    }
    format_reader->general_only = false;
    format_require(memcmp(&counts[0], &counts[1], sizeof *counts) == 0, "both ways count the same");
    format_require(lines[0] == lines[1], "both ways write the same lines");
    format_require(samples[0] == samples[1], "both ways write the same samples");
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    format_open();
    remote_ring = memory_ring_new(1 << 24, RING_PB);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0 && size <= FUZZ_BYTES_MAX)
        remote_compare(data + 1, (uint32_t)size - 1, data[0] & 1);
    return 0;
}
