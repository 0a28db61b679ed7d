/* Threads that hand messages to a feed while another one exchanges its tags, rings and guard, and a reader empties them:
 * every line that was accepted is in one ring, once, and each caller is told of its own message. */
#include <pthread.h>

#include "check.h"
#include "feed.h"
#include "memory_ring.h"

#define CALLERS 3u
#define MESSAGES 400u
#define LINES 20u

static feed_t *feed;
static ring_t *ring, *second;
static _Atomic bool ended;

static line_tags_t *tags_new(void)
{
    line_tags_t *tags = line_tags_new();
    if (tags == NULL || !line_tags_add(tags, (const uint8_t *)"dc", 2, (const uint8_t *)"eu", 2))
        abort();
    return tags;
}

/* A message of LINES lines, of which the third is malformed if `bad`. */
static uint32_t message_of(char *to, uint32_t caller, bool bad)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < LINES; i++)
        n += (uint32_t)(i == 2 && bad ? sprintf(to + n, "bad\n") : sprintf(to + n, "m,c=%u v=%u %u\n", caller, i, i + 1));
    return n;
}

static void *call(void *argument)
{
    uint32_t caller = (uint32_t)(uintptr_t)argument;
    uintptr_t wrong = 0; /* what is not so; checks are counted in one thread */
    for (uint32_t i = 0; i < MESSAGES; i++) {
        bool bad = i % 3 == 1, whole = i % 2 == 1;
        char text[LINES * 40];
        uint32_t n = message_of(text, caller, bad);
        uint8_t *bytes = malloc(n); /* ends where it ends: an overrun shows */
        memcpy(bytes, text, n);
        line_error_t one[1];
        line_errors_t errors = {one, 0, 1};
        feed_message_t message = {
            .bytes = bytes, .length = n, .listener = (uint16_t)caller, .format = FEED_LINE, .line_bytes_max = 1000, .whole = whole, .errors = &errors};
        line_counts_t counts = {0};
        wrong += !(feed_read(feed, &message, &counts));
        wrong += !(counts.received == LINES);
        wrong += !(counts.accepted == (!bad ? LINES : whole ? 0 : LINES - 1));
        wrong += !(counts.dropped[DROP_BODY_REFUSED] == (bad && whole ? LINES - 1 : 0));
        wrong += !(errors.count == bad && (!bad || (one[0].number == 3 && one[0].length == 4)));
        wrong += !(memcmp(bytes, text, n) == 0);
        free(bytes);
    }
    return (void *)wrong;
}

/* One ring without a guard; two that share the series, in either order. */
static void *exchange(void *unused)
{
    static const plan_routes_t shards = {.outputs = {{.name_hash = 1}, {.name_hash = 2}}, .count = 2};
    ring_t *const both[] = {ring, second, ring};
    guard_t *former = NULL;
    for (uint32_t round = 0; !atomic_load(&ended); round++) {
        guard_t *guard = NULL;
        if (round % 3) {
            mix_key_t key;
            guard = calloc(1, sizeof *guard);
            if (guard == NULL || !mix_key_draw(&key) || !guard_open(guard, &shards, NULL, 0, &key))
                abort();
        }
        line_tags_free(feed_set_layout(feed, tags_new(), both + round % 3 / 2, guard ? 2 : 1, guard));
        if (former != NULL)
            guard_close(former);
        free(former);
        former = guard;
        feed_ring_has_room(ring, 1000, 6);
        feed_publish(feed);
        struct timespec moment = {0, 200000};
        nanosleep(&moment, NULL);
    }
    line_tags_free(feed_set_layout(feed, tags_new(), &ring, 1, NULL));
    if (former != NULL)
        guard_close(former);
    free(former);
    return unused;
}

static void *empty(void *lines)
{
    for (;;) {
        bool last = atomic_load(&ended);
        ring_batch_t batch;
        ring_t *const both[] = {ring, second};
        for (int i = 0; i < 2; i++)
            while (ring_take(both[i], 1 << 16, 1 << 16, true, &batch)) {
                *(uint64_t *)lines += line_count(batch.bytes, batch.length);
                ring_free(both[i], &batch);
            }
        if (last)
            return NULL;
    }
}

int main(void)
{
    feed = aligned_alloc(CACHE_LINE, (sizeof *feed + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    memset(feed, 0, sizeof *feed);
    CHECK(feed_open(feed, scan_index_scalar));
    ring = memory_ring_new(1 << 22, RING_LP);
    second = memory_ring_new(1 << 22, RING_LP);
    line_tags_free(feed_set_layout(feed, line_tags_new(), &ring, 1, NULL));
    pthread_t callers[CALLERS], other, reader;
    uint64_t lines = 0, accepted = 0;
    pthread_create(&reader, NULL, empty, &lines);
    pthread_create(&other, NULL, exchange, NULL);
    for (uintptr_t i = 0; i < CALLERS; i++)
        pthread_create(&callers[i], NULL, call, (void *)i);
    for (uint32_t i = 0; i < CALLERS; i++) {
        void *wrong;
        pthread_join(callers[i], &wrong);
        CHECK(wrong == NULL);
    }
    feed_publish(feed);
    atomic_store(&ended, true);
    pthread_join(other, NULL);
    pthread_join(reader, NULL);
    for (uint32_t i = 0; i < CALLERS; i++) {
        listener_stats_t *s = &feed->listeners[i];
        CHECK(counter_get(&s->datagrams) == MESSAGES);
        CHECK(counter_get(&s->received) == (uint64_t)MESSAGES * LINES);
        accepted += counter_get(&s->accepted);
    }
    CHECK(lines == accepted);
    CHECK(counter_get(&feed->accepted) == accepted);
    CHECK(counter_get(&ring->accepted) + counter_get(&second->accepted) == accepted);
    for (int i = 0; i < 2; i++) {
        ring_t *r = i ? second : ring;
        CHECK(counter_get(&r->written) == counter_get(&r->accepted) && counter_get(&r->missed) == 0);
    }
    feed_close(feed);
    free(feed);
    memory_ring_free(ring);
    memory_ring_free(second);
    return check_report("test_feed");
}
