# Bodies of samples, as rings of the encoding "pb" hold them: counted, cut, and turned into other forms.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

cdef uint64_t SAMPLES_BYTES_MAX = 1 << 30

# So many bytes of lines are turned into samples at once.
cdef uint64_t LINES_AT_ONCE = 1 << 20


cdef uint64_t known(uint64_t result) except? 0:
    if result == POINT_DAMAGED:
        raise ValueError("damaged: it is no row of samples as they are written here")
    return result


cdef int check_body(const uint8_t[::1] data) except -1:
    if data.shape[0] > <Py_ssize_t>SAMPLES_BYTES_MAX:
        raise ValueError("more than 1 GiB at once")
    return 0


def count_samples(const uint8_t[::1] data not None):
    cdef uint64_t n = data.shape[0], found
    check_body(data)
    if n == 0:
        return 0
    with nogil:
        found = point_count(&data[0], n)
    return known(found)


def split_samples(const uint8_t[::1] data not None, uint64_t samples):
    check_body(data)
    return known(point_offset(&data[0], data.shape[0], samples)) if data.shape[0] else 0


def lines_of_samples(const uint8_t[::1] data not None):
    cdef uint64_t n = data.shape[0], length, records
    cdef uint8_t *lines
    check_body(data)
    if n == 0:
        return b""
    with nogil:
        records = point_count(&data[0], n)
    known(records)
    lines = <uint8_t *>malloc(POINT_LINE_BYTES(n) + 64 * records)
    if lines == NULL:
        raise MemoryError()
    try:
        with nogil:
            length = point_put_lines(&data[0], n, lines)
        return lines[:known(length)]
    finally:
        free(lines)


def samples_of_lines(const uint8_t[::1] data not None):
    cdef uint64_t n = data.shape[0], at = 0, end, lines, step = LINES_AT_ONCE, dropped
    cdef list bodies = []
    cdef dict result
    while at < n:
        # Whole lines, of step bytes or so; one at least. The last of them may be cut.
        lines = line_count(&data[at], min(n - at, step))
        if lines > 1 and at + step < n:
            lines -= 1
        end = at + line_offset(&data[at], n - at, lines)
        result = read_lines(data[at:end], encoding="pb", line_bytes_max=0xFFFFFFFF)
        dropped = result["dropped"].pop("ring_full", 0)
        if dropped and lines > 1:
            step = (end - at) // 4 + 1
            continue
        if dropped or result["dropped"]:
            reasons = ", ".join(result["dropped"]) or "more than 4 MiB of samples"
            raise ValueError(f"a line that cannot be read: {reasons}")
        bodies.append(result["body"])
        at = end
    return b"".join(bodies)


def request_of_samples(const uint8_t[::1] data not None):
    cdef uint64_t n = data.shape[0], length = 0
    cdef point2_t t
    cdef uint8_t *text
    cdef bytes request
    cdef uint8_t *to
    check_body(data)
    memset(&t, 0, sizeof(t))
    t.symbols.seed = <uint64_t>clock_ns(CLOCK_REALTIME) * <uint64_t>0x9E3779B97F4A7C15
    text = <uint8_t *>malloc(n + PORT_PADDING)
    try:
        if text == NULL:
            raise MemoryError()
        if n:
            memcpy(text, &data[0], n)
        memset(text + n, 0, PORT_PADDING)
        with nogil:
            length = point2_read(&t, text, n)
        if known(length) == 0:
            raise MemoryError()
        request = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>length)
        to = <uint8_t *>PyBytes_AS_STRING(request)
        with nogil:
            point2_put(&t, to)
        return request
    finally:
        point2_free(&t)
        free(text)
