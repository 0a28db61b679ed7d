# The lane, for Python: a thread calls run(), everyone else sends commands and reads counters.

CLOSE_NAMES = tuple(stats_close_names[i].decode() for i in range(CLOSE_REASONS))


cdef dict counted(listener_stats_t *s):
    """The counters of one listener, without any socket."""
    cdef uint32_t k
    # Accepted and dropped first: meanwhile received can only grow.
    accepted = counter_get(&s.accepted)
    dropped = {}
    for k in range(<uint32_t>DROP_REASONS):
        if counter_get(&s.dropped[k]):
            dropped[REASONS[k]] = counter_get(&s.dropped[k])
    closed = {}
    for k in range(<uint32_t>CLOSE_REASONS):
        if counter_get(&s.connections_closed[k]):
            closed[CLOSE_NAMES[k]] = counter_get(&s.connections_closed[k])
    return {
        "datagrams": counter_get(&s.datagrams),
        "bytes": counter_get(&s.bytes),
        "received": counter_get(&s.received),
        "accepted": accepted,
        "rewritten": counter_get(&s.rewritten),
        "clamped": counter_get(&s.clamped),
        "aggregated": counter_get(&s.aggregated),
        "shaped": counter_get(&s.shaped),
        "overflowed": counter_get(&s.overflowed),
        "observed": counter_get(&s.observed),
        "coerced": counter_get(&s.coerced),
        "fields_rejected": counter_get(&s.fields_rejected),
        "dropped": dropped,
        "sockets": 0,
        "kernel_drops": counter_get(&s.kernel_drops),
        "queue_bytes": 0,
        "receive_buffer_bytes": 0,
        "connections": counter_get(&s.connections),
        "connections_accepted": counter_get(&s.connections_accepted),
        "connections_refused": counter_get(&s.connections_refused),
        "connections_closed": closed,
        "requests": {},
    }


cdef object taken_sample(line_sample_t *sample):
    """A malformed line since the last call: (listener, reason, bytes), or None."""
    if not sample_ready(sample):
        return None
    result = sample.listener, REASONS[sample.reason], (<const uint8_t *>sample.text)[:sample.length]
    sample_done(sample)
    return result


cdef dict FORMATS = {
    "line": LANE_LINE, "statsd": LANE_STATSD, "graphite": LANE_GRAPHITE, "protobuf": LANE_PROTOBUF,
}


@cython.final
cdef class Connections:
    cdef lane_limit_t *limit    # owned

    def __cinit__(self, uint32_t most):
        self.limit = <lane_limit_t *>alloc_aligned(sizeof(lane_limit_t))
        limit_set(self.limit, most)

    def __dealloc__(self):
        free(self.limit)

    @property
    def open(self):
        return limit_open(self.limit)

    @property
    def most(self):
        return limit_most(self.limit)

    @most.setter
    def most(self, uint32_t value):
        limit_set(self.limit, value)


@cython.final
cdef class Lane:
    cdef lane_t *lane           # owned
    cdef readonly int index
    cdef list rings             # keeps alive what the lane writes to
    cdef object guards          # and what it decides by
    cdef dict kept              # by fd: keeps alive aggregators, templates, limits and sources
    cdef Burst burst            # what it receives datagrams into
    cdef object captures        # what it keeps them in besides

    def __cinit__(self, int index, Burst burst=None):
        self.index = index
        self.rings = []
        self.kept = {}
        self.lane = <lane_t *>alloc_aligned(sizeof(lane_t))
        self.burst = burst if burst is not None else Burst()
        cdef int error = lane_open(self.lane, scan_kernel, self.burst.burst)
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

    def set_layout(self, tags, rings, Guard guard=None):
        cdef lane_command_t command
        cdef Ring ring
        cdef list kept = list(rings), before = self.rings
        memset(&command, 0, sizeof(command))
        command.verb = LANE_LAYOUT
        if len(kept) > LANE_RINGS:
            raise ValueError(f"{len(kept)} rings; a lane writes at most {LANE_RINGS}")
        for i, ring in enumerate(kept):
            command.rings[i] = ring.ring
        command.ring_count = <uint32_t>len(kept)
        command.guard = guard_of(guard, len(kept))
        command.tags = tags_of(tags)
        # Both, until the lane has let go of the former ones.
        self.rings = before + kept
        former, self.guards = self.guards, (self.guards, guard)
        try:
            self.call(&command, None)
        except BaseException:
            self.guards = former
            raise
        finally:
            line_tags_free(command.tags)  # the lane's former ones
        self.rings = kept
        self.guards = guard

    def set_capture(self, Capture capture):
        cdef lane_command_t command
        memset(&command, 0, sizeof(command))
        command.verb = LANE_CAPTURE
        command.capture = NULL if capture is None else capture.capture
        self.captures = self.captures, capture      # both, until the lane has let go of the former
        self.call(&command, None)
        self.captures = capture

    def add_socket(self, int listener, int fd, *, str precision="ns", uint32_t line_bytes_max=65536,
                   uint32_t datagram_bytes_max=65536, bint gro=True, str format="line",
                   Aggregator aggregator=None, Graphite graphite=None, Connections connections=None,
                   double idle_timeout=0.0, bint accepts=True, bint shared=False, bint framed=False,
                   str name="", str address="", Sources sources=None):
        cdef lane_command_t command
        cdef bytes known = burst_text(name), where = burst_text(address)
        if format not in FORMATS:
            raise ValueError(f"format is {format!r}; it is one of {', '.join(FORMATS)}")
        if (format == "statsd") != (aggregator is not None):
            raise ValueError("a socket of format statsd has an aggregator, and no other")
        if graphite is not None and format != "graphite":
            raise ValueError("only a socket of format graphite has templates")
        if not 0 <= listener < <int>LANE_LISTENERS:
            raise ValueError(f"listener {listener}; a lane has numbers 0 to {LANE_LISTENERS - 1}")
        memset(&command, 0, sizeof(command))
        command.verb = LANE_ADD
        command.gro = gro
        command.name = known
        command.address = where
        command.socket.fd = fd
        command.socket.listener = <uint16_t>listener
        command.socket.format = FORMATS[format]
        command.socket.precision = precision_of(precision)
        command.socket.line_bytes_max = line_bytes_max
        command.socket.datagram_bytes_max = datagram_bytes_max
        if connections is not None:
            command.socket.limit = connections.limit
            command.socket.idle_ns = <int64_t>(idle_timeout * 1e9)
            command.socket.accepts = accepts
            command.socket.shared = shared
            command.socket.framed = framed
            command.socket.line_bytes_max = min(line_bytes_max, <uint32_t>LINE_TEXT_MAX)
            command.socket.datagram_bytes_max = min(datagram_bytes_max, <uint32_t>LINE_TEXT_MAX)
        if sources is not None:
            command.socket.sources = &sources.rules
            command.socket.local = source_is_local(fd)
        if aggregator is not None:
            command.socket.statsd = aggregator.reader_of(self.index)
        if format == "graphite":
            graphite = graphite if graphite is not None else plain_graphite
            command.socket.graphite = graphite.graphite
        before = self.kept.get(fd)
        after = aggregator, graphite, connections, sources
        self.kept[fd] = (before, after)      # both, until the lane has let go of the former
        try:
            self.call(&command, f"socket {fd}")
        except BaseException:
            self.kept[fd] = before
            raise
        self.kept[fd] = after

    def add_connection(self, int fd, int connection, str peer=None):
        cdef lane_command_t command
        memset(&command, 0, sizeof(command))
        command.verb = LANE_CONNECT
        command.socket.fd = fd
        command.connection = connection
        if peer is not None:
            command.peer = peer_of(peer)
        self.call(&command, f"socket {fd}")

    def remove_socket(self, int fd, bint drain=True):
        cdef lane_command_t command
        memset(&command, 0, sizeof(command))
        command.verb = LANE_REMOVE
        command.socket.fd = fd
        command.drain = drain
        self.call(&command, f"socket {fd}")
        self.kept.pop(fd, None)

    def replay(self, int fd, LeftBurst left not None):
        cdef lane_command_t command
        if not left.readable:
            raise ValueError("a burst that cannot be trusted is not read")
        memset(&command, 0, sizeof(command))
        command.verb = LANE_REPLAY
        command.socket.fd = fd
        command.left = &left.burst
        self.call(&command, f"socket {fd}")

    def refuse(self, int listener, LeftBurst left not None):
        cdef lane_command_t command
        if not 0 <= listener < <int>LANE_LISTENERS:
            raise ValueError(f"listener {listener}; a lane has numbers 0 to {LANE_LISTENERS - 1}")
        memset(&command, 0, sizeof(command))
        command.verb = LANE_REFUSE
        command.socket.listener = <uint16_t>listener
        command.left = &left.burst
        command.found = &left.found
        self.call(&command, None)

    def stats(self):
        cdef lane_t *lane = self.lane
        cdef listener_stats_t *s
        cdef uint32_t i
        cdef int64_t cpu
        cdef bint running, paused
        cdef dict listeners = {}
        with nogil:
            lane_lock(lane)
            lane_measure_all(lane)
            cpu = lane_cpu_ns(lane)
            running = lane.running
            paused = lane.paused
        # The lock is held while Python objects are made: nothing here waits, or runs code of others.
        sockets = {}
        for i in range(lane.socket_count):
            if lane.sockets[i].fd < 0:
                continue
            count, queue, buffer = sockets.get(lane.sockets[i].listener, (0, 0, 0))
            sockets[lane.sockets[i].listener] = (
                count + 1, queue + lane.sockets[i].queue_bytes, buffer + lane.sockets[i].receive_buffer_bytes
            )
        lane_unlock(lane)
        for i in range(<uint32_t>LANE_LISTENERS):
            s = &lane.listeners[i]
            if (i not in sockets and not counter_get(&s.received) and not counter_get(&s.bytes)
                    and not counter_get(&s.kernel_drops)
                    and not counter_get(&s.connections_accepted)):
                continue
            listeners[i] = counted(s)
            count, queue, buffer = sockets.get(i, (0, 0, 0))
            listeners[i].update(sockets=count, queue_bytes=queue, receive_buffer_bytes=buffer)
        return {
            "lane": self.index,
            "beats": counter_get(&lane.beats),
            "receives": counter_get(&lane.receives),
            "accepted": counter_get(&lane.accepted),
            "cpu_ns": cpu,
            "running": running,
            "paused": paused,
            "listeners": listeners,
        }

    def sample(self):
        return taken_sample(&self.lane.sample)
