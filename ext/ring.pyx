# The ring and its batches, for Python: what a flusher takes, sends and gives back.

cdef extern from "<sys/mman.h>" nogil:
    int memfd_create(const char *name, unsigned int flags) noexcept
    enum:
        MFD_CLOEXEC
    enum:
        PROT_READ

cdef extern from "<fcntl.h>" nogil:
    int c_open "open"(const char *path, int flags, int mode) noexcept
    enum:
        O_RDONLY
        O_RDWR
        O_CREAT
        O_EXCL
        O_CLOEXEC
        O_NOFOLLOW
        O_NONBLOCK

cdef sum_lanes_fn sum_kernel = sum_lanes_best()
if os_environ.get("PENSTOCK_ISA", "") == "scalar":
    sum_kernel = sum_lanes_scalar


cdef bytes read_boot_id():
    """Which start of this machine it is: rings are adopted only from processes of the same one."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return bytes.fromhex(file.read().replace("-", "")).ljust(RING_BOOT_BYTES, b"\0")[:RING_BOOT_BYTES]
    except (OSError, ValueError):
        return bytes(RING_BOOT_BYTES)


cdef bytes BOOT_ID = read_boot_id()

cdef dict ENCODINGS = {"lp": RING_LP, "lp_signed": RING_LP_SIGNED, "pb": RING_PB}
cdef dict ENCODING_NAMES = {number: name for name, number in ENCODINGS.items()}


cdef ring_encoding_t encoding_of(str name) except *:
    if name not in ENCODINGS:
        raise ValueError(f"encoding is {name!r}; it is one of {', '.join(ENCODINGS)}")
    return ENCODINGS[name]


cdef dict STATES = {
    RING_UNFINISHED: ("unfinished", "the process that made it was killed before it was a ring"),
    RING_FOREIGN: ("foreign", "it is not a ring, or not of the size that it says"),
    RING_OLDER: ("older", "it is of another version, or from before this machine was started"),
    RING_TORN: ("torn", "it is damaged"),
}


cdef int open_left_ring(object path, int flags) except -1:
    """Opens a file that somebody left. Raises OSError, RingError: not for what only looks like a file."""
    if not stat_S_ISREG(os_lstat(path).st_mode):
        raise RingError("foreign", f"{path}: it is not a file")
    cdef bytes name = os_fsencode(path)
    cdef int fd = c_open(name, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0)
    if fd < 0:
        raise OSError(errno, strerror(errno).decode(), path)
    return fd


cdef raise_ring_error(object path, ring_findings_t *found):
    kind, reason = STATES[found.state]
    if found.state == RING_TORN and found.salvageable:
        reason = f"{found.torn_runs} of its {found.runs + found.torn_runs} runs are damaged"
    raise RingError(kind, f"{path}: {reason}", salvageable=found.salvageable)


@cython.final
cdef class Ring:
    cdef ring_t *ring           # owned
    cdef readonly object path
    cdef Waker waker            # its descriptor is used by the writer
    cdef bint detached
    cdef readonly uint64_t torn

    def __cinit__(self, path, uint64_t capacity, Waker waker not None, *, uint32_t slot_bytes=65536,
                  uint32_t slot_metrics=256, str encoding="lp", bint _adopt=False):
        self.ring = <ring_t *>alloc_aligned(sizeof(ring_t))
        self.path = path
        self.waker = waker
        self.ring.wake_fd = waker.fileno()
        self.ring.encoding = encoding_of(encoding)
        # What only this process can see needs no proof that it is whole.
        self.ring.sum = NULL if path is None else sum_kernel
        self.limits(slot_bytes, slot_metrics)
        if _adopt:
            self.adopt_file()
        else:
            self.make_file(capacity)

    cdef make_file(self, uint64_t capacity):
        cdef int fd, error
        cdef bytes name
        cdef const uint8_t *boot_id = BOOT_ID
        if capacity < 65536 or capacity > <uint64_t>1 << 40:
            raise ValueError(f"capacity is {capacity} bytes; a ring takes 64 KiB to 1 TiB")
        if self.path is None:
            fd = memfd_create(b"penstock-ring", MFD_CLOEXEC)
        else:
            name = os_fsencode(self.path)
            fd = c_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        if fd < 0:
            raise OSError(errno, strerror(errno).decode(), self.path)
        with nogil:
            error = ring_open(self.ring, fd, capacity, boot_id, clock_ns(CLOCK_REALTIME))
        c_close(fd)
        if error:
            if self.path is not None:
                os_unlink(self.path)
            raise OSError(error, strerror(error).decode(), self.path)

    cdef adopt_file(self):
        cdef ring_findings_t found
        cdef const uint8_t *boot_id = BOOT_ID
        cdef int error, fd = open_left_ring(self.path, O_RDWR)
        with nogil:
            error = ring_adopt(self.ring, fd, boot_id, &found)
        c_close(fd)
        if error:
            raise OSError(error, strerror(error).decode(), self.path)
        if found.state != RING_WHOLE:
            raise_ring_error(self.path, &found)

    @staticmethod
    def adopt(str path not None, Waker waker not None, *, uint32_t slot_bytes=65536,
              uint32_t slot_metrics=256, uint64_t torn=0):
        cdef Ring ring = Ring(path, 0, waker, slot_bytes=slot_bytes, slot_metrics=slot_metrics, _adopt=True)
        ring.torn = torn
        return ring

    def __dealloc__(self):
        if self.ring != NULL:
            ring_close(self.ring)
            free(self.ring)

    @property
    def capacity(self):
        return self.ring.capacity

    @property
    def encoding(self):
        return ENCODING_NAMES[self.ring.encoding]

    def limits(self, uint32_t slot_bytes, uint32_t slot_metrics):
        if slot_bytes < 1 or slot_metrics < 1:
            raise ValueError("a slot holds at least one byte and one metric")
        self.ring.slot_bytes_max = slot_bytes
        self.ring.slot_metrics_max = slot_metrics

    def populate(self, uint64_t bytes_max):
        with nogil:
            ring_populate(self.ring, bytes_max)

    def put(self, const uint8_t[::1] data not None, uint32_t metrics=1, int64_t arrival_ns=0, *,
            bint marked=False):
        cdef uint64_t n = data.shape[0]
        if n == 0 or metrics == 0:
            raise ValueError("nothing to put")
        ring_begin(self.ring)
        ring_from(self.ring, RING_SEVERAL)
        cdef uint8_t *to = ring_reserve(self.ring, n)
        if to == NULL:
            return False
        memcpy(to, &data[0], n)
        if marked:
            ring_mark(self.ring)
        ring_commit(self.ring, n, metrics, arrival_ns)
        self.ring.offered = metrics
        ring_count_accepted(self.ring, metrics)
        ring_publish(self.ring)
        ring_notify(self.ring)
        return True

    def take(self, uint64_t bytes_max, uint64_t metrics_max, bint partial):
        cdef ring_batch_t found
        if not ring_take(self.ring, bytes_max, metrics_max, partial, &found):
            return None
        cdef Batch batch = Batch.__new__(Batch)
        batch.ring = self
        batch.batch = found
        batch.open = True
        return batch

    def arm(self, uint64_t bytes_min, uint64_t metrics_min):
        return ring_arm(self.ring, bytes_min, metrics_min)

    def pending(self):
        cdef uint64_t metrics = counter_get(&self.ring.published_metrics)
        cdef uint64_t size = counter_get(&self.ring.published_bytes)
        return metrics - self.ring.taken_metrics, size - self.ring.taken_bytes

    def young(self, double within):
        return ring_young(self.ring, clock_ns(CLOCK_REALTIME) - <int64_t>(within * 1e9 + 0.5))

    def stats(self):
        cdef ring_t *r = self.ring
        # Freed first: a writer at work meanwhile can only make "waiting" larger, never negative.
        cdef uint64_t freed = counter_get(&r.freed), freed_bytes = counter_get(&r.freed_bytes)
        cdef uint64_t written = counter_get(&r.written), written_bytes = counter_get(&r.written_bytes)
        cdef uint64_t restored = counter_get(&r.restored), restored_bytes = counter_get(&r.restored_bytes)
        return {
            "restored": restored + self.torn,
            "torn": self.torn,
            "accepted": counter_get(&r.accepted),
            "written": written,
            "missed": counter_get(&r.missed),
            "filtered": counter_get(&r.filtered),
            "left_out": counter_get(&r.left_out),
            "written_bytes": written_bytes,
            "freed": freed,
            "waiting": restored + written - freed,
            "waiting_bytes": restored_bytes + written_bytes - freed_bytes,
            "capacity_bytes": r.capacity,
            "slots_used": ring_slots_used(r),
            "restarts": counter_get(&r.restarts),
        }

    def close(self, bint unlink=True):
        if not self.detached:
            self.detached = True
            if unlink and self.path is not None:
                try:
                    os_unlink(self.path)
                except FileNotFoundError:
                    pass


@cython.final
cdef class Batch:
    cdef Ring ring              # keeps the memory mapped
    cdef ring_batch_t batch
    cdef Py_ssize_t views
    cdef bint open              # taken and not yet released

    def __init__(self):
        raise TypeError("batches come from Ring.take")

    def __dealloc__(self):
        # Of a ring that was closed, what is not delivered belongs to the next process.
        if self.open and not self.ring.detached:
            ring_free(self.ring.ring, &self.batch)

    def __getbuffer__(self, Py_buffer *view, int flags):
        if not self.open:
            raise ValueError("the batch is released: its bytes belong to the ring again")
        PyBuffer_FillInfo(view, self, <void *>self.batch.bytes, <Py_ssize_t>self.batch.length, 1, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.views -= 1

    def __len__(self):
        return self.batch.length

    @property
    def encoding(self):
        return self.ring.encoding

    @property
    def metrics(self):
        return self.batch.metrics

    @property
    def nbytes(self):
        return self.batch.length

    @property
    def oldest_ns(self):
        return self.batch.oldest_ns

    @property
    def place(self):
        cdef uint64_t begin = self.batch.begin
        return ring_made_ns(self.ring.ring), begin, self.batch.end - begin

    @property
    def own(self):
        if not self.open:
            raise ValueError("the batch is released: its slots belong to the ring again")
        return ring_young_of(self.ring.ring, self.batch.begin, self.batch.end, -(1 << 62))

    @property
    def marked(self):
        return self.batch.marked

    def merge(self, bint nudge):
        # The text lies in the ring, with something readable behind it.
        if not self.open:
            raise ValueError("the batch is released: its bytes belong to the ring again")
        return merged_lines(self.batch.bytes, self.batch.length, nudge)

    @property
    def released(self):
        return not self.open

    def release(self, Delays delays=None, uint64_t delivered=0):
        if not self.open:
            return
        if self.views:
            raise BufferError(f"{self.views} views of the batch are still open")
        self.open = False
        if delays is not None and delivered:
            delays_of_slots(&delays.delays, self.ring.ring, self.batch.begin, self.batch.end,
                            self.batch.metrics, delivered, clock_ns(CLOCK_REALTIME))
        ring_free(self.ring.ring, &self.batch)

    def keep(self):
        if self.views:
            raise BufferError(f"{self.views} views of the batch are still open")
        self.open = False


def salvage_ring(str path not None, str to not None):
    cdef ring_findings_t found
    cdef const ring_note_t *note = NULL
    cdef const uint8_t *boot_id = BOOT_ID
    cdef ring_t *source = <ring_t *>alloc_aligned(sizeof(ring_t))
    cdef Ring saved
    cdef int error, fd = -1
    try:
        source.sum = sum_kernel
        fd = open_left_ring(path, O_RDONLY)
        with nogil:
            error = ring_examine(source, fd, PROT_READ, boot_id, &found, &note)
        if error:
            raise OSError(error, strerror(error).decode(), path)
        if not found.salvageable:
            raise_ring_error(path, &found)
        saved = Ring(to, source.capacity, Waker(), encoding=ENCODING_NAMES[source.encoding])
        with nogil:
            ring_salvage(saved.ring, source, note, &found)
        saved.close(unlink=False)
    finally:
        if fd >= 0:
            c_close(fd)
        ring_close(source)
        free(source)
    return found.metrics, found.torn_metrics
