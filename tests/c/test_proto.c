/* The wire format: every varint back, every cut and every lie refused. */
#include "check.h"
#include "proto.h"

static void test_varints(void)
{
    for (int bit = 0; bit < 64; bit++)
        for (int64_t near = -2; near <= 2; near++) {
            uint64_t v = (UINT64_C(1) << bit) + (uint64_t)near, back = 0;
            uint8_t text[16];
            uint32_t n = (uint32_t)(proto_put_varint(text, v) - text);
            CHECK(n == proto_varint_bytes(v) && n <= PROTO_VARINT_BYTES_MAX);
            for (uint32_t cut = 0; cut <= n; cut++) {
                const uint8_t *at = text;
                bool good = proto_varint(&at, text + cut, &back);
                CHECK(good == (cut == n));
                CHECK(good ? back == v && at == text + n : at == text);
            }
        }
}

static void test_varints_of_more_than_64_bits(void)
{
    uint8_t text[12];
    uint64_t v;
    const uint8_t *at = text;
    memset(text, 0x80, sizeof text);
    CHECK(!proto_varint(&at, text + 12, &v));
    memset(text, 0xFF, 9);
    text[9] = 1;
    CHECK(proto_varint(&at, text + 10, &v) && v == UINT64_MAX);
    text[9] = 2;
    at = text;
    CHECK(!proto_varint(&at, text + 10, &v));
    /* Longer than need be, and what it says is clear. */
    memcpy(text, "\x81\x80\x00", 3);
    CHECK(proto_varint(&at, text + 3, &v) && v == 1 && at == text + 3);
}

static void test_fields(void)
{
    static const uint8_t good[] = "\x08\x96\x01" "\x12\x03" "abc" "\x19\x01\x02\x03\x04\x05\x06\x07\x08" "\x25\x01\x02\x03\x04";
    uint32_t n = sizeof good - 1;
    for (uint32_t cut = 0; cut <= n; cut++) {
        uint8_t *text = malloc(cut + 1); /* so that ASan sees what is read too far */
        memcpy(text, good, cut);
        const uint8_t *at = text, *end = text + cut;
        proto_field_t f = {0};
        uint32_t fields = 0;
        while (at < end && proto_next(&at, end, &f)) {
            fields++;
            CHECK(f.number == fields);
            if (f.number == 1)
                CHECK(f.kind == PROTO_VARINT && f.value == 150);
            if (f.number == 2)
                CHECK(f.kind == PROTO_BYTES && f.length == 3 && memcmp(f.bytes, "abc", 3) == 0);
            if (f.number == 3)
                CHECK(f.kind == PROTO_FIXED64 && f.value == UINT64_C(0x0807060504030201));
            if (f.number == 4)
                CHECK(f.kind == PROTO_FIXED32 && f.value == 0x04030201);
        }
        CHECK(fields == (cut == n ? 4u : cut >= 17 ? 3u : cut >= 8 ? 2u : cut >= 3 ? 1u : 0u));
        CHECK((at == end) == (cut == 0 || cut == 3 || cut == 8 || cut == 17 || cut == n));
        free(text);
    }
}

static void test_fields_that_cannot_be(void)
{
    static const struct {
        const char *bytes;
        uint32_t n;
    } cases[] = {
        {"\x00\x01", 2},                                         /* field number 0 */
        {"\x0B\x0C", 2},                                         /* a group */
        {"\x0E\x01", 2},                                         /* kind 6 */
        {"\x80\x80\x80\x80\x10\x01", 6},                         /* a field number of 30 bits */
        {"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01x", 12},   /* longer than anything */
        {"\x0A\x02x", 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const uint8_t *start = (const uint8_t *)cases[i].bytes, *at = start;
        proto_field_t f;
        CHECK(!proto_next(&at, start + cases[i].n, &f) && at == start);
    }
}

static void test_what_is_written_is_read(void)
{
    uint8_t text[64];
    uint8_t *end = proto_put_head(text, PROTO_KEY(15, PROTO_BYTES), 9);
    *end++ = PROTO_KEY(1, PROTO_FIXED64);
    end = proto_put_double(end, -0.1);
    CHECK((uint64_t)(end - text) == proto_bytes_size(9));
    const uint8_t *at = text;
    proto_field_t f;
    CHECK(proto_next(&at, end, &f) && f.number == 15 && f.length == 9 && at == end);
    at = f.bytes;
    CHECK(proto_next(&at, end, &f) && f.number == 1 && proto_double(f.value) == -0.1);
}

int main(void)
{
    test_varints();
    test_varints_of_more_than_64_bits();
    test_fields();
    test_fields_that_cannot_be();
    test_what_is_written_is_read();
    return check_report("proto");
}
