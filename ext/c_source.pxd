from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef extern from "source.h" nogil:
    ctypedef enum source_kind_t:
        SOURCE_UNKNOWN
        SOURCE_IPV4
        SOURCE_IPV6
        SOURCE_LINK
        SOURCE_PROCESS

    ctypedef struct source_peer_t:
        pass

    ctypedef struct source_key_t:
        uint64_t value
        source_kind_t kind

    ctypedef struct source_network_t:
        uint64_t first_high
        uint64_t first_low
        uint64_t last_high
        uint64_t last_low

    ctypedef struct source_networks_t:
        const source_network_t *them
        uint32_t count

    ctypedef enum source_answer_t:
        SOURCE_PASSES
        SOURCE_OVER
        SOURCE_DENIED

    ctypedef struct source_loser_t:
        source_key_t key
        source_answer_t why
        uint64_t lost
        uint64_t error

    ctypedef struct sources_t:
        pass

    ctypedef struct source_rules_t:
        sources_t *sources
        double cost_ns
        double source_cost_ns
        int64_t burst_ns
        bint all
        source_networks_t ipv4
        source_networks_t ipv6

    enum:
        SOURCE_LOSERS
    source_peer_t source_of_address(const void *a, size_t n) noexcept
    source_peer_t source_of_ipv4(uint32_t address) noexcept
    source_peer_t source_of_ipv6(const unsigned char *b) noexcept
    bint source_is_local(int fd) noexcept
    bint source_is_allowed(const source_rules_t *rules, const source_peer_t *peer) noexcept
    int sources_open(sources_t *s, uint64_t most) noexcept
    void sources_close(sources_t *s) noexcept
    int64_t source_wait_ns(const source_rules_t *rules, const source_peer_t *peer, int64_t now_ns) noexcept
    void source_charge(const source_rules_t *rules, const source_peer_t *peer, int64_t now_ns,
                       uint64_t metrics) noexcept
    uint32_t source_losers(sources_t *s, source_loser_t *to) noexcept
