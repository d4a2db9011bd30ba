"""JSON of a sender, decoded within bounds: bytes in, a value of the wanted type out, or `DecodeError` with its reason.

What is not JSON (RFC 8259, in UTF-8) is `bad_json`, whatever the type that was wanted; JSON that is not of the type is
`bad_form`. msgspec stops at the first of the two that it meets, so what it refuses is looked at once more, whole.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, getincrementaldecoder
from typing import TypeVar

import msgspec

from bridge.errors import DecodeError
from bridge.model.reading import Code
from bridge.pipeline.number_text import name_of

T = TypeVar("T")

FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder of msgspec raises for bytes of a sender."""

VALUES_PER_READING = 16
"""Values in a body for each reading that it may hold; the form knows six."""
MIN_READINGS = 5_000
"""As if at least so many were allowed: a single reading, too, may be sent with much that is not ours."""

_AFTER = b"\0 \t\r\n"
"""NULs, and blanks among them: a line end may come after a NUL."""
_AT_BYTE = re.compile(r"\(byte (\d+)\)")
_NOT_FINITE = re.compile(r"[-+]?\b(?:nan|inf(?:inity)?)\b", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(rb"[0-9],\s*$")
_WHERE = re.compile(r" - at `(\$[^`]*)`")
_REASONS = {".value": Code.BAD_VALUE}  # by the end of the JSON path; anything else is BAD_FORM
_PIECE = 32_768
_whole = msgspec.json.Decoder(msgspec.Raw)  # checks all of the syntax, keeps nothing of it


def trimmed(body: bytes) -> bytes:
    """A body without what some clients' text functions leave around it: a byte order mark before, NULs after."""
    return body.rstrip(_AFTER).removeprefix(BOM_UTF8)


def cost_fault(body: bytes, readings: int = MIN_READINGS) -> DecodeError | None:
    """Why decoding would cost far more than a body of so many readings may; None where it does not.

    Judged by the bytes alone, 0.3 ms a MB and no memory: a list of a million items costs 65 MB before anybody can see
    its length. No list has more items than the body has commas, and one; nor are there more lists than brackets.
    """
    limit = VALUES_PER_READING * max(readings, MIN_READINGS)
    if len(body) > limit and any(body.count(mark) > limit for mark in (b",", b"[", b"{")):
        return DecodeError(Code.TOO_LARGE, f"far more values than {readings} readings have; send them in parts")
    if len(body) > _PIECE and not body.isascii() and _has_long_text(body):
        return DecodeError(Code.TOO_LARGE, f"a text of far more than {_PIECE} bytes")
    return None


def _has_long_text(body: bytes) -> bool:
    """Whether a piece has no quotation mark. One character beyond Latin makes a text take four bytes for each."""
    ends = range(_PIECE, len(body) + 1, _PIECE)
    return any(body.find(b'"', end - _PIECE, end) < 0 for end in ends)


def bounded(body: bytes, readings: int = MIN_READINGS) -> bytes:
    """A body, trimmed, that may be decoded: no more objects will come of it than of so many readings.

    Raises DecodeError.
    """
    body = body.rstrip(_AFTER).removeprefix(BOM_UTF8)  # as `trimmed`; a call costs as much as decoding a number
    if len(body) <= _PIECE:
        return body
    fault = cost_fault(body, readings)
    if fault is not None:
        raise _syntax_fault(body) or fault
    return body


def decode_json(decoder: msgspec.json.Decoder[T], body: bytes | memoryview) -> T:
    """A body as the decoder's type. Raises DecodeError."""
    try:
        return decoder.decode(body)
    except FAULTS as error:
        raise (_syntax_fault(body) or _form_fault(error)) from None


def _syntax_fault(body: bytes | memoryview) -> DecodeError | None:
    """Why a body is not JSON; None where it is."""
    try:
        _whole.decode(body)
    except RecursionError:
        return DecodeError(Code.BAD_JSON, "the JSON is nested too deeply")
    except msgspec.DecodeError as error:
        return DecodeError(Code.BAD_JSON, _named(str(error), body))
    fault = _utf8_error(body)
    return None if fault is None else DecodeError(Code.BAD_JSON, f"the text is not UTF-8: {fault}")


def utf8_fault(body: bytes | memoryview, error: UnicodeDecodeError, before: int = 0) -> str:
    """Which byte is at fault, and what it would be in the encoding that most such bytes are of."""
    if bytes(body[:2]) in (BOM_UTF16_LE, BOM_UTF16_BE):
        return "it begins as UTF-16 does"
    at = before + error.start
    value = body[at]
    shown = bytes((value,)).decode("latin-1")
    meant = f", {name_of(shown)} in Latin-1" if shown.isprintable() else ""
    return f"byte {at} is 0x{value:02X}{meant}"


def _named(fault: str, body: bytes | memoryview) -> str:
    """What msgspec says of a body, with the character at fault by its name."""
    if not len(body):
        return "the body is empty"
    if bytes(body[:2]) in (BOM_UTF16_LE, BOM_UTF16_BE):
        return "the text is UTF-16; JSON is UTF-8"
    found = _AT_BYTE.search(fault)
    if found is None:
        return fault
    at = int(found[1]) - ("trailing characters" in fault)  # of these msgspec names the byte behind the first
    begin = max(0, at - 2)
    token = next(_NOT_FINITE.finditer(bytes(body[begin : at + 12]).decode("latin-1")), None)
    if token is not None and token.start() <= at - begin < token.end():
        return f"{fault[: found.start()]}(byte {begin + token.start()}: {token[0]} is no number of JSON; send null)"
    character = bytes(body[at : at + 4]).decode(errors="replace")[:1]
    if character.isdigit() and _DECIMAL_COMMA.search(bytes(body[max(0, at - 8) : at])):
        return f"{fault[: found.start()]}(byte {at}, behind a comma: the decimal sign of JSON is the point)"
    return f"{fault[: found.start()]}(byte {at}: {name_of(character)})" if character else fault


def _utf8_error(body: bytes | memoryview) -> str | None:
    """In pieces: the text of a whole body may take four times its bytes."""
    decoder = getincrementaldecoder("utf-8")()
    for start in range(0, len(body), _PIECE):
        kept, _ = decoder.getstate()
        try:
            decoder.decode(body[start : start + _PIECE], start + _PIECE >= len(body))
        except UnicodeDecodeError as error:
            return utf8_fault(body, error, start - len(kept))
    return None


def _form_fault(error: Exception) -> DecodeError:
    text = str(error)
    if isinstance(error, RecursionError):  # objects nest less deeply than what is skipped over
        return DecodeError(Code.BAD_JSON, "the JSON is nested too deeply")
    found = _WHERE.search(text)
    where = found[1] if found else "$"
    reason = next((code for end, code in _REASONS.items() if where.endswith(end)), Code.BAD_FORM)
    return DecodeError(reason, text, where=where)
