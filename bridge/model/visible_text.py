"""Makes text safe to print on a terminal: what others wrote in, text that only looks like something out. Pure.

Devices, gateways and brokers choose names, topics and payloads. Printed as they are, an escape sequence in one would
move the cursor, colour or clear the operator's terminal, or set its title; a line break would forge a line of a table,
and a bidirectional override would show letters in an order that is not theirs. Both command lines and the log of a
console print through this module.
"""

from __future__ import annotations

import re

_INVISIBLE_IN_JSON = re.compile(r"[^\x00-\x7e]")
"""Beyond ASCII, and DEL: an encoder has escaped the rest in strings, and line breaks between values are JSON."""


def visible(text: str) -> str:
    r"""Write all that is not printable as Python does: `\x1b`, `\n`, `\u202e`. Letters of any script stay.

    Not printable are the Unicode categories Other (controls, also C1; formats, bidirectional ones among them;
    surrogates) and Separator, but for the space (`str.isprintable`).
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def visible_json(document: bytes) -> bytes:
    r"""Write all that is not printable in the strings of a JSON document as `\u…`: its values stay the same."""
    text = document.decode()
    if text.isprintable():
        return document
    return _INVISIBLE_IN_JSON.sub(lambda found: _json_escape(found[0]), text).encode()


def _json_escape(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
