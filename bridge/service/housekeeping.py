"""What the service does beside its main job: drops what has changed from caches, maintains tables, checks the ledger.

Flows in: the change feed, the clock, keys that were used. Flows out: calls of caches and of the database. Each is a
task of its own, which waits while the database is away. Imports what it keeps house for, and no door's server.
"""

from __future__ import annotations

from functools import partial

import structlog

from bridge.auth.broker_access import BrokerAccess
from bridge.auth.failed_logins import FailedLogins
from bridge.auth.key_cache import KeyCache
from bridge.errors import StoreUnavailable
from bridge.http.gateway_cache import GatewayCache
from bridge.pipeline.resolve import Resolver
from bridge.pipeline.run import Pipeline
from bridge.service.registered_replay import LOOK_EVERY_S, RegisteredReplay
from bridge.settings.service import Settings
from bridge.store.change_feed import ForgetTable, sensor_table
from bridge.store.commands import CommandTable
from bridge.store.postgres import PostgresStore
from bridge.store.registry import PostgresRegistry
from bridge.tasks import Work, every
from bridge.telemetry import Metrics

log = structlog.get_logger("app")

MAINTAIN_EVERY_S = 3_600.0
TOUCH_KEYS_EVERY_S = 60.0
NOTE_FAILED_LOGINS_EVERY_S = 60.0
REVIEW_ALERTS_EVERY_S = 60.0
CHECK_LEDGER_EVERY_S = 60.0
"""How often the ledger is held against itself: one pass over a row for each device, door and process."""


def forget_table(
    resolver: Resolver,
    device_keys: KeyCache,
    gateway_keys: KeyCache,
    broker_access: BrokerAccess,
    gateways: GatewayCache,
    replay: RegisteredReplay | None = None,
) -> ForgetTable:
    """What each kind of change in the registry means for which cache of the service.

    A registry snapshot, which `gateways` keeps, holds devices, their sensors and their keys. Whether a device may
    connect, which `broker_access` keeps, depends on the device and its keys. What waits in quarantine for a sensor,
    which `replay` stores, is told of sensors.
    """
    sensors = sensor_table(resolver)

    def access(_: object) -> None:
        broker_access.forget()

    def snapshots(_: object) -> None:
        gateways.forget()

    def every_gateway_key(_: object) -> None:
        gateway_keys.clear()

    def every_device_key(_: object) -> None:
        device_keys.clear()

    registered = () if replay is None else (replay.note,)
    anything = () if replay is None else (replay.note_all,)

    return {
        "sensor": (sensors["sensor"], snapshots, *registered),
        "external": (sensors["external"], snapshots, *registered),
        "key": (device_keys.invalidate, access, snapshots),
        "device": (sensors["device"], device_keys.invalidate_devices, access, snapshots),
        "account": (access,),
        "gateway": (every_gateway_key, snapshots),
        "all": (sensors["all"], every_device_key, every_gateway_key, access, snapshots, *anything),
    }


class Housekeeping:
    """The recurring tasks of one service. All of them raise StoreUnavailable."""

    def __init__(
        self,
        settings: Settings,
        store: PostgresStore,
        registry: PostgresRegistry,
        commands: CommandTable,
        device_keys: KeyCache,
        failed_logins: FailedLogins,
        pipeline: Pipeline,
        metrics: Metrics,
        replay: RegisteredReplay,
    ) -> None:
        self._settings = settings
        self._replay = replay
        self._store = store
        self._registry = registry
        self._commands = commands
        self._device_keys = device_keys
        self._failed_logins = failed_logins
        self._pipeline = pipeline
        self._metrics = metrics

    def works(self) -> dict[str, Work]:
        """Each task by name, to run for as long as the process lives."""
        return {
            "maintenance": partial(every, MAINTAIN_EVERY_S, self.maintain),
            "keys-used": partial(every, TOUCH_KEYS_EVERY_S, self.touch_keys),
            "failed-logins": partial(every, NOTE_FAILED_LOGINS_EVERY_S, self.note_failed_logins),
            "ledger": partial(every, CHECK_LEDGER_EVERY_S, self.check_ledger),
            "registered": partial(every, LOOK_EVERY_S, self._replay.look),
            "silenced-alerts": partial(every, REVIEW_ALERTS_EVERY_S, self._registry.review_silenced_alerts),
        }

    async def maintain(self) -> None:
        """Make partitions ahead, delete what has expired, and close the ledgers of processes that are gone."""
        await self._registry.maintain(self._settings.database)
        await self._commands.expire()
        await self._commands.forget(self._settings.commands.keep_days)
        folded = await self._registry.fold_dead_instances()
        if folded:
            log.info("books_closed", instances=folded)

    async def check_ledger(self) -> None:
        """Set the gauges of the ledger's imbalance and of quarantine; log an error where there is an imbalance."""
        number = self._pipeline.at_rest
        found = await self._registry.ledger_imbalance(None if number is None else self._store.instance)
        if number is not None and self._pipeline.at_rest != number:  # readings came in meanwhile
            found = await self._registry.ledger_imbalance(None)
        self._metrics.ledger_imbalance.set(found)
        rows, size = await self._registry.quarantine_total()
        self._metrics.quarantine_rows.set(rows)
        self._metrics.quarantine_bytes.set(size)
        if found:
            log.error("ledger_imbalance", readings=found, advice="see iot-bridge ledger --verify")

    async def touch_keys(self) -> None:
        """Write down when the keys were used that were used since the last call."""
        used = self._device_keys.take_used()
        if not used:
            return
        try:
            await self._registry.touch_keys(used)
        except StoreUnavailable:
            self._device_keys.put_back_used(used)
            raise

    async def note_failed_logins(self) -> None:
        """Add the logins that were refused since the last call to the audit trail."""
        failed = self._failed_logins.take()
        if not failed:
            return
        try:
            await self._registry.note_failed_logins(failed)
        except StoreUnavailable:
            self._failed_logins.put_back(failed)
            raise
