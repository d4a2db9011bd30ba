"""Keeps the registry as the service has it, and the gateway's key young.

Flows in: the ETag that each answer to a batch carries, and time. Flows out: snapshots into `LocalRegistry`, and keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from bridge.errors import BridgeError, DecodeError
from bridge.gateway_protocol.snapshot import etag as etag_of
from edge.registry.snapshot import LocalRegistry, SnapshotRefused
from edge.service_api.enrolment import EnrolmentFile
from edge.service_api.http_client import ServiceAway
from edge.service_api.transport import TransportDenied, TransportRejected

log = structlog.get_logger("registry")

LEAST_S = 1.0
"""Least time between two questions: an ETag that does not settle is no reason to ask without end."""
DAY_S = 86_400


class RegistryTransport(Protocol):
    """Fetches snapshots and rotates keys: what is needed of the transport."""

    @property
    def key_hash(self) -> str: ...
    def use_key(self, key: str) -> None: ...
    async def registry(self, etag: str) -> tuple[bytes, str] | None: ...
    async def rotate(self) -> str: ...


class Refresher:
    """Keeps registry snapshot and key up to date. `run` is its task. `time_s` is the time of day, in seconds."""

    def __init__(
        self,
        registry: LocalRegistry,
        transport: RegistryTransport,
        enrolment: EnrolmentFile,
        *,
        every_s: float,
        rotate_days: int,
        time_s: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._transport = transport
        self._enrolment = enrolment
        self._every_s = every_s
        self._rotate_s = rotate_days * DAY_S
        self._time_s = time_s
        self._wanted = asyncio.Event()
        self._refused_etag = ""
        self.problem = ""

    def etag_seen(self, etag: str) -> None:
        """Note which snapshot the service has."""
        if etag not in (self._registry.etag, self._refused_etag):
            self._wanted.set()

    @property
    def wanted(self) -> bool:
        """Return whether the service is said to have another snapshot than this gateway."""
        return self._wanted.is_set()

    async def run(self) -> None:
        """Ask the service for ever. Ends by cancellation."""
        while True:
            self._wanted.clear()
            try:
                await self._ask()
                await self._rotate_by_need()
            except (ServiceAway, TransportDenied, TransportRejected, DecodeError) as error:
                self._failed(error)
            else:
                self.problem = ""
            await asyncio.sleep(min(LEAST_S, self._every_s))
            try:
                async with asyncio.timeout(self._every_s):
                    await self._wanted.wait()
            except TimeoutError:
                pass

    async def _ask(self) -> None:
        found = await self._transport.registry(self._registry.etag_under(self._transport.key_hash))
        if found is not None:
            try:
                self._registry.adopt(*found, self._transport.key_hash)
            except SnapshotRefused:
                self._refused_etag = etag_of(found[0])  # each answer to a batch names it; it is not fetched for each
                raise
        self._refused_etag = ""

    async def _rotate_by_need(self) -> None:
        """Rotate a key that is old. The new one is on the disk before it is used; until then the old one works."""
        age_s = self._time_s() - self._enrolment.current.since_s
        if not self._rotate_s or age_s < self._rotate_s:
            return
        key = await self._transport.rotate()
        try:
            self._enrolment.change_key(key, self._time_s())
        except OSError as error:
            log.error("key_not_kept", detail=str(error))
            return
        self._transport.use_key(key)
        self._registry.sign_again(self._transport.key_hash)
        log.info("key_rotated")

    def _failed(self, error: BridgeError) -> None:
        if error.detail != self.problem:
            log.warning("registry_not_refreshed", detail=error.detail)
        self.problem = error.detail
