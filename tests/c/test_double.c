/* Text to double: the same bits as strtod, which rounds correctly, for numbers of every kind. */
#include "check.h"
#include "num.h"

static uint64_t random_state = 0x9E3779B97F4A7C15;

static uint64_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void check_text(const char *text)
{
    size_t n = strlen(text);
    uint8_t padded[512];
    memset(padded, '7', sizeof padded); /* digits behind the number are none of it */
    memcpy(padded, text, n);
    double expected = strtod(text, NULL), found = 1;
    CHECK(num_check_float(padded, n) != NUM_BAD);
    CHECK(num_read_double(padded, n, &found));
    if (memcmp(&expected, &found, sizeof found) != 0) {
        fprintf(stderr, "%s: %a instead of %a\n", text, found, expected);
        CHECK(false);
    }
}

static void test_chosen(void)
{
    static const char *const texts[] = {
        "0", "-0", "0.0", "-0.0", "00", "0.1", "1.", ".5", "-.5", "1.e5", "1e5", "1E+5", "1e-5", "123456789012345678901234567890",
        "0.000000000000000000000000000000000001", "9007199254740992", "9007199254740993", "9007199254740993.0", "9007199254740992.5",
        "9007199254740993.00000000000000000000001", "18446744073709551615", "18446744073709551616", "1.7976931348623157e308",
        "4.9406564584124654e-324", "2.4703282292062327e-324", "2.2250738585072011e-308", "1e-400", "1e22", "1e23", "8.5e22",
        "9223372036854775807", "0.30000000000000004", "1234567.12345678", "12345678.1", "1234567.123456789", "1234567.", "7", "77",
        "1e0000000000000000005", "000000000000000000000000000000000000001.5", "1e99999999", "0e99999999",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (strcmp(texts[i], "1e99999999") != 0) /* out of range, and so none that is read */
            check_text(texts[i]);
    char text[400];
    for (int n = 1; n < 300; n++) {
        memset(text, '9', (size_t)n);
        text[n] = 0;
        check_text(text);
        snprintf(text, sizeof text, "0.%0*d", n, 1);
        check_text(text);
    }
}

static void test_random(void)
{
    for (int round = 0; round < 600000; round++) {
        char text[80];
        uint64_t w = random_next() >> random_next() % 64;
        switch (random_next() % 5) {
        case 0: { /* doubles as they are printed */
            double v;
            uint64_t bits = random_next();
            memcpy(&v, &bits, sizeof v);
            if (v - v != 0)
                continue;
            snprintf(text, sizeof text, "%.*g", (int)(random_next() % 20) + 1, v);
            break;
        }
        case 1: /* plain */
            snprintf(text, sizeof text, "%s%llu.%0*llu", random_next() % 2 ? "-" : "", (unsigned long long)(w % 1000000000),
                     (int)(random_next() % 12) + 1, (unsigned long long)(random_next() % 1000));
            break;
        case 2: /* with an exponent near the limits of the fast ways */
            snprintf(text, sizeof text, "%llue%d", (unsigned long long)w, (int)(random_next() % 60) - 30);
            break;
        case 3: { /* halfway between two doubles, and next to that */
            uint64_t half = (UINT64_C(1) << 53 | w >> 11) << 1 | 1;
            snprintf(text, sizeof text, "%llu%s", (unsigned long long)half, random_next() % 2 ? "" : random_next() % 2 ? ".0" : ".00001");
            break;
        }
        default:
            snprintf(text, sizeof text, "%llu", (unsigned long long)w);
            size_t n = strlen(text), at = random_next() % n;
            memmove(text + at + 1, text + at, n - at + 1);
            text[at] = '.';
        }
        if (strchr(text, 'e') != NULL && num_check_float((const uint8_t *)text, strlen(text)) == NUM_BAD)
            continue;
        check_text(text);
    }
}

int main(void)
{
    test_chosen();
    test_random();
    return check_report("double");
}
