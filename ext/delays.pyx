# How long metrics take: histograms, and those of an output.


@cython.final
cdef class Histogram:
    cdef histogram_t *histogram     # owned

    def __cinit__(self, double least, uint32_t decades):
        cdef int exponent = 0
        text = f"{least:.0e}"
        if not text.startswith("1e") or float(text) != least or abs(int(text[2:])) > HISTOGRAM_EXPONENT_MAX:
            raise ValueError(f"the least bound is {least}; it is a power of ten, from 1e-10 to 1e10")
        if not 1 <= decades <= HISTOGRAM_DECADES_MAX:
            raise ValueError(f"{decades} powers of ten; there are 1 to {HISTOGRAM_DECADES_MAX}")
        exponent = int(text[2:])
        self.histogram = <histogram_t *>alloc_aligned(sizeof(histogram_t))
        histogram_open(self.histogram, exponent, decades)

    def __dealloc__(self):
        free(self.histogram)

    @property
    def bounds(self):
        return tuple([self.histogram.bounds[i] for i in range(self.histogram.count)])

    def observe(self, double value, uint64_t weight=1):
        histogram_add(self.histogram, value, weight)

    def read(self):
        cdef histogram_t *h = self.histogram
        return [h.buckets[i] for i in range(h.count + 1)], h.sum


@cython.final
cdef class Delays:
    cdef readonly Histogram histogram
    cdef delays_t delays

    def __cinit__(self, double within):
        self.histogram = Histogram(1e-4, 9)
        self.delays.delay = self.histogram.histogram
        self.within = within

    @property
    def within(self):
        return self.delays.within_ns / 1e9

    @within.setter
    def within(self, double seconds):
        self.delays.within_ns = <int64_t>(seconds * 1e9 + 0.5)

    @property
    def on_time(self):
        return self.delays.on_time

    def file(self, int64_t oldest_ns, uint64_t delivered, bint ours):
        delays_add(&self.delays, oldest_ns, delivered, ours, clock_ns(CLOCK_REALTIME))
