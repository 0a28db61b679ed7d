/* lines: write the lines that udp_send sends to standard output, as text or as prepared bodies.
 *
 *   --count N          lines (needed)
 *   --shape N          bytes of a line: 64 or 117 (117), 25 StatsD counters, 24 StatsD timings, 46 Graphite
 *   --no-timestamps    leave the time to the receiver
 *   --series N         different series (100); --scatter draws them instead of taking turns
 *   --time-ns N        time of the first line; --step-ns N between two lines
 *   --body-lines N     length-delimited bodies of N lines each, as http_post reads them (0: plain text)
 */
#include "lines.h"

int main(int argc, char **argv)
{
    uint64_t count = 0, series = 100, time_ns = LINES_TIME_NS, step_ns = LINES_STEP_NS, body_lines = 0;
    unsigned shape = 117;
    bool timestamps = true, scatter = false;
    static const struct option options[] = {
        {"count", 1, 0, 'c'},   {"shape", 1, 0, 's'},   {"no-timestamps", 0, 0, 'T'}, {"series", 1, 0, 'S'},
        {"time-ns", 1, 0, 't'}, {"step-ns", 1, 0, 'p'}, {"body-lines", 1, 0, 'b'},    {"scatter", 0, 0, 'x'},
        {0, 0, 0, 0},
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (option) {
        case 'c': count = tool_number("--count", optarg, 1, 1ull << 33); break;
        case 's': shape = (unsigned)tool_number("--shape", optarg, 24, 117); break;
        case 'T': timestamps = false; break;
        case 'x': scatter = true; break;
        case 'S': series = tool_number("--series", optarg, 1, 1000000); break;
        case 't': time_ns = tool_number("--time-ns", optarg, 0, 1ull << 62); break;
        case 'p': step_ns = tool_number("--step-ns", optarg, 0, NS_PER_S); break;
        case 'b': body_lines = tool_number("--body-lines", optarg, 0, 1000000); break;
        default: return 2;
        }
    if (!count)
        tool_usage("--count is needed", NULL);
    lines_t lines = lines_make(shape, timestamps, series, time_ns, step_ns, scatter);
    uint64_t burst_lines = body_lines ? body_lines : 5000;
    char *burst = tool_allocate(burst_lines * shape);
    for (uint64_t number = 0; number < count;) {
        uint64_t many = count - number < burst_lines ? count - number : burst_lines;
        for (uint64_t i = 0; i < many; i++)
            lines_put(&lines, burst + i * shape, number + i);
        number += many;
        body_header_t header = {.bytes = (uint32_t)(many * shape), .lines = (uint32_t)many};
        if ((body_lines && fwrite(&header, sizeof header, 1, stdout) != 1) ||
            fwrite(burst, shape, many, stdout) != many)
            tool_die("writing lines");
    }
    if (fflush(stdout))
        tool_die("writing lines");
    free(burst);
    return 0;
}
