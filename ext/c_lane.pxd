from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from c_aggregate cimport aggregate_settings_t, statsd_reader_t, ticker_lane_t
from c_formats cimport graphite_t
from c_guard cimport guard_t
from c_line cimport line_counts_t, line_precision_t, line_reader_t, line_sample_t, line_tags_t, scan_index_fn
from c_ring cimport counter_t, ring_t
from c_source cimport source_peer_t, source_rules_t
from c_watch cimport capture_t


cdef extern from "stats.h" nogil:
    ctypedef struct listener_stats_t:
        counter_t datagrams
        counter_t bytes
        counter_t received
        counter_t accepted
        counter_t rewritten
        counter_t clamped
        counter_t aggregated
        counter_t shaped
        counter_t overflowed
        counter_t observed
        counter_t coerced
        counter_t fields_rejected
        counter_t *dropped
        counter_t kernel_drops
        counter_t connections
        counter_t connections_accepted
        counter_t connections_refused
        counter_t *connections_closed

    enum:
        CLOSE_REASONS
    const char *const *stats_close_names


cdef extern from "burst_left.h" nogil:
    enum:
        BURST_MESSAGES
        BURST_MESSAGE_BYTES
        BURST_STRIDE
        BURST_NAME_BYTES
        MSG_TRUNC

    cdef struct msghdr:
        int msg_flags
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len

    ctypedef struct burst_note_t:
        int64_t arrival_ns
        int64_t stamp_ns

    ctypedef struct burst_header_t:
        uint32_t listener   # atomic
        burst_note_t note
        mmsghdr *messages

    ctypedef struct burst_t:
        burst_header_t *header
        uint8_t *buffers

    ctypedef enum burst_state_t:
        BURST_WHOLE
        BURST_UNFINISHED
        BURST_FOREIGN
        BURST_OLDER
        BURST_TORN
        BURST_FATAL

    ctypedef struct burst_findings_t:
        burst_state_t state
        bint known
        uint32_t messages
        uint64_t datagrams

    int burst_open(burst_t *b, int fd, const uint8_t *boot_id, int64_t created_ns) noexcept
    int burst_try_left(burst_t *b, int fd, burst_findings_t *found) noexcept
    void burst_close(burst_t *b) noexcept
    void burst_name(burst_t *b, uint32_t listener, const char *name, const char *address) noexcept
    uint32_t burst_segment_bytes(msghdr *message, uint32_t length) noexcept
    const char *burst_said(const burst_t *b, int which) noexcept
    int burst_read_left(burst_t *b, int fd, const uint8_t *boot_id, int64_t now_ns,
                        burst_findings_t *found) noexcept


cdef extern from "lane_socket.h" nogil:
    ctypedef enum lane_format_t:
        LANE_LINE
        LANE_STATSD
        LANE_GRAPHITE
        LANE_PROTOBUF

    ctypedef struct lane_limit_t:
        uint32_t most

    ctypedef struct lane_socket_t:
        int fd
        uint16_t listener
        lane_format_t format
        line_precision_t precision
        statsd_reader_t *statsd
        const graphite_t *graphite
        uint32_t line_bytes_max
        uint32_t datagram_bytes_max
        lane_limit_t *limit
        const source_rules_t *sources
        bint local
        int64_t idle_ns
        bint accepts
        bint shared
        bint framed
        uint32_t queue_bytes
        uint32_t receive_buffer_bytes

    uint32_t limit_open(const lane_limit_t *limit) noexcept
    uint32_t limit_most(const lane_limit_t *limit) noexcept
    void limit_set(lane_limit_t *limit, uint32_t most) noexcept
    void lane_read(line_reader_t *reader, const lane_socket_t *socket, uint8_t *text, uint32_t n,
                   line_counts_t *counts) noexcept
    void lane_read_done(const lane_socket_t *socket, line_counts_t *counts) noexcept


cdef extern from "stream.h" nogil:
    enum:
        STREAM_HELD_MAX

    ctypedef struct stream_t:
        pass

    ctypedef enum stream_state_t:
        STREAM_ON
        STREAM_BAD_FRAME
        STREAM_NO_MEMORY

    stream_state_t stream_take(stream_t *s, line_reader_t *reader, const lane_socket_t *socket, uint8_t *p,
                               uint32_t n, uint64_t *frames, line_counts_t *counts) noexcept
    void stream_end(stream_t *s, line_reader_t *reader, const lane_socket_t *socket, bint whole,
                    line_counts_t *counts) noexcept
    void stream_forget(stream_t *s) noexcept


cdef extern from "lane.h" nogil:
    enum:
        LANE_LISTENERS
        LANE_RINGS

    ctypedef enum lane_verb_t:
        LANE_ADD
        LANE_REMOVE
        LANE_CONNECT
        LANE_LAYOUT
        LANE_FLIP
        LANE_FORGET
        LANE_REPLAY
        LANE_REFUSE
        LANE_CAPTURE
        LANE_STOP

    ctypedef struct lane_command_t:
        lane_verb_t verb
        lane_socket_t socket
        int connection
        source_peer_t peer
        bint drain
        bint gro
        const char *name
        const char *address
        burst_t *left
        const burst_findings_t *found
        line_tags_t *tags
        ring_t **rings
        uint32_t ring_count
        guard_t *guard
        capture_t *capture
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
        bint paused

    int lane_open(lane_t *lane, scan_index_fn scan, burst_t *burst) noexcept
    void lane_close(lane_t *lane) noexcept
    int lane_call(lane_t *lane, lane_command_t *command) noexcept
    int lane_run(lane_t *lane) noexcept
    void lane_lock(lane_t *lane) noexcept
    void lane_unlock(lane_t *lane) noexcept
    void lane_measure_all(lane_t *lane) noexcept
    int64_t lane_cpu_ns(lane_t *lane) noexcept
    bint sample_ready(line_sample_t *sample) noexcept
    void sample_done(line_sample_t *sample) noexcept
