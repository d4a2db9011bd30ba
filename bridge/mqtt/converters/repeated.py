"""Names that stand more than once in one JSON object: bytes and the document made of them in, the fields lost out.

A parser keeps the last (RFC 8259, section 4, leaves it open), so what stood before it is in the message and not in
the document. Pure.
"""

from __future__ import annotations

import json

import msgspec

from bridge.pipeline.json_body import trimmed

MAX_CHANNEL = 255
_written = msgspec.json.Encoder().encode


class _Pairs(list[tuple[str, object]]):
    """The members of an object, as they stand."""


def lost_fields(payload: bytes, document: object) -> list[tuple[str, object]]:
    """(channel, value) of every scalar that another of the same name has replaced.

    Documents without such a name, which is nearly all, are told by a count: as many colons in the bytes, of names and
    in texts, as in what the document is written as.
    """
    try:
        if payload.count(b":") == _written(document).count(b":"):
            return []
    except (msgspec.MsgspecError, OverflowError, ValueError):
        pass  # a number or a text that only a decoder knows
    try:
        tree = json.loads(trimmed(payload), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return []
    return _lost(tree)


def _lost(tree: object) -> list[tuple[str, object]]:
    """Not recursive: depth is the sender's choice. Channels are cut, so that depth does not make them long."""
    found: list[tuple[str, object]] = []
    stack: list[tuple[str, object, bool]] = [("", tree, False)]
    while stack:
        channel, node, is_lost = stack.pop()
        if isinstance(node, _Pairs):
            last = {key: place for place, (key, _) in enumerate(node)}
            for place, (key, value) in enumerate(node):
                stack.append((_below(channel, key), value, is_lost or last[key] != place))
        elif isinstance(node, list):
            stack += [(_below(channel, str(place)), value, is_lost) for place, value in enumerate(node)]
        elif is_lost:
            found.append((channel, node))
    return found[::-1]


def _below(channel: str, name: str) -> str:
    return (f"{channel}.{name}" if channel else name)[:MAX_CHANNEL]
