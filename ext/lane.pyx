# The lane, for Python: a thread calls run(), everyone else sends commands and reads counters.

@cython.final
cdef class Lane:
    cdef lane_t *lane           # owned
    cdef readonly int index
    cdef list rings             # keeps alive what the lane writes to
    cdef dict aggregators       # by fd: keeps alive what the lane aggregates into

    def __cinit__(self, int index):
        self.index = index
        self.rings = []
        self.aggregators = {}
        self.lane = <lane_t *>alloc_aligned(sizeof(lane_t))
        cdef int error = lane_open(self.lane, scan_kernel)
        if error:
            raise OSError(error, strerror(error).decode())

    def __dealloc__(self):
        if self.lane != NULL:
            lane_close(self.lane)
            free(self.lane)

    cdef call(self, lane_command_t *command, object subject):
        cdef int error
        with nogil:
            error = lane_call(self.lane, command)
        if error:
            raise OSError(error, strerror(error).decode(), subject)

    def run(self):
        cdef int error
        with nogil:
            error = lane_run(self.lane)
        if error:
            raise OSError(error, strerror(error).decode())

    def stop(self, double drain=1.0):
        cdef lane_command_t command
        memset(&command, 0, sizeof(command))
        command.verb = LANE_STOP
        command.drain_ns = <int64_t>(drain * 1e9)
        self.call(&command, None)

    def set_tags(self, tags):
        cdef lane_command_t command
        memset(&command, 0, sizeof(command))
        command.verb = LANE_TAGS
        command.tags = tags_of(tags)
        try:
            self.call(&command, None)
        finally:
            line_tags_free(command.tags)  # the lane's former ones

    def set_rings(self, rings):
        cdef lane_command_t command
        cdef Ring ring
        cdef list kept = list(rings)
        memset(&command, 0, sizeof(command))
        command.verb = LANE_SET_RINGS
        if len(kept) > LANE_RINGS:
            raise ValueError(f"{len(kept)} rings; a lane writes at most {LANE_RINGS}")
        for i, ring in enumerate(kept):
            command.rings[i] = ring.ring
        command.ring_count = <uint32_t>len(kept)
        cdef list before = self.rings
        self.rings = before + kept      # both, until the lane has let go of the former ones
        self.call(&command, None)
        self.rings = kept

    def add_socket(self, int listener, int fd, *, str precision="ns", uint32_t line_bytes_max=65536,
                   uint32_t datagram_bytes_max=65536, bint gro=True, str format="line",
                   Aggregator aggregator=None):
        cdef lane_command_t command
        if format not in ("line", "statsd"):
            raise ValueError(f"format is {format!r}; it is line or statsd")
        if (format == "statsd") != (aggregator is not None):
            raise ValueError("a socket of format statsd has an aggregator, and no other")
        if not 0 <= listener < <int>LANE_LISTENERS:
            raise ValueError(f"listener {listener}; a lane has numbers 0 to {LANE_LISTENERS - 1}")
        memset(&command, 0, sizeof(command))
        command.verb = LANE_ADD
        command.gro = gro
        command.socket.fd = fd
        command.socket.listener = <uint16_t>listener
        command.socket.precision = precision_of(precision)
        command.socket.line_bytes_max = line_bytes_max
        command.socket.datagram_bytes_max = datagram_bytes_max
        if aggregator is not None:
            command.socket.statsd = aggregator.reader_of(self.index)
        before = self.aggregators.get(fd)
        self.aggregators[fd] = (before, aggregator)     # both, until the lane has let go of the former
        try:
            self.call(&command, f"socket {fd}")
        except BaseException:
            self.aggregators[fd] = before
            raise
        self.aggregators[fd] = aggregator

    def remove_socket(self, int fd, bint drain=True):
        cdef lane_command_t command
        memset(&command, 0, sizeof(command))
        command.verb = LANE_REMOVE
        command.socket.fd = fd
        command.drain = drain
        self.call(&command, f"socket {fd}")
        self.aggregators.pop(fd, None)

    def stats(self):
        cdef lane_t *lane = self.lane
        cdef listener_stats_t *s
        cdef uint32_t i, k
        cdef int64_t cpu
        cdef bint running
        cdef dict listeners = {}
        with nogil:
            lane_lock(lane)
            lane_measure_all(lane)
            cpu = lane_cpu_ns(lane)
            running = lane.running
        # The lock is held while Python objects are made: nothing here waits, or runs code of others.
        sockets = {}
        for i in range(lane.socket_count):
            count, queue, buffer = sockets.get(lane.sockets[i].listener, (0, 0, 0))
            sockets[lane.sockets[i].listener] = (
                count + 1, queue + lane.sockets[i].queue_bytes, buffer + lane.sockets[i].receive_buffer_bytes
            )
        lane_unlock(lane)
        for i in range(<uint32_t>LANE_LISTENERS):
            s = &lane.listeners[i]
            if i not in sockets and not counter_get(&s.datagrams) and not counter_get(&s.kernel_drops):
                continue
            # Accepted and dropped first: meanwhile received can only grow.
            accepted = counter_get(&s.accepted)
            dropped = {}
            for k in range(<uint32_t>DROP_REASONS):
                if counter_get(&s.dropped[k]):
                    dropped[REASONS[k]] = counter_get(&s.dropped[k])
            count, queue, buffer = sockets.get(i, (0, 0, 0))
            listeners[i] = {
                "datagrams": counter_get(&s.datagrams),
                "bytes": counter_get(&s.bytes),
                "received": counter_get(&s.received),
                "accepted": accepted,
                "rewritten": counter_get(&s.rewritten),
                "clamped": counter_get(&s.clamped),
                "aggregated": counter_get(&s.aggregated),
                "dropped": dropped,
                "sockets": count,
                "kernel_drops": counter_get(&s.kernel_drops),
                "queue_bytes": queue,
                "receive_buffer_bytes": buffer,
            }
        return {
            "lane": self.index,
            "beats": counter_get(&lane.beats),
            "receives": counter_get(&lane.receives),
            "accepted": counter_get(&lane.accepted),
            "cpu_ns": cpu,
            "running": running,
            "listeners": listeners,
        }

    def sample(self):
        cdef line_sample_t *sample = &self.lane.sample
        if not sample_ready(sample):
            return None
        result = sample.listener, REASONS[sample.reason], (<const uint8_t *>sample.text)[:sample.length]
        sample_done(sample)
        return result
