"""The registry snapshot on disk, and beside it which one was the newest that was ever seen.

Flows in: a snapshot's bytes with their signature. Flows out: the same, after a boot without an uplink. Each file is a
signature, a line break, and what is signed. The snapshot is there twice, since flash memory forgets. The mark of the
newest stands on its own, so that an older snapshot is known as such also where both are gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from bridge.gateway_protocol.snapshot import IssueNumber, is_signed, signature
from edge.host import atomic_file

log = structlog.get_logger("registry")


class RegistryFile:
    """Keeps a snapshot at `path`, its copy and the mark of the newest one beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._copy = path.with_name(f"{path.name}.copy")
        self._mark = path.with_name(f"{path.name}.newest")

    def snapshots(self) -> Iterator[tuple[Path, bytes, str]]:
        """Yield what is on the disk, best first: the file, bytes, signature. Nothing of it is checked."""
        # Gateways that kept no copy kept the snapshot before.
        for path in (self._path, self._copy, self._path.with_name(f"{self._path.name}.previous")):
            try:
                signed, _, body = path.read_bytes().partition(b"\n")
            except OSError:
                continue
            yield path, body, signed.decode("ascii", "replace")

    def newest(self, key_hash: str) -> IssueNumber:
        """Return the number of the newest snapshot seen under this key; the first of all where nothing is noted."""
        try:
            signed, _, body = self._mark.read_bytes().partition(b"\n")
            if not is_signed(body, key_hash, signed.decode("ascii", "replace")):
                return IssueNumber()
            return IssueNumber(*msgspec.json.decode(body, type=tuple[int, int]))
        except FileNotFoundError:
            return IssueNumber()
        except (OSError, ValueError, TypeError, msgspec.DecodeError) as error:
            log.error("registry_mark_unreadable", file=str(self._mark), detail=str(error))
            return IssueNumber()

    def keep(self, body: bytes, signed: str, newest: IssueNumber, key_hash: str) -> None:
        """Write all of it. A disk that does not take it is said."""
        content = signed.encode() + b"\n" + body
        mark = msgspec.json.encode(newest)
        try:
            atomic_file.replace(self._path, content)
            atomic_file.replace(self._copy, content)
            atomic_file.replace(self._mark, signature(mark, key_hash).encode() + b"\n" + mark)
            self._path.with_name(f"{self._path.name}.previous").unlink(missing_ok=True)
        except OSError as error:
            log.error("registry_not_kept", file=str(self._path), detail=str(error))
