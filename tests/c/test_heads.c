/* Heads: what is read and written again is the same; what rules put in cannot become structure. */
#include "check.h"
#include "heads.h"

static head_t head;
static uint8_t out[HEAD_BYTES_MAX + 1];

static bool is(const uint8_t *p, uint32_t n, const char *text)
{
    return n == strlen(text) && memcmp(p, text, n) == 0;
}

/* In memory of its exact size, so that ASan sees what is read too far. */
static bool read_head(const char *series, const char *extra)
{
    size_t n = strlen(series), extra_n = strlen(extra);
    uint8_t *a = malloc(n + 1), *b = malloc(extra_n + 1);
    memcpy(a, series, n);
    memcpy(b, extra, extra_n);
    bool good = head_read(&head, a, (uint32_t)n, b, (uint32_t)extra_n);
    free(a);
    free(b);
    return good;
}

static void same(const char *series)
{
    CHECK(read_head(series, ""));
    uint32_t n = head_write(&head, out, sizeof out);
    CHECK(is(out, n, series) && !head.changed);
    CHECK(head_write(&head, out, n) == n);
    for (uint32_t room = 0; room < n; room++) {
        uint8_t *small = malloc(room + 1);
        CHECK(head_write(&head, small, room) == 0);
        free(small);
    }
}

static void test_parts_without_their_escapes(void)
{
    CHECK(read_head("cpu\\ total,host=a,pa\\=th=/user\\,7", ",dc=eu\\ 1,x=y"));
    CHECK(is(head.measurement, head.measurement_length, "cpu total"));
    CHECK(head.count == 4 && head_tags(&head) == 4);
    CHECK(is(head.tags[0].key, head.tags[0].key_length, "host") && is(head.tags[0].value, head.tags[0].value_length, "a"));
    CHECK(is(head.tags[1].key, head.tags[1].key_length, "pa=th") && is(head.tags[1].value, head.tags[1].value_length, "/user,7"));
    CHECK(is(head.tags[2].key, head.tags[2].key_length, "dc") && is(head.tags[2].value, head.tags[2].value_length, "eu 1"));
    CHECK(head_find(&head, (const uint8_t *)"pa=th", 5) == &head.tags[1]);
    CHECK(head_find(&head, (const uint8_t *)"path", 4) == NULL);
    CHECK(is(out, head_write(&head, out, sizeof out), "cpu\\ total,host=a,pa\\=th=/user\\,7,dc=eu\\ 1,x=y"));
}

static void test_written_again_it_is_the_same(void)
{
    same("cpu");
    same("cpu,host=a");
    same("cpu,z=1,a=2,m=3");
    same("a=b,c=d");          /* a measurement has its equals sign without a backslash */
    same("a\\=b,c=d");        /* the backslash is a byte of the name there */
    same("m,t=\\=x");
    same("m,t=a\\\\,b");      /* a backslash, and an escaped comma */
    same("m\\\\ x,t=a\\\\\\ b\\c");
    same("m,t=C:\\dir\\\"x\"");
    same("m,\\,=\\ ,\\==\\,");
    same("\xC3\xA4,t=\xE2\x82\xAC");
}

static void test_random_heads_are_the_same(void)
{
    static const char parts[] = "ab\\, =x/";
    for (uint32_t seed = 1; seed < 20000; seed++) {
        uint64_t x = seed * UINT64_C(0x9E3779B97F4A7C15);
        char text[256];
        uint32_t n = 0, names = 1 + 2 * (seed % 4);
        for (uint32_t name = 0; name < names; name++) {
            if (name)
                text[n++] = name % 2 ? ',' : '=';
            uint32_t bytes = 1 + (uint32_t)(x >> 60) % 6;
            for (uint32_t i = 0; i < bytes; i++) {
                x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
                char c = parts[(x >> 33) % 8];
                if (c == '\\' && i + 1 == bytes)
                    c = 'b';
                if (c == ',' || c == ' ' || (c == '=' && name > 0))
                    text[n++] = '\\';
                else if (c == '=' && n > 0 && text[n - 1] == '\\')
                    c = 'a';
                text[n++] = c;
            }
        }
        text[n] = 0;
        same(text);
    }
}

static void test_what_is_no_head(void)
{
    static const char *const wrong[] = {"", ",a=b", "m,", "m,a", "m,a=", "m,=b", "m,a=b,", "m,a=b,c"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(!read_head(wrong[i], ""));
    CHECK(!read_head("m", "a=b") && !read_head("m", ",a"));
}

static void test_many_tags_and_much_text(void)
{
    static char text[65536 + 16];
    char *at = text;
    *at++ = 'm';
    for (uint32_t i = 0; i < 6000; i++)
        at += sprintf(at, ",k%04u=v", i);
    same("m");
    CHECK(read_head(text, "") && head.count == 6000);
    CHECK(is(out, head_write(&head, out, sizeof out), text));
    memset(text, ',', 65535);
    for (uint32_t i = 0; i < 65535; i += 2)
        text[i] = '\\';
    text[65534] = 'x';
    text[65535] = 0;
    CHECK(read_head(text, "") && head.measurement_length == 32768);
    CHECK(is(out, head_write(&head, out, sizeof out), text));
    head.measurement = head_text(&head, head.measurement, head.measurement_length);
    CHECK(head.measurement != NULL && head_write(&head, out, sizeof out) == 65535);
    /* Behind HEAD_BYTES_MAX nothing is written, whatever the room. */
    head_tag_t *tag = head_tag_next(&head);
    *tag = (head_tag_t){.key = (const uint8_t *)"k", .value = (const uint8_t *)"v", .key_length = 1, .value_length = 1};
    CHECK(head_write(&head, out, sizeof out) == 0);
    uint32_t texts = 0;
    while (head_text(&head, (const uint8_t *)text, 65535) != NULL)
        texts++;
    CHECK(texts >= 3 && texts < 7 && head.used <= HEAD_TEXT_BYTES);
}

static void test_changes(void)
{
    CHECK(read_head("http,path=/a,host=x,id=7", ""));
    head_tag_t *id = head_find(&head, (const uint8_t *)"id", 2), *path = head_find(&head, (const uint8_t *)"path", 4);
    head_set(&head, path, head_text(&head, (const uint8_t *)"/a", 2), 2);
    CHECK(!head.changed);
    head_set(&head, path, head_text(&head, (const uint8_t *)"/a b\\", 5), 5);
    head_set(&head, id, NULL, 0);
    CHECK(head.changed && head_tags(&head) == 2 && head_find(&head, (const uint8_t *)"id", 2) == NULL);
    CHECK(head_add(&head, head_text(&head, (const uint8_t *)"n=", 2), 2, head_text(&head, (const uint8_t *)"1\n2", 3), 3));
    CHECK(head_add(&head, (const uint8_t *)"empty", 5, (const uint8_t *)"", 0));
    CHECK(is(out, head_write(&head, out, sizeof out), "http,path=/a\\ b/,host=x,n\\==1_2"));
}

static void test_no_text_becomes_structure(void)
{
    static const char bytes[] = "\\\\,= \"\n\x7F" "ab";
    for (uint32_t seed = 0; seed < 10000; seed++) {
        uint8_t text[5];
        uint32_t x = seed;
        for (uint32_t i = 0; i < 4; i++, x /= 10)
            text[i] = (uint8_t)bytes[x % 10];
        CHECK(read_head("m,a=b,c=d", ""));
        head_set(&head, &head.tags[0], head_text(&head, text, 4), 4);
        head.measurement = head_text(&head, text, 4);
        head.measurement_length = 4;
        uint8_t wanted[4];
        memcpy(wanted, head.measurement, 4);
        uint32_t n = head_write(&head, out, sizeof out - 1);
        out[n] = 0;
        CHECK(read_head((const char *)out, ""));
        CHECK(head.count == 2 && head.measurement_length == 4 && memcmp(head.measurement, wanted, 4) == 0);
        CHECK(head.tags[0].value_length == 4 && memcmp(head.tags[0].value, wanted, 4) == 0);
        CHECK(is(head.tags[1].value, head.tags[1].value_length, "d"));
    }
}

static uint64_t identity(const char *series)
{
    CHECK(read_head(series, ""));
    return head_identity(&head, &mix_fixed);
}

static void test_identity(void)
{
    uint64_t one = identity("cpu,host=a,dc=eu");
    CHECK(identity("cpu,dc=eu,host=a") == one && identity("cpu,host=a,dc=eu") == one);
    static const char *const others[] = {"cpu", "cpu,host=a", "cpu,dc=eu", "cpu2,host=a,dc=eu", "cpu,host=eu,dc=a",
                                         "cpu,hosta=a,dc=eu", "cpu,host=a,dce=u", "cpu\\,host\\=a,dc=eu"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        CHECK(identity(others[i]) != one);
    /* A tag that is gone does not count, one that was added does. */
    CHECK(read_head("cpu,host=a,x=1", ""));
    head_set(&head, &head.tags[1], NULL, 0);
    CHECK(head_add(&head, head_text(&head, (const uint8_t *)"dc", 2), 2, head_text(&head, (const uint8_t *)"eu", 2), 2));
    CHECK(head_identity(&head, &mix_fixed) == one);
}

int main(void)
{
    if (!head_open(&head))
        return 1;
    test_parts_without_their_escapes();
    test_written_again_it_is_the_same();
    test_random_heads_are_the_same();
    test_what_is_no_head();
    test_many_tags_and_much_text();
    test_changes();
    test_no_text_becomes_structure();
    test_identity();
    head_close(&head);
    return check_report("heads");
}
