# A stream without a lane: pieces of text in, what a lane would make of such a connection. For tests.

def read_stream(pieces, *, str format="line", Aggregator aggregator=None, Graphite graphite=None,
                bint framed=False, bint ended=True, int64_t now_ns=0, uint32_t line_bytes_max=65536,
                uint32_t datagram_bytes_max=65536):
    cdef list kept = [bytes(piece) for piece in pieces]
    cdef uint64_t total = sum(len(piece) for piece in kept), frames = 0
    cdef Ring ring = large_ring(max(<uint64_t>1 << 20, 8 * total), "lp")
    cdef line_tags_t *extra = NULL
    cdef line_reader_t *reader = NULL
    cdef uint8_t *text = NULL
    cdef const uint8_t *bytes_of
    cdef uint32_t n
    cdef lane_socket_t socket
    cdef line_counts_t counts
    cdef stream_t stream
    cdef stream_state_t state = STREAM_ON
    cdef ring_batch_t found
    cdef bytes piece
    cdef Py_ssize_t i
    if format not in FORMATS or (format == "statsd") != (aggregator is not None):
        raise ValueError(f"format is {format!r}; a stream of format statsd has an aggregator")
    if max(map(len, kept), default=0) > 65536:
        raise ValueError("a piece of more than 64 KiB")
    memset(&counts, 0, sizeof(counts))
    memset(&stream, 0, sizeof(stream))
    memset(&socket, 0, sizeof(socket))
    socket.format = FORMATS[format]
    socket.framed = framed
    socket.line_bytes_max = line_bytes_max
    socket.datagram_bytes_max = datagram_bytes_max
    if format == "graphite":
        graphite = graphite if graphite is not None else plain_graphite
        socket.graphite = graphite.graphite
    try:
        extra = tags_of(())
        reader = <line_reader_t *>alloc_aligned(sizeof(line_reader_t))
        text = <uint8_t *>malloc(STREAM_HELD_MAX + 65536 + 2 * PORT_PADDING)
        if text == NULL:
            raise MemoryError()
        line_reader_open(reader, kernel_of(None), extra)
        reader.rings[0] = ring.ring
        reader.ring_count = 1
        reader.line_bytes_max = line_bytes_max
        reader.arrival_ns = now_ns
        reader.stamp_ns = now_ns - 1
        if aggregator is not None:
            socket.statsd = aggregator.readers[0]
            socket.statsd.reader = reader
        for piece in kept:
            n = <uint32_t>len(piece)
            bytes_of = piece
            if n == 0 or state != STREAM_ON:
                continue
            memcpy(text + STREAM_HELD_MAX, bytes_of, n)
            with nogil:
                state = stream_take(&stream, reader, &socket, text + STREAM_HELD_MAX, n, &frames, &counts)
                lane_read_done(&socket, &counts)
        with nogil:
            if state == STREAM_ON:
                stream_end(&stream, reader, &socket, ended, &counts)
                lane_read_done(&socket, &counts)
            ring_publish(ring.ring)
        body = b""
        if ring_take(ring.ring, <uint64_t>-1, <uint64_t>-1, True, &found):
            body = found.bytes[:found.length]
            ring_free(ring.ring, &found)
    finally:
        stream_forget(&stream)
        line_tags_free(extra)
        free(text)
        if reader != NULL:
            line_reader_close(reader)
            free(reader)
    return {
        "body": body,
        "frames": frames,
        "received": counts.received,
        "accepted": counts.accepted,
        "aggregated": counts.aggregated,
        "rewritten": counts.rewritten,
        "dropped": {REASONS[i]: counts.dropped[i] for i in range(DROP_REASONS) if counts.dropped[i]},
    }
