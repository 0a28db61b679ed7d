/* Captures: what came is read once, whole and in order, or its loss is told; with one thread, with several writers one after
 * the other, and with a writer at full speed beside the reader. */
#include <pthread.h>
#include <string.h>

#include "capture.h"
#include "check.h"

static uint64_t state = 88172645463325252u;

static uint32_t draw(uint32_t below)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 33) % below;
}

static uint8_t everybody[CAPTURE_LISTENERS];
static uint8_t text[4 << 20];

static capture_t *capture_new(uint64_t bytes)
{
    capture_t *c = aligned_alloc(CACHE_LINE, (sizeof *c + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    memset(c, 0, sizeof *c);
    if (capture_open(c, bytes))
        abort();
    return c;
}

static void capture_free(capture_t *c)
{
    capture_close(c);
    free(c);
}

static burst_t *burst_new(void)
{
    burst_t *b = calloc(1, sizeof *b);
    if (b == NULL || burst_open(b, -1, NULL, 0))
        abort();
    for (uint32_t i = 0; i < BURST_MESSAGES; i++)
        b->header->messages[i].msg_hdr.msg_controllen = 0;
    return b;
}

static void burst_free(burst_t *b)
{
    burst_close(b);
    free(b);
}

/* Message i of a burst: `length` bytes, of datagrams of `segment` bytes that were glued together; 0: it is one. */
static uint8_t *put_message(burst_t *b, uint32_t i, uint32_t length, int segment)
{
    struct msghdr *m = &b->header->messages[i].msg_hdr;
    b->header->messages[i].msg_len = length;
    m->msg_controllen = 0;
    if (segment) {
        m->msg_controllen = CMSG_SPACE(sizeof segment);
        struct cmsghdr *c = CMSG_FIRSTHDR(m);
        c->cmsg_level = SOL_UDP;
        c->cmsg_type = UDP_GRO;
        c->cmsg_len = CMSG_LEN(sizeof segment);
        memcpy(CMSG_DATA(c), &segment, sizeof segment);
    }
    return b->buffers + (size_t)i * BURST_STRIDE;
}

static capture_block_t block_of(uint64_t room)
{
    return (capture_block_t){.numbers = everybody, .since_ns = 0, .until_ns = INT64_MAX, .most = UINT64_MAX, .to = text, .room = room};
}

/* ---- a block taken apart ---- */

typedef struct {
    const uint8_t *p, *end;
    int64_t arrival_ns;
} cursor_t;

static uint64_t read_varint(cursor_t *c)
{
    uint64_t value = 0;
    for (uint32_t shift = 0;; shift += 7) {
        uint8_t byte = *c->p++;
        value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80)
            return value;
    }
}

static const uint8_t *read_datagram(cursor_t *c, uint32_t *listener, uint32_t *length)
{
    uint64_t after = read_varint(c);
    c->arrival_ns += (int64_t)(after >> 1) ^ -(int64_t)(after & 1);
    *listener = (uint32_t)read_varint(c);
    *length = (uint32_t)read_varint(c);
    const uint8_t *p = c->p;
    c->p += *length;
    return p;
}

/* ---- one thread ---- */

#define SENT_MAX 200000u

static struct { int64_t arrival_ns; uint32_t at; uint16_t length; uint8_t listener; } sent[SENT_MAX];
static uint8_t sent_bytes[64 << 20];
static uint32_t sent_count, sent_used;

/* A burst of random messages, which are noted. */
static void random_burst(burst_t *b, capture_t *c, int64_t arrival_ns)
{
    uint32_t n = 1 + draw(BURST_MESSAGES);
    uint16_t listener = (uint16_t)draw(4);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t length = draw(10) ? draw(1500) : draw(20) ? 0 : BURST_MESSAGE_BYTES - 1;
        int segment = length && draw(2) ? 1 + (int)draw(length < 1000 ? 300 : 3000) : 0;
        uint8_t *p = put_message(b, i, length, segment);
        for (uint32_t k = 0; k < length; k++)
            p[k] = (uint8_t)draw(256);
        memcpy(sent_bytes + sent_used, p, length);
        uint32_t at = 0;
        do {
            uint32_t bytes = segment && length - at > (uint32_t)segment ? (uint32_t)segment : length - at;
            sent[sent_count].arrival_ns = arrival_ns;
            sent[sent_count].at = sent_used + at;
            sent[sent_count].length = (uint16_t)bytes;
            sent[sent_count++].listener = (uint8_t)listener;
            at += bytes;
        } while (at < length);
        sent_used += length;
    }
    capture_burst(c, listener, b, n, arrival_ns);
}

static void check_block(const capture_block_t *b, uint32_t *next, uint32_t skipped_listener)
{
    cursor_t c = {b->to, b->to + b->length, b->first_ns};
    uint64_t datagrams = 0;
    while (c.p < c.end) {
        uint32_t listener, length;
        const uint8_t *p = read_datagram(&c, &listener, &length);
        while (sent[*next].listener == skipped_listener)
            ++*next;
        bool same = sent[*next].arrival_ns == c.arrival_ns && sent[*next].length == length && listener == sent[*next].listener + 10u &&
                    memcmp(p, sent_bytes + sent[*next].at, length) == 0;
        if (!same)
            CHECK(same);
        ++*next;
        datagrams++;
    }
    CHECK(c.p == c.end && datagrams == b->datagrams && c.arrival_ns == b->last_ns);
}

static void test_what_came_is_read_as_it_came(void)
{
    for (uint32_t turn = 0; turn < 12; turn++) {
        capture_t *c = capture_new(CAPTURE_BYTES_MIN);
        burst_t *b = burst_new();
        uint32_t skipped = turn % 3 == 2 ? 1 : 99, next = 0;
        for (uint32_t i = 0; i < CAPTURE_LISTENERS; i++)
            everybody[i] = i == skipped ? CAPTURE_UNWANTED : (uint8_t)(i + 10);
        capture_rewind(c, false);
        sent_count = sent_used = 0;
        for (uint32_t round = 0; round < 60; round++) {
            random_burst(b, c, 1000000 + (int64_t)round * 1000 - (int64_t)draw(3000)); /* the clock goes back now and then */
            if (draw(4) && round < 59)
                continue;
            capture_block_t block = block_of(draw(2) ? sizeof text : BURST_MESSAGE_BYTES + CAPTURE_RECORD_BYTES);
            block.most = draw(2) ? UINT64_MAX : 1 + draw(50);
            while (capture_take(&c, 1, &block)) {
                CHECK(block.datagrams <= block.most && block.length <= block.room);
                check_block(&block, &next, skipped);
            }
            CHECK(block.length == 0 && capture_waiting(c) == 0);
        }
        while (next < sent_count && sent[next].listener == skipped)
            next++;
        CHECK(next == sent_count && c->missed == 0 && counter_get(&c->came) == sent_count);
        burst_free(b);
        capture_free(c);
    }
    for (uint32_t i = 0; i < CAPTURE_LISTENERS; i++)
        everybody[i] = (uint8_t)i;
}

/* Numbered datagrams of eight bytes. */
static void numbered_burst(burst_t *b, capture_t *c, uint64_t *number, uint32_t n, int64_t arrival_ns)
{
    for (uint32_t i = 0; i < n; i++, ++*number)
        memcpy(put_message(b, i, 8, 0), number, 8);
    capture_burst(c, 0, b, n, arrival_ns);
}

/* The oldest go, and how many is told exactly. */
static void test_a_reader_that_is_lapped_knows_what_it_missed(void)
{
    capture_t *c = capture_new(CAPTURE_SEGMENTS * 4096);
    burst_t *b = burst_new();
    uint64_t number = 0, seen = 0, last = 0;
    capture_rewind(c, false);
    for (uint32_t round = 0; round < 5000; round++) {
        numbered_burst(b, c, &number, 1 + draw(BURST_MESSAGES), 1000 + round);
        if (draw(200) != 0 && round != 4999)
            continue;
        capture_block_t block = block_of(sizeof text);
        while (capture_take(&c, 1, &block)) {
            cursor_t at = {text, text + block.length, block.first_ns};
            while (at.p < at.end) {
                uint32_t listener, length;
                uint64_t found;
                memcpy(&found, read_datagram(&at, &listener, &length), 8);
                if (!(length == 8 && (seen == 0 || found > last)))
                    CHECK(!"a datagram twice, or in pieces");
                last = found;
                seen++;
            }
        }
        CHECK(seen + c->missed == number);
    }
    CHECK(c->missed > 1000 && seen > 1000);
    /* What is there still, from its oldest on, is the end of it without a gap. */
    capture_rewind(c, true);
    capture_block_t block = block_of(sizeof text);
    CHECK(capture_take(&c, 1, &block) && c->missed == 0);
    CHECK(block.length > 14 * 4096 / 2 && !capture_take(&c, 1, &(capture_block_t){.numbers = everybody, .until_ns = INT64_MAX, .most = 1, .to = text, .room = sizeof text}));
    /* And from an arrival on. */
    capture_rewind(c, true);
    block = block_of(sizeof text);
    block.since_ns = 1000 + 4990;
    CHECK(capture_take(&c, 1, &block) && block.first_ns == block.since_ns && block.last_ns == 5999);
    burst_free(b);
    capture_free(c);
}

static void test_what_is_larger_than_a_segment_is_missed_and_no_more(void)
{
    capture_t *c = capture_new(CAPTURE_SEGMENTS * 4096);
    burst_t *b = burst_new();
    capture_rewind(c, false);
    for (uint32_t round = 0; round < 100; round++) {
        for (uint32_t i = 0; i < 3; i++)
            memset(put_message(b, i, i == 1 ? 60000 : 10, i == 1 ? 6000 : 0), (int)round, i == 1 ? 60000 : 10);
        capture_burst(c, 0, b, 3, 1000 + round);
        capture_block_t block = block_of(sizeof text);
        CHECK(capture_take(&c, 1, &block) && block.datagrams == 2 && block.length == 2 * (3 + 10));
    }
    CHECK(c->missed == 1000 && counter_get(&c->came) == 1200);
    burst_free(b);
    capture_free(c);
}

static void test_a_reader_that_is_in_a_segment_is_not_overwritten(void)
{
    capture_t *c = capture_new(CAPTURE_SEGMENTS * 4096);
    burst_t *b = burst_new();
    uint64_t number = 0;
    capture_head_t head;
    capture_rewind(c, false);
    numbered_burst(b, c, &number, 4, 1);
    const uint8_t *piece = capture_pin(c, &head);
    CHECK(piece != NULL && head.messages == 4 && head.number == 0);
    for (uint32_t round = 0; round < 1000; round++)
        numbered_burst(b, c, &number, 64, 2);
    for (uint64_t i = 0; i < 4; i++)
        CHECK(memcmp(piece + 16 * i + 8, &i, 8) == 0);
    CHECK(c->generation == CAPTURE_SEGMENTS); /* it came round to it, and no further */
    capture_unpin(c);
    numbered_burst(b, c, &number, 1, 3);
    CHECK(c->generation == CAPTURE_SEGMENTS + 1);
    uint64_t seen = 0;
    capture_block_t block = block_of(sizeof text);
    while (capture_take(&c, 1, &block))
        seen += block.datagrams;
    CHECK(seen + c->missed == number && block.last_ns != 2);
    burst_free(b);
    capture_free(c);
}

static void test_several_are_read_in_the_order_of_arrival(void)
{
    capture_t *captures[3];
    burst_t *b = burst_new();
    uint64_t number = 0, seen = 0;
    int64_t last = 0;
    for (uint32_t i = 0; i < 3; i++)
        capture_rewind(captures[i] = capture_new(CAPTURE_BYTES_MIN), false);
    for (uint32_t round = 0; round < 300; round++)
        numbered_burst(b, captures[draw(3)], &number, 1 + draw(64), round);
    for (int64_t until = 0; until <= 310; until += 10) {
        capture_block_t block = block_of(BURST_MESSAGE_BYTES + CAPTURE_RECORD_BYTES);
        block.until_ns = until;
        while (capture_take(captures, 3, &block)) {
            cursor_t at = {text, text + block.length, block.first_ns};
            for (; at.p < at.end; seen++) {
                uint32_t listener, length;
                uint64_t found;
                memcpy(&found, read_datagram(&at, &listener, &length), 8);
                if (!(found == seen && at.arrival_ns >= last && at.arrival_ns < until))
                    CHECK(!"out of order");
                last = at.arrival_ns;
            }
        }
    }
    CHECK(seen == number);
    for (uint32_t i = 0; i < 3; i++)
        capture_free(captures[i]);
    burst_free(b);
}

/* ---- a writer at full speed ---- */

#define RACE 3000000u

static capture_t *shared;
static _Atomic bool over;

/* Datagrams of differing length, which all bear their number and bytes that follow from it. */
static void *write_on(void *unused)
{
    burst_t *b = burst_new();
    uint64_t number = 0;
    for (uint32_t round = 0; number < RACE; round++) {
        uint32_t n = 1 + round % BURST_MESSAGES;
        for (uint32_t i = 0; i < n; i++, number++) {
            uint32_t length = 8 + (uint32_t)(number % 93);
            uint8_t *p = put_message(b, i, length, 0);
            memcpy(p, &number, 8);
            memset(p + 8, (int)(number & 0xFF), length - 8);
        }
        capture_burst(shared, 0, b, n, round);
    }
    burst_free(b);
    over = true;
    return unused;
}

static void test_a_writer_at_full_speed(void)
{
    shared = capture_new(CAPTURE_SEGMENTS * 16384);
    capture_rewind(shared, false);
    pthread_t writer;
    pthread_create(&writer, NULL, write_on, NULL);
    uint64_t seen = 0, next = 0;
    for (bool last = false; !last;) {
        last = over;
        capture_block_t block = block_of(BURST_MESSAGE_BYTES + CAPTURE_RECORD_BYTES);
        while (capture_take(&shared, 1, &block)) {
            cursor_t at = {text, text + block.length, block.first_ns};
            for (; at.p < at.end; seen++) {
                uint32_t listener, length;
                uint64_t found;
                const uint8_t *p = read_datagram(&at, &listener, &length);
                memcpy(&found, p, 8);
                bool good = found >= next && length == 8 + found % 93;
                for (uint32_t k = 8; k < length && good; k++)
                    good = p[k] == (uint8_t)found;
                if (!good)
                    CHECK(!"not as it came");
                next = found + 1;
            }
        }
    }
    pthread_join(writer, NULL);
    uint64_t came = counter_get(&shared->came);
    CHECK(came >= RACE && seen + shared->missed == next && next <= came && seen > 0);
    capture_free(shared);
}

int main(void)
{
    test_what_came_is_read_as_it_came();
    test_a_reader_that_is_lapped_knows_what_it_missed();
    test_what_is_larger_than_a_segment_is_missed_and_no_more();
    test_a_reader_that_is_in_a_segment_is_not_overwritten();
    test_several_are_read_in_the_order_of_arrival();
    test_a_writer_at_full_speed();
    return check_report("capture");
}
