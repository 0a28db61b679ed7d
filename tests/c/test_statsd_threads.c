/* A lane that aggregates and a ticker that sends, each in its thread, as they run in an agent: no count is lost at the
 * flip, and ThreadSanitizer finds no two of them at one byte. */
#include <pthread.h>

#include "../fuzz/fuzz_statsd.c"
#include "check.h"

#define TICKS 60u
#define SERIES 300u
#define SAMPLES_MIN 500u /* lines of the lane between two looks at what is asked */

typedef enum { ASK_NOTHING, ASK_FLIP, ASK_REMOVE, ASK_END } ask_t;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static ask_t asked; /* under the mutex, like all that a command brings */
static ticker_lane_t flipped;
static aggregate_settings_t settings;
static aggregate_t *table;
static uint64_t sent_counts, sent_samples; /* the lane's, until it has ended */

static void ask(ask_t what)
{
    pthread_mutex_lock(&mutex);
    asked = what;
    while (asked != ASK_NOTHING)
        pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
}

/* Between two bursts: does what was asked. False at the end. */
static bool answer(void)
{
    pthread_mutex_lock(&mutex);
    ask_t what = asked;
    if (what == ASK_FLIP)
        ticker_flip(&flipped, &settings);
    if (what == ASK_REMOVE) {
        ticker_remove(table, flipped.forget, flipped.forget_tags, flipped.forget_count);
        table->table.held = false;
    }
    asked = ASK_NOTHING;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    return what != ASK_END;
}

static void *run_lane(void *unused)
{
    uint8_t text[256 + PORT_PADDING];
    line_counts_t counts = {0};
    uint32_t number = 0, since = 0;
    do {
        /* New series all the time; some spelled in two ways, some that fall silent and are forgotten. */
        uint32_t id = number % SERIES + (number / 5000) * 7;
        int n = snprintf((char *)text, 256, "c.%u:2|c|#a:1,b:%u\nc.%u:1|c|#b:%u,a:1\nt.%u:%u|ms\ng.%u:+1|g\nu.%u:%u|s\n", id, id, id, id,
                         id % 40, number % 900 + 1, id % 40, id % 40, number % 2000);
        memset(text + n, 0, PORT_PADDING);
        statsd_read(s, text, (uint32_t)n, &counts);
        statsd_done(s, &counts);
        number++;
        since++;
    } while (since < SAMPLES_MIN || (since = 0, answer()));
    sent_counts = 3 * (uint64_t)number;
    sent_samples = number;
    CHECK(counts.aggregated == 5 * (uint64_t)number && counts.received == counts.accepted);
    return unused;
}

/* Sends what the flip has left to the ticker, and adds up its counters and the counts of its timings. */
static void send_points(uint64_t *counters, uint64_t *timings)
{
    ticker->lanes = &flipped;
    ticker->lane_count = 1;
    ticker->settings = &settings;
    ticker->rings = &points;
    ticker->ring_count = 1;
    ticker->writer = writer;
    ticker->at_ns = 1;
    CHECK(ticker_run(ticker) && ticker->ring_full == 0);
    ring_batch_t batch;
    while (ring_take(points, UINT64_MAX, UINT64_MAX, true, &batch)) {
        const uint8_t *end = batch.bytes + batch.length;
        for (const uint8_t *p = batch.bytes, *lf; p < end; p = lf + 1) {
            lf = memchr(p, '\n', (size_t)(end - p));
            if (*p != 'c' && *p != 't')
                continue;
            const char *found = memmem(p, (size_t)(lf - p), *p == 't' ? ",count=" : " value=", 7);
            CHECK(found != NULL);
            if (found != NULL)
                *(*p == 't' ? timings : counters) += strtoull(found + 7, NULL, 10);
        }
        ring_free(points, &batch);
    }
}

static void clear_flipped(void)
{
    free(flipped.forget);
    free(flipped.forget_tags);
    flipped = (ticker_lane_t){.aggregate = table};
}

int main(int argc, char **argv)
{
    LLVMFuzzerInitialize(&argc, &argv); /* makes readers, writers and the ring of points */
    settings = (aggregate_settings_t){.scale = sketch_scale(0.01), .gauge_deltas = true, .dialect = DIALECT_AUTO, .separator_length = 1, .separator = "_"};
    for (int i = 0; i < SERIES_TYPES; i++)
        settings.expire_ticks[i] = 2;
    table = calloc(1, sizeof *table);
    CHECK(series_open(&table->table, 100000, 7));
    table->settings = &settings;
    reader->tags = writer->tags = no_tags;
    reader->general_only = false;
    reader->line_bytes_max = LINE_TEXT_MAX;
    s->table = table;
    s->reader = reader;
    s->scan = scan_statsd_scalar;
    flipped = (ticker_lane_t){.aggregate = table};

    pthread_t lane;
    uint64_t counters = 0, timings = 0;
    CHECK(pthread_create(&lane, NULL, run_lane, NULL) == 0);
    for (uint32_t i = 0; i < TICKS; i++) {
        ask(ASK_FLIP);
        send_points(&counters, &timings);
        ask(ASK_REMOVE);
        clear_flipped();
    }
    ask(ASK_END);
    pthread_join(lane, NULL);
    ticker_flip(&flipped, &settings); /* what came after the last one */
    send_points(&counters, &timings);
    clear_flipped();
    CHECK(counters == sent_counts && timings == sent_samples);
    CHECK(sent_samples >= TICKS * SAMPLES_MIN);
    series_close(&table->table);
    free(table);
    return check_report("statsd, lane and ticker");
}
