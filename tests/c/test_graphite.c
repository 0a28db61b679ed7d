/* Graphite without a fuzzer: the same checks on mutated lines, and on paths and tags that are long. */
#include "../fuzz/fuzz_graphite.c"
#include "check.h"
#include "mutate.h"

static const char *const lines[] = {
    "servers.web1.cpu.load;dc=eu;rack=r1 12.5 1700000000\n", "a.b.c.d 1 -1\n", "foo 0.3 1700000000.25\r\n", "\tx y;t ag=1;t ag=2 +5e3\n",
    "host.m.n;time=1;=;a=;=b .5 1.7e9\n", "caf\xc3\xa9.x;#=\\ 7 0\n", "#a=b,c 1. 9223372036\n", "servers 1 2\n\n \n",
};

static void test_mutated_lines(void)
{
    static const char bytes[] = ".;= \t\n\r\\,\"#-+eE_*0x\x00\x7f\x80\xc3\xff";
    for (int round = 0; round < 40000; round++) {
        uint8_t text[4096];
        uint32_t n = 0;
        text[0] = (uint8_t)mutate_below(8);
        for (uint32_t k = 1 + mutate_below(4); k > 0; k--) {
            const char *line = lines[mutate_below(sizeof lines / sizeof *lines)];
            memcpy(text + 1 + n, line, strlen(line));
            n += (uint32_t)strlen(line);
        }
        for (uint32_t k = mutate_below(6); k > 0; k--)
            mutate(text + 1, &n, bytes, sizeof bytes - 1);
        LLVMFuzzerTestOneInput(text, n + 1);
        CHECK(true); /* a violation aborts */
    }
}

/* As long as a line may be: nodes, tags, escapes, and a joined path. */
static void test_long_lines(void)
{
    enum { BYTES = 65000 };
    static const char *const pieces[] = {"a.", ";k=v", ";a=,", ".", "x", "\xc3\xa9", " ", ";b=\\"};
    uint8_t *text = malloc(BYTES + 64);
    for (uint32_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        for (uint8_t flags = 0; flags < 8; flags++) {
            uint32_t n = (uint32_t)sprintf((char *)text, "servers.h.m;a=b");
            if (pieces[i][0] != ';')
                n -= 4;
            while (n < BYTES) {
                memcpy(text + n, pieces[i], strlen(pieces[i]));
                n += (uint32_t)strlen(pieces[i]);
            }
            n += (uint32_t)sprintf((char *)text + n, " 1 2");
            line_counts_t counts = format_run(read_graphite, text, n, flags);
            CHECK(counts.received == 1);
        }
    free(text);
}

/* Of many tags with few keys the last ones stay, at the cost of their bytes. */
static void test_tags_that_are_replaced(void)
{
    uint8_t *text = malloc(65536);
    uint32_t n = (uint32_t)sprintf((char *)text, "m");
    for (uint32_t i = 0; n < 65000; i++)
        n += (uint32_t)sprintf((char *)text + n, ";k%u=%u", i % 50, i);
    n += (uint32_t)sprintf((char *)text + n, " 1 2");
    for (int round = 0; round < 200; round++)
        CHECK(format_run(read_graphite, text, n, 0).accepted == 1);
    free(text);
}

int main(void)
{
    LLVMFuzzerInitialize(NULL, NULL);
    test_mutated_lines();
    test_long_lines();
    test_tags_that_are_replaced();
    return check_report("graphite");
}
