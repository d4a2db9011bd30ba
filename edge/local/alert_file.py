"""The alerts that are not resolved, on disk: a gateway that starts again raises none twice, and ends them all.

Flows in: active alerts. Flows out: a small JSON file, written whole when they change.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from edge.host import atomic_file
from edge.local.alerts import Active

log = structlog.get_logger("site")


class AlertFile:
    """Keeps the unresolved alerts over a restart. The file need not be there, and may hold anything."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._problem = ""

    def load(self) -> list[Active]:
        """Load what was kept: nothing where nothing was, or it cannot be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[Active])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.warning("alarms_unread", file=str(self._path), detail=str(error))
            return []

    def save(self, active: Iterable[Active]) -> None:
        """Save the alerts; say once why that cannot be done: alerts do not depend on it."""
        try:
            atomic_file.replace(self._path, msgspec.json.encode(list(active)))
        except OSError as error:
            if not self._problem:
                log.warning("alarms_not_kept", file=str(self._path), detail=str(error))
            self._problem = str(error)
        else:
            self._problem = ""
