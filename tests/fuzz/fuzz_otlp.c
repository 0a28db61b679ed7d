/* libFuzzer: arbitrary bytes as an ExportMetricsServiceRequest. The first byte of the input chooses the agent's tags. */
#include "format.h"
#include "otlp_read.h"

#define FUZZ_BYTES_MAX 4096u

static void read_otlp(line_reader_t *c, const uint8_t *p, uint32_t n, uint8_t flags, line_counts_t *counts)
{
    (void)flags;
    otlp_read(c, p, n, counts);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    format_open();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0 && size <= FUZZ_BYTES_MAX)
        format_run(read_otlp, data + 1, (uint32_t)size - 1, data[0] & 1);
    return 0;
}
