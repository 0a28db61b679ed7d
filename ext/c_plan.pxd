from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from c_pattern cimport pattern_list_t, pattern_t, pattern_work_t
from c_stats cimport drop_t


cdef extern from "stdbool.h":
    ctypedef bint c_bool "bool"


cdef extern from "mix.h" nogil:
    enum:
        MIX_BEHIND


cdef extern from "heads.h" nogil:
    enum:
        HEAD_BYTES_MAX
    ctypedef struct head_t:
        const uint8_t *field
        uint32_t field_length
        bint changed

    bint head_open(head_t *h) noexcept
    void head_close(head_t *h) noexcept
    bint head_read(head_t *h, const uint8_t *series, uint32_t n, const uint8_t *extra,
                   uint32_t extra_n) noexcept
    uint32_t head_write(const head_t *h, uint8_t *to, uint32_t room) noexcept


cdef extern from "plan.h" nogil:
    const uint32_t PLAN_NONE

    ctypedef struct plan_text_t:
        const uint8_t *p
        uint32_t n

    ctypedef struct plan_pair_t:
        plan_text_t key
        plan_text_t value

    ctypedef struct plan_prefix_t:
        plan_text_t text
        uint32_t parent
        uint32_t first
        uint32_t count

    ctypedef struct plan_index_t:
        const plan_prefix_t *prefixes
        const uint32_t *rules
        uint32_t prefix_count
        uint32_t words

    ctypedef enum plan_stage_t:
        PLAN_MAP
        PLAN_SHAPE

    ctypedef void (*plan_tell_fn)(void *to, plan_stage_t stage, uint32_t rule, const head_t *h,
                                  drop_t verdict) noexcept

    ctypedef struct plan_work_t:
        pattern_work_t patterns
        plan_tell_fn tell
        void *tell_to

    bint plan_open(plan_work_t *w, uint32_t words) noexcept
    void plan_close(plan_work_t *w) noexcept
    void plan_begin(plan_work_t *w) noexcept
    bint plan_add_tags(head_t *h, const uint8_t *tags, uint32_t n) noexcept


cdef extern from "plan_shape.h" nogil:
    ctypedef struct shape_template_t:
        const pattern_t *pattern
        plan_text_t text

    ctypedef struct shape_tag_t:
        plan_text_t key
        const shape_template_t *templates
        uint32_t template_count
        pattern_list_t allow
        plan_text_t otherwise
        uint32_t bytes_max

    ctypedef struct shape_rule_t:
        pattern_list_t match
        bint drop
        plan_text_t rename
        pattern_list_t drop_tags
        const plan_pair_t *rename_tags
        uint32_t rename_count
        const shape_tag_t *tags
        uint32_t tag_count
        uint32_t bytes_max
        const plan_pair_t *add
        uint32_t add_count

    ctypedef struct shape_t:
        plan_index_t index
        const shape_rule_t *rules

    drop_t plan_shape(const shape_t *shape, plan_work_t *w, head_t *h) noexcept


cdef extern from "plan_map.h" nogil:
    ctypedef struct map_piece_t:
        uint8_t kind
        uint8_t number
        bint joined
        plan_text_t text

    ctypedef struct map_form_t:
        const map_piece_t *pieces
        uint32_t count

    ctypedef struct map_tag_t:
        plan_text_t key
        map_form_t value

    ctypedef struct map_rule_t:
        const pattern_t *pattern
        uint64_t listeners
        uint8_t types
        bint drop
        bint nodes
        plan_text_t join
        map_form_t measurement
        map_form_t field
        const map_tag_t *tags
        uint32_t tag_count

    ctypedef struct map_t:
        plan_index_t index
        const map_rule_t *rules

    ctypedef struct plan_rules_t:
        map_t map
        shape_t shape

    drop_t plan_map(const map_t *map, plan_work_t *w, uint32_t listener, uint8_t type, const uint8_t *p,
                    uint32_t n, head_t *h, c_bool *mapped) noexcept
