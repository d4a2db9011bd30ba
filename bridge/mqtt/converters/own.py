"""Our own forms on other people's topics: a packet, one value, and the legacy form."""

from __future__ import annotations

from bridge.model.reading import Packet
from bridge.mqtt.converters.home import add_text
from bridge.mqtt.converters.message import MAX_FIELDS, NOTHING, IncomingMessage, PacketBuilder, whole
from bridge.pipeline.decode import decode_legacy, decode_mqtt_packet


def packet(message: IncomingMessage) -> Packet:
    """The packet of `devices/{uuid}/readings`, or one reading of it. Sensors are named by UUID in the payload.

    The topic says nothing of the device: only publishers that are trusted may have it.
    """
    return decode_mqtt_packet(message.payload, max_readings=MAX_FIELDS)


def legacy(message: IncomingMessage) -> Packet:
    """The form of `iot/sensors/{id}/readings`; `sensorId` in the payload names the sensor. Likewise trusted."""
    return decode_legacy(message.payload, None)


def value(message: IncomingMessage) -> Packet:
    """A bare number, or `{"value", "ts"?, "sequence"?}`. The last wildcard level is the channel, the others the device.

    With one wildcard level that is the device, and the channel is called `value`.
    """
    *device, channel = message.captured if len(message.captured) > 1 else (*message.captured, "value")
    name = "/".join(device) or message.topic
    if message.payload.lstrip().startswith(b"{"):
        document = message.document()
        sequence = document.get("sequence")
        readings = PacketBuilder(
            message,
            name,
            ts_us=message.time(document.get("ts"), "$.ts"),
            sequence=None if sequence is None else whole(sequence, "$.sequence"),
        )
        found = document.get("value")
        readings.add(channel, "" if found is None else found, "$.value", number=True)
        return readings.packet()
    readings = PacketBuilder(message, name)
    add_text(readings, channel, message, number=True)
    return readings.packet()


def ignore(message: IncomingMessage) -> Packet:
    """Known, and no reading."""
    return NOTHING
