/* http_null: a server that takes any POST and forgets it, but counts first.
 *
 *   --listen HOST:PORT  numeric address (127.0.0.1:0: a port of the kernel's choice)
 *   --status N          answer to a POST (204)
 *   --latency-ms N      time between a whole POST and its answer (0)
 *   --dump FILE         append each body, behind a body_header_t (tool.h)
 *
 * Announces {"port": N} as its first line. GET /ping answers 204, GET /health 200, GET /stats the
 * counters as JSON, which are also printed at the end. Ends on SIGTERM. One thread, epoll, keep-alive.
 * Lines are line feeds in bodies that are not gzip; what is in those only a dump can tell. Nothing is
 * counted or dumped twice, and nothing before its last byte is there.
 */
#include <sys/uio.h>

#include "http.h"

enum { BODY_BYTES_MAX = 256 << 20, EVENTS_MAX = 64 };

typedef struct connection {
    int fd;
    http_buffer_t in;
    char out[1024];
    size_t out_bytes, out_sent;
    bool answering;           /* between a request and the last byte of its answer */
    bool continued;           /* "100 Continue" has been said for the request that is coming in */
    bool closing;
    uint64_t due_ns;          /* of the answer, while in the queue */
    struct connection *next;  /* in the queue */
    bool queued;
} connection_t;

static struct {
    uint64_t connections, requests, posts, gzip_posts, body_bytes, lines, bad, first_ns, last_ns;
} counters;

static struct {
    int epoll, listener, dump;
    unsigned status;
    uint64_t latency_ns;
    connection_t *first, *last; /* answers that wait for their time; the latency is one for all: a queue */
} server = {.dump = -1, .status = 204};

static int counters_text(char *out, size_t bytes)
{
    return snprintf(out, bytes,
                    "{\"connections\": %ju, \"requests\": %ju, \"posts\": %ju, \"gzip_posts\": %ju, "
                    "\"body_bytes\": %ju, \"lines\": %ju, \"bad\": %ju, \"first_ns\": %ju, \"last_ns\": %ju, "
                    "\"cpu_ns\": %ju}\n",
                    (uintmax_t)counters.connections, (uintmax_t)counters.requests, (uintmax_t)counters.posts,
                    (uintmax_t)counters.gzip_posts, (uintmax_t)counters.body_bytes,
                    (uintmax_t)counters.lines, (uintmax_t)counters.bad, (uintmax_t)counters.first_ns,
                    (uintmax_t)counters.last_ns, (uintmax_t)tool_cpu());
}

static void connection_watch(connection_t *connection, uint32_t events, int operation)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(server.epoll, operation, connection->fd, &event) < 0)
        tool_die("epoll_ctl");
}

static void connection_close(connection_t *connection)
{
    close(connection->fd);
    connection->fd = -1;
    if (connection->queued) { /* the queue frees it */
        connection->closing = true;
        return;
    }
    free(connection->in.bytes);
    free(connection);
}

static uint64_t lines_count(const char *bytes, size_t many)
{
    uint64_t lines = 0;
    for (const char *end = bytes + many; (bytes = memchr(bytes, '\n', (size_t)(end - bytes))); bytes++)
        lines++;
    return lines;
}

static void body_dump(const http_message_t *request, uint64_t lines, bool gzip)
{
    body_header_t header = {(uint32_t)request->body_bytes, (uint32_t)lines, gzip ? BODY_GZIP : 0};
    struct iovec parts[] = {{&header, sizeof header}, {(void *)request->body, request->body_bytes}};
    ssize_t want = (ssize_t)(sizeof header + request->body_bytes);
    if (writev(server.dump, parts, 2) != want)
        tool_die("writing the dump");
}

static void answer(connection_t *connection, unsigned status, const char *type, const char *body)
{
    /* A 204 has no body and no length of one. */
    int bytes = status == 204
                    ? snprintf(connection->out, sizeof connection->out,
                               "HTTP/1.1 204 No Content\r\nX-Influxdb-Version: 1.6.7\r\n\r\n")
                    : snprintf(connection->out, sizeof connection->out,
                               "HTTP/1.1 %u Answer\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n%s",
                               status, type, strlen(body), body);
    connection->out_bytes = (size_t)bytes;
    connection->out_sent = 0;
}

/* Count a POST that is there as a whole, and prepare its answer. */
static void post_take(connection_t *connection, const http_message_t *request)
{
    bool gzip = http_header_is(request, "content-encoding:", "gzip");
    uint64_t lines = gzip ? 0 : lines_count(request->body, request->body_bytes);
    if (server.dump >= 0)
        body_dump(request, lines, gzip);
    counters.posts++;
    counters.gzip_posts += gzip;
    counters.body_bytes += request->body_bytes;
    counters.lines += lines;
    counters.last_ns = tool_now();
    answer(connection, server.status, "application/json", "{\"code\":\"null\",\"message\":\"null sink\"}");
    if (server.latency_ns) {
        connection->due_ns = counters.last_ns + server.latency_ns;
        connection->queued = true;
        connection->next = NULL;
        if (server.last)
            server.last->next = connection;
        else
            server.first = connection;
        server.last = connection;
    }
}

static void request_take(connection_t *connection, const http_message_t *request)
{
    char text[768];
    counters.requests++;
    connection->continued = false;
    connection->answering = true;
    if (http_header_is(request, "connection:", "close"))
        connection->closing = true;
    if (!strncmp(request->head, "POST ", 5)) {
        post_take(connection, request);
    } else if (!strncmp(request->head, "GET /stats", 10)) {
        counters_text(text, sizeof text);
        answer(connection, 200, "application/json", text);
    } else if (!strncmp(request->head, "GET /health", 11)) {
        answer(connection, 200, "application/json",
               "{\"name\":\"influxdb\",\"message\":\"ready for queries and writes\",\"status\":\"pass\"}");
    } else if (!strncmp(request->head, "GET /ping", 9) || !strncmp(request->head, "HEAD /ping", 10)) {
        answer(connection, 204, "", "");
    } else {
        answer(connection, 404, "text/plain", "nothing here\n");
    }
    http_take(&connection->in, request);
}

/* Send what there is of the answer. False if the connection is gone. */
static bool answer_send(connection_t *connection)
{
    ssize_t sent = write(connection->fd, connection->out + connection->out_sent,
                         connection->out_bytes - connection->out_sent);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        connection_close(connection);
        return false;
    }
    connection->out_sent += sent > 0 ? (size_t)sent : 0;
    if (connection->out_sent < connection->out_bytes)
        return true; /* answers are smaller than any socket buffer: the next event finds room */
    connection->answering = false;
    if (connection->closing) {
        connection_close(connection);
        return false;
    }
    return true;
}

/* Take whole requests out of the buffer until one must be waited for. */
static void connection_work(connection_t *connection)
{
    for (;;) {
        if (connection->queued)
            return;
        if (connection->answering) {
            if (!answer_send(connection) || connection->answering)
                return;
        }
        http_message_t request;
        http_state_t state = http_look(&connection->in, &request, BODY_BYTES_MAX);
        if (state == HTTP_BAD) {
            counters.bad++;
            connection->closing = true;
            connection->answering = true;
            answer(connection, 400, "text/plain", "one message with a Content-Length at a time, please\n");
            continue;
        }
        if (state == HTTP_MORE) {
            if (request.head_bytes && !connection->continued &&
                http_header_is(&request, "expect:", "100-continue")) {
                static const char line[] = "HTTP/1.1 100 Continue\r\n\r\n";
                connection->continued = true;
                if (write(connection->fd, line, sizeof line - 1) < 0)
                    connection->closing = true;
            }
            return;
        }
        request_take(connection, &request);
    }
}

static void connection_event(connection_t *connection, uint32_t events)
{
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t got = http_read(&connection->in, connection->fd);
        if (got == 0) {
            connection_close(connection);
            return;
        }
        if (got > 0 && !counters.first_ns && connection->in.used >= 4 &&
            !memcmp(connection->in.bytes, "POST", 4))
            counters.first_ns = tool_now();
    }
    connection_work(connection);
}

static void connections_accept(void)
{
    for (;;) {
        int fd = accept4(server.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        http_no_delay(fd);
        connection_t *connection = tool_allocate(sizeof *connection);
        connection->fd = fd;
        counters.connections++;
        connection_watch(connection, EPOLLIN, EPOLL_CTL_ADD);
    }
}

/* Send the answers whose time has come. Milliseconds until the next, -1 for none. */
static int queue_work(void)
{
    while (server.first) {
        connection_t *connection = server.first;
        uint64_t now = tool_now();
        if (connection->due_ns > now)
            return (int)((connection->due_ns - now + 999999) / 1000000);
        server.first = connection->next;
        if (!server.first)
            server.last = NULL;
        connection->queued = false;
        if (connection->fd < 0)
            connection_close(connection);
        else
            connection_work(connection);
    }
    return -1;
}

static void server_open(const char *listen_at)
{
    tool_address_t address = tool_address(listen_at);
    int on = 1;
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    server.listener = socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(server.listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (server.epoll < 0 || bind(server.listener, (struct sockaddr *)&address.storage, address.length) < 0 ||
        listen(server.listener, HTTP_CONNECTIONS_MAX) < 0)
        tool_die("listening at %s", listen_at);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(server.epoll, EPOLL_CTL_ADD, server.listener, &event) < 0)
        tool_die("epoll_ctl");
}

int main(int argc, char **argv)
{
    const char *listen_at = "127.0.0.1:0", *dump = NULL;
    static const struct option options[] = {
        {"listen", 1, 0, 'l'}, {"status", 1, 0, 's'}, {"latency-ms", 1, 0, 'm'}, {"dump", 1, 0, 'd'},
        {0, 0, 0, 0},
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (option) {
        case 'l': listen_at = optarg; break;
        case 's': server.status = (unsigned)tool_number("--status", optarg, 200, 599); break;
        case 'm': server.latency_ns = tool_number("--latency-ms", optarg, 0, 600000) * 1000000; break;
        case 'd': dump = optarg; break;
        default: return 2;
        }
    if (dump && (server.dump = open(dump, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) < 0)
        tool_die("opening %s", dump);
    tool_signals();
    server_open(listen_at);
    tool_announce(server.listener);

    while (!tool_stopped) {
        struct epoll_event events[EVENTS_MAX];
        int many = epoll_wait(server.epoll, events, EVENTS_MAX, queue_work());
        for (int i = 0; i < many; i++)
            if (!events[i].data.ptr)
                connections_accept();
            else
                connection_event(events[i].data.ptr, events[i].events);
    }
    char text[768];
    counters_text(text, sizeof text);
    fputs(text, stdout);
    return 0;
}
