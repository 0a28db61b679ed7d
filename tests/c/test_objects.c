/* Points built from any names and strings are lines that the reader takes as they stand, and as many as were built. */
#include "check.h"
#include "json_split.h"
#include "memory_ring.h"
#include "objects.h"
#include "utf8.h"

static uint64_t random_state = 0x2545F4914F6CDD1D;

static uint32_t random_below(uint32_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 33) % n);
}

/* Text of few letters and many bytes that mean something, well-formed; in memory of its own, so that ASan sees any byte
 * that is read behind it. */
static uint8_t *random_text(uint32_t *n, uint32_t most)
{
    static const char *const pieces[] = {"a", "b", ",", "=", " ", "\\", "\"", "\n", "\t", "#", "time", "abcdefghijk", "\xc3\xa9",
                                         "\xe2\x82\xac", "\x01", "0", "_field", "\x7f", "\r", "ab", "cd", "e", "f", "g"};
    uint8_t text[4096];
    *n = 0;
    uint32_t odd = random_below(4) ? 4 : 24; /* most texts are plain ones */
    for (uint32_t i = random_below(most + 1); i > 0; i--) {
        const char *piece = pieces[odd == 24 ? random_below(24) : 19 + random_below(5)];
        memcpy(text + *n, piece, strlen(piece));
        *n += (uint32_t)strlen(piece);
    }
    uint8_t *copy = malloc(*n ? *n : 1);
    memcpy(copy, text, *n);
    return copy;
}

static drop_t add_field(objects_t *p, const uint8_t *key, uint32_t n)
{
    uint32_t length;
    uint8_t *text;
    uint64_t bits = (uint64_t)random_below(UINT32_MAX) << 32 | random_below(UINT32_MAX);
    double number;
    drop_t reason;
    switch (random_below(6)) {
    case 0:
        return objects_integer(p, key, n, (int64_t)bits, random_below(2));
    case 1:
        return objects_unsigned(p, key, n, bits | UINT64_C(1) << 63, random_below(2));
    case 2:
        memcpy(&number, &bits, sizeof number);
        return objects_float(p, key, n, number);
    case 3:
        return objects_boolean(p, key, n, random_below(2));
    default:
        text = random_text(&length, 12);
        reason = objects_string(p, key, n, text, length);
        free(text);
        return reason;
    }
}

/* Builds one point; true if it is one. */
static bool build_random(objects_t *p)
{
    uint32_t n, m;
    uint8_t *key = random_text(&n, 8), *value;
    objects_begin(p);
    drop_t reason = objects_measurement(p, key, n);
    free(key);
    for (uint32_t tags = random_below(5); tags > 0 && reason == DROP_NONE; tags--) {
        key = random_text(&n, 5);
        value = random_text(&m, 9);
        reason = objects_tag(p, key, n, value, m);
        p->altered_tag = true; /* here keys are not from a mapping, and may be there twice */
        free(key);
        free(value);
    }
    if (reason == DROP_NONE)
        reason = objects_fields(p);
    for (uint32_t fields = random_below(5); fields > 0 && reason == DROP_NONE; fields--) {
        key = random_text(&n, 5);
        reason = add_field(p, key, n);
        p->altered_field = true;
        free(key);
    }
    int64_t time = (int64_t)random_below(UINT32_MAX) - 1000;
    if (reason == DROP_NONE)
        reason = objects_end(p, random_below(8) ? &time : NULL);
    if (reason != DROP_NONE)
        objects_refuse(p, reason, random_below(2) ? NULL : (const uint8_t *)"refused", 7);
    return reason == DROP_NONE;
}

static void test_random_points(void)
{
    line_tags_t *none = line_tags_new(), *some = line_tags_new();
    line_tags_add(some, (const uint8_t *)"ab", 2, (const uint8_t *)"x", 1);
    line_tags_add(some, (const uint8_t *)"dc", 2, (const uint8_t *)"eu1", 3);
    ring_t *ring = memory_ring_new(1 << 22, RING_LP), *again = memory_ring_new(1 << 22, RING_LP);
    line_reader_t *writer = memory_reader_new(scan_index_scalar, some, ring);
    line_reader_t *reader = memory_reader_new(scan_index_scalar, none, again);
    objects_t points = {0};
    uint64_t good_in_all = 0;
    for (int round = 0; round < 4000; round++) {
        uint32_t built = 1 + random_below(40), good = 0;
        for (uint32_t i = 0; i < built; i++)
            good += build_random(&points);
        line_counts_t counts = {0}, back;
        writer->arrival_ns = 1700000000000000000 + round;
        ring_begin(ring);
        objects_emit(&points, writer, &counts);
        ring_publish(ring);
        CHECK(points.count == 0 && points.used == 0 && points.tag_count == 0);
        CHECK(counts.received == built);
        CHECK(counts.accepted == good);
        uint64_t dropped = 0;
        for (int i = 0; i < DROP_REASONS; i++)
            dropped += counts.dropped[i];
        CHECK(dropped == built - good);
        ring_batch_t batch;
        if (!ring_take(ring, UINT64_MAX, UINT64_MAX, true, &batch)) {
            CHECK(good == 0);
            continue;
        }
        ring_batch_t read = memory_read(reader, batch.bytes, (uint32_t)batch.length, &back);
        CHECK(back.received == good && back.accepted == good && back.rewritten == 0);
        CHECK(read.length == batch.length && memcmp(read.bytes, batch.bytes, batch.length) == 0);
        ring_free(ring, &batch);
        good_in_all += good;
    }
    CHECK(good_in_all > 10000);
    objects_free(&points);
    memory_reader_free(writer);
    memory_reader_free(reader);
    memory_ring_free(ring);
    memory_ring_free(again);
    line_tags_free(none);
    line_tags_free(some);
}

/* A name that only the byte-by-byte path sees is written as the other would. */
static void test_the_two_paths_agree(void)
{
    for (int round = 0; round < 100000; round++) {
        uint32_t n;
        uint8_t *text = random_text(&n, 10);
        uint8_t *one = malloc(2 * n + 8), *other = malloc(2 * n + 8), *end = one, *other_end = other;
        line_name_t kind = (line_name_t)random_below(3);
        bool altered = false, other_altered = false;
        drop_t reason = object_name_put(&end, text, n, kind, &altered);
        CHECK(object_name_escape(&other_end, text, n, kind, &other_altered) == reason);
        CHECK(altered == other_altered);
        if (reason == DROP_NONE)
            CHECK(end - one == other_end - other && memcmp(one, other, (size_t)(end - one)) == 0);
        free(text);
        free(one);
        free(other);
    }
}

/* One byte that is none of ASCII is seen wherever it stands, and so is one that may not stand in a name. */
static void test_every_byte_of_a_text_is_looked_at(void)
{
    for (size_t n = 0; n < 40; n++) {
        uint8_t *text = malloc(n ? n : 1), out[88], *to = out;
        bool altered = false;
        memset(text, 'a', n);
        CHECK(utf8_valid(text, n));
        CHECK(object_name_put(&to, text, n, NAME_TAG, &altered) == DROP_NONE);
        CHECK((size_t)(to - out) == n && memcmp(out, text, n) == 0);
        for (size_t i = 0; i < n; i++) {
            text[i] = 0xFF;
            CHECK(!utf8_valid(text, n));
            text[i] = 0x01;
            CHECK(utf8_valid(text, n));
            CHECK(object_name_put(&to, text, n, NAME_TAG, &altered) == DROP_CONTROL_CHARACTER);
            text[i] = (uint8_t)('b' + i % 20);
            uint64_t word = 0;
            memcpy(&word, text, n < 8 ? n : 0);
            CHECK(n >= 8 || port_load_short(text, n) == word);
        }
        free(text);
    }
}

/* Whatever the text is, the pieces follow each other, and nothing but blanks is between them. */
static void test_pieces_of_json_cover_the_text(void)
{
    for (int round = 0; round < 200000; round++) {
        static const char bytes[] = "{}[]\"\\\n\n ,:a1";
        size_t n = random_below(60);
        uint8_t *text = malloc(n ? n : 1);
        for (size_t i = 0; i < n; i++)
            text[i] = (uint8_t)bytes[random_below(sizeof bytes - 1)];
        json_split_t split = {.p = text, .n = n};
        size_t at = 0, start, end;
        while (json_split_next(&split, &start, &end)) {
            CHECK(start >= at && end > start && end <= n && !json_blank(text[start]));
            for (; at < start; at++)
                CHECK(json_blank(text[at]));
            at = end;
        }
        for (; at < n; at++)
            CHECK(json_blank(text[at]));
        free(text);
    }
}

int main(void)
{
    test_pieces_of_json_cover_the_text();
    test_random_points();
    test_the_two_paths_agree();
    test_every_byte_of_a_text_is_looked_at();
    return check_report("objects");
}
