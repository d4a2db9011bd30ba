"""What a converter works with: an `IncomingMessage` in, its fields into a `PacketBuilder`, a `Packet` out.

A field is one scalar of the message. Fields are numbered from 1 in the order in which they stand,
whether they are taken or not, so that a quarantined one is found again in the same bytes, whatever the
configuration says by then. Index 0 is the message as a whole.

Nothing is dropped: each field is taken (a reading), refused (a rejection), known to be no measurement (by what the
format defines, by `skip`, or because it is null), or unknown. A message that says nothing at all is `NOTHING`
where that is known of its kind, and `unknown_message` where it is not.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from fnmatch import translate
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from bridge.errors import DecodeError
from bridge.model.reading import Code, DecodedReading, ExternalId, Packet, Rejection, UnknownField
from bridge.mqtt.converters.local_times import LocalClock, choose
from bridge.mqtt.converters.repeated import lost_fields
from bridge.pipeline.bare_nan import without_nan
from bridge.pipeline.decode import decode_any
from bridge.pipeline.json_body import trimmed, utf8_fault
from bridge.pipeline.number_text import MAX_NUMBER, fault_in
from bridge.pipeline.timestamps import TimeUnit, candidates
from bridge.settings.mqtt import ConverterSettings

NOTHING = Packet((), no_measurement=True)
"""A message that is known, and is no reading."""

NOT_NAMED = "not among take"
IS_TEXT = "text"
NO_SCALAR = "neither a number nor text"
NO_MEANING = "nothing says what it is"
UNKNOWN_KIND = "a message of a kind that the converter does not know"
"""Why a field is unknown."""

MAX_FIELDS = 5_000
"""Fields of one message; as many as a packet of our own has readings."""
MAX_EXPANSION_BYTES = 4 << 20
"""Quarantine keeps the whole message for each refused field: no message may cost more than this."""
MAX_PATH = 1_000
MAX_ID = 255
_BIGINT = 1 << 63
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_COMMA_NUMBER = re.compile(r"[+-]?\d+(,\d+)?", re.ASCII)
WORDS = {"on": 1.0, "off": 0.0, "true": 1.0, "false": 0.0}
"""Texts of two-valued fields, in lower case."""
NOT_MEASURED = frozenset(("", "nan", "-nan", "none", "null", "unknown", "unavailable"))
"""Texts, in lower case, of a number that there is not: C's NaN, Python's None, the states of Home Assistant."""
UNSET_FROM_US, UNSET_BEFORE_US = -86_400_000_000, 365 * 86_400_000_000
"""A day before 1970, for local times, to 1971: what a clock that counts from 1970 shows until it is set."""


class OutgoingMessage(msgspec.Struct, frozen=True):
    """Something the session should publish: a format that has lost the thread asks for it."""

    topic: str
    payload: bytes


class IncomingMessage(msgspec.Struct, frozen=True):
    """One MQTT message of a converter's filter."""

    topic: str
    captured: tuple[str, ...]  # the levels that the filter's wildcards stand for
    payload: bytes  # of text, without a byte order mark before it and NULs after it
    received_us: int
    settings: ConverterSettings
    outgoing: list[OutgoingMessage] = []
    clock: LocalClock | None = None  # of a zone that may repeat an hour; None: nothing is remembered
    lost: list[tuple[str, object]] = []  # fields that the parser has dropped, once it has parsed

    @property
    def levels(self) -> list[str]:
        return self.topic.split("/")

    def text(self) -> str:
        """The payload as text. Raises DecodeError."""
        try:
            return self.payload.decode().strip()
        except UnicodeDecodeError as error:
            detail = f"the payload is not UTF-8: {utf8_fault(self.payload, error)}"
            raise DecodeError(Code.BAD_ENCODING, detail) from None

    def parsed(self) -> object:
        """The payload as JSON, also where it has `nan` in it. Raises DecodeError."""
        payload, document = self.decoded()
        self.lost[:] = lost_fields(payload, document)
        return document

    def decoded(self) -> tuple[bytes, Any]:
        """The payload, without `nan`, and what it is as JSON. Raises DecodeError."""
        try:
            return self.payload, _document_of(self.payload)
        except DecodeError as error:
            before = trimmed(self.payload)
            payload = without_nan(before)
            if error.reason != Code.BAD_JSON or payload == before or before.lstrip()[:1] not in (b"{", b"["):
                raise
            return payload, _document_of(payload)

    def document(self) -> dict[str, Any]:
        """The payload as a JSON object. Raises DecodeError."""
        document = self.parsed()
        if not isinstance(document, dict):
            raise DecodeError(Code.BAD_FORM, "the payload is not a JSON object")
        return document

    def time(
        self, value: object, where: str, *, unit: TimeUnit = "", channel: str = "", from_boot: bool = False
    ) -> int | None:
        """A time of the message, in microseconds; None where there is none, or it is not believed.

        `unit`: of numbers, as the format has it; unless `time_unit` says another. `channel`: whose time it is, where
        that is not the whole message. `from_boot`: the format's devices count from 1970 until their clock is set.
        Raises DecodeError.
        """
        if value is None or self.settings.clock == "receipt":
            return None
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise DecodeError(Code.BAD_TIME, f"{where} is no time", where=where)
        found = candidates(value, where, zone_of(self.settings.zone), self.settings.time_unit or unit)
        if from_boot and UNSET_FROM_US <= found[0] < UNSET_BEFORE_US:
            return None
        if self.clock is not None:
            return self.clock.instant(channel, found)
        return choose(found, self.received_us, None)


def _document_of(payload: bytes) -> Any:
    """A JSON document; numbers beyond a float are infinite, and refused where they stand. Raises DecodeError."""
    try:
        return decode_any(payload)
    except DecodeError as error:
        if error.reason != Code.BAD_FORM:
            raise
        try:
            return json.loads(trimmed(payload))
        except (ValueError, RecursionError):
            raise error from None


def unknown_message(message: IncomingMessage) -> Packet:
    """A message of a kind that the converter does not know: it may be of the world, and nothing is taken of it."""
    name = f"{message.settings.namespace or message.settings.format}/{message.topic}"
    return Packet((), unknown=(UnknownField(0, name[:MAX_ID], message.payload[:MAX_PATH], UNKNOWN_KIND),))


class PacketBuilder:
    """The fields of one message, of one device after another. `of` a device, `add` each field; then `packet`."""

    def __init__(
        self,
        message: IncomingMessage,
        device: str | None = None,
        *,
        ts_us: int | None = None,
        sequence: int | None = None,
        leave_out: tuple[str, ...] = (),
    ) -> None:
        settings = message.settings
        self._message = message
        self._prefix = ""
        self._comma = settings.decimal == "comma"
        self._take = _any_of(settings.take)
        self._skip = _any_of((*(settings.skip or ()), *settings.skip_also))  # the operator's word: it goes before take
        self._defaults = settings.skip is None
        self._leave_out = _any_of(leave_out) if self._defaults else None
        self._ts_us = ts_us
        self._sequence = sequence
        self._index = 0
        self._readings: list[DecodedReading] = []
        self._rejections: list[Rejection] = []
        self._unknown: list[UnknownField] = []
        self._known = 0
        if device is not None:
            self.of(device)

    def of(self, device: str) -> None:
        """From here on, fields are of this device. Raises DecodeError."""
        if not device or "#" in device or not device.isprintable():
            raise DecodeError(Code.BAD_FORM, f"{device[:80]!r} is no name of a device", where="device")
        settings = self._message.settings
        self._prefix = f"{settings.namespace or settings.format}/{device}#"

    def add(
        self,
        channel: str,
        value: object,
        where: str,
        *,
        number: bool = False,
        words: bool = False,
        free: bool = False,
        state: bool = False,
        option: bool = False,
        convert: Callable[[float], float] | None = None,
        ts_us: int | None = None,
    ) -> None:
        """One field, of which nothing is said but its value: a number or a boolean is a reading, text is unknown.

        What else may be said: `number`: its form says it is one, so anything else is refused. `words`: on and off are
        values. `free`: the format writes measurements as text too, so text that is wholly a number is a reading.
        `state`: the format says that its text is the name of a state or a setting, so that it is no measurement.
        `option`: the format says that it is a setting, whatever its value; as if its own list named it.

        Null is not measured, nor is a text that says so where the form has a number or a state. What `take` names must
        be a number, a boolean, on or off, and is refused otherwise.
        """
        self._index += 1
        if self._index > MAX_FIELDS:
            raise DecodeError(Code.TOO_LARGE, f"more than {MAX_FIELDS} fields in one message", where=where)
        if value is None or (self._skip is not None and self._skip.match(channel)):
            self._known += 1
            return
        named = self._take is not None and self._take.match(channel) is not None
        if not named:
            if (option and self._defaults) or (self._leave_out is not None and self._leave_out.match(channel)):
                self._known += 1
                return
            if self._take is not None:
                self._not_taken(channel, value, NOT_NAMED)
                return
        if isinstance(value, str) and (number or words) and value.strip().lower() in NOT_MEASURED:
            self._known += 1
            return
        try:
            found = self._value(value, where, number, words, free, named)
            if found is None:
                if state and isinstance(value, str):
                    self._known += 1
                else:
                    self._not_taken(channel, value, IS_TEXT if isinstance(value, str) else NO_SCALAR)
                return
            name = self._prefix + channel
            if not channel or len(name) > MAX_ID or not name.isprintable():
                raise DecodeError(Code.BAD_FORM, f"{where[:80]}: {name[:80]!r} is no external id", where=where)
        except DecodeError as error:
            self._rejections.append(Rejection(self._index, Code(error.reason), error.detail))
            return
        if convert is not None:
            found = convert(found)
        moment = self._ts_us if ts_us is None else ts_us
        self._readings.append(DecodedReading(self._index, ExternalId(name), found, moment, self._sequence))

    def add_known(self, count: int = 1) -> None:
        """Fields beside the numbered ones that say nothing of the world: the format's own, as its times and counters.

        They have no number, so that the others keep theirs whatever is known some day.
        """
        self._known += count

    def pass_over(self) -> None:
        """Something that has a number, and holds no field."""
        self._index += 1

    def add_unknown(self, channel: str, value: object, reason: str = NO_MEANING) -> None:
        """A field that is not taken, whatever its value, unless it is left out; null is known, as it is everywhere.

        `reason` is one of a few texts.
        """
        self._index += 1
        if self._index > MAX_FIELDS:
            raise DecodeError(Code.TOO_LARGE, f"more than {MAX_FIELDS} fields in one message", where=channel[:80])
        left_out = any(pattern is not None and pattern.match(channel) for pattern in (self._skip, self._leave_out))
        if value is None or left_out:
            self._known += 1
        else:
            self._not_taken(channel, value, reason)

    def _not_taken(self, channel: str, value: object, reason: str) -> None:
        self._unknown.append(UnknownField(self._index, (self._prefix + channel)[:MAX_ID], value, reason))

    def refuse(self, code: Code, detail: str) -> None:
        """A field whose form is wrong."""
        self._index += 1
        self._rejections.append(Rejection(self._index, code, detail))

    def packet(self, excerpts: Callable[[Collection[int]], Mapping[int, bytes]] | None = None) -> Packet:
        """All that was added. Raises DecodeError where quarantining it all would cost too much."""
        for channel, value in self._message.lost:
            self.add_unknown(channel, value)
        rows = len(self._readings) + len(self._rejections)
        size = len(self._message.payload)
        if excerpts is None and rows * size > MAX_EXPANSION_BYTES:
            raise DecodeError(Code.TOO_LARGE, f"{rows} readings in a message of {size} bytes")
        return Packet(tuple(self._readings), tuple(self._rejections), None, excerpts, tuple(self._unknown), self._known)

    @property
    def index(self) -> int:
        """Of the field added last."""
        return self._index

    def _value(self, value: object, where: str, number: bool, words: bool, free: bool, named: bool) -> float | None:
        """The field's number; None where it has none and need not. Raises DecodeError."""
        if isinstance(value, bool):
            if number and not words and not named:
                raise DecodeError(Code.BAD_VALUE, f"{where} is not a number", where=where)
            return float(value)
        if isinstance(value, int | float):
            return finite(value, where)
        if isinstance(value, str):
            if (words or named) and value.lower() in WORDS:
                return WORDS[value.lower()]
            if number or named or (free and is_number(value, comma=self._comma)):
                return text_number(value, where, comma=self._comma)
        elif number or named:
            raise DecodeError(Code.BAD_VALUE, f"{where} is not a number", where=where)
        return None


@lru_cache(maxsize=256)  # of patterns in the configuration, which are few
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(translate(pattern) for pattern in patterns)) if patterns else None


def walk(document: object, *path: str) -> Iterator[tuple[str, str, object]]:
    """Every scalar of a document as (channel, leaf name, value); the channel is its path, joined by dots.

    Not recursive, and nothing is built ahead: depth, width and the length of keys are the sender's choice.
    """
    stack: list[tuple[str, str, Iterator[tuple[object, object]]]] = []
    channel, leaf, value = ".".join(path), path[-1] if path else "", document
    while True:
        if isinstance(value, dict):
            stack.append((channel, leaf, iter(value.items())))
        elif isinstance(value, list):
            stack.append((channel, leaf, iter(enumerate(value))))
        else:
            yield channel, leaf, value
        while stack:
            above, leaf, items = stack[-1]
            found = next(items, None)
            if found is not None:
                break
            stack.pop()
        else:
            return
        key, value = found
        if isinstance(key, str):
            leaf = key
        channel = f"{above}.{key}" if above else str(key)
        if len(channel) > MAX_PATH:
            raise DecodeError(Code.TOO_LARGE, f"a field whose path has more than {MAX_PATH} characters")


def finite(value: float, where: str) -> float:
    """A number as a finite float. Raises DecodeError(BAD_VALUE)."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DecodeError(Code.BAD_VALUE, f"{where} is not a finite number", where=where)
    return number


def is_number(text: str, *, comma: bool = False) -> bool:
    """Whether text is wholly a number."""
    return len(text) <= MAX_NUMBER and (_COMMA_NUMBER if comma else _NUMBER).fullmatch(text.strip()) is not None


def text_number(text: str, where: str, *, comma: bool = False) -> float:
    """A number written as text. Raises DecodeError(BAD_VALUE)."""
    text = text.strip()
    if is_number(text, comma=comma):
        return finite(float(text.replace(",", ".")), where)
    detail = f"{where}: {text[:80]!r} is not a number: {_fault(text, comma)}"
    raise DecodeError(Code.BAD_VALUE, detail, where=where)


def _fault(text: str, comma: bool) -> str:
    """Why a text is no number, and where the configuration has a remedy, that."""
    if comma:
        if "." in text:
            return f"the point at character {text.index('.') + 1}; the converter has decimal = 'comma'"
        return fault_in(text.replace(",", ".", 1))
    remedy = "; decimal = 'comma' takes it" if _COMMA_NUMBER.fullmatch(text) else ""
    return fault_in(text) + remedy


def whole(value: object, where: str) -> int:
    """A counter, which is left out where it is 0. Raises DecodeError."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not -_BIGINT <= value < _BIGINT:
        raise DecodeError(Code.BAD_FORM, f"{where} is not a 64-bit number", where=where)
    return value


def table(value: object, where: str) -> dict[str, Any]:
    """An object inside a document. Raises DecodeError."""
    if not isinstance(value, dict):
        raise DecodeError(Code.BAD_FORM, f"{where} is missing, or not an object", where=where)
    return value


def zone_of(name: str) -> ZoneInfo:
    """The zone; the library keeps it."""
    return ZoneInfo(name)
