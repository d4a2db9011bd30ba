"""The client's address, behind proxies that are trusted and no others."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_V6_HOST_BITS = 64
"""A subscriber holds at least a /64 (RFC 6177): single addresses of it are no limit to anyone."""


class ClientAddress:
    """Reads X-Forwarded-For from right to left, for as long as the hop is a trusted proxy."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = [ip_network(entry, strict=False) for entry in trusted]

    def of(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """The address to hold a request against; of IPv6 its /64. Whatever is not an address ends the search.

        `forwarded_for` are the X-Forwarded-For lines in order: a proxy may append to a line, or add one of its own
        below those that the client made up.
        """
        address = _parse(peer)
        if address is None:
            return peer
        if self._networks and forwarded_for:
            for hop in reversed(",".join(forwarded_for).split(",")):
                if not any(address in network for network in self._networks):
                    break
                candidate = _parse(hop.strip())
                if candidate is None:
                    break
                address = candidate
        if isinstance(address, IPv6Address):
            return f"{IPv6Address(int(address) >> _V6_HOST_BITS << _V6_HOST_BITS)}/{_V6_HOST_BITS}"
        return str(address)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """An address, also as proxies write it: with a port, in brackets, IPv4 mapped into IPv6."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address
