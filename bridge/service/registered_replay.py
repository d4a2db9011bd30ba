"""Stores what waits in quarantine for a sensor, once the sensor is registered: nobody has to know of a command for it.

Flows in: what has changed in the registry, by the change feed. Flows out: rows of quarantine that were refused as
`unknown_sensor` and name what has changed, taken through the running pipeline again (`quarantine_replay`), oldest
first.
At the start of a process all of them are looked at once: the sensor may have come while no service ran.

What is refused again stays, and is looked at again when its sensor changes. Several processes may do the same work:
a row is stored once, whoever is first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

import structlog

from bridge.errors import StoreUnavailable
from bridge.mqtt.converters.select import Converters
from bridge.pipeline.isolate import in_parts
from bridge.pipeline.resolve import Resolver
from bridge.pipeline.run import Pipeline
from bridge.service.quarantine_replay import FAILED, SETTLED, QuarantineReplay, Speakers, api_key_of
from bridge.settings.service import Settings
from bridge.store.waiting import START, WaitingRow, WaitingRows

log = structlog.get_logger("app")

LOOK_EVERY_S = 5.0
"""How often what has changed is acted upon; caches follow within as much."""
ROWS_A_WINDOW = 20_000
"""Rows whose ids are in memory together."""
MAX_CHANGED = 5_000
"""Sensors remembered between two looks; of more, all that waits is looked at."""
PAGE = 200
"""Rows at a time: live readings pass between two pages."""
PAGE_BYTES = 1 << 20


class RegisteredReplay:
    """Holds what has changed since the last look. `note` is told of it, `look` acts upon it."""

    def __init__(
        self,
        settings: Settings,
        rows: WaitingRows,
        pipeline: Pipeline,
        resolver: Resolver,
        *,
        rows_a_window: int = ROWS_A_WINDOW,
    ) -> None:
        self._settings = settings
        self._rows_a_window = rows_a_window
        self._rows = rows
        self._pipeline = pipeline
        self._resolver = resolver
        self._changed: set[str] = set()
        self._everything = True

    def note(self, refs: Collection[str]) -> None:
        """Note that these sensors, by id, UUID or external id, have changed."""
        self._changed.update(refs)
        if len(self._changed) > MAX_CHANGED:
            self._changed.clear()
            self._everything = True

    def note_all(self, _: Collection[str]) -> None:
        """Note that any sensor may have changed."""
        self._everything = True

    async def look(self) -> None:
        """Store what waits for the sensors that have changed. Raises StoreUnavailable; it is due again then."""
        if not self._changed and not self._everything:
            return
        everything, changed = self._everything, self._changed
        self._everything, self._changed = False, set()
        try:
            counts = await self._replay(None if everything else sorted(changed))
        except StoreUnavailable:
            self._everything = self._everything or everything
            self._changed |= changed
            raise
        stored = counts["stored"] + counts["duplicate"]
        if stored:
            log.info("quarantine_stored", stored=stored, waiting=counts.total() - stored)
        if counts[FAILED]:
            self._everything = self._everything or everything
            self._changed |= changed

    async def _replay(self, refs: list[str] | None) -> Counter[str]:
        counts: Counter[str] = Counter()
        last = START
        while waiting := await self._rows.waiting(refs, last, self._rows_a_window):
            last = waiting[-1]
            await self._replay_window(waiting, counts)
            if counts[FAILED] or len(waiting) < self._rows_a_window:
                break
        return counts

    async def _replay_window(self, waiting: Sequence[WaitingRow], counts: Counter[str]) -> None:
        settings = self._settings
        replay = QuarantineReplay(
            self._pipeline,
            self._resolver,
            Converters(settings.mqtt),
            settings.pipeline,
            settings.http.max_readings_per_packet,
        )
        for page in _pages(waiting):
            for row_id, refusal in await in_parts(page, partial(self._replay_rows, replay, counts)):
                counts["refused"] += 1
                log.warning("quarantined_row_refused_by_store", row=row_id, detail=refusal.detail)
            if counts[FAILED]:
                break

    async def _replay_rows(self, replay: QuarantineReplay, counts: Counter[str], ids: Sequence[int]) -> None:
        """Raises StoreRefused, where one of them is nothing that the database can look for; StoreUnavailable."""
        rows = await self._rows.page(ids)
        results = await replay.replay(rows, await self._speakers(rows))
        await self._rows.mark_replayed([row["id"] for row in results if row["outcome"] in SETTLED])
        counts.update(row["outcome"] for row in results)

    async def _speakers(self, rows: Sequence[dict[str, Any]]) -> Speakers:
        """For which devices those that brought these rows may speak now."""
        gateway_ids = {row["gateway_id"] for row in rows} - {None}
        names = {row["gateway"] for row in rows} - {None}
        keys = {key_id for row in rows if (key_id := api_key_of(row["sender"])) is not None}
        return Speakers(
            await self._rows.gateway_speakers(gateway_ids, names) if names else [],
            await self._rows.api_key_speakers(keys) if keys else [],
        )


def _pages(waiting: Sequence[WaitingRow]) -> Iterator[list[int]]:
    """Their ids, in parts whose payloads may be in memory together."""
    page: list[int] = []
    size = 0
    for row in waiting:
        if page and (len(page) == PAGE or size + row.size > PAGE_BYTES):
            yield page
            page, size = [], 0
        page.append(row.id)
        size += row.size
    if page:
        yield page
