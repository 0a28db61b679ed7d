from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from c_aggregate cimport aggregate_settings_t, statsd_reader_t, ticker_lane_t
from c_line cimport line_precision_t, line_reader_t, line_sample_t, line_tags_t, scan_index_fn
from c_ring cimport counter_t, ring_t


cdef extern from "stats.h" nogil:
    ctypedef struct listener_stats_t:
        counter_t datagrams
        counter_t bytes
        counter_t received
        counter_t accepted
        counter_t rewritten
        counter_t clamped
        counter_t aggregated
        counter_t *dropped
        counter_t kernel_drops


cdef extern from "lane.h" nogil:
    enum:
        LANE_LISTENERS
        LANE_RINGS

    ctypedef struct lane_socket_t:
        int fd
        uint16_t listener
        line_precision_t precision
        statsd_reader_t *statsd
        uint32_t line_bytes_max
        uint32_t datagram_bytes_max
        uint32_t queue_bytes
        uint32_t receive_buffer_bytes

    ctypedef enum lane_verb_t:
        LANE_ADD
        LANE_REMOVE
        LANE_TAGS
        LANE_SET_RINGS
        LANE_FLIP
        LANE_FORGET
        LANE_STOP

    ctypedef struct lane_command_t:
        lane_verb_t verb
        lane_socket_t socket
        bint drain
        bint gro
        line_tags_t *tags
        ring_t **rings
        uint32_t ring_count
        int64_t drain_ns
        ticker_lane_t *ticker
        const aggregate_settings_t *settings
        uint32_t first
        uint32_t count

    ctypedef struct lane_t:
        line_reader_t reader
        line_sample_t sample
        listener_stats_t *listeners
        counter_t beats
        counter_t receives
        counter_t accepted
        lane_socket_t *sockets
        uint32_t socket_count
        bint running

    int lane_open(lane_t *lane, scan_index_fn scan) noexcept
    void lane_close(lane_t *lane) noexcept
    int lane_call(lane_t *lane, lane_command_t *command) noexcept
    int lane_run(lane_t *lane) noexcept
    void lane_lock(lane_t *lane) noexcept
    void lane_unlock(lane_t *lane) noexcept
    void lane_measure_all(lane_t *lane) noexcept
    int64_t lane_cpu_ns(lane_t *lane) noexcept
    bint sample_ready(line_sample_t *sample) noexcept
    void sample_done(line_sample_t *sample) noexcept
