/* Who has sent something: its address or its process, the source that it counts as, and whether it may send at all.
 *
 *   IPv4                  192.0.2.7              each address by itself; ::ffff:192.0.2.7 is the same one
 *   IPv6                  2001:db8:0:1::/64      an address there is chosen freely, its network is not
 *   IPv6, link-local      fe80::1                all of them have one prefix, so each by itself
 *   Unix sockets          pid 1234               as the kernel says it, which a sender cannot choose
 */
#ifndef PENSTOCK_SOURCE_PEER_H
#define PENSTOCK_SOURCE_PEER_H

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "port.h"

typedef enum {
    SOURCE_NOBODY = 0, /* a place that is free */
    SOURCE_UNKNOWN,    /* the kernel does not say: they all count as one */
    SOURCE_IPV4,
    SOURCE_IPV6,
    SOURCE_LINK,
    SOURCE_PROCESS,
} source_kind_t;

/* An address as two numbers; that of IPv4, and a process, are in `low` alone. */
typedef struct {
    uint64_t high, low;
    source_kind_t kind;
} source_peer_t;

/* What has a bucket. */
typedef struct {
    uint64_t value;
    source_kind_t kind;
} source_key_t;

static inline source_key_t source_key(const source_peer_t *peer)
{
    return (source_key_t){peer->kind == SOURCE_IPV6 ? peer->high : peer->low, peer->kind};
}

/* ---- from what the kernel says ---- */

static inline source_peer_t source_of_ipv4(uint32_t address)
{
    return (source_peer_t){0, address, SOURCE_IPV4};
}

/* b: 16 bytes, as on the wire. */
static inline source_peer_t source_of_ipv6(const uint8_t *b)
{
    uint64_t high = __builtin_bswap64(port_load64(b)), low = __builtin_bswap64(port_load64(b + 8));
    if (high == 0 && low >> 32 == 0xFFFF)
        return source_of_ipv4((uint32_t)low);
    return (source_peer_t){high, low, high >> 54 == 0xFE80 >> 6 ? SOURCE_LINK : SOURCE_IPV6};
}

static inline source_peer_t source_of_process(pid_t pid)
{
    return (source_peer_t){0, pid > 0 ? (uint64_t)pid : 0, pid > 0 ? SOURCE_PROCESS : SOURCE_UNKNOWN};
}

/* a: of n bytes, as the kernel fills it. */
static inline source_peer_t source_of_address(const void *a, size_t n)
{
    sa_family_t family = AF_UNSPEC;
    if (n >= sizeof family)
        memcpy(&family, a, sizeof family);
    if (family == AF_INET && n >= sizeof(struct sockaddr_in))
        return source_of_ipv4(ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr));
    if (family == AF_INET6 && n >= sizeof(struct sockaddr_in6))
        return source_of_ipv6(((const struct sockaddr_in6 *)a)->sin6_addr.s6_addr);
    return (source_peer_t){0, 0, SOURCE_UNKNOWN};
}

/* The process that has sent a message by a Unix socket with SO_PASSCRED. */
static inline source_peer_t source_of_credentials(struct msghdr *message)
{
    if (message->msg_controllen == 0)
        return source_of_process(0);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len >= CMSG_LEN(sizeof(struct ucred))) {
            struct ucred sender;
            memcpy(&sender, CMSG_DATA(c), sizeof sender);
            return source_of_process(sender.pid);
        }
    return source_of_process(0);
}

/* Of a message that was received with room for the address, or by a `local` socket with SO_PASSCRED. */
static inline source_peer_t source_of_message(struct msghdr *message, bool local)
{
    return local ? source_of_credentials(message) : source_of_address(message->msg_name, message->msg_namelen);
}

/* Who is at the other end of a connection. */
static inline source_peer_t source_of_connection(int fd)
{
    struct ucred peer;
    struct sockaddr_storage from = {0};
    socklen_t from_bytes = sizeof from, size = sizeof peer;
    if (getpeername(fd, (struct sockaddr *)&from, &from_bytes) < 0)
        return source_of_process(0);
    if (from.ss_family != AF_UNIX)
        return source_of_address(&from, from_bytes);
    return source_of_process(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0);
}

/* Whether the socket is a Unix one. */
static inline bool source_is_local(int fd)
{
    struct sockaddr_storage bound = {0};
    socklen_t size = sizeof bound;
    return getsockname(fd, (struct sockaddr *)&bound, &size) == 0 && bound.ss_family == AF_UNIX;
}

/* ---- who may send ---- */

/* A network: its first and its last address. */
typedef struct {
    uint64_t first_high, first_low, last_high, last_low;
} source_network_t;

/* Networks of one kind of addresses, in their order, without overlap. */
typedef struct {
    const source_network_t *them; /* borrowed */
    uint32_t count;
} source_networks_t;

static inline bool source_before(uint64_t high, uint64_t low, uint64_t than_high, uint64_t than_low)
{
    return high != than_high ? high < than_high : low < than_low;
}

static inline bool source_is_within(const source_networks_t *networks, const source_peer_t *peer)
{
    uint32_t from = 0, to = networks->count; /* the last one that begins at the address or before it is before `to` */
    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        const source_network_t *one = &networks->them[middle];
        if (source_before(peer->high, peer->low, one->first_high, one->first_low))
            to = middle;
        else
            from = middle + 1;
    }
    return to > 0 && !source_before(networks->them[to - 1].last_high, networks->them[to - 1].last_low, peer->high, peer->low);
}

#endif
