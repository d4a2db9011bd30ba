"""JSON with `nan` and `inf` in it, which C's printf and its like write, and which is none: bytes in, JSON out. Pure.

A sensor that is broken must not cost those beside it: what is not a number was not measured, so it becomes null, and
what is infinite becomes text, which no reading is made of.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[-+]?\b(?:(nan(?:\((?:ind|snan)\))?)|inf(?:inity)?)(?![\w.])', re.I | re.S)
"""A text, which stays as it is, whole or not; or the number."""


def without_nan(payload: bytes) -> bytes:
    """The payload with null for each `nan`, and text for each `inf`; the same where it has none."""
    return _TOKEN.sub(_replaced, payload)


def _replaced(found: re.Match[bytes]) -> bytes:
    token = found[0]
    if token.startswith(b'"'):
        return token
    return b"null" if found[1] else b'"%s"' % token
