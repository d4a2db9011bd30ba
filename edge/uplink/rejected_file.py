"""What the service refused even as a quarantined record: kept on the gateway, for a human.

Flows in: records. Flows out: `refused.jsonl` in the data folder, one JSON object a line. Bounded: over `max_bytes` the
file becomes `refused.jsonl.1`, which takes the place of the one before.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import structlog

from edge.host.private_files import make_folder, open_private
from edge.record import Record

log = structlog.get_logger("uplink")

MAX_BYTES = 8 * 1024 * 1024


class RejectedFile:
    """Appends records that the service rejects in every form to a file."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes

    def keep(self, record: Record, detail: str) -> bool:
        """Write a record down; returns whether it is on the disk."""
        line = msgspec.json.encode({"detail": detail, "record": record}) + b"\n"
        try:
            make_folder(self._path.parent)
            if self._path.exists() and self._path.stat().st_size + len(line) > self._max_bytes:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            with open(self._path, "ab", opener=open_private) as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            log.error("refusal_not_kept", file=str(self._path), detail=str(error))
            return False
        log.error("record_refused", record=record.id, detail=detail, kept_in=str(self._path))
        return True
