/* libFuzzer: arbitrary bytes through the Graphite reader, with and without templates. The first byte of the input
 * chooses the agent's tags, the limit of a line, and the templates. */
#include "format.h"
#include "graphite.h"

#define FUZZ_BYTES_MAX 4096u

static graphite_t *plain, *shaped;

/* `servers.* .host.measurement* env=p`, `a.b measurement.field.host.host`, and by default `host.measurement*`. */
static graphite_t *shape(void)
{
    static const char text[] = "servers" "a" "b" "host" "env" "p";
    graphite_t *g = calloc(1, sizeof *g);
    g->text = calloc(1, sizeof text + PORT_PADDING);
    memcpy(g->text, text, sizeof text);
    g->join[0] = '_';
    g->join_length = 1;
    g->templates = calloc(3, sizeof *g->templates);
    g->tags = calloc(4, sizeof *g->tags);
    g->filters = calloc(5, sizeof *g->filters);
    g->by_default = GRAPHITE_NONE;
    graphite_text_t host = {9, 4}, env = {13, 3}, p = {16, 1};
    g->tags[0] = (graphite_part_t){.key = host, .node = {1}, .node_count = 1};
    g->tags[1] = (graphite_part_t){.key = env, .constant = p};
    g->tags[2] = (graphite_part_t){.key = host, .node = {2, 3}, .node_count = 2};
    g->tags[3] = (graphite_part_t){.key = host, .node = {0}, .node_count = 1};
    g->templates[0] = (graphite_template_t){.measurement = {.node = {2}, .node_count = 1, .rest = true}, .tag_count = 2};
    g->templates[1] = (graphite_template_t){.measurement = {.node = {0}, .node_count = 1}, .field = {.node = {1}, .node_count = 1},
                                            .tag_first = 2, .tag_count = 1};
    g->templates[2] = (graphite_template_t){.measurement = {.node = {1}, .node_count = 1, .rest = true}, .tag_first = 3, .tag_count = 1};
    g->filters[0] = (graphite_filter_t){.child_first = 1, .child_count = 2, .star = GRAPHITE_NONE, .template = 2};
    g->filters[1] = (graphite_filter_t){.text = {7, 1}, .child_first = 3, .child_count = 1, .star = GRAPHITE_NONE, .template = GRAPHITE_NONE};
    g->filters[2] = (graphite_filter_t){.text = {0, 7}, .star = 4, .template = GRAPHITE_NONE};
    g->filters[3] = (graphite_filter_t){.text = {8, 1}, .star = GRAPHITE_NONE, .template = 1};
    g->filters[4] = (graphite_filter_t){.star = GRAPHITE_NONE, .template = 0};
    return g;
}

static void read_graphite(line_reader_t *c, const uint8_t *p, uint32_t n, uint8_t flags, line_counts_t *counts)
{
    graphite_read(flags & 4 ? shaped : plain, c, p, n, counts);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    format_open();
    plain = calloc(1, sizeof *plain);
    plain->by_default = GRAPHITE_NONE;
    shaped = shape();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0 && size <= FUZZ_BYTES_MAX)
        format_run(read_graphite, data + 1, (uint32_t)size - 1, data[0]);
    return 0;
}
