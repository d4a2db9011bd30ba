"""Our own forms on other people's topics: a packet, one value, and the legacy form."""

from __future__ import annotations

import msgspec

from bridge.errors import DecodeError
from bridge.model.reading import Code, Packet
from bridge.mqtt.converters.message import MAX_FIELDS, MAX_ID, NOTHING, IncomingMessage, PacketBuilder, walk, whole
from bridge.pipeline.decode import decode_any, decode_legacy, decode_mqtt_packet
from bridge.pipeline.number_text import whole_number_of


def packet(message: IncomingMessage) -> Packet:
    """The packet of `devices/{uuid}/readings`, or one reading of it. Sensors are named by UUID in the payload.

    The topic says nothing of the device: only publishers that are trusted may have it.
    """
    return decode_mqtt_packet(message.payload, max_readings=MAX_FIELDS)


def legacy(message: IncomingMessage) -> Packet:
    """The form of `iot/sensors/{id}/readings`; `sensorId` in the payload names the sensor. Likewise trusted."""
    return decode_legacy(message.payload, None)


_TIMES = ("sensor_ts", "ts", "timestamp")
"""Names that our own forms have for the time of one reading; the first that is there counts."""
_FIELDS = frozenset((*_TIMES, "value", "sequence", "msgId"))


def value(message: IncomingMessage) -> Packet:
    """A bare number, or `{"value", "ts"?, "sequence"?, "msgId"?}`.

    The last wildcard level is the channel, the others are the device; one level is the device, and the channel `value`.
    Null, bare or as the value, a text that says as much, and a message of no bytes are known, and no reading.
    """
    *device, channel = message.captured if len(message.captured) > 1 else (*message.captured, "value")
    name = "/".join(device) or message.topic
    body = message.payload.strip()
    if not body or body == b"null":
        return NOTHING
    if body.startswith(b"{"):
        return _document(message, name, channel)
    readings = PacketBuilder(message, name)
    text = decode_any(body) if body.startswith(b'"') else message.text()
    readings.add(channel, text, channel, number=True, words=True)
    return readings.packet()


def _document(message: IncomingMessage, name: str, channel: str) -> Packet:
    document = message.document()
    times = [field for field in _TIMES if document.get(field) is not None]
    sequence = document.get("sequence")
    readings = PacketBuilder(
        message,
        name,
        ts_us=message.time(document[times[0]], f"$.{times[0]}") if times else None,
        sequence=_sequence(sequence),
    )
    if "value" not in document:
        readings.refuse(Code.BAD_VALUE, "$.value is missing")
    else:
        value = document["value"]
        # Venus OS has an empty list for what is invalid: https://github.com/victronenergy/venus/issues/1102
        readings.add(channel, None if value == [] else value, "$.value", number=True, words=True)
    for field, item in document.items():
        if field in _FIELDS:
            continue
        for path, _, leaf in walk(item, field):
            readings.add_unknown(path, leaf)
    readings.add_known(len(_FIELDS & document.keys()) - ("value" in document))
    return _keyed(readings.packet(), document.get("msgId"))


def _sequence(value: object) -> int | None:
    """The device's counter, as in our own forms: a whole number, or text or a float that is one. Raises DecodeError."""
    if value is None:
        return None
    if isinstance(value, str | float):
        value = whole_number_of(str(value), "$.sequence")
    return whole(value, "$.sequence")


def _keyed(packet: Packet, key: object) -> Packet:
    """With the sender's own identity for the one reading. Raises DecodeError."""
    if key is None:
        return packet
    if not isinstance(key, str) or not 0 < len(key) <= MAX_ID:
        raise DecodeError(Code.BAD_FORM, f"msgId is not 1 to {MAX_ID} characters", where="$.msgId")
    readings = tuple(msgspec.structs.replace(decoded, key=key) for decoded in packet.readings)
    return msgspec.structs.replace(packet, readings=readings)


def ignore(message: IncomingMessage) -> Packet:
    """Known, and no reading."""
    return NOTHING
