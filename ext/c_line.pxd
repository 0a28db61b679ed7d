from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from c_guard cimport guard_t
from c_ring cimport ring_t


cdef extern from "scan.h" nogil:
    ctypedef uint32_t (*scan_index_fn)(const uint8_t *p, uint32_t n, uint32_t *out) noexcept
    uint32_t scan_index_scalar(const uint8_t *p, uint32_t n, uint32_t *out) noexcept
    uint32_t scan_index_avx2(const uint8_t *p, uint32_t n, uint32_t *out) noexcept
    bint scan_has_avx2() noexcept


cdef extern from "stats.h" nogil:
    enum:
        DROP_REASONS
    const char *const *stats_reason_names
    ctypedef struct line_counts_t:
        uint64_t received
        uint64_t accepted
        uint64_t rewritten
        uint64_t clamped
        uint64_t aggregated
        uint64_t points
        uint64_t shaped
        uint64_t overflowed
        uint64_t observed
        uint64_t coerced
        uint64_t fields_rejected
        uint64_t *dropped


cdef extern from "line.h" nogil:
    enum:
        LINE_TEXT_MAX
        LINE_TIME_MAX
        LINE_SAMPLE_BYTES
    ctypedef enum line_precision_t:
        LINE_NS
        LINE_US
        LINE_MS
        LINE_S
        LINE_MINUTES
        LINE_HOURS
        LINE_AUTO
    ctypedef struct line_tags_t:
        uint8_t *text
        uint32_t length
        uint32_t count
        uint64_t hash
    ctypedef struct line_sample_t:
        bint ready
        uint16_t listener
        int reason
        uint32_t length
        uint8_t *text
    ctypedef struct line_reader_t:
        const line_tags_t *tags
        ring_t **rings
        uint32_t ring_count
        uint16_t listener
        guard_t *guard
        uint32_t line_bytes_max
        line_precision_t precision
        int64_t arrival_ns
        int64_t stamp_ns


cdef extern from "line_reader.h" nogil:
    line_tags_t *line_tags_new() noexcept
    void line_tags_free(line_tags_t *tags) noexcept
    bint line_tags_add(line_tags_t *tags, const uint8_t *key, uint32_t key_length, const uint8_t *value,
                       uint32_t value_length) noexcept
    void line_reader_open(line_reader_t *c, scan_index_fn scan, const line_tags_t *tags) noexcept
    void line_reader_close(line_reader_t *c) noexcept
    void line_read(line_reader_t *c, uint8_t *text, uint32_t n, line_counts_t *counts) noexcept
    uint64_t line_count(const uint8_t *p, uint64_t n) noexcept
    uint64_t line_offset(const uint8_t *p, uint64_t n, uint64_t lines) noexcept


cdef extern from "merge.h" nogil:
    uint64_t merge_room(uint64_t n) noexcept
    bint merge_lines_c "merge_lines"(const uint8_t *p, uint64_t n, bint nudge, uint8_t *to, uint64_t *length,
                                     uint64_t *lines) noexcept
