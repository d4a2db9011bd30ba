"""Takes secrets out of what goes into a bundle: texts in, texts without them out. Pure.

By value: every secret that the settings and the gateway's own files hold, wherever it stands and however it is written
(whole, in Base64, in JSON, in a URL). By form: our keys and codes, hashes of keys, what stands before the @ of a URL,
and what follows a word such as password; so that one that is not known here goes as well.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from json import dumps
from urllib.parse import quote

HIDDEN = "(hidden)"
LEAST = 6
"""Shorter values stand in a text by chance; they are hidden by the word before them alone."""

_FORMS = (
    # Keys of ours: a kind, an id, 256 random bits (bridge/store/secret.py).
    (re.compile(r"\b(?:dk|gk|ak|mk|sk)_[A-Za-z0-9_-]{8,}"), HIDDEN),
    # One-time codes.
    (re.compile(r"(?<![\w-])[A-Z2-9]{4}-[A-Z2-9]{4}-[A-Z2-9]{4}(?![\w-])"), HIDDEN),
    # Hashes: Mosquitto's, crypt's, SHA-256 in hexadecimal.
    (re.compile(r"\$[0-9][a-z]?\$[^\s\"']+"), HIDDEN),
    (re.compile(r"\b[0-9a-f]{64}\b"), HIDDEN),
    # RFC 3986, section 3.2.1.
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s\"']*@"), rf"\1{HIDDEN}@"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
    (
        re.compile(
            r"""(["']?\b[\w.-]*(?:password|passwd|secret|token|api[_-]?key|device[_-]?key|gateway[_-]?key)\b["']?"""
            r"""\s*[=:]\s*)("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s,;}]+)""",
            re.IGNORECASE,
        ),
        rf'\1"{HIDDEN}"',
    ),
    (re.compile(r"(\b(?:Bearer|Basic)\s+)[A-Za-z0-9+/=_.-]{6,}", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"(\s(?:-P|--pw)\s+)\S+"), rf"\1{HIDDEN}"),
)


class Redaction:
    """Knows the secrets of one gateway."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        written: set[str] = set()
        for secret in secrets:
            if len(secret) >= LEAST:
                written |= {secret, quote(secret, safe=""), b64encode(secret.encode()).decode()}
                written |= {dumps(secret)[1:-1], dumps(secret, ensure_ascii=False)[1:-1]}
        # The longest first: one may stand in another.
        texts = sorted(written, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, texts))) if texts else None

    def text(self, text: str) -> str:
        """Return the text without secrets."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for form, instead in _FORMS:
            text = form.sub(instead, text)
        return text
