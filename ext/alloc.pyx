# Aligned, zeroed memory: a cdef class does not keep an embedded struct aligned, and neither does malloc.

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size) noexcept


cdef void *alloc_aligned(size_t size) except NULL:
    """*size* bytes of zeros on a cache line of their own; free() gives them back. Raises MemoryError."""
    cdef size_t rounded = (size + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE
    cdef void *memory = aligned_alloc(CACHE_LINE, rounded)
    if memory == NULL:
        raise MemoryError()
    memset(memory, 0, rounded)
    return memory
