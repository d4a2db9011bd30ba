"""Reads what a broker says in CONNACK: its body, in; whether it takes us, and what it takes of us, out. Pure."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from paho.mqtt import MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from bridge.model.visible_text import visible

_RETURN_CODES = {1: 0x84, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}
"""MQTT 3.1.1, section 3.2.2.3, as reason codes of MQTT 5."""
UNSPECIFIED = 0x80
RETAIN_NOT_SUPPORTED, QOS_NOT_SUPPORTED = 0x9A, 0x9B
MAX_TEXT = 200


class BrokerLimits(msgspec.Struct, frozen=True):
    """What the broker takes of us (MQTT 5, section 3.2.2.3). The defaults are what it takes where it says nothing.

    Topic aliases are not among them: we use none.
    """

    receive_maximum: int = 65_535  # publications at QoS 1 and 2 that it has not acknowledged
    maximum_qos: int = 2
    retain: bool = True
    maximum_packet_bytes: int = 268_435_455
    session_expiry_s: int | None = None  # where it keeps the session for another time than we asked for


def limits_of(properties: Any) -> BrokerLimits:
    """Of paho's properties of CONNACK."""
    found = {
        name: getattr(properties, spelled)
        for name, spelled in (
            ("receive_maximum", "ReceiveMaximum"),
            ("maximum_qos", "MaximumQoS"),
            ("retain", "RetainAvailable"),
            ("maximum_packet_bytes", "MaximumPacketSize"),
            ("session_expiry_s", "SessionExpiryInterval"),
        )
        if hasattr(properties, spelled)
    }
    return BrokerLimits(**{**found, "retain": bool(found.get("retain", True))})


def refusal(body: bytes) -> tuple[int, str] | None:
    """Reason code of MQTT 5 and Server Reference, where the broker refuses; None where it takes us.

    Either version's form, whichever we speak: a broker that has only the other one answers in its own.
    """
    if len(body) < 2 or body[1] == 0:
        return None
    if len(body) == 2 and body[1] < UNSPECIFIED:
        return _RETURN_CODES.get(body[1], UNSPECIFIED), ""
    if body[1] < UNSPECIFIED:
        return 0x84 if body[1] == 1 else UNSPECIFIED, ""
    properties = Properties(PacketTypes.CONNACK)  # type: ignore[no-untyped-call]
    with suppress(MQTTException, ValueError, IndexError, KeyError, UnicodeDecodeError):
        properties.unpack(body[2:])  # type: ignore[no-untyped-call]
    return body[1], server_reference(properties)


def server_reference(properties: Any) -> str:
    """Where the broker sends us (MQTT 5, section 4.11), fit to be shown; empty where it does not say."""
    return visible(str(getattr(properties, "ServerReference", ""))[:MAX_TEXT])
