from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from c_book cimport book_t
from c_pattern cimport pattern_list_t
from c_plan cimport plan_rules_t
from c_ring cimport counter_t
from c_types cimport types_refused_t, types_rules_t, types_t


cdef extern from "mix.h" nogil:
    ctypedef struct mix_key_t:
        pass
    const mix_key_t mix_fixed
    bint mix_key_draw(mix_key_t *key) noexcept
    uint64_t mix_bytes(const mix_key_t *key, uint64_t h, const uint8_t *p, uint32_t n) noexcept


cdef extern from "plan_route.h" nogil:
    enum:
        PLAN_OUTPUTS
        PLAN_NO_GROUP

    ctypedef struct plan_tag_t:
        const uint8_t *key
        uint32_t key_length
        pattern_list_t values

    ctypedef struct plan_output_t:
        pattern_list_t measurements
        const plan_tag_t *tags
        uint32_t tag_count
        uint64_t name_hash
        int32_t group
        bint by_measurement

    ctypedef struct plan_routes_t:
        plan_output_t *outputs
        uint32_t count


cdef extern from "guard.h" nogil:
    ctypedef struct guard_t:
        counter_t unknown
        counter_t given_up
        counter_t heads
        counter_t bytes
        types_refused_t refused

    bint guard_keep_types(guard_t *g, types_t *types, types_rules_t rules) noexcept
    bint guard_open(guard_t *g, const plan_routes_t *plan, book_t *book, uint64_t series_max,
                    const mix_key_t *key) noexcept
    void guard_begin(guard_t *g, int64_t now_ns) noexcept
    bint guard_set_rules(guard_t *g, const plan_rules_t *rules) noexcept
    void guard_mark_collisions(guard_t *g) noexcept
    void guard_close(guard_t *g) noexcept
