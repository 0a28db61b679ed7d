/* Streams cut anywhere: at every byte, at random, inside what is long; and the checks of the fuzzer on mutated lines. */
#include "../fuzz/fuzz_stream.c"
#include "check.h"

static uint64_t random_state = 0x9E3779B97F4A7C15;

static uint32_t random_below(uint32_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 33) % n);
}

static const char *const lines[] = {
    "cpu,host=a,dc=eu1 idle=1.5,busy=2i 1700000000000000000\n",
    "m f=1\r\n",
    "m,t=\\ a\\,b\\=c f=\"a \\\"quoted\\\" \\\\ string, with = and\nnewline\",g=t\n",
    "m f=\"\n\",g=\"x\ny\",h=bad 1\n",
    "m f=\"never closed\n",
    "m f=\"closed\"badly\nn v=1\n",
    "# a \"comment\n\n   indented v=1i\n",
    "m f=1,g=\"a\nb\" 12\"\n",
    "m,a=\"b\" f=\"\\\\\"\n",
    "we\"ird\\ name f=\"a\r\nb\"\r\n",
    "\n\n",
    "m f=\"\\",
};

static const lane_socket_t plain = {.fd = -1, .format = LANE_LINE, .line_bytes_max = LINE_TEXT_MAX, .datagram_bytes_max = LINE_TEXT_MAX};

/* Reads text[0..n) in two pieces, cut at `at`. */
static outcome_t read_two(const lane_socket_t *socket, const uint8_t *data, uint32_t n, uint32_t at)
{
    outcome_t o = {0};
    stream_t s = {0};
    uint64_t frames = 0;
    begin(socket->line_bytes_max);
    for (int i = 0; i < 2; i++) {
        uint32_t bytes = i ? n - at : at;
        if (bytes == 0)
            continue;
        uint8_t *text = malloc(STREAM_HELD_MAX + bytes + PORT_PADDING);
        memcpy(text + STREAM_HELD_MAX, data + (i ? at : 0), bytes);
        memset(text + STREAM_HELD_MAX + bytes, 0x5A, PORT_PADDING);
        stream_take(&s, reader, socket, text + STREAM_HELD_MAX, bytes, &frames, &o.counts);
        free(text);
    }
    stream_end(&s, reader, socket, true, &o.counts);
    stream_forget(&s);
    finish(&o);
    return o;
}

static void check_cuts(const uint8_t *text, uint32_t n)
{
    outcome_t whole = read_whole(&plain, text, n, false);
    for (uint32_t at = 0; at <= n; at++) {
        outcome_t two = read_two(&plain, text, n, at);
        CHECK(two.length == whole.length && (two.length == 0 || memcmp(two.bytes, whole.bytes, two.length) == 0));
        CHECK(memcmp(&two.counts, &whole.counts, sizeof two.counts) == 0);
        free(two.bytes);
    }
    free(whole.bytes);
}

static void test_every_offset(void)
{
    for (int round = 0; round < 200; round++) {
        uint8_t text[1024];
        uint32_t n = 0;
        for (int k = 0; k < 4; k++) {
            const char *line = lines[random_below(sizeof lines / sizeof *lines)];
            memcpy(text + n, line, strlen(line));
            n += (uint32_t)strlen(line);
        }
        check_cuts(text, n);
    }
}

static void test_mutated_lines(void)
{
    static const char bytes[] = "\"\"\"\n\n\\\\,= \r\t#x1";
    for (int round = 0; round < 60000; round++) {
        uint8_t text[2048] = {0};
        uint32_t n = FUZZ_HEAD;
        for (uint32_t i = 0; i < FUZZ_HEAD; i++)
            text[i] = (uint8_t)random_below(256);
        for (uint32_t k = 1 + random_below(5); k > 0; k--) {
            const char *line = lines[random_below(sizeof lines / sizeof *lines)];
            if (random_below(4) == 0 && (text[0] & 4)) { /* a frame */
                uint32_t length = (uint32_t)strlen(line) - random_below(2);
                memcpy(text + n, &length, 4);
                n += 4;
            }
            memcpy(text + n, line, strlen(line));
            n += (uint32_t)strlen(line);
        }
        for (uint32_t k = random_below(8); k > 0; k--)
            text[FUZZ_HEAD + random_below(n - FUZZ_HEAD)] = (uint8_t)bytes[random_below(sizeof bytes - 1)];
        LLVMFuzzerTestOneInput(text, n);
        CHECK(true); /* a violation aborts */
    }
}

/* Around the longest line there may be, and far beyond: the neighbours are read, whatever the pieces are. */
static void test_long_lines(void)
{
    enum { BYTES = 400000 };
    uint8_t *text = malloc(BYTES);
    static const uint32_t lengths[] = {65534, 65535, 65536, 65537, 65538, 70000, 131072, 300000};
    for (uint32_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (int quoted = 0; quoted < 4; quoted++) {
            /* 0: no quote   1: a closed string   2: an open one   3: a string that has LFs */
            uint32_t n = (uint32_t)sprintf((char *)text, "a v=1 1\nm f=%s", quoted ? "\"" : "");
            uint32_t start = 8;
            memset(text + n, '1', lengths[i] - (n - start) - (quoted & 1));
            n = start + lengths[i] - (quoted & 1);
            if (quoted == 3)
                text[start + 20] = '\n';
            if (quoted & 1)
                text[n++] = '"';
            n += (uint32_t)sprintf((char *)text + n, "\nb v=1 2\nc v=1 3\n");
            bool fits = lengths[i] <= LINE_TEXT_MAX;
            for (uint32_t seed = 0; seed < 4; seed++) {
                outcome_t o = read_pieces(&plain, text, n, seed, true);
                uint64_t good = 3 + (quoted & 1 && fits);
                CHECK(o.counts.accepted == good);
                CHECK(o.counts.received == o.counts.accepted + !(quoted & 1 && fits) + (quoted == 3 && lengths[i] > STREAM_LINE_MAX));
                if (!fits && quoted < 2)
                    CHECK(o.counts.dropped[DROP_LINE_TOO_LONG] == 1);
                free(o.bytes);
            }
        }
    free(text);
}

/* A sender of single bytes costs what its bytes cost, and not their square. */
static void test_trickle(void)
{
    enum { BYTES = 65000 };
    uint8_t *text = malloc(BYTES);
    uint32_t n = (uint32_t)sprintf((char *)text, "m f=\"\n");
    while (n < BYTES - 40)
        n += (uint32_t)sprintf((char *)text + n, "\",f%u=\"\n", n);
    n += (uint32_t)sprintf((char *)text + n, "\"\n");
    outcome_t o = {0};
    stream_t s = {0};
    uint64_t frames = 0;
    uint8_t *piece = malloc(STREAM_HELD_MAX + 1 + PORT_PADDING);
    begin(LINE_TEXT_MAX);
    for (uint32_t i = 0; i < n; i++) {
        piece[STREAM_HELD_MAX] = text[i];
        stream_take(&s, reader, &plain, piece + STREAM_HELD_MAX, 1, &frames, &o.counts);
    }
    CHECK(o.counts.accepted == 1 && !stream_holds(&s));
    stream_forget(&s);
    finish(&o);
    free(o.bytes);
    free(piece);
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
    test_every_offset();
    test_mutated_lines();
    test_long_lines();
    test_trickle();
    return check_report("stream");
}
