"""Caches gateways and their registry snapshots. Bounded; `forget` on changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from bridge.gateway_protocol.snapshot import Snapshot, encode
from bridge.model.ttl_cache import TtlCache

KNOWN_TTL_S = 60.0
"""How long a gateway's devices are believed; changes arrive through `forget` long before."""
SNAPSHOT_TTL_S = 5.0
"""How long a snapshot is answered from memory: thresholds are not in the change feed."""
SNAPSHOTS_KEPT = 64
GATEWAYS_KEPT = 10_000


class GatewayInfo(Protocol):
    """A gateway, and the devices it may speak for (None: every device)."""

    @property
    def name(self) -> str: ...
    @property
    def devices(self) -> frozenset[str] | None: ...


class GatewayLookup(Protocol):
    """Where gateways are registered. Both raise StoreUnavailable."""

    async def gateway(self, gateway_id: int) -> GatewayInfo | None: ...
    async def snapshot(self, gateway_id: int) -> Snapshot | None: ...


class GatewayCache:
    """Answers from memory, and for a while, what the store knows of gateways. `now` is a monotonic clock in seconds."""

    def __init__(self, lookup: GatewayLookup, now: Callable[[], float]) -> None:
        self._lookup = lookup
        self._now = now
        self._gateways: TtlCache[int, GatewayInfo] = TtlCache(GATEWAYS_KEPT, KNOWN_TTL_S)
        self._snapshots: TtlCache[int, bytes] = TtlCache(SNAPSHOTS_KEPT, SNAPSHOT_TTL_S)

    async def gateway(self, gateway_id: int) -> GatewayInfo | None:
        """A gateway by id. Raises StoreUnavailable."""
        found = self._gateways.get(gateway_id, self._now())
        if found is None:
            found = await self._lookup.gateway(gateway_id)
            if found is not None:
                self._gateways.put(gateway_id, found, self._now())
        return found

    async def snapshot(self, gateway_id: int) -> bytes | None:
        """The bytes of a gateway's registry snapshot. Raises StoreUnavailable."""
        body = self._snapshots.get(gateway_id, self._now())
        if body is not None:
            return body
        snapshot = await self._lookup.snapshot(gateway_id)
        if snapshot is None:
            return None
        body = encode(snapshot)
        self._snapshots.put(gateway_id, body, self._now())
        return body

    def forget(self) -> None:
        """Something about gateways, devices, sensors or keys has changed."""
        self._gateways.clear()
        self._snapshots.clear()
