from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from c_pattern cimport pattern_t
from c_ring cimport counter_t, ring_batch_t, ring_t


cdef extern from "delays.h" nogil:
    enum:
        HISTOGRAM_DECADES_MAX
        HISTOGRAM_EXPONENT_MAX

    ctypedef struct histogram_t:
        uint32_t count
        double *bounds
        uint64_t *buckets
        double sum

    ctypedef struct delays_t:
        histogram_t *delay
        int64_t within_ns
        uint64_t on_time

    void histogram_open(histogram_t *h, int exponent, uint32_t decades) noexcept
    void histogram_add(histogram_t *h, double value, uint64_t weight) noexcept
    void delays_add(delays_t *d, int64_t oldest_ns, uint64_t metrics, bint own, int64_t now_ns) noexcept
    void delays_of_slots(delays_t *d, const ring_t *r, uint64_t begin, uint64_t end, uint64_t metrics,
                         uint64_t delivered, int64_t now_ns) noexcept


cdef extern from "tap.h" nogil:
    ctypedef struct tap_t:
        const pattern_t *match
        bint whole_head
        bint anybody
        uint64_t listeners
        double rate
        int64_t budget_ns
        uint64_t passed
        uint64_t matched
        uint64_t shown
        uint64_t skipped
        counter_t evaded

    bint tap_open(tap_t *t) noexcept
    void tap_close(tap_t *t) noexcept
    void tap_lock(tap_t *t) noexcept
    void tap_unlock(tap_t *t) noexcept
    const uint8_t *tap_take(tap_t *t, uint32_t *used) noexcept
    int64_t tap_clock() noexcept
    void tap_offer(tap_t *t, const ring_t *r, const ring_batch_t *batch, int64_t now_ns) noexcept


cdef extern from "capture.h" nogil:
    enum:
        CAPTURE_BYTES_MIN
        CAPTURE_LISTENERS
        CAPTURE_UNWANTED

    ctypedef struct capture_t:
        uint64_t missed

    ctypedef struct capture_block_t:
        const uint8_t *numbers
        int64_t since_ns
        int64_t until_ns
        uint64_t most
        uint8_t *to
        uint64_t room
        uint64_t length
        uint64_t datagrams
        int64_t first_ns

    int capture_open(capture_t *c, uint64_t bytes) noexcept
    void capture_close(capture_t *c) noexcept
    void capture_rewind(capture_t *c, bint oldest) noexcept
    uint64_t capture_waiting(const capture_t *c) noexcept
    bint capture_take(capture_t **captures, uint32_t count, capture_block_t *b) noexcept
