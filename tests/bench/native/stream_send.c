/* stream_send: lines down one connection, as fast as it takes them, packed into writes of one size.
 *
 *   --to HOST:PORT     numeric address (needed); or --to unix:PATH for a Unix stream
 *   --count N          lines to send (needed)
 *   --shape N          bytes of a line: 64 or 117 (117), 25 StatsD counters, 24 StatsD timings, 46 Graphite
 *   --write N          bytes of one write (65536): lines are cut wherever it ends
 *   --series N         different series (100)
 *   --time-ns N        time of the first line; --step-ns N between two lines
 *
 * Lines are made CHUNK_LINES at a time, and then written.
 */
#include <sys/un.h>

#include "lines.h"

enum { CHUNK_LINES = 16384 };

static tool_address_t address_of(const char *text)
{
    if (strncmp(text, "unix:", 5))
        return tool_address(text);
    tool_address_t address = {.length = sizeof(struct sockaddr_un)};
    struct sockaddr_un *unix_address = (struct sockaddr_un *)&address.storage;
    if (strlen(text + 5) >= sizeof unix_address->sun_path)
        tool_usage("path too long", text);
    unix_address->sun_family = AF_UNIX;
    strcpy(unix_address->sun_path, text + 5);
    return address;
}

int main(int argc, char **argv)
{
    tool_address_t to = {0};
    uint64_t count = 0, series = 100, time_ns = LINES_TIME_NS, step_ns = LINES_STEP_NS;
    size_t each = 65536;
    unsigned shape = 117;
    static const struct option options[] = {
        {"to", 1, 0, 'a'},     {"count", 1, 0, 'c'},   {"shape", 1, 0, 's'},   {"write", 1, 0, 'w'},
        {"series", 1, 0, 'S'}, {"time-ns", 1, 0, 't'}, {"step-ns", 1, 0, 'p'}, {0, 0, 0, 0},
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (option) {
        case 'a': to = address_of(optarg); break;
        case 'c': count = tool_number("--count", optarg, 1, 1ull << 33); break;
        case 's': shape = (unsigned)tool_number("--shape", optarg, 24, 117); break;
        case 'w': each = (size_t)tool_number("--write", optarg, 1, 1 << 20); break;
        case 'S': series = tool_number("--series", optarg, 1, 1000000); break;
        case 't': time_ns = tool_number("--time-ns", optarg, 0, 1ull << 62); break;
        case 'p': step_ns = tool_number("--step-ns", optarg, 0, NS_PER_S); break;
        default: exit(2);
        }
    if (!to.length || !count)
        tool_usage("--to and --count are needed", NULL);
    lines_t lines = lines_make(shape, true, series, time_ns, step_ns, false);
    char *chunk = tool_allocate((size_t)CHUNK_LINES * lines.shape.bytes + LINES_BYTES_MAX);
    tool_signals();
    int fd = socket(to.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to.storage, to.length) < 0)
        tool_die("connecting");
    uint64_t sent = 0, bytes = 0, writes = 0, start_ns = tool_now(), cpu_ns = tool_cpu();
    while (sent < count && !tool_stopped) {
        uint64_t many = count - sent < CHUNK_LINES ? count - sent : CHUNK_LINES;
        for (uint64_t i = 0; i < many; i++)
            lines_put(&lines, chunk + i * lines.shape.bytes, sent + i);
        for (size_t at = 0, end = (size_t)many * lines.shape.bytes; at < end;) {
            ssize_t n = write(fd, chunk + at, end - at < each ? end - at : each);
            if (n < 0 && errno == EINTR && !tool_stopped)
                continue;
            if (n < 0)
                tool_die("writing");
            at += (size_t)n;
            bytes += (uint64_t)n;
            writes++;
        }
        sent += many;
    }
    close(fd);
    uint64_t elapsed_ns = tool_now() - start_ns;
    printf("{\"lines\": %ju, \"bytes\": %ju, \"writes\": %ju, \"elapsed_s\": %.6f, \"rate\": %.0f, \"cpu_ns\": %ju}\n",
           (uintmax_t)sent, (uintmax_t)bytes, (uintmax_t)writes, (double)elapsed_ns / 1e9,
           (double)sent * 1e9 / (double)elapsed_ns, (uintmax_t)(tool_cpu() - cpu_ns));
    free(chunk);
    return 0;
}
