/* Remote write without a fuzzer: the same checks on mutated messages, cut at every byte. */
#include "../fuzz/fuzz_remote_read.c"
#include "check.h"
#include "mutate.h"

/* Appends a field of bytes. */
static uint8_t *put(uint8_t *to, uint8_t number, const void *p, uint32_t n)
{
    to = proto_put_head(to, PROTO_KEY(number, PROTO_BYTES), n);
    memcpy(to, p, n);
    return to + n;
}

static uint8_t *put_label(uint8_t *to, const char *name, const char *value)
{
    uint8_t label[600], *end = put(label, 1, name, (uint32_t)strlen(name));
    end = put(end, 2, value, (uint32_t)strlen(value));
    return put(to, 1, label, (uint32_t)(end - label));
}

static uint8_t *put_sample(uint8_t *to, double value, int64_t time_ms)
{
    uint8_t sample[32], *end = sample;
    *end++ = REMOTE_NUMBER;
    end = proto_put_double(end, value);
    *end++ = REMOTE_TIME;
    end = proto_put_varint(end, (uint64_t)time_ms);
    return put(to, 2, sample, (uint32_t)(end - sample));
}

static uint32_t message(uint8_t *to)
{
    static const char *const names[] = {"job", "a b", "c\\", "time", "e\xc3\xa9", "job", "k=,"};
    static const char *const ordered[] = {"a", "a_b", "dc", "instance", "kubernetes_namespace", "kubernetes_namespace_name", "mode",
                                          "time", "time_", "zone_of_this_and_of_that_host"};
    uint8_t *start = to;
    for (uint32_t k = 1 + mutate_below(5); k > 0; k--) {
        bool in_order = mutate_below(3);
        uint8_t series[1024], *end = put_label(series, "__name__", mutate_below(4) ? "up" : mutate_below(2) ? "#a b,c" : "#up");
        for (uint32_t i = mutate_below(5); !in_order && i > 0; i--)
            end = put_label(end, mutate_below(3) ? ordered[mutate_below(3)] : names[mutate_below(7)], mutate_below(3) ? "value" : "a\nb c");
        for (uint32_t i = 0; in_order && i < sizeof ordered / sizeof *ordered; i++)
            if (mutate_below(2))
                end = put_label(end, ordered[i], mutate_below(9) ? "value of sixteen" + mutate_below(16) : "a\nb c");
        for (uint32_t i = mutate_below(3); i > 0; i--)
            end = put_sample(end, (double)mutate_below(1000) / 8, (int64_t)mutate_below(5) * 1000 - 1);
        if (mutate_below(4) == 0)
            end = put(end, (uint8_t)(3 + mutate_below(3)), "x", 1);
        to = put(to, 1, series, (uint32_t)(end - series));
    }
    return (uint32_t)(to - start);
}

static void test_mutated_messages(void)
{
    static const char bytes[] = "\x00\x01\x07\x08\x09\x0a\x0b\x10\x12\x1a\x22\x7f\x80\x81\xff ,=\\_";
    for (int round = 0; round < 40000; round++) {
        uint8_t text[8192];
        text[0] = (uint8_t)mutate_below(2);
        uint32_t n = message(text + 1);
        for (uint32_t k = mutate_below(5); k > 0; k--)
            mutate(text + 1, &n, bytes, sizeof bytes - 1);
        LLVMFuzzerTestOneInput(text, n + 1);
        CHECK(true); /* a violation aborts */
    }
}

/* Cut anywhere, a message is whole samples and at most one malformed rest. */
static void test_cut_messages(void)
{
    for (int round = 0; round < 40; round++) {
        uint8_t text[8192];
        uint32_t n = message(text);
        for (uint32_t cut = 0; cut <= n; cut++) {
            line_counts_t counts = format_run(read_remote, text, cut, 0);
            CHECK(counts.dropped[DROP_PROTOBUF] <= 1);
            CHECK(cut < n || counts.dropped[DROP_PROTOBUF] == 0);
        }
    }
}

int main(void)
{
    LLVMFuzzerInitialize(NULL, NULL);
    test_mutated_messages();
    test_cut_messages();
    return check_report("remote_read");
}
