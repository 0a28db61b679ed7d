/* libFuzzer: arbitrary bytes as a stream, cut anywhere, and what must hold however it is cut.
 *
 *   - nothing is read or written out of bounds (ASan, UBSan);
 *   - the pieces give the same bytes and the same counts, by reason, as the whole read at once;
 *   - frames give what their payloads give one by one;
 *   - a stream that is cut off has dropped one line at most that the whole would have had.
 *
 * The first bytes of the input choose the framing, the limit of a line, and where the cuts are. */
#include <stdio.h>

#include "memory_ring.h"
#include "stream.h"

#define FUZZ_BYTES_MAX 4096u
#define FUZZ_HEAD 6u

typedef struct {
    uint8_t *bytes;
    uint64_t length;
    line_counts_t counts;
} outcome_t;

static ring_t *ring;
static line_tags_t *no_tags;
static line_reader_t *reader;

static void require(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "violated: %s\n", what);
        abort();
    }
}

static void begin(uint32_t line_bytes_max)
{
    reader->stamp_ns = 0;
    reader->arrival_ns = 1700000000000000000;
    reader->line_bytes_max = line_bytes_max;
    ring_begin(ring);
}

static void finish(outcome_t *o)
{
    ring_batch_t batch = {0};
    ring_publish(ring);
    o->length = 0;
    o->bytes = NULL;
    if (!ring_take(ring, UINT64_MAX, UINT64_MAX, true, &batch))
        return;
    o->length = batch.length;
    o->bytes = malloc(batch.length);
    memcpy(o->bytes, batch.bytes, batch.length);
    ring_free(ring, &batch);
}

/* The whole, read at once; or frame by frame. */
static outcome_t read_whole(const lane_socket_t *socket, const uint8_t *data, uint32_t n, bool frames)
{
    outcome_t o = {0};
    uint8_t *text = malloc(n + PORT_PADDING);
    begin(socket->line_bytes_max);
    if (n)
        memcpy(text, data, n);
    memset(text + n, 0x5A, PORT_PADDING);
    if (!frames)
        lane_read(reader, socket, text, n, &o.counts);
    uint32_t at = 0;
    while (frames && n - at >= STREAM_FRAME_HEAD) {
        uint32_t length = port_load32(data + at);
        if (length > socket->datagram_bytes_max) {
            o.counts.received++;
            line_drop(&o.counts, DROP_DATAGRAM_TOO_LARGE, 1);
            at = n;
        } else if (length > n - at - STREAM_FRAME_HEAD) {
            break;
        } else {
            lane_read(reader, socket, text + at + STREAM_FRAME_HEAD, length, &o.counts);
            at += STREAM_FRAME_HEAD + length;
        }
    }
    if (frames && at < n) {
        o.counts.received++;
        line_drop(&o.counts, DROP_UNFINISHED, 1);
    }
    free(text);
    finish(&o);
    return o;
}

/* The same as a stream; `seed` says where it is cut. */
static outcome_t read_pieces(const lane_socket_t *socket, const uint8_t *data, uint32_t n, uint32_t seed, bool ends)
{
    outcome_t o = {0};
    stream_t s = {0};
    uint64_t frames = 0;
    stream_state_t state = STREAM_ON;
    begin(socket->line_bytes_max);
    for (uint32_t at = 0; at < n && state == STREAM_ON;) {
        seed = seed * 1664525u + 1013904223u;
        uint32_t most = (seed & 7) == 0 ? 1 : (seed & 7) < 5 ? 16 : 4096;
        uint32_t piece = 1 + (seed >> 8) % most;
        if (piece > n - at)
            piece = n - at;
        uint8_t *text = malloc(STREAM_HELD_MAX + piece + PORT_PADDING);
        uint8_t *p = text + STREAM_HELD_MAX;
        memcpy(p, data + at, piece);
        memset(p + piece, 0x5A, PORT_PADDING);
        state = stream_take(&s, reader, socket, p, piece, &frames, &o.counts);
        for (uint32_t i = 0; i < PORT_PADDING; i++)
            require(p[piece + i] == 0x5A, "what was borrowed is put back");
        require(s.held_bytes <= STREAM_HELD_MAX, "what is held has a limit");
        require(s.framing == STREAM_FRAMES || s.held_bytes < stream_patience(socket), "a line that is held has a limit");
        free(text);
        at += piece;
    }
    if (state == STREAM_ON)
        stream_end(&s, reader, socket, ends, &o.counts);
    stream_forget(&s);
    finish(&o);
    return o;
}

static void require_equal(const outcome_t *a, const outcome_t *b, const char *what)
{
    require(a->length == b->length && (a->length == 0 || memcmp(a->bytes, b->bytes, a->length) == 0), what);
    require(memcmp(&a->counts, &b->counts, sizeof a->counts) == 0, what);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    ring = memory_ring_new(4 << 20, true);
    no_tags = line_tags_new();
    reader = memory_reader_new(scan_has_avx2() ? scan_index_avx2 : scan_index_scalar, no_tags, ring);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < FUZZ_HEAD || size > FUZZ_BYTES_MAX)
        return 0;
    uint8_t flags = data[0];
    uint32_t seed = port_load32(data + 1);
    data += FUZZ_HEAD;
    uint32_t n = (uint32_t)size - FUZZ_HEAD;
    lane_socket_t socket = {.fd = -1, .format = LANE_LINE, .line_bytes_max = flags & 1 ? 64 : LINE_TEXT_MAX,
                            .datagram_bytes_max = flags & 2 ? 40 : LINE_TEXT_MAX, .framed = flags & 4};
    bool frames = socket.framed && n >= STREAM_FRAME_HEAD && data[2] == 0 && data[3] == 0;
    outcome_t whole = read_whole(&socket, data, n, frames);
    outcome_t pieces = read_pieces(&socket, data, n, seed, true);
    require_equal(&whole, &pieces, "pieces and whole agree");
    outcome_t cut = read_pieces(&socket, data, n, seed * 31, false);
    require(cut.counts.accepted + 1 >= whole.counts.accepted, "being cut off costs one line at most");
    require(cut.counts.received == cut.counts.accepted + 0 || cut.counts.any_dropped, "what is not accepted is dropped");
    free(whole.bytes);
    free(pieces.bytes);
    free(cut.bytes);
    return 0;
}
