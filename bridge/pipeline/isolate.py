"""Finds the items that a store refuses among many that it takes, by halving.

Flows in: items in order, and a call that takes all of those given to it or none. Flows out: the few that are refused
alone. Of n items with k bad ones this takes about 2 k log2(n / k) calls, whatever the items are: readings, lines of
the ledger, names to look up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from bridge.errors import StoreRefused

T = TypeVar("T")


async def in_parts(items: Sequence[T], call: Callable[[Sequence[T]], Awaitable[None]]) -> list[tuple[T, StoreRefused]]:
    """Call with all items in order, in halves where they are refused; return those refused alone, with what was said.

    Raises what `call` raises, StoreRefused apart; what came before is taken then.
    """
    refused: list[tuple[T, StoreRefused]] = []
    waiting = [items] if items else []
    while waiting:
        part = waiting.pop()
        try:
            await call(part)
        except StoreRefused as error:
            if len(part) == 1:
                refused.append((part[0], error))
            else:
                middle = len(part) // 2
                waiting += [part[middle:], part[:middle]]
    return refused
