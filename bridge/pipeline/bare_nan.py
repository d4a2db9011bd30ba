"""JSON with `nan` and `inf` in it, which C's printf and its like write, and which is none: bytes in, JSON out. Pure.

A sensor that is broken must not cost those beside it. No reading is made of such a text, so a number that is none
becomes text; in foreign formats `nan` becomes null, since it was not measured.
"""

from __future__ import annotations

import re

_NAN = rb"nan(?:\((?:ind|snan)\))?|1\.#(?:ind|[qs]nan)\d*"  # of glibc, newlib and Microsoft's C, old and new
_INF = rb"inf(?:inity)?|ovf|1\.#inf\d*"  # `ovf` is Arduino's, of what is beyond 4294967040
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|(?<![\w.])[-+]?(?:(%b)|%b)(?![\w.])' % (_NAN, _INF), re.I | re.S)
"""A text, which stays as it is, whole or not; or the number."""


def without_nan(payload: bytes) -> bytes:
    """The payload with null for each `nan`, and text for each `inf`; the same where it has none."""
    return _TOKEN.sub(_replaced, payload)


def _replaced(found: re.Match[bytes]) -> bytes:
    return b"null" if found[1] else _quoted(found)


def _quoted(found: re.Match[bytes]) -> bytes:
    token = found[0]
    return token if token.startswith(b'"') else b'"%s"' % token


def nan_as_text(body: bytes) -> bytes:
    """The body with text for each `nan` and `inf`; the same where it has none."""
    return _TOKEN.sub(_quoted, body)
