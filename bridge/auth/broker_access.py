"""Decides who may do what at the MQTT broker. `may` is pure; `BrokerAccess` remembers what the registry says.

A device connects with its UUID and its key, and touches only `devices/{its uuid}/…`. Accounts of the
role "publisher" are trusted with the legacy topic, those of the role "bridge" with what the bridge does.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Literal

import msgspec

from bridge.auth.key_cache import KeyCache, hash_key
from bridge.model import topic_filter
from bridge.model.ttl_cache import TtlCache
from bridge.pipeline.decode import normal_uuid

Action = Literal["publish", "subscribe"]
Role = Literal["device", "publisher", "bridge"]

DEVICES_KEPT = 100_000
DEVICE_TTL_S = 60.0
"""How long a device is believed to be one that may connect; changes arrive through `forget` long before."""
ACCOUNTS_TTL_S = 5.0
CLIENT_IDS_KEPT = 10_000
"""UUIDs that clients use as client ids and that may be another device's; apart, so that they push out no device."""
OUR_CLIENT_IDS = ("iot-bridge-", "iot-edge-")
"""How client ids of bridges and gateways begin that were given no other (mqtt.client_id)."""

_PUBLISHER_PUBLISHES = ("iot/sensors/+/readings",)
_BRIDGE_PUBLISHES = ("devices/+/rejected", "devices/+/commands/+", "bridge/+/status", "spBv1.0/+/NCMD/+")


class Account(msgspec.Struct, frozen=True):
    """Who is at the other end of a broker's connection. `name` of a device is its UUID in lower case."""

    role: Role
    name: str


def may(account: Account, action: Action, topic: str) -> bool:
    """Whether an account may publish to a topic, or subscribe to a filter."""
    levels = topic.split("/")
    if account.role == "device":
        # No wildcard can stand for a UUID: "+" and "#" are none.
        return len(levels) > 2 and levels[0] == "devices" and normal_uuid(levels[1]) == account.name
    if account.role == "publisher":
        return action == "publish" and _is_one_of(_PUBLISHER_PUBLISHES, topic)
    return action == "subscribe" or _is_one_of(_BRIDGE_PUBLISHES, topic)


def _is_one_of(patterns: Sequence[str], topic: str) -> bool:
    """Whether a topic, which is no filter, matches one of the patterns."""
    if "+" in topic or "#" in topic:
        return False
    levels = topic.split("/")
    return any(topic_filter.match(tuple(pattern.split("/")), levels) is not None for pattern in patterns)


class _Standing(msgspec.Struct, frozen=True):
    """What the registry says of a UUID."""

    may_connect: bool | None  # None: no device has it


class BrokerAccess:
    """Finds out whose an account is: from memory, or in a query each. `now` is a monotonic clock in seconds."""

    def __init__(
        self,
        keys: KeyCache,
        accounts: Callable[[], Awaitable[Sequence[tuple[str, str, str]]]],
        device_may_connect: Callable[[str], Awaitable[bool | None]],
        now: Callable[[], float],
        bridge_client_ids: Callable[[], Awaitable[Collection[str]]] | None = None,
    ) -> None:
        self._keys = keys
        self._find_accounts = accounts
        self._find_device = device_may_connect
        self._find_client_ids = bridge_client_ids
        self._now = now
        self._client_ids: Collection[str] = ()
        self._accounts: dict[str, tuple[Role, str]] = {}
        self._accounts_until_s = 0.0
        self._devices: TtlCache[str, _Standing] = TtlCache(DEVICES_KEPT, DEVICE_TTL_S)
        self._ids_of_devices: TtlCache[str, _Standing] = TtlCache(CLIENT_IDS_KEPT, DEVICE_TTL_S)

    async def login(self, username: str, password: str, *, doubted: bool = False) -> Account | None:
        """Who connects with a password; None for nobody. `doubted` as in `KeyCache.owner`. Raises StoreUnavailable."""
        device = normal_uuid(username)
        if device is None:
            role, digest = (await self._known_accounts()).get(username, (None, ""))
            is_right = hmac.compare_digest(digest, hash_key(password))
            return Account(role, username) if role is not None and is_right else None
        owner = await self._keys.owner(password, doubted=doubted)
        if owner is None or owner.kind != "device" or owner.device_uuid != device or owner.disabled:
            return None
        return Account("device", device)

    async def named(self, username: str) -> Account | None:
        """Who has connected under a name that the broker has checked. Raises StoreUnavailable."""
        device = normal_uuid(username)
        if device is None:
            found = (await self._known_accounts()).get(username)
            return Account(found[0], username) if found else None
        return Account("device", device) if (await self._standing(self._devices, device)).may_connect else None

    async def may_have(self, account: Account, client_id: str) -> bool:
        """Whether an account may connect with a client id: no device takes another's session. Raises StoreUnavailable.

        What firmware makes up is nobody's, and passes. A bridge is trusted, and several may share an account.
        """
        if account.role == "bridge" or client_id in ("", account.name):
            return True
        if client_id.startswith(OUR_CLIENT_IDS) or client_id in await self._known_accounts():
            return False
        if client_id in self._client_ids:
            return False
        device = normal_uuid(client_id)
        if device is None or device == account.name:
            return True
        # Of a device that is disabled or has no key, too: its session and its commands wait for it.
        return (await self._standing(self._ids_of_devices, device)).may_connect is None

    def forget(self) -> None:
        """Something has changed in the registry."""
        self._devices.clear()
        self._ids_of_devices.clear()
        self._accounts_until_s = 0.0

    async def _known_accounts(self) -> dict[str, tuple[Role, str]]:
        if self._accounts_until_s <= self._now():
            found = await self._find_accounts()
            if self._find_client_ids is not None:
                self._client_ids = frozenset(await self._find_client_ids())
            self._accounts = {
                name: ("bridge" if role == "bridge" else "publisher", digest) for name, role, digest in found
            }
            self._accounts_until_s = self._now() + ACCOUNTS_TTL_S
        return self._accounts

    async def _standing(self, known: TtlCache[str, _Standing], device_uuid: str) -> _Standing:
        answer = known.get(device_uuid, self._now())
        if answer is None:
            answer = _Standing(await self._find_device(device_uuid))
            known.put(device_uuid, answer, self._now())
        return answer
