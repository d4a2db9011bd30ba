"""What a sender may put into a field to hurt: numbers at the edges of types, texts that are none, shapes and sizes.

A value is the bytes that stand in a JSON document, so that it may be what no JSON library would write. Heavy values are
made anew each time, each with a number of its own: what is remembered by its text must not be helped by repetition.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

OPERATORS_OWN_CHECK = "66.6"
"""A value that the database of these tests refuses by a CHECK which an operator has added."""


class Value(NamedTuple):
    """What stands in the place of a field."""

    name: str
    make: Callable[[], bytes]
    heavy: bool = False


_numbers = itertools.count(1)

NUMBERS = {
    "0": "0",
    "-0.0": "-0.0",
    "-1": "-1",
    "2^31": str(1 << 31),
    "2^53-1": str((1 << 53) - 1),
    "2^53": str(1 << 53),
    "2^53+1": str((1 << 53) + 1),
    "-2^53-1": str(-(1 << 53) - 1),
    "2^63-1": str((1 << 63) - 1),
    "2^63": str(1 << 63),
    "-2^63": str(-(1 << 63)),
    "-2^63-1": str(-(1 << 63) - 1),
    "2^64": str(1 << 64),
    "1e308": "1e308",
    "-1.7e308": "-1.7e308",
    "1e309": "1e309",
    "5e-324": "5e-324",
    "1e-400": "1e-400",
    "1e999999999": "1e999999999",
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "the last second of year 9999": "253402300799",
    "the second after year 9999": "253402300800",
    "the second before year 1": "-62135596801",
    "an integer of 5000 digits": "9" * 5_000,
    "a fraction of 5000 digits": "0." + "1" * 5_000,
    "what the operator's CHECK refuses": OPERATORS_OWN_CHECK,
}

TEXTS = {
    "empty": "",
    "blank": " ",
    "NUL": "a\0b",
    "ESC": "\x1b[2J\x1b]0;owned\x07",
    "C1 controls": "\x9b31m\x85",
    "bidi": "\u202eabc\u2066",
    "BOM": "\ufeff1",
    "newlines": "a\r\nX-Device-Key: b\r\n\r\nc",
    "a header's end": "\r\n\r\n",
    "line separators": "a\u2028b\u2029c",
    "noncharacters": "\ufdd0\uffff\U0010ffff",
    "combining": "e" + "\u0301" * 200,
    "path upwards": "../../../../etc/passwd",
    "percent": "%0a%00%2e%2e%2f",
    "SQL": "'); DROP TABLE sensor_readings; --",
    "format": "{0.__class__} %s %n ${jndi:ldap://a}",
    "markup": "<script>alert(1)</script>[red]",
    "wildcards": "+/#",
    "NaN as text": "nan",
    "1e999 as text": "1e999",
    "digits of another script": "\u0664\u0662",
    "wide digits": "\uff14\uff12",
    "underscored digits": "1_000",
    "5000 digits as text": "9" * 5_000,
    "a year without end": "99999-01-01T00:00:00Z",
    "the last moment": "9999-12-31T23:59:59.999999-23:59",
    "the first moment": "0001-01-01T00:00:00+23:59",
    "a UUID in braces": "{5F0C1F5E-0000-4000-8000-00000000000A}",
    "a UUID of the URN kind": "urn:uuid:5f0c1f5e-0000-4000-8000-00000000000a",
    "256 characters": "x" * 256,
    "8 KB": "x" * 8_192,
}

NO_TEXTS = {
    "a lone surrogate, escaped": rb'"\ud800"',
    "surrogates in the wrong order": rb'"\udc00\ud800"',
    "a lone surrogate in UTF-8": b'"\xed\xa0\x80"',
    "overlong UTF-8": b'"\xc0\x80"',
    "Latin-1": b'"\xe9\xff"',
    "a text without an end": b'"abc',
    "a raw control character": b'"\x01\x1f"',
    "a wrong escape": rb'"\x41"',
}

SHAPES = {
    "null": b"null",
    "true": b"true",
    "an empty list": b"[]",
    "an empty object": b"{}",
    "a list": b"[[],{},null,1]",
    "an object": b'{"value":1,"":{}}',
    "one key twice": b'{"value":1,"value":2,"value":"x"}',
    "nothing at all": b"",
    "no JSON": b"}",
}


def _heavy_text(size: int) -> bytes:
    return b'"%d-%s"' % (next(_numbers), b"x" * size)


def _heavy_uuid() -> bytes:
    """As UUIDs are forgiven: with hyphens and braces anywhere. It differs in its first part."""
    return b'"%032x%s"' % (next(_numbers), b"-" * 1_000_000)


def _count_of(item: bytes, count: int) -> bytes:
    return b"[%s%d]" % ((item + b",") * count, next(_numbers))


def _deep(opening: bytes, closing: bytes, depth: int) -> bytes:
    return opening * depth + b"%d" % next(_numbers) + closing * depth


def _many_keys(count: int) -> bytes:
    start = next(_numbers) * 10_000_000
    return b"{%s}" % b",".join(b'"k%d":1' % (start + number) for number in range(count))


HEAVY: dict[str, Callable[[], bytes]] = {
    "1 MB": partial(_heavy_text, 1_000_000),
    "7 MB": partial(_heavy_text, 7_000_000),
    "a UUID of 1 MB": _heavy_uuid,
    "60 KB": partial(_heavy_text, 60_000),
    "1,000,000 numbers": partial(_count_of, b"1", 1_000_000),
    "1,000,000 objects": partial(_count_of, b"{}", 1_000_000),
    "4,000,000 numbers": partial(_count_of, b"1", 4_000_000),
    "100,000 lists deep": partial(_deep, b"[", b"]", 100_000),
    "100,000 objects deep": partial(_deep, b'{"a":', b"}", 100_000),
    "100,000 keys": partial(_many_keys, 100_000),
    "one key 100,000 times": partial(_deep, b'{"a":1,' + b'"a":1,' * 100_000 + b'"a":', b"}", 1),
}


def values() -> Iterator[Value]:
    """Every hostile value."""
    for name, text in NUMBERS.items():
        yield Value(name, partial(str.encode, text))
    for name, text in TEXTS.items():
        yield Value(f"text: {name}", partial(str.encode, json.dumps(text, ensure_ascii=False)))
    for name, raw in (NO_TEXTS | SHAPES).items():
        yield Value(name, partial(bytes, raw))
    for name, weight in HEAVY.items():
        yield Value(name, weight, heavy=True)


def light() -> list[Value]:
    """Those of which thousands are sent."""
    return [value for value in values() if not value.heavy]


def heavy() -> list[Value]:
    """Those that cost memory or time where nobody looks first."""
    return [value for value in values() if value.heavy]


def texts() -> dict[str, bytes]:
    """Texts for places that are no JSON: paths, headers, topics."""
    found = {name: text.encode() for name, text in TEXTS.items()}
    found |= {name: text.encode() for name, text in NUMBERS.items()}
    return found | {"a lone surrogate": b"\xed\xa0\x80", "overlong": b"\xc0\x80", "Latin-1": b"\xe9\xff"}
