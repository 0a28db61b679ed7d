/* stream_discard: the least that a receiver of a stream can do, as the baseline for one that does more.
 *
 * Accepts one connection, reads 64 KiB at a time and forgets them, until it ends.
 *
 *   --listen HOST:PORT  numeric address (127.0.0.1:0: a port of the kernel's choice)
 *   --unix PATH         listen there instead; the port that is announced is 1 then
 *
 * Announces {"port": N} as its first line. CPU is that from the first read that returned to the last.
 */
#include <sys/un.h>

#include "tool.h"

enum { READ_BYTES = 65536 };

int main(int argc, char **argv)
{
    const char *listen_at = "127.0.0.1:0", *path = NULL;
    static const struct option options[] = {{"listen", 1, 0, 'l'}, {"unix", 1, 0, 'u'}, {0, 0, 0, 0}};
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (option) {
        case 'l': listen_at = optarg; break;
        case 'u': path = optarg; break;
        default: return 2;
        }
    tool_address_t address = {.length = sizeof(struct sockaddr_un)};
    if (path) {
        struct sockaddr_un *unix_address = (struct sockaddr_un *)&address.storage;
        if (strlen(path) >= sizeof unix_address->sun_path)
            tool_usage("path too long", path);
        unix_address->sun_family = AF_UNIX;
        strcpy(unix_address->sun_path, path);
    } else {
        address = tool_address(listen_at);
    }
    char *buffer = tool_allocate(READ_BYTES);
    memset(buffer, 1, READ_BYTES);
    tool_signals();
    int door = socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (door < 0 || bind(door, (struct sockaddr *)&address.storage, address.length) < 0 || listen(door, 1) < 0)
        tool_die("listening");
    if (path) {
        printf("{\"port\": 1}\n");
        fflush(stdout);
    } else {
        tool_announce(door);
    }
    int fd = accept(door, NULL, NULL);
    if (fd < 0)
        tool_die("accepting");
    uint64_t bytes = 0, reads = 0, cpu_ns = 0, start_ns = 0;
    for (;;) {
        ssize_t n = read(fd, buffer, READ_BYTES);
        if (n < 0 && errno == EINTR && !tool_stopped)
            continue;
        if (n <= 0)
            break;
        if (!reads++) {
            cpu_ns = tool_cpu();
            start_ns = tool_now();
        }
        bytes += (uint64_t)n;
    }
    printf("{\"bytes\": %ju, \"reads\": %ju, \"cpu_ns\": %ju, \"elapsed_s\": %.6f}\n", (uintmax_t)bytes,
           (uintmax_t)reads, (uintmax_t)(tool_cpu() - cpu_ns), (double)(tool_now() - start_ns) / 1e9);
    free(buffer);
    return 0;
}
