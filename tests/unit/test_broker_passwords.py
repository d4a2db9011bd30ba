"""Who may connect to a gateway's Mosquitto, by the registry."""

from __future__ import annotations

from bridge.gateway_protocol.snapshot import SnapshotDevice, SnapshotKey
from edge.registry.broker_passwords import device_users

NOW_US = 1_000_000


def admitted(*keys: SnapshotKey, disabled: bool = False) -> list[str]:
    return [user.hash for user in device_users([SnapshotDevice(1, "uuid", "shed", disabled, keys)], NOW_US)]


def test_device_users_have_their_newest_usable_key() -> None:
    assert admitted(SnapshotKey("a", 0, "$7$a"), SnapshotKey("b", NOW_US + 1, "$7$b")) == ["$7$b"]
    assert admitted(SnapshotKey("a", 0, "$7$a"), SnapshotKey("b", NOW_US, "$7$b")) == ["$7$a"], "expired"
    assert admitted(SnapshotKey("a", 0, "$7$a"), SnapshotKey("b")) == ["$7$a"], "without a hash of Mosquitto's form"


def test_device_users_are_none_who_may_not_connect() -> None:
    assert admitted(SnapshotKey("a", 0, "$7$a"), disabled=True) == []
    assert admitted(SnapshotKey("a")) == []
    assert admitted() == []
