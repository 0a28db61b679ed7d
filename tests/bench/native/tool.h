/* What the native benchmark tools share: options, clocks, addresses, and how they end.
 *
 * Each tool prints one line of JSON on standard output when it ends, and words for people on standard
 * error. Exit status: 0; 1 failure; 2 wrong usage.
 */
#ifndef PENSTOCK_BENCH_TOOL_H
#define PENSTOCK_BENCH_TOOL_H

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull
#define MAYBE_UNUSED __attribute__((unused))

/* Set by SIGTERM and SIGINT; loops look at it. */
static volatile sig_atomic_t tool_stopped;

/* Say why and end with status 1; errno, where it is set, is spelled out. */
MAYBE_UNUSED __attribute__((noreturn, format(printf, 1, 2)))
static void tool_die(const char *format, ...)
{
    int error = errno;
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, error ? ": %s\n" : "\n", strerror(error));
    exit(1);
}

/* Say what is wrong with the command line and end with status 2. */
MAYBE_UNUSED __attribute__((noreturn))
static void tool_usage(const char *what, const char *value)
{
    fprintf(stderr, "%s: '%s'; see the comment at the head of the source\n", what, value ? value : "");
    exit(2);
}

/* An unsigned decimal argument from *low* to *high*. */
MAYBE_UNUSED static uint64_t tool_number(const char *name, const char *text, uint64_t low, uint64_t high)
{
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || value < low || value > high)
        tool_usage(name, text);
    return value;
}

/* A duration in seconds, fractions allowed, as nanoseconds. */
MAYBE_UNUSED static uint64_t tool_seconds(const char *name, const char *text)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (errno || end == text || *end || !(value >= 0 && value < 1e6))
        tool_usage(name, text);
    return (uint64_t)(value * (double)NS_PER_S);
}

/* Nanoseconds of one of the kernel's clocks. */
MAYBE_UNUSED static uint64_t tool_clock(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* The monotonic clock, the one Python's time.monotonic_ns() reads. */
MAYBE_UNUSED static uint64_t tool_now(void) { return tool_clock(CLOCK_MONOTONIC); }

/* CPU time of this process, all threads, user and system, in nanoseconds. */
MAYBE_UNUSED static uint64_t tool_cpu(void) { return tool_clock(CLOCK_PROCESS_CPUTIME_ID); }

/* User and system time apart, in microseconds; the kernel's split is less exact than the sum. */
typedef struct {
    uint64_t user_us, system_us;
} tool_usage_t;

MAYBE_UNUSED static tool_usage_t tool_rusage(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (tool_usage_t){
        .user_us = (uint64_t)usage.ru_utime.tv_sec * 1000000 + (uint64_t)usage.ru_utime.tv_usec,
        .system_us = (uint64_t)usage.ru_stime.tv_sec * 1000000 + (uint64_t)usage.ru_stime.tv_usec,
    };
}

static void tool_on_stop(int number)
{
    (void)number;
    tool_stopped = 1;
}

/* SIGTERM and SIGINT set tool_stopped and interrupt blocking calls; SIGPIPE is an error of write. */
MAYBE_UNUSED static void tool_signals(void)
{
    struct sigaction action = {.sa_handler = tool_on_stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* HOST:PORT or [HOST]:PORT, numeric only: a benchmark asks no name server. */
typedef struct {
    struct sockaddr_storage storage;
    socklen_t length;
} tool_address_t;

MAYBE_UNUSED static tool_address_t tool_address(const char *text)
{
    tool_address_t address = {0};
    char host[64];
    const char *colon = strrchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof host)
        tool_usage("not HOST:PORT", text);
    size_t length = (size_t)(colon - text);
    const char *start = text;
    if (length >= 2 && text[0] == '[' && colon[-1] == ']') {
        start++;
        length -= 2;
    }
    memcpy(host, start, length);
    host[length] = 0;
    uint16_t port = htons((uint16_t)tool_number("port", colon + 1, 0, 65535));
    struct sockaddr_in *v4 = (struct sockaddr_in *)&address.storage;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&address.storage;
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = port;
        address.length = sizeof *v4;
    } else if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = port;
        address.length = sizeof *v6;
    } else {
        tool_usage("not a numeric address", text);
    }
    return address;
}

/* The port that a bound socket has, chosen by the kernel where 0 was asked for. */
MAYBE_UNUSED static unsigned tool_port(int fd)
{
    tool_address_t address = {.length = sizeof address.storage};
    if (getsockname(fd, (struct sockaddr *)&address.storage, &address.length) < 0)
        tool_die("getsockname");
    return address.storage.ss_family == AF_INET6
               ? ntohs(((struct sockaddr_in6 *)&address.storage)->sin6_port)
               : ntohs(((struct sockaddr_in *)&address.storage)->sin_port);
}

/* Announce the port as the first line of output, at once, for whoever started the tool. */
MAYBE_UNUSED static void tool_announce(int fd)
{
    printf("{\"port\": %u}\n", tool_port(fd));
    fflush(stdout);
}

/* One prepared request body in a file: this header, in the machine's byte order, then *bytes* bytes.
 * http_null writes such files, lines writes such files, http_post reads them, native.py reads them. */
typedef struct {
    uint32_t bytes;
    uint32_t lines; /* 0 where unknown: the writer does not unpack gzip */
    uint32_t flags;
} body_header_t;

enum { BODY_GZIP = 1 };

MAYBE_UNUSED static void *tool_allocate(size_t bytes)
{
    void *memory = calloc(1, bytes ? bytes : 1);
    if (!memory)
        tool_die("no memory for %zu bytes", bytes);
    return memory;
}

#endif
