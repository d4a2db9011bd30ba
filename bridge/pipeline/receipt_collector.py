"""Receipts of deliveries, one reading each, that are answered together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bridge.model.reading import Outcome, Receipt

FAILED = Receipt(0, Outcome.FAILED)


class ReceiptCollector:
    """`settle` once for each of `count` places; `wait` returns when all have come."""

    def __init__(self, count: int) -> None:
        self._receipts = [FAILED] * count
        self._missing = count
        self._done = asyncio.Event()
        if not count:
            self._done.set()

    def settle(self, place: int, settled: Sequence[Receipt]) -> None:
        """The delivery at `place` is settled."""
        self._receipts[place] = settled[0]
        self._missing -= 1
        if not self._missing:
            self._done.set()

    async def wait(self) -> Sequence[Receipt]:
        """One receipt a place."""
        await self._done.wait()
        return self._receipts
