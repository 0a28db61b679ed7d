# The book: which series the agent knows. Writers ask it through their guards; Python sets its limits.

cdef tuple POLICIES = ("overflow", "drop_tag", "drop")
cdef tuple VERDICTS = ("passes", "overflows", "observed", "drops")


@cython.final
cdef class Book:
    cdef book_t *book           # owned
    cdef head_t head            # under the GIL

    def __cinit__(self):
        self.book = <book_t *>alloc_aligned(sizeof(book_t))
        if not book_open(self.book) or not head_open(&self.head):
            raise MemoryError()

    def __dealloc__(self):
        head_close(&self.head)
        if self.book != NULL:
            book_close(self.book)
        free(self.book)

    def configure(self, uint64_t max_series, double window, *, policy="overflow", bint observe=False,
                  double reserve=0.25, limits=()):
        cdef book_limits_t now
        cdef list texts = []
        cdef bytes measurement, tag
        cdef uint32_t i
        cdef bint good
        if not 1 <= max_series <= 100000000:
            raise ValueError(f"max_series is {max_series}; it is from 1 to 100,000,000")
        if not 1 <= window <= 30 * 86400:
            raise ValueError(f"window is {window} s; it is from 1 s to 30 days")
        if not 0 <= reserve <= 0.9:
            raise ValueError(f"reserve is {reserve}; it is from 0 to 0.9")
        if len(limits) > BOOK_LIMITS:
            raise ValueError(f"{len(limits)} limits; there are at most {BOOK_LIMITS}")
        memset(&now, 0, sizeof(now))
        now.series_max = max_series
        now.window_ns = <int64_t>(window * 1e9)
        now.reserve = reserve
        now.policy = <uint8_t>POLICIES.index(policy)
        now.observe = observe
        now.count = <uint32_t>len(limits)
        for i, (measurement, tag, series_max, its_policy) in enumerate(limits):
            texts += (measurement, tag)
            now.limit[i].measurement = <const uint8_t *><const char *>measurement
            now.limit[i].measurement_length = <uint32_t>len(measurement)
            now.limit[i].tag = <const uint8_t *><const char *>tag
            now.limit[i].tag_length = <uint32_t>len(tag)
            now.limit[i].series_max = series_max
            now.limit[i].policy = <uint8_t>POLICIES.index(its_policy or policy)
        with nogil:
            good = book_configure(self.book, &now)
        if not good:
            raise MemoryError()

    def clear(self):
        with nogil:
            book_clear(self.book)

    def sweep(self, int64_t monotonic_ns, int64_t realtime_ns):
        with nogil:
            book_sweep(self.book, monotonic_ns, realtime_ns)

    def stats(self):
        cdef book_stats_t s
        with nogil:
            book_read_stats(self.book, &s)
        return {
            "series": s.series,
            "series_max": s.series_max,
            "overflow_series": s.overflow_series,
            "expired": s.expired,
            "refused": s.refused,
            "observed": s.observed,
            "unknown": s.unknown,
            "touched": s.touched,
            "bytes": s.bytes,
        }

    def offenders(self):
        cdef book_offender_t *them = <book_offender_t *>alloc_aligned(HEAVY_MAX * sizeof(book_offender_t))
        cdef heavy_entry_t *e
        cdef uint32_t i, k, count
        cdef list found = []
        try:
            with nogil:
                count = book_read_offenders(self.book, them)
            for i in range(count):
                e = &them[i].entry
                found.append({
                    "measurement": (<char *>e.measurement)[:e.measurement_length].decode("utf-8", "replace"),
                    "tag": (<char *>e.tag)[:e.tag_length].decode("utf-8", "replace"),
                    "count": e.count,
                    "error": e.error,
                    "series": them[i].series,
                    "refused": e.refused,
                    "per_minute": round(heavy_per_minute(e, them[i].minute)),
                    "samples": [
                        (<char *>e.sample[k])[:e.sample_length[k]].decode("utf-8", "replace")
                        for k in range(<uint32_t>HEAVY_SAMPLES) if e.sample_length[k]
                    ],
                    "policy": POLICIES[e.policy] if e.refused else "",
                    "since_ns": e.first_ns,
                    "last_ns": e.last_ns,
                })
        finally:
            free(them)
        return sorted(found, key=lambda one: (-one["per_minute"], -one["refused"], -one["count"]))

    def decide(self, bytes head not None):
        cdef uint8_t *to
        cdef uint64_t identity
        cdef uint32_t n
        cdef book_verdict_t verdict
        if len(head) > <Py_ssize_t>HEAD_BYTES_MAX or not head_read(
                &self.head, <const uint8_t *><const char *>head, <uint32_t>len(head), NULL, 0):
            raise ValueError("this is no head of a line")
        verdict = book_decide(self.book, &self.head, &identity)
        to = <uint8_t *>alloc_aligned(HEAD_BYTES_MAX)
        try:
            n = head_write(&self.head, to, HEAD_BYTES_MAX)
            return VERDICTS[<int>verdict], (<char *>to)[:n]
        finally:
            free(to)
