/* udp_discard: the least that a UDP receiver can do, as the baseline for one that does more.
 *
 * A blocking `recvmmsg` of 64 messages with MSG_WAITFORONE, and the bytes are forgotten.
 *
 *   --listen HOST:PORT  numeric address (127.0.0.1:0: a port of the kernel's choice)
 *   --rcvbuf N          receive buffer in bytes, past the system's limit where permitted (0: the default)
 *   --batch N           messages of one call (64)
 *   --gro               UDP_GRO: the kernel hands over several datagrams as one, and says their size
 *   --count N           end after so many datagrams (0: never)
 *   --idle S            end after so many seconds without a datagram, once there was one (0: never)
 *
 * Announces {"port": N} as its first line. Ends on SIGTERM, too, after reading what is in the queue. CPU
 * is that from the first call that returned to the last.
 */
#include <linux/sock_diag.h>
#include <netinet/udp.h>
#include <sys/time.h>

#include "tool.h"

#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef SOL_UDP
#define SOL_UDP 17
#endif

enum { BATCH_MAX = 1024, PLAIN_BYTES = 2048, GRO_BYTES = 65536, CONTROL_BYTES = CMSG_SPACE(sizeof(int)) };

/* The 100 ms timer that interrupts a blocking call, so that stopping and idling are noticed: it costs
 * the loop nothing, where a socket timeout would arm a timer in each call. */
static void on_alarm(int number) { (void)number; }

static void alarm_start(void)
{
    struct sigaction action = {.sa_handler = on_alarm};
    struct itimerval every = {{0, 100000}, {0, 100000}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
}

static int receiver_open(const char *listen, int buffer_bytes, bool gro)
{
    tool_address_t address = tool_address(listen);
    int on = 1;
    int fd = socket(address.storage.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address.storage, address.length) < 0)
        tool_die("binding %s", listen);
    if (buffer_bytes && setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof buffer_bytes) < 0 &&
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes) < 0)
        tool_die("receive buffer");
    if (gro && setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on) < 0)
        tool_die("this kernel has no UDP_GRO");
    return fd;
}

/* How many datagrams one message holds. */
static uint64_t datagrams_of(struct mmsghdr *message)
{
    for (struct cmsghdr *control = CMSG_FIRSTHDR(&message->msg_hdr); control;
         control = CMSG_NXTHDR(&message->msg_hdr, control))
        if (control->cmsg_level == SOL_UDP && control->cmsg_type == UDP_GRO) {
            int size;
            memcpy(&size, CMSG_DATA(control), sizeof size);
            return size > 0 ? (message->msg_len + (unsigned)size - 1) / (unsigned)size : 1;
        }
    return 1;
}

int main(int argc, char **argv)
{
    const char *listen = "127.0.0.1:0";
    int buffer_bytes = 0;
    unsigned batch = 64;
    bool gro = false;
    uint64_t count_max = UINT64_MAX, idle_ns = UINT64_MAX;
    static const struct option options[] = {
        {"listen", 1, 0, 'l'}, {"rcvbuf", 1, 0, 'r'}, {"batch", 1, 0, 'b'}, {"gro", 0, 0, 'g'},
        {"count", 1, 0, 'c'},  {"idle", 1, 0, 'i'},   {0, 0, 0, 0},
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (option) {
        case 'l': listen = optarg; break;
        case 'r': buffer_bytes = (int)tool_number("--rcvbuf", optarg, 0, 1 << 30); break;
        case 'b': batch = (unsigned)tool_number("--batch", optarg, 1, BATCH_MAX); break;
        case 'g': gro = true; break;
        case 'c': count_max = tool_number("--count", optarg, 0, UINT64_MAX - 1); break;
        case 'i': idle_ns = tool_seconds("--idle", optarg); break;
        default: return 2;
        }
    if (!count_max)
        count_max = UINT64_MAX;
    if (!idle_ns)
        idle_ns = UINT64_MAX;

    const size_t each = gro ? GRO_BYTES : PLAIN_BYTES;
    char *buffer = tool_allocate(batch * each), *controls = tool_allocate((size_t)batch * CONTROL_BYTES);
    struct mmsghdr *messages = tool_allocate(batch * sizeof *messages);
    struct iovec *vectors = tool_allocate(batch * sizeof *vectors);
    memset(buffer, 1, batch * each); /* the pages are there before the first datagram */
    for (unsigned i = 0; i < batch; i++) {
        vectors[i] = (struct iovec){buffer + i * each, each};
        messages[i].msg_hdr.msg_iov = &vectors[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    int fd = receiver_open(listen, buffer_bytes, gro);
    tool_signals();
    alarm_start();
    tool_announce(fd);

    uint64_t datagrams = 0, bytes = 0, calls = 0, first_ns = 0, last_ns = 0, first_cpu_ns = 0, quiet_ns = 0;
    tool_usage_t first_usage = {0, 0};
    while (datagrams < count_max) {
        if (gro)
            for (unsigned i = 0; i < batch; i++) {
                messages[i].msg_hdr.msg_control = controls + (size_t)i * CONTROL_BYTES;
                messages[i].msg_hdr.msg_controllen = CONTROL_BYTES;
            }
        int got = recvmmsg(fd, messages, batch, tool_stopped ? MSG_DONTWAIT : MSG_WAITFORONE, NULL);
        if (got < 0) {
            if (tool_stopped && errno == EAGAIN)
                break;
            if (errno != EINTR)
                tool_die("recvmmsg");
            uint64_t now = tool_now();
            if (!quiet_ns)
                quiet_ns = now;
            if (datagrams && now - quiet_ns > idle_ns)
                break;
            continue;
        }
        quiet_ns = 0;
        if (!calls++) {
            first_ns = tool_now();
            first_cpu_ns = tool_cpu();
            first_usage = tool_rusage();
        }
        for (int i = 0; i < got; i++)
            bytes += messages[i].msg_len;
        if (gro)
            for (int i = 0; i < got; i++)
                datagrams += datagrams_of(&messages[i]);
        else
            datagrams += (unsigned)got;
    }
    last_ns = quiet_ns ? quiet_ns : tool_now();
    uint64_t cpu_ns = calls ? tool_cpu() - first_cpu_ns : 0;
    tool_usage_t usage = tool_rusage();
    uint32_t memory[SK_MEMINFO_VARS] = {0};
    socklen_t length = sizeof memory;
    if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &length) < 0)
        tool_die("getsockopt SO_MEMINFO");
    printf("{\"datagrams\": %ju, \"bytes\": %ju, \"calls\": %ju, \"elapsed_s\": %.6f, \"cpu_ns\": %ju, "
           "\"user_us\": %ju, \"system_us\": %ju, \"cpu_ns_per_datagram\": %.1f, \"kernel_drops\": %u, "
           "\"rcvbuf\": %u, \"gro\": %s}\n",
           (uintmax_t)datagrams, (uintmax_t)bytes, (uintmax_t)calls,
           calls ? (double)(last_ns - first_ns) / 1e9 : 0.0, (uintmax_t)cpu_ns,
           (uintmax_t)(usage.user_us - first_usage.user_us),
           (uintmax_t)(usage.system_us - first_usage.system_us),
           datagrams ? (double)cpu_ns / (double)datagrams : 0.0, memory[SK_MEMINFO_DROPS],
           memory[SK_MEMINFO_RCVBUF], gro ? "true" : "false");
    close(fd);
    free(buffer);
    free(controls);
    free(messages);
    free(vectors);
    return 0;
}
