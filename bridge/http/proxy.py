"""The client's address, behind proxies that are trusted and no others."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network


class ClientAddress:
    """Reads X-Forwarded-For from right to left, for as long as the hop is a trusted proxy."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = [ip_network(entry, strict=False) for entry in trusted]

    def of(self, peer: str, forwarded_for: str) -> str:
        """The address to hold a request against. Whatever is not an address ends the search."""
        address = peer
        if not self._networks or not forwarded_for:
            return address
        for hop in reversed(forwarded_for.split(",")):
            if not self._is_trusted(address):
                break
            candidate = hop.strip()
            try:
                ip_address(candidate)
            except ValueError:
                break
            address = candidate
        return address

    def _is_trusted(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed.version == network.version and parsed in network for network in self._networks)
