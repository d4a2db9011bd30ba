"""What each kind of change in the registry means for which cache of the service."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pytest

from bridge.auth.broker_access import BrokerAccess
from bridge.auth.key_cache import KeyCache, KeyOwner
from bridge.gateway_protocol.snapshot import IssueNumber, Snapshot
from bridge.http.gateway_cache import GatewayCache
from bridge.model.reading import ExternalId, Sensor, SensorRef
from bridge.pipeline.resolve import Resolver
from bridge.service.housekeeping import forget_table
from bridge.settings.http import KeySettings
from bridge.settings.process import PipelineSettings
from bridge.store.change_feed import KINDS, forget
from bridge.telemetry import Metrics
from tests.support.gateway_service import Info
from tests.support.gateway_site import snapshot
from tests.support.http_door import DEVICE, OTHER_DEVICE, Key, key_of

SHED_KEY, BARN_KEY, GATEWAY_KEY = key_of("shed"), key_of("barn", device_id=8, device_uuid=OTHER_DEVICE), key_of("gw")
SHED_SENSOR, BARN_SENSOR = "5f0c1f5e-0000-4000-8000-00000000000b", "5f0c1f5e-0000-4000-8000-0000000000bb"
SENSORS = (
    Sensor(1, SHED_SENSOR, 7, DEVICE, "temperature", external_id="shed-1"),
    Sensor(2, BARN_SENSOR, 8, OTHER_DEVICE, "temperature", external_id="barn-1"),
)
SHED_REFS: Sequence[SensorRef] = (1, SHED_SENSOR, ExternalId("shed-1"))
BARN_REFS: Sequence[SensorRef] = (2, BARN_SENSOR, ExternalId("barn-1"))

SENSORS_OF_SHED = {"sensor 1", f"sensor {SHED_SENSOR}", "sensor shed-1"}
SENSORS_OF_BARN = {"sensor 2", f"sensor {BARN_SENSOR}", "sensor barn-1"}
BROKER_ACCESS = {f"may {DEVICE}", f"may {OTHER_DEVICE}", "accounts"}
GATEWAYS = {"gateway 3", "snapshot 3"}
EVERYTHING = {"key shed", "key barn", "key gw"} | SENSORS_OF_SHED | SENSORS_OF_BARN | BROKER_ACCESS | GATEWAYS

CASES: dict[tuple[str, str], set[str]] = {
    ("sensor", "1"): {"sensor 1"} | GATEWAYS,
    ("sensor", SHED_SENSOR): {f"sensor {SHED_SENSOR}"} | GATEWAYS,
    ("external", "shed-1"): {"sensor shed-1"} | GATEWAYS,
    ("key", SHED_KEY.hash): {"key shed"} | BROKER_ACCESS | GATEWAYS,
    ("device", DEVICE): {"key shed"} | SENSORS_OF_SHED | BROKER_ACCESS | GATEWAYS,
    ("account", ""): BROKER_ACCESS,
    ("gateway", ""): {"key gw"} | GATEWAYS,
    ("all", ""): EVERYTHING,
    ("of a newer database", "7"): EVERYTHING,
}


class FakeRegistry:
    """Answers every look-up of the caches, and notes it."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    async def find_sensors(
        self, ids: Collection[int], uuids: Collection[str], external_ids: Collection[str]
    ) -> list[Sensor]:
        self.asked |= {f"sensor {ref}" for ref in (*ids, *uuids, *external_ids)}
        return [s for s in SENSORS if s.sensor_id in ids or s.sensor_uuid in uuids or s.external_id in external_ids]

    async def find_keys(self, hashes: Collection[str]) -> Iterable[KeyOwner]:
        found: dict[str, Key] = {"shed": SHED_KEY, "barn": BARN_KEY, "gw": GATEWAY_KEY}
        self.asked |= {f"key {name}" for name, key in found.items() if key.hash in hashes}
        return [key for key in found.values() if key.hash in hashes]

    async def mqtt_accounts(self) -> Sequence[tuple[str, str, str]]:
        self.asked.add("accounts")
        return []

    async def device_may_connect(self, device_uuid: str) -> bool:
        self.asked.add(f"may {device_uuid}")
        return True

    async def gateway(self, gateway_id: int) -> Info:
        self.asked.add(f"gateway {gateway_id}")
        return Info()

    async def snapshot(self, gateway_id: int) -> Snapshot:
        self.asked.add(f"snapshot {gateway_id}")
        return snapshot()

    async def last_issue(self, gateway_id: int) -> IssueNumber:
        return snapshot().issue_number


class Caches:
    """Every cache of a service, over one registry."""

    def __init__(self) -> None:
        metrics = Metrics()
        self.registry = registry = FakeRegistry()
        self.resolver = Resolver(registry, PipelineSettings(), metrics, time.monotonic)
        keys: tuple[Any, ...] = (registry.find_keys, KeySettings(), metrics, time.monotonic, lambda: 0)
        self.device_keys, self.gateway_keys = KeyCache(*keys), KeyCache(*keys)
        self.access = BrokerAccess(
            self.device_keys, registry.mqtt_accounts, registry.device_may_connect, time.monotonic
        )
        self.gateways = GatewayCache(registry, time.monotonic)
        self.table = forget_table(self.resolver, self.device_keys, self.gateway_keys, self.access, self.gateways)

    async def asked(self) -> set[str]:
        """What the registry is asked when everything is wanted once: all that is not remembered."""
        self.registry.asked.clear()
        await self.resolver.answers((*SHED_REFS, *BARN_REFS))
        for key in ("shed", "barn"):
            assert await self.device_keys.owner(key)
        assert await self.gateway_keys.owner("gw")
        for name in (DEVICE, OTHER_DEVICE, "an account"):
            await self.access.named(name)
        await self.gateways.gateway(3)
        await self.gateways.snapshot(3)
        return set(self.registry.asked)


@pytest.mark.parametrize(("kind", "ref"), CASES, ids=[kind for kind, _ in CASES])
async def test_change_drops_what_it_means_and_nothing_else(kind: str, ref: str) -> None:
    caches = Caches()
    assert await caches.asked() == EVERYTHING
    assert await caches.asked() == set()
    forget(caches.table, [(kind, ref)])
    assert await caches.asked() == CASES[kind, ref]


def test_every_kind_has_a_row_and_a_case() -> None:
    assert set(Caches().table) == KINDS == {kind for kind, _ in CASES if not kind.startswith("of a")}
