# What a StatsD listener aggregates: a table for each lane, and the tick that turns them into points.

cdef dict DIALECTS = {
    "none": 0, "dogstatsd": 1, "influxdb": 2, "librato": 4, "signalfx": 8, "auto": DIALECT_AUTO,
}

# So many series are removed from a table between two bursts: about 0.2 ms.
cdef uint32_t FORGET_AT_ONCE = 512


@cython.final
cdef class Settings:
    """Settings in the form that lanes read; immutable, kept alive as long as a lane may look at them."""
    cdef aggregate_settings_t *settings     # owned

    def __cinit__(self, percentiles, double relative_error, bint gauge_deltas, bint reset_gauges, expire,
                  double interval, str separator, str dialect):
        cdef uint32_t i
        self.settings = <aggregate_settings_t *>alloc_aligned(sizeof(aggregate_settings_t))
        if not 1e-4 <= relative_error <= 0.2:
            raise ValueError(f"relative_error is {relative_error}; it is from 0.0001 to 0.2")
        if len(percentiles) > AGGREGATE_PERCENTILES or not all(0 < p <= 100 for p in percentiles):
            raise ValueError("percentiles are at most 16 numbers above 0 and up to 100")
        if dialect not in DIALECTS:
            raise ValueError(f"dialect is {dialect!r}; it is one of {', '.join(sorted(DIALECTS))}")
        if not 1 <= len(separator) <= 8 or any(c not in SEPARATOR_BYTES for c in separator):
            raise ValueError(f"separator is {separator!r}; it is 1 to 8 of A-Z a-z 0-9 _ . - ;")
        if not interval > 0:
            raise ValueError("interval is above 0")
        self.settings.scale = sketch_scale(relative_error)
        self.settings.gauge_deltas = gauge_deltas
        self.settings.reset_gauges = reset_gauges
        self.settings.dialect = DIALECTS[dialect]
        text = separator.encode()
        self.settings.separator_length = <uint8_t>len(text)
        for i in range(<uint32_t>len(text)):
            self.settings.separator[i] = text[i]
        for i in range(<uint32_t>SERIES_TYPES):
            seconds = float(expire[statsd_type_names[i].decode()])
            ticks = max(1, min(65000, int(-(-seconds // interval))))
            self.settings.expire_ticks[i] = <uint32_t>ticks
        self.settings.percentile_count = <uint32_t>len(percentiles)
        for i, p in enumerate(percentiles):
            self.settings.percentiles[i] = p

    def __dealloc__(self):
        free(self.settings)


cdef str SEPARATOR_BYTES = "".join(chr(i) for i in range(128) if chr(i).isalnum()) + "_.-;"
cdef dict EXPIRE = dict.fromkeys(("counter", "gauge", "set", "timing", "histogram", "distribution"), 300.0)


@cython.final
cdef class Aggregator:
    cdef uint32_t lanes
    cdef aggregate_t **tables           # owned, one for each lane
    cdef statsd_reader_t **readers      # owned, one for each lane
    cdef ticker_t *ticker               # owned; under ticking
    cdef line_reader_t *writer          # owned; under ticking
    cdef Settings now, coming           # what the lanes have, and what they get with the next flip
    cdef list former                    # settings that a lane may still look at
    cdef object ticking
    cdef str separator, dialect
    cdef uint64_t points, ring_full, unrouted, conflicts, expired, value_bytes

    def __cinit__(self, uint32_t lanes, *, percentiles=(90.0,), relative_error=0.01, gauge_deltas=True,
                  reset_gauges=False, expire=EXPIRE, interval=10.0, uint32_t max_series=1000000,
                  separator="_", dialect="auto"):
        cdef uint32_t i
        cdef uint64_t seed = <uint64_t>clock_ns(CLOCK_REALTIME) * <uint64_t>0x9E3779B97F4A7C15
        seed ^= <uint64_t><size_t><void *>self
        if not 1 <= lanes <= 64:
            raise ValueError(f"{lanes} lanes; there are 1 to 64")
        if not 1 <= max_series <= 100000000:
            raise ValueError(f"max_series is {max_series}; it is from 1 to 100,000,000")
        self.now = self.coming = Settings(percentiles, relative_error, gauge_deltas, reset_gauges, expire,
                                          interval, separator, dialect)
        self.separator, self.dialect = separator, dialect
        self.former = []
        self.ticking = Lock()
        self.lanes = lanes
        self.tables = <aggregate_t **>alloc_aligned(lanes * sizeof(void *))
        self.readers = <statsd_reader_t **>alloc_aligned(lanes * sizeof(void *))
        self.ticker = <ticker_t *>alloc_aligned(sizeof(ticker_t))
        self.ticker.lanes = <ticker_lane_t *>alloc_aligned(lanes * sizeof(ticker_lane_t))
        self.writer = <line_reader_t *>alloc_aligned(sizeof(line_reader_t))
        for i in range(lanes):
            self.tables[i] = <aggregate_t *>alloc_aligned(sizeof(aggregate_t))
            self.readers[i] = <statsd_reader_t *>alloc_aligned(sizeof(statsd_reader_t))
            if not series_open(&self.tables[i].table, max_series, seed):
                raise MemoryError()
            self.tables[i].settings = self.now.settings
            self.tables[i].member_seed = seed ^ <uint64_t>0xD6E8FEB86659FD93
            self.readers[i].table = self.tables[i]
            self.readers[i].scan = scan_statsd_avx2 if ISA == "avx2" else scan_statsd_scalar
            self.ticker.lanes[i].aggregate = self.tables[i]

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.lanes):
            if self.tables != NULL and self.tables[i] != NULL:
                series_close(&self.tables[i].table)
                free(self.tables[i])
            if self.readers != NULL:
                free(self.readers[i])
            if self.ticker != NULL and self.ticker.lanes != NULL:
                free(self.ticker.lanes[i].forget)
                free(self.ticker.lanes[i].forget_tags)
        free(self.tables)
        free(self.readers)
        if self.ticker != NULL:
            free(self.ticker.lanes)
        free(self.ticker)
        if self.writer != NULL:
            line_reader_close(self.writer)
        free(self.writer)

    cdef statsd_reader_t *reader_of(self, int lane) except NULL:
        if not 0 <= lane < <int>self.lanes:
            raise ValueError(f"lane {lane}; the aggregator has tables for {self.lanes}")
        return self.readers[lane]

    def configure(self, *, percentiles=(90.0,), relative_error=0.01, gauge_deltas=True, reset_gauges=False,
                  expire=EXPIRE, interval=10.0, separator="_", dialect="auto"):
        if (separator, dialect) != (self.separator, self.dialect):
            raise ValueError("separator and dialect take a new aggregator: they decide what is one series")
        self.coming = Settings(percentiles, relative_error, gauge_deltas, reset_gauges, expire, interval,
                               separator, dialect)

    def tick(self, lanes, rings, int64_t at_ns, *, tags=(), double patience=0.0,
             Guard guard=None, uint8_t listener=RING_SEVERAL):
        with self.ticking:
            return self.tick_alone(list(lanes), list(rings), at_ns, tags, patience, guard, listener)

    cdef tick_alone(self, list lanes, list rings, int64_t at_ns, object tags, double patience, Guard guard,
                    uint8_t listener):
        cdef ticker_t *k = self.ticker
        cdef ring_t *targets[LANE_RINGS]
        cdef lane_command_t command
        cdef Lane lane
        cdef Ring ring
        cdef uint32_t i, at, n
        cdef bint fine
        cdef Settings before = self.now, after = self.coming
        cdef line_tags_t *extra
        if len(lanes) != self.lanes or len(rings) > <int>LANE_RINGS:
            raise ValueError("a tick takes all lanes, and at most 16 rings")
        extra = tags_of(tags)
        try:
            for i, ring in enumerate(rings):
                targets[i] = ring.ring
                ring_begin(ring.ring)
                ring_from(ring.ring, listener)
            self.former.append(before)
            for lane in lanes:
                memset(&command, 0, sizeof(command))
                command.verb = LANE_FLIP
                command.ticker = &k.lanes[lane.index]
                command.settings = after.settings
                k.lanes[lane.index].forget_count = 0
                lane.call(&command, None)
            self.now = after
            line_reader_open(self.writer, scan_kernel, extra)
            k.lane_count = self.lanes
            k.settings = before.settings
            k.rings = targets
            k.ring_count = <uint32_t>len(rings)
            k.writer = self.writer
            k.at_ns = at_ns
            k.patience_ns = clock_ns(CLOCK_MONOTONIC) + <int64_t>(patience * 1e9)
            k.points = k.ring_full = k.unrouted = k.conflicts = k.value_bytes = 0
            self.writer.guard = guard_of(guard, len(rings))
            with nogil:
                fine = ticker_run(k)
            self.former.remove(before)
            for lane in lanes:
                at = 0
                while True:
                    n = min(FORGET_AT_ONCE, k.lanes[lane.index].forget_count - at)
                    memset(&command, 0, sizeof(command))
                    command.verb = LANE_FORGET
                    command.ticker = &k.lanes[lane.index]
                    command.first = at
                    command.count = n
                    lane.call(&command, None)
                    self.expired += command.count
                    at += n
                    if at >= k.lanes[lane.index].forget_count:
                        break
            self.points += k.points
            self.ring_full += k.ring_full
            self.unrouted += k.unrouted
            self.conflicts += k.conflicts
            self.value_bytes = 2 * k.value_bytes    # one for each epoch
            if not fine:
                raise MemoryError()
            return k.points
        finally:
            line_tags_free(extra)

    def stats(self):
        cdef uint32_t i
        cdef uint64_t series = 0, samples = 0, size = 0
        for i in range(self.lanes):
            series += self.tables[i].table.live
            samples += counter_get(&self.tables[i].samples)
            size += self.tables[i].table.bytes
        return {
            "series": series,
            "samples": samples,
            "points": self.points,
            "ring_full": self.ring_full,
            "unrouted": self.unrouted,
            "conflicts": self.conflicts,
            "expired": self.expired,
            "bytes": size + self.value_bytes,
        }


def read_statsd(const uint8_t[::1] data not None, Aggregator aggregator not None, *, object tags=(),
                int64_t now_ns=0, uint32_t line_bytes_max=65536, object rings=None, Guard guard=None,
                uint16_t listener=0):
    """Read one datagram into the first table of *aggregator* as a lane does. For tests and tools."""
    cdef uint32_t n = <uint32_t>data.shape[0]
    cdef line_tags_t *extra = tags_of(tags)
    cdef line_reader_t *reader = NULL
    cdef uint8_t *text = NULL
    cdef line_counts_t counts
    cdef ring_batch_t found
    cdef Ring ring
    cdef list targets = [large_ring(max(1 << 20, 8 * n), "lp")] if rings is None else list(rings)
    cdef Py_ssize_t i
    if len(targets) > <int>LANE_RINGS:
        raise ValueError("at most 16 rings")
    memset(&counts, 0, sizeof(counts))
    try:
        reader = <line_reader_t *>alloc_aligned(sizeof(line_reader_t))
        text = <uint8_t *>malloc(n + 2 * PORT_PADDING)
        if text == NULL:
            raise MemoryError()
        line_reader_open(reader, kernel_of(None), extra)
        if n:
            memcpy(text, &data[0], n)
        memset(text + n, 0, 2 * PORT_PADDING)
        for i, ring in enumerate(targets):
            reader.rings[i] = ring.ring
            ring_begin(ring.ring)
        reader.ring_count = <uint32_t>len(targets)
        reader.listener = listener
        reader.guard = guard_of(guard, len(targets))
        reader.line_bytes_max = line_bytes_max
        reader.arrival_ns = now_ns
        reader.stamp_ns = now_ns - 1
        if reader.guard != NULL:
            guard_begin(reader.guard, now_ns)
        aggregator.readers[0].reader = reader
        with nogil:
            statsd_read(aggregator.readers[0], text, n, &counts)
            statsd_done(aggregator.readers[0], &counts)
            for i in range(<Py_ssize_t>reader.ring_count):
                ring_publish(reader.rings[i])
                ring_count_accepted(reader.rings[i], counts.points)
        body = b""
        ring = targets[0]
        if rings is None and ring_take(ring.ring, <uint64_t>-1, <uint64_t>-1, True, &found):
            body = found.bytes[:found.length]
            ring_free(ring.ring, &found)
    finally:
        line_tags_free(extra)
        free(text)
        if reader != NULL:
            line_reader_close(reader)
            free(reader)
    return {
        "body": body,
        "received": counts.received,
        "accepted": counts.accepted,
        "aggregated": counts.aggregated,
        "shaped": counts.shaped,
        "overflowed": counts.overflowed,
        "coerced": counts.coerced,
        "fields_rejected": counts.fields_rejected,
        "dropped": {REASONS[i]: counts.dropped[i] for i in range(DROP_REASONS) if counts.dropped[i]},
    }


def bench_statsd(const uint8_t[::1] data not None, uint32_t datagram_bytes, double seconds,
                 Aggregator aggregator not None):
    """Read *data*, cut into datagrams at line ends, 64 datagrams a burst, again and again without the GIL."""
    cdef uint64_t n = data.shape[0], at, end
    cdef line_counts_t counts
    cdef line_reader_t *reader = <line_reader_t *>alloc_aligned(sizeof(line_reader_t))
    cdef uint8_t *text = <uint8_t *>malloc(n + 2 * PORT_PADDING)
    cdef line_tags_t *extra = tags_of(())
    cdef int64_t start, now, cpu
    cdef uint32_t in_burst = 0
    cdef uint64_t passes = 0
    try:
        memcpy(text, &data[0], n)
        memset(text + n, 0, 2 * PORT_PADDING)
        line_reader_open(reader, kernel_of(None), extra)
        memset(&counts, 0, sizeof(counts))
        aggregator.readers[0].reader = reader
        with nogil:
            start = now = clock_ns(CLOCK_MONOTONIC)
            cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID)
            while now - start < <int64_t>(seconds * 1e9):
                at = 0
                while at < n:
                    end = at + datagram_bytes
                    if end > n:
                        end = n
                    while end > at + 1 and text[end - 1] != 10:
                        end -= 1
                    statsd_read(aggregator.readers[0], text + at, <uint32_t>(end - at), &counts)
                    at = end
                    in_burst += 1
                    if in_burst == 64:
                        statsd_done(aggregator.readers[0], &counts)
                        in_burst = 0
                statsd_done(aggregator.readers[0], &counts)
                passes += 1
                now = clock_ns(CLOCK_MONOTONIC)
            cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu
    finally:
        line_tags_free(extra)
        free(text)
        line_reader_close(reader)
        free(reader)
    return {"samples": counts.received, "accepted": counts.accepted, "ns": now - start, "cpu_ns": cpu,
            "passes": passes}
