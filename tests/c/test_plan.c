/* [[map]] and [[shape]] under the guard: lines and names that are read again and again, with aliases that come and go. What
 * the rules mean is compared with a reference in tests/property/test_rules.py. */
#include "check.h"
#include "graphite.h"
#include "memory_ring.h"
#include "statsd_reader.h"
#include "ticker.h"

#define TEXT(text) {(const uint8_t *)(text "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), sizeof(text) - 1}

/* web.*: captures what is behind the dot. */
static const pattern_step_t web_steps[] = {
    {PATTERN_CHAR, 0, 0, 'w'}, {PATTERN_CHAR, 0, 0, 'e'}, {PATTERN_CHAR, 0, 0, 'b'}, {PATTERN_CHAR, 0, 0, '.'}, {PATTERN_SAVE, 0, 0, 0},
    {PATTERN_SPLIT, 0, 6, 8},  {PATTERN_ALL, 0, 0, 0},    {PATTERN_JUMP, 0, 0, 5},   {PATTERN_SAVE, 0, 1, 0},    {PATTERN_FOUND, 0, 0, 0}};
static const pattern_t web = {.steps = web_steps, .count = 10, .captures = 1, .literal = (const uint8_t *)"web.", .literal_length = 4};
static const pattern_t id = {.steps = web_steps + 9, .count = 1, .kind = PATTERN_LITERAL, .literal = (const uint8_t *)"id", .literal_length = 2};
static const pattern_t any = {.steps = web_steps + 9, .count = 1, .kind = PATTERN_PREFIX, .literal = (const uint8_t *)""};
static const pattern_t *const id_list[] = {&id}, *const any_list[] = {&any};

static const map_piece_t capture[] = {{.kind = MAP_CAPTURE}}, measurement[] = {{.kind = MAP_TEXT, .text = TEXT("web")}},
                         field[] = {{.kind = MAP_TEXT, .text = TEXT("hits")}};
static const map_tag_t tags[] = {{TEXT("host"), {capture, 1}}};
static const map_rule_t maps[] = {{.pattern = &web, .listeners = ~UINT64_C(0), .types = 0xFF, .measurement = {measurement, 1}, .field = {field, 1},
                                   .tags = tags, .tag_count = 1}};
static const shape_rule_t shapes[] = {{.match = {any_list, 1, 0}, .drop_tags = {id_list, 1, 0}, .bytes_max = 8}};
static const uint32_t numbers[] = {0};
static const plan_prefix_t web_prefix[] = {{TEXT("web."), PLAN_NONE, 0, 1}}, any_prefix[] = {{TEXT(""), PLAN_NONE, 0, 1}};
static const plan_rules_t rules = {.map = {{web_prefix, numbers, 1, 1}, maps}, .shape = {{any_prefix, numbers, 1, 1}, shapes}};

static line_reader_t *reader;
static ring_t *ring;
static guard_t guard;
static plan_routes_t routes;

static void setup(void)
{
    static line_tags_t *none;
    mix_key_t key;
    if (none == NULL)
        none = line_tags_new();
    ring = memory_ring_new(1 << 22, RING_LP);
    reader = memory_reader_new(scan_index_scalar, none, ring);
    routes = (plan_routes_t){.count = 1, .outputs = {{.group = PLAN_NO_GROUP}}};
    memset(&guard, 0, sizeof guard);
    CHECK(mix_key_draw(&key) && guard_open(&guard, &routes, NULL, 0, &key) && guard_set_rules(&guard, &rules));
    reader->guard = &guard;
}

static void teardown(void)
{
    guard_close(&guard);
    memory_reader_free(reader);
    memory_ring_free(ring);
}

/* Whether the ring holds exactly this text. */
static bool holds(const char *text)
{
    ring_batch_t found;
    ring_publish(ring);
    if (!ring_take(ring, UINT64_MAX, UINT64_MAX, true, &found))
        return *text == 0;
    bool same = found.length == strlen(text) && memcmp(found.bytes, text, found.length) == 0;
    if (!same)
        fprintf(stderr, "%.*s", (int)found.length, (const char *)found.bytes);
    ring_free(ring, &found);
    return same;
}

static void copy(uint8_t *to, const char *text)
{
    memcpy(to, text, strlen(text));
    memset(to + strlen(text), 0x5A, PORT_PADDING);
}

static void test_lines_and_names(void)
{
    setup();
    for (int round = 0; round < 100; round++) {
        /* Epochs go by, so that aliases are decided anew, and forgotten. */
        guard_begin(&guard, INT64_C(1700000000000000000) + round * GUARD_EPOCH_NS / 2);
        guard_second(&guard);
        uint8_t text[4096];
        line_counts_t counts = {0};
        copy(text, "cpu,id=7,path=/user/\xc3\xa9\xc3\xa9 v=1 1\nmem v=2 2\n");
        line_read(reader, text, (uint32_t)strlen("cpu,id=7,path=/user/\xc3\xa9\xc3\xa9 v=1 1\nmem v=2 2\n"), &counts);
        CHECK(holds("cpu,path=/user/\xc3\xa9 v=1 1\nmem v=2 2\n") && counts.shaped == 1);
        static const graphite_t plain = {.by_default = GRAPHITE_NONE};
        memset(&counts, 0, sizeof counts);
        reader->precision = LINE_S;
        static const char names[] = "web.eu1;id=3 1 1\nother.name;id=3 2 1\nweb.verylongname 3 1\n";
        copy(text, names);
        graphite_read(&plain, reader, text, (uint32_t)strlen(names), &counts);
        CHECK(holds("web,host=eu1 hits=1 1000000000\nother.name value=2 1000000000\nweb,host=verylong hits=3 1000000000\n"));
        CHECK(counts.shaped == 3 && counts.accepted == 3);
        reader->precision = LINE_NS;
    }
    teardown();
}

/* As many names as there are doors and more: aliases are bounded, and each line is right whether it is kept or not. */
static void test_many_names(void)
{
    setup();
    static const graphite_t plain = {.by_default = GRAPHITE_NONE};
    guard_begin(&guard, INT64_C(1700000000000000000));
    reader->precision = LINE_S;
    for (int round = 0; round < 4; round++)
        for (uint32_t i = 0; i < 80000; i++) {
            uint8_t text[256];
            char line[128], wanted[128];
            line_counts_t counts = {0};
            snprintf(line, sizeof line, "web.%u 1 1\n", i);
            snprintf(wanted, sizeof wanted, "web,host=%u hits=1 1000000000\n", i);
            copy(text, line);
            graphite_read(&plain, reader, text, (uint32_t)strlen(line), &counts);
            CHECK(counts.accepted == 1 && holds(wanted));
        }
    CHECK(guard.aliases <= guard.aliases_max && guard.aliases > 10000);
    teardown();
}

/* Names that come by turns are all kept soon, those that share a door, too. */
static void test_names_that_share_a_door(void)
{
    setup();
    static const graphite_t plain = {.by_default = GRAPHITE_NONE};
    guard_begin(&guard, INT64_C(1700000000000000000));
    uint64_t before = 0;
    for (int round = 0; round < 60; round++) {
        before = counter_get(&guard.unknown);
        for (uint32_t i = 0; i < 3000; i++) {
            uint8_t text[256];
            char line[128];
            line_counts_t counts = {0};
            snprintf(line, sizeof line, "web.%u 1 1\n", i);
            copy(text, line);
            graphite_read(&plain, reader, text, (uint32_t)strlen(line), &counts);
        }
        ring_publish(ring);
        ring_batch_t found;
        while (ring_take(ring, UINT64_MAX, UINT64_MAX, true, &found))
            ring_free(ring, &found);
    }
    CHECK(counter_get(&guard.unknown) == before);
    teardown();
}

int main(void)
{
    test_names_that_share_a_door();
    test_lines_and_names();
    test_many_names();
    return check_report("plan");
}
