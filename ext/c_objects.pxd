from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from c_line cimport line_counts_t, line_reader_t
from c_stats cimport drop_t


cdef extern from "objects.h" nogil:
    ctypedef struct objects_t:
        size_t used
        size_t room
        uint32_t count

    void objects_free(objects_t *p) noexcept
    void objects_begin(objects_t *p) noexcept
    void objects_refuse(objects_t *p, drop_t reason, const uint8_t *text, size_t n) noexcept
    drop_t objects_measurement(objects_t *p, const uint8_t *name, size_t n) noexcept
    drop_t objects_tag(objects_t *p, const uint8_t *key, size_t key_length, const uint8_t *value,
                       size_t value_length) noexcept
    drop_t objects_fields(objects_t *p) noexcept
    void objects_left_out(objects_t *p) noexcept
    drop_t objects_integer(objects_t *p, const uint8_t *key, size_t n, int64_t v, bint as_float) noexcept
    drop_t objects_unsigned(objects_t *p, const uint8_t *key, size_t n, uint64_t v, bint as_float) noexcept
    drop_t objects_float(objects_t *p, const uint8_t *key, size_t n, double v) noexcept
    drop_t objects_boolean(objects_t *p, const uint8_t *key, size_t n, bint v) noexcept
    drop_t objects_string(objects_t *p, const uint8_t *key, size_t n, const uint8_t *text,
                          size_t length) noexcept
    drop_t objects_end(objects_t *p, const int64_t *time) noexcept
    void objects_emit(objects_t *p, line_reader_t *c, line_counts_t *counts) noexcept


cdef extern from "num_shortest.h" nogil:
    enum:
        NUM_SHORTEST_BYTES
    size_t num_write_shortest(uint8_t *to, double v) noexcept
    size_t num_write_i64(uint8_t *to, int64_t v) noexcept


cdef extern from "utf8.h" nogil:
    bint utf8_valid(const uint8_t *p, size_t n) noexcept
