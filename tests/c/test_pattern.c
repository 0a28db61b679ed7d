/* Patterns as agent/patterns.py compiles them, by hand; what they mean is compared with Python's `re` in
 * tests/property/test_patterns.py. Here: characters, broken programs, the budget, lists. */
#include "check.h"
#include "pattern.h"

static uint32_t char_at(const char *text, uint32_t *bytes)
{
    return pattern_char((const uint8_t *)text, (uint32_t)strlen(text), bytes);
}

static void test_characters(void)
{
    static const struct {
        const char *text;
        uint32_t code, bytes;
    } cases[] = {
        {"a", 'a', 1}, {"\x7f", 0x7F, 1}, {"\xc2\x80", 0x80, 2}, {"\xdf\xbfx", 0x7FF, 2}, {"\xe0\xa0\x80", 0x800, 3},
        {"\xef\xbf\xbf", 0xFFFF, 3}, {"\xf0\x90\x80\x80", 0x10000, 4}, {"\xf4\x8f\xbf\xbf", 0x10FFFF, 4},
        /* None: alone, cut, too long, half a pair, behind the last. */
        {"\x80", 0xDC80, 1}, {"\xc3", 0xDCC3, 1}, {"\xc3(", 0xDCC3, 1}, {"\xc0\x80", 0xDCC0, 1}, {"\xe0\x80\x80", 0xDCE0, 1},
        {"\xed\xa0\x80", 0xDCED, 1}, {"\xe2\x82", 0xDCE2, 1}, {"\xf0\x80\x80\x80", 0xDCF0, 1}, {"\xf4\x90\x80\x80", 0xDCF4, 1},
        {"\xf5\x80\x80\x80", 0xDCF5, 1}, {"\xff", 0xDCFF, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t bytes = 0;
        CHECK(char_at(cases[i].text, &bytes) == cases[i].code);
        CHECK(bytes == cases[i].bytes);
    }
}

/* (a*)*b? of a program that could go on for ever: a loop without a character. */
static void test_a_loop_without_a_character_ends(void)
{
    static const pattern_step_t steps[] = {
        {PATTERN_SPLIT, 0, 1, 2}, {PATTERN_JUMP, 0, 0, 0}, {PATTERN_CHAR, 0, 0, 'b'}, {PATTERN_FOUND, 0, 0, 0}};
    pattern_t p = {.steps = steps, .count = 4};
    pattern_work_t w = {0};
    CHECK(pattern_open(&w) && pattern_valid(&p));
    CHECK(pattern_match(&p, &w, (const uint8_t *)"b", 1, NULL));
    CHECK(!pattern_match(&p, &w, (const uint8_t *)"bb", 2, NULL));
    CHECK(!pattern_match(&p, &w, (const uint8_t *)"", 0, NULL));
    pattern_close(&w);
}

static void test_broken_programs_are_refused(void)
{
    static const pattern_step_t bad[][2] = {
        {{PATTERN_CHAR, 0, 0, 'a'}, {PATTERN_CHAR, 0, 0, 'a'}},  {{PATTERN_JUMP, 0, 0, 2}, {PATTERN_FOUND, 0, 0, 0}},
        {{PATTERN_SPLIT, 0, 2, 0}, {PATTERN_FOUND, 0, 0, 0}},    {{PATTERN_SPLIT, 0, 0, 2}, {PATTERN_FOUND, 0, 0, 0}},
        {{PATTERN_CLASS, 0, 0, 0}, {PATTERN_FOUND, 0, 0, 0}},    {{PATTERN_SAVE, 0, 2, 0}, {PATTERN_FOUND, 0, 0, 0}},
        {{PATTERN_OPS, 0, 0, 0}, {PATTERN_FOUND, 0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pattern_t p = {.steps = bad[i], .count = 2, .captures = 1};
        CHECK(!pattern_valid(&p));
    }
    CHECK(!pattern_valid(&(pattern_t){.steps = bad[0], .count = 0}));
}

/* a?a?…a?aa…a: 2^n ways for who tries one after the other. */
static void test_steps_are_bounded(void)
{
    enum { N = 500 };
    static pattern_step_t steps[4 * N];
    uint32_t count = 0;
    for (uint32_t i = 0; i < N; i++) {
        steps[count] = (pattern_step_t){PATTERN_SPLIT, 0, (uint16_t)(count + 1), count + 2};
        steps[count + 1] = (pattern_step_t){PATTERN_CHAR, 0, 0, 'a'};
        count += 2;
    }
    for (uint32_t i = 0; i < N; i++)
        steps[count++] = (pattern_step_t){PATTERN_CHAR, 0, 0, 'a'};
    steps[count++] = (pattern_step_t){PATTERN_FOUND, 0, 0, 0};
    pattern_t p = {.steps = steps, .count = count};
    uint8_t text[N];
    memset(text, 'a', sizeof text);
    pattern_work_t w = {0};
    CHECK(pattern_open(&w) && pattern_valid(&p));
    w.budget = 1u << 30;
    CHECK(pattern_match(&p, &w, text, N, NULL));
    CHECK((1u << 30) - w.budget <= 2u * count * (N + 1));

    /* With less it is given up, and so is all that is asked behind it. */
    w.budget = PATTERN_BUDGET;
    CHECK(!pattern_match(&p, &w, text, N, NULL) && w.given_up && w.budget <= PATTERN_BUDGET);
    static const pattern_step_t any[] = {{PATTERN_SPLIT, 0, 1, 3}, {PATTERN_ALL, 0, 0, 0}, {PATTERN_JUMP, 0, 0, 0}, {PATTERN_FOUND, 0, 0, 0}};
    pattern_t all = {.steps = any, .count = 4};
    CHECK(!pattern_match(&all, &w, text, N, NULL));
    w.given_up = false;
    w.budget = PATTERN_BUDGET;
    CHECK(pattern_match(&all, &w, text, N, NULL));
    pattern_close(&w);
}

/* Generations of marks come round: nothing is taken for visited that is not. */
static void test_generations_come_round(void)
{
    static const pattern_step_t steps[] = {{PATTERN_CHAR, 0, 0, 'x'}, {PATTERN_FOUND, 0, 0, 0}};
    pattern_t p = {.steps = steps, .count = 2};
    pattern_work_t w = {0};
    CHECK(pattern_open(&w));
    CHECK(pattern_match(&p, &w, (const uint8_t *)"x", 1, NULL));
    w.generation = UINT32_MAX - 1;
    for (int i = 0; i < 4; i++)
        CHECK(pattern_match(&p, &w, (const uint8_t *)"x", 1, NULL));
    pattern_close(&w);
}

static void test_lists(void)
{
    static const pattern_step_t never[] = {{PATTERN_FOUND, 0, 0, 0}};
    static const pattern_t cpu = {.steps = never, .count = 1, .kind = PATTERN_PREFIX, .literal = (const uint8_t *)"cpu", .literal_length = 3};
    static const pattern_t one = {.steps = never, .count = 1, .kind = PATTERN_LITERAL, .literal = (const uint8_t *)"cpu_1", .literal_length = 5};
    const pattern_t *const both[] = {&cpu, &one};
    pattern_list_t all = {both, 0, 0}, wanted = {both, 1, 0}, but = {both, 1, 1}, none_of = {both + 1, 0, 1};
    pattern_work_t w = {0};
    CHECK(pattern_open(&w));
#define WANTED(list, text) pattern_wanted(&(list), &w, (const uint8_t *)(text), (uint32_t)strlen(text))
    CHECK(WANTED(all, "") && WANTED(all, "x"));
    CHECK(WANTED(wanted, "cpu") && WANTED(wanted, "cpu_1") && !WANTED(wanted, "cp"));
    CHECK(WANTED(but, "cpu") && WANTED(but, "cpu_12") && !WANTED(but, "cpu_1") && !WANTED(but, "mem"));
    CHECK(WANTED(none_of, "mem") && !WANTED(none_of, "cpu_1"));
    CHECK(w.runs == 0);
    pattern_close(&w);
}

int main(void)
{
    test_characters();
    test_a_loop_without_a_character_ends();
    test_broken_programs_are_refused();
    test_steps_are_bounded();
    test_generations_come_round();
    test_lists();
    return check_report("pattern");
}
