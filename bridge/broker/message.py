"""A stream entry as every broker hands it to consumers."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class StreamMessage(msgspec.Struct, frozen=True):
    """One entry: its id in the stream, and its fields, all text."""

    id: str
    fields: Mapping[str, str]
    deliveries: int = 1  # how often the group has handed it out, this time included
