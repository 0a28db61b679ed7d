# Who may send how much: the buckets of a listener's sources, and the rules by which they are asked.

from ipaddress import IPv6Address, ip_address


cdef str source_text(const source_key_t *key):
    """A source as people write it."""
    if key.kind == SOURCE_IPV4:
        return str(ip_address(<uint32_t>key.value))
    if key.kind == SOURCE_IPV6:
        return f"{IPv6Address(<object>key.value << 64)}/64"
    if key.kind == SOURCE_LINK:
        return str(IPv6Address(0xFE80 << 112 | <object>key.value))
    return f"pid {key.value}" if key.kind == SOURCE_PROCESS else "unknown"


cdef source_peer_t peer_of(str address):
    """Where a connection comes from that Python has accepted."""
    cdef bytes packed
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return source_of_address(NULL, 0)
    packed = found.packed
    if found.version == 4:
        return source_of_ipv4(<uint32_t>int(found))
    return source_of_ipv6(packed)


@cython.final
cdef class Buckets:
    """The buckets of one listener; several Sources may ask them, one after the other."""
    cdef sources_t *sources     # owned

    def __cinit__(self, uint64_t most):
        self.sources = <sources_t *>alloc_aligned(sizeof(sources_t))
        cdef int error = sources_open(self.sources, most)
        if error:
            raise OSError(error, strerror(error).decode())

    def __dealloc__(self):
        if self.sources != NULL:
            sources_close(self.sources)
            free(self.sources)


@cython.final
cdef class Sources:
    cdef source_rules_t rules
    cdef source_network_t *networks     # owned: of both kinds
    cdef Buckets buckets                # keeps alive what is asked

    def __cinit__(self, *, uint64_t rate=0, uint64_t source_rate=0, double burst=1.0,
                  uint64_t max_sources=16384, networks=None, Sources former=None):
        cdef uint64_t mask = 0xFFFFFFFFFFFFFFFF
        cdef source_network_t *place
        if burst <= 0:
            raise ValueError(f"burst is {burst} s; it is above 0")
        self.buckets = former.buckets if former is not None else Buckets(max_sources)
        self.rules.sources = self.buckets.sources
        self.rules.cost_ns = 1e9 / rate if rate else 0.0
        self.rules.source_cost_ns = 1e9 / source_rate if source_rate else 0.0
        self.rules.burst_ns = <int64_t>(burst * 1e9)
        self.rules.all = networks is None
        # In their order, those of IPv4 first.
        ranges = sorted(
            (one.version, int(one.network_address), int(one.broadcast_address)) for one in networks or ()
        )
        self.networks = <source_network_t *>malloc(len(ranges) * sizeof(source_network_t) + 1)
        if self.networks == NULL:
            raise MemoryError()
        place = self.networks
        for version, first, last in ranges:
            place.first_high, place.first_low = first >> 64, first & mask
            place.last_high, place.last_low = last >> 64, last & mask
            self.rules.ipv4.count += version == 4
            place += 1
        self.rules.ipv4.them = self.networks
        self.rules.ipv6.them = self.networks + self.rules.ipv4.count
        self.rules.ipv6.count = <uint32_t>len(ranges) - self.rules.ipv4.count

    def __dealloc__(self):
        free(self.networks)

    def allows(self, str address not None):
        cdef source_peer_t peer = peer_of(address)
        return source_is_allowed(&self.rules, &peer)

    def wait(self, str address not None):
        cdef source_peer_t peer = peer_of(address)
        return source_wait_ns(&self.rules, &peer, clock_ns(CLOCK_MONOTONIC)) / 1e9

    def charge(self, str address not None, uint64_t metrics):
        cdef source_peer_t peer = peer_of(address)
        source_charge(&self.rules, &peer, clock_ns(CLOCK_MONOTONIC), metrics)

    def losers(self):
        cdef source_loser_t them[SOURCE_LOSERS]
        cdef uint32_t i, count = source_losers(self.buckets.sources, them)
        cdef list found = []
        for i in range(count):
            if them[i].lost > them[i].error:
                why = "rate_limited" if them[i].why == SOURCE_OVER else "source_denied"
                found.append((source_text(&them[i].key), why, them[i].lost - them[i].error))
        return sorted(found, key=lambda one: -one[2])
