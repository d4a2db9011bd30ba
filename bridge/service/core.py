"""The service behind its doors: caches, pipeline, downlink and housekeeping over one store.

Flows in: settings, an open store, and the outbox that takes what is committed. Flows out: `ServiceCore`, from which
`app.py` makes the doors; `open_core` gives commands one without doors. Imports the parts, and no door's server.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import TypeVar

import structlog

from bridge import logs
from bridge.auth.broker_access import BrokerAccess
from bridge.auth.failed_logins import FailedLogins
from bridge.auth.key_cache import KeyCache
from bridge.auth.key_index import KeyIndex
from bridge.broker.deferred_outbox import DeferredOutbox
from bridge.errors import StoreUnavailable
from bridge.http.gateway_cache import GatewayCache
from bridge.mqtt.downlink import Downlink
from bridge.pipeline.ports import Outbox
from bridge.pipeline.resolve import Resolver
from bridge.pipeline.run import Pipeline
from bridge.service.housekeeping import Housekeeping, forget_table
from bridge.service.registered_replay import RegisteredReplay
from bridge.settings.service import Settings
from bridge.store.change_feed import ChangeFollower
from bridge.store.commands import CommandTable
from bridge.store.gateways import Gateways
from bridge.store.postgres import PostgresStore
from bridge.store.registry import PostgresRegistry
from bridge.store.waiting import WaitingRows
from bridge.tasks import Work, every, running
from bridge.telemetry import Metrics

log = structlog.get_logger("app")

A = TypeVar("A")
B = TypeVar("B")


def now_us() -> int:
    """The time of day, in microseconds since the epoch."""
    return time.time_ns() // 1_000


class ServiceCore:
    """Everything behind the doors but the relay: made, not yet running; `works` are its tasks."""

    def __init__(self, settings: Settings, store: PostgresStore, outbox: Outbox, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.waits_for = ""
        """What the process waits for before its tasks run, as anybody may read; empty once they run."""
        self.store = store
        self.registry = PostgresRegistry(store)
        self.gateways = Gateways(store)
        self.resolver = Resolver(store, settings.pipeline, metrics, time.monotonic)
        self.keys = self._key_cache(self.registry)
        self.gateway_keys = self._key_cache(self.gateways)
        self.gateway_cache = GatewayCache(self.gateways, time.monotonic)
        self.failed_logins = FailedLogins(settings.limits.failures_per_minute, metrics, time.monotonic, now_us)
        self.access = BrokerAccess(
            self.keys,
            self.registry.mqtt_accounts,
            self.registry.device_may_connect,
            time.monotonic,
            self.registry.bridge_client_ids,
        )
        self.pipeline = Pipeline(
            resolver=self.resolver,
            store=store,
            outbox=outbox,
            instance=store.instance,
            settings=settings.pipeline,
            metrics=metrics,
            random=Random(),
            now_us=now_us,
        )
        self.commands = CommandTable(store)
        self.downlink = Downlink(self.commands, settings.commands, metrics, now_us, time.monotonic)
        self.registered = replay = RegisteredReplay(settings, WaitingRows(store), self.pipeline, self.resolver)
        table = forget_table(self.resolver, self.keys, self.gateway_keys, self.access, self.gateway_cache, replay)
        self.changes = ChangeFollower(self.registry.changes, table, time.monotonic)
        self.housekeeping = Housekeeping(
            settings, store, self.registry, self.commands, self.keys, self.failed_logins, self.pipeline, metrics, replay
        )

    def _key_cache(self, owners: PostgresRegistry | Gateways) -> KeyCache:
        return KeyCache(
            partial(self.look_up, owners.find_keys),
            self.settings.keys,
            self.metrics,
            time.monotonic,
            now_us,
            self.settings.http.ack_timeout_s,
            KeyIndex(partial(self._look_up_index, owners), time.monotonic),
        )

    async def _look_up_index(self, owners: PostgresRegistry | Gateways) -> bytes:
        if self.problem:
            raise StoreUnavailable(self.problem)
        return await owners.key_index()

    @property
    def problem(self) -> str:
        """Why nothing can be stored at the moment; empty when it can."""
        return self.waits_for or self.pipeline.problem or self.changes.problem

    async def look_up(self, query: Callable[[A], Awaitable[B]], argument: A) -> B:
        """Ask the database for a client, who is told at once that it is away where that is known.

        Raises StoreUnavailable.
        """
        if self.problem:
            raise StoreUnavailable(self.problem)
        return await query(argument)

    def works(self) -> dict[str, Work]:
        """The tasks of a running service, by name: the pipeline, and what keeps its caches and tables in order."""
        return {
            "pipeline": self.pipeline.run,
            "changes": partial(every, self.settings.pipeline.change_poll_s, self.changes.follow),
            **self.housekeeping.works(),
        }

    async def drain(self, deadline_s: float) -> None:
        """Wait until everything taken in is settled and written, for `deadline_s` at most."""
        if not await self.pipeline.drain(deadline_s):
            log.warning("not_drained", readings=self.pipeline.queued)


@asynccontextmanager
async def open_core(settings: Settings) -> AsyncIterator[ServiceCore]:
    """The pipeline without doors and relay, for commands: a running service publishes what they store.

    Raises StoreUnavailable where the database is away.
    """
    logs.configure(settings.log.model_copy(update={"level": "warning"}))
    store = PostgresStore(settings.database, settings.service.name, settings.pipeline.max_ahead_s)
    await store.open()
    core = ServiceCore(settings, store, DeferredOutbox(), Metrics())
    try:
        async with running({"pipeline": core.pipeline.run}):
            yield core
            await core.drain(settings.service.shutdown_s)
    finally:
        await store.close()
