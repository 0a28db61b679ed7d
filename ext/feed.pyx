# The feed, for Python: threads hand it finished messages, and it writes them into rings of its own.

cdef dict FEED_FORMATS = {
    "line": FEED_LINE, "graphite": FEED_GRAPHITE, "protobuf": FEED_PROTOBUF, "otlp": FEED_OTLP,
}


@cython.final
cdef class Feed:
    cdef feed_t *feed           # owned
    cdef list rings             # keeps alive what the feed writes to
    cdef object guards          # and what it decides by
    cdef tuple tags             # of all messages
    cdef uint64_t tag_bytes     # that each line may gain
    cdef dict sockets           # open now, by listener
    cdef dict receivers         # the listener of each

    def __cinit__(self):
        self.rings = []
        self.tags = ()
        self.sockets = {}
        self.receivers = {}
        self.feed = <feed_t *>alloc_aligned(sizeof(feed_t))
        if not feed_open(self.feed, scan_kernel):
            raise MemoryError()

    def __dealloc__(self):
        if self.feed != NULL:
            feed_close(self.feed)
            free(self.feed)

    def set_layout(self, tags, rings, Guard guard=None):
        cdef ring_t *targets[FEED_RINGS]
        cdef list kept = list(rings), before = self.rings
        cdef uint32_t count = <uint32_t>len(kept)
        cdef guard_t *decides = guard_of(guard, len(kept))
        cdef line_tags_t *added
        cdef Ring ring
        if count > <uint32_t>FEED_RINGS:
            raise ValueError(f"{count} rings; a feed writes at most {FEED_RINGS}")
        for i, ring in enumerate(kept):
            targets[i] = ring.ring
        added = tags_of(tags)
        # Both, until no other thread writes to the former ones.
        self.rings = before + kept
        self.guards = self.guards, guard
        with nogil:
            added = feed_set_layout(self.feed, added, targets, count, decides)
        line_tags_free(added)   # the former ones
        self.rings = kept
        self.guards = guard
        self.tags = tuple(tags)
        self.tag_bytes = sum(len(key) + len(value) + 2 for key, value in tags)

    def read(self, int listener, const uint8_t[::1] data not None, *, str format="line", str precision="ns",
             uint32_t line_bytes_max=LINE_TEXT_MAX, uint32_t errors_max=0, bint whole=False,
             Graphite graphite=None, tags=()):
        cdef feed_message_t message
        cdef line_counts_t counts
        cdef line_errors_t errors
        cdef line_tags_t *added = NULL
        cdef bint fine
        cdef uint32_t i
        if format not in FEED_FORMATS:
            raise ValueError(f"format is {format!r}; it is one of {', '.join(FEED_FORMATS)}")
        if not 0 <= listener < <int>FEED_LISTENERS:
            raise ValueError(f"listener {listener}; a feed has numbers 0 to {FEED_LISTENERS - 1}")
        if data.shape[0] > 1 << 30:
            raise ValueError("more than 1 GiB at once")
        memset(&counts, 0, sizeof(counts))
        memset(&message, 0, sizeof(message))
        message.bytes = &data[0] if data.shape[0] else NULL
        message.length = <uint32_t>data.shape[0]
        message.listener = <uint16_t>listener
        message.format = FEED_FORMATS[format]
        message.precision = precision_of(precision)
        message.line_bytes_max = line_bytes_max
        message.whole = whole
        if graphite is None:
            graphite = plain_graphite
        message.graphite = graphite.graphite
        errors.list = NULL
        errors.count = 0
        errors.max = errors_max
        if errors_max:
            errors.list = <line_error_t *>malloc(errors_max * sizeof(line_error_t))
            if errors.list == NULL:
                raise MemoryError()
            message.errors = &errors
        try:
            if tags:
                known = {key for key, _ in tags}
                added = tags_of([*tags, *(pair for pair in self.tags if pair[0] not in known)])
                message.tags = added
            with nogil:
                fine = feed_read(self.feed, &message, &counts)
            if not fine:
                raise MemoryError()
            result = feed_result(&counts)
            for i in range(errors.count):
                result["errors"].append((
                    errors.list[i].number,
                    REASONS[errors.list[i].reason],
                    (<const uint8_t *>errors.list[i].text)[:errors.list[i].length],
                ))
            return result
        finally:
            free(errors.list)
            line_tags_free(added)

    def write(self, int listener, points, *, str precision="ns", bint as_written=True,
              uint32_t line_bytes_max=LINE_TEXT_MAX, uint32_t errors_max=0, uint64_t datagrams=1,
              uint64_t nbytes=0, malformed=(), burst=None):
        cdef burst_note_t *clock = NULL
        if isinstance(burst, Receiver):
            clock = &(<Receiver>burst).receiver.clock
        elif burst is not None:
            clock = &(<LeftBurst?>burst).clock
        return write_objects(self, listener, points, precision, as_written, line_bytes_max, errors_max,
                             datagrams, nbytes, malformed if type(malformed) is list else list(malformed),
                             clock)

    def refuse(self, int listener, Receiver receiver not None):
        cdef receiver_t *r = receiver.receiver
        if r.refused_datagrams == 0:
            return False
        if not 0 <= listener < <int>FEED_LISTENERS:
            raise ValueError(f"listener {listener}; a feed has numbers 0 to {FEED_LISTENERS - 1}")
        with nogil:
            feed_refuse(self.feed, <uint16_t>listener, &r.refused, r.refused_datagrams, r.refused_bytes)
        memset(&r.refused, 0, sizeof(r.refused))
        r.refused_datagrams = r.refused_bytes = 0
        return True

    def has_room(self, uint64_t nbytes, *, bint everywhere=False):
        cdef Ring ring
        for ring in self.rings:
            if feed_ring_has_room(ring.ring, nbytes, self.tag_bytes) != everywhere:
                return not everywhere
        return everywhere

    def set_sockets(self, int listener, int count):
        self.sockets[listener] = count

    def watch(self, int listener, Receiver receiver not None):
        if not 0 <= listener < <int>FEED_LISTENERS:
            raise ValueError(f"listener {listener}; a feed has numbers 0 to {FEED_LISTENERS - 1}")
        self.unwatch(receiver)
        self.receivers[receiver] = listener

    def unwatch(self, Receiver receiver not None):
        if receiver in self.receivers:
            self.measure(receiver, {})
            del self.receivers[receiver]

    cdef measure(self, Receiver receiver, dict listeners):
        """Add the kernel's drops to the counters; only under Python's lock, so one thread at a time."""
        cdef int number = self.receivers[receiver]
        cdef receiver_queue_t queue = receiver.measure()
        cdef listener_stats_t *s = &self.feed.listeners[number]
        if queue.drops:
            counter_add(&s.kernel_drops, queue.drops)
        waiting, room = listeners.get(number, (0, 0))
        listeners[number] = waiting + queue.queue_bytes, room + queue.receive_buffer_bytes

    def publish(self):
        with nogil:
            feed_publish(self.feed)

    def stats(self):
        cdef listener_stats_t *s
        cdef uint32_t i
        cdef dict listeners = {}, queues = {}
        for receiver in list(self.receivers):
            self.measure(receiver, queues)
        total = counter_get(&self.feed.accepted)
        for i in range(<uint32_t>FEED_LISTENERS):
            s = &self.feed.listeners[i]
            if i in self.sockets or counter_get(&s.datagrams) or counter_get(&s.kernel_drops):
                listeners[i] = counted(s)
                waiting, room = queues.get(i, (0, 0))
                listeners[i].update(
                    sockets=self.sockets.get(i, 0), queue_bytes=waiting, receive_buffer_bytes=room
                )
        return {
            "lane": -1,
            "beats": 0,
            "receives": counter_get(&self.feed.receives),
            "accepted": total,
            "cpu_ns": counter_get(&self.feed.cpu_ns),
            "running": True,
            "paused": False,
            "listeners": listeners,
        }

    def sample(self):
        return taken_sample(&self.feed.sample)


cdef dict feed_result(const line_counts_t *counts):
    """What became of a message; its list of errors is empty."""
    cdef uint32_t i
    cdef dict dropped = {}
    for i in range(<uint32_t>DROP_REASONS):
        if counts.dropped[i]:
            dropped[REASONS[i]] = counts.dropped[i]
    return {
        "received": counts.received,
        "accepted": counts.accepted,
        "rewritten": counts.rewritten,
        "clamped": counts.clamped,
        "dropped": dropped,
        "full": "ring_full" in dropped,
        "errors": [],
    }
