"""Hostile MQTT: messages on every topic that the bridge listens to, and packets that are none.

Messages go over ordinary clients; what a client would refuse to send goes as bytes (`Packet`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Literal, NamedTuple

import msgspec

from tests.hostile.attacked import Loot
from tests.hostile.documents import doubled, paths, replaced, text_of
from tests.hostile.requests import names_of, packet_of
from tests.hostile.sources import MqttTarget, foreign_topics, own_documents, own_topics
from tests.hostile.values import Value, light, texts

Who = Literal["device", "publisher", "formats"]
LONG = 60_000
"""Characters of a topic; MQTT takes 65,535 bytes."""
VARYING = 300
"""Topics that are used once, as many as are above any limit by the minute that a test would set."""
VARYING_LONG = (60, 1_500)
"""Those of 60 KB, in a short run and in a whole one."""
BOMB = 200_000
"""Bytes of a payload that is large, and small enough for the broker."""


class HostileMessage(NamedTuple):
    """A hostile message, and the account that publishes it."""

    name: str
    who: Who
    topic: str
    make: Callable[[], bytes]
    retain: bool = False


class Messages:
    """Makes the hostile messages. `share` of the light values are tried at each place, chosen by `random`."""

    def __init__(self, loot: Loot, random: Random, share: float) -> None:
        self._loot = loot
        self._names = names_of(loot)
        self._random = random
        self._share = share

    def all(self) -> Iterator[HostileMessage]:
        """Every one of them."""
        for target in own_topics():
            yield from self._documents(target)
            yield from self._levels(target)
        for target in foreign_topics():
            yield from self._foreign(target)
        yield from self._varying()

    def _documents(self, target: MqttTarget) -> Iterator[HostileMessage]:
        who, topic = self._own(target)
        for form, document in own_documents(self._names).items():
            for at in paths(document):
                for value in self._some():
                    name = f"{target.name}, {form} {text_of(at)} = {value.name}"
                    yield HostileMessage(name, who, topic, partial(self._replaced, form, at, value.make))
                value = self._random.choice(light())
                name = f"{target.name}, {form} {text_of(at)} twice, {value.name}"
                yield HostileMessage(name, who, topic, partial(self._replaced, form, at, value.make, twice=True))

    def _levels(self, target: MqttTarget) -> Iterator[HostileMessage]:
        """Levels of the topic that are no names, as far as MQTT takes them for text."""
        who, _ = self._own(target)
        payload = packet_of(self._loot.sensor_uuid, 1)
        for what, raw in texts().items():
            text = raw.decode(errors="replace").translate({ord(c): "" for c in "\0+#/"})
            yield HostileMessage(
                f"{target.name}, levels: {what}", who, self._filled(target, text), partial(bytes, payload)
            )

    def _foreign(self, target: MqttTarget) -> Iterator[HostileMessage]:
        """A message of another format: cut, garbled, with values in its fields, retained."""
        payload = target.payload or b""
        for name, make in {
            "as it should be": partial(bytes, payload),
            "cut": partial(bytes, payload[: len(payload) // 2]),
            "garbled": partial(self._garbled, payload),
            "twice": partial(bytes, payload * 2),
            "deep": partial(bytes, b"[" * 100_000),
            "large": partial(bytes, payload + b" " * BOMB),
        }.items():
            yield HostileMessage(f"{target.name}, {name}", "formats", target.topic, make)
        for value in self._some():
            yield HostileMessage(f"{target.name} = {value.name}", "formats", target.topic, value.make, retain=True)
        try:
            document = msgspec.json.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        for at in paths(document):
            for value in self._some():
                make = partial(replaced, document, at, value.make())
                yield HostileMessage(f"{target.name}, {text_of(at)} = {value.name}", "formats", target.topic, make)

    def _varying(self) -> Iterator[HostileMessage]:
        """Topics that are new each time: what is remembered by its topic grows with them."""
        loot = self._loot
        for number in range(VARYING):
            topic = f"devices/{loot.device.uuid}/sensors/zz{number}"
            yield HostileMessage("a new topic each time", "device", topic, partial(bytes, b"21.5"))
        for number in range(VARYING_LONG[self._share == 1]):
            level = f"{number}-" + "-" * LONG
            topics: dict[Who, str] = {
                "device": f"devices/{loot.device.uuid}/sensors/{level}",
                "publisher": f"iot/sensors/{level}/readings",
                "formats": f"senml/{level}",
            }
            for who, topic in topics.items():
                yield HostileMessage("a new topic of 60 KB each time", who, topic, partial(bytes, b"21.5"))

    def _own(self, target: MqttTarget) -> tuple[Who, str]:
        return ("publisher" if target.topic.startswith("iot/") else "device"), self._filled(target, None)

    def _filled(self, target: MqttTarget, text: str | None) -> str:
        """A filter as a topic: the first level is the account's own, which the access list demands."""
        loot = self._loot
        is_legacy = target.topic.startswith("iot/")
        own = [str(loot.sensor_id)] if is_legacy else [loot.device.uuid, loot.sensor_uuid]
        levels = []
        for number, level in enumerate(target.topic.split("/")):
            if level != "+":
                levels.append(level)
            elif text is not None and (number > 1 or is_legacy):
                levels.append(text)
            else:
                levels.append(own.pop(0) if own else "x")
        return "/".join(levels)

    def _replaced(
        self, form: str, at: tuple[str | int, ...], make: Callable[[], bytes], *, twice: bool = False
    ) -> bytes:
        document = own_documents(self._names)[form]
        return doubled(document, at, make()) if twice else replaced(document, at, make())

    def _garbled(self, payload: bytes) -> bytes:
        garbled = bytearray(payload)
        for _ in range(1 + len(garbled) // 20 if garbled else 0):
            garbled[self._random.randrange(len(garbled))] = self._random.randrange(256)
        return bytes(garbled)

    def _some(self) -> list[Value]:
        return self._random.sample(light(), max(1, round(self._share * len(light()))))


# -- packets


class Packet(NamedTuple):
    """Bytes on a connection to the broker, before anyone is authenticated or after."""

    name: str
    data: bytes


def _text(value: bytes) -> bytes:
    """A text of MQTT."""
    return struct.pack(">H", len(value)) + value


def connect_packet(client_id: bytes, username: bytes, password: bytes) -> bytes:
    """CONNECT of MQTT 3.1.1, with a clean session."""
    return packet(0x10, _text(b"MQTT") + b"\x04\xc2\0\x3c" + _text(client_id) + _text(username) + _text(password))


def packet(first: int, rest: bytes, length: int | None = None) -> bytes:
    """A packet with its remaining length, or another one."""
    left, encoded = len(rest) if length is None else length, b""
    while True:
        left, digit = divmod(left, 128)
        encoded += bytes([digit | (0x80 if left else 0)])
        if not left:
            return bytes([first]) + encoded + rest


def packets(loot: Loot) -> Iterator[Packet]:
    """Every one of them."""
    huge = packet(0x10, _text(b"MQTT") + b"\x04\xc2\0\x3c", 268_435_455) + b"x" * 30_000_000
    for _ in range(3):
        yield Packet("CONNECT of 256 MB, without an account", huge)
    user, key = loot.device.uuid.encode(), loot.device.key.encode()
    hello = connect_packet(b"hostile", user, key)
    topic = f"devices/{loot.device.uuid}/readings".encode()
    yield Packet("PUBLISH of 256 MB", hello + packet(0x30, _text(topic), 268_435_455) + b"x" * 20_000_000)
    yield Packet("a remaining length of 5 bytes", hello + b"\x30\xff\xff\xff\xff\xff\x01" + b"x" * 1_000)
    yield Packet("a topic that is no UTF-8", hello + packet(0x30, _text(b"devices/\xed\xa0\x80\xff/readings") + b"1"))
    yield Packet("a topic with NUL", hello + packet(0x30, _text(topic + b"\0") + b"1"))
    yield Packet("a topic with wildcards", hello + packet(0x30, _text(b"devices/+/readings") + b"1"))
    yield Packet("no topic", hello + packet(0x30, _text(b"") + b"1"))
    yield Packet("QoS 3", hello + packet(0x36, _text(topic) + b"\0\1" + b"1"))
    yield Packet("packet id 0", hello + packet(0x32, _text(topic) + b"\0\0" + b"1"))
    yield Packet("QoS 2", hello + packet(0x34, _text(topic) + b"\0\1" + packet_of(loot.sensor_uuid, 1)))
    yield Packet("CONNECT twice", hello + hello)
    yield Packet("PUBLISH before CONNECT", packet(0x30, _text(topic) + b"1") + hello)
    yield Packet("half a packet", hello[:20])
    yield Packet("a client id that is no UTF-8", connect_packet(b"\xff\xfe", user, key))
    yield Packet("a user name with NUL", connect_packet(b"a", user + b"\0", key))
    yield Packet("a client id of 60 KB", connect_packet(b"c" * LONG, user, key))
    for client_id in loot.client_ids:
        good = packet(0x32, _text(topic) + b"\0\1" + packet_of(loot.sensor_uuid, 1))
        yield Packet(f"the client id {client_id}", connect_packet(client_id.encode(), user, key) + good)
