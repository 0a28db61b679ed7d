/* Hashes of text: every byte and the length count, what lies behind does not, the fixed ones never change. */
#include "check.h"
#include "mix.h"

static uint64_t random_state = 0x9E3779B97F4A7C15;

static uint64_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* The text in a block of memory that ends where mix_bytes may read last, so that ASan sees a byte more. */
static uint64_t mix_exactly(const mix_key_t *key, uint64_t h, const uint8_t *text, uint32_t n, int behind)
{
    uint8_t *copy = malloc(n + MIX_BEHIND);
    memcpy(copy, text, n);
    memset(copy + n, behind, MIX_BEHIND);
    uint64_t hash = mix_bytes(key, h, copy, n);
    free(copy);
    return hash;
}

static void test_what_counts(void)
{
    mix_key_t key;
    CHECK(mix_key_draw(&key));
    uint8_t text[200];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (uint8_t)random_next();
    for (uint32_t n = 0; n <= 130; n++) {
        uint64_t hash = mix_exactly(&key, 7, text, n, 0);
        CHECK(hash == mix_exactly(&key, 7, text, n, 0xFF));
        CHECK(hash != mix_exactly(&key, 8, text, n, 0));
        for (uint32_t bit = 0; bit < 8 * n; bit++) {
            text[bit / 8] ^= (uint8_t)(1u << bit % 8);
            CHECK(hash != mix_exactly(&key, 7, text, n, 0));
            text[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
    }
    memset(text, 0, sizeof text); /* zeros are only told apart by their number */
    for (uint32_t n = 0; n < 130; n++)
        CHECK(mix_exactly(&key, 7, text, n, 0) != mix_exactly(&key, 7, text, n + 1, 0));
}

/* Each bit of the text changes each bit of the hash half the time. */
static void test_avalanche(void)
{
    enum { ROUNDS = 2000 };
    static const uint32_t lengths[] = {1, 8, 9, 16, 17, 33, 70};
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        uint32_t n = lengths[l], changed[64] = {0};
        uint8_t text[128] = {0};
        for (int round = 0; round < ROUNDS; round++) {
            for (uint32_t i = 0; i < n; i++)
                text[i] = (uint8_t)random_next();
            uint64_t before = mix_bytes(&mix_fixed, 0, text, n);
            uint32_t bit = (uint32_t)(random_next() % (8 * n));
            text[bit / 8] ^= (uint8_t)(1u << bit % 8);
            uint64_t difference = before ^ mix_bytes(&mix_fixed, 0, text, n);
            for (int i = 0; i < 64; i++)
                changed[i] += difference >> i & 1;
        }
        for (int i = 0; i < 64; i++)
            CHECK(changed[i] > ROUNDS * 4 / 10 && changed[i] < ROUNDS * 6 / 10);
    }
}

static void test_pairs(void)
{
    const uint8_t *text = (const uint8_t *)"hostweb1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    CHECK(mix_pair(&mix_fixed, text, 4, text + 4, 4) != mix_pair(&mix_fixed, text, 5, text + 5, 3));
    CHECK(mix_pair(&mix_fixed, text, 4, text + 4, 4) != mix_pair(&mix_fixed, text + 4, 4, text, 4));
}

/* Which output a series goes to hangs on these: a change of them moves every series of everybody. */
static void test_fixed(void)
{
    static const struct {
        const char *text;
        uint64_t hash;
    } known[] = {
        {"", UINT64_C(0xC30147D41D040667)},
        {"a", UINT64_C(0xED39712B59BD7E5C)},
        {"b", UINT64_C(0x5525A52E71CABCF6)},
        {"cpu", UINT64_C(0xD19E0B2D35ED7CB3)},
        {"mem", UINT64_C(0x5CF9C26B3322BA0B)},
        {"host", UINT64_C(0xD18FFE153BA94C34)},
        {"web1", UINT64_C(0x5CA1AAC793B44903)},
        {"eu", UINT64_C(0x49E78D7FDC0C3124)},
        {"requests", UINT64_C(0x6708045387283F52)},
        {"localhost", UINT64_C(0x1F475F1411DC4E98)},
        {"measurement", UINT64_C(0x331F86F8BE4A92F6)},
        {"0123456789abcde", UINT64_C(0x458B06EB844CA5C2)},
        {"0123456789abcdef", UINT64_C(0x1409B53F77487D3A)},
        {"0123456789abcdefg", UINT64_C(0xA20D45832ECD7817)},
        {"cpu,host=a,dc=eu1", UINT64_C(0x42551DFE54DE7A6D)},
        {"influx-eu-west-1.example", UINT64_C(0x52FEB8BA45AD3051)},
        {"0123456789abcdef0123456789abcdef", UINT64_C(0x94150EA4431814F6)},
        {"0123456789abcdef0123456789abcdefx", UINT64_C(0xF2F1A0C3F2010E7B)},
        {"http_requests_total,code=200,handler=/api/v1/query_range", UINT64_C(0xA787D01D2098D6B6)},
        {"the quick brown fox jumps over the lazy dog, and then it does so once more", UINT64_C(0x7502A01C04922016)},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint8_t text[128] = {0};
        memcpy(text, known[i].text, strlen(known[i].text));
        CHECK(mix_bytes(&mix_fixed, 0, text, (uint32_t)strlen(known[i].text)) == known[i].hash);
    }
}

int main(void)
{
    test_what_counts();
    test_avalanche();
    test_pairs();
    test_fixed();
    return check_report("mix");
}
