# An eventfd: many rings of one output signal it, the output's flusher sleeps on it.

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int initval, int flags) noexcept
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int c_poll "poll"(pollfd *fds, unsigned long count, int timeout_ms) noexcept
    enum:
        POLLIN

cdef extern from "<unistd.h>" nogil:
    ssize_t c_read "read"(int fd, void *to, size_t n) noexcept
    ssize_t c_write "write"(int fd, const void *data, size_t n) noexcept
    int c_close "close"(int fd) noexcept

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *t) noexcept
    enum:
        CLOCK_MONOTONIC
        CLOCK_REALTIME
        CLOCK_THREAD_CPUTIME_ID


cdef int64_t clock_ns(int clock) noexcept nogil:
    cdef timespec t
    clock_gettime(clock, &t)
    return t.tv_sec * <int64_t>1000000000 + t.tv_nsec


@cython.final
cdef class Waker:
    cdef int fd

    def __cinit__(self):
        self.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.fd < 0:
            PyErr_SetFromErrno(OSError)

    def __dealloc__(self):
        self.close()

    cpdef close(self):
        if self.fd >= 0:
            c_close(self.fd)
            self.fd = -1

    def fileno(self):
        if self.fd < 0:
            raise ValueError("the waker is closed")
        return self.fd

    def wake(self):
        cdef uint64_t one = 1
        if self.fd >= 0:
            c_write(self.fd, &one, sizeof(one))

    def wait(self, double timeout):
        cdef pollfd p
        cdef int found = 0
        cdef uint64_t count
        cdef int64_t deadline = 0, left
        if self.fd < 0:
            raise ValueError("the waker is closed")
        p.fd = self.fd
        p.events = POLLIN
        with nogil:
            if timeout >= 0:
                deadline = clock_ns(CLOCK_MONOTONIC) + <int64_t>(timeout * 1e9)
            while True:
                left = -1
                if timeout >= 0:
                    left = (deadline - clock_ns(CLOCK_MONOTONIC) + 999999) // 1000000
                    if left < 0:
                        left = 0
                    elif left > 1000000000:
                        left = 1000000000
                found = c_poll(&p, 1, <int>left)
                if found > 0 or found < 0 and errno != EINTR or found == 0 and left == 0:
                    break
                if found < 0:
                    with gil:
                        PyErr_CheckSignals()
            if found > 0:
                c_read(self.fd, &count, sizeof(count))
        return found > 0
