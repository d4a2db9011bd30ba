"""Files that we lay on a machine, by dpkg's rules for conffiles: what an engineer has changed stays as it is.

Flows in: files with their text. Flows out: what became of each, with the lines that differ. What was laid is remembered
in /etc/iot-edge/installed.sha256, which root alone writes: `sha256sum -c` of it names what was changed since.
"""

from __future__ import annotations

import difflib
import os
import re
from enum import StrEnum
from hashlib import sha256
from importlib import resources
from pathlib import Path

import msgspec

RECORD = Path("etc/iot-edge/installed.sha256")
PLACEHOLDER = "/opt/iot-edge/bin/iot-edge"
"""Where the templates have the command."""
NEW, BEFORE = ".new", ".before"
MAX_DIFF_LINES = 60
_COMMAND = re.compile(r"(?<=^ExecStart=)/\S*/iot-edge(?= )", re.MULTILINE)


class Fate(StrEnum):
    """What became of a file."""

    WRITTEN = "wrote"
    SAME = "kept"
    LEFT = "left"  # it is another, and was to be left alone
    EDITED = "edited"  # by somebody else: it stays, and where ours is another one now, that is beside it
    REPLACED = "replaced"  # edited, and replaced since that was asked for; it is kept beside


class Rule(StrEnum):
    """What to do with a file that is there, and is another."""

    LEAVE = "leave"
    UPGRADE = "upgrade"  # where nobody has changed it
    REPLACE = "replace"


class LaidFile(msgspec.Struct, frozen=True):
    """Names a file, and what became of it; `beside` is the one to compare it with."""

    path: Path
    fate: Fate
    beside: Path | None = None
    diff: tuple[str, ...] = ()

    @property
    def written(self) -> bool:
        """Return whether another text stands in it now."""
        return self.fate in (Fate.WRITTEN, Fate.REPLACED)


class LaidFiles:
    """The record of what was laid below a root. `lay` each file, then `save`. All raise OSError."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._record = self._load()

    def lay(self, path: Path, text: str, rule: Rule) -> LaidFile:
        """Lay one file, at `path` below the root."""
        place, new = self._root / path, self._beside(path, NEW)
        try:
            found = place.read_text(errors="surrogateescape")
        except FileNotFoundError:
            found = None
        if found is None or found == text:
            return self._laid(path, text, None if found is None else Fate.SAME)
        if rule is Rule.LEAVE:
            return LaidFile(path, Fate.LEFT, None, _diff(path, found, text, "as shipped"))
        if rule is Rule.UPGRADE and not self.is_edited(path, found):
            return self._laid(path, text, None)
        if rule is Rule.REPLACE:
            if not self.is_edited(path, found):
                return self._laid(path, text, None)
            write(self._root / self._beside(path, BEFORE), found)
            self._laid(path, text, None)
            return LaidFile(path, Fate.REPLACED, self._beside(path, BEFORE), _diff(path, found, text, "now"))
        if self._record.get(path) == _hash(text):
            return LaidFile(path, Fate.EDITED)  # ours is what it was: there is nothing to take over
        write(self._root / new, text)
        self._record[path] = _hash(text)
        return LaidFile(path, Fate.EDITED, new, _diff(path, found, text, new.name))

    def remove(self, path: Path) -> LaidFile | None:
        """Take a file away; None where it is not there. One that was edited is kept beside."""
        place = self._root / path
        try:
            edited = self.is_edited(path, place.read_text(errors="surrogateescape"))
        except FileNotFoundError:
            return None
        self._record.pop(path, None)
        (self._root / self._beside(path, NEW)).unlink(missing_ok=True)
        if edited:
            place.replace(self._root / self._beside(path, BEFORE))
            return LaidFile(path, Fate.REPLACED, self._beside(path, BEFORE))
        place.unlink()
        return LaidFile(path, Fate.WRITTEN)

    def is_edited(self, path: Path, text: str) -> bool:
        """Return whether this is neither what we have laid there, nor anything that we ship."""
        if self._record.get(path) == _hash(text):
            return False
        return _hash(_COMMAND.sub(PLACEHOLDER, text)) not in _shipped()

    def save(self) -> None:
        """Write the record, in the form of sha256sum."""
        lines = [f"{digest}  /{path}\n" for path, digest in sorted(self._record.items())]
        write(self._root / RECORD, "".join(lines))

    def _laid(self, path: Path, text: str, fate: Fate | None) -> LaidFile:
        if fate is None:
            write(self._root / path, text)
        self._record[path] = _hash(text)
        (self._root / self._beside(path, NEW)).unlink(missing_ok=True)
        return LaidFile(path, fate or Fate.WRITTEN)

    def _load(self) -> dict[Path, str]:
        try:
            text = (self._root / RECORD).read_text(errors="replace")
        except FileNotFoundError:
            return {}
        found = re.findall(r"^([0-9a-f]{64})  /(.+)$", text, re.MULTILINE)
        return {Path(path): digest for digest, path in found}

    @staticmethod
    def _beside(path: Path, ending: str) -> Path:
        return path.with_name(f"{path.name}{ending}")


def write(path: Path, text: str) -> None:
    """Write a file that everybody may read, whatever umask root has. Raises OSError."""
    open_folders(path.parent)
    new = path.with_name(f".{path.name}.tmp")
    new.unlink(missing_ok=True)
    with open(new, "x", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o644)
    new.replace(path)


def open_folders(folder: Path) -> None:
    """Make a folder, and those above it, that everybody may enter. Raises OSError."""
    for each in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        each.mkdir()
        each.chmod(0o755)


def _hash(text: str) -> str:
    return sha256(text.encode(errors="surrogateescape")).hexdigest()


def _shipped() -> set[str]:
    """Return the hashes of what we ship, and of what a release laid that kept no record, with the command as there."""
    folder = resources.files("edge.host").joinpath("installed")
    texts = [file.read_text() for file in folder.iterdir() if not file.name.endswith(".sha256")]
    former = folder.joinpath("former.sha256").read_text().splitlines()
    return {_hash(text) for text in texts} | {line.split()[0] for line in former if not line.startswith("#")}


def _diff(path: Path, found: str, text: str, name: str) -> tuple[str, ...]:
    lines = list(difflib.unified_diff(found.splitlines(), text.splitlines(), f"/{path}", name, n=0, lineterm=""))
    more = len(lines) - MAX_DIFF_LINES
    return tuple(lines[:MAX_DIFF_LINES] + ([f"… and {more} lines more"] if more > 0 else []))
