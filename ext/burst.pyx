# The memory that datagrams are received into, in a file that outlives the process; what an earlier one left.

cdef dict BURST_STATES = {
    BURST_WHOLE: ("whole", ""),
    BURST_UNFINISHED: ("unfinished", "the process that made it was killed before it was one"),
    BURST_FOREIGN: ("foreign", "it is not a burst, or not of the size that it says"),
    BURST_OLDER: ("older", "it is of another version, or from before this machine was started"),
    BURST_TORN: ("torn", "it is damaged"),
    BURST_FATAL: ("fatal", "the agents that read it have ended, time and again"),
}


cdef bytes burst_text(str text):
    """A listener's name or address as it stands in a file: cut, and without half a character at the end."""
    return text.encode()[:BURST_NAME_BYTES - 1].decode(errors="ignore").encode()


cdef tuple datagrams_of(burst_t *burst, uint32_t bytes_max):
    """The datagrams in hand that are not empty: those of up to *bytes_max* bytes, and the larger ones."""
    cdef list good = [], large = []
    cdef mmsghdr *message
    cdef const uint8_t *text
    cdef uint32_t length, segment, at
    cdef int i
    for i in range(BURST_MESSAGES):
        message = &burst.header.messages[i]
        text = <const uint8_t *>burst.buffers + <size_t>i * BURST_STRIDE
        at, length = 0, message.msg_len
        segment = burst_segment_bytes(&message.msg_hdr, length)
        while at < length:
            segment = min(segment, length - at)
            if message.msg_hdr.msg_flags & MSG_TRUNC or segment > bytes_max:
                large.append(text[at:at + segment])
            else:
                good.append(text[at:at + segment])
            at += segment
    return good, large


@cython.final
cdef class Burst:
    cdef burst_t *burst         # owned
    cdef readonly object path

    def __cinit__(self, path=None):
        cdef const uint8_t *boot_id = BOOT_ID
        cdef int error, fd = -1
        cdef bytes name
        self.burst = <burst_t *>alloc_aligned(sizeof(burst_t))
        if path is not None:
            name = os_fsencode(path)
            fd = c_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
            if fd < 0:
                raise OSError(errno, strerror(errno).decode(), path)
        with nogil:
            error = burst_open(self.burst, fd, boot_id, clock_ns(CLOCK_REALTIME))
        if fd >= 0:
            c_close(fd)
        if error:
            if path is not None:
                os_unlink(path)
            raise OSError(error, strerror(error).decode(), path)
        self.path = path

    def __dealloc__(self):
        if self.burst != NULL:
            burst_close(self.burst)
            free(self.burst)

    def name(self, int listener, str name not None, str address not None):
        cdef bytes known = burst_text(name), where = burst_text(address)
        if not 0 <= listener < <int>LANE_LISTENERS:
            raise ValueError(f"listener {listener}; a burst has numbers 0 to {LANE_LISTENERS - 1}")
        burst_name(self.burst, <uint32_t>listener, known, where)

    def remove(self):
        if self.path is not None:
            try:
                os_unlink(self.path)
            except FileNotFoundError:
                pass
        self.path = None


@cython.final
cdef class LeftBurst:
    cdef burst_t burst
    cdef burst_findings_t found
    cdef burst_note_t clock     # of what is made of it: see feed_write

    def __cinit__(self, str path not None):
        cdef const uint8_t *boot_id = BOOT_ID
        cdef int error, fd
        try:
            fd = open_left_ring(path, O_RDWR)
        except RingError:
            self.found.state = BURST_FOREIGN
            return
        with nogil:
            error = burst_read_left(&self.burst, fd, boot_id, clock_ns(CLOCK_REALTIME), &self.found)
            if not error:
                error = burst_try_left(&self.burst, fd, &self.found)
        c_close(fd)
        if error:
            raise OSError(error, strerror(error).decode(), path)
        self.clock = self.burst.header.note

    def __dealloc__(self):
        burst_close(&self.burst)

    @property
    def state(self):
        return BURST_STATES[self.found.state][0]

    @property
    def reason(self):
        return BURST_STATES[self.found.state][1]

    @property
    def readable(self):
        return self.found.state == BURST_WHOLE

    @property
    def known(self):
        return self.found.known

    @property
    def messages(self):
        return self.found.messages

    @property
    def datagrams(self):
        return self.found.datagrams

    cdef str said(self, int which):
        cdef bytes text = b"" if self.burst.header == NULL else burst_said(&self.burst, which)
        return text.decode(errors="replace")

    @property
    def name(self):
        return self.said(0)

    @property
    def address(self):
        return self.said(1)

    def parts(self, uint32_t bytes_max=LINE_TEXT_MAX):
        if not self.readable:
            raise ValueError("a burst that cannot be trusted is not read")
        return datagrams_of(&self.burst, bytes_max)

    def named(self, str name not None, str address not None):
        return burst_text(name).decode() == self.name, burst_text(address).decode() == self.address
