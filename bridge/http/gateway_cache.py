"""Caches gateways and their registry snapshots. Bounded; `forget` on changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from bridge.gateway_protocol.snapshot import IssueNumber, Snapshot, encode
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
    """Where gateways are registered. All raise StoreUnavailable."""

    async def gateway(self, gateway_id: int) -> GatewayInfo | None: ...
    async def snapshot(self, gateway_id: int) -> Snapshot | None: ...
    async def last_issue(self, gateway_id: int) -> IssueNumber | None: ...


class GatewayCache:
    """Answers from memory, and for a while, what the store knows of gateways. `now` is a monotonic clock in seconds."""

    def __init__(self, lookup: GatewayLookup, now: Callable[[], float]) -> None:
        self._lookup = lookup
        self._now = now
        self._gateways: TtlCache[int, GatewayInfo] = TtlCache(GATEWAYS_KEPT, KNOWN_TTL_S)
        self._snapshots: TtlCache[int, tuple[IssueNumber, bytes]] = TtlCache(SNAPSHOTS_KEPT, SNAPSHOT_TTL_S)

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
        kept = self._snapshots.get(gateway_id, self._now())
        return kept[1] if kept is not None else await self._look_up(gateway_id)

    async def newest_snapshot(self, gateway_id: int) -> bytes | None:
        """The same, but never one that is older than what another process has issued. Raises StoreUnavailable."""
        kept = self._snapshots.get(gateway_id, self._now())
        if kept is not None and kept[0] == await self._lookup.last_issue(gateway_id):
            return kept[1]
        return await self._look_up(gateway_id)

    async def _look_up(self, gateway_id: int) -> bytes | None:
        snapshot = await self._lookup.snapshot(gateway_id)
        if snapshot is None:
            return None
        body = encode(snapshot)
        self._snapshots.put(gateway_id, (snapshot.issue_number, body), self._now())
        return body

    def forget(self) -> None:
        """Something about gateways, devices, sensors or keys has changed."""
        self._gateways.clear()
        self._snapshots.clear()
