from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "port.h" nogil:
    ctypedef struct counter_t:
        pass
    uint64_t counter_get(const counter_t *c) noexcept
    void counter_add(counter_t *c, uint64_t n) noexcept
    enum:
        CACHE_LINE
        PORT_PADDING


cdef extern from "sum.h" nogil:
    ctypedef void (*sum_lanes_fn)(uint32_t *lanes, const uint8_t *p, uint64_t n) noexcept
    void sum_lanes_scalar(uint32_t *lanes, const uint8_t *p, uint64_t n) noexcept
    sum_lanes_fn sum_lanes_best() noexcept


cdef extern from "ring.h" nogil:
    enum:
        RING_SLOTS
        RING_OUT_MAX
        RING_BOOT_BYTES
        RING_SEVERAL

    ctypedef enum ring_encoding_t:
        RING_LP
        RING_LP_SIGNED
        RING_PB

    ctypedef struct ring_t:
        uint64_t capacity
        uint8_t *data
        int wake_fd
        ring_encoding_t encoding
        sum_lanes_fn sum
        uint32_t slot_bytes_max   # atomic; Cython stores it with sequential consistency
        uint32_t slot_metrics_max
        uint64_t position
        uint64_t taken_metrics
        uint64_t taken_bytes
        uint64_t offered
        counter_t accepted
        counter_t written
        counter_t missed
        counter_t filtered
        counter_t left_out
        counter_t written_bytes
        counter_t restarts
        counter_t published_metrics
        counter_t published_bytes
        counter_t restored
        counter_t restored_bytes
        counter_t freed
        counter_t freed_bytes

    ctypedef struct ring_batch_t:
        const uint8_t *bytes
        uint64_t length
        uint64_t begin
        uint64_t end
        uint32_t metrics
        int64_t oldest_ns
        bint marked

    int ring_open(ring_t *r, int fd, uint64_t capacity, const uint8_t *boot_id, int64_t created_ns) noexcept
    int64_t ring_made_ns(const ring_t *r) noexcept
    void ring_close(ring_t *r) noexcept
    void ring_populate(ring_t *r, uint64_t n) noexcept
    uint8_t *ring_reserve(ring_t *r, uint64_t n) noexcept
    void ring_commit(ring_t *r, uint64_t n, uint32_t metrics, int64_t arrival_ns) noexcept
    void ring_mark(ring_t *r) noexcept
    void ring_publish(ring_t *r) noexcept
    void ring_notify(ring_t *r) noexcept
    void ring_begin(ring_t *r) noexcept
    void ring_from(ring_t *r, uint8_t listener) noexcept
    uint64_t ring_young_of(const ring_t *r, uint64_t begin, uint64_t end, int64_t since_ns) noexcept
    uint64_t ring_young(const ring_t *r, int64_t since_ns) noexcept
    bint ring_take(ring_t *r, uint64_t bytes_max, uint64_t metrics_max, bint partial,
                   ring_batch_t *batch) noexcept
    void ring_free(ring_t *r, const ring_batch_t *batch) noexcept
    bint ring_arm(ring_t *r, uint64_t bytes_min, uint64_t metrics_min) noexcept
    uint64_t ring_slots_used(ring_t *r) noexcept
    void ring_count_accepted(ring_t *r, uint64_t metrics) noexcept


cdef extern from "ring_adopt.h" nogil:
    ctypedef enum ring_state_t:
        RING_WHOLE
        RING_UNFINISHED
        RING_FOREIGN
        RING_OLDER
        RING_TORN

    ctypedef struct ring_note_t:
        pass

    ctypedef struct ring_findings_t:
        ring_state_t state
        bint salvageable
        uint64_t runs
        uint64_t metrics
        uint64_t bytes
        uint64_t torn_runs
        uint64_t torn_metrics

    int ring_adopt(ring_t *r, int fd, const uint8_t *boot_id, ring_findings_t *found) noexcept
    int ring_examine(ring_t *r, int fd, int prot, const uint8_t *boot_id, ring_findings_t *found,
                     const ring_note_t **note) noexcept
    void ring_salvage(ring_t *to, const ring_t *source, const ring_note_t *note,
                      ring_findings_t *found) noexcept
