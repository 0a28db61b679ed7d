/* Lines as samples, without a fuzzer: the same checks on lines that are mutated from good ones; what a ring without room
 * leaves; what nothing but tags or nothing but fields costs. Arguments: files to read as they are. */
#include <time.h>

#include "../fuzz/fuzz_point.c"
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
    "m value=1\n",
    "m,Big=1,__name__=x,_a=2,zz=\\ a\\,b\\=c f=\"a \\\"quoted\\\" \\\\ string, with = and\nnewline\",g=t\n",
    "weather.report,loc=caf\xc3\xa9 temp=-7.25e-3,up=true,n=18446744073709551615u -1\n",
    "1st,a.b=1,a-b=2,a_b=3 f.x=.5,f-x=1.,f_x=1_000.5 \t17\r\n",
    "a:b,c:d=e f:g=1,value=007i\n",
    "m\\ 1,dc=x,a\\=b=y f\\,g=FALSE,f\\,g=2,h=9223372036854775807i 9223372036854775806\n",
    "m,t=long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_"
    "long_long_long_long_long_long_long_value f=1 1\n",
};

static void mutate(uint8_t *p, uint32_t *n)
{
    static const char bytes[] = ",= \n\\\"\t\r#.-0eiu_tT:\x00\x7f\x80\xc3\xff";
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
    for (int round = 0; round < 40000; round++) {
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

/* A ring of samples that is nearly full takes a line whole or not at all. */
static void test_no_half_a_line(void)
{
    ring_t *small = memory_ring_new(65536, RING_PB);
    static const char text[] = "cpu,host=a a=1,b=2,c=3,d=4,e=5 1700000000000000000\n";
    line_counts_t counts;
    uint64_t lines_in = 0, refused = 0;
    reader->tags = no_tags;
    reader->precision = LINE_NS;
    reader->general_only = false;
    reader->rings[0] = small;
    reader->rings[1] = lines_ring;
    for (int round = 0; round < 2000; round++) {
        reader->ring_count = 1 + round % 2; /* alone, and beside one that has room */
        uint8_t copy[sizeof text + PORT_PADDING] = {0};
        memcpy(copy, text, sizeof text - 1);
        memset(&counts, 0, sizeof counts);
        uint64_t before = small->position;
        line_read(reader, copy, sizeof text - 1, &counts);
        ring_count_accepted(small, counts.points);
        bool stored = small->position != before;
        lines_in += stored;
        refused += !stored;
        CHECK(counts.accepted == (stored || reader->ring_count == 2));
        ring_publish(lines_ring);
        ring_batch_t batch;
        while (ring_take(lines_ring, UINT64_MAX, UINT64_MAX, true, &batch))
            ring_free(lines_ring, &batch);
    }
    ring_publish(small);
    CHECK(lines_in > 100 && refused > 100);
    CHECK(counter_get(&small->written) == 5 * lines_in && counter_get(&small->missed) > 0);
    CHECK(counter_get(&small->accepted) == counter_get(&small->written) + counter_get(&small->missed));
    ring_batch_t batch = {0};
    CHECK(ring_take(small, UINT64_MAX, UINT64_MAX, true, &batch));
    CHECK(check_body(batch.bytes, batch.bytes + batch.length) == 5 * lines_in);
    memory_ring_free(small);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* 60 KB of tags, or of fields whose names must be changed: sorted and compared at a bounded cost. */
static void test_many_names(void)
{
    enum { BYTES = 60000 };
    char *text = malloc(BYTES + 64);
    line_counts_t counts;
    for (int kind = 0; kind < 3; kind++) {
        uint32_t n = (uint32_t)sprintf(text, "m");
        if (kind > 0)
            text[n++] = ' ';
        for (uint32_t i = 0; n < BYTES - 40; i++) {
            if (kind == 0)
                n += (uint32_t)sprintf(text + n, ",%c%x=v", (char)('a' + i * 7 % 26), i);
            else
                n += (uint32_t)sprintf(text + n, "%s%c%s%x=1", i ? "," : "", (char)('a' + i % 26), kind == 1 ? "." : "-", i % 3000);
        }
        if (kind == 0)
            n += (uint32_t)sprintf(text + n, " f=1");
        double start = seconds();
        reader->line_bytes_max = 1 << 20;
        uint64_t length;
        uint8_t *bytes = run(scan_index_scalar, false, 0, (const uint8_t *)text, n, &length, &counts);
        CHECK(counts.accepted == 1);
        CHECK(seconds() - start < 2.0); /* some milliseconds; its square would be a minute under sanitizers */
        free(bytes);
    }
    reader->line_bytes_max = LINE_TEXT_MAX;
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
    test_no_half_a_line();
    test_many_names();
    return check_report("point");
}
