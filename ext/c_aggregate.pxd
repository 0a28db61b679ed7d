from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from c_line cimport line_counts_t, line_reader_t, line_tags_t, scan_index_fn
from c_ring cimport counter_t, ring_t


cdef extern from "scan.h" nogil:
    uint32_t scan_statsd_scalar(const uint8_t *p, uint32_t n, uint32_t *out) noexcept
    uint32_t scan_statsd_avx2(const uint8_t *p, uint32_t n, uint32_t *out) noexcept


cdef extern from "ticker.h" nogil:
    enum:
        SERIES_TYPES
        AGGREGATE_PERCENTILES
        DIALECT_AUTO

    const char *const *statsd_type_names

    ctypedef struct sketch_scale_t:
        pass
    sketch_scale_t sketch_scale(double relative_error) noexcept

    ctypedef struct series_table_t:
        uint32_t live
        uint32_t aliases
        uint64_t bytes

    ctypedef struct aggregate_settings_t:
        sketch_scale_t scale
        bint gauge_deltas
        bint reset_gauges
        uint8_t dialect
        uint8_t separator_length
        char *separator
        uint32_t *expire_ticks
        uint32_t percentile_count
        double *percentiles

    ctypedef struct aggregate_t:
        series_table_t table
        const aggregate_settings_t *settings
        uint64_t member_seed
        counter_t samples

    ctypedef struct statsd_reader_t:
        aggregate_t *table
        line_reader_t *reader
        scan_index_fn scan

    ctypedef struct ticker_lane_t:
        aggregate_t *aggregate
        uint32_t *forget
        uint32_t *forget_tags
        uint32_t forget_count
        uint32_t forget_room

    ctypedef struct ticker_t:
        ticker_lane_t *lanes
        uint32_t lane_count
        const aggregate_settings_t *settings
        ring_t **rings
        uint32_t ring_count
        line_reader_t *writer
        int64_t at_ns
        int64_t patience_ns
        uint64_t points
        uint64_t ring_full
        uint64_t unrouted
        uint64_t conflicts
        uint64_t value_bytes

    bint series_open(series_table_t *t, uint32_t room_max, uint64_t seed) noexcept
    void series_close(series_table_t *t) noexcept
    bint ticker_run(ticker_t *k) noexcept
    void statsd_read(statsd_reader_t *s, uint8_t *text, uint32_t n, line_counts_t *counts) noexcept
    void statsd_done(statsd_reader_t *s, line_counts_t *counts) noexcept
