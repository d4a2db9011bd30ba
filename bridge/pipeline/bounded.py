"""A dictionary as a bounded cache: the oldest entry makes room. Pure."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def put(cache: dict[K, V], key: K, entry: V, size: int) -> None:
    """Insert as the newest; the oldest entry leaves when the cache is full."""
    cache.pop(key, None)
    if len(cache) >= size:
        del cache[next(iter(cache))]
    cache[key] = entry
