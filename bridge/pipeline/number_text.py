"""Numbers that senders write as text: text in, a number out, or `DecodeError` that names the character at fault.

Text that is wholly a number is one, with what C's and Arduino's functions put around it: blanks (dtostrf), a plus,
zeros before, no digit on one side of the point. Nothing else is guessed: not a comma, not a unit, not hexadecimal.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata

from bridge.errors import DecodeError
from bridge.model.reading import Code

MAX_NUMBER = 512
"""Characters of a number as text: a float written out has 309 digits before its point."""
BEYOND = "is beyond a float of 64 bits"
_SHOWN = 40  # characters of a text that are quoted
_BLANKS = " \t\r\n"
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_BEGIN = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)?")
_NAMES = {
    ",": "the comma",
    ".": "the point",
    " ": "the blank",
    "\0": "the NUL",
    "\t": "the tab",
    "\n": "the line end",
    "\r": "the carriage return",
    "\ufeff": "the byte order mark",
    "\N{REPLACEMENT CHARACTER}": "a character that was no UTF-8",
}
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_HEXADECIMAL = re.compile(r"[+-]?0[xX][0-9a-fA-F]+")


def number_of(text: str, where: str) -> float:
    """The number that a text wholly is. Raises DecodeError(BAD_VALUE)."""
    number = text.strip(_BLANKS)
    if len(number) > MAX_NUMBER or not _NUMBER.fullmatch(number):
        raise DecodeError(Code.BAD_VALUE, f"{where}: {quoted(text)} is not a number: {fault_in(text)}", where=where)
    value = float(number)
    if not math.isfinite(value):
        raise DecodeError(Code.BAD_VALUE, f"{where}: {quoted(text)} {BEYOND}", where=where)
    return value


def whole_number_of(text: str, where: str) -> int:
    """The whole number that a text is. Raises DecodeError(BAD_FORM)."""
    number = text.strip(_BLANKS)
    if len(number) <= _SHOWN and _WHOLE.fullmatch(number):
        return int(number)
    if len(number) <= _SHOWN and _NUMBER.fullmatch(number):
        value = float(number)
        if value.is_integer() and abs(value) < 1 << 53:
            return int(value)
        why = "it has a fraction, or more digits than a float holds"
    else:
        why = fault_in(text)
    raise DecodeError(Code.BAD_FORM, f"{where}: {quoted(text)} is not a whole number: {why}", where=where)


def quoted(text: str) -> str:
    """The beginning of a text, as JSON writes it; what is neither Latin nor Greek by its number."""
    shown = text[:_SHOWN] + ("..." if len(text) > _SHOWN else "")
    escaped = (each if " " <= each < "\u0400" and each.isprintable() else json.dumps(each)[1:-1] for each in shown)
    return '"' + "".join(escaped).replace('"', "'") + '"'


def fault_in(text: str) -> str:
    """Why a text is no number, by its first character that no number has there."""
    number = text.strip(_BLANKS)
    begin = len(text) - len(text.lstrip(_BLANKS))
    if not number:
        return "it is empty"
    if _NOT_FINITE.fullmatch(number):
        return "it is not finite"
    if _HEXADECIMAL.fullmatch(number):
        return "it is hexadecimal"
    found = _BEGIN.match(number)
    end = found.end() if found else 0
    if end == len(number):
        return f"it has more than {MAX_NUMBER} characters" if end > MAX_NUMBER else "it has no digits"
    rest = number[end:]
    unit = rest.strip(_BLANKS)
    if any(character.isdigit() for character in number[:end]) and _is_unit(unit):
        return f"the unit {quoted(unit)} behind it"
    return f"{name_of(rest[0])} at character {begin + end + 1}"


def name_of(character: str) -> str:
    """What people call a character: itself where it can be seen and is ASCII."""
    if character in _NAMES:
        return _NAMES[character]
    if character.isascii() and character.isprintable():
        return f'the character "{character}"'
    return f"the character U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def _is_unit(text: str) -> bool:
    """Whether what stands behind a number is a unit: letters, %, °, as in "°C", "m/s", "µg/m³"."""
    return 0 < len(text) <= 12 and (text[0].isalpha() or text[0] in "%°'\"‰") and not any(map(str.isdecimal, text))
