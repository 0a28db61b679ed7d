/* The shortest text of a double: reads back, and no shorter one does. */
#include <inttypes.h>

#include "check.h"
#include "num_shortest.h"

static uint64_t random_state = 0x9E3779B97F4A7C15;

static uint64_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* Significant digits of a decimal text. */
static int digits_of(const char *text)
{
    int digits = 0, zeros = 0;
    for (; *text && *text != 'e'; text++) {
        if (*text < '0' || *text > '9' || (*text == '0' && digits == 0))
            continue;
        digits += 1;
        zeros = *text == '0' ? zeros + 1 : 0;
    }
    return digits - zeros;
}

static void check_number(double v)
{
    uint8_t text[NUM_SHORTEST_BYTES + 1];
    size_t n = num_write_shortest(text, v);
    CHECK(n > 0 && n < NUM_SHORTEST_BYTES);
    text[n] = 0;
    double back = strtod((const char *)text, NULL);
    CHECK(memcmp(&back, &v, sizeof v) == 0);
    CHECK(num_check_float(text, n) == NUM_PLAIN);
    if (v == 0)
        return;
    int digits = digits_of((const char *)text);
    char other[40];
    if (digits > 1) { /* one digit less never reads back */
        snprintf(other, sizeof other, "%.*e", digits - 2, v);
        CHECK(strtod(other, NULL) != v);
    }
    /* Of those with as many digits it is the nearest. */
    snprintf(other, sizeof other, "%.*e", digits - 1, v);
    CHECK(strtod(other, NULL) != v || digits_of(other) == digits);
    double positive = fabs(v);
    uint64_t bits;
    memcpy(&bits, &positive, sizeof bits);
    num_decimal_t d = num_schubfach(bits);
    char expected[40], digit_text[24];
    snprintf(expected, sizeof expected, "%.*e", digits - 1, fabs(v));
    int k = 0;
    for (const char *p = expected; *p != 'e'; p++)
        if (*p != '.')
            digit_text[k++] = *p;
    digit_text[k] = 0;
    if (strtod(other, NULL) == v)
        CHECK(strtoull(digit_text, NULL, 10) == d.digits);
}

int main(void)
{
    static const double some[] = {0.0, -0.0, 1, -1, 0.1, 0.3, 0.1 + 0.2, 1e15, 1e16, 1e17, 123456789012345678., 1e22, 1e23, 5e-324,
                                  2.2250738585072014e-308, 2.225073858507201e-308, 1.7976931348623157e308, 9007199254740993., 1e-5,
                                  1e-4, 0.001, 9.5e-5, 4.35, 98.76543209876543, 0.99999999999999989, 999999999999999.9, 1.0 / 3};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        check_number(some[i]);
    for (int e = -1074; e < 1024; e++) { /* powers of two, where the interval is lopsided, and their neighbours */
        double v = ldexp(1, e);
        check_number(v);
        check_number(nextafter(v, 0) > 0 ? nextafter(v, 0) : v);
        check_number(nextafter(v, INFINITY) < INFINITY ? nextafter(v, INFINITY) : v);
    }
    for (int round = 0; round < 300000; round++) {
        uint64_t bits = random_next();
        double v;
        memcpy(&v, &bits, sizeof v);
        if (isfinite(v))
            check_number(v);
        check_number((double)(int64_t)(random_next() >> 20) / 1000.0);
        check_number((double)(random_next() >> 11) * 0x1p-53 * 100);
    }
    const struct {
        double v;
        const char *text;
    } forms[] = {{1e17, "1e17"}, {1e16, "10000000000000000"}, {1.5e-7, "1.5e-7"}, {0.00001, "0.00001"}, {-0.0, "-0"},
                 {123456.789, "123456.789"}, {1e300, "1e300"}, {9.5e-5, "0.000095"}, {5e-324, "5e-324"}};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        uint8_t text[NUM_SHORTEST_BYTES + 1];
        text[num_write_shortest(text, forms[i].v)] = 0;
        CHECK(strcmp((const char *)text, forms[i].text) == 0);
    }
    return check_report("num_shortest");
}
