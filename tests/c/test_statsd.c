/* StatsD without a fuzzer: the same checks on mutated lines, the tables under growth, and what a sample may not do.
 *
 * Arguments: files to read as they are. */
#include <malloc.h>

#include "../fuzz/fuzz_statsd.c"
#include "check.h"

static uint64_t random_state = 0x2545F4914F6CDD1D;

static uint32_t random_below(uint32_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 33) % n);
}

static const char *const lines[] = {
    "page.views:1|c\n", "page.views:2.5|c|@0.1\n", "t:10:20:30|ms|@0.5|#b:1,a:2\n", "t:40|ms|#a:2,b:1\n", "g:5|g\ng:+2|g\ng:-1|g\n",
    "u:x|s\nu:y|s\n", "x,host=a:3|h\n", "x#host=a:3|d|#host:b,,z\n", "n[a=b]c:1|c\n", "a:1|c:2|c|@0.5:3|c\n", "q:7|c|T1700000000|#z\n",
    "_e{5,4}:title|text|t:error|p:low|h:me|#x:y,host:z\n", "_sc|chk|1|m:hi\\nyou|d:17\n", "a b/c.d:1|g|c:x|e:y|card:low\n", "\xc3\xa9:1|c\n",
};

static void mutate(uint8_t *p, uint32_t *n)
{
    static const char bytes[] = ":|@#,=[]\n\\\" \r.-+0eTcgmshd_{}\x00\x7f\x80\xc3\xff";
    uint32_t at = *n ? random_below(*n) : 0;
    if (random_below(2)) {
        p[at] = (uint8_t)bytes[random_below(sizeof bytes - 1)];
    } else if (random_below(2)) {
        memmove(p + at + 1, p + at, *n - at);
        p[at] = (uint8_t)bytes[random_below(sizeof bytes - 1)];
        ++*n;
    } else if (*n > 1) {
        memmove(p + at, p + at + 1, *n - at - 1);
        --*n;
    }
}

static void test_mutated_lines(void)
{
    for (int round = 0; round < 6000; round++) {
        uint8_t text[2048];
        uint32_t n = 2;
        text[0] = (uint8_t)random_below(256);
        text[1] = random_below(2) ? DIALECT_AUTO : (uint8_t)random_below(16);
        for (uint32_t k = 1 + random_below(5); k > 0; k--) {
            const char *line = lines[random_below(sizeof lines / sizeof *lines)];
            memcpy(text + n, line, strlen(line));
            n += (uint32_t)strlen(line);
        }
        uint32_t length = n - 2;
        for (uint32_t k = random_below(6); k > 0; k--)
            mutate(text + 2, &length);
        LLVMFuzzerTestOneInput(text, length + 2);
        CHECK(true); /* a violation aborts */
    }
}

static aggregate_settings_t usual_settings(void)
{
    aggregate_settings_t settings = {.scale = sketch_scale(0.01), .gauge_deltas = true, .dialect = DIALECT_AUTO,
                                     .separator_length = 1, .separator = "_", .percentile_count = 1, .percentiles = {90}};
    for (int i = 0; i < SERIES_TYPES; i++)
        settings.expire_ticks[i] = 2;
    return settings;
}

static void feed(const char *text, line_counts_t *counts)
{
    uint32_t n = (uint32_t)strlen(text);
    uint8_t *copy = malloc(n + PORT_PADDING);
    memcpy(copy, text, n);
    memset(copy + n, 0, PORT_PADDING);
    statsd_read(s, copy, n, counts);
    statsd_done(s, counts);
    free(copy);
}

/* An index grows in steps, series are forgotten and come again, and each keeps its own count. */
static void test_many_series_come_and_go(void)
{
    enum { SERIES = 40000 };
    aggregate_settings_t settings = usual_settings();
    aggregate_t *a = calloc(1, sizeof *a);
    CHECK(series_open(&a->table, 100000, 7));
    a->settings = &settings;
    reader->tags = no_tags;
    reader->general_only = false;
    reader->line_bytes_max = LINE_TEXT_MAX;
    s->table = a;
    s->reader = reader;
    s->scan = scan_statsd_scalar;
    char line[200];
    for (uint32_t round = 0; round < 6; round++) {
        line_counts_t counts = {0};
        for (uint32_t i = 0; i < SERIES; i++) {
            /* A third of the series changes from round to round; some keys are long, some come in two spellings. */
            uint32_t name = i % 3 ? i : i + SERIES * round;
            snprintf(line, sizeof line, i % 5 ? "s.%u:%u|c\n" : "s.with.a.name.that.is.long.%u:%u|c|#b:1,a:2\n", name, round + 1);
            feed(line, &counts);
            if (i % 5 == 0) {
                snprintf(line, sizeof line, "s.with.a.name.that.is.long.%u:%u|c|#a:2,b:1\n", name, round + 1);
                feed(line, &counts);
            }
        }
        CHECK(counts.accepted == counts.received && counts.aggregated == SERIES + SERIES / 5);
        outcome_t o = {0};
        tick(&a, 1, &settings, &o, 1700000000000000000 + round);
        CHECK(line_count(o.bytes, o.length) == SERIES);
        char once[40], twice[40];
        int once_length = snprintf(once, sizeof once, " value=%u ", round + 1), twice_length = snprintf(twice, sizeof twice, " value=%u ", 2 * round + 2);
        uint64_t right = 0;
        for (const uint8_t *p = o.bytes, *end = o.bytes + o.length; p < end;) {
            const uint8_t *next = line_next(p, end), *space = memchr(p, ' ', (size_t)(next - p));
            right += memmem(p, (size_t)(next - p), "a=2,b=1", 7) ? memcmp(space, twice, (size_t)twice_length) == 0 : memcmp(space, once, (size_t)once_length) == 0;
            p = next;
        }
        CHECK(right == SERIES);
        free(o.bytes);
    }
    CHECK(a->table.live < SERIES * 2); /* what fell silent was forgotten */
    series_close(&a->table);
    free(a);
}

/* Once no series is new, an index that has grown is still moved: otherwise what is left in the old one would be found
 * the long way for ever. */
static void test_a_grown_index_is_moved_by_known_series(void)
{
    aggregate_settings_t settings = usual_settings();
    aggregate_t *a = calloc(1, sizeof *a);
    CHECK(series_open(&a->table, 100000, 7));
    a->settings = &settings;
    reader->tags = no_tags;
    reader->general_only = false;
    s->table = a;
    s->reader = reader;
    s->scan = scan_statsd_scalar;
    line_counts_t counts = {0};
    char line[40];
    uint32_t series = 0;
    /* Until an index of a good size has just grown, and the burst that made it grow is over. */
    while (a->table.raw.mask < 65535 || a->table.raw.old == NULL) {
        snprintf(line, sizeof line, "s.%u:1|c\n", series++);
        feed(line, &counts);
    }
    uint32_t bursts = 0;
    for (; a->table.raw.old != NULL && bursts < 1000; bursts++) {
        snprintf(line, sizeof line, "s.%u:1|c\n", bursts % series);
        feed(line, &counts);
    }
    CHECK(a->table.raw.old == NULL);
    CHECK(bursts > 10); /* no burst has moved all of it */
    CHECK(a->table.live == series && counts.aggregated == series + bursts);
    series_close(&a->table);
    free(a);
}

/* Known series cost no memory: a second round of the same samples allocates nothing. */
static void test_known_series_allocate_nothing(void)
{
    aggregate_settings_t settings = usual_settings();
    aggregate_t *a = calloc(1, sizeof *a);
    CHECK(series_open(&a->table, 1000, 7));
    a->settings = &settings;
    reader->tags = no_tags;
    reader->general_only = false;
    s->table = a;
    s->reader = reader;
    s->scan = scan_statsd_scalar;
    enum { BYTES = 20000 };
    uint8_t *text = malloc(BYTES + 200 + PORT_PADDING);
    uint32_t n = 0;
    while (n < BYTES)
        n += (uint32_t)snprintf((char *)text + n, 200, "c.%u:1|c|#a:b\nt:%u|ms\ng:%u|g\nu:%u|s\n", random_below(50), random_below(900) + 1,
                                random_below(9), random_below(20));
    memset(text + n, 0, PORT_PADDING);
    line_counts_t counts = {0};
    statsd_read(s, text, n, &counts);
    statsd_done(s, &counts);
#if !defined(__SANITIZE_ADDRESS__)
    size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
#endif
    for (int round = 0; round < 200; round++) {
        statsd_read(s, text, n, &counts);
        statsd_done(s, &counts);
    }
#if !defined(__SANITIZE_ADDRESS__)
    CHECK(mallinfo2().uordblks + mallinfo2().hblkhd == before);
#endif
    CHECK(counts.accepted == counts.received);
    free(text);
    series_close(&a->table);
    free(a);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Every percentile within the guaranteed error, for values over many magnitudes, and merged as well as whole. */
static void test_sketch_error(void)
{
    static const double errors[] = {0.01, 0.001, 0.05};
    for (int round = 0; round < 60; round++) {
        sketch_scale_t scale = sketch_scale(errors[round % 3]);
        uint32_t n = 1 + random_below(3000);
        double *values = malloc(n * sizeof *values), worst = 0;
        sketch_t all = {0}, part[2] = {{0}, {0}};
        for (uint32_t i = 0; i < n; i++) {
            double spread = random_below(1000000) / 1e6 - 0.5;
            values[i] = exp((round % 20 - 10) * 3 + spread * (1 + round % 7) * 4) * (round % 4 == 3 && i % 3 == 0 ? -1 : 1);
            sketch_add(&all, &scale, values[i], 1);
            sketch_add(&part[i % 2], &scale, values[i], 1);
        }
        sketch_merge(&part[0], &part[1]);
        qsort(values, n, sizeof *values, compare_doubles);
        for (double p = 0.5; p <= 100; p += 0.5) {
            double rank = floor(p / 100 * n - 0.5) + 1;
            double exact = values[(uint32_t)(rank < 1 ? 0 : rank > n ? n - 1 : rank - 1)];
            double got = sketch_percentile(&all, &scale, p), merged = sketch_percentile(&part[0], &scale, p);
            double error = fabs(got - exact) / fabs(exact);
            worst = error > worst ? error : worst;
            CHECK(got == merged || fabs(got - merged) <= 1e-12 * fabs(got));
        }
        CHECK(worst <= errors[round % 3] * (1 + 1e-9));
        CHECK(fabs(all.mean - part[0].mean) <= 1e-9 * fabs(all.mean) + 1e-300 && all.samples == part[0].samples);
        free(values);
        for (int i = 0; i < 2; i++) {
            free(part[i].above.counts);
            free(part[i].below.counts);
        }
        free(all.above.counts);
        free(all.below.counts);
    }
}

static void test_members(void)
{
    for (uint32_t n = 10; n < 1000000; n = n * 3 + 7) {
        members_t m = {0};
        for (uint32_t repeat = 0; repeat < 2; repeat++)
            for (uint32_t i = 0; i < n; i++) {
                uint8_t text[24 + PORT_PADDING] = {0};
                members_add(&m, series_mix(99, text, (uint32_t)snprintf((char *)text, 24, "member %u", i)));
            }
        double error = fabs((double)members_count(&m) / n - 1);
        CHECK(n <= MEMBERS_EXACT_MAX ? error == 0 : error < 4 * 0.0081);
        free(m.hashes);
        free(m.registers);
    }
}

int main(int argc, char **argv)
{
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) {
        uint8_t text[FUZZ_BYTES_MAX];
        FILE *file = fopen(argv[i], "rb");
        CHECK(file != NULL);
        if (file == NULL)
            continue;
        LLVMFuzzerTestOneInput(text, fread(text, 1, sizeof text, file));
        fclose(file);
    }
    test_sketch_error();
    test_members();
    test_known_series_allocate_nothing();
    test_many_series_come_and_go();
    test_a_grown_index_is_moved_by_known_series();
    test_mutated_lines();
    return check_report("statsd");
}
