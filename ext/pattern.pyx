# A compiled glob or regular expression: made once by agent/patterns.py, run by whoever has rules.


@cython.final
cdef class Pattern:
    cdef pattern_t pattern
    # Own what the struct points at.
    cdef bytes steps
    cdef bytes classes
    cdef readonly bytes literal

    def __cinit__(self, bytes steps not None, bytes classes not None, uint16_t captures,
                  bytes literal not None, uint8_t kind):
        self.steps = steps
        self.classes = classes
        self.literal = literal
        self.pattern.steps = <const pattern_step_t *><const uint8_t *>steps
        self.pattern.count = <uint32_t>min(len(steps) // sizeof(pattern_step_t), <size_t>0xFFFFFFFF)
        self.pattern.captures = captures
        self.pattern.kind = kind
        self.pattern.classes = <const uint8_t (*)[32]><const uint8_t *>classes
        self.pattern.class_count = <uint32_t>(len(classes) // 32)
        self.pattern.literal_length = <uint32_t>len(literal)
        self.pattern.literal = literal
        if not pattern_valid(&self.pattern):
            raise ValueError("not a program")

    @property
    def captures(self):
        return self.pattern.captures

    @property
    def is_literal(self):
        return self.pattern.kind == 1

    def match(self, bytes text not None, uint64_t budget=PATTERN_BUDGET):
        cdef pattern_work_t work
        cdef pattern_found_t found
        cdef const uint8_t *p = text
        cdef uint32_t n
        cdef bint matched
        if len(text) > 0x7FFFFFFF:
            raise ValueError("more than 2 GiB of text")
        n = <uint32_t>len(text)
        memset(&work, 0, sizeof(work))
        try:
            if not pattern_open(&work):
                raise MemoryError()
            work.budget = budget
            with nogil:
                matched = pattern_match(&self.pattern, &work, p, n, &found)
            spans = None
            if matched:
                spans = tuple(
                    None if found.start[i] == PATTERN_NONE else (found.start[i], found.end[i])
                    for i in range(self.pattern.captures)
                )
            return spans, budget - work.budget, bool(work.given_up)
        finally:
            pattern_close(&work)
