/* The book: what is known is never stopped, what is new is within the limits or treated by the policy, and what is silent
 * is forgotten. */
#include <pthread.h>

#include "book.h"
#include "check.h"

#define SECOND INT64_C(1000000000)

static head_t head;
static uint8_t out[HEAD_BYTES_MAX + 1];
static int64_t now;

static void begin(book_t *b, book_limits_t limits)
{
    memset(b, 0, sizeof *b);
    if (limits.window_ns == 0)
        limits.window_ns = 80 * SECOND;
    CHECK(book_open(b) && book_configure(b, &limits));
    now = 1000 * SECOND;
    book_sweep(b, now, now);
}

static void pass(book_t *b, int64_t ns)
{
    for (; ns > 0; ns -= SECOND) {
        now += SECOND;
        book_sweep(b, now, now);
    }
}

static book_verdict_t decide(book_t *b, const char *series)
{
    uint64_t identity;
    CHECK(head_read(&head, (const uint8_t *)series, (uint32_t)strlen(series), NULL, 0));
    book_verdict_t verdict = book_decide(b, &head, &identity);
    out[head_write(&head, out, sizeof out - 1)] = 0;
    return verdict;
}

static book_verdict_t decide_n(book_t *b, const char *format, uint32_t n)
{
    char text[256];
    snprintf(text, sizeof text, format, n, n);
    return decide(b, text);
}

static bool became(const char *text)
{
    bool same = strcmp((const char *)out, text) == 0;
    if (!same)
        fprintf(stderr, "it became %s\n", (const char *)out);
    return same;
}

static book_stats_t stats(book_t *b)
{
    book_stats_t s;
    book_read_stats(b, &s);
    return s;
}

static book_limit_t limit(const char *measurement, const char *tag, uint32_t series_max, book_policy_t policy)
{
    return (book_limit_t){(const uint8_t *)measurement, (const uint8_t *)tag, (uint32_t)strlen(measurement), (uint32_t)strlen(tag),
                          series_max, (uint8_t)policy};
}

static void test_known_series_pass_whatever_the_limit(void)
{
    book_t b;
    begin(&b, (book_limits_t){.series_max = 100});
    for (uint32_t i = 0; i < 100; i++)
        CHECK(decide_n(&b, "cpu,host=h%u", i) == BOOK_PASSES);
    CHECK(decide(&b, "cpu,host=new") == BOOK_OVERFLOWS && became("cpu,host=__overflow__"));
    CHECK(decide(&b, "cpu,host=new,dc=eu") == BOOK_OVERFLOWS);
    for (uint32_t i = 0; i < 100; i++)
        CHECK(decide_n(&b, "cpu,host=h%u", i) == BOOK_PASSES);
    CHECK(book_configure(&b, &(book_limits_t){.series_max = 10, .window_ns = 80 * SECOND}));
    CHECK(decide(&b, "cpu,host=h7") == BOOK_PASSES && decide(&b, "cpu,host=other") == BOOK_OVERFLOWS);
    CHECK(stats(&b).series == 100 && stats(&b).series_max == 10 && stats(&b).overflow_series == 2 && stats(&b).refused == 3);
    book_close(&b);
}

static void test_the_order_of_tags_is_one_series(void)
{
    book_t b;
    begin(&b, (book_limits_t){.series_max = 2});
    CHECK(decide(&b, "cpu,a=1,b=2") == BOOK_PASSES && decide(&b, "cpu,b=2,a=1") == BOOK_PASSES);
    CHECK(stats(&b).series == 1);
    book_close(&b);
}

static void test_policies(void)
{
    book_t b;
    for (book_policy_t policy = BOOK_OVERFLOW; policy <= BOOK_DROP; policy++) {
        begin(&b, (book_limits_t){.series_max = 3, .policy = (uint8_t)policy});
        for (uint32_t i = 0; i < 3; i++)
            CHECK(decide_n(&b, "http,host=web,id=%u", i) == BOOK_PASSES);
        book_verdict_t verdict = decide(&b, "http,host=web,id=9");
        CHECK(verdict == (policy == BOOK_DROP ? BOOK_DROPS : BOOK_OVERFLOWS));
        CHECK(became(policy == BOOK_OVERFLOW ? "http,host=web,id=__overflow__" : policy == BOOK_DROP_TAG ? "http,host=web" : "http,host=web,id=9"));
        CHECK(stats(&b).series == 3);
        book_close(&b);
    }
}

static void test_observing_changes_nothing(void)
{
    book_t b;
    begin(&b, (book_limits_t){.series_max = 2, .observe = true});
    for (uint32_t i = 0; i < 10; i++)
        CHECK(decide_n(&b, "http,id=%u", i) == (i < 2 ? BOOK_PASSES : BOOK_OBSERVED));
    CHECK(became("http,id=9") && !head.changed);
    CHECK(stats(&b).series == 2 && stats(&b).observed == 8 && stats(&b).refused == 0);
    book_close(&b);
}

static void test_the_offender_is_the_tag_whose_values_are_new(void)
{
    book_t b;
    begin(&b, (book_limits_t){.series_max = 1000, .reserve = 0.25});
    for (uint32_t i = 0; i < 50; i++)
        CHECK(decide_n(&b, "http,host=h%u,id=none", i) == BOOK_PASSES);
    uint32_t passed = 0;
    for (uint32_t i = 0; i < 5000; i++)
        passed += decide_n(&b, "http,host=h1,id=%u", i) == BOOK_PASSES;
    CHECK(became("http,host=h1,id=__overflow__"));
    CHECK(passed > 700 && passed <= 750);
    /* One that comes late with a fresh id as well is the bomb; one with a host of its own is not. */
    CHECK(decide(&b, "http,host=h51,id=none") == BOOK_PASSES && decide(&b, "disk,host=h2") == BOOK_PASSES);
    /* A second one gets three quarters of what is left. */
    uint64_t left = 1000 - stats(&b).series;
    passed = 0;
    for (uint32_t i = 0; i < 5000; i++)
        passed += decide_n(&b, "disk,host=h2,path=/%u", i) == BOOK_PASSES;
    CHECK(passed <= left * 3 / 4 + 1 && passed >= left / 2);
    CHECK(decide(&b, "disk,host=h4") == BOOK_PASSES);
    const heavy_entry_t *e = &b.heavy.entry[0];
    for (uint32_t i = 1; i < HEAVY_MAX; i++)
        e = b.heavy.entry[i].count > e->count ? &b.heavy.entry[i] : e;
    CHECK(e->measurement_length == 4 && (memcmp(e->tag, "id", 2) == 0 || memcmp(e->tag, "path", 4) == 0));
    book_close(&b);
}

static void test_the_reserve_may_be_off_and_an_own_limit_is_outside_of_it(void)
{
    book_t b;
    begin(&b, (book_limits_t){.series_max = 100});
    uint32_t passed = 0;
    for (uint32_t i = 0; i < 200; i++)
        passed += decide_n(&b, "http,id=%u", i) == BOOK_PASSES;
    CHECK(passed == 100);
    book_close(&b);
    begin(&b, (book_limits_t){.series_max = 100, .reserve = 0.25, .count = 1, .limit = {limit("ht*", "id", 90, BOOK_DROP)}});
    passed = 0;
    for (uint32_t i = 0; i < 200; i++)
        passed += decide_n(&b, "http,id=%u", i) == BOOK_PASSES;
    CHECK(passed == 90);
    book_close(&b);
}

static void test_limits_of_tags_and_measurements(void)
{
    book_t b;
    begin(&b, (book_limits_t){.series_max = 1000,
                              .count = 4,
                              .limit = {limit("http*", "user", 5, BOOK_DROP_TAG), limit("ht*", "user", 2, BOOK_DROP),
                                        limit("db?", "", 3, BOOK_OVERFLOW), limit("secret", "", 0, BOOK_DROP)}});
    for (uint32_t i = 0; i < 10; i++) /* all measurements of the glob together */
        CHECK(decide_n(&b, i % 2 ? "http1,user=%u" : "http2,user=%u", i) == (i < 5 ? BOOK_PASSES : BOOK_OVERFLOWS));
    CHECK(became("http1"));
    CHECK(decide(&b, "http1,other=1") == BOOK_PASSES);
    CHECK(decide(&b, "htx,user=1") == BOOK_PASSES && decide(&b, "htx,user=2") == BOOK_PASSES && decide(&b, "htx,user=3") == BOOK_DROPS);
    for (uint32_t i = 0; i < 6; i++) { /* each by itself */
        CHECK(decide_n(&b, "db1,t=%u", i) == (i < 3 ? BOOK_PASSES : BOOK_OVERFLOWS));
        CHECK(decide_n(&b, "db2,t=%u", i) == (i < 3 ? BOOK_PASSES : BOOK_OVERFLOWS));
    }
    CHECK(decide(&b, "secret,a=b") == BOOK_DROPS);
    /* Other places, one raised, one that is new: what was counted goes on. */
    CHECK(book_configure(&b, &(book_limits_t){.series_max = 1000,
                                              .window_ns = 80 * SECOND,
                                              .count = 2,
                                              .limit = {limit("db?", "t", 1, BOOK_DROP), limit("http*", "user", 7, BOOK_DROP)}}));
    CHECK(decide(&b, "http1,user=a") == BOOK_PASSES && decide(&b, "http1,user=b") == BOOK_PASSES && decide(&b, "http1,user=c") == BOOK_DROPS);
    CHECK(decide(&b, "db1,t=x") == BOOK_PASSES && decide(&b, "db1,t=y") == BOOK_DROPS);
    /* And out again, when they are forgotten. */
    pass(&b, 200 * SECOND);
    CHECK(stats(&b).series == 0 && b.limit_series[0] == 0 && b.limit_series[1] == 0);
    for (uint32_t i = 0; i < 8; i++)
        CHECK(decide_n(&b, "http1,user=%u", i) == (i < 7 ? BOOK_PASSES : BOOK_DROPS));
    book_close(&b);
}

static void test_overflow_has_a_limit_of_its_own(void)
{
    book_t b;
    begin(&b, (book_limits_t){.series_max = 20});
    /* Two tags at once, and measurements without end: never more than both limits together, and the last ones go. */
    uint64_t dropped = 0, distinct = 0;
    static char seen[4000][64];
    for (uint32_t i = 0; i < 3000; i++) {
        book_verdict_t verdict = decide_n(&b, i % 3 ? "http,host=h,id=%u,trace=t%u" : "m%u,id=%u", i);
        dropped += verdict == BOOK_DROPS;
        if (verdict == BOOK_DROPS)
            continue;
        uint64_t at = 0;
        while (at < distinct && strcmp(seen[at], (const char *)out) != 0)
            at++;
        if (at == distinct)
            strcpy(seen[distinct++], (const char *)out);
    }
    CHECK(distinct <= 20 + BOOK_OVERFLOW_MAX && stats(&b).overflow_series <= BOOK_OVERFLOW_MAX);
    CHECK(stats(&b).series <= 20 && dropped > 900 && dropped < 1100);
    CHECK(decide(&b, "http,host=h,id=x,trace=y") == BOOK_OVERFLOWS && became("http,host=h,id=__overflow__,trace=__overflow__"));
    book_close(&b);
}

static void test_very_many_tags_are_treated_at_once(void)
{
    book_t b;
    begin(&b, (book_limits_t){.series_max = 1});
    static char text[65536];
    CHECK(decide(&b, "m,k1=0") == BOOK_PASSES);
    for (uint32_t i = 0; i < BOOK_OVERFLOW_MAX; i++)
        CHECK(decide_n(&b, "m,k1=1,same%u=1", i) == BOOK_OVERFLOWS);
    char *at = text + sprintf(text, "m");
    for (uint32_t i = 0; i < 6000; i++)
        at += sprintf(at, ",k%u=x", i);
    CHECK(decide(&b, text) == BOOK_DROPS);
    CHECK(stats(&b).unknown == 2 + BOOK_OVERFLOW_MAX);
    book_close(&b);
}

static void test_silent_series_are_forgotten_and_others_are_not(void)
{
    book_t b;
    begin(&b, (book_limits_t){.series_max = 10000});
    for (uint32_t i = 0; i < 5000; i++)
        CHECK(decide_n(&b, "cpu,host=%u", i) == BOOK_PASSES);
    uint64_t identity;
    for (uint32_t seconds = 0; seconds < 80; seconds += 10) {
        pass(&b, 10 * SECOND);
        CHECK(stats(&b).series == 5000);
        CHECK(head_read(&head, (const uint8_t *)"cpu,host=7", 10, NULL, 0));
        identity = head_identity(&head, &b.key);
        book_touch(&b, identity);
    }
    pass(&b, 30 * SECOND); /* ninth epoch, and the hand's way round */
    CHECK(stats(&b).series == 1 && stats(&b).expired == 4999);
    CHECK(decide(&b, "cpu,host=7") == BOOK_PASSES && stats(&b).series == 1);
    pass(&b, 300 * SECOND);
    CHECK(stats(&b).series == 0 && b.measurements.count == 1 && b.pairs.count == 1 && b.groups.count == BOOK_GROUPS);
    CHECK(stats(&b).bytes < 4000000);
    book_close(&b);
}

static void test_tables_that_are_full_count_together(void)
{
    book_t b;
    begin(&b, (book_limits_t){.series_max = 100000, .reserve = 0.25, .window_ns = 80 * SECOND});
    uint32_t passed = 0;
    CHECK(decide(&b, "m,host=a") == BOOK_PASSES);
    for (uint32_t i = 0; i < 100000; i++) /* keys without end */
        passed += decide_n(&b, "m,k%u=1", i) == BOOK_PASSES;
    CHECK(passed > 70000 && passed < 76000);
    pass(&b, 300 * SECOND);
    CHECK(stats(&b).series == 0 && stats(&b).overflow_series == 0);
    for (uint32_t i = 0; i < 3 * TALLY_MAX; i++) /* measurements without end */
        CHECK(decide_n(&b, "m%u,k=%u", i) == BOOK_PASSES);
    pass(&b, 300 * SECOND);
    CHECK(stats(&b).series == 0 && b.measurements.items[TALLY_OTHER].series == 0 && b.pairs.items[TALLY_OTHER].series == 0);
    book_clear(&b);
    CHECK(decide(&b, "m,host=a") == BOOK_PASSES && stats(&b).series == 1);
    book_close(&b);
}

static void test_turned_off_it_forgets(void)
{
    book_t b;
    begin(&b, (book_limits_t){.series_max = 10, .count = 1, .limit = {limit("*", "id", 5, BOOK_DROP)}});
    for (uint32_t i = 0; i < 5; i++)
        decide_n(&b, "m,id=%u", i);
    CHECK(decide(&b, "m,id=x") == BOOK_DROPS && decide(&b, "m") == BOOK_PASSES);
    book_clear(&b);
    CHECK(stats(&b).series == 0 && stats(&b).overflow_series == 0 && decide(&b, "m,id=x") == BOOK_PASSES);
    pass(&b, 200 * SECOND);
    CHECK(stats(&b).series == 0);
    book_close(&b);
}

static void test_globs(void)
{
    static const char *const yes[][2] = {{"*", ""}, {"*", "a"}, {"", ""}, {"a*c", "abbc"}, {"a*c", "ac"}, {"?b", "ab"}, {"*.*", "a.b.c"},
                                         {"[a-c]x", "bx"}, {"[!a-c]x", "dx"}, {"a[", "a["}, {"*ab*", "xxaab"}, {"[]]x", "]x"}};
    static const char *const no[][2] = {{"", "a"}, {"a*c", "abcd"}, {"?", ""}, {"[a-c]", "d"}, {"[!a-c]", "a"}, {"a", "A"}};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        CHECK(book_glob((const uint8_t *)yes[i][0], (uint32_t)strlen(yes[i][0]), (const uint8_t *)yes[i][1], (uint32_t)strlen(yes[i][1])));
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        CHECK(!book_glob((const uint8_t *)no[i][0], (uint32_t)strlen(no[i][0]), (const uint8_t *)no[i][1], (uint32_t)strlen(no[i][1])));
}

/* ---- heavy hitters ---- */

static void test_the_most_frequent_are_named(void)
{
    static heavy_t heavy;
    static uint64_t truth[5000];
    uint64_t x = 88172645463325252u, total = 300000;
    for (uint64_t i = 0; i < total; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        uint32_t pair = (uint32_t)(5000 / (1 + 4999.0 * (double)(x >> 11) / 9007199254740992.0)) - 1; /* Zipf */
        truth[pair]++;
        char value[24];
        snprintf(value, sizeof value, "v%llu", (unsigned long long)i);
        heavy_add(&heavy, &(heavy_head_t){.pair = pair + 1, .head = x * UINT64_C(0x9E3779B97F4A7C15), .now_ns = (int64_t)i, .minute = 5,
                                          .measurement = {(const uint8_t *)"m", 1}, .tag = {(const uint8_t *)"t", 1},
                                          .value = {(const uint8_t *)value, (uint32_t)strlen(value)}});
    }
    for (uint32_t pair = 0; pair < 10; pair++) {
        const heavy_entry_t *e = heavy_find(&heavy, pair + 1);
        CHECK(e->pair == pair + 1 && e->count >= truth[pair] && e->count - e->error <= truth[pair]);
        CHECK(e->error <= total / HEAVY_MAX && e->sample_length[0] > 1 && e->first_ns <= e->last_ns);
    }
}

static void test_growth_is_of_distinct_heads(void)
{
    static heavy_t heavy;
    for (uint64_t i = 0; i < 200000; i++) {
        uint64_t hash = i % 20000 * UINT64_C(0x9E3779B97F4A7C15);
        hash = (hash ^ hash >> 29) * UINT64_C(0xBF58476D1CE4E5B9);
        heavy_add(&heavy, &(heavy_head_t){.pair = 1, .head = hash ^ hash >> 32, .minute = 7, .refused = true});
    }
    heavy_entry_t *e = heavy_find(&heavy, 1);
    CHECK(fabs(heavy_per_minute(e, 7) - 20000) < 2000 && fabs(heavy_per_minute(e, 8) - 20000) < 2000 && heavy_per_minute(e, 9) == 0);
    CHECK(e->refused == 200000);
    heavy_add(&heavy, &(heavy_head_t){.pair = 1, .head = 5, .minute = 8});
    CHECK(fabs(heavy_per_minute(e, 8) - 20000) < 2000);
    heavy_add(&heavy, &(heavy_head_t){.pair = 1, .head = 5, .minute = 10});
    CHECK(fabs(heavy_per_minute(e, 10) - 1) < 0.1);
}

/* ---- several writers ---- */

#define WRITERS 4
static book_t shared;

static void *write_overlapping(void *arg)
{
    uint32_t from = (uint32_t)(size_t)arg * 500;
    head_t h = {0};
    if (!head_open(&h))
        abort();
    for (uint32_t i = 0; i < 3000; i++) {
        char text[64];
        uint64_t identity;
        int n = snprintf(text, sizeof text, "cpu,host=%u", from + i);
        if (!head_read(&h, (const uint8_t *)text, (uint32_t)n, NULL, 0) || book_decide(&shared, &h, &identity) != BOOK_PASSES)
            abort();
        book_touch(&shared, identity);
        (void)book_epoch(&shared);
    }
    head_close(&h);
    return NULL;
}

static void test_writers_that_see_the_same_series(void)
{
    pthread_t writers[WRITERS];
    begin(&shared, (book_limits_t){.series_max = 1000000, .reserve = 0.25});
    for (size_t i = 0; i < WRITERS; i++)
        CHECK(pthread_create(&writers[i], NULL, write_overlapping, (void *)i) == 0);
    for (uint32_t i = 0; i < 20; i++) {
        pass(&shared, SECOND);
        stats(&shared);
        book_configure(&shared, &(book_limits_t){.series_max = 1000000, .reserve = 0.25, .window_ns = 80 * SECOND, .count = 1,
                                                 .limit = {limit("*", "host", 1000000, BOOK_DROP)}});
    }
    for (size_t i = 0; i < WRITERS; i++)
        pthread_join(writers[i], NULL);
    CHECK(stats(&shared).series == (WRITERS - 1) * 500 + 3000);
    book_close(&shared);
}

int main(void)
{
    if (!head_open(&head))
        return 1;
    test_known_series_pass_whatever_the_limit();
    test_the_order_of_tags_is_one_series();
    test_policies();
    test_observing_changes_nothing();
    test_the_offender_is_the_tag_whose_values_are_new();
    test_the_reserve_may_be_off_and_an_own_limit_is_outside_of_it();
    test_limits_of_tags_and_measurements();
    test_overflow_has_a_limit_of_its_own();
    test_very_many_tags_are_treated_at_once();
    test_silent_series_are_forgotten_and_others_are_not();
    test_tables_that_are_full_count_together();
    test_turned_off_it_forgets();
    test_globs();
    test_the_most_frequent_are_named();
    test_growth_is_of_distinct_heads();
    test_writers_that_see_the_same_series();
    head_close(&head);
    return check_report("book");
}
