from libc.stddef cimport size_t
from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from c_formats cimport graphite_t
from c_guard cimport guard_t
from c_lane cimport burst_note_t, listener_stats_t
from c_line cimport (
    line_counts_t, line_precision_t, line_reader_t, line_sample_t, line_tags_t, scan_index_fn,
)
from c_objects cimport objects_t
from c_ring cimport counter_t, ring_t


cdef extern from "line.h" nogil:
    ctypedef struct line_error_t:
        uint64_t number
        int16_t reason
        uint32_t length
        uint8_t *text

    ctypedef struct line_errors_t:
        line_error_t *list
        uint32_t count
        uint32_t max


cdef extern from "feed.h" nogil:
    enum:
        FEED_LISTENERS
        FEED_RINGS

    ctypedef enum feed_format_t:
        FEED_LINE
        FEED_GRAPHITE
        FEED_PROTOBUF
        FEED_OTLP

    ctypedef struct feed_message_t:
        const uint8_t *bytes
        uint32_t length
        uint16_t listener
        feed_format_t format
        const graphite_t *graphite
        line_precision_t precision
        uint32_t line_bytes_max
        bint whole
        line_errors_t *errors
        const line_tags_t *tags

    ctypedef struct feed_t:
        line_reader_t reader
        line_sample_t sample
        listener_stats_t *listeners
        counter_t receives
        counter_t accepted
        counter_t cpu_ns

    bint feed_open(feed_t *feed, scan_index_fn scan) noexcept
    void feed_close(feed_t *feed) noexcept
    void feed_begin(feed_t *feed, uint16_t listener) noexcept
    void feed_end(feed_t *feed, const line_counts_t *counts, uint64_t messages, uint64_t bytes,
                  int64_t cpu_ns) noexcept
    bint feed_read(feed_t *feed, const feed_message_t *message, line_counts_t *counts) noexcept
    void feed_write(feed_t *feed, objects_t *points, uint16_t listener, uint32_t line_bytes_max,
                    line_errors_t *errors, line_counts_t *counts, uint64_t messages,
                    uint64_t bytes, burst_note_t *clock) noexcept
    void feed_refuse(feed_t *feed, uint16_t listener, const line_counts_t *counts, uint64_t messages,
                     uint64_t bytes) noexcept
    void feed_publish(feed_t *feed) noexcept
    line_tags_t *feed_set_layout(feed_t *feed, line_tags_t *tags, ring_t **rings, uint32_t count,
                                 guard_t *guard) noexcept
    bint feed_ring_has_room(ring_t *r, uint64_t input, uint64_t tag_bytes) noexcept
