# The types of fields that are kept, for the guards of all writers.

cdef tuple TYPE_NAMES = tuple([type_names[i].decode() for i in range(<int>TYPE_KINDS)])


@cython.final
cdef class Types:
    cdef types_t *types         # owned

    def __cinit__(self, uint32_t max_fields, int fd=-1):
        cdef int error
        if not 1 <= max_fields <= 10000000:
            raise ValueError(f"max_fields is {max_fields}; it is from 1 to 10,000,000")
        self.types = <types_t *>alloc_aligned(sizeof(types_t))
        with nogil:
            error = types_open(self.types, fd, max_fields)
        if error:
            raise OSError(error, strerror(error).decode())

    def __dealloc__(self):
        if self.types != NULL:
            types_close(self.types)
        free(self.types)

    def pin(self, fields):
        cdef types_table_t pinned
        cdef bytes measurement, name
        cdef list many = list(fields)
        cdef uint64_t room = 128
        for measurement, name, _ in many:
            room += len(measurement) + len(name) + 24
        memset(&pinned, 0, sizeof(pinned))
        try:
            if not types_table_anonymous(&pinned, <uint32_t>len(many) + 1, room):
                raise MemoryError()
            for measurement, name, kind in many:
                types_add(&pinned, measurement, <uint32_t>len(measurement), name, <uint32_t>len(name),
                          <type_kind_t><int>TYPE_NAMES.index(kind))
            types_pin(self.types, &pinned)
        finally:
            types_table_close(&pinned)

    def sync(self):
        cdef int error
        with nogil:
            error = types_sync(self.types)
        if error:
            raise OSError(error, strerror(error).decode())

    def stats(self):
        return {
            "fields": self.types.kept.count,
            "fields_max": self.types.kept.count_max,
            "unguarded": self.types.unguarded,
        }
