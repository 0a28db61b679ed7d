# Python objects into points: what JSON, MessagePack and the collectors of this host are decoded to.
#
# A metric is a tuple (name, tags, fields, time), or a mapping in Telegraf's shape, {"name", "tags", "fields"}
# with "timestamp" (in units of the precision) or "time" (nanoseconds). Objects of other types, subclasses
# too, are not looked into, so no code of others runs here.
#
# A text is a str, or bytes that are to be UTF-8: whoever decodes need not make a str then, which costs more
# than all that is done with it here. The keys of one mapping are all of one kind. In a message that is AsIs
# bytes are binary data, and no text.

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size)
    bint PyUnicode_CheckExact(object o)
    bint PyBytes_CheckExact(object o)
    char *PyBytes_AS_STRING(object o)
    Py_ssize_t PyBytes_GET_SIZE(object o)
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    void *PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    bint PyLong_CheckExact(object o)
    bint PyFloat_CheckExact(object o)
    bint PyDict_CheckExact(object o)
    bint PyList_CheckExact(object o)
    bint PyTuple_CheckExact(object o)
    bint PyBool_Check(object o)
    int PyDict_Next(object p, Py_ssize_t *pos, PyObject **key, PyObject **value)
    long long PyLong_AsLongLongAndOverflow(object o, int *overflow)
    unsigned long long PyLong_AsUnsignedLongLong(object o)
    double PyLong_AsDouble(object o)
    double PyFloat_AS_DOUBLE(object o)

cdef extern from "<math.h>" nogil:
    double floor(double v) noexcept
    long long llround(double v) noexcept
    bint isfinite(double v) noexcept

cdef dict REASON_NUMBERS = {name: number for number, name in enumerate(REASONS)}
cdef dict UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}

# Points are written whenever so many bytes of them are ready: what they take of the cache stays small.
cdef enum:
    OBJECTS_READY_BYTES = 1 << 18
    OBJECTS_KEEP_BYTES = 1 << 20    # memory of an idle Points


@cython.final
@cython.internal
cdef class Points:
    """Points that are being built. Used by one thread at a time, and kept for the next."""

    cdef objects_t points
    cdef int64_t unit           # nanoseconds
    cdef bint as_float          # whole numbers become floats
    cdef bint as_is             # of the message that is walked: bytes are no text

    def __dealloc__(self):
        objects_free(&self.points)


cdef list spare_points = []


@cython.final
@cython.freelist(8)
cdef class AsIs:
    cdef readonly object message

    def __cinit__(self, message):
        self.message = message


cdef const uint8_t *encoded(object text, size_t *length) noexcept:
    """The UTF-8 of a str, borrowed from it; NULL if it has none."""
    cdef Py_ssize_t size = 0
    cdef const char *utf8 = PyUnicode_AsUTF8AndSize(text, &size)
    if utf8 == NULL:
        PyErr_Clear()
    length[0] = <size_t>size
    return <const uint8_t *>utf8


cdef inline bint is_text(Points build, object o) noexcept:
    return PyUnicode_CheckExact(o) or (PyBytes_CheckExact(o) and not build.as_is)


cdef inline const uint8_t *text_of(object text, size_t *length) noexcept:
    """The same of any text; ASCII, which nearly all are, is UTF-8 as it stands."""
    cdef const uint8_t *start
    if PyBytes_CheckExact(text):
        start = <const uint8_t *>PyBytes_AS_STRING(text)
        length[0] = <size_t>PyBytes_GET_SIZE(text)
        return start if utf8_valid(start, length[0]) else NULL
    if PyUnicode_IS_COMPACT_ASCII(text):
        length[0] = <size_t>PyUnicode_GET_LENGTH(text)
        return <const uint8_t *>PyUnicode_DATA(text)
    return encoded(text, length)


cdef drop_t add_tag(Points build, object key, object value) noexcept:
    """One tag; numbers and booleans are written as fields would be, without a suffix."""
    cdef objects_t *p = &build.points
    cdef size_t key_length = 0, length = 0
    cdef uint8_t number[NUM_SHORTEST_BYTES]
    cdef const uint8_t *text
    cdef const uint8_t *key_text
    cdef int overflow = 0
    cdef double v
    if not is_text(build, key):
        return DROP_TAG
    key_text = text_of(key, &key_length)
    if key_text == NULL:
        return DROP_UTF8
    if is_text(build, value):
        text = text_of(value, &length)
        if text == NULL:
            return DROP_UTF8
        return objects_tag(p, key_text, key_length, text, length)
    if value is None:
        objects_left_out(p)
        return DROP_NONE
    if value is True:
        return objects_tag(p, key_text, key_length, <const uint8_t *>b"true", 4)
    if value is False:
        return objects_tag(p, key_text, key_length, <const uint8_t *>b"false", 5)
    if PyLong_CheckExact(value):
        length = num_write_i64(number, PyLong_AsLongLongAndOverflow(value, &overflow))
        return DROP_TAG if overflow else objects_tag(p, key_text, key_length, number, length)
    if PyFloat_CheckExact(value):
        v = PyFloat_AS_DOUBLE(value)
        if not isfinite(v):
            return DROP_TAG
        return objects_tag(p, key_text, key_length, number, num_write_shortest(number, v))
    return DROP_TAG


cdef drop_t add_whole_number(Points build, const uint8_t *key, size_t key_length, object value) noexcept:
    """An int of any size; one that no integer of 64 bits holds is left out."""
    cdef objects_t *p = &build.points
    cdef int overflow = 0
    cdef int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow)
    cdef uint64_t large
    if overflow == 0:
        return objects_integer(p, key, key_length, number, build.as_float)
    if overflow > 0:
        large = PyLong_AsUnsignedLongLong(value)
        if PyErr_Occurred() == NULL:
            return objects_unsigned(p, key, key_length, large, build.as_float)
        PyErr_Clear()
    objects_left_out(p)
    return DROP_NONE


cdef drop_t add_field(Points build, object key, object value) noexcept:
    """One field; a value that is no number, boolean or text is left out."""
    cdef objects_t *p = &build.points
    cdef size_t key_length = 0, length = 0
    cdef const uint8_t *key_text
    cdef const uint8_t *text
    if not is_text(build, key):
        return DROP_FIELD
    key_text = text_of(key, &key_length)
    if key_text == NULL:
        return DROP_UTF8
    if PyFloat_CheckExact(value):
        return objects_float(p, key_text, key_length, PyFloat_AS_DOUBLE(value))
    if PyLong_CheckExact(value):
        return add_whole_number(build, key_text, key_length, value)
    if is_text(build, value):
        text = text_of(value, &length)
        if text == NULL:
            return DROP_UTF8
        return objects_string(p, key_text, key_length, text, length)
    if PyBool_Check(value):
        return objects_boolean(p, key_text, key_length, value is True)
    objects_left_out(p)
    return DROP_NONE


cdef drop_t time_of(object time, int64_t unit, int64_t *ns) noexcept:
    """A point in time in nanoseconds, from a number of units."""
    cdef int overflow = 0
    cdef int64_t whole
    cdef double v
    if PyLong_CheckExact(time):
        whole = PyLong_AsLongLongAndOverflow(time, &overflow)
        if overflow or whole > LINE_TIME_MAX // unit or whole < -(LINE_TIME_MAX // unit):
            return DROP_TIMESTAMP_RANGE
        ns[0] = whole * unit
        return DROP_NONE
    if PyFloat_CheckExact(time):
        v = floor(PyFloat_AS_DOUBLE(time))
        if not isfinite(v):
            return DROP_TIMESTAMP
        if not -9.2e18 < v * <double>unit < 9.2e18:
            return DROP_TIMESTAMP_RANGE
        ns[0] = <int64_t>v * unit + llround((PyFloat_AS_DOUBLE(time) - v) * <double>unit)
        return DROP_NONE
    return DROP_TIMESTAMP


cdef drop_t build_parts(Points build, object name, object tags, object fields, object time,
                        int64_t unit) noexcept:
    """Builds one point; why not, if it cannot be."""
    cdef objects_t *p = &build.points
    cdef Py_ssize_t at = 0
    cdef size_t length = 0
    cdef PyObject *key = NULL
    cdef PyObject *value = NULL
    cdef const uint8_t *text
    cdef int64_t ns = 0
    cdef drop_t reason
    if not is_text(build, name):
        return DROP_MEASUREMENT
    text = text_of(name, &length)
    if text == NULL:
        return DROP_UTF8
    reason = objects_measurement(p, text, length)
    if reason != DROP_NONE:
        return reason
    if PyDict_CheckExact(tags):
        while PyDict_Next(tags, &at, &key, &value):
            reason = add_tag(build, <object>key, <object>value)
            if reason != DROP_NONE:
                return reason
    elif tags is not None:
        return DROP_TAG
    reason = objects_fields(p)
    if reason != DROP_NONE:
        return reason
    if not PyDict_CheckExact(fields):
        return DROP_FIELD
    at = 0
    while PyDict_Next(fields, &at, &key, &value):
        reason = add_field(build, <object>key, <object>value)
        if reason != DROP_NONE:
            return reason
    if time is None:
        return objects_end(p, NULL)
    reason = time_of(time, unit, &ns)
    if reason != DROP_NONE:
        return reason
    return objects_end(p, &ns)


cdef struct parts_t:
    PyObject *name      # all borrowed from a mapping; None where it has no such key
    PyObject *tags
    PyObject *fields
    PyObject *timestamp
    PyObject *time
    PyObject *metrics


cdef parts_t parts_of(Points build, dict mapping) noexcept:
    """What a mapping in Telegraf's shape consists of: one walk costs less than looking each key up."""
    cdef parts_t parts
    cdef Py_ssize_t at = 0
    cdef PyObject *key = NULL
    cdef PyObject *value = NULL
    cdef const char *text
    cdef Py_ssize_t length
    parts.name = parts.tags = parts.fields = parts.timestamp = parts.time = parts.metrics = <PyObject *>None
    while PyDict_Next(mapping, &at, &key, &value):
        if PyBytes_CheckExact(<object>key) and not build.as_is:
            text = PyBytes_AS_STRING(<object>key)
            length = PyBytes_GET_SIZE(<object>key)
        elif PyUnicode_CheckExact(<object>key) and PyUnicode_IS_COMPACT_ASCII(<object>key):
            text = <const char *>PyUnicode_DATA(<object>key)
            length = PyUnicode_GET_LENGTH(<object>key)
        else:
            continue
        if length == 4:
            if memcmp(text, b"name", 4) == 0:
                parts.name = value
            elif memcmp(text, b"tags", 4) == 0:
                parts.tags = value
            elif memcmp(text, b"time", 4) == 0:
                parts.time = value
        elif length == 6 and memcmp(text, b"fields", 6) == 0:
            parts.fields = value
        elif length == 7 and memcmp(text, b"metrics", 7) == 0:
            parts.metrics = value
        elif length == 9 and memcmp(text, b"timestamp", 9) == 0:
            parts.timestamp = value
    return parts


cdef object readable(object what, uint32_t depth):
    """The same with str in place of bytes; not so deep that none of it is seen in the log."""
    if PyBytes_CheckExact(what):
        return (<bytes>what).decode("utf-8", "surrogateescape")
    if depth == LINE_SAMPLE_BYTES:
        return None
    if PyDict_CheckExact(what):
        return {
            readable(key, depth + 1): readable(value, depth + 1) for key, value in (<dict>what).items()
        }
    if PyList_CheckExact(what):
        return [readable(one, depth + 1) for one in <list>what]
    return what


cdef bytes shown(Points build, object what):
    """An object for the log, cut."""
    try:
        what = repr(what if build.as_is else readable(what, 0))
        return what.encode("utf-8", "backslashreplace")[:LINE_SAMPLE_BYTES]
    except RecursionError:
        return b"..."


cdef drop_t build_mapping(Points build, const parts_t *parts) noexcept:
    """Builds a point in Telegraf's shape."""
    cdef PyObject *nothing = <PyObject *>None
    if parts.fields == nothing and parts.name == nothing:
        return DROP_OBJECT
    if parts.timestamp != nothing:
        return build_parts(build, <object>parts.name, <object>parts.tags, <object>parts.fields,
                           <object>parts.timestamp, build.unit)
    return build_parts(build, <object>parts.name, <object>parts.tags, <object>parts.fields,
                       <object>parts.time, 1)


cdef build_point(Points build, object metric, const line_sample_t *sample):
    """Builds the point of one metric, or notes why there is none."""
    cdef parts_t parts
    cdef drop_t reason = DROP_OBJECT
    objects_begin(&build.points)
    if PyDict_CheckExact(metric):
        parts = parts_of(build, metric)
        reason = build_mapping(build, &parts)
    elif PyTuple_CheckExact(metric) and len(<tuple>metric) == 4:
        name, tags, fields, time = <tuple>metric
        reason = build_parts(build, name, tags, fields, time, build.unit)
    if reason != DROP_NONE:
        refuse_point(build, metric, reason, sample)


cdef refuse_point(Points build, object metric, drop_t reason, const line_sample_t *sample):
    # Only one of many is shown, and the text of an object costs more than all else.
    cdef bytes text = shown(build, metric) if not sample_ready(<line_sample_t *>sample) else b""
    objects_refuse(&build.points, reason, text, <size_t>len(text))


cdef Py_ssize_t refuse_malformed(objects_t *points, list malformed, Py_ssize_t begin) except -1:
    """Notes what could not be decoded, from a place in the list on; returns how many there are."""
    cdef bytes text
    for reason, text in malformed[begin:]:
        objects_begin(points)
        objects_refuse(points, <drop_t><int>REASON_NUMBERS[reason], text, <size_t>len(text))
    return len(malformed)


cdef dict write_objects(Feed feed, int listener, object messages, str precision, bint as_written,
                        uint32_t line_bytes_max, uint32_t errors_max, uint64_t datagrams, uint64_t nbytes,
                        list malformed, burst_note_t *clock):
    cdef line_counts_t counts
    cdef line_errors_t errors
    cdef parts_t parts
    cdef drop_t why
    cdef Points build
    cdef objects_t *points
    cdef list several
    cdef Py_ssize_t i, refused
    if not 0 <= listener < <int>FEED_LISTENERS:
        raise ValueError(f"listener {listener}; a feed has numbers 0 to {FEED_LISTENERS - 1}")
    if precision not in UNITS:
        raise ValueError(f"precision is {precision!r}; it is one of {', '.join(UNITS)}")
    memset(&counts, 0, sizeof(counts))
    errors.count = 0
    errors.max = errors_max
    errors.list = NULL
    build = spare_points.pop() if spare_points else Points()
    points = &build.points
    build.unit = UNITS[precision]
    build.as_float = not as_written
    try:
        if errors_max:
            errors.list = <line_error_t *>malloc(errors_max * sizeof(line_error_t))
            if errors.list == NULL:
                raise MemoryError()
        refused = refuse_malformed(points, malformed, 0)
        for message in messages:
            build.as_is = type(message) is AsIs
            if build.as_is:
                message = (<AsIs>message).message
            found = message
            if PyDict_CheckExact(message):
                parts = parts_of(build, message)
                if parts.metrics == <PyObject *>None or parts.fields != <PyObject *>None:
                    objects_begin(points)
                    why = build_mapping(build, &parts)
                    if why != DROP_NONE:
                        refuse_point(build, message, why, &feed.feed.sample)
                    found = None
                else:
                    found = <object>parts.metrics
            if PyList_CheckExact(found):
                several = <list>found
                for i in range(len(several)):
                    build_point(build, several[i], &feed.feed.sample)
                    if points.used > OBJECTS_READY_BYTES:
                        with nogil:
                            feed_write(feed.feed, points, listener, line_bytes_max, &errors, &counts,
                                       datagrams, nbytes, clock)
                        datagrams = nbytes = 0
            elif found is not None or not PyDict_CheckExact(message):
                build_point(build, found, &feed.feed.sample)
            if points.used > OBJECTS_READY_BYTES:
                with nogil:
                    feed_write(feed.feed, points, listener, line_bytes_max, &errors, &counts, datagrams,
                               nbytes, clock)
                datagrams = nbytes = 0
        refuse_malformed(points, malformed, refused)
        if points.count or datagrams:
            with nogil:
                feed_write(feed.feed, points, listener, line_bytes_max, &errors, &counts, datagrams, nbytes,
                           clock)
        result = feed_result(&counts)
        for i in range(<Py_ssize_t>errors.count):
            result["errors"].append((
                errors.list[i].number,
                REASONS[errors.list[i].reason],
                (<const uint8_t *>errors.list[i].text)[:errors.list[i].length],
            ))
    finally:
        free(errors.list)
    if points.room <= OBJECTS_KEEP_BYTES:
        spare_points.append(build)      # after an error it may hold half a point
    return result
