"""Counts what converters do not take, and keeps a sample of each: packets with unknown fields in, with rejections out.

Every unknown field is counted, by format and channel. The first of each name (device and channel) each day becomes a
rejection, `not_taken`: it goes to quarantine with its message, so that an operator sees it there, and can replay it
once a converter takes it. What was sampled today is remembered in memory, as many names as there may be samples; at
that bound nothing more is sampled until the next day, and is counted all the same. A process that starts again has
a day's samples again.
"""

from __future__ import annotations

import msgspec
from prometheus_client import Counter

from bridge.model.reading import Code, Packet, Rejection, UnknownField

MAX_OF_DEVICE = 100
"""Samples a day of one device: one that makes up channels does not use up those of the others."""
MAX_OF_MESSAGE = 16
"""Each keeps up to 64 KiB of the message; the others come with later messages."""
MAX_LABELS = 200
"""Channels that the metric tells apart; the rest counts as `OTHER`."""
MAX_LABEL = 64
OTHER = "(other)"
MESSAGE = "(message)"
DAY_US = 86_400_000_000


class UnknownFields:
    """Of one door. `samples_a_day` 0: nothing is sampled."""

    def __init__(self, samples_a_day: int, counter: Counter) -> None:
        self._most = samples_a_day
        self._counter = counter
        self._children: dict[tuple[str, str], Counter] = {}
        self._day = 0
        self._sampled: set[str] = set()
        self._of_device: dict[str, int] = {}

    def count(self, packet: Packet, format_name: str) -> None:
        """Count the unknown fields of a message."""
        for field in packet.unknown:
            self._child(format_name, _channel(field)).inc()

    def sample(self, packet: Packet, now_us: int) -> Packet:
        """The packet with a rejection for each unknown field that is the first of its name today."""
        day = now_us // DAY_US
        if day != self._day:
            self._day = day
            self._sampled.clear()
            self._of_device.clear()
        first: list[Rejection] = []
        for field in packet.unknown:
            if len(self._sampled) >= self._most or len(first) >= MAX_OF_MESSAGE:
                break
            device = field.name.partition("#")[0]
            if field.name in self._sampled or self._of_device.get(device, 0) >= MAX_OF_DEVICE:
                continue
            self._sampled.add(field.name)
            self._of_device[device] = self._of_device.get(device, 0) + 1
            first.append(Rejection(field.index, Code.NOT_TAKEN, detail(field), whole=not field.index))
        return msgspec.structs.replace(packet, rejections=packet.rejections + tuple(first)) if first else packet

    def forget(self, packet: Packet) -> None:
        """Samples of a packet that was not settled: when it comes again, they are sampled again."""
        indexes = {rejection.index for rejection in packet.rejections if rejection.code is Code.NOT_TAKEN}
        for field in packet.unknown:
            if field.index in indexes and field.name in self._sampled:
                self._sampled.discard(field.name)
                self._of_device[field.name.partition("#")[0]] -= 1

    def _child(self, format_name: str, channel: str) -> Counter:
        child = self._children.get((format_name, channel))
        if child is None:
            if len(self._children) >= MAX_LABELS:
                return self._counter.labels(format_name, OTHER)
            child = self._children[format_name, channel] = self._counter.labels(format_name, channel)
        return child


def _channel(field: UnknownField) -> str:
    """What the metric calls it."""
    if not field.index:
        return MESSAGE
    channel = field.name.partition("#")[2][:MAX_LABEL]
    return channel if channel.isprintable() else OTHER


def detail(field: UnknownField) -> str:
    """What is said of a sample: its name, why it is not taken, and its value."""
    return f"{field.name}: not taken: {field.reason}: {example(field.value)}"


def example(value: object, most: int = 200) -> str:
    """A value as it is shown to an operator."""
    if isinstance(value, bytes | memoryview):
        return bytes(value[:most]).decode(errors="replace")
    text = value[:most] if isinstance(value, str) else value
    return repr(text)[:most]
