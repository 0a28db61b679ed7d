/* A lane with connections as it runs in an agent: clients, a reader that is slow now and then, and a control plane that
 * asks and changes, each in its thread. Nothing is lost, and ThreadSanitizer finds no two of them at one byte. */
#include <arpa/inet.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "memory_ring.h"

#include "lane.h"

#include "check.h"

#define CLIENTS 6
#define LINES 20000u

static lane_t *lane;
static ring_t *target;
static lane_limit_t limit = {.most = 64};
static struct sockaddr_in address = {.sin_family = AF_INET};
static _Atomic bool over;
static uint64_t delivered; /* the reader's, until it has ended */

/* For threads: CHECK counts in one place. */
static void require(bool condition)
{
    if (!condition)
        abort();
}

static void *run_lane(void *unused)
{
    require(lane_run(lane) == 0);
    return unused;
}

static void *run_client(void *number)
{
    char text[64];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    require(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    for (uint32_t i = 0; i < LINES; i++) {
        int n = snprintf(text, sizeof text, "m,c=%d s=\"a\nb\",v=%ui %u\n", (int)(intptr_t)number, i, i + 1);
        int cut = (int)(i % (uint32_t)n);
        require(write(fd, text, (size_t)cut) == cut && write(fd, text + cut, (size_t)(n - cut)) == n - cut);
    }
    close(fd);
    return NULL;
}

static void *run_reader(void *unused)
{
    const struct timespec pause = {.tv_nsec = 2000000};
    for (uint32_t round = 0; !over || round == 0; round++) {
        ring_batch_t batch;
        while (ring_take(target, 16384, 1000000, true, &batch)) {
            delivered += line_count(batch.bytes, batch.length);
            ring_free(target, &batch);
        }
        nanosleep(&pause, NULL);
    }
    return unused;
}

/* Slow enough to hold connections now and then; asked by each second of the settings. */
static source_rules_t rules;

static int call(lane_verb_t verb, int fd, uint16_t listener)
{
    lane_command_t command = {.verb = verb, .drain = true, .drain_ns = 1000000000};
    command.socket = (lane_socket_t){.fd = fd, .listener = listener, .format = LANE_LINE, .line_bytes_max = LINE_TEXT_MAX,
                                     .datagram_bytes_max = LINE_TEXT_MAX, .limit = &limit, .accepts = true, .idle_ns = 60000000000, .sources = listener ? &rules : NULL};
    return lane_call(lane, &command);
}

/* Other tags, and by turns a guard that lets all through and none; what the lane had is freed as soon as it says so. */
static void change_layout(guard_t **guard)
{
    static const plan_routes_t plan = {.outputs = {{.group = PLAN_NO_GROUP}}, .count = 1};
    guard_t *next = NULL;
    if (*guard == NULL) {
        mix_key_t key;
        next = calloc(1, sizeof *next);
        require(next != NULL && mix_key_draw(&key) && guard_open(next, &plan, NULL, 0, &key));
    }
    lane_command_t layout = {.verb = LANE_LAYOUT, .rings = {target}, .ring_count = 1, .guard = next, .tags = line_tags_new()};
    require(layout.tags != NULL && line_tags_add(layout.tags, (const uint8_t *)"dc", 2, (const uint8_t *)"eu", 2));
    CHECK(lane_call(lane, &layout) == 0);
    line_tags_free(layout.tags);
    if (*guard != NULL)
        guard_close(*guard);
    free(*guard);
    *guard = next;
}

/* What the counters of both numbers of the listener say. */
static uint64_t sum(size_t offset)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < 2; i++)
        total += counter_get((counter_t *)((char *)&lane->listeners[i] + offset));
    return total;
}

int main(void)
{
    pthread_t thread, reader, clients[CLIENTS];
    socklen_t length = sizeof address;
    lane = aligned_alloc(CACHE_LINE, (sizeof *lane + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    memset(lane, 0, sizeof *lane);
    target = memory_ring_new(65536, true);
    target->slot_bytes_max = 4096;
    static burst_t burst;
    CHECK(burst_open(&burst, -1, NULL, 0) == 0 && lane_open(lane, scan_index_scalar, &burst) == 0);
    static sources_t sources;
    CHECK(sources_open(&sources, 16) == 0);
    rules = (source_rules_t){.sources = &sources, .source_cost_ns = 1e9 / 20000, .cost_ns = 1e9 / 25000, .burst_ns = 5000000, .all = true};
    guard_t *guard = NULL;
    change_layout(&guard);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 64) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
    pthread_create(&thread, NULL, run_lane, NULL);
    pthread_create(&reader, NULL, run_reader, NULL);
    CHECK(call(LANE_ADD, fd, 0) == 0);
    for (intptr_t i = 0; i < CLIENTS; i++)
        pthread_create(&clients[i], NULL, run_client, (void *)i);
    /* Looks, and changes of number, while lines flow. */
    uint64_t most = 0;
    for (uint32_t i = 0; sum(offsetof(listener_stats_t, accepted)) < CLIENTS * (uint64_t)LINES && i < 100000; i++) {
        CHECK(call(LANE_ADD, fd, i & 1) == 0);
        change_layout(&guard);
        lane_lock(lane);
        uint64_t open = sum(offsetof(listener_stats_t, connections));
        most = open > most ? open : most;
        lane_unlock(lane);
        usleep(500);
    }
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(clients[i], NULL);
    CHECK(call(LANE_REMOVE, fd, 0) == 0);
    CHECK(call(LANE_STOP, fd, 0) == 0);
    pthread_join(thread, NULL);
    over = true;
    pthread_join(reader, NULL);
#ifndef __SANITIZE_THREAD__ /* there are few looks then, and they may come late */
    CHECK(most > 0);
#endif
    CHECK(most <= CLIENTS);
    CHECK(sum(offsetof(listener_stats_t, connections_accepted)) == CLIENTS && sum(offsetof(listener_stats_t, connections)) == 0);
    CHECK(sum(offsetof(listener_stats_t, received)) == CLIENTS * (uint64_t)LINES);
    CHECK(sum(offsetof(listener_stats_t, accepted)) == CLIENTS * (uint64_t)LINES);
    CHECK(limit_open(&limit) == 0 && lane->late.length == 0 && lane->held_count == 0);
    ring_batch_t batch;
    while (ring_take(target, UINT64_MAX, UINT64_MAX, true, &batch)) {
        delivered += line_count(batch.bytes, batch.length);
        ring_free(target, &batch);
    }
    CHECK(delivered == CLIENTS * (uint64_t)LINES);
    close(fd);
    lane_close(lane);
    sources_close(&sources);
    burst_close(&burst);
    free(lane);
    if (guard != NULL)
        guard_close(guard);
    free(guard);
    memory_ring_free(target);
    return check_report("lane, clients and reader");
}
