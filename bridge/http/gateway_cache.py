"""What the door remembers of gateways: who they are, and their registry snapshots. Bounded; `forget` on changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from bridge.gateway_protocol.snapshot import Snapshot, encode
from bridge.pipeline.bounded import put

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
    """`now` is a monotonic clock in seconds."""

    def __init__(self, lookup: GatewayLookup, now: Callable[[], float]) -> None:
        self._lookup = lookup
        self._now = now
        self._gateways: dict[int, tuple[float, GatewayInfo]] = {}
        self._snapshots: dict[int, tuple[float, bytes]] = {}

    async def gateway(self, gateway_id: int) -> GatewayInfo | None:
        """A gateway by id. Raises StoreUnavailable."""
        entry = self._gateways.get(gateway_id)
        if entry is not None and entry[0] > self._now():
            return entry[1]
        found = await self._lookup.gateway(gateway_id)
        if found is not None:
            put(self._gateways, gateway_id, (self._now() + KNOWN_TTL_S, found), GATEWAYS_KEPT)
        return found

    async def snapshot(self, gateway_id: int) -> bytes | None:
        """The bytes of a gateway's registry snapshot. Raises StoreUnavailable."""
        entry = self._snapshots.get(gateway_id)
        if entry is not None and entry[0] > self._now():
            return entry[1]
        snapshot = await self._lookup.snapshot(gateway_id)
        if snapshot is None:
            return None
        body = encode(snapshot)
        put(self._snapshots, gateway_id, (self._now() + SNAPSHOT_TTL_S, body), SNAPSHOTS_KEPT)
        return body

    def forget(self) -> None:
        """Something about gateways, devices, sensors or keys has changed."""
        self._gateways.clear()
        self._snapshots.clear()
