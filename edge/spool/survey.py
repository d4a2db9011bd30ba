"""What the rows of a damaged spool name, and its ledger: looked for before any row is brought over.

Flows in: pages (`edge/spool/pages.py`). Flows out: sensors, boots, identities, the ledger, the epoch, the range of ids.
"""

from __future__ import annotations

import re

from edge.spool.hashes import unpack
from edge.spool.pages import DamagedFile
from edge.spool.rows import Boot, SensorName, SqlRow, is_whole, is_whole_refused

DELIVERED, BOOT, META, SENSOR, RECORD, REFUSED, LEDGER = 2, 3, 4, 6, 11, 13, 14
"""Columns of the tables that matter: they tell what a row is of."""
_EPOCH = re.compile("[0-9a-f]{8}")


class Survey:
    """What the rows of a damaged file name, and its ledger."""

    def __init__(self, *, wants_ids: bool = False) -> None:
        self._wants_ids = wants_ids
        self.sensors: dict[int, SensorName] = {}
        self.boots: dict[int, Boot] = {}
        self.ledger: list[SqlRow] = []
        self.delivered: dict[int, list[int]] = {}
        self.epoch = ""
        self.ids: tuple[int, int] | None = None  # the lowest and the highest of a row

    def look(self, file: DamagedFile, number: int) -> None:
        """Keep what a page has to say."""
        columns = file.columns(number)
        if self._wants_ids and columns in (RECORD, REFUSED):
            self._look_at_ids(file, number)
        if columns not in (META, DELIVERED, BOOT, SENSOR, LEDGER):
            return
        for row in file.rows(number):
            if len(row) != columns:
                continue
            if columns == META and row[0] == 1 and isinstance(row[1], str) and _EPOCH.fullmatch(row[1]):
                self.epoch = row[1]
            elif columns == SENSOR:
                name = SensorName(row[1], row[2], row[3], bool(row[4]))
                if name.crc == row[5]:
                    self.sensors[row[0]] = name
            elif columns == BOOT and isinstance(row[1], str) and isinstance(row[2], int | None):
                self.boots[row[0]] = Boot(row[1], row[2])
            elif columns == LEDGER and all(isinstance(value, int) and value >= 0 for value in row):
                self.ledger.append(row)
            elif columns == DELIVERED and isinstance(row[1], bytes):
                self.delivered[row[0]] = list(unpack(row[1]))

    def _look_at_ids(self, file: DamagedFile, number: int) -> None:
        for row in file.rows(number):
            whole = is_whole(row) if len(row) == RECORD else len(row) == REFUSED and is_whole_refused(row)
            if whole and row[0] > 0:
                low, high = self.ids or (row[0], row[0])
                self.ids = min(low, row[0]), max(high, row[0])
