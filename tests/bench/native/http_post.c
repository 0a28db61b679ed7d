/* http_post: the bare loader. It posts prepared bodies over keep-alive connections, and does nothing else.
 *
 *   --to HOST:PORT      numeric address (needed)
 *   --path TARGET       request target, with its query (/write)
 *   --header 'N: V'     one more header line; may be given several times
 *   --file FILE         bodies, each behind a body_header_t (tool.h), as `lines --body-lines` writes them
 *   --connections K     requests in flight (4)
 *   --repeat R          times through the file (1)
 *
 * Prints lines a second among other things, and ends with status 1 if any answer was not a 2xx, whose
 * first text it then shows. One thread, epoll. The clock runs from the first byte sent, with all
 * connections open, to the last answer.
 */
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "http.h"

enum { ANSWER_BYTES_MAX = 16 << 20, HEADERS_BYTES_MAX = 8192, CONNECTIONS_MAX = 256 };

typedef struct {
    int fd;
    http_buffer_t in;
    char head[HEADERS_BYTES_MAX + 512];
    size_t head_bytes, sent;    /* sent: of head and body together */
    const body_header_t *body;  /* in flight; NULL when idle for good */
    bool writing;               /* waits for room to write */
    uint64_t start_ns;
} connection_t;

static struct {
    tool_address_t to;
    const char *path;
    char host[80], headers[HEADERS_BYTES_MAX];
    const char *file;
    size_t file_bytes, at;
    uint64_t repeats_left;
    int epoll;
    unsigned busy; /* connections with a request in flight */
} loader = {.path = "/write", .repeats_left = 1};

static struct {
    uint64_t requests, lines, bytes, failed, reconnects, waited_ns, waited_ns_max;
} counters;

static void file_map(const char *path)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) < 0)
        tool_die("opening %s", path);
    loader.file_bytes = (size_t)status.st_size;
    if (loader.file_bytes)
        loader.file = mmap(NULL, loader.file_bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (!loader.file_bytes || loader.file == MAP_FAILED)
        tool_die("mapping %s", path);
    close(fd);
}

/* The next body of the file; NULL behind the last of the last round. The headers may be unaligned, which
 * the processors that this is for take; they are read by memcpy all the same. */
static const body_header_t *body_next(body_header_t *header)
{
    if (loader.at == loader.file_bytes) {
        if (loader.repeats_left <= 1)
            return NULL;
        loader.repeats_left--;
        loader.at = 0;
    }
    const char *at = loader.file + loader.at;
    errno = 0;
    if (loader.file_bytes - loader.at < sizeof *header)
        tool_die("the file ends within a header");
    memcpy(header, at, sizeof *header);
    if (loader.file_bytes - loader.at - sizeof *header < header->bytes)
        tool_die("the file ends within a body");
    loader.at += sizeof *header + header->bytes;
    return (const body_header_t *)at;
}

static void connection_open(connection_t *connection)
{
    connection->fd = socket(loader.to.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->fd < 0 ||
        connect(connection->fd, (struct sockaddr *)&loader.to.storage, loader.to.length) < 0)
        tool_die("connecting");
    http_no_delay(connection->fd);
    fcntl(connection->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(loader.epoll, EPOLL_CTL_ADD, connection->fd, &event) < 0)
        tool_die("epoll_ctl");
}

static void connection_watch(connection_t *connection, bool writing)
{
    if (connection->writing == writing)
        return;
    connection->writing = writing;
    struct epoll_event event = {.events = writing ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(loader.epoll, EPOLL_CTL_MOD, connection->fd, &event) < 0)
        tool_die("epoll_ctl");
}

static void connection_send(connection_t *connection)
{
    body_header_t header;
    memcpy(&header, connection->body, sizeof header);
    const char *bytes = (const char *)connection->body + sizeof header;
    const size_t whole = connection->head_bytes + header.bytes;
    while (connection->sent < whole) {
        struct iovec parts[2];
        int many = 0;
        if (connection->sent < connection->head_bytes)
            parts[many++] = (struct iovec){connection->head + connection->sent,
                                           connection->head_bytes - connection->sent};
        size_t behind = connection->sent > connection->head_bytes ? connection->sent - connection->head_bytes : 0;
        parts[many++] = (struct iovec){(void *)(bytes + behind), header.bytes - behind};
        ssize_t sent = writev(connection->fd, parts, many);
        if (sent < 0) {
            if (errno == EAGAIN || errno == EINTR)
                break;
            tool_die("sending a body");
        }
        connection->sent += (size_t)sent;
    }
    connection_watch(connection, connection->sent < whole);
}

/* Begin the next request on an idle connection. */
static void connection_next(connection_t *connection)
{
    body_header_t header;
    connection->body = body_next(&header);
    if (!connection->body)
        return;
    connection->head_bytes = (size_t)snprintf(
        connection->head, sizeof connection->head,
        "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %u\r\n%s%s\r\n",
        loader.path, loader.host, header.bytes,
        header.flags & BODY_GZIP ? "Content-Encoding: gzip\r\n" : "", loader.headers);
    if (connection->head_bytes >= sizeof connection->head)
        tool_usage("too much in the headers", loader.path);
    connection->sent = 0;
    connection->start_ns = tool_now();
    loader.busy++;
    connection_send(connection);
}

static void answer_take(connection_t *connection, const http_message_t *answer)
{
    body_header_t header;
    memcpy(&header, connection->body, sizeof header);
    uint64_t waited_ns = tool_now() - connection->start_ns;
    counters.requests++;
    counters.bytes += header.bytes;
    counters.waited_ns += waited_ns;
    if (waited_ns > counters.waited_ns_max)
        counters.waited_ns_max = waited_ns;
    if (answer->head_bytes > 12 && answer->head[9] == '2')
        counters.lines += header.lines;
    else if (!counters.failed++)
        fprintf(stderr, "refused: %.*s%.*s\n", (int)answer->head_bytes, answer->head,
                (int)(answer->body_bytes < 512 ? answer->body_bytes : 512), answer->body);
    bool closed = http_header_is(answer, "connection:", "close");
    http_take(&connection->in, answer);
    loader.busy--;
    if (closed) {
        close(connection->fd);
        connection->in.used = 0;
        connection->writing = false;
        counters.reconnects++;
        connection_open(connection);
    }
    connection_next(connection);
}

static void connection_event(connection_t *connection, uint32_t events)
{
    if (events & EPOLLOUT && connection->body)
        connection_send(connection);
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    errno = 0;
    ssize_t got = http_read(&connection->in, connection->fd);
    if (got == 0) {
        if (connection->body)
            tool_die("the server closed a connection with a request in flight");
        epoll_ctl(loader.epoll, EPOLL_CTL_DEL, connection->fd, NULL);
        return;
    }
    http_message_t answer;
    http_state_t state = http_look(&connection->in, &answer, ANSWER_BYTES_MAX);
    if (state == HTTP_BAD)
        tool_die("an answer that this cannot read");
    if (state == HTTP_WHOLE) {
        if (!connection->body)
            tool_die("an answer to nothing");
        answer_take(connection, &answer);
    }
}

int main(int argc, char **argv)
{
    const char *file = NULL;
    unsigned connections = 4;
    static const struct option options[] = {
        {"to", 1, 0, 'a'},          {"path", 1, 0, 'p'},   {"header", 1, 0, 'h'}, {"file", 1, 0, 'f'},
        {"connections", 1, 0, 'k'}, {"repeat", 1, 0, 'r'}, {0, 0, 0, 0},
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (option) {
        case 'a':
            loader.to = tool_address(optarg);
            snprintf(loader.host, sizeof loader.host, "%s", optarg);
            break;
        case 'p': loader.path = optarg; break;
        case 'h':
            if (strlen(loader.headers) + strlen(optarg) + 3 > sizeof loader.headers)
                tool_usage("too many headers", optarg);
            strcat(strcat(loader.headers, optarg), "\r\n");
            break;
        case 'f': file = optarg; break;
        case 'k': connections = (unsigned)tool_number("--connections", optarg, 1, CONNECTIONS_MAX); break;
        case 'r': loader.repeats_left = tool_number("--repeat", optarg, 1, 1000000); break;
        default: return 2;
        }
    if (!loader.to.length || !file)
        tool_usage("--to and --file are needed", NULL);
    tool_signals();
    file_map(file);
    loader.epoll = epoll_create1(EPOLL_CLOEXEC);
    connection_t *all = tool_allocate(connections * sizeof *all);
    for (unsigned i = 0; i < connections; i++)
        connection_open(&all[i]);

    uint64_t cpu_ns = tool_cpu(), start_ns = tool_now();
    for (unsigned i = 0; i < connections; i++)
        connection_next(&all[i]);
    while (loader.busy && !tool_stopped) {
        struct epoll_event events[64];
        int many = epoll_wait(loader.epoll, events, 64, -1);
        for (int i = 0; i < many; i++)
            connection_event(events[i].data.ptr, events[i].events);
    }
    uint64_t end_ns = tool_now();
    cpu_ns = tool_cpu() - cpu_ns;
    double elapsed = (double)(end_ns - start_ns) / 1e9;
    printf("{\"requests\": %ju, \"lines\": %ju, \"bytes\": %ju, \"failed\": %ju, \"reconnects\": %ju, "
           "\"elapsed_s\": %.6f, \"lines_per_s\": %.0f, \"cpu_ns\": %ju, \"start_ns\": %ju, \"end_ns\": %ju, "
           "\"wait_ms_mean\": %.3f, \"wait_ms_max\": %.3f}\n",
           (uintmax_t)counters.requests, (uintmax_t)counters.lines, (uintmax_t)counters.bytes,
           (uintmax_t)counters.failed, (uintmax_t)counters.reconnects, elapsed,
           elapsed > 0 ? (double)counters.lines / elapsed : 0.0, (uintmax_t)cpu_ns, (uintmax_t)start_ns,
           (uintmax_t)end_ns,
           counters.requests ? (double)counters.waited_ns / 1e6 / (double)counters.requests : 0.0,
           (double)counters.waited_ns_max / 1e6);
    for (unsigned i = 0; i < connections; i++) {
        close(all[i].fd);
        free(all[i].in.bytes);
    }
    free(all);
    return counters.failed || tool_stopped ? 1 : 0;
}
