"""Who may do what at the broker, and the files of a Mosquitto: pure rules."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bridge.auth.broker_access import Account, Action, may
from bridge.errors import ConfigError
from bridge.mqtt.mosquitto import Layout, User, acl, conf, passwords, protects_client_ids
from bridge.store.passwords import mosquitto_hash

DEVICE = "5f0c1f5e-0000-4000-8000-00000000000a"
OTHER = "5f0c1f5e-0000-4000-8000-00000000000b"


@pytest.mark.parametrize(
    ("topic", "allowed"),
    [
        (f"devices/{DEVICE}/readings", True),
        (f"devices/{DEVICE.upper()}/readings", True),
        (f"devices/{DEVICE}/#", True),
        (f"devices/{DEVICE}/commands/+/result", True),
        (f"devices/{OTHER}/readings", False),
        (f"devices/{DEVICE}", False),
        (f"devices/{DEVICE}x/readings", False),
        ("devices/+/readings", False),
        ("devices/#", False),
        ("#", False),
        (f"$share/group/devices/{DEVICE}/readings", False),
        ("iot/sensors/1/readings", False),
        ("$SYS/broker/version", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("action", ["publish", "subscribe"])
def test_device_may_only_below_its_own_uuid(action: Action, topic: str, allowed: bool) -> None:
    assert may(Account("device", DEVICE), action, topic) is allowed


@pytest.mark.parametrize(
    ("role", "action", "topic", "allowed"),
    [
        ("publisher", "publish", "iot/sensors/42/readings", True),
        ("publisher", "publish", "iot/sensors/+/readings", False),
        ("publisher", "publish", f"devices/{DEVICE}/readings", False),
        ("publisher", "subscribe", "iot/sensors/42/readings", False),
        ("bridge", "subscribe", "#", True),
        ("bridge", "subscribe", "$share/bridge/devices/+/readings", True),
        ("bridge", "publish", f"devices/{DEVICE}/rejected", True),
        ("bridge", "publish", f"devices/{DEVICE}/commands/7", True),
        ("bridge", "publish", "bridge/north/status", True),
        ("bridge", "publish", f"devices/{DEVICE}/readings", False),
        ("bridge", "publish", "devices/+/rejected", False),
    ],
)
def test_account_may_what_its_role_needs(role: str, action: Action, topic: str, allowed: bool) -> None:
    assert may(Account(role, "name"), action, topic) is allowed  # type: ignore[arg-type]


def test_mosquitto_hash_is_of_the_form_that_mosquitto_writes() -> None:
    # From mosquitto_passwd 2.0.11: the password "secret" with this salt.
    salt = bytes(range(12))
    assert mosquitto_hash("secret", salt).startswith("$7$101$AAECAwQFBgcICQoL$")
    assert len(mosquitto_hash("secret").split("$")) == 5
    assert mosquitto_hash("secret") != mosquitto_hash("secret")


def test_acl_lists_accounts_and_the_same_patterns_for_all_devices() -> None:
    users = [User("hub", "bridge", "$7$a"), User("weather", "publisher", "$7$b"), User(DEVICE, "device", "$7$c")]
    text = acl(users)
    assert "user hub\ntopic read #\ntopic read $SYS/broker/version\n" in text
    assert "user weather\ntopic write iot/sensors/+/readings\n" in text
    patterns = [line for line in text.splitlines() if line.startswith("pattern")]
    assert patterns == [
        "pattern write devices/%u/#",
        "pattern read devices/%u/rejected",
        "pattern read devices/%u/commands/+",
    ]
    assert DEVICE not in text
    assert passwords(users).splitlines() == ["hub:$7$a", "weather:$7$b", f"{DEVICE}:$7$c"]


def test_conf_without_a_certificate_is_refused() -> None:
    layout = Layout(folder=Path("/a"), data_folder=Path("/b"), port=1883, tls_port=8883)
    with pytest.raises(ConfigError, match="--certificate and --key"):
        conf(layout)


LAYOUT = Layout(
    folder=Path("/a"), data_folder=Path("/b"), port=1883, tls_port=8883, certificate=Path("/c"), key=Path("/k")
)


def listeners(text: str) -> dict[str, list[str]]:
    """The lines of each listener, by its own line."""
    found: dict[str, list[str]] = {}
    for part in text.split("\n\n"):
        lines = [line for line in part.splitlines() if line and not line.startswith("#")]
        if lines and lines[0].startswith("listener"):
            found[lines[0]] = lines[1:]
    return found


def test_client_ids_are_user_names_where_devices_connect_and_there_alone() -> None:
    text = conf(msgspec.structs.replace(LAYOUT, publisher_port=8884, publisher_ca=Path("/ca")))
    found = listeners(text)
    assert list(found) == ["listener 1883 127.0.0.1", "listener 8883", "listener 8884"]
    option = "use_username_as_clientid true"
    assert [option in lines for lines in found.values()] == [False, True, False]
    assert all(any(line.startswith("max_connections ") for line in lines) for lines in found.values())
    assert {"cafile /ca", "require_certificate true", "certfile /c"} <= set(found["listener 8884"])
    assert "per_listener_settings true" not in text
    assert "message_size_limit 2" not in text
    assert protects_client_ids(text)
    assert not protects_client_ids(text.replace(option, ""))


def test_publishers_without_a_ca_are_on_loopback() -> None:
    assert "listener 1884 127.0.0.1" in listeners(conf(msgspec.structs.replace(LAYOUT, publisher_port=1884)))


def test_publishers_ca_that_devices_have_too_is_refused() -> None:
    layout = msgspec.structs.replace(LAYOUT, publisher_port=1884, publisher_ca=Path("/ca"), client_ca=Path("/ca"))
    with pytest.raises(ConfigError, match="a device could connect as a publisher"):
        conf(layout)


@pytest.mark.parametrize("included", [False, True])
def test_conf_that_debians_own_includes_leaves_sessions_where_that_has_them(included: bool) -> None:
    text = conf(msgspec.structs.replace(LAYOUT, included=included))
    assert ("persistence_location" in text) is not included


def test_listener_on_loopback_alone_needs_no_protection() -> None:
    assert protects_client_ids(conf(msgspec.structs.replace(LAYOUT, tls_port=0)))
    assert not protects_client_ids("listener 1883\n")
