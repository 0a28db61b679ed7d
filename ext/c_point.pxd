from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "line_set.h" nogil:
    ctypedef struct line_set_t:
        uint64_t seed


cdef extern from "point_body.h" nogil:
    enum:
        POINT_BYTES_MAX
    const uint64_t POINT_DAMAGED
    uint64_t POINT_LINE_BYTES(uint64_t n) noexcept
    uint64_t point_count(const uint8_t *p, uint64_t n) noexcept
    uint64_t point_offset(const uint8_t *p, uint64_t n, uint64_t records) noexcept
    uint64_t point_put_lines(const uint8_t *p, uint64_t n, uint8_t *to) noexcept

    ctypedef struct point2_t:
        line_set_t symbols

    void point2_free(point2_t *t) noexcept
    uint64_t point2_read(point2_t *t, const uint8_t *p, uint64_t n) noexcept
    void point2_put(const point2_t *t, uint8_t *to) noexcept
