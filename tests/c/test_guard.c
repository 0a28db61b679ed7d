/* The guard between reader and rings: a line is decided once for its head; who gets it, what waits, what is counted. */
#include "check.h"
#include "memory_ring.h"

static line_reader_t *reader;
static ring_t *rings[3];
static plan_routes_t plan;
static guard_t guard;

static void setup(uint64_t capacity)
{
    static line_tags_t *tags;
    mix_key_t key;
    if (tags == NULL)
        tags = line_tags_new();
    for (int i = 0; i < 3; i++)
        rings[i] = memory_ring_new(capacity, i == 2 ? RING_PB : RING_LP);
    reader = memory_reader_new(scan_index_scalar, tags, rings[0]);
    memcpy(reader->rings, rings, sizeof rings);
    reader->ring_count = 3;
    plan = (plan_routes_t){.count = 3};
    for (int i = 0; i < 3; i++)
        plan.outputs[i] = (plan_output_t){.name_hash = (uint64_t)i, .group = PLAN_NO_GROUP};
    memset(&guard, 0, sizeof guard);
    CHECK(mix_key_draw(&key) && guard_open(&guard, &plan, NULL, 0, &key));
    guard_begin(&guard, INT64_C(1700000000000000000));
    reader->guard = &guard;
}

static void teardown(void)
{
    guard_close(&guard);
    memory_reader_free(reader);
    for (int i = 0; i < 3; i++)
        memory_ring_free(rings[i]);
}

static line_counts_t counts;

/* Reads text, publishes, and counts as a lane does. */
static void read_text(const char *text)
{
    uint32_t n = (uint32_t)strlen(text);
    uint8_t *copy = malloc(n + PORT_PADDING);
    memcpy(copy, text, n);
    memset(copy + n, 0x5A, PORT_PADDING);
    memset(&counts, 0, sizeof counts);
    line_read(reader, copy, n, &counts);
    free(copy);
    for (uint32_t i = 0; i < reader->ring_count; i++) {
        ring_publish(rings[i]);
        ring_count_accepted(rings[i], counts.points);
    }
}

static bool law(const ring_t *r)
{
    return counter_get(&r->accepted) == counter_get(&r->written) + counter_get(&r->missed);
}

static const char *const LINES = "cpu,host=a v=1,w=2 1\ncpu,host=b v=1 1\nmem,host=a free=1i 1\n"
                                 "mem,host=b\\ c free=1i,s=\"x y\" 1\ncpu,host=a v=2 2\n";

/* Where every output gets all, the rings hold what they would hold without a guard, byte for byte. */
static void test_all_pass(void)
{
    setup(1 << 20);
    read_text(LINES);
    CHECK(counts.accepted == 5 && counter_get(&guard.unknown) == 4);
    reader->guard = NULL;
    ring_batch_t guarded[3], plain[3];
    for (int i = 0; i < 3; i++)
        CHECK(ring_take(rings[i], UINT64_MAX, UINT64_MAX, true, &guarded[i]));
    read_text(LINES);
    for (int i = 0; i < 3; i++) {
        CHECK(ring_take(rings[i], UINT64_MAX, UINT64_MAX, true, &plain[i]));
        CHECK(plain[i].length == guarded[i].length && memcmp(plain[i].bytes, guarded[i].bytes, plain[i].length) == 0);
        CHECK(law(rings[i]) && counter_get(&rings[i]->filtered) == 0);
    }
    teardown();
}

static uint64_t random_state = 0x9E3779B97F4A7C15;

static uint32_t random_below(uint32_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32) % n;
}

/* Lines that are nearly right, or are; few enough heads that most of them are known soon. */
static void random_lines(char *to)
{
    static const char *const heads[] = {"cpu", "cpu,a=1", "cpu,a=1,b=2", "cpu,a=1,a=2", "cpu,a=,b=2", "cpu,time=1", "cpu,a", "#cpu,a=1", ",a=1",
                                        "cpu,a=1\\ 2", "cpu\\,b=2", "cpu,a=1,", "m,=1", "m,a=1,b=2,c=3,dc=us", "cpu,dc=eu", "\xC3\xA9,a=1", "m,a=\"1"};
    static const char *const rest[] = {" v=1 1\n", " v=1\n", " v=1,w=2i 5\n", " v=\"a b\" 1\n", " v=1,v=2 1\n", "\n", " \n", " v 1\n",
                                       "  v=1  1\n", " v=t 99999999999999999999\n", " v=1u 3\n", " v=1 1\r\n"};
    for (uint32_t lines = 1 + random_below(12); lines > 0; lines--) {
        to = stpcpy(to, heads[random_below(sizeof heads / sizeof *heads)]);
        to = stpcpy(to, rest[random_below(sizeof rest / sizeof *rest)]);
    }
}

/* The same text with a guard and without one, by the fast path and by the general one: the same bytes in every ring, and
 * the same counts, whether the heads are known or not. */
static void test_guarded_is_unguarded(bool tagged, uint32_t outputs)
{
    setup(1 << 20);
    reader->ring_count = plan.count = outputs;
    line_tags_t *tags = line_tags_new(), *former = (line_tags_t *)reader->tags;
    CHECK(line_tags_add(tags, (const uint8_t *)"dc", 2, (const uint8_t *)"eu", 2));
    tags->hash = 5;
    reader->tags = tagged ? tags : former;
    for (int round = 0; round < 20000; round++) {
        static uint8_t bytes[4][3][8192];
        uint64_t length[4][3];
        line_counts_t all[4];
        char text[2000];
        random_lines(text);
        for (int way = 0; way < 4; way++) {
            reader->guard = way & 1 ? &guard : NULL;
            reader->general_only = way & 2;
            reader->arrival_ns = reader->stamp_ns = 1000;
            reader->stamp_length = (uint32_t)num_write_i64(reader->stamp, 1000);
            read_text(text);
            all[way] = counts;
            for (int i = 0; i < 3; i++) {
                ring_batch_t batch;
                length[way][i] = 0;
                while (ring_take(rings[i], UINT64_MAX, UINT64_MAX, true, &batch)) {
                    memcpy(bytes[way][i] + length[way][i], batch.bytes, batch.length);
                    length[way][i] += batch.length;
                    ring_free(rings[i], &batch);
                }
                CHECK(length[way][i] == length[0][i] && memcmp(bytes[way][i], bytes[0][i], length[0][i]) == 0);
            }
            CHECK(memcmp(&all[way], &all[0], sizeof counts) == 0);
        }
    }
    CHECK(counter_get(&guard.unknown) < 40);
    line_tags_free(tags);
    teardown();
}

/* Fields that keep their types, by the fast path, which knows the shape of those that were right, and by the general one. */
static void test_typed_ways_are_one(uint32_t outputs)
{
    static const char *const keys[] = {"v", "w", "latency_p50_milliseconds", "latency_p99_milliseconds", "time", "value=", "é"};
    static const char *const values[] = {"1", "2.5", "3i", "t", "\"x\"", "false", "-7", "1e3", "4u"};
    static types_t types;
    uint64_t coerced = 0, rejected = 0;
    setup(1 << 20);
    reader->ring_count = plan.count = outputs;
    CHECK(types_open(&types, -1, 1000) == 0 && guard_keep_types(&guard, &types, (types_rules_t){.coerce = true}));
    for (int round = 0; round < 20000; round++) {
        static uint8_t bytes[2][8192];
        uint64_t length[2] = {0};
        line_counts_t all[2];
        char text[2000], *to = text;
        for (uint32_t lines = 1 + random_below(6); lines > 0; lines--) {
            to += sprintf(to, "m%u,h=%u ", random_below(3), random_below(3));
            for (uint32_t fields = 1 + random_below(3), i = 0; i < fields; i++)
                to += sprintf(to, "%s%s%s=%s", i ? "," : "", keys[random_below(5 + (round % 50 == 0))], i ? "_" : "", values[random_below(round % 7 ? 4 : 9)]);
            to += sprintf(to, " %d\n", round + 1);
        }
        for (int way = 0; way < 2; way++) {
            ring_batch_t batch;
            reader->general_only = way;
            read_text(text);
            all[way] = counts;
            for (int i = 0; i < 3; i++)
                while (ring_take(rings[i], UINT64_MAX, UINT64_MAX, true, &batch)) {
                    if (i == 0) {
                        memcpy(bytes[way] + length[way], batch.bytes, batch.length);
                        length[way] += batch.length;
                    }
                    ring_free(rings[i], &batch);
                }
        }
        CHECK(length[0] == length[1] && memcmp(bytes[0], bytes[1], length[0]) == 0);
        CHECK(memcmp(&all[0], &all[1], sizeof counts) == 0);
        coerced += counts.coerced;
        rejected += counts.fields_rejected;
    }
    CHECK(coerced > 1000 && rejected > 1000);
    types_close(&types);
    teardown();
}

/* A shard for each series, and the third output gets all; what another one has is filtered, not missed. */
static void test_shards(void)
{
    setup(1 << 20);
    plan.outputs[0].group = plan.outputs[1].group = 0;
    for (int round = 0; round < 50; round++) {
        char text[2000], *to = text;
        for (int i = 0; i < 20; i++)
            to += sprintf(to, "cpu,host=%d v=1i,w=2 %d\n", i, round + 1);
        read_text(text);
        CHECK(counts.accepted == 20 && counts.points == 20);
    }
    CHECK(counter_get(&guard.unknown) == 20);
    uint64_t one = counter_get(&rings[0]->written), two = counter_get(&rings[1]->written);
    CHECK(one + two == 1000 && one % 50 == 0 && one > 0 && two > 0);
    CHECK(counter_get(&rings[0]->filtered) == two && counter_get(&rings[1]->filtered) == one);
    CHECK(counter_get(&rings[2]->written) == 2000 && counter_get(&rings[2]->filtered) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(law(rings[i]));
    teardown();
}

/* The order of the tags says nothing about the series; the agent's tags do. */
static void test_identity(void)
{
    head_t h = {0};
    pattern_work_t w = {0};
    bool given_up;
    CHECK(head_open(&h) && pattern_open(&w));
    uint8_t a[100] = "cpu,host=a,dc=eu", b[100] = "cpu,dc=eu,host=a", c[100] = "cpu,host=a", d[100] = ",dc=eu";
    plan_routes_t routes = {.count = 16};
    for (uint32_t i = 0; i < 16; i++)
        routes.outputs[i] = (plan_output_t){.name_hash = i * 77, .group = 15};
    CHECK(head_read(&h, a, 16, NULL, 0));
    uint32_t mask = plan_route(&routes, &w, &h, &given_up);
    CHECK(__builtin_popcount(mask) == 1);
    CHECK(head_read(&h, b, 16, NULL, 0) && plan_route(&routes, &w, &h, &given_up) == mask);
    CHECK(head_read(&h, c, 10, d, 6) && plan_route(&routes, &w, &h, &given_up) == mask);
    /* Without the one that has it, another one gets it, and all else stays. */
    for (uint32_t i = 0; i < 16; i++) {
        plan_routes_t fewer = routes;
        fewer.outputs[i].group = 14;
        CHECK(head_read(&h, a, 16, NULL, 0));
        uint32_t now = plan_route(&fewer, &w, &h, &given_up) & ~(1u << i);
        CHECK(__builtin_popcount(now) == 1 && (mask == 1u << i || now == mask));
    }
    head_close(&h);
    pattern_close(&w);
}

/* A line that is only for a ring that is full is dropped while others have room, and waits when none has. */
static void test_full(void)
{
    setup(65536);
    line_late_t late = {0};
    reader->late = &late;
    plan.outputs[0].group = plan.outputs[1].group = 0;
    reader->ring_count = plan.count = 2;
    char text[300];
    uint64_t dropped = 0;
    for (uint32_t i = 0; i < 20000 && late.length == 0; i++) {
        sprintf(text, "cpu,host=%d v=%ui %u\n", i % 7 == 0 ? 1 : 2, i, i + 1);
        read_text(text);
        dropped += counts.dropped[DROP_RING_FULL];
        CHECK(counts.received == counts.accepted + counts.dropped[DROP_RING_FULL]);
    }
    CHECK(dropped > 0 && late.length > 0);
    for (int i = 0; i < 2; i++)
        CHECK(law(rings[i]));
    free(late.text);
    teardown();
}

/* What no output wants is dropped, and takes no stamp. */
static void test_unrouted(void)
{
    setup(1 << 20);
    reader->ring_count = plan.count = 0;
    read_text("cpu v=1\n");
    CHECK(counts.received == 1 && counts.dropped[DROP_UNROUTED] == 1 && counts.accepted == 0 && reader->stamp_ns == 0);
    teardown();
}

/* Heads that were silent are forgotten, others are not. */
static void test_forgets(void)
{
    setup(1 << 20);
    int64_t now = INT64_C(1700000000000000000);
    char text[64];
    for (int epoch = 0; epoch < 20; epoch++) {
        guard_begin(&guard, now + epoch * GUARD_EPOCH_NS);
        read_text("cpu,host=always v=1 1\n");
        sprintf(text, "cpu,host=%d v=1 1\n", epoch);
        read_text(text);
        for (int i = 0; i < 10; i++)
            guard_second(&guard);
    }
    CHECK(counter_get(&guard.heads) == 1 + SLOTS_EPOCHS + 1);
    CHECK(counter_get(&guard.unknown) == 21);
    teardown();
}

static uint32_t mask_of(const line_t *l)
{
    guarded_t found;
    uint64_t hash = guard_hash(&guard, reader->tags, l->series, l->series_length);
    guard_line(&guard, l, hash, slots_find(&guard.slots, hash), GUARD_ALL, &found);
    return found.mask;
}

/* A filter that takes too long for a name lets it through, and says so. */
static void test_gives_up(void)
{
    setup(1 << 20);
    /* The glob ** x, as a program: any text that ends in x. */
    static const pattern_step_t steps[] = {{PATTERN_SPLIT, 0, 1, 3}, {PATTERN_ALL, 0, 0, 0}, {PATTERN_JUMP, 0, 0, 0},
                                           {PATTERN_CHAR, 0, 0, 'x'}, {PATTERN_FOUND, 0, 0, 0}};
    static const pattern_t ends = {.steps = steps, .count = 5, .kind = PATTERN_PROGRAM};
    const pattern_t *const list[] = {&ends};
    CHECK(pattern_valid(&ends));
    plan.outputs[0].measurements = (pattern_list_t){list, 1, 0};
    plan.outputs[1].measurements = (pattern_list_t){list, 0, 1};
    plan_tag_t tag = {(const uint8_t *)"host", 4, {list, 1, 0}};
    plan.outputs[2].tags = &tag;
    plan.outputs[2].tag_count = 1;
    static const struct {
        const char *series;
        uint32_t mask;
    } known[] = {{"box", 1}, {"bot", 2}, {"box,host=ax", 5}, {"bot,host=ax", 6}, {"bot,host=xa", 2}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        line_t l = {.series = (const uint8_t *)known[i].series, .series_length = (uint32_t)strlen(known[i].series)};
        uint8_t copy[100] = {0};
        memcpy(copy, l.series, l.series_length);
        l.series = copy;
        CHECK(mask_of(&l) == known[i].mask);
        CHECK(mask_of(&l) == known[i].mask);
    }
    CHECK(counter_get(&guard.given_up) == 0 && counter_get(&guard.unknown) == 5);
    static uint8_t longest[60000 + PORT_PADDING];
    memset(longest, 'a', 60000);
    line_t l = {.series = longest, .series_length = 60000};
    CHECK(mask_of(&l) == 3 && counter_get(&guard.given_up) == 1);
    teardown();
}

/* ---- with a book ---- */

static book_t *book;

static void setup_book(uint64_t series_max, uint8_t policy, bool observe)
{
    setup(1 << 20);
    guard_close(&guard);
    memset(&guard, 0, sizeof guard);
    mix_key_t key;
    book_limits_t limits = {.series_max = series_max, .window_ns = INT64_C(8000000000), .policy = policy, .observe = observe};
    book = calloc(1, sizeof *book);
    CHECK(book != NULL && book_open(book) && book_configure(book, &limits));
    CHECK(mix_key_draw(&key) && guard_open(&guard, &plan, book, series_max, &key));
    plan.count = reader->ring_count = 1;
}

static void teardown_book(void)
{
    teardown();
    book_close(book);
    free(book);
}

/* What the first ring holds, as a string; borrowed until the next call. */
static const char *written(void)
{
    static char text[1 << 16];
    ring_batch_t batch;
    uint32_t n = 0;
    while (ring_take(rings[0], UINT64_MAX, UINT64_MAX, true, &batch)) {
        memcpy(text + n, batch.bytes, batch.length);
        n += (uint32_t)batch.length;
        ring_free(rings[0], &batch);
    }
    text[n] = 0;
    return text;
}

/* Known series are never stopped; what is over becomes one series, whose lines have times of their own. */
static void test_overflow(void)
{
    setup_book(2, BOOK_OVERFLOW, false);
    guard_begin(&guard, 0);
    read_text("cpu,host=a v=1 5\ncpu,host=b v=1 5\n");
    CHECK(strcmp(written(), "cpu,host=a v=1 5\ncpu,host=b v=1 5\n") == 0 && counts.overflowed == 0);
    for (uint32_t round = 0; round < 3; round++) { /* without a slot, at the second sight, by its slot */
        read_text("cpu,host=c v=1,w=2 5\ncpu,host=a v=2 6\n");
        char expected[200];
        sprintf(expected, "cpu,host=__overflow__ v=1,w=2 %u\ncpu,host=a v=2 6\n", 5 + round);
        CHECK(strcmp(written(), expected) == 0);
        CHECK(counts.accepted == 2 && counts.overflowed == 1 && guard.aliases == (round >= 1));
    }
    CHECK(guard.slots.count == 3);
    book_stats_t s;
    book_read_stats(book, &s);
    CHECK(s.series == 2 && s.overflow_series == 1);
    teardown_book();
}

/* A line that waits for room is kept as it came: it is decided when it is written, and its own head may be known by then. */
static void test_waits_as_it_came(void)
{
    setup_book(1, BOOK_OVERFLOW, false);
    line_late_t late = {0};
    memory_ring_free(rings[0]);
    reader->rings[0] = rings[0] = memory_ring_new(65536, RING_LP);
    read_text("cpu,host=a v=1 5\n");
    reader->late = &late;
    for (uint32_t i = 0; i < 10000 && late.length == 0; i++)
        read_text("cpu,host=b v=1 5\n");
    CHECK(late.length == 17 && memcmp(late.text, "cpu,host=b v=1 5\n", 17) == 0);
    free(late.text);
    teardown_book();
}

static void test_policies(void)
{
    setup_book(1, BOOK_DROP_TAG, false);
    read_text("cpu,host=a,dc=eu v=1 5\ncpu,host=b,dc=eu v=1 5\n");
    CHECK(strcmp(written(), "cpu,host=a,dc=eu v=1 5\ncpu,dc=eu v=1 5\n") == 0 && counts.overflowed == 1);
    teardown_book();
    setup_book(1, BOOK_DROP, false);
    for (int round = 0; round < 3; round++) {
        read_text("cpu,host=a v=1 5\ncpu,host=b v=1 5\n");
        CHECK(counts.accepted == 1 && counts.dropped[DROP_CARDINALITY] == 1 && counts.overflowed == 0);
    }
    teardown_book();
    setup_book(1, BOOK_OVERFLOW, true);
    for (int round = 0; round < 3; round++) {
        read_text("cpu,host=a v=1 5\ncpu,host=b v=1 5\n");
        CHECK(strcmp(written(), "cpu,host=a v=1 5\ncpu,host=b v=1 5\n") == 0 && counts.observed == 1 && counts.overflowed == 0);
    }
    teardown_book();
}

/* Heads that come once take no slot, no memory, and nothing away from those that are known. */
static void test_bomb(void)
{
    setup_book(100, BOOK_OVERFLOW, false);
    char text[100];
    for (int i = 0; i < 100; i++) {
        sprintf(text, "good,host=%d v=1 5\n", i);
        read_text(text);
    }
    written();
    uint64_t bytes = guard.slots.bytes;
    for (int i = 0; i < 20000; i++) {
        sprintf(text, "good,host=new%d v=1 %d\n", i, i + 1);
        read_text(text);
        CHECK(counts.accepted == 1 && counts.overflowed == 1);
        if (i % 100 == 0)
            written();
    }
    CHECK(guard.slots.count == 100 && guard.aliases == 0 && guard.slots.bytes == bytes && guard.outcomes.count == 0);
    read_text("good,host=7 v=1 5\n");
    CHECK(counts.overflowed == 0);
    teardown_book();
}

/* A series that stays is kept in the book by whoever hears of it; one that went makes room, also for one that was over. */
static void test_room_again(void)
{
    setup_book(2, BOOK_OVERFLOW, false);
    int64_t now = 1000000000;
    for (int second = 0; second < 40; second++, now += 1000000000) {
        book_sweep(book, now, now);
        guard_begin(&guard, now);
        guard_second(&guard);
        read_text("cpu,host=stays v=1 5\n");
        if (second == 0)
            read_text("cpu,host=goes v=1 5\n");
        read_text("cpu,host=late v=1 5\n");
        CHECK(counts.overflowed == (second < 9) || second == 9 || second == 10);
    }
    book_stats_t s;
    book_read_stats(book, &s);
    CHECK(s.series == 2 && s.expired == 2 && s.overflow_series == 0);
    CHECK(guard.aliases == 0 && guard.outcomes.by_key.count == 0 && guard.outcomes.text_bytes == 0);
    teardown_book();
}

/* An alias without the memory for its text is none; the line is written all the same. */
static void test_aliases_are_limited(void)
{
    setup_book(1, BOOK_OVERFLOW, false);
    guard.aliases_max = 3;
    read_text("cpu,host=a v=1 5\n");
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 10; i++) {
            char text[100];
            sprintf(text, "cpu,host=new%d v=1 5\n", i);
            read_text(text);
            CHECK(counts.overflowed == 1);
        }
    CHECK(guard.aliases == 3 && guard.outcomes.by_key.count == 1 && guard.outcomes.items[0].users == 3);
    teardown_book();
}

/* New heads come among known ones, and their slots may move others while a line is read ahead: each head is decided once. */
static void test_known_while_it_grows(void)
{
    static types_t types;
    char text[4000], *to = text;
    setup(1 << 20);
    CHECK(types_open(&types, -1, 1000) == 0 && guard_keep_types(&guard, &types, (types_rules_t){0}));
    guard_mark_collisions(&guard);
    for (uint32_t i = 1; i <= 100000; i++) {
        to += sprintf(to, "cpu,host=%u v=1 1\ncpu,host=%u v=1 2\n", i, 1 + random_below(i));
        if (i % 25 == 0) {
            read_text(text);
            ring_batch_t batch;
            for (int r = 0; r < 3; r++)
                while (ring_take(rings[r], UINT64_MAX, UINT64_MAX, true, &batch))
                    ring_free(rings[r], &batch);
            to = text;
            CHECK(counts.accepted == 50);
        }
    }
    CHECK(counter_get(&guard.unknown) == 100000 && guard.slots.count == 100000);
    types_close(&types);
    teardown();
}

/* Runs are marked where a head's time is not above those before. */
static void test_collisions_are_marked(uint32_t outputs)
{
    static const struct {
        const char *text;
        bool marked;
    } steps[] = {
        {"a v=1 5\n", true}, /* new: nobody knows */
        {"a v=1 6\na v=1 7\n", false},
        {"a v=1 8\na w=1 8\n", true},
        {"a v=1 1700000000000000001\n", false},
        {"a v=1 1700000000000000001\n", true},
        {"a v=1 1700000100000000000\n", false},
        {"a v=1 1700000000100000000\n", true},
        {"a v=1 1700000100000000001\n", false},
        {"a v=1 1700000150000000000\n", false},
        {"a v=1 1799999999999999999\na v=1 1800000000000000000\n", false},
        {"a v=1 1800000000000000000\n", true},
        {"a v=1\n", true}, /* the stamp is far below */
    };
    setup(1 << 20);
    reader->ring_count = plan.count = outputs;
    reader->arrival_ns = 1000;
    guard_mark_collisions(&guard);
    for (uint32_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        read_text(steps[i].text);
        for (uint32_t r = 0; r < outputs; r++) {
            ring_batch_t batch;
            CHECK(ring_take(rings[r], UINT64_MAX, UINT64_MAX, true, &batch) && batch.marked == steps[i].marked);
            ring_free(rings[r], &batch);
        }
    }
    teardown();
}

int main(void)
{
    test_known_while_it_grows();
    test_collisions_are_marked(1);
    test_collisions_are_marked(3);
    test_typed_ways_are_one(3);
    test_typed_ways_are_one(1);
    test_overflow();
    test_policies();
    test_waits_as_it_came();
    test_bomb();
    test_room_again();
    test_aliases_are_limited();
    test_gives_up();
    for (uint32_t outputs = 1; outputs <= 3; outputs += 2) {
        test_guarded_is_unguarded(false, outputs);
        test_guarded_is_unguarded(true, outputs);
    }
    test_all_pass();
    test_shards();
    test_identity();
    test_full();
    test_unrouted();
    test_forgets();
    return check_report("guard");
}
