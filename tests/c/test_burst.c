/* Lanes that are killed with datagrams in hand: at random, at each step of a burst, after every single instruction of one.
 * The next process reads what the file says was in hand. Nothing is missing then; what comes twice was in hand, and is
 * the same line, stamp and all. Files that are damaged are never believed. */
#include <arpa/inet.h>
#include <dirent.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#define LINE_WINDOW 256u /* so that datagrams have several */

static void stop_here(int step);
#define BURST_STEP(step) stop_here(step)

#include "lane.h"

#include "burst_left.h"
#include "check.h"
#include "ring_adopt.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

#define RINGS 2
#define CAPACITY (4u << 20)
#define LINE_BYTES 25u /* l,i=00000012 v=12345678i and a LF */
#define IDS_MAX 4000000u

static const uint8_t boot[RING_BOOT_BYTES] = "this machine   ";
static char folder[64] = "/dev/shm/penstock-burst-XXXXXX";
static int door, sender;                       /* the socket that outlives all, and one that sends to it */
static int ring_fds[RINGS];
static uint32_t next_id = 1;
static struct { uint64_t stamp; uint32_t times; bool in_hand; } *seen[RINGS];
static int stop_step = -1, stop_count;
static _Atomic uint32_t *running;              /* the last process whose lane runs; in shared memory */

static void stop_here(int step)
{
    if (step == stop_step && --stop_count <= 0)
        raise(SIGKILL);
}

/* ---- what lies on the disk ---- */

static int64_t now_ns(void)
{
    return lane_clock(CLOCK_REALTIME);
}

static ring_t *ring_memory(void)
{
    ring_t *r = aligned_alloc(CACHE_LINE, (sizeof *r + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    memset(r, 0, sizeof *r);
    r->wake_fd = -1;
    r->slot_bytes_max = 65536;
    r->slot_metrics_max = 64; /* runs are closed, and so published, inside of bursts */
    r->sum = sum_lanes_best();
    return r;
}

static ring_t *adopt_ring(int i)
{
    ring_findings_t found;
    ring_t *r = ring_memory();
    if (ring_adopt(r, ring_fds[i], boot, &found) || found.state != RING_WHOLE)
        abort();
    return r;
}

static void forget_ring(ring_t *r)
{
    ring_close(r);
    free(r);
}

static int open_burst(uint32_t generation, int flags)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%010u.burst", folder, generation);
    return open(path, flags | O_RDWR, 0600);
}

static void remove_burst(uint32_t generation)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%010u.burst", folder, generation);
    CHECK(unlink(path) == 0);
}

/* The lowest number of a file from `from` on, or 0. */
static uint32_t find_burst(uint32_t from)
{
    uint32_t best = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        uint32_t number = (uint32_t)strtoul(entry->d_name, NULL, 10);
        if (number >= from && number && (best == 0 || number < best))
            best = number;
    }
    closedir(dir);
    return best;
}

/* ---- the process that is killed ---- */

/* A lane in the process, with its rings and a burst of its own, and the door added. */
static lane_t *make_lane(uint32_t generation, ring_t **rings)
{
    static burst_t burst;
    lane_t *lane = aligned_alloc(CACHE_LINE, (sizeof *lane + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    memset(lane, 0, sizeof *lane);
    memset(&burst, 0, sizeof burst);
    int fd = open_burst(generation, O_CREAT | O_EXCL);
    if (fd < 0 || burst_open(&burst, fd, boot, now_ns()) || lane_open(lane, scan_index_scalar, &burst))
        abort();
    close(fd);
    lane_command_t set = {.verb = LANE_LAYOUT, .ring_count = RINGS, .tags = line_tags_new()};
    for (int i = 0; i < RINGS; i++)
        set.rings[i] = rings[i] = adopt_ring(i);
    lane_call(lane, &set);
    line_tags_free(set.tags);
    lane_command_t add = {.verb = LANE_ADD, .gro = true, .name = "door", .address = "udp://here"};
    add.socket = (lane_socket_t){.fd = door, .listener = 3, .format = LANE_LINE, .line_bytes_max = LINE_TEXT_MAX,
                                 .datagram_bytes_max = LINE_TEXT_MAX};
    if (lane_call(lane, &add))
        abort();
    return lane;
}

/* Reads everything that earlier processes left, older than `generation`, and removes it. */
static void read_left(lane_t *lane, uint32_t generation)
{
    for (uint32_t number; (number = find_burst(0)) != 0 && number < generation;) {
        burst_t left = {0};
        burst_findings_t found;
        int fd = open_burst(number, 0);
        if (fd < 0 || burst_read_left(&left, fd, boot, now_ns(), &found) || burst_try_left(&left, fd, &found))
            abort();
        if (found.state == BURST_WHOLE && found.messages) {
            if (strcmp(burst_said(&left, 0), "door") || strcmp(burst_said(&left, 1), "udp://here"))
                abort();
            lane_command_t replay = {.verb = LANE_REPLAY, .socket.fd = door, .left = &left};
            lane_call(lane, &replay);
        } else if (found.state != BURST_WHOLE && found.state != BURST_UNFINISHED) {
            abort();
        }
        burst_close(&left);
        close(fd);
        remove_burst(number);
    }
}

static void live(uint32_t generation, int step, int count)
{
    ring_t *rings[RINGS];
    lane_t *lane = make_lane(generation, rings);
    stop_step = step;
    stop_count = count;
    if (generation % 2) /* as if the clock had been set back: by more than this takes, or another's stamps would be met by chance */
        line_stamp_after(&lane->reader, now_ns() + INT64_C(86400000000000));
    read_left(lane, generation);
    *running = generation;
    lane_run(lane);
    _exit(0);
}

/* ---- the one that looks ---- */

static uint32_t queue_bytes(void)
{
    uint32_t info[LANE_MEMINFO_VARS] = {0};
    socklen_t size = sizeof info;
    CHECK(getsockopt(door, SOL_SOCKET, SO_MEMINFO, info, &size) == 0 && info[LANE_MEMINFO_DROPS] == 0);
    return info[LANE_MEMINFO_RMEM_ALLOC];
}

/* Sends one message of `datagrams` datagrams with so many lines each, if the socket has room. */
static bool send_lines(uint32_t datagrams, uint32_t lines)
{
    static char text[65536];
    if (queue_bytes() > 140000)
        return false;
    uint32_t segment = lines * LINE_BYTES - 1, at = 0;
    for (uint32_t d = 0; d < datagrams; d++, at--) /* no LF between two datagrams */
        for (uint32_t i = 0; i < lines; i++, next_id++)
            at += (uint32_t)sprintf(text + at, "l,i=%08u v=%08ui\n", next_id, next_id % 89999999 + 10000000);
    int glue = datagrams > 1 ? (int)segment : 0;
    CHECK(setsockopt(sender, SOL_UDP, UDP_SEGMENT, &glue, sizeof glue) == 0);
    CHECK(send(sender, text, datagrams * segment, 0) == (ssize_t)(datagrams * segment));
    return true;
}

static void send_some(uint32_t salt)
{
    switch (salt % 4) {
    case 0:
        send_lines(1, 1);
        break;
    case 1:
        send_lines(1 + salt / 4 % 30, 1 + salt / 128 % 3);
        break;
    case 2:
        send_lines(1, 1 + salt / 4 % 50); /* several windows */
        break;
    default:
        send_lines(1 + salt / 4 % 4, 15 + salt / 16 % 15);
    }
}

/* Notes which lines a text of ours has. The last one may have no LF. */
static void note_in_hand(const uint8_t *text, uint32_t n)
{
    for (uint32_t at = 0; at < n; at += LINE_BYTES) {
        CHECK(n - at >= LINE_BYTES - 1 && memcmp(text + at, "l,i=", 4) == 0);
        uint32_t id = (uint32_t)strtoul((const char *)text + at + 4, NULL, 10);
        char line[LINE_BYTES + 1];
        CHECK(id > 0 && id < next_id);
        sprintf(line, "l,i=%08u v=%08ui", id, id % 89999999 + 10000000);
        CHECK(memcmp(line, text + at, LINE_BYTES - 1) == 0);
        for (int i = 0; i < RINGS && id < IDS_MAX; i++)
            seen[i][id].in_hand = true;
    }
}

/* Looks at all bursts that are left. Returns how many datagrams are in hand. */
static uint64_t look_at_bursts(void)
{
    uint64_t datagrams = 0;
    for (uint32_t number = 0; (number = find_burst(number)) != 0; number++) {
        static burst_t left;
        burst_findings_t found;
        int fd = open_burst(number, 0);
        memset(&left, 0, sizeof left);
        CHECK(burst_read_left(&left, fd, boot, now_ns(), &found) == 0);
        CHECK(found.state == BURST_WHOLE || (found.state == BURST_UNFINISHED && found.messages == 0));
        for (uint32_t i = 0; i < BURST_MESSAGES && found.messages; i++) {
            struct mmsghdr *message = &left.header->messages[i];
            uint32_t length = message->msg_len, segment = burst_segment_bytes(&message->msg_hdr, length);
            for (uint32_t at = 0; at < length; at += segment)
                note_in_hand(left.buffers + (size_t)i * BURST_STRIDE + at, length - at < segment ? length - at : segment);
        }
        datagrams += found.datagrams;
        burst_close(&left);
        close(fd);
    }
    return datagrams;
}

/* Takes everything out of the rings: each line for the first time, or as it was then and in hand meanwhile. */
static void look_at_rings(void)
{
    for (int i = 0; i < RINGS; i++) {
        ring_t *r = adopt_ring(i);
        ring_batch_t batch;
        while (ring_take(r, 1 << 20, 1 << 20, true, &batch)) {
            for (const uint8_t *p = batch.bytes, *end = p + batch.length; p < end; p = (const uint8_t *)memchr(p, '\n', (size_t)(end - p)) + 1) {
                uint32_t id = 0, value = 0;
                uint64_t stamp = 0;
                CHECK(sscanf((const char *)p, "l,i=%u v=%ui %lu\n", &id, &value, &stamp) == 3);
                CHECK(id > 0 && id < next_id && value == id % 89999999 + 10000000);
                if (id == 0 || id >= next_id)
                    continue;
                CHECK(seen[i][id].times == 0 || (seen[i][id].in_hand && seen[i][id].stamp == stamp));
                seen[i][id].times++;
                seen[i][id].stamp = stamp;
            }
            ring_free(r, &batch);
        }
        forget_ring(r);
    }
}

static void begin(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (mkdtemp(folder) == NULL) {
        strcpy(folder, "/tmp/penstock-burst-XXXXXX");
        CHECK(mkdtemp(folder) != NULL);
    }
    running = mmap(NULL, sizeof *running, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(running != MAP_FAILED);
    door = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    sender = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(bind(door, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(getsockname(door, (struct sockaddr *)&address, &length) == 0);
    CHECK(connect(sender, (struct sockaddr *)&address, length) == 0);
    int on = 1;
    CHECK(setsockopt(door, SOL_UDP, UDP_GRO, &on, sizeof on) == 0);
    for (int i = 0; i < RINGS; i++) {
        ring_t *r = ring_memory();
        ring_fds[i] = memfd_create("ring", 0);
        CHECK(ring_open(r, ring_fds[i], CAPACITY, boot, now_ns()) == 0);
        forget_ring(r);
        seen[i] = calloc(IDS_MAX, sizeof *seen[i]);
    }
}

static void end(void)
{
    CHECK(find_burst(0) == 0 && rmdir(folder) == 0);
    for (int i = 0; i < RINGS; i++)
        free(seen[i]);
    close(door);
    close(sender);
}

static int compare_stamps(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* Everything sent from `first` on is there, and no two lines have one stamp. How many lines came more than once. */
static uint32_t settle(uint32_t first)
{
    uint32_t twice = 0, lines = next_id - first;
    look_at_bursts();
    look_at_rings();
    for (uint32_t id = first; id < next_id; id++)
        for (int i = 0; i < RINGS; i++) {
            if (seen[i][id].times == 0)
                CHECK(!"a line is missing");
            twice += seen[i][id].times > 1;
        }
    uint64_t *stamps = calloc(lines + 1, sizeof *stamps);
    for (uint32_t i = 0; i < lines; i++)
        stamps[i] = seen[0][first + i].stamp;
    qsort(stamps, lines, sizeof *stamps, compare_stamps);
    for (uint32_t i = 1; i < lines; i++)
        CHECK(stamps[i - 1] < stamps[i]);
    free(stamps);
    return twice;
}

/* Has a last process read everything that is left, and end in order. */
static void finish(uint32_t generation)
{
    ring_t *rings[RINGS];
    lane_t *lane = make_lane(generation, rings);
    read_left(lane, generation);
    lane_command_t stop = {.verb = LANE_STOP, .drain_ns = INT64_C(2000000000)};
    lane_call(lane, &stop);
    lane_run(lane);
    CHECK(queue_bytes() == 0 && look_at_bursts() == 0);
    remove_burst(generation);
    for (int i = 0; i < RINGS; i++)
        forget_ring(rings[i]);
    burst_t *burst = lane->burst;
    lane_close(lane);
    burst_close(burst);
    free(lane);
}

static void kill_at_random(uint32_t kills)
{
    uint32_t first = next_id, with = 0, generation = 1000;
    for (uint32_t k = 0; k < kills; k++) {
        pid_t child = fork();
        if (child == 0)
            live(++generation, -1, 0);
        generation++;
        /* One in four may be killed before it runs; more of them in a row, and what they begin to read is read no more. */
        int64_t until = lane_clock(CLOCK_MONOTONIC) + rand() % 4000000;
        bool runs = k % 4 == 0;
        while (!runs || lane_clock(CLOCK_MONOTONIC) < until) {
            send_some((uint32_t)rand());
            if (!runs && *running == generation) {
                runs = true;
                until = lane_clock(CLOCK_MONOTONIC) + rand() % 4000000;
            }
        }
        kill(child, SIGKILL);
        CHECK(waitpid(child, NULL, 0) == child);
        with += look_at_bursts() != 0;
        look_at_rings();
    }
    finish(generation + 1);
    uint32_t twice = settle(first);
    printf("%u kills at random, %u with datagrams in hand: %u lines in each ring, %u twice in one\n", kills, with, next_id - first, twice);
    CHECK(with > 0);
}

/* Stops processes at each step of their first, second, … burst; those that read what is left as well. */
static void kill_at_steps(void)
{
    uint32_t generation = 100000;
    for (int step = 0; step < BURST_STEPS; step++) {
        uint32_t first = next_id, with = 0;
        for (uint32_t round = 0; round < 12; round++) {
            for (uint32_t i = 0; i < 20; i++)
                send_some((uint32_t)rand());
            /* A process may be stopped while it reads what the one before has left, and the next one reads that. */
            for (uint32_t count = 0; count < 3; count++) {
                int status;
                while (queue_bytes() < 100000) /* more than one burst */
                    send_lines(1, 1);
                pid_t child = fork();
                if (child == 0)
                    live(++generation, step, 1 + (count + round) % 2);
                generation++;
                CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
                uint64_t datagrams = look_at_bursts();
                with += datagrams > 0;
                look_at_rings();
                if (step < BURST_DONE)
                    CHECK(datagrams > 0);
                send_some(0);
            }
        }
        finish(++generation);
        uint32_t twice = settle(first);
        printf("killed at step %d: %u lines in each ring, %u twice in one\n", step, next_id - first, twice);
        CHECK(step < BURST_PUBLISHED || step == BURST_DONE || twice > 0);
        CHECK(step != BURST_TAKEN || twice == 0);
        CHECK(step != BURST_DONE || (twice == 0 && with == 0));
    }
}

/* After every instruction of a burst: what is in hand is as it was sent, or all of it is in both rings. */
static bool step_through(void)
{
    uint32_t first = next_id, generation = 900000000;
    for (uint32_t i = 0; i < 3; i++)
        CHECK(send_lines(2 + i, 2 - i % 2) && send_lines(1, 12));
    int state;
    long steps = 0, in_hand = 0;
    pid_t child = fork();
    if (child == 0) {
        ring_t *rings[RINGS];
        lane_t *lane = make_lane(generation, rings);
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
            _exit(77);
        raise(SIGSTOP);
        lane_burst(lane, lane_find(lane, door));
        _exit(0);
    }
    bool whole = false;
    while (waitpid(child, &state, 0) == child && WIFSTOPPED(state)) {
        bool some = look_at_bursts() > 0;
        in_hand += some;
        if (in_hand && !some && !whole) {
            whole = true;
            look_at_rings();
            for (uint32_t id = first; id < next_id; id++)
                CHECK(seen[0][id].times == 1 && seen[1][id].times == 1);
        }
        if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) < 0)
            break;
        steps++;
    }
    if (WIFEXITED(state) && WEXITSTATUS(state) == 77) {
        printf("not stepped through: ptrace is not allowed here\n");
    } else {
        CHECK(WIFEXITED(state) && WEXITSTATUS(state) == 0 && whole);
        printf("%ld instructions of a burst, %ld with it in hand\n", steps, in_hand);
    }
    finish(generation + 1);
    CHECK(settle(first) == 0);
    return true;
}

/* ---- files that are not to be believed ---- */

/* A file with a burst in hand, of three messages, one of them glued. */
static int make_left(void)
{
    uint32_t first = next_id;
    CHECK(send_lines(1, 1) && send_lines(5, 2) && send_lines(1, 30));
    int status;
    pid_t child = fork();
    if (child == 0)
        live(1, BURST_NOTED, 1);
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    next_id = first;
    return open_burst(1, 0);
}

static burst_state_t judge(int fd, burst_findings_t *found)
{
    burst_t left = {0};
    CHECK(burst_read_left(&left, fd, boot, now_ns(), found) == 0);
    burst_close(&left);
    return found->state;
}

static void put(int fd, size_t at, const void *bytes, size_t n)
{
    CHECK(pwrite(fd, bytes, n, (off_t)at) == (ssize_t)n);
}

/* Changes n bytes there, looks, and puts back what was there. */
static burst_state_t judge_with(int fd, size_t at, const void *bytes, size_t n, burst_findings_t *found)
{
    uint8_t before[256];
    CHECK(pread(fd, before, n, (off_t)at) == (ssize_t)n);
    put(fd, at, bytes, n);
    burst_state_t state = judge(fd, found);
    put(fd, at, before, n);
    return state;
}

static void damage(void)
{
    burst_findings_t found;
    int fd = make_left();
    CHECK(judge(fd, &found) == BURST_WHOLE && found.messages == 3 && found.datagrams == 7);
    size_t lengths = offsetof(burst_header_t, messages) + offsetof(struct mmsghdr, msg_len);
    size_t controls = offsetof(burst_header_t, messages) + offsetof(struct mmsghdr, msg_hdr.msg_controllen);
    uint32_t large = BURST_MESSAGE_BYTES + 1, other = 70, one = 1;
    uint64_t many = 1000, layout = BURST_LAYOUT + 1;
    CHECK(judge_with(fd, lengths, &large, 4, &found) == BURST_TORN && found.messages == 3);
    CHECK(judge_with(fd, controls + sizeof(struct mmsghdr), &many, 8, &found) == BURST_TORN);
    CHECK(judge_with(fd, offsetof(burst_header_t, listener), &other, 4, &found) == BURST_TORN);
    CHECK(judge_with(fd, offsetof(burst_header_t, layout), &layout, 8, &found) == BURST_OLDER && found.messages == 0);
    CHECK(judge_with(fd, offsetof(burst_header_t, bytes), &many, 8, &found) == BURST_TORN);
    CHECK(judge_with(fd, offsetof(burst_header_t, boot_id), "x", 1, &found) == BURST_TORN);
    CHECK(judge_with(fd, 0, &many, 8, &found) == BURST_FOREIGN);
    /* A glued message whose datagrams would be too many, and one that says so of more than there is. */
    size_t segment = offsetof(burst_header_t, control) + sizeof(((burst_header_t *)NULL)->control[0]) + sizeof(struct cmsghdr);
    uint32_t length = 2 * BURST_SEGMENTS_MAX;
    uint8_t before[4];
    CHECK(pread(fd, before, 4, (off_t)(lengths + sizeof(struct mmsghdr))) == 4);
    put(fd, lengths + sizeof(struct mmsghdr), &length, 4);
    CHECK(judge_with(fd, segment, &one, 4, &found) == BURST_TORN);
    put(fd, lengths + sizeof(struct mmsghdr), before, 4);
    /* The same file after a start of the machine: it is ours, and says how much was lost. */
    burst_t left = {0};
    static const uint8_t later[RING_BOOT_BYTES] = "another start  ";
    CHECK(burst_read_left(&left, fd, later, now_ns(), &found) == 0 && found.state == BURST_OLDER && found.datagrams == 7);
    burst_close(&left);
    /* A note that is not whole is none: what is in hand is new then, and the time is noted in the file. */
    uint64_t zero = 0;
    burst_note_t note[2];
    put(fd, offsetof(burst_header_t, note.sum), &zero, 8);
    for (int i = 0; i < 2; i++) {
        CHECK(judge(fd, &found) == BURST_WHOLE);
        CHECK(pread(fd, &note[i], sizeof note[i], offsetof(burst_header_t, note)) == sizeof note[i]);
    }
    CHECK(note[0].sum && memcmp(&note[0], &note[1], sizeof note[0]) == 0);
    /* Who begins to read it too often does so in vain. */
    for (uint32_t i = 0; i <= BURST_TRIES_MAX; i++) {
        memset(&left, 0, sizeof left);
        CHECK(burst_read_left(&left, fd, boot, now_ns(), &found) == 0 && burst_try_left(&left, fd, &found) == 0);
        CHECK(found.state == (i < BURST_TRIES_MAX ? BURST_WHOLE : BURST_FATAL) && found.datagrams == 7);
        burst_close(&left);
    }
    /* Whatever a header says, nothing outside of the memory is touched, and what is believed can be read. */
    uint32_t believed = 0;
    ring_t *rings[RINGS];
    lane_t *lane = make_lane(2, rings);
    for (uint32_t round = 0; round < 20000; round++) {
        uint8_t noise[64];
        size_t size = 1 + (size_t)rand() % sizeof noise, from = round % 2 ? offsetof(burst_header_t, listener) : 0;
        size_t at = from + (size_t)rand() % (offsetof(burst_header_t, names) - from - size);
        for (size_t i = 0; i < size; i++)
            noise[i] = (uint8_t)(rand() % 4 ? rand() : rand() % 3);
        uint8_t was[sizeof noise];
        CHECK(pread(fd, was, size, (off_t)at) == (ssize_t)size);
        put(fd, at, noise, size);
        memset(&left, 0, sizeof left);
        CHECK(burst_read_left(&left, fd, boot, now_ns(), &found) == 0);
        if (found.state == BURST_WHOLE) {
            lane_command_t replay = {.verb = LANE_REPLAY, .socket.fd = door, .left = &left};
            CHECK(lane_call(lane, &replay) == 0);
            believed++;
        }
        lane_command_t refuse = {.verb = LANE_REFUSE, .socket.listener = 3, .left = &left, .found = &found};
        CHECK(lane_call(lane, &refuse) == 0);
        burst_close(&left);
        put(fd, at, was, size);
        for (int i = 0; i < RINGS; i++) {
            ring_batch_t batch;
            while (ring_take(rings[i], 1 << 20, 1 << 20, true, &batch))
                ring_free(rings[i], &batch);
        }
    }
    const listener_stats_t *stats = &lane->listeners[3];
    uint64_t dropped = 0;
    for (int i = 0; i < DROP_REASONS; i++)
        dropped += counter_get(&stats->dropped[i]);
    CHECK(counter_get(&stats->received) == counter_get(&stats->accepted) + dropped);
    CHECK(believed > 100 && counter_get(&stats->dropped[DROP_BURST_TORN]) > 0 && counter_get(&stats->dropped[DROP_LISTENER_GONE]) > 0);
    printf("20000 damaged headers, %u of them still good\n", believed);
    /* Cut files, and files of noise. */
    for (off_t size = (off_t)burst_bytes() - 1; size > 0; size = size * 3 / 4) {
        CHECK(ftruncate(fd, size) == 0);
        burst_state_t state = judge(fd, &found);
        CHECK(state == BURST_FOREIGN || state == BURST_TORN);
    }
    CHECK(ftruncate(fd, 0) == 0 && judge(fd, &found) == BURST_UNFINISHED);
    for (uint32_t round = 0; round < 100; round++) {
        static uint8_t noise[sizeof(burst_header_t)];
        for (size_t i = 0; i < sizeof noise; i++)
            noise[i] = (uint8_t)rand();
        put(fd, 0, noise, sizeof noise);
        CHECK(judge(fd, &found) == BURST_FOREIGN && found.messages == 0);
    }
    close(fd);
    burst_t *burst = lane->burst;
    lane_close(lane);
    burst_close(burst);
    free(lane);
    for (int i = 0; i < RINGS; i++)
        forget_ring(rings[i]);
    remove_burst(1);
    remove_burst(2);
}

int main(int count, char **arguments)
{
    srand(17);
    begin();
    damage();
    step_through();
    kill_at_steps();
    kill_at_random(count > 1 ? (uint32_t)atoi(arguments[1]) : 300);
    end();
    return check_report("bursts and kills");
}
