"""An answer that anybody may ask for and that costs something: made once for all who ask within a moment.

Without Starlette, which a gateway without the HTTP door does not load.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

SHARE = 0.05
"""Of the process's time, the most that making it may take, however many ask."""
MAX_AGE_S = 1.0


class RenderedAnswer:
    """Keeps what `render` has made for twenty times as long as it took, a second at most. `now` is in seconds."""

    def __init__(self, render: Callable[[], bytes], now: Callable[[], float] = perf_counter) -> None:
        self._render = render
        self._now = now
        self._body = b""
        self._until_s = float("-inf")

    def body(self) -> bytes:
        """The answer of now, or of a moment ago."""
        started_s = self._now()
        if started_s >= self._until_s:
            self._body = self._render()
            ended_s = self._now()
            self._until_s = ended_s + min(MAX_AGE_S, (ended_s - started_s) / SHARE)
        return self._body
