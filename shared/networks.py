"""Addresses and networks of requests and devices, as people write them and as they are compared."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

CHARACTERS_MAX: Final = 100
"""Characters of an address and the zone that it may name; what is longer is none."""

BITS_MIN: Final = {4: 8, 6: 32}
"""A network that something is fixed to says at least so many bits, by the version of IP: a wider one would fix nothing."""


def address_of(text: str) -> Address | None:
    """The address that `text` spells, None when it spells none. An IPv4 address that comes over IPv6 is that IPv4 address."""
    return _read(text) if len(text) <= CHARACTERS_MAX else None


@lru_cache(maxsize=1000)  # A request's is read twice, and most come from those who have asked before.
def _read(text: str) -> Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return found if mapped is None else mapped


def is_within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether the address lies in one of the networks."""
    return any(address in each for each in networks)


def read_network(text: str) -> str:
    """A network that something may be fixed to, as it is always written. Raises ValueError in words for who wrote it."""
    network = ip_network(text)
    if network.prefixlen < BITS_MIN[network.version]:
        raise ValueError(f"is wider than /{BITS_MIN[network.version]}: it would fix nothing")
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError("is a network of IPv4: write it so")
    return str(network)
