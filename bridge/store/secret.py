"""Keys and one-time codes: made here, in clear this once; what is kept is their SHA-256."""

from __future__ import annotations

import secrets
from hashlib import sha256

CODE_ALPHABET = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
"""Without what people mistake for one another: they read a code out over a telephone."""
CODE_LENGTH = 12


def new_key(prefix: str) -> tuple[str, str]:
    """Make a key and its SHA-256: `<prefix>_<id>_<43 characters>`, 256 random bits."""
    text = f"{prefix}_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
    return text, sha256(text.encode()).hexdigest()


def new_code() -> tuple[str, str]:
    """Make a one-time code, `ABCD-EFGH-JKMN` (59 random bits), and its SHA-256."""
    text = "".join(secrets.choice(CODE_ALPHABET) for _ in range(CODE_LENGTH))
    return "-".join(text[i : i + 4] for i in range(0, CODE_LENGTH, 4)), code_hash(text)


def code_hash(text: str) -> str:
    """Return the SHA-256 of a code, however it is written: small letters, with hyphens or blanks."""
    kept = "".join(c for c in text.upper() if c in CODE_ALPHABET)
    return sha256(kept.encode()).hexdigest()
