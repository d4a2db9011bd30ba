"""A pipeline of the service within the gateway: over PostgreSQL and Redis, with the relay and the change feed.

Flows in: deliveries, by `DirectPipeline.pipeline`. Flows out: rows in the service's database, events in its streams.
Made of the parts that the service is made of, not of its wiring: of the caches that the service keeps, a gateway has
only that of sensors. Needs the extras `service`; only `direct` imports it, and only where it is asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from random import Random

from bridge.broker.build import Broker
from bridge.broker.relay import Relay
from bridge.errors import StoreUnavailable, Unavailable
from bridge.pipeline.resolve import Resolver
from bridge.pipeline.run import Pipeline
from bridge.settings.service import Settings
from bridge.store.change_feed import ChangeFollower, sensor_table
from bridge.store.outbox import PostgresOutbox
from bridge.store.postgres import PostgresStore
from bridge.store.registry import PostgresRegistry
from bridge.tasks import Work, end, every
from bridge.telemetry import Metrics


class DirectPipeline:
    """A running pipeline on an open store, until `close`."""

    def __init__(self, settings: Settings, store: PostgresStore, now_us: Callable[[], int]) -> None:
        metrics = Metrics()
        resolver = Resolver(store, settings.pipeline, metrics, time.monotonic)
        table = {kind: (forget,) for kind, forget in sensor_table(resolver).items()}
        changes = ChangeFollower(PostgresRegistry(store).changes, table, time.monotonic)
        self._store = store
        self._broker = Broker(settings, metrics)
        relay = Relay(self._broker.publisher, PostgresOutbox(store), settings.broker, metrics, Random(), now_us)
        self.pipeline = Pipeline(
            resolver=resolver,
            store=store,
            outbox=relay,
            instance=store.instance,
            settings=settings.pipeline,
            metrics=metrics,
            random=Random(),
            now_us=now_us,
        )
        works: dict[str, Work] = {
            "direct-pipeline": self.pipeline.run,
            "direct-relay": relay.run,
            "direct-relay-sweep": relay.sweep_forever,
            "direct-changes": partial(every, settings.pipeline.change_poll_s, changes.follow),
        }
        self._tasks = [asyncio.create_task(work(), name=name) for name, work in works.items()]

    async def database_us(self) -> int:
        """The database's time of day. Raises StoreUnavailable."""
        row = await self._store.fetch_one("time_of_day")
        if row is None:
            raise StoreUnavailable("the database answered no row")
        return int(row[0])

    async def close(self) -> None:
        """End its tasks and close its connections."""
        await end(self._tasks)
        await self._broker.close()
        await self._store.close()


async def open_direct(settings: Settings, name: str, now_us: Callable[[], int]) -> DirectPipeline:
    """Open the pipeline of the gateway `name`. Raises StoreUnavailable."""
    store = PostgresStore(settings.database, f"gateway-{name}", settings.pipeline.max_ahead_s)
    try:
        await store.open()
    except Unavailable:
        await store.close()
        raise
    return DirectPipeline(settings, store, now_us)
