"""The kind of key that holds networks: who may send."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Any

from agent.config_kinds import Kind
from agent.config_values import quote

_MAPPED = IPv6Network("::ffff:0:0/96")
"""Addresses of IPv4 as a socket of IPv6 sees them."""


class Networks(Kind):
    """An array of networks, ``10.0.0.0/8``, or single addresses; a tuple of strings once read."""

    count_max = 10_000
    wanted = 'an array of networks, such as ["10.0.0.0/8", "2001:db8::/32"]'

    def read(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ValueError(f"got {quote(value)}; wanted {self.wanted}")
        if len(value) > self.count_max:
            raise ValueError(f"has {len(value)} networks; at most {self.count_max} are allowed")
        for one in value:
            _network(one)
        return tuple(str(one) for one in value)

    def show(self, value: Any) -> list[str]:
        return list(value)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'{quote(text)} is no network; wanted one such as "10.0.0.0/8"') from None
    if "/" in text and network != _exact(text):
        raise ValueError(f"{quote(text)} is an address within a network; wanted {quote(str(network))}")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        address = int(network.network_address) & 0xFFFF_FFFF
        return IPv4Network((address, network.prefixlen - _MAPPED.prefixlen))
    return network


def _exact(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text)
    except ValueError:
        return None


def networks(texts: Iterable[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """What :class:`Networks` has read, each address in one network only."""
    found = [_network(one) for one in texts]
    return (
        *collapse_addresses(one for one in found if isinstance(one, IPv4Network)),
        *collapse_addresses(one for one in found if isinstance(one, IPv6Network)),
    )
