/* The tap against a filter that looks at each line by itself; its budgets; a full buffer; several senders at once. */
#include <string.h>

#include "check.h"
#include "memory_ring.h"
#include "tap.h"

static uint64_t state = 88172645463325252u;

static uint32_t draw(uint32_t below)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 33) % below;
}

static const char *const lines[] = {
    "cpu,host=a idle=1 17\n", "cpu,host=b idle=1 17\n", "cpu\\,x,host=a idle=1 17\n", "mem used=1i 17\n",
    "cpu text=\"a\nb c\" 17\n", "disk,path=/\\ x text=\"cpu \\\" \n\" 17\n", "c v=1 1\n",
};
#define LINES (sizeof lines / sizeof *lines)

static tap_t *tap_new(double rate, int64_t budget_ns)
{
    tap_t *t = calloc(1, sizeof *t);
    if (t == NULL || !tap_open(t))
        abort();
    t->rate = rate;
    t->budget_ns = budget_ns;
    t->anybody = true;
    return t;
}

static void tap_free(tap_t *t)
{
    tap_close(t);
    free(t);
}

/* Everything that begins with the text. */
static pattern_t beginning_with(const char *text)
{
    return (pattern_t){.kind = PATTERN_PREFIX, .literal = (const uint8_t *)text, .literal_length = (uint32_t)strlen(text)};
}

/* Puts runs of random lines by random listeners, and takes them as one batch. Notes which lines of which listener are in it. */
static ring_batch_t random_batch(ring_t *r, uint8_t *which, uint8_t *whose, uint32_t *count)
{
    ring_batch_t batch = {0};
    *count = 0;
    for (uint32_t runs = 1 + draw(20); runs > 0; runs--) {
        uint8_t listener = draw(8) == 0 ? RING_SEVERAL : (uint8_t)(draw(2) ? draw(3) : 63);
        ring_from(r, listener);
        for (uint32_t n = 1 + draw(30); n > 0; n--) {
            uint32_t line = draw(LINES);
            size_t bytes = strlen(lines[line]);
            memcpy(ring_reserve(r, bytes), lines[line], bytes);
            ring_commit(r, bytes, 1, 1);
            which[*count] = (uint8_t)line;
            whose[(*count)++] = listener;
        }
        ring_publish(r);
    }
    CHECK(ring_take(r, UINT64_MAX, UINT64_MAX, true, &batch) && batch.metrics == *count);
    return batch;
}

static void test_what_is_shown_is_what_matches(void)
{
    static uint8_t which[1000], whose[1000], expected[TAP_BYTES];
    pattern_t cpu = beginning_with("cpu"), head = beginning_with("cpu,host=a"), c = {.kind = PATTERN_LITERAL, .literal = (const uint8_t *)"c", .literal_length = 1};
    for (uint32_t turn = 0; turn < 3000; turn++) {
        ring_t *r = memory_ring_new(65536, RING_LP);
        tap_t *t = tap_new(1e9, INT64_C(3600000000000));
        const pattern_t *const patterns[] = {NULL, &cpu, &head, &c};
        uint32_t pattern = draw(4), count, used = 0;
        uint64_t passed = 0, skipped = 0, matched = 0;
        t->match = patterns[pattern];
        t->whole_head = t->match == &head;
        t->anybody = draw(2);
        t->listeners = UINT64_C(1) << 63 | draw(8);
        ring_batch_t batch = random_batch(r, which, whose, &count);
        tap_offer(t, r, &batch, tap_clock());
        for (uint32_t i = 0; i < count; i++) {
            const char *line = lines[which[i]];
            if (!t->anybody && whose[i] < 64 && !(t->listeners >> whose[i] & 1))
                continue;
            passed++;
            if (!t->anybody && whose[i] == RING_SEVERAL) {
                skipped++;
                continue;
            }
            bool fits = pattern == 0 || (pattern == 1 && strncmp(line, "cpu", 3) == 0) || (pattern == 2 && strncmp(line, "cpu,host=a ", 11) == 0) ||
                        (pattern == 3 && strncmp(line, "c ", 2) == 0);
            if (!fits)
                continue;
            matched++;
            memcpy(expected + used, line, strlen(line));
            used += (uint32_t)strlen(line);
        }
        CHECK(t->passed == passed && t->skipped == skipped && t->matched == matched && t->shown == matched);
        CHECK(t->used == used && memcmp(t->text, expected, used) == 0);
        ring_free(r, &batch);
        tap_free(t);
        memory_ring_free(r);
    }
}

static ring_batch_t batch_of(ring_t *r, const char *line, uint32_t count)
{
    ring_batch_t batch = {0};
    size_t bytes = strlen(line);
    for (uint32_t i = 0; i < count; i++) {
        memcpy(ring_reserve(r, bytes), line, bytes);
        ring_commit(r, bytes, 1, 1);
    }
    ring_publish(r);
    CHECK(ring_take(r, UINT64_MAX, UINT64_MAX, true, &batch) && batch.metrics == count);
    return batch;
}

static void test_no_more_lines_a_second_than_wanted(void)
{
    ring_t *r = memory_ring_new(1 << 20, RING_LP);
    tap_t *t = tap_new(10, TAP_SECOND);
    ring_batch_t batch = batch_of(r, "cpu v=1 1\n", 1000);
    int64_t start = tap_clock() + TAP_SECOND;
    tap_offer(t, r, &batch, start);
    CHECK(t->shown == 10 && t->matched == 1000 && t->passed == 1000 && t->skipped == 0);
    tap_offer(t, r, &batch, start + TAP_SECOND / 2);
    CHECK(t->shown == 15 && t->matched == 2000);
    tap_offer(t, r, &batch, start + 100 * TAP_SECOND); /* what was not used does not add up */
    CHECK(t->shown == 25 && t->used == 25 * 10);
    tap_free(t);
    memory_ring_free(r);
}

/* It stops in time, and tells of the rest. */
static void test_no_more_time_a_second_than_it_may(void)
{
    ring_t *r = memory_ring_new(1 << 24, RING_LP);
    tap_t *t = tap_new(1e9, 0);
    r->slot_metrics_max = 1000; /* between two runs, and inside one */
    ring_batch_t batch = batch_of(r, "cpu v=1 1\n", 1000000);
    tap_offer(t, r, &batch, tap_clock());
    CHECK(t->passed == 1000000 && t->skipped == 1000000 && t->shown == 0);
    t->budget_ns = 1000000;
    t->at_ns = tap_clock() - TAP_SECOND;
    pattern_t none = beginning_with("none");
    t->match = &none;
    int64_t before = tap_clock();
    tap_offer(t, r, &batch, before);
    CHECK(t->passed == 2000000 && t->skipped > 1000000 && t->skipped < 2000000 && t->left_ns <= 0);
    uint64_t skipped = t->skipped;
    tap_offer(t, r, &batch, before); /* nothing is left for now */
    CHECK(t->skipped == skipped + 1000000);
    /* Runs that are too short for a look at the clock inside of them. */
    ring_t *shorter = memory_ring_new(1 << 22, RING_LP);
    shorter->slot_metrics_max = 100;
    ring_batch_t runs = batch_of(shorter, "cpu v=1 1\n", 200000);
    t->budget_ns = t->left_ns = 100000;
    t->skipped = 0;
    tap_offer(t, shorter, &runs, t->at_ns = tap_clock());
    CHECK(t->skipped > 100000 && t->skipped < 200000);
    memory_ring_free(shorter);
    tap_free(t);
    memory_ring_free(r);
}

/* A pattern that takes long for a line uses up time, not the agent. */
static void test_a_pattern_that_takes_long_is_given_up(void)
{
    /* .* again and again, then a character that is not there: each step is tried at each character. */
    static pattern_step_t steps[200];
    uint32_t n = 0;
    for (uint32_t i = 0; i < 60; i++) {
        steps[n] = (pattern_step_t){.op = PATTERN_SPLIT, .y = (uint16_t)(n + 1), .z = n + 3};
        steps[n + 1] = (pattern_step_t){.op = PATTERN_ALL};
        steps[n + 2] = (pattern_step_t){.op = PATTERN_JUMP, .z = n};
        n += 3;
    }
    steps[n++] = (pattern_step_t){.op = PATTERN_CHAR, .z = '!'};
    steps[n++] = (pattern_step_t){.op = PATTERN_FOUND};
    pattern_t slow = {.steps = steps, .count = n};
    CHECK(pattern_valid(&slow));
    static char line[20000];
    memset(line, 'a', sizeof line);
    strcpy(line + sizeof line - 8, " v=1 1\n");
    ring_t *r = memory_ring_new(1 << 22, RING_LP);
    tap_t *t = tap_new(1e9, 20000000);
    t->match = &slow;
    ring_batch_t batch = batch_of(r, line, 100);
    int64_t before = tap_clock();
    tap_offer(t, r, &batch, before);
    CHECK(t->passed == 100 && t->skipped == 100 && t->matched == 0 && !t->work.given_up);
    CHECK(tap_clock() - before < TAP_SECOND);
    tap_free(t);
    memory_ring_free(r);
}

static void test_a_full_buffer_is_not_passed(void)
{
    static char line[60000];
    memset(line, 'a', sizeof line);
    strcpy(line + sizeof line - 8, " v=1 1\n");
    size_t bytes = strlen(line);
    ring_t *r = memory_ring_new(1 << 22, RING_LP);
    tap_t *t = tap_new(1e9, TAP_SECOND);
    ring_batch_t batch = batch_of(r, line, 40);
    tap_offer(t, r, &batch, tap_clock());
    CHECK(t->shown == TAP_BYTES / bytes && t->matched == 40 && t->used == t->shown * bytes);
    t->used = 0; /* taken */
    ring_t *small = memory_ring_new(1 << 16, RING_LP);
    ring_batch_t next = batch_of(small, "c v=1 1\n", 1);
    tap_offer(t, small, &next, tap_clock());
    CHECK(t->used == 8 && memcmp(t->text, "c v=1 1\n", 8) == 0);
    memory_ring_free(small);
    tap_free(t);
    memory_ring_free(r);
}

/* Samples are shown as lines. */
static void test_records_are_shown_as_lines(void)
{
    ring_t *r = memory_ring_new(1 << 20, RING_PB);
    line_tags_t *tags = line_tags_new();
    line_reader_t *c = memory_reader_new(scan_index_scalar, tags, r);
    static const char text[] = "cpu,host=a idle=1,busy=2.5 17000000\nmem,host=b\\ c used=3i 18000000\n";
    uint8_t *copy = calloc(1, sizeof text + PORT_PADDING);
    memcpy(copy, text, sizeof text);
    line_counts_t counts = {0};
    c->line_bytes_max = 65536;
    line_read(c, copy, sizeof text - 1, &counts);
    ring_publish(r);
    ring_batch_t batch = {0};
    CHECK(ring_take(r, UINT64_MAX, UINT64_MAX, true, &batch) && batch.metrics == 3);
    tap_t *t = tap_new(1e9, TAP_SECOND);
    tap_offer(t, r, &batch, tap_clock());
    static const char expected[] = "cpu_idle,host=a value=1 17000000\ncpu_busy,host=a value=2.5 17000000\nmem_used,host=b\\ c value=3 18000000\n";
    CHECK(t->shown == 3 && t->used == sizeof expected - 1 && memcmp(t->text, expected, t->used) == 0);
    pattern_t mem = beginning_with("mem");
    t->match = &mem;
    t->used = 0;
    tap_offer(t, r, &batch, tap_clock());
    CHECK(t->shown == 4 && t->matched == 4);
    tap_free(t);
    free(copy);
    memory_reader_free(c);
    line_tags_free(tags);
    memory_ring_free(r);
}

/* ---- several senders ---- */

typedef struct {
    ring_t *ring;
    ring_batch_t batch;
} sender_t;

static tap_t *shared;

static void *offer_often(void *argument)
{
    sender_t *sender = argument;
    for (int i = 0; i < 2000; i++)
        tap_offer(shared, sender->ring, &sender->batch, tap_clock());
    return NULL;
}

static void test_nothing_is_lost_among_several_senders(void)
{
    pthread_t threads[3];
    sender_t senders[3];
    shared = tap_new(1e9, INT64_C(3600000000000));
    uint64_t taken = 0;
    for (int i = 0; i < 3; i++) {
        senders[i].ring = memory_ring_new(1 << 20, RING_LP);
        senders[i].batch = batch_of(senders[i].ring, "cpu v=1 1\n", 500);
        pthread_create(&threads[i], NULL, offer_often, &senders[i]);
    }
    for (int i = 0; i < 500; i++) {
        uint32_t used;
        tap_lock(shared);
        const uint8_t *text = tap_take(shared, &used);
        tap_unlock(shared);
        taken += used / 10;
        for (uint32_t at = 0; at < used; at += 10)
            if (memcmp(text + at, "cpu v=1 1\n", 10) != 0)
                CHECK(!"a line is not whole");
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        memory_ring_free(senders[i].ring);
    }
    CHECK(shared->passed + counter_get(&shared->evaded) == 3 * 2000 * 500);
    CHECK(shared->matched + shared->skipped == shared->passed && shared->shown <= shared->matched);
    CHECK(taken + shared->used / 10 == shared->shown);
    tap_free(shared);
}

int main(void)
{
    test_what_is_shown_is_what_matches();
    test_no_more_lines_a_second_than_wanted();
    test_no_more_time_a_second_than_it_may();
    test_a_pattern_that_takes_long_is_given_up();
    test_a_full_buffer_is_not_passed();
    test_records_are_shown_as_lines();
    test_nothing_is_lost_among_several_senders();
    return check_report("tap");
}
