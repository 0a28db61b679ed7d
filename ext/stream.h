/* Lines from a stream: cut where they really end, however the bytes come in pieces.
 *
 * Whole lines are read where they lie. The rest of a piece, a line whose end has not come, is held until it does; a
 * stream that holds nothing has no memory of its own.
 *
 *   piece 1   cpu v=1 LF cpu v=2 LF cpu v        read 2 lines, hold `cpu v`
 *   piece 2   =3 LF                              read `cpu v=3 LF`
 *
 * How the stream is cut into pieces changes nothing: what is read, and what is dropped for which reason, is what the
 * whole text would give as one datagram. For a quoted string with line feeds in it that takes a look ahead, of
 * STREAM_LINE_MAX bytes from the line's start at most: a quote that is not closed by then was never meant to be one, and
 * the line ends at its first LF.
 *
 * DogStatsD's framing is told by the first four bytes: a length below 65,536 has two zero bytes at its end, and no text has
 * those there.
 *
 *   0C 00 00 00 | page.views:1|c      length, little-endian; payload: what would be one datagram
 *
 * https://docs.datadoghq.com/developers/dogstatsd/unix_socket/
 */
#ifndef PENSTOCK_STREAM_H
#define PENSTOCK_STREAM_H

#include "lane_socket.h"

#define STREAM_LINE_MAX (LINE_TEXT_MAX + 1) /* the longest line with its LF, bytes */
#define STREAM_FRAME_HEAD 4u
#define STREAM_HELD_MAX (LINE_TEXT_MAX + STREAM_FRAME_HEAD) /* of one stream, bytes */

typedef enum { STREAM_UNDECIDED, STREAM_TEXT, STREAM_FRAMES } stream_framing_t;

/* One connection's text. All zero at its start. */
typedef struct {
    uint8_t *held; /* owned: where a line or frame begins whose end has not come; NULL: nothing is held */
    uint32_t held_bytes, held_room;
    uint32_t frame_bytes; /* of the frame that is held, or of its head if that has not come */
    line_end_t end;       /* how far the held line has been looked at */
    uint8_t framing;      /* stream_framing_t */
    bool skipping;        /* what comes up to the next LF belongs to a line that was too long */
    bool passed;          /* a line or frame has ended since this was last cleared */
} stream_t;

typedef enum { STREAM_ON, STREAM_BAD_FRAME, STREAM_NO_MEMORY } stream_state_t;

/* ---- what is held ---- */

static inline void stream_forget(stream_t *s)
{
    free(s->held);
    s->held = NULL;
    s->held_bytes = s->held_room = 0;
    s->end = (line_end_t){0};
}

/* Whether the stream is inside a line or frame. */
static inline bool stream_holds(const stream_t *s)
{
    return s->held_bytes > 0 || s->skipping;
}

static inline bool stream_hold(stream_t *s, const uint8_t *p, uint32_t n)
{
    if (n == 0)
        return true;
    if (s->held_bytes + n > s->held_room) {
        uint32_t room = s->held_room ? s->held_room : 64;
        while (room < s->held_bytes + n)
            room *= 2;
        uint8_t *held = realloc(s->held, room + PORT_PADDING);
        if (held == NULL)
            return false;
        s->held = held;
        s->held_room = room;
    }
    memcpy(s->held + s->held_bytes, p, n);
    s->held_bytes += n;
    return true;
}

/* ---- text ---- */

/* The number of bytes up to the last LF, that included. */
static inline uint32_t stream_whole(const uint8_t *p, uint32_t n)
{
    const uint8_t *lf = memrchr(p, '\n', n);
    return lf ? (uint32_t)(lf - p) + 1 : 0;
}

/* Counts a line that is too long and whose LF has not come; the rest of it will be skipped. */
static inline void stream_drop_long(stream_t *s, line_reader_t *reader, const lane_socket_t *socket, const uint8_t *p, uint32_t n,
                                    line_counts_t *counts)
{
    uint32_t at = line_skip_blanks((line_text_t){p, n}, 0);
    s->skipping = true;
    if (socket->format == LANE_LINE && at < n && p[at] == '#')
        return;
    counts->received++;
    line_drop(counts, DROP_LINE_TOO_LONG, 1);
    line_keep_sample(reader, p, n, DROP_LINE_TOO_LONG);
}

/* Reads the lines of line protocol in p[0..n) that have ended; s->end is how far the first one has been looked at.
 * Returns where the first one begins that has not. */
static inline uint32_t stream_read_lines(stream_t *s, line_reader_t *reader, const lane_socket_t *socket, uint8_t *p, uint32_t n,
                                         line_counts_t *counts)
{
    uint32_t at = 0, read = 0; /* before `read` all is read, before `at` all is safe to read as it is */
    line_end_t end = s->end;
    s->end = (line_end_t){0};
    for (;;) {
        if (end.part == LINE_AT_START) {
            /* Lines without quotes end at their LF, and there is no need to look at each. */
            const uint8_t *quote = memchr(p + at, '"', n - at);
            at += stream_whole(p + at, quote ? (uint32_t)(quote - p) - at : n - at);
            if (quote == NULL)
                break;
            end = (line_end_t){0};
        }
        uint32_t seen = n - at < STREAM_LINE_MAX ? n - at : STREAM_LINE_MAX;
        if (line_end_find(&end, p + at, seen, false) == LINE_OPEN && seen < STREAM_LINE_MAX) {
            s->end = end;
            break;
        }
        if (at > read)
            lane_read(reader, socket, p + read, at - read, counts);
        /* With the same bytes in sight as anybody would have who cuts elsewhere. */
        uint8_t behind = p[at + seen];
        p[at + seen] = '\n';
        uint32_t taken = line_read_general(reader, p + at, seen, counts);
        p[at + seen] = behind;
        if (taken > seen) { /* there is no LF in sight, and it is counted as too long */
            s->skipping = true;
            return at + seen;
        }
        at += taken;
        read = at;
        end = (line_end_t){0};
    }
    if (at > read)
        lane_read(reader, socket, p + read, at - read, counts);
    return at;
}

/* With how many bytes a line whose end has not come is too long for certain: one of line protocol may hold a string. */
static inline uint32_t stream_patience(const lane_socket_t *socket)
{
    return socket->format == LANE_LINE ? STREAM_LINE_MAX : socket->line_bytes_max + 1;
}

/* Reads p[0..n), which begins at a line's start. What is left is held. */
static inline stream_state_t stream_read_text(stream_t *s, line_reader_t *reader, const lane_socket_t *socket, uint8_t *p, uint32_t n,
                                              line_counts_t *counts)
{
    for (;;) {
        if (s->skipping) {
            const uint8_t *lf = memchr(p, '\n', n);
            if (lf == NULL)
                return STREAM_ON;
            n -= (uint32_t)(lf - p) + 1;
            p += (uint32_t)(lf - p) + 1;
            s->skipping = false;
            s->passed = true;
        }
        uint32_t taken;
        if (socket->format == LANE_LINE) {
            taken = stream_read_lines(s, reader, socket, p, n, counts);
        } else {
            taken = stream_whole(p, n);
            if (taken > 0)
                lane_read(reader, socket, p, taken, counts);
        }
        p += taken;
        n -= taken;
        s->passed |= taken > 0;
        if (s->skipping)
            continue;
        if (n < stream_patience(socket))
            return stream_hold(s, p, n) ? STREAM_ON : STREAM_NO_MEMORY;
        stream_drop_long(s, reader, socket, p, n, counts);
    }
}

/* Whether the n bytes at p may end the line that is held, or make it too long. */
static inline bool stream_wakes(const stream_t *s, const lane_socket_t *socket, const uint8_t *p, uint32_t n)
{
    if (s->held_bytes + n >= stream_patience(socket))
        return true;
    switch (s->end.part) {
    case LINE_AT_START:
        return memchr(p, '\n', n) != NULL;
    case LINE_IN_STRING:
        return memchr(p, '"', n) != NULL;
    default:
        return true;
    }
}

/* ---- frames ---- */

/* Reads the frames in p[0..n) that are whole; what is left is held. */
static inline stream_state_t stream_read_frames(stream_t *s, line_reader_t *reader, const lane_socket_t *socket, uint8_t *p, uint32_t n,
                                                uint64_t *frames, line_counts_t *counts)
{
    uint32_t at = 0;
    s->frame_bytes = STREAM_FRAME_HEAD;
    while (n - at >= STREAM_FRAME_HEAD) {
        uint32_t length = port_load32(p + at);
        if (length > socket->datagram_bytes_max) {
            counts->received++;
            line_drop(counts, DROP_DATAGRAM_TOO_LARGE, 1);
            line_keep_sample(reader, p + at, n - at, DROP_DATAGRAM_TOO_LARGE);
            return STREAM_BAD_FRAME;
        }
        if (n - at - STREAM_FRAME_HEAD < length) {
            s->frame_bytes = STREAM_FRAME_HEAD + length;
            break;
        }
        if (length > 0)
            lane_read(reader, socket, p + at + STREAM_FRAME_HEAD, length, counts);
        at += STREAM_FRAME_HEAD + length;
        ++*frames;
        s->passed = true;
    }
    return stream_hold(s, p + at, n - at) ? STREAM_ON : STREAM_NO_MEMORY;
}

/* ---- a stream ---- */

/* Takes the next n >= 1 bytes. Before p there is room for STREAM_HELD_MAX bytes, which are overwritten; p[n] and
 * PORT_PADDING bytes behind are borrowed. What is read borrows from there until lane_read_done. */
static inline stream_state_t stream_take(stream_t *s, line_reader_t *reader, const lane_socket_t *socket, uint8_t *p, uint32_t n,
                                         uint64_t *frames, line_counts_t *counts)
{
    if (s->framing == STREAM_UNDECIDED && !socket->framed)
        s->framing = STREAM_TEXT;
    if (s->held_bytes > 0) {
        bool wakes = s->framing == STREAM_TEXT ? stream_wakes(s, socket, p, n) : s->held_bytes + n >= s->frame_bytes;
        if (!wakes)
            return stream_hold(s, p, n) ? STREAM_ON : STREAM_NO_MEMORY;
        p -= s->held_bytes;
        n += s->held_bytes;
        memcpy(p, s->held, s->held_bytes);
        line_end_t end = s->end;
        stream_forget(s);
        s->end = end;
    }
    if (s->framing == STREAM_UNDECIDED) {
        if (n < STREAM_FRAME_HEAD) {
            s->frame_bytes = STREAM_FRAME_HEAD;
            return stream_hold(s, p, n) ? STREAM_ON : STREAM_NO_MEMORY;
        }
        s->framing = p[2] == 0 && p[3] == 0 ? STREAM_FRAMES : STREAM_TEXT;
    }
    if (s->framing == STREAM_FRAMES)
        return stream_read_frames(s, reader, socket, p, n, frames, counts);
    return stream_read_text(s, reader, socket, p, n, counts);
}

/* The stream is over: by its client's will (`whole`), and then a last line without LF is a line; or it was cut off, and
 * then nobody knows how that line would have gone on. What is read borrows from what is held, until stream_forget. */
static inline void stream_end(stream_t *s, line_reader_t *reader, const lane_socket_t *socket, bool whole, line_counts_t *counts)
{
    uint32_t n = s->held_bytes;
    if (n == 0)
        return;
    uint32_t read = s->framing == STREAM_FRAMES ? 0 : whole ? n : stream_whole(s->held, n);
    if (read > 0)
        lane_read(reader, socket, s->held, read, counts);
    if (read == n)
        return;
    counts->received++;
    line_drop(counts, DROP_UNFINISHED, 1);
    line_keep_sample(reader, s->held + read, n - read, DROP_UNFINISHED);
}

#endif
