"""Mosquitto's own hash of a password, for its password file."""

from __future__ import annotations

import secrets
from base64 import b64encode
from hashlib import pbkdf2_hmac

ITERATIONS = 101
"""Mosquitto's own number. A key is 256 random bits, so more would protect nothing and slow every login down."""
SALT_BYTES = 12


def mosquitto_hash(password: str, salt: bytes | None = None) -> str:
    """`$7$iterations$salt$hash`: PBKDF2 with SHA-512, as mosquitto_passwd(1) of Mosquitto 2 writes it."""
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    digest = pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return f"$7${ITERATIONS}${b64encode(salt).decode()}${b64encode(digest).decode()}"
