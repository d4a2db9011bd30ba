"""Which converter a message goes to: a topic and its payload in, a `Conversion` out. Never an exception.

Our own topics come first and are never a converter's: what a device may write there cannot be turned into
anything else by the configuration. Of the others, the first filter that matches is taken.
"""

from __future__ import annotations

import msgspec

from bridge.errors import DecodeError
from bridge.model import topic_filter
from bridge.model.reading import Code, ExternalId, Packet, Rejection
from bridge.mqtt.converters.formats import FORMATS, Decoder
from bridge.mqtt.converters.local_times import LocalClock, LocalTimes
from bridge.mqtt.converters.message import NOTHING, IncomingMessage, OutgoingMessage
from bridge.mqtt.topics import MAX_TOPIC, decode_message, device_of, is_ours, parse_topic
from bridge.pipeline.json_body import trimmed
from bridge.settings.mqtt import ConverterSettings, MqttSettings

MAX_READINGS = 5_000
REMEMBERED_TOPICS = 10_000
"""Topics whose converter is remembered; each has at most MAX_TOPIC characters."""
OURS = "native"


class Conversion(msgspec.Struct, frozen=True):
    """What became of a message."""

    packet: Packet
    device_uuid: str | None = None  # the device whose topic it is: sensors of any other do not resolve
    format: str = OURS
    outgoing: tuple[OutgoingMessage, ...] = ()  # to be published, at QoS 0

    @property
    def outcome(self) -> str:
        """For the metric."""
        if self.packet.readings:
            return "readings"
        if self.packet.rejections:
            return "refused"
        return "unknown" if self.packet.unknown else "nothing"

    @property
    def sender(self) -> str:
        """Whose limit the message counts against, in at most 255 characters.

        The device that the topic names, else the device or the sensor that the readings are of. What is of nobody
        known counts together, for each format: a sender who makes up topics gains nothing by it.
        """
        if self.device_uuid is not None:
            return self.device_uuid
        if not self.packet.readings:
            return self.format
        sensor = self.packet.readings[0].sensor
        return sensor.text.partition("#")[0] if isinstance(sensor, ExternalId) else f"sensor/{sensor}"


class _Entry(msgspec.Struct, frozen=True):
    settings: ConverterSettings
    levels: tuple[str, ...]
    decode: Decoder
    binary: bool


class Converters:
    """The converters of one configuration. Those that remember make it belong to one MQTT session."""

    def __init__(self, settings: MqttSettings) -> None:
        self._max_payload_bytes = settings.max_payload_bytes
        self._entries = [
            _Entry(
                entry, tuple(entry.filter.split("/")), FORMATS[entry.format].make(entry), FORMATS[entry.format].binary
            )
            for entry in settings.converters
        ]
        self._of_topic: dict[str, tuple[_Entry, tuple[str, ...]]] = {}
        self._local_times = LocalTimes()

    def convert(self, topic: str, payload: bytes, *, received_us: int, retained: bool = False) -> Conversion:
        """What cannot be decoded is one rejection, for quarantine.

        A message without a payload is no reading: it takes a retained one back (MQTT 3.1.1, 3.3.1.3), and comes without
        the RETAIN flag to who is subscribed already.
        """
        device_uuid: str | None = None
        name = OURS
        outgoing: list[OutgoingMessage] = []
        try:
            if len(topic) > MAX_TOPIC:
                raise DecodeError(Code.BAD_TOPIC, f"the topic has more than {MAX_TOPIC} characters", where="topic")
            if len(payload) > self._max_payload_bytes:
                raise DecodeError(Code.TOO_LARGE, f"{len(payload)} bytes, more than {self._max_payload_bytes}")
            if not self._entries or is_ours(topic):
                route = parse_topic(topic)
                device_uuid = route.device_uuid
                if not payload:
                    return Conversion(NOTHING, device_uuid)
                return Conversion(decode_message(route, payload, max_readings=MAX_READINGS), device_uuid)
            entry, captured = self._find(topic)
            name = entry.settings.format
            if not payload:
                return Conversion(NOTHING, device_uuid, name)
            clock = None
            if entry.settings.zone != "UTC":
                clock = LocalClock(self._local_times, topic, payload, received_us)
            body = payload if entry.binary else trimmed(payload)
            packet = entry.decode(IncomingMessage(topic, captured, body, received_us, entry.settings, outgoing, clock))
            if retained and entry.settings.retained == "skip":
                packet = _timed(packet)
        except DecodeError as error:
            packet = Packet((), (Rejection(0, Code(error.reason), error.detail, whole=True),))
            device_uuid = device_of(topic)
        return Conversion(packet, device_uuid, name, tuple(outgoing))

    def is_foreign(self, topic: str) -> bool:
        """Whether readings of this topic are numbered from 1, with 0 for the message as a whole."""
        if not self._entries or is_ours(topic):
            return False
        try:
            entry, _ = self._find(topic)
        except DecodeError:
            return False
        return FORMATS[entry.settings.format].foreign

    def _find(self, topic: str) -> tuple[_Entry, tuple[str, ...]]:
        found = self._of_topic.get(topic)
        if found is not None:
            return found
        levels = topic.split("/")
        for entry in self._entries:
            captured = topic_filter.match(entry.levels, levels)
            if captured is not None:
                if len(self._of_topic) >= REMEMBERED_TOPICS:
                    self._of_topic.clear()
                self._of_topic[topic] = (entry, captured)
                return entry, captured
        raise DecodeError(
            Code.BAD_TOPIC, f"the topic {topic[:200]!r} is none of ours, nor of a converter", where="topic"
        )


def _timed(packet: Packet) -> Packet:
    """A retained message says what was once measured: without a time of its own, nobody knows when.

    What it holds is known then, and is no measurement of now.
    """
    readings = tuple(decoded for decoded in packet.readings if decoded.ts_us is not None)
    old = len(packet.readings) - len(readings)
    return msgspec.structs.replace(packet, readings=readings, known=packet.known + old) if old else packet
