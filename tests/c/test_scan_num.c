/* The kernels against their scalar twins, and numbers against the C library. */
#include <inttypes.h>
#include <math.h>

#include "check.h"
#include "line_fast.h"

static uint64_t random_state = 88172645463325252u;

static uint64_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void test_scan_kernels_agree(void)
{
    enum { MOST = 600 };
    uint32_t scalar[MOST + SCAN_SLACK], vector[MOST + SCAN_SLACK];
    if (!scan_has_avx2())
        printf("scan: no AVX2 here, the scalar kernel stands alone\n");
    for (int byte = 0; byte < 256; byte++) {
        uint8_t p[32 + PORT_PADDING] = {0};
        memset(p, 'a', 32);
        p[17] = (uint8_t)byte;
        uint32_t n = scan_index_scalar(p, 32, scalar);
        CHECK(n == (strchr(",= \"\\", byte) != NULL || byte < 32 || byte >= 127 ? 1u : 0u));
    }
    for (int round = 0; round < 20000 && scan_has_avx2(); round++) {
        uint32_t n = (uint32_t)(random_next() % (MOST + 1));
        uint8_t *p = malloc(n + PORT_PADDING);
        uint64_t density = random_next() % 5;
        for (uint32_t i = 0; i < n + PORT_PADDING; i++)
            p[i] = random_next() % 5 < density ? (uint8_t)",= \n\"\\"[random_next() % 6] : (uint8_t)random_next();
        uint32_t a = scan_index_scalar(p, n, scalar), b = scan_index_avx2(p, n, vector);
        CHECK(a == b && memcmp(scalar, vector, a * sizeof *scalar) == 0);
        free(p);
    }
}

static void test_integers(void)
{
    for (int round = 0; round < 200000; round++) {
        int64_t v = (int64_t)(random_next() >> random_next() % 64), back = 0;
        if (round & 1)
            v = (int64_t)(0 - (uint64_t)v);
        char expected[32];
        uint8_t text[32 + PORT_PADDING] = {0};
        int n = snprintf(expected, sizeof expected, "%" PRId64, v);
        CHECK(num_write_i64(text, v) == (size_t)n && memcmp(text, expected, (size_t)n) == 0);
        CHECK(num_read_i64(text, (size_t)n, &back) && back == v);
    }
    const char *refused[] = {"", "-", "9223372036854775808", "-9223372036854775809", "1a", "+1", "18446744073709551616",
                             "99999999999999999999", "100000000000000000000", " 1", "1 "};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        int64_t v;
        CHECK(!num_read_i64((const uint8_t *)refused[i], strlen(refused[i]), &v));
    }
    uint64_t u;
    CHECK(num_read_u64((const uint8_t *)"18446744073709551615", 20, &u) && u == UINT64_MAX);
    CHECK(num_read_u64((const uint8_t *)"000000000000000000000000018446744073709551615", 45, &u) && u == UINT64_MAX);
    CHECK(!num_read_u64((const uint8_t *)"18446744073709551616", 20, &u));
}

static void test_digits(void)
{
    for (int round = 0; round < 200000; round++) {
        uint8_t p[48];
        bool all = true;
        size_t n = 1 + random_next() % 24;
        for (size_t i = 0; i < sizeof p; i++)
            p[i] = random_next() % 40 ? (uint8_t)('0' + random_next() % 10) : (uint8_t)random_next();
        for (size_t i = 0; i < n; i++)
            all = all && p[i] >= '0' && p[i] <= '9';
        CHECK(num_all_digits(p, n) == all);
        uint32_t mask = line_digit_mask16(p);
        for (int i = 0; i < 16; i++)
            CHECK((mask >> i & 1) == (p[i] >= '0' && p[i] <= '9'));
    }
}

static void test_floats(void)
{
    const char *good[] = {"0", "-0", "1", "1.5", "-1.5e3", "1e308", "1.7976931348623157e308", "4.9e-324", "1e-400",
                          "0.000000000000000000000001e330", "0e999999999999", "17976931348623157e292", "0.0"};
    const char *bare[] = {"1.", ".5", "-.5", "1.e5", ".5e-3"};
    const char *bad[] = {"", "-", ".", "e5", "1e", "1e+", "--1", "1.2.3", "0x10", "nan", "inf", "1e309", "1.8e308",
                         "1.7976931348623159e308", "18e307", "+1", "1 ", "1e5.0", "-.e1", "1e99999999999999999999"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        CHECK(num_check_float((const uint8_t *)good[i], strlen(good[i])) == NUM_PLAIN);
    for (size_t i = 0; i < sizeof bare / sizeof *bare; i++)
        CHECK(num_check_float((const uint8_t *)bare[i], strlen(bare[i])) == NUM_BARE_DOT);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(num_check_float((const uint8_t *)bad[i], strlen(bad[i])) == NUM_BAD);
    for (int round = 0; round < 100000; round++) {
        char text[64];
        int exponent = (int)(random_next() % 40) + 290;
        int n = snprintf(text, sizeof text, "%s%" PRIu64 ".%" PRIu64 "e%d", round & 1 ? "-" : "",
                         random_next() >> random_next() % 64, random_next() % 1000000, exponent - (int)(random_next() % 20));
        CHECK((num_check_float((const uint8_t *)text, (size_t)n) == NUM_PLAIN) == (bool)isfinite(strtod(text, NULL)));
    }
}

/* The quick look may say "look closer", but never "plain" for what is not. */
static void test_plain_values_are_numbers(void)
{
    const char alphabet[] = "0123456789.-eitrufals";
    for (int round = 0; round < 500000; round++) {
        uint8_t p[64] = {0};
        uint32_t n = 1 + (uint32_t)(random_next() % 26);
        for (uint32_t i = 0; i < n; i++)
            p[i] = random_next() % 4 ? (uint8_t)('0' + random_next() % 10) : (uint8_t)alphabet[random_next() % 21];
        if (!line_value_plain(p, n))
            continue;
        int64_t v;
        bool integer = p[n - 1] == 'i' && num_read_i64(p, n - 1, &v);
        bool truth = (n == 4 && memcmp(p, "true", 4) == 0) || (n == 5 && memcmp(p, "false", 5) == 0);
        CHECK(integer || truth || num_check_float(p, n) == NUM_PLAIN);
    }
}

int main(void)
{
    test_scan_kernels_agree();
    test_integers();
    test_digits();
    test_floats();
    test_plain_values_are_numbers();
    return check_report("scan, num");
}
