from libc.stdint cimport uint8_t, uint32_t, uint64_t

from c_ring cimport counter_t


cdef extern from "types.h" nogil:
    ctypedef enum type_kind_t:
        TYPE_FLOAT
        TYPE_KINDS

    const char *const *type_names

    ctypedef struct types_table_t:
        uint32_t count
        uint32_t count_max

    ctypedef struct types_t:
        types_table_t kept
        uint64_t unguarded

    int types_open(types_t *t, int fd, uint32_t fields_max) noexcept
    void types_close(types_t *t) noexcept
    bint types_table_anonymous(types_table_t *t, uint32_t fields_max, uint64_t room) noexcept
    void types_table_close(types_table_t *t) noexcept
    bint types_add(types_table_t *t, const uint8_t *m, uint32_t mn, const uint8_t *f, uint32_t fn,
                   type_kind_t kind) noexcept
    void types_pin(types_t *t, types_table_t *pinned) noexcept
    int types_sync(types_t *t) noexcept


cdef extern from "types_refused.h" nogil:
    ctypedef struct types_rules_t:
        bint coerce
        bint rename

    ctypedef struct types_refused_t:
        counter_t unsaved

    uint32_t refused_next(const types_refused_t *r, type_kind_t *kept, type_kind_t *came) noexcept
    void refused_take(types_refused_t *r, uint8_t *to, uint32_t length) noexcept
