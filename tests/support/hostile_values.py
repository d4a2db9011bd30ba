"""Values at the edges of what a sender can write into a field of JSON."""

from __future__ import annotations

from typing import Any

import msgspec

_EDGES = (0, 1, 1 << 31, (1 << 53) - 1, 1 << 53, (1 << 53) + 1, (1 << 63) - 1, 1 << 63)
NUMBERS: list[Any] = [*_EDGES, *(-number for number in _EDGES), 1e308, -1e308, -0.0, 5e-324, 1.5]
OTHERS: list[Any] = [True, None, [], {}, [[1]], {"a": {}}]
TEXTS = ["", "x", "x" * 1_000_000, "\0", "\x1b[2J", "\u202e", "\r\n", "NaN", "9" * 5_000, "{" * 1_000, "5f0c1f5e"]
HOSTILE: list[Any] = [*NUMBERS, *OTHERS, *TEXTS]


def wire_fields(struct: type[msgspec.Struct]) -> list[str]:
    """The names of its fields in JSON: one that is added later is driven by itself."""
    return [field.encode_name for field in msgspec.structs.fields(struct)]
