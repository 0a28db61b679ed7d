/* As much of HTTP/1.1 as a benchmark's two ends need: one message at a time, with Content-Length. */
#ifndef PENSTOCK_BENCH_HTTP_H
#define PENSTOCK_BENCH_HTTP_H

#include <fcntl.h>
#include <netinet/tcp.h>
#include <strings.h>
#include <sys/epoll.h>

#include "tool.h"

enum { HTTP_HEAD_MAX = 16384, HTTP_CONNECTIONS_MAX = 4096 };

/* A growing buffer of received bytes, from which messages are taken at the front. */
typedef struct {
    char *bytes;
    size_t used, capacity;
} http_buffer_t;

/* A message in a buffer, once it is there as a whole. The pointers are borrowed from the buffer. */
typedef struct {
    const char *head; /* the first line and the header lines; not terminated */
    size_t head_bytes; /* with the blank line */
    const char *body;
    size_t body_bytes;
} http_message_t;

typedef enum { HTTP_MORE, HTTP_WHOLE, HTTP_BAD } http_state_t;

/* The value of header *name* ("content-length:"), its length in *length; NULL if absent. */
static const char *http_header(const char *head, size_t head_bytes, const char *name, size_t *length)
{
    const char *end = head + head_bytes;
    const size_t name_bytes = strlen(name);
    for (const char *line = memchr(head, '\n', head_bytes); line && ++line < end;
         line = memchr(line, '\n', (size_t)(end - line))) {
        if ((size_t)(end - line) <= name_bytes || strncasecmp(line, name, name_bytes))
            continue;
        const char *value = line + name_bytes, *stop = memchr(value, '\r', (size_t)(end - value));
        while (value < end && *value == ' ')
            value++;
        *length = stop && stop > value ? (size_t)(stop - value) : 0;
        return value;
    }
    return NULL;
}

/* Whether a header is there and its value begins with *word*, in any case. */
MAYBE_UNUSED static bool http_header_is(const http_message_t *message, const char *name, const char *word)
{
    size_t length;
    const char *value = http_header(message->head, message->head_bytes, name, &length);
    return value && length >= strlen(word) && !strncasecmp(value, word, strlen(word));
}

/* Room for at least *more* bytes behind those in use. */
static void http_reserve(http_buffer_t *buffer, size_t more)
{
    if (buffer->capacity - buffer->used >= more)
        return;
    size_t capacity = buffer->capacity ? buffer->capacity : 65536;
    while (capacity - buffer->used < more)
        capacity *= 2;
    char *bytes = realloc(buffer->bytes, capacity);
    if (!bytes)
        tool_die("no memory for a message");
    buffer->bytes = bytes;
    buffer->capacity = capacity;
}

/* Look whether the buffer holds a whole message whose body has at most *body_bytes_max* bytes; fills in
 * the head as soon as that is whole, and makes room for the rest. */
static http_state_t http_look(http_buffer_t *buffer, http_message_t *message, size_t body_bytes_max)
{
    *message = (http_message_t){0};
    const size_t looked_at = buffer->used < HTTP_HEAD_MAX ? buffer->used : HTTP_HEAD_MAX;
    const char *end = buffer->used ? memmem(buffer->bytes, looked_at, "\r\n\r\n", 4) : NULL;
    if (!end)
        return buffer->used < HTTP_HEAD_MAX ? HTTP_MORE : HTTP_BAD;
    size_t head_bytes = (size_t)(end - buffer->bytes) + 4, length;
    if (http_header(buffer->bytes, head_bytes, "transfer-encoding:", &length))
        return HTTP_BAD;
    const char *value = http_header(buffer->bytes, head_bytes, "content-length:", &length);
    unsigned long long body_bytes = value ? strtoull(value, NULL, 10) : 0;
    if (body_bytes > body_bytes_max)
        return HTTP_BAD;
    if (head_bytes + body_bytes > buffer->used)
        http_reserve(buffer, head_bytes + body_bytes - buffer->used);
    message->head = buffer->bytes;
    message->head_bytes = head_bytes;
    message->body = buffer->bytes + head_bytes;
    message->body_bytes = body_bytes;
    return head_bytes + body_bytes <= buffer->used ? HTTP_WHOLE : HTTP_MORE;
}

/* Drop the message at the front. */
static void http_take(http_buffer_t *buffer, const http_message_t *message)
{
    size_t bytes = message->head_bytes + message->body_bytes;
    memmove(buffer->bytes, buffer->bytes + bytes, buffer->used - bytes);
    buffer->used -= bytes;
}

/* Read once. Bytes read; 0 at the end of the stream or its failure; -1 if there is nothing now. */
static ssize_t http_read(http_buffer_t *buffer, int fd)
{
    http_reserve(buffer, 16384);
    ssize_t got = read(fd, buffer->bytes + buffer->used, buffer->capacity - buffer->used);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? -1 : 0;
    buffer->used += (size_t)got;
    return got;
}

static void http_no_delay(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

#endif
