# The reader without a lane: one piece of text in, what a lane would write out.

ISA = "scalar"
cdef scan_index_fn scan_kernel = scan_index_scalar
if os_environ.get("PENSTOCK_ISA", "") != "scalar" and scan_has_avx2():
    ISA = "avx2"
    scan_kernel = scan_index_avx2

REASONS = tuple(stats_reason_names[i].decode() for i in range(DROP_REASONS))

cdef object UNWRITABLE = re_compile(rb"[\x00-\x1f\x7f]|\\[, =]|\\\Z")

cdef dict PRECISIONS = {
    "ns": LINE_NS, "us": LINE_US, "ms": LINE_MS, "s": LINE_S, "m": LINE_MINUTES, "h": LINE_HOURS,
    "auto": LINE_AUTO,
}


cdef line_precision_t precision_of(str name) except *:
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}; it is one of ns, us, ms, s, m, h, auto")
    return PRECISIONS[name]


cdef bytes escaped_tag(bytes text, str what):
    """A tag's key or value in line protocol. Raises ValueError for what cannot be written."""
    if not text or UNWRITABLE.search(text):
        raise ValueError(
            f"{what} {text!r} is empty, has a control character, or a backslash at its end or before a "
            "comma, equals sign or space"
        )
    text.decode()
    return text.replace(b",", b"\\,").replace(b"=", b"\\=").replace(b" ", b"\\ ")


cdef line_tags_t *tags_of(object pairs) except NULL:
    """Agent tags, escaped and ready. The caller frees them."""
    cdef line_tags_t *tags = line_tags_new()
    cdef bytes key, value
    cdef set seen = set()
    if tags == NULL:
        raise MemoryError()
    try:
        for raw_key, raw_value in pairs:
            key = escaped_tag(raw_key, "tag key")
            value = escaped_tag(raw_value, "tag value")
            if raw_key in (b"time", b"_field", b"_measurement"):
                raise ValueError(f"tag key {raw_key!r} is reserved by InfluxDB")
            if raw_key in seen:
                raise ValueError(f"tag key {raw_key!r} is there twice")
            seen.add(raw_key)
            if not line_tags_add(tags, key, <uint32_t>len(key), value, <uint32_t>len(value)):
                raise ValueError("more than 64 agent tags, or more than 64 KiB of them")
    except BaseException:
        line_tags_free(tags)
        raise
    if tags.count:
        tags.hash = mix_bytes(&process_key, 0, tags.text, tags.length)
    return tags


cdef scan_index_fn kernel_of(object isa) except NULL:
    if isa is None:
        return scan_kernel
    if isa == "scalar":
        return scan_index_scalar
    if isa == "avx2" and scan_has_avx2():
        return scan_index_avx2
    raise ValueError(f"this machine has no kernel {isa!r}")


# Rings of read_lines: making one costs more than reading a datagram.
cdef list spare_rings = []
cdef uint64_t SPARE_BYTES = 1 << 20


cdef Ring large_ring(uint64_t room, str encoding):
    return Ring(None, room, Waker(), slot_bytes=1 << 30, slot_metrics=1 << 30, encoding=encoding)


cdef Ring spare_ring(str encoding):
    """An empty ring of SPARE_BYTES, from the spare ones if there is any."""
    cdef Ring ring
    while spare_rings:
        ring = spare_rings.pop()
        if ring.ring.capacity == SPARE_BYTES and ring.ring.encoding == encoding_of(encoding):
            ring_begin(ring.ring)
            return ring
    return large_ring(SPARE_BYTES, encoding)


def read_lines(const uint8_t[::1] data not None, *, str precision="ns", object tags=(), int64_t now_ns=0,
               str encoding="lp", uint32_t line_bytes_max=65536, object isa=None):
    cdef uint32_t n = <uint32_t>data.shape[0]
    cdef line_tags_t *extra = NULL
    cdef line_reader_t *reader = NULL
    cdef uint8_t *text = NULL
    cdef line_counts_t counts
    cdef ring_t *target
    cdef ring_batch_t found
    cdef Ring ring
    cdef Py_ssize_t i
    if data.shape[0] > 1 << 26:
        raise ValueError("more than 64 MiB at once")
    tag_bytes = sum(len(key) * 2 + len(value) * 2 + 2 for key, value in tags)
    # The shortest line has 5 bytes and its LF; each may gain a time and the tags.
    room = 2 * n + (n // 5 + 2) * (tag_bytes + 40)
    if encoding == "pb":
        # Each field may repeat all tags: a text of 2 KiB grows to a quarter of a spare ring at most.
        room = 0 if n + tag_bytes < 2048 else 16 * n + 2 * POINT_BYTES_MAX
    ring = spare_ring(encoding) if room < SPARE_BYTES else large_ring(room, encoding)
    memset(&counts, 0, sizeof(counts))
    try:
        extra = tags_of(tags)
        reader = <line_reader_t *>alloc_aligned(sizeof(line_reader_t))
        text = <uint8_t *>malloc(n + 2 * PORT_PADDING)
        if text == NULL:
            raise MemoryError()
        line_reader_open(reader, kernel_of(isa), extra)
        if n:
            memcpy(text, &data[0], n)
        memset(text + n, 0, 2 * PORT_PADDING)
        target = ring.ring
        left_out = counter_get(&target.left_out)
        reader.rings[0] = target
        reader.ring_count = 1
        reader.precision = precision_of(precision)
        reader.line_bytes_max = line_bytes_max
        reader.arrival_ns = now_ns
        reader.stamp_ns = now_ns - 1
        with nogil:
            line_read(reader, text, n, &counts)
            ring_publish(target)
        body = b""
        metrics = 0
        if ring_take(target, <uint64_t>-1, <uint64_t>-1, True, &found):
            body = found.bytes[:found.length]
            metrics = found.metrics
            ring_free(target, &found)
        if ring.ring.capacity == SPARE_BYTES:
            spare_rings.append(ring)
    finally:
        line_tags_free(extra)
        free(text)
        if reader != NULL:
            line_reader_close(reader)
            free(reader)
    return {
        "body": body,
        "metrics": metrics,
        "left_out": counter_get(&target.left_out) - left_out,
        "received": counts.received,
        "accepted": counts.accepted,
        "rewritten": counts.rewritten,
        "clamped": counts.clamped,
        "dropped": {REASONS[i]: counts.dropped[i] for i in range(DROP_REASONS) if counts.dropped[i]},
    }


def bench_reader(const uint8_t[::1] data not None, double seconds, *, object tags=(), object isa=None,
                 object path=None, str encoding="lp"):
    """Read *data* into a ring again and again for *seconds*, freeing each pass, without the GIL.

    Returns lines, metrics (written), bytes (of input), ns (monotonic) and cpu_ns (this thread's).
    """
    cdef uint32_t n = <uint32_t>data.shape[0]
    cdef line_counts_t counts
    cdef ring_batch_t found
    cdef Ring ring = Ring(path, max(1 << 22, 8 * n), Waker(), slot_bytes=65536, slot_metrics=256,
                          encoding=encoding)
    cdef ring_t *target = ring.ring
    cdef line_tags_t *extra = tags_of(tags)
    cdef line_reader_t *reader = <line_reader_t *>alloc_aligned(sizeof(line_reader_t))
    cdef uint8_t *text = <uint8_t *>malloc(n + 2 * PORT_PADDING)
    cdef int64_t start, now, cpu
    cdef uint64_t passes = 0
    try:
        if text == NULL:
            raise MemoryError()
        line_reader_open(reader, kernel_of(isa), extra)
        memcpy(text, &data[0], n)
        memset(text + n, 0, 2 * PORT_PADDING)
        reader.rings[0] = target
        reader.ring_count = 1
        memset(&counts, 0, sizeof(counts))
        with nogil:
            reader.arrival_ns = clock_ns(CLOCK_REALTIME)
            start = now = clock_ns(CLOCK_MONOTONIC)
            cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID)
            while now - start < <int64_t>(seconds * 1e9):
                ring_begin(target)
                line_read(reader, text, n, &counts)
                ring_publish(target)
                while ring_take(target, <uint64_t>-1, <uint64_t>-1, True, &found):
                    ring_free(target, &found)
                passes += 1
                now = clock_ns(CLOCK_MONOTONIC)
            cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu
    finally:
        line_tags_free(extra)
        free(text)
        line_reader_close(reader)
        free(reader)
        ring.close()
    return {"lines": counts.received, "accepted": counts.accepted, "metrics": counter_get(&target.written),
            "bytes": passes * n, "ns": now - start, "cpu_ns": cpu}


def count_lines(const uint8_t[::1] data not None):
    return line_count(&data[0], data.shape[0]) if data.shape[0] else 0


def split_lines(const uint8_t[::1] data not None, uint64_t lines):
    return line_offset(&data[0], data.shape[0], lines) if data.shape[0] else 0


cdef object merged_lines(const uint8_t *text, uint64_t n, bint nudge):
    """The lines at *text*, with padding behind them, merged, and how many are left; None if nothing was."""
    cdef uint64_t length = 0, lines = 0
    cdef bint changed
    cdef uint8_t *to = <uint8_t *>malloc(merge_room(n))
    if to == NULL:
        raise MemoryError()
    try:
        with nogil:
            changed = merge_lines_c(text, n, nudge, to, &length, &lines)
        return ((<char *>to)[:length], lines) if changed else None
    finally:
        free(to)


def merge_lines(const uint8_t[::1] data not None, bint nudge):
    cdef uint64_t n = data.shape[0]
    cdef uint8_t *text
    if n == 0:
        return None
    text = <uint8_t *>malloc(n + PORT_PADDING)
    if text == NULL:
        raise MemoryError()
    try:
        memcpy(text, &data[0], n)
        memset(text + n, 0, PORT_PADDING)
        return merged_lines(text, n, nudge)
    finally:
        free(text)
