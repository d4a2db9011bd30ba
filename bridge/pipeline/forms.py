"""The forms of a reading: which fields each has, and the decoders of msgspec for it.

Every form reads the same fields beside those that name its sensor: `value`, a time (`sensor_ts`, `ts` or `timestamp`),
`sequence`, `msgId`. Each has three decoders:

- *strict*: refuses a field that it does not know. The way of nearly everything, and no slower than any other.
- *tolerant*: skips such fields. Only after the strict one refused: whoever sends them pays for finding them.
- *loose*: keeps `value` and `sequence` as they stand, for what is a number, and yet not one to msgspec: true, null,
  text with blanks around it; and to say what is wrong with it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar, cast

import msgspec

from bridge.errors import DecodeError
from bridge.model.reading import Code
from bridge.pipeline.json_body import FAULTS, decode_json
from bridge.pipeline.number_text import number_of, whole_number_of

ABSENT = msgspec.Raw()
Time = int | float | str | None
MAX_IGNORED = 10
"""Places of unknown fields that are told of one message; `…` stands for further ones."""
VALUE = b'"value"'
"""In a body once for each reading: where it is there more often, one may hide another."""
_MAX_NAME = 64  # characters of a field's name that are told


class Reading(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What every form of a reading has."""

    value: float
    sensor_ts: Time = None
    ts: Time = None
    timestamp: Time = None
    sequence: int | None = None
    msgId: str | None = None  # noqa: N815 - the wire's own name


class NativeReading(Reading, kw_only=True, forbid_unknown_fields=True):
    """A reading of a device's packet."""

    sensor_uuid: str


class OneReading(NativeReading, kw_only=True, forbid_unknown_fields=True):
    """A reading of a device's packet by itself."""

    device_uuid: str | None = None


class ApiReading(Reading, kw_only=True, forbid_unknown_fields=True):
    """A reading of a program with an API key."""

    sensor_id: int


class BareReading(Reading, kw_only=True, forbid_unknown_fields=True):
    """A reading whose topic names its sensor."""


class Metadata(msgspec.Struct, forbid_unknown_fields=True):
    """Of the legacy form."""

    deviceUuid: str | None = None  # noqa: N815
    sensorUuid: str | None = None  # noqa: N815
    sequence: int | None = None


class LegacyReading(Reading, kw_only=True, forbid_unknown_fields=True):
    """The form of `iot/sensors/{sensor_id}/readings`. `v` and `type` are always the same: nothing is made of them."""

    sensorId: int | None = None  # noqa: N815
    sensor_id: int | None = None
    metadata: Metadata | None = None
    v: Any = None
    type: Any = None


Item = TypeVar("Item", bound=Reading)


class Form(Generic[Item]):
    """One form of a reading."""

    def __init__(self, kind: type[Item], **inner: type[msgspec.Struct]) -> None:
        """`inner`: fields that hold an object of their own."""
        tolerant = {field: _tolerant(of) | None for field, of in inner.items()}
        self.kind = kind
        self.names = frozenset(kind.__struct_fields__)
        self._inner = {field: frozenset(of.__struct_fields__) for field, of in inner.items()}
        self.strict = msgspec.json.Decoder(kind, strict=False)
        self.tolerant_kind = _tolerant(kind, **tolerant)
        self.tolerant = msgspec.json.Decoder(self.tolerant_kind, strict=False)
        raw = {"value": msgspec.Raw, "sequence": msgspec.Raw}
        self._loose = msgspec.json.Decoder(_tolerant(kind, **tolerant, **raw), strict=False)

    def read(self, body: bytes, at: str = "$") -> tuple[Item | None, list[str]]:
        """A reading, None where its value is null, and the places of what is not read of it. Raises DecodeError."""
        item: Item | None
        ignored: list[str] = []
        try:
            item = self.strict.decode(body)
        except FAULTS:
            item, ignored = self._read_again(body, at)
        if body.count(VALUE) > 1:
            ignored += repeated(body, at)
        return item, ignored

    def _read_again(self, body: bytes, at: str) -> tuple[Item | None, list[str]]:
        try:
            return self.tolerant.decode(body), self.ignored(body, at)
        except FAULTS:
            return self._read_loosely(body, at)

    def ignored(self, body: bytes | msgspec.Raw, at: str = "$") -> list[str]:
        """The places of fields that the form does not have, in an object that it has."""
        fields = _fields.decode(body)
        found = [place(at, name) for name in fields if name not in self.names]
        for field, known in self._inner.items():
            if field in fields and bytes(fields[field])[:1] == b"{":
                found += [place(f"{at}.{field}", name) for name in _fields.decode(fields[field]) if name not in known]
        return found

    def _read_loosely(self, body: bytes, at: str) -> tuple[Item | None, list[str]]:
        item = decode_json(self._loose, body)
        value, sequence = cast(Any, item.value), cast(Any, item.sequence)
        if value is ABSENT:
            decode_json(self.tolerant, body)  # raises, in the same words as ever
        ignored = self.ignored(body, at)
        number = loose_number(value, "$.value")
        if number is None:
            return None, ignored
        item.value = number
        item.sequence = _loose_sequence(sequence) if sequence is not ABSENT else None
        return item, ignored


class PacketForm(Generic[Item]):
    """Readings of one form, in an envelope. `raw` leaves the readings as they stand."""

    def __init__(self, envelope: type[Any], form: Form[Item]) -> None:
        self.form = form
        self._names = {*envelope.__struct_fields__, "readings"}
        self.strict = self._decoder(envelope, form.kind, forbid=True)
        self.tolerant = self._decoder(envelope, form.tolerant_kind, forbid=False)
        self.raw = self._decoder(envelope, msgspec.Raw, forbid=False)

    def ignored(self, body: bytes) -> Iterator[str]:
        """The places of fields that the envelope and its readings do not have."""
        yield from self.envelope_ignored(body)
        for index, raw in enumerate(_list.decode(_fields.decode(body)["readings"])):
            yield from self.form.ignored(raw, f"$.readings[{index}]")

    def envelope_ignored(self, body: bytes) -> list[str]:
        """The places of fields that the envelope does not have."""
        return [place("$", name) for name in _fields.decode(body) if name not in self._names]

    def _decoder(self, envelope: type[Any], kind: Any, *, forbid: bool) -> msgspec.json.Decoder[Any]:
        of = msgspec.defstruct(
            f"{envelope.__name__}Of{kind.__name__}",
            [("readings", list[kind])],
            bases=(envelope,),
            kw_only=True,
            forbid_unknown_fields=forbid,
            module=__name__,
        )
        return msgspec.json.Decoder(of, strict=False)


def loose_number(raw: msgspec.Raw, where: str) -> float | None:
    """The number that a JSON value is: true and false are 1 and 0, null is None. Raises DecodeError(BAD_VALUE)."""
    text = bytes(raw).strip()
    match text[:1]:
        case b'"':
            return number_of(decode_json(_text, text), where)
        case b"t" | b"f":
            return float(text == b"true")
        case b"n":
            return None
        case b"{" | b"[":
            kind = "an object" if text[:1] == b"{" else "a list"
            raise DecodeError(Code.BAD_VALUE, f"{where} is {kind}, not a number", where=where)
    return number_of(text.decode(), where)  # beyond what a float holds


def _loose_sequence(raw: msgspec.Raw) -> int | None:
    text = bytes(raw).strip()
    if text[:1] == b'"':
        text = decode_json(_text, text).encode(errors="replace")
    elif text[:1] in (b"t", b"f", b"{", b"["):
        kind = {b"{": "an object", b"[": "a list"}.get(text[:1], "a boolean")
        raise DecodeError(Code.BAD_FORM, f"$.sequence is {kind}, not a whole number", where="$.sequence")
    return None if text == b"null" else whole_number_of(text.decode(), "$.sequence")


def place(at: str, name: str) -> str:
    """The JSON path of a field, in visible characters."""
    shown = name[:_MAX_NAME]
    return f"{at}.{shown}" if shown.isascii() and shown.isidentifier() else f"{at}[{json.dumps(shown)}]"


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all that it holds."""


def repeated(body: bytes, at: str = "$") -> list[str]:
    """The places of fields that stand more than once in an object or in one of its `readings`; the last one is read.

    msgspec does not tell, and to look costs more than decoding: only for a body with more values than readings.
    """
    try:
        document = json.loads(body, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):  # not as msgspec has it: nothing is known of it
        return []
    found = _twice(document, at)
    for name, value in document if isinstance(document, _Pairs) else ():
        if name == "readings" and isinstance(value, list):
            found += [place for index, each in enumerate(value) for place in _twice(each, f"{at}.readings[{index}]")]
    return found


def _twice(document: object, at: str) -> list[str]:
    if not isinstance(document, _Pairs):
        return []
    return [place(at, name) for name, count in Counter(name for name, _ in document).items() if count > 1]


def told(places: Iterable[str]) -> tuple[str, ...]:
    """The first places, and `…` where there are more."""
    if not places:
        return ()
    found: list[str] = []
    for each in places:
        if len(found) == MAX_IGNORED:
            return (*found, "…")
        found.append(each)
    return tuple(found)


def _tolerant(kind: type[Any], **fields: Any) -> type[Any]:
    """The kind, without refusing unknown fields, and with other types for some of its fields."""
    defaults = {"value": ABSENT, "sequence": ABSENT}
    own = [(name, type_, defaults.get(name) if type_ is msgspec.Raw else None) for name, type_ in fields.items()]
    return msgspec.defstruct(
        f"{kind.__name__}Tolerant", own, bases=(kind,), kw_only=True, forbid_unknown_fields=False, module=__name__
    )


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list = msgspec.json.Decoder(list[msgspec.Raw])
_text = msgspec.json.Decoder(str)
