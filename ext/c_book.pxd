from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "heads.h" nogil:
    const uint32_t HEAD_BYTES_MAX

    ctypedef struct head_t:
        pass

    bint head_open(head_t *h) noexcept
    void head_close(head_t *h) noexcept
    bint head_read(head_t *h, const uint8_t *series, uint32_t n, const uint8_t *extra,
                   uint32_t extra_n) noexcept
    uint32_t head_write(const head_t *h, uint8_t *to, uint32_t room) noexcept


cdef extern from "heavy.h" nogil:
    enum:
        HEAVY_MAX
        HEAVY_SAMPLES

    ctypedef struct heavy_entry_t:
        uint64_t pair
        uint64_t count
        uint64_t error
        uint64_t refused
        int64_t first_ns
        int64_t last_ns
        uint8_t policy
        uint8_t measurement_length
        uint8_t tag_length
        uint8_t *sample_length
        uint8_t *measurement
        uint8_t *tag
        uint8_t (*sample)[64]

    double heavy_per_minute(const heavy_entry_t *e, int64_t minute) noexcept


cdef extern from "book.h" nogil:
    enum:
        BOOK_LIMITS

    ctypedef enum book_verdict_t:
        BOOK_PASSES
        BOOK_OVERFLOWS
        BOOK_OBSERVED
        BOOK_DROPS

    ctypedef struct book_limit_t:
        const uint8_t *measurement
        const uint8_t *tag
        uint32_t measurement_length
        uint32_t tag_length
        uint32_t series_max
        uint8_t policy

    ctypedef struct book_limits_t:
        uint64_t series_max
        int64_t window_ns
        double reserve
        uint8_t policy
        bint observe
        uint32_t count
        book_limit_t *limit

    ctypedef struct book_stats_t:
        uint64_t series
        uint64_t series_max
        uint64_t overflow_series
        uint64_t expired
        uint64_t refused
        uint64_t observed
        uint64_t unknown
        uint64_t touched
        uint64_t bytes

    ctypedef struct book_offender_t:
        heavy_entry_t entry
        uint32_t series
        int64_t minute

    ctypedef struct book_t:
        pass

    bint book_open(book_t *b) noexcept
    void book_close(book_t *b) noexcept
    bint book_configure(book_t *b, const book_limits_t *limits) noexcept
    void book_clear(book_t *b) noexcept
    void book_sweep(book_t *b, int64_t monotonic_ns, int64_t realtime_ns) noexcept
    void book_read_stats(book_t *b, book_stats_t *s) noexcept
    uint32_t book_read_offenders(book_t *b, book_offender_t *to) noexcept
    book_verdict_t book_decide(book_t *b, head_t *h, uint64_t *identity) noexcept
