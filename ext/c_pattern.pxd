from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "pattern.h" nogil:
    enum:
        PATTERN_CAPTURES_MAX
    const uint32_t PATTERN_NONE
    const uint64_t PATTERN_BUDGET

    ctypedef struct pattern_step_t:
        pass

    ctypedef struct pattern_t:
        const pattern_step_t *steps
        uint32_t count
        uint16_t captures
        uint8_t kind
        const uint8_t (*classes)[32]
        uint32_t class_count
        uint32_t literal_length
        const uint8_t *literal

    ctypedef struct pattern_found_t:
        uint32_t start[16]
        uint32_t end[16]

    ctypedef struct pattern_work_t:
        uint64_t budget
        uint64_t runs
        bint given_up

    ctypedef struct pattern_list_t:
        const pattern_t *const *patterns
        uint32_t wanted
        uint32_t unwanted

    bint pattern_open(pattern_work_t *w) noexcept
    void pattern_close(pattern_work_t *w) noexcept
    bint pattern_valid(const pattern_t *p) noexcept
    bint pattern_match(const pattern_t *p, pattern_work_t *w, const uint8_t *text, uint32_t n,
                       pattern_found_t *found) noexcept
