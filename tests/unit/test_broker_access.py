"""What the hooks remember of the registry, and for how long."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
import pytest

from bridge.auth.broker_access import ACCOUNTS_TTL_S, CLIENT_IDS_KEPT, DEVICE_TTL_S, Account, BrokerAccess
from bridge.auth.key_cache import KeyCache, hash_key
from bridge.settings.http import KeySettings
from bridge.telemetry import Metrics

DEVICE = "5f0c1f5e-0000-4000-8000-00000000000a"
OTHER = "5f0c1f5e-0000-4000-8000-00000000000b"


class Owner(msgspec.Struct):
    hash: str
    device_uuid: str | None = DEVICE
    kind: str = "device"
    device_id: int = 1
    expires_at_us: int | None = None
    disabled: bool = False
    scopes: frozenset[str] = frozenset()
    devices: frozenset[str] | None = None


class FakeAccounts:
    def __init__(self) -> None:
        self.keys = {hash_key("good"): Owner(hash_key("good"))}
        self.accounts = [("weather", "publisher", hash_key("rain"))]
        self.devices = {DEVICE}
        self.disabled: set[str] = set()
        self.asked = 0
        self.now_s = 1000.0

    async def find(self, hashes: Collection[str]) -> list[Owner]:
        return [self.keys[digest] for digest in hashes if digest in self.keys]

    async def mqtt_accounts(self) -> list[tuple[str, str, str]]:
        self.asked += 1
        return self.accounts

    async def device_may_connect(self, uuid: str) -> bool | None:
        self.asked += 1
        return uuid in self.devices or (False if uuid in self.disabled else None)

    def access(self) -> BrokerAccess:
        ring = KeyCache(self.find, KeySettings(), Metrics(), lambda: self.now_s, lambda: 0)
        return BrokerAccess(
            ring, self.mqtt_accounts, self.device_may_connect, lambda: self.now_s, self.bridge_client_ids
        )

    async def bridge_client_ids(self) -> list[str]:
        return ["the south bridge"]


async def test_login_with_the_right_key_of_the_right_device() -> None:
    registry = FakeAccounts()
    access = registry.access()
    assert await access.login(DEVICE, "good") == Account("device", DEVICE)
    assert await access.login(DEVICE.upper(), "good") == Account("device", DEVICE)
    for username, password in (
        (DEVICE, "bad"),
        (DEVICE, ""),
        (DEVICE[:-1] + "b", "good"),
        ("", ""),
        ("weather", "good"),
    ):
        assert await access.login(username, password) is None
    assert await access.login("weather", "rain") == Account("publisher", "weather")


async def test_login_of_a_disabled_device_or_an_api_key_is_refused() -> None:
    registry = FakeAccounts()
    registry.keys[hash_key("off")] = Owner(hash_key("off"), disabled=True)
    registry.keys[hash_key("api")] = Owner(hash_key("api"), device_uuid=None, kind="api")
    access = registry.access()
    assert await access.login(DEVICE, "off") is None
    assert await access.login(DEVICE, "api") is None


@pytest.mark.parametrize(
    ("client_id", "allowed"),
    [
        ("", True),
        (DEVICE, True),
        (DEVICE.upper(), True),
        ("esp32-c0ffee", True),
        ("5f0c1f5e-9999-4000-8000-00000000000a", True),  # made up
        ("x" * 60_000, True),
        (OTHER, False),
        (OTHER.replace("-", ""), False),
        ("weather", False),
        ("the south bridge", False),
        ("iot-bridge-north", False),
        ("iot-edge-barn", False),
    ],
)
async def test_device_may_not_have_a_client_id_of_anybody_else(client_id: str, allowed: bool) -> None:
    registry = FakeAccounts()
    registry.devices.add(OTHER)
    access = registry.access()
    assert await access.may_have(Account("device", DEVICE), client_id) is allowed
    assert await access.may_have(Account("bridge", "hub"), client_id)


async def test_client_id_of_a_device_that_may_not_connect_is_its_own_all_the_same() -> None:
    registry = FakeAccounts()
    registry.disabled.add(OTHER)
    assert not await registry.access().may_have(Account("device", DEVICE), OTHER)
    assert await registry.access().named(OTHER) is None


async def test_publisher_may_have_the_name_of_its_account_and_no_devices() -> None:
    registry = FakeAccounts()
    access = registry.access()
    weather = Account("publisher", "weather")
    assert await access.may_have(weather, "weather")
    assert await access.may_have(weather, "weather-2")
    assert not await access.may_have(weather, DEVICE)
    assert not await access.may_have(weather, "iot-bridge-north")


async def test_client_ids_that_are_asked_for_push_out_no_device() -> None:
    registry = FakeAccounts()
    access = registry.access()
    await access.named(DEVICE)
    for number in range(CLIENT_IDS_KEPT + 10):
        await access.may_have(Account("device", DEVICE), f"5f0c1f5e-0000-4000-9000-{number:012}")
    asked = registry.asked
    await access.named(DEVICE)
    assert registry.asked == asked


async def test_named_asks_once_and_again_after_a_change() -> None:
    registry = FakeAccounts()
    access = registry.access()
    for _ in range(3):
        assert await access.named(DEVICE) == Account("device", DEVICE)
        assert await access.named("weather") == Account("publisher", "weather")
        assert await access.named("stranger") is None
    assert registry.asked == 2
    registry.devices.clear()
    registry.accounts = []
    access.forget()
    assert await access.named(DEVICE) is None
    assert await access.named("weather") is None


async def test_named_asks_again_after_its_time() -> None:
    registry = FakeAccounts()
    access = registry.access()
    await access.named(DEVICE)
    await access.named("weather")
    registry.now_s += max(ACCOUNTS_TTL_S, DEVICE_TTL_S)
    registry.devices.clear()
    registry.accounts = []
    assert await access.named(DEVICE) is None
    assert await access.named("weather") is None
