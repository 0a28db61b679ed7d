# Datagrams for formats that Python decodes, and JSON values told apart.

cdef extern from "receiver.h" nogil:
    ctypedef struct receiver_t:
        capture_t *capture
        uint16_t listener
        uint32_t taken
        uint32_t given
        burst_note_t clock
        line_counts_t refused
        uint64_t refused_datagrams
        uint64_t refused_bytes
    ctypedef struct receiver_datagram_t:
        const uint8_t *text
        uint32_t length
        bint cut
    ctypedef struct receiver_queue_t:
        uint32_t queue_bytes
        uint32_t receive_buffer_bytes
        uint32_t drops
    int receiver_open(receiver_t *r, int fd, burst_t *burst, bint glue) noexcept
    void receiver_done(receiver_t *r) noexcept
    void receiver_close(receiver_t *r) noexcept
    void receiver_glue(receiver_t *r, bint glue) noexcept
    void receiver_take(receiver_t *r, int timeout_ms) noexcept
    bint receiver_next(receiver_t *r, receiver_datagram_t *datagram) noexcept
    void receiver_wake(receiver_t *r) noexcept
    bint receiver_set_sources(receiver_t *r, const source_rules_t *sources) noexcept
    void receiver_charge(receiver_t *r, uint64_t metrics) noexcept
    receiver_queue_t receiver_measure(receiver_t *r) noexcept

cdef extern from "json_split.h" nogil:
    ctypedef struct json_split_t:
        const uint8_t *p
        size_t n
    bint json_split_next(json_split_t *s, size_t *start, size_t *end) noexcept


@cython.final
cdef class Receiver:
    cdef receiver_t *receiver   # owned
    cdef Burst burst            # what it receives into
    cdef Sources sources        # whom it asks
    cdef Capture capture        # what it keeps datagrams in besides
    cdef uint16_t listener      # whose they are there

    def __cinit__(self, int fd, Burst burst=None, *, bint gro=False):
        cdef int error
        self.burst = burst if burst is not None else Burst()
        self.receiver = <receiver_t *>alloc_aligned(sizeof(receiver_t))
        error = receiver_open(self.receiver, fd, self.burst.burst, gro)
        if error:
            raise OSError(error, strerror(error).decode())

    def __dealloc__(self):
        if self.receiver != NULL:
            receiver_close(self.receiver)
            free(self.receiver)

    def receive(self, double timeout, uint32_t bytes_max=LINE_TEXT_MAX, uint64_t nbytes=1 << 16):
        cdef int wait = <int>(timeout * 1000)
        cdef uint64_t total = 0
        cdef list good = []
        cdef list large = []
        cdef receiver_datagram_t one
        cdef Capture kept = self.capture    # as long as this call may write there
        self.receiver.capture = NULL if kept is None else kept.capture
        self.receiver.listener = self.listener
        with nogil:
            receiver_take(self.receiver, wait)
        while total < nbytes and receiver_next(self.receiver, &one):
            total += one.length
            (large if one.cut or one.length > bytes_max else good).append(one.text[:one.length])
        return good, large

    @property
    def holds(self):
        return self.receiver.given < self.receiver.taken

    def done(self, uint64_t metrics=0):
        receiver_charge(self.receiver, metrics)
        receiver_done(self.receiver)

    def ask(self, Sources sources):
        if sources is not self.sources and receiver_set_sources(
                self.receiver, NULL if sources is None else &sources.rules):
            self.sources = sources

    def set_capture(self, Capture capture, uint16_t listener):
        self.listener = listener
        self.capture = capture
        receiver_wake(self.receiver)

    def set_gro(self, bint on):
        receiver_glue(self.receiver, on)

    def wake(self):
        receiver_wake(self.receiver)

    cdef receiver_queue_t measure(self):
        return receiver_measure(self.receiver)


def split_json(const uint8_t[::1] data not None):
    cdef json_split_t split
    cdef size_t start = 0, end = 0
    cdef list pieces = []
    memset(&split, 0, sizeof(split))
    if data.shape[0]:
        split.p = &data[0]
        split.n = <size_t>data.shape[0]
        while json_split_next(&split, &start, &end):
            pieces.append((<const uint8_t *>split.p)[start:end])
    return pieces
