"""SenML (RFC 8428) in JSON and in CBOR: a pack of records, with base fields that hold for those that follow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec

from bridge.errors import DecodeError
from bridge.model.reading import Code, Packet
from bridge.mqtt.converters.message import MAX_PATH, IncomingMessage, PacketBuilder, finite, walk
from bridge.pipeline.json_body import trimmed

VERSION = 10
"""Of SenML, the highest known (RFC 8428, section 4.4)."""
RELATIVE_BELOW_S = 2**28
"""Times below are relative to now (section 4.5.3)."""
MAX_CBOR_BYTES = 65_536
"""Keys of CBOR maps are the sender's, and their hashes are not salted: a bound on what colliding ones can cost."""
MAX_DEPTH = 8
_VALUES = ("v", "vb", "vs", "vd", "s")
_VALUES_BUT_V = frozenset(_VALUES[1:])
_NONE: list[tuple[str, str, object, float]] = []
_LABELS = dict(enumerate(("n", "u", "v", "vs", "vb", "s", "t", "ut", "vd"))) | {
    -number: name for number, name in enumerate(("bver", "bn", "bt", "bu", "bv", "bs"), start=1)
}
"""CBOR's keys (section 6, table 4)."""


def senml(message: IncomingMessage) -> Packet:
    """Numbers and booleans of a pack; the channel is the record's whole name, base name and all."""
    try:
        records = (
            _from_json(message) if trimmed(message.payload).lstrip()[:1] in (b"[", b"{", b"") else _from_cbor(message)
        )
    except RecursionError:
        raise DecodeError(Code.BAD_FORM, "the pack is nested too deeply") from None
    if not isinstance(records, list):
        raise DecodeError(Code.BAD_FORM, "a SenML pack is an array of records")
    readings = PacketBuilder(message, "/".join(message.captured) or message.topic)
    base = _Base()
    kept: dict[int, dict[str, Any]] = {}
    beside: list[tuple[str, str, object, float]] = []
    for place, record in enumerate(records):
        where = f"$[{place}]"
        if not isinstance(record, dict):
            raise DecodeError(Code.BAD_FORM, f"{where} is not a record", where=where)
        beside += _add(readings, base, record, where, message, kept)
    for name, key, value, seconds in beside:  # numbered after the records, whose places they do not shift
        readings.add_unknown(f"{name}.{key}", value)
        kept[readings.index] = _standalone(name, key, value, seconds)
    for place, (channel, value) in enumerate(message.lost, start=readings.index + 1):  # as the packet numbers them
        kept[place] = _standalone(channel, "v", value, 0.0)
    return readings.packet(partial(_excerpts, message.payload, kept))


class _Base:
    """Base fields, as far as the pack has been read."""

    name = ""
    time = 0.0
    value: float | None = None


def _add(
    readings: PacketBuilder,
    base: _Base,
    record: dict[str, Any],
    where: str,
    message: IncomingMessage,
    kept: dict[int, dict[str, Any]],
) -> list[tuple[str, str, object, float]]:
    """One record, whose other values (`s` beside `v`) are given back as (name, key, value, seconds)."""
    unknown = [key for key in record if isinstance(key, str) and key.endswith("_")]
    if unknown:  # section 4.4: what must be understood to read the record
        raise DecodeError(Code.BAD_FORM, f"{where}.{unknown[0][:40]} is not known, and must be", where=where)
    version = record.get("bver", VERSION)
    if not isinstance(version, int) or version > VERSION:
        raise DecodeError(Code.BAD_FORM, f"{where}.bver: version {VERSION} is the highest known", where=f"{where}.bver")
    base.name = _text(record, "bn", base.name, where)
    base.time = _number(record, "bt", base.time, where)
    base.value = _number(record, "bv", base.value, where)
    name = base.name + _text(record, "n", "", where)
    if len(name) > MAX_PATH:  # each record keeps it, base name and all
        raise DecodeError(Code.TOO_LARGE, f"{where}: a name of more than {MAX_PATH} characters", where=where)
    seconds = base.time + _number(record, "t", 0.0, where)
    given = record.keys() & _VALUES
    readings.add_known(_scalars(record) - len(given))
    own = "v" if "v" in given else next((key for key in _VALUES if key in given), "v")
    beside = [(name, key, record[key], seconds) for key in sorted(given) if key != own] if len(given) > 1 else _NONE
    value = record.get(own)
    if not given and base.value is None:
        readings.pass_over()
        return beside
    if own == "s":
        readings.add_unknown(name, value)
        kept[readings.index] = _standalone(name, own, value, seconds)
        return beside
    try:
        if value is not None or not given:  # null was not measured
            value = _value(record, base, where)
    except DecodeError as error:
        readings.refuse(Code(error.reason), error.detail)
    else:
        readings.add(name, value, f"{where}.n", ts_us=_moment(seconds, message, f"{where}.t"))
    kept[readings.index] = _standalone(name, own, value, seconds)
    return beside


def _scalars(record: dict[str, Any]) -> int:
    """A value that is a list is one value, and refused; what is in a field that nobody knows is counted."""
    for item in record.values():
        if isinstance(item, dict | list):
            return sum(1 for key, item in record.items() for _ in ((0,) if key in _VALUES else walk(item)))
    return len(record)


def _standalone(name: str, key: str, value: object, seconds: float) -> dict[str, Any]:
    """The record without base fields (section 4.6), but for a relative time, which stays what it is."""
    record: dict[str, Any] = {"n": name, key: value}
    if seconds:
        record["t"] = seconds
    return record


def _value(record: dict[str, Any], base: _Base, where: str) -> object:
    """`v` and the base value, of which a missing one is 0; `vb`, or text and data as they are. Raises DecodeError."""
    if "v" in record or (base.value is not None and not record.keys() & _VALUES_BUT_V):
        return finite(_number(record, "v", 0.0, where) + (base.value or 0.0), f"{where}.v")
    if "vb" not in record:
        return record.get("vs", record.get("vd"))
    value = record["vb"]
    if value is not None and not isinstance(value, bool):
        raise DecodeError(Code.BAD_VALUE, f"{where}.vb is not true or false", where=f"{where}.vb")
    return value


def _moment(seconds: float, message: IncomingMessage, where: str) -> int | None:
    if seconds == 0.0 or message.settings.clock == "receipt":
        return None  # now
    if seconds < RELATIVE_BELOW_S:
        return message.received_us + round(max(seconds, -1e9) * 1_000_000)
    return message.time(seconds, where)


def _text(record: dict[str, Any], key: str, default: str, where: str) -> str:
    value = record.get(key, default)
    if not isinstance(value, str):
        raise DecodeError(Code.BAD_FORM, f"{where}.{key} is not text", where=f"{where}.{key}")
    return value


def _number(record: dict[str, Any], key: str, default: Any, where: str) -> Any:
    if key not in record:
        return default
    value = _plain(record[key])
    code = Code.BAD_TIME if key in ("bt", "t") else Code.BAD_VALUE
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DecodeError(code, f"{where}.{key} is not a number", where=f"{where}.{key}")
    try:
        return finite(value, f"{where}.{key}")
    except DecodeError as error:
        raise DecodeError(code, error.detail, where=error.where) from None


def _plain(value: object) -> object:
    """CBOR has decimal fractions, too (section 6)."""
    return float(value) if isinstance(value, Decimal) else value


def _excerpts(payload: bytes, kept: Mapping[int, dict[str, Any]], indexes: Collection[int]) -> dict[int, bytes]:
    """A pack of one record each; of a pack of one, its own bytes."""
    if len(kept) == 1:
        return dict.fromkeys(indexes, payload)
    return {index: msgspec.json.encode([kept[index]], enc_hook=str) for index in indexes}


def _from_json(message: IncomingMessage) -> Any:
    return message.parsed()


def _from_cbor(message: IncomingMessage) -> Any:
    import cbor2  # most configurations have no use for it

    size = len(message.payload)
    if size > MAX_CBOR_BYTES:
        raise DecodeError(Code.TOO_LARGE, f"{size} bytes of CBOR, more than {MAX_CBOR_BYTES}")
    try:
        pack = cbor2.loads(message.payload, max_depth=MAX_DEPTH, semantic_decoders=_NO_TAGS)
    except (cbor2.CBORError, ArithmeticError, ValueError, TypeError, LookupError, MemoryError) as error:
        raise DecodeError(Code.BAD_FORM, f"the payload is not CBOR: {str(error)[:200]}") from None
    if not isinstance(pack, list):
        return pack
    return [_labelled(record) if isinstance(record, dict) else record for record in pack]


def _labelled(record: dict[Any, Any]) -> dict[Any, Any]:
    """By the names that JSON has. Keys may be anything hashable; True is not 1 here."""
    return {_LABELS.get(key, key) if type(key) is int else key: item for key, item in record.items()}


def _refuse_tag(decoder: Any) -> Any:
    raise ValueError("a tag that SenML has no use for")


_NO_TAGS: Mapping[int, Callable[[Any], Any]] = dict.fromkeys(
    (0, 1, 2, 3, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000), _refuse_tag
)
"""Everything that the library makes objects of, but decimal fractions (4) and big floats (5)."""
