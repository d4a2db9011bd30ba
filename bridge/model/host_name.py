"""Addresses and host names: whether a text is one. Pure text; imports nothing of ours."""

from __future__ import annotations

import re
from ipaddress import ip_address

MAX_CHARACTERS = 253
"""Of a name without its last dot: RFC 1035, section 2.3.4."""
_LABEL = re.compile(rb"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
"""RFC 1123, section 2.1; and an underscore, which names of containers have."""


def problem(text: str) -> str | None:
    """Why `text` is neither an IP address nor a host name, or None where it is one."""
    if not text:
        return "it is empty; write an address such as 127.0.0.1, or 0.0.0.0 for all"
    try:
        ip_address(text)
    except ValueError:
        return None if _is_name(text) else "no address, and no name that can be looked up"
    zone = text.partition("%")[2]  # of an IPv6 address: the name of an interface
    return None if "/" not in zone and not any(map(str.isspace, zone)) else "no address: its zone is no interface"


def _is_name(text: str) -> bool:
    try:
        encoded = text.encode("idna").removesuffix(b".")
    except UnicodeError:
        return False
    labels = encoded.split(b".")
    # What ends in a number is meant as an IPv4 address: no top-level domain is numeric (RFC 1123, section 2.1).
    return len(encoded) <= MAX_CHARACTERS and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit()
