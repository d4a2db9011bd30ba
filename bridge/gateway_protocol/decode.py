"""Decodes what a gateway hands over, and keeps what is wrong in it from what is right. Bytes in, structs out; no I/O.

A gateway sends what was not taken again, so a fault must cost no more than what it stands in:

    a record       becomes one for the service's quarantine, with its bytes, where its id can be read
    state, books   are left out, and the answer says so: they only tell of records
    anything else  is a DecodeError, upon which the gateway halves the batch

What it costs is judged before anything is made of it: each object begins with a brace.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from bridge.errors import DecodeError
from bridge.gateway_protocol.batches import (
    MAX_BOOKS,
    MAX_RECORDS,
    GatewayLedger,
    GatewayState,
    Id,
    UplinkBatch,
    UplinkRecord,
)
from bridge.model.reading import MAX_DETAIL, MAX_TIME_US, Code, Source
from bridge.pipeline.batch import MAX_QUARANTINED_BYTES

_MOST_BRACES = 2 * (MAX_RECORDS + MAX_BOOKS)
"""Of a whole batch. Twice what is taken: some may stand in texts."""
_NO_BOOKS = msgspec.Raw(b"[]")
_NO_STATE = msgspec.Raw(b"null")
_WHERE = re.compile(r" - at `\$\.?([^`]*)`")
_REASONS = {"value": Code.BAD_VALUE, "ts_us": Code.BAD_TIME, "received_us": Code.BAD_TIME, "age_us": Code.BAD_TIME}

T = TypeVar("T")


class _Envelope(msgspec.Struct):
    epoch: Annotated[str, Meta(min_length=1, max_length=100, pattern=r"\A[ -~]*\Z")]
    records: list[msgspec.Raw] = []
    state: msgspec.Raw = _NO_STATE
    books: msgspec.Raw = _NO_BOOKS


class _Object(msgspec.Struct):
    """Any object: its fields are passed over."""


class _Objects(msgspec.Struct):
    records: list[_Object] = []


class _Head(msgspec.Struct):
    id: Id


class _Door(msgspec.Struct):
    source: Source


class ReceivedBatch(NamedTuple):
    """A batch without what was wrong in it. `ignored` says what of state and books was left out."""

    batch: UplinkBatch
    ignored: list[str]


_batch = msgspec.json.Decoder(UplinkBatch)
_json = msgspec.json.Decoder(msgspec.Raw)
_objects = msgspec.json.Decoder(_Objects)
_envelope = msgspec.json.Decoder(_Envelope)
_record = msgspec.json.Decoder(UplinkRecord)
_head = msgspec.json.Decoder(_Head)
_door = msgspec.json.Decoder(_Door)
_state = msgspec.json.Decoder(GatewayState | None)
_books = msgspec.json.Decoder(list[_Object])
_lines = msgspec.json.Decoder(tuple[msgspec.Raw, ...])
_line = msgspec.json.Decoder(GatewayLedger)


def decode_batch(body: bytes) -> ReceivedBatch:
    """Decode a batch. Raises DecodeError where not even the ids of its records can be told."""
    if body.count(b"{") > _MOST_BRACES:
        raise DecodeError(Code.TOO_LARGE, f"more than {_MOST_BRACES} objects in a batch")
    try:
        received = ReceivedBatch(_decoded(_batch, body), [])
    except DecodeError as error:
        if error.reason in (Code.BAD_JSON, Code.BAD_ENCODING):
            raise
        received = _piece_by_piece(body)
    batch = received.batch
    if len(batch.records) > MAX_RECORDS:
        raise DecodeError(Code.TOO_LARGE, f"more than {MAX_RECORDS} records", where="$.records")
    if len({record.id for record in batch.records}) < len(batch.records):
        raise DecodeError(Code.BAD_FORM, "two records of one id", where="$.records")
    if any(record.sensor is None and record.code is None for record in batch.records):
        batch = msgspec.structs.replace(batch, records=tuple(map(_with_sensor, batch.records)))
    if batch.books:
        kept, problem = _one_a_device(batch.books)
        if problem:
            return ReceivedBatch(msgspec.structs.replace(batch, books=kept), [*received.ignored, problem])
    return ReceivedBatch(batch, received.ignored)


def _piece_by_piece(body: bytes) -> ReceivedBatch:
    """Decode a batch in which something is not of the form. Raises DecodeError."""
    _decoded(_json, body)  # what is wrong may stand before what is no JSON
    _decoded(_objects, body)  # or a list of millions of numbers would become as many pieces
    envelope = _decoded(_envelope, body)
    if len(envelope.records) > MAX_RECORDS:
        raise DecodeError(Code.TOO_LARGE, f"more than {MAX_RECORDS} records", where="$.records")
    records = tuple(_record_of(place, memoryview(raw)) for place, raw in enumerate(envelope.records))
    ignored: list[str] = []
    state = None
    try:
        state = _decoded(_state, memoryview(envelope.state))
    except DecodeError as error:
        ignored.append(f"state: {error.detail}")
    books = _books_of(memoryview(envelope.books), ignored)
    return ReceivedBatch(UplinkBatch(envelope.epoch, records, state, books), ignored)


def _books_of(raw: memoryview, ignored: list[str]) -> tuple[GatewayLedger, ...]:
    """The lines that are of the form; of the others, the first is said."""
    lines: list[GatewayLedger] = []
    problem = ""
    try:
        _decoded(_books, raw)
    except DecodeError as error:
        ignored.append(f"books: {error.detail}")
        return ()
    pieces: tuple[msgspec.Raw, ...] = _decoded(_lines, raw)
    for place, line in enumerate(pieces):
        try:
            lines.append(_decoded(_line, memoryview(line)))
        except DecodeError as error:
            problem = problem or f"books: line {place} is {error.detail}"
    if problem:
        ignored.append(problem)
    return tuple(lines)


def _record_of(place: int, raw: memoryview) -> UplinkRecord:
    """A record, or one for quarantine. Raises DecodeError where its id cannot be read."""
    try:
        return _decoded(_record, raw)
    except DecodeError as error:
        try:
            record_id = _decoded(_head, raw).id
        except DecodeError as unnamed:
            where = f"$.records[{place}].id"
            raise DecodeError(Code.BAD_FORM, f"a record without an id: {unnamed.detail}", where=where) from None
        try:
            source = _decoded(_door, raw).source
        except DecodeError:
            source = Source.MQTT
        return _for_quarantine(record_id, source, bytes(raw[:MAX_QUARANTINED_BYTES]), Code(error.reason), error.detail)


def _with_sensor(record: UplinkRecord) -> UplinkRecord:
    if record.sensor is not None or record.code is not None:
        return record
    raw = msgspec.json.encode(record)
    return _for_quarantine(record.id, record.source, raw, Code.BAD_FORM, "sensor is missing")


def _for_quarantine(record_id: int, source: Source, raw: bytes, code: Code, detail: str) -> UplinkRecord:
    # Of which time is not to be believed: the door takes its own where this is ahead.
    return UplinkRecord(record_id, source, MAX_TIME_US, code=code, detail=detail, payload=raw)


def _one_a_device(books: Sequence[GatewayLedger]) -> tuple[tuple[GatewayLedger, ...], str]:
    """The lines that stand alone for their device and door, and what is wrong with the others."""
    if len(books) > MAX_BOOKS:
        return (), f"books: more than {MAX_BOOKS} lines"
    seen = Counter((line.device_id, line.source) for line in books)
    if len(seen) == len(books):
        return tuple(books), ""
    kept = tuple(line for line in books if seen[line.device_id, line.source] == 1)
    return kept, f"books: {len(books) - len(kept)} lines are not the only one of their device and door"


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes | memoryview) -> T:
    """Raises DecodeError: BAD_JSON, or BAD_FORM and the like with the place."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        problem = _form_error(str(error))
    except RecursionError:
        problem = DecodeError(Code.BAD_JSON, "the JSON is nested too deeply")
    except UnicodeDecodeError:
        problem = DecodeError(Code.BAD_ENCODING, "the text is not UTF-8")
    except msgspec.DecodeError as error:
        problem = DecodeError(Code.BAD_JSON, f"not JSON: {error}"[:MAX_DETAIL])
    raise problem  # here, or it would keep the error as its context, and with it the value that is wrong, of any length


def _form_error(text: str) -> DecodeError:
    found = _WHERE.search(text)
    field = found[1] if found else ""
    reason = _REASONS.get(field.rpartition(".")[2], Code.BAD_FORM)
    where = f"$.{field}" if field else "$"
    return DecodeError(reason, f"not of the form: {text[:MAX_DETAIL]}"[:MAX_DETAIL], where=where)
