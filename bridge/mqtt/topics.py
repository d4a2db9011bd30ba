"""Decodes messages of our own topics: a topic and its payload in, a `Packet` out, or `DecodeError`. Pure."""

from __future__ import annotations

import msgspec

from bridge.errors import DecodeError
from bridge.model.reading import Code, Packet
from bridge.pipeline.decode import decode_bare, decode_legacy, decode_mqtt_packet, normal_uuid

MAX_TOPIC = 1_024
"""Longest topic that is looked at, in characters: an external id has 255 at most, so none that is of use is longer."""
_BIGINT = 1 << 63


class Route(msgspec.Struct, frozen=True):
    """What a topic says of its payload. Exactly one form: a device's packet, a sensor's value, or legacy."""

    device_uuid: str | None = None
    sensor_uuid: str | None = None
    sensor_id: int | None = None


def parse_topic(topic: str) -> Route:
    """The route of one of our topics. Raises DecodeError(BAD_TOPIC)."""
    levels = topic.split("/")
    match levels:
        case ["devices", device, "readings"]:
            return Route(device_uuid=_uuid(device, topic))
        case ["devices", device, "sensors", sensor]:
            return Route(device_uuid=_uuid(device, topic), sensor_uuid=_uuid(sensor, topic))
        case ["iot", "sensors", sensor_id, "readings"]:
            if sensor_id.isascii() and sensor_id.isdecimal() and len(sensor_id) < 20 and 0 < int(sensor_id) < _BIGINT:
                return Route(sensor_id=int(sensor_id))
    raise _bad_topic(topic)


def is_ours(topic: str) -> bool:
    """Whether a topic is of section 6 of the design, well-formed or not: never a converter's."""
    return topic.startswith(("devices/", "iot/sensors/"))


def device_of(topic: str) -> str | None:
    """The device whose topic it is, also where the rest of the topic is none of ours; None where it names none."""
    levels = topic.split("/", 2)
    return normal_uuid(levels[1]) if levels[0] == "devices" and len(levels) > 2 else None


def is_rejection(topic: str) -> bool:
    """Whether it is `devices/{device_uuid}/rejected`, which is ours to the device."""
    return topic.startswith("devices/") and topic.endswith("/rejected")


def decode_message(route: Route, payload: bytes, *, max_readings: int) -> Packet:
    """The packet of a message. Raises DecodeError."""
    if route.sensor_id is not None:
        return decode_legacy(payload, route.sensor_id)
    if route.sensor_uuid is not None:
        return decode_bare(payload, route.sensor_uuid)
    packet = decode_mqtt_packet(payload, max_readings=max_readings)
    if packet.device_uuid not in (None, route.device_uuid):
        raise DecodeError(Code.BAD_FORM, "device_uuid is not the one in the topic", where="$.device_uuid")
    return packet


def parse_result(topic: str) -> tuple[str, str] | None:
    """(device UUID, command id) of `devices/{device_uuid}/commands/{id}/result`; None for any other topic."""
    match topic.split("/"):
        case ["devices", device, "commands", command, "result"]:
            device_uuid, command_id = normal_uuid(device), normal_uuid(command)
            if device_uuid is not None and command_id is not None:
                return device_uuid, command_id
    return None


def _uuid(level: str, topic: str) -> str:
    uuid = normal_uuid(level)
    if uuid is None:
        raise _bad_topic(topic)
    return uuid


def _bad_topic(topic: str) -> DecodeError:
    return DecodeError(Code.BAD_TOPIC, f"the topic {topic[:200]!r} is none of ours", where="topic")
