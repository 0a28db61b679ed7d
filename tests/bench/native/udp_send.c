/* udp_send: a UDP load generator that a single core can drive past a million datagrams a second.
 *
 *   --to HOST:PORT     numeric address (needed); or --to unix:PATH for a unixgram socket
 *   --count N          datagrams to send; or --seconds S; needed is one of them, whichever comes first ends it
 *   --rate N           datagrams a second, paced smoothly (0: as fast as possible)
 *   --asleep           wait for the next send asleep only: late by what the timer is, and free of cost
 *   --shape N          bytes of a line: 64 or 117 (117), 25 StatsD counters, 24 StatsD timings, 46 Graphite
 *   --pack N           whole lines up to N bytes in each datagram (0: one line in each)
 *   --no-timestamps    leave the time to the receiver
 *   --series N         different series (100); --scatter draws them instead of taking turns
 *   --fresh-series N   a tag that is new in each line, N different ones in all; --shape says only whether StatsD
 *   --time-ns N        time of the first line; --step-ns N between two lines
 *   --segment          UDP_SEGMENT: the kernel cuts one send into equal datagrams; else plain sendmmsg
 *   --ready            make all of them before the clock starts; with --count and --segment
 *   --burst N          datagrams of one call at most (0: as many as the kernel takes)
 *   --flow N           sockets, each a flow of its own to receivers with SO_REUSEPORT (1)
 *   --from HOST        IPv4 address to send from; each further flow from the one that follows it
 *   --unconnected      name the address with each send
 *
 * Plain sendmmsg over loopback tops out near 330,000 datagrams a second, for each walks the whole stack
 * alone; UDP_SEGMENT walks it once for up to 128.
 *
 * Pacing: a send is due at start + sent / rate. A sender that falls more than 5 ms behind moves its
 * schedule instead of catching up in a burst that no client would send; `slip_ms` says by how much.
 */
#include <netinet/udp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/un.h>

#include "lines.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef SOL_UDP
#define SOL_UDP 17
#endif

enum {
    BURST_MAX = 1024,
    SEGMENTS_MAX = 128,        /* of one send: UDP_MAX_SEGMENTS is 64 before kernel 6.9, 128 since */
    SEGMENTED_BYTES_MAX = 65000,
    DATAGRAM_BYTES_MAX = 65000,
    FLOWS_MAX = 256,
    REFUSALS_MAX = 1000,       /* of a whole run: nobody listens; --unconnected never hears of them */
};

typedef struct {
    tool_address_t to;
    uint64_t count, duration_ns, rate;
    unsigned pack, burst, flows;
    in_addr_t from; /* in the machine's byte order; 0: the kernel's choice */
    bool segment, unconnected, asleep, ready;
    lines_t lines;
} settings_t;

typedef struct {
    int fds[FLOWS_MAX];
    unsigned flow;
    unsigned lines_each;      /* lines in a datagram */
    unsigned datagram_bytes;
    unsigned burst;           /* datagrams of one call at most */
    uint64_t sent;            /* datagrams */
    uint64_t retries, refused, slip_ns;
    char *buffer;             /* of one burst, or of all of them */
    char *next;               /* in the buffer: the burst that is sent now */
    struct mmsghdr *messages; /* of one burst, without segmentation */
    struct iovec *vectors;
} sender_t;

static settings_t settings_read(int argc, char **argv)
{
    settings_t settings = {.flows = 1};
    uint64_t series = 100, fresh = 0, time_ns = LINES_TIME_NS, step_ns = LINES_STEP_NS;
    unsigned shape = 117;
    bool timestamps = true, scatter = false;
    static const struct option options[] = {
        {"to", 1, 0, 'a'},      {"count", 1, 0, 'c'},   {"seconds", 1, 0, 'd'},       {"rate", 1, 0, 'r'},
        {"shape", 1, 0, 's'},   {"pack", 1, 0, 'k'},    {"no-timestamps", 0, 0, 'T'}, {"series", 1, 0, 'S'},
        {"time-ns", 1, 0, 't'}, {"step-ns", 1, 0, 'p'}, {"segment", 0, 0, 'g'},       {"burst", 1, 0, 'b'},
        {"flow", 1, 0, 'f'},    {"unconnected", 0, 0, 'u'}, {"scatter", 0, 0, 'x'},
        {"asleep", 0, 0, 'z'},  {"ready", 0, 0, 'm'},   {"fresh-series", 1, 0, 'F'},
        {"from", 1, 0, 'h'},
        {0, 0, 0, 0},
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (option) {
        case 'a':
            if (!strncmp(optarg, "unix:", 5)) {
                struct sockaddr_un *address = (struct sockaddr_un *)&settings.to.storage;
                if (strlen(optarg + 5) >= sizeof address->sun_path)
                    tool_usage("path too long", optarg);
                address->sun_family = AF_UNIX;
                strcpy(address->sun_path, optarg + 5);
                settings.to.length = sizeof *address;
            } else {
                settings.to = tool_address(optarg);
            }
            break;
        case 'c': settings.count = tool_number("--count", optarg, 1, 1ull << 33); break;
        case 'd': settings.duration_ns = tool_seconds("--seconds", optarg); break;
        case 'r': settings.rate = tool_number("--rate", optarg, 0, 100000000); break;
        case 's': shape = (unsigned)tool_number("--shape", optarg, 24, 117); break;
        case 'k': settings.pack = (unsigned)tool_number("--pack", optarg, 0, DATAGRAM_BYTES_MAX); break;
        case 'T': timestamps = false; break;
        case 'x': scatter = true; break;
        case 'S': series = tool_number("--series", optarg, 1, 1000000); break;
        case 'F': fresh = tool_number("--fresh-series", optarg, 1, 10000000000ull); break;
        case 't': time_ns = tool_number("--time-ns", optarg, 0, 1ull << 62); break;
        case 'p': step_ns = tool_number("--step-ns", optarg, 0, NS_PER_S); break;
        case 'g': settings.segment = true; break;
        case 'b': settings.burst = (unsigned)tool_number("--burst", optarg, 0, BURST_MAX); break;
        case 'f': settings.flows = (unsigned)tool_number("--flow", optarg, 1, FLOWS_MAX); break;
        case 'h':
            settings.from = ntohl(inet_addr(optarg));
            if (settings.from == INADDR_NONE)
                tool_usage("not an IPv4 address", optarg);
            break;
        case 'u': settings.unconnected = true; break;
        case 'z': settings.asleep = true; break;
        case 'm': settings.ready = true; break;
        default: exit(2);
        }
    if (!settings.to.length)
        tool_usage("--to is needed", NULL);
    if (!settings.count && !settings.duration_ns)
        tool_usage("--count or --seconds is needed", NULL);
    if (settings.segment && settings.to.storage.ss_family == AF_UNIX)
        tool_usage("--segment is for UDP", NULL);
    if (settings.ready && !(settings.count && settings.segment))
        tool_usage("--ready wants --count and --segment", NULL);
    if (!settings.count)
        settings.count = UINT64_MAX;
    if (!settings.duration_ns)
        settings.duration_ns = UINT64_MAX;
    settings.lines = fresh ? lines_make_fresh(shape < 64, fresh, series, time_ns, step_ns)
                           : lines_make(shape, timestamps, series, time_ns, step_ns, scatter);
    return settings;
}

static int flow_open(const settings_t *settings, unsigned number)
{
    int fd = socket(settings->to.storage.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        tool_die("socket");
    int bytes = 4 << 20;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(settings->from + number)};
    if (settings->from && bind(fd, (struct sockaddr *)&here, sizeof here) < 0)
        tool_die("bind");
    if (!settings->unconnected &&
        connect(fd, (const struct sockaddr *)&settings->to.storage, settings->to.length) < 0)
        tool_die("connect");
    return fd;
}

/* How many segments the running kernel takes in one send: asked with datagrams to ourselves. */
static unsigned segments_of_kernel(void)
{
    static const unsigned guesses[] = {SEGMENTS_MAX, 64};
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof here;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int size = 8;
    char bytes[8 * SEGMENTS_MAX] = {0};
    if (fd < 0 || bind(fd, (struct sockaddr *)&here, sizeof here) < 0 ||
        getsockname(fd, (struct sockaddr *)&here, &length) < 0 ||
        connect(fd, (struct sockaddr *)&here, sizeof here) < 0)
        tool_die("asking for the number of segments");
    if (setsockopt(fd, SOL_UDP, UDP_SEGMENT, &size, sizeof size) < 0)
        tool_die("this kernel has no UDP_SEGMENT");
    unsigned found = 0;
    for (size_t i = 0; i < sizeof guesses / sizeof *guesses && !found; i++)
        if (send(fd, bytes, 8 * guesses[i], 0) > 0)
            found = guesses[i];
    close(fd);
    if (!found)
        tool_die("this kernel segments nothing");
    return found;
}

static sender_t sender_open(const settings_t *settings)
{
    const unsigned line_bytes = settings->lines.shape.bytes;
    sender_t sender = {.lines_each = settings->pack / line_bytes};
    if (!sender.lines_each)
        sender.lines_each = 1;
    sender.datagram_bytes = sender.lines_each * line_bytes;
    sender.burst = settings->burst ? settings->burst : SEGMENTS_MAX;
    if (settings->segment) {
        unsigned most = segments_of_kernel();
        if (most > SEGMENTED_BYTES_MAX / sender.datagram_bytes)
            most = SEGMENTED_BYTES_MAX / sender.datagram_bytes;
        if (sender.burst > most)
            sender.burst = most;
    }
    /* A paced sender makes at least 2,000 calls a second where the rate allows, so that it is smooth. */
    if (settings->rate && sender.burst > settings->rate / 2000)
        sender.burst = settings->rate >= 2000 ? (unsigned)(settings->rate / 2000) : 1;
    sender.buffer = tool_allocate((settings->ready ? settings->count : sender.burst) * sender.datagram_bytes);
    sender.next = sender.buffer;
    if (settings->ready)
        for (uint64_t i = 0; i < settings->count * sender.lines_each; i++)
            lines_put(&settings->lines, sender.buffer + i * line_bytes, i);
    sender.messages = tool_allocate(sender.burst * sizeof *sender.messages);
    sender.vectors = tool_allocate(sender.burst * sizeof *sender.vectors);
    for (unsigned i = 0; i < sender.burst; i++) {
        sender.vectors[i] = (struct iovec){sender.buffer + (size_t)i * sender.datagram_bytes,
                                           sender.datagram_bytes};
        sender.messages[i].msg_hdr.msg_iov = &sender.vectors[i];
        sender.messages[i].msg_hdr.msg_iovlen = 1;
        if (settings->unconnected) {
            sender.messages[i].msg_hdr.msg_name = (void *)&settings->to.storage;
            sender.messages[i].msg_hdr.msg_namelen = settings->to.length;
        }
    }
    for (unsigned i = 0; i < settings->flows; i++) {
        sender.fds[i] = flow_open(settings, i);
        int size = (int)sender.datagram_bytes;
        if (settings->segment && setsockopt(sender.fds[i], SOL_UDP, UDP_SEGMENT, &size, sizeof size) < 0)
            tool_die("setsockopt UDP_SEGMENT");
    }
    return sender;
}

/* Datagrams of *many* that one call got away; -1 with errno for none. */
static int burst_call(sender_t *sender, const settings_t *settings, int fd, unsigned from, unsigned many)
{
    if (!settings->segment)
        return sendmmsg(fd, sender->messages + from, many, 0);
    struct iovec vector = {sender->next + (size_t)from * sender->datagram_bytes,
                           (size_t)many * sender->datagram_bytes};
    struct msghdr message = sender->messages[0].msg_hdr;
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    return sendmsg(fd, &message, 0) < 0 ? -1 : (int)many;
}

/* Send *many* datagrams by the next flow, whatever it takes. False if told to stop. */
static bool burst_send(sender_t *sender, const settings_t *settings, unsigned many)
{
    int fd = sender->fds[sender->flow];
    sender->flow = sender->flow + 1 == settings->flows ? 0 : sender->flow + 1;
    for (unsigned done = 0; done < many;) {
        int sent = burst_call(sender, settings, fd, done, many - done);
        if (sent > 0) {
            done += (unsigned)sent;
            sender->sent += (unsigned)sent;
        } else if (errno == ENOBUFS || errno == EAGAIN || errno == ENOMEM) {
            struct timespec moment = {0, 50000};
            sender->retries++;
            nanosleep(&moment, NULL);
        } else if (errno == ECONNREFUSED) {
            /* The answer to an earlier datagram: this one has not been sent yet. */
            if (++sender->refused > REFUSALS_MAX)
                tool_die("nobody listens");
        } else if (errno != EINTR) {
            tool_die("sending a datagram of %u bytes", sender->datagram_bytes);
        }
        if (tool_stopped)
            return false;
    }
    return true;
}

/* Wait until *due_ns* of the monotonic clock: asleep for what the timer can hit, and awake for the rest unless all
 * of it shall be slept through. */
static void wait_until(uint64_t due_ns, bool asleep)
{
    for (uint64_t now = tool_now(); now < due_ns && !tool_stopped; now = tool_now())
        if (asleep || due_ns - now > 80000) {
            uint64_t until = asleep ? due_ns : due_ns - 60000;
            struct timespec moment = {(time_t)(until / NS_PER_S), (long)(until % NS_PER_S)};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &moment, NULL);
        }
}

static void sender_run(sender_t *sender, const settings_t *settings, uint64_t start_ns)
{
    const unsigned line_bytes = settings->lines.shape.bytes;
    const uint64_t end_ns =
        settings->duration_ns == UINT64_MAX ? UINT64_MAX : start_ns + settings->duration_ns;
    uint64_t schedule_ns = start_ns; /* moves when the sender slips */
    while (sender->sent < settings->count && !tool_stopped && tool_now() < end_ns) {
        uint64_t left = settings->count - sender->sent;
        unsigned many = left < sender->burst ? (unsigned)left : sender->burst;
        uint64_t number = sender->sent * sender->lines_each;
        if (settings->ready)
            sender->next = sender->buffer + number * line_bytes;
        else
            for (unsigned i = 0; i < many * sender->lines_each; i++)
                lines_put(&settings->lines, sender->buffer + i * line_bytes, number + i);
        if (settings->rate) {
            uint64_t due_ns = schedule_ns + (uint64_t)((double)sender->sent * 1e9 / (double)settings->rate);
            uint64_t now = tool_now();
            if (now > due_ns + 5000000) {
                schedule_ns += now - due_ns;
                sender->slip_ns += now - due_ns;
            }
            wait_until(due_ns, settings->asleep);
        }
        if (!burst_send(sender, settings, many))
            break;
    }
}

int main(int argc, char **argv)
{
    settings_t settings = settings_read(argc, argv);
    tool_signals();
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    sender_t sender = sender_open(&settings);
    uint64_t cpu_ns = tool_cpu(), start_ns = tool_now();
    sender_run(&sender, &settings, start_ns);
    uint64_t end_ns = tool_now();
    cpu_ns = tool_cpu() - cpu_ns;
    double elapsed = (double)(end_ns - start_ns) / 1e9;
    printf("{\"datagrams\": %ju, \"lines\": %ju, \"bytes\": %ju, \"elapsed_s\": %.6f, \"rate\": %.0f, "
           "\"cpu_ns\": %ju, \"start_ns\": %ju, \"end_ns\": %ju, \"retries\": %ju, \"refused\": %ju, "
           "\"slip_ms\": %.3f, \"burst\": %u, \"datagram_bytes\": %u, \"line_bytes\": %u, \"segment\": %s}\n",
           (uintmax_t)sender.sent, (uintmax_t)(sender.sent * sender.lines_each),
           (uintmax_t)(sender.sent * sender.datagram_bytes), elapsed,
           elapsed > 0 ? (double)sender.sent / elapsed : 0.0, (uintmax_t)cpu_ns, (uintmax_t)start_ns,
           (uintmax_t)end_ns, (uintmax_t)sender.retries, (uintmax_t)sender.refused,
           (double)sender.slip_ns / 1e6, sender.burst, sender.datagram_bytes, settings.lines.shape.bytes,
           settings.segment ? "true" : "false");
    free(sender.buffer);
    free(sender.messages);
    free(sender.vectors);
    return 0;
}
