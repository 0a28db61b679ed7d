/* The line reader without a fuzzer: the same checks on lines that are mutated from good ones, and on the seeds.
 *
 * For machines that have a C compiler and its sanitizers but no libFuzzer. Arguments: files to read as they are. */
#include "../fuzz/fuzz_line.c"
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
    "cpu,host=a,dc=eu1 idle=1.5,busy=2i 1700000000000000000\n",
    "cpu,host=server01,region=us-west usage_user=12.5,usage_system=3.25,usage_idle=84.25 1700000000000000000\n",
    "m f=1\n",
    "m,t=\\ a\\,b\\=c f=\"a \\\"quoted\\\" \\\\ string, with = and\nnewline\",g=t\n",
    "weather,loc=caf\xc3\xa9 temp=-7.25e-3,up=true,n=18446744073709551615u -1\n",
    "a  b=.5,c=1.,d=1_000.5 \t17\r\n",
    "# a comment\n\n   indented v=007i\n",
    "m\\ 1,dc=x,a\\=b=y f\\,g=FALSE,f\\,g=2,h=9223372036854775807i 9223372036854775806\n",
};

static void mutate(uint8_t *p, uint32_t *n)
{
    static const char bytes[] = ",= \n\\\"\t\r#.-0eiu_tT\x00\x7f\x80\xc3\xff";
    uint32_t at = *n ? random_below(*n) : 0;
    switch (random_below(4)) {
    case 0:
        p[at] = (uint8_t)bytes[random_below(sizeof bytes - 1)];
        break;
    case 1: /* cut out */
        if (*n > 1) {
            uint32_t cut = 1 + random_below(*n - at < 9 ? *n - at : 9);
            memmove(p + at, p + at + cut, *n - at - cut);
            *n -= cut;
        }
        break;
    case 2: /* put in */
        memmove(p + at + 1, p + at, *n - at);
        p[at] = (uint8_t)bytes[random_below(sizeof bytes - 1)];
        ++*n;
        break;
    default: /* repeat a piece */
        if (*n > 0 && *n < 1500) {
            uint32_t piece = 1 + random_below(*n - at < 40 ? *n - at : 40);
            memmove(p + at + piece, p + at, *n - at);
            *n += piece;
        }
    }
}

static void test_mutated_lines(void)
{
    for (int round = 0; round < 60000; round++) {
        uint8_t text[4096];
        uint32_t n = 2;
        text[0] = (uint8_t)random_below(256);
        text[1] = 0;
        for (uint32_t k = 1 + random_below(4); k > 0; k--) {
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

/* Windows, and lines that are cut by them. */
static void test_long_text(void)
{
    enum { BYTES = 200000 };
    uint8_t *text = malloc(BYTES + PORT_PADDING);
    for (uint32_t shift = 0; shift < 200; shift++) {
        uint32_t n = 0, count = 0;
        memset(text, '\n', shift);
        n = shift;
        while (n < BYTES - 200) {
            const char *line = lines[random_below(3)];
            memcpy(text + n, line, strlen(line));
            n += (uint32_t)strlen(line);
            count++;
        }
        line_counts_t counts;
        ring_batch_t batch = (reader->scan = scan_index_scalar, reader->tags = no_tags, reader->rings[0] = ring[RING_LP],
                              reader->precision = LINE_NS, reader->line_bytes_max = LINE_TEXT_MAX,
                              reader->general_only = false, memory_read(reader, text, n, &counts));
        CHECK(counts.received == count && counts.accepted == count && batch.metrics == count);
        CHECK(line_count(batch.bytes, batch.length) == count);
        CHECK(line_offset(batch.bytes, batch.length, count) == batch.length);
    }
    free(text);
}

/* A datagram of nothing but keys costs its bytes, not their square. */
static void test_many_keys(void)
{
    enum { KEYS = 12000 };
    uint8_t *text = malloc(KEYS * 16 + PORT_PADDING);
    for (int same = 0; same < 2; same++) {
        uint32_t n = (uint32_t)sprintf((char *)text, "m ");
        for (uint32_t i = 0; i < KEYS; i++)
            n += (uint32_t)sprintf((char *)text + n, "%s%u=1", i ? "," : "", same ? i % (KEYS / 2) : i);
        line_counts_t counts;
        reader->line_bytes_max = 1 << 20;
        ring_batch_t batch = memory_read(reader, text, n, &counts);
        CHECK(counts.accepted == 1 && counts.rewritten == (uint64_t)same);
        uint32_t commas = 0;
        for (uint64_t i = 0; i < batch.length; i++)
            commas += batch.bytes[i] == ',';
        CHECK(commas + 1 == (same ? KEYS / 2 : KEYS));
    }
    free(text);
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
    test_mutated_lines();
    test_long_text();
    test_many_keys();
    return check_report("line");
}
