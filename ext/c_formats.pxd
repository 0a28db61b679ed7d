from libc.stdint cimport uint8_t, uint32_t, uint64_t

from c_line cimport line_counts_t, line_reader_t


cdef extern from "graphite.h" nogil:
    enum:
        GRAPHITE_NODES_MAX
        GRAPHITE_JOIN_MAX
        GRAPHITE_TEXT_MAX

    const uint32_t GRAPHITE_NONE

    ctypedef struct graphite_text_t:
        uint32_t at
        uint32_t length

    ctypedef struct graphite_part_t:
        graphite_text_t key
        graphite_text_t constant
        uint8_t *node
        uint8_t node_count
        bint rest

    ctypedef struct graphite_template_t:
        graphite_part_t measurement
        graphite_part_t field
        uint32_t tag_first
        uint32_t tag_count

    ctypedef struct graphite_filter_t:
        graphite_text_t text
        uint32_t child_first
        uint32_t child_count
        uint32_t star
        uint32_t template

    ctypedef struct graphite_t:
        graphite_template_t *templates
        graphite_part_t *tags
        graphite_filter_t *filters
        uint8_t *text
        uint32_t by_default
        uint8_t *join
        uint32_t join_length

    void graphite_free(graphite_t *g) noexcept
    void graphite_read(const graphite_t *g, line_reader_t *c, const uint8_t *text, uint32_t n,
                       line_counts_t *counts) noexcept


cdef extern from "remote_read.h" nogil:
    void remote_read(line_reader_t *c, const uint8_t *p, uint64_t n, line_counts_t *counts) noexcept


cdef extern from "otlp_read.h" nogil:
    void otlp_read(line_reader_t *c, const uint8_t *p, uint64_t n, line_counts_t *counts) noexcept
