# Looking at what passes: a tap shows lines of the batches that senders have in hand, a capture keeps
# datagrams as they came.


@cython.final
cdef class Tap:
    cdef tap_t *tap             # owned
    cdef Pattern pattern        # keeps what it points at

    def __cinit__(self, Pattern match=None, *, bint whole_head=False, listeners=None, double rate=1000.0,
                  double share=0.03):
        self.tap = <tap_t *>alloc_aligned(sizeof(tap_t))
        if not tap_open(self.tap):
            raise MemoryError()
        self.pattern = match
        self.tap.match = NULL if match is None else &match.pattern
        self.tap.whole_head = whole_head
        self.tap.anybody = listeners is None
        for number in listeners or ():
            if not 0 <= number < <int>LANE_LISTENERS:
                raise ValueError(f"listener {number}; they have numbers 0 to {LANE_LISTENERS - 1}")
            self.tap.listeners |= <uint64_t>1 << <int>number
        if not 0 < rate <= 1e9:
            raise ValueError(f"rate is {rate}; it is above 0, in lines a second")
        self.tap.rate = rate
        self.limit(share)

    def __dealloc__(self):
        if self.tap != NULL:
            tap_close(self.tap)
            free(self.tap)

    def limit(self, double share):
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}; it is from 0 to 1")
        with nogil:
            tap_lock(self.tap)
        self.tap.budget_ns = <int64_t>(share * 1e9)
        tap_unlock(self.tap)

    def offer(self, Batch batch not None):
        if not batch.open:
            raise ValueError("the batch is released: its bytes belong to the ring again")
        with nogil:
            tap_offer(self.tap, batch.ring.ring, &batch.batch, tap_clock())

    def take(self):
        cdef tap_t *t = self.tap
        cdef uint64_t evaded, passed, matched, shown, skipped
        cdef const uint8_t *text
        cdef uint32_t used
        with nogil:
            tap_lock(t)
            text = tap_take(t, &used)
            evaded = counter_get(&t.evaded)
            passed, matched, shown, skipped = t.passed, t.matched, t.shown, t.skipped
            tap_unlock(t)
        return text[:used], passed + evaded, matched, shown, skipped + evaded


# Of a block, whose bytes are given to Python at once.
cdef uint64_t CAPTURE_BLOCK_BYTES = 1 << 20


@cython.final
cdef class Capture:
    cdef capture_t *capture     # owned

    def __cinit__(self, uint64_t size):
        cdef int error
        if size > <uint64_t>1 << 34:
            raise ValueError(f"size is {size} bytes; it is 16 GiB at most")
        self.capture = <capture_t *>alloc_aligned(sizeof(capture_t))
        error = capture_open(self.capture, max(size, <uint64_t>CAPTURE_BYTES_MIN))
        if error:
            raise OSError(error, strerror(error).decode())

    def __dealloc__(self):
        if self.capture != NULL:
            capture_close(self.capture)
            free(self.capture)

    @property
    def missed(self):
        return self.capture.missed

    @property
    def waiting(self):
        return capture_waiting(self.capture)

    def rewind(self, bint oldest):
        capture_rewind(self.capture, oldest)

    @staticmethod
    def take(captures, bytes numbers not None, int64_t since_ns, int64_t until_ns,
             uint64_t most=<uint64_t>-1):
        cdef list all = list(captures)
        cdef Capture one
        cdef capture_block_t block
        cdef uint32_t count = <uint32_t>len(all)
        cdef capture_t **pointers
        if len(numbers) != <int>CAPTURE_LISTENERS:
            raise ValueError(f"{len(numbers)} numbers; there is one for each of {CAPTURE_LISTENERS}")
        memset(&block, 0, sizeof(block))
        block.numbers = numbers
        block.since_ns = since_ns
        block.until_ns = until_ns
        block.most = most
        block.room = CAPTURE_BLOCK_BYTES
        pointers = <capture_t **>alloc_aligned(count * sizeof(void *) + 1)
        try:
            for i, one in enumerate(all):
                pointers[i] = one.capture
            block.to = <uint8_t *>malloc(block.room)
            if block.to == NULL:
                raise MemoryError()
            # With Python's lock: there is one reader at a time. A mebibyte is copied at most.
            if not capture_take(pointers, count, &block):
                return None
            return block.to[:block.length], block.datagrams, block.first_ns
        finally:
            free(pointers)
            free(block.to)
