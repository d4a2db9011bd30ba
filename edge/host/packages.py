"""Which version of our Debian package is installed, and which one apt would install, by the files of dpkg and apt.

Flows in: /var/lib/dpkg/status, the lists of apt's sources. Flows out: `PackageState`. apt itself is not asked: in the
memory of the unit it would build its cache of all of Debian anew, since it may not write it. docs/decisions/0039.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from functools import cmp_to_key
from pathlib import Path

import msgspec

PACKAGE = "iot-edge"
STATUS = Path("var/lib/dpkg/status")
LISTS = Path("var/lib/apt/lists")
REBOOT = Path("run/reboot-required")
MAX_STATUS_BYTES = 16 * 1024 * 1024
MAX_LIST_BYTES = 1024 * 1024
"""A site's own repository has a few packages; Debian's has 50 MB, and not ours."""
EVERY_S = 3_600.0


class PackageState(msgspec.Struct, frozen=True):
    """Says what is installed. All empty: the gateway did not come as a package."""

    installed: str = ""
    candidate: str = ""  # the newest that the sources have; empty: none, or they were never fetched
    held: bool = False
    reboot_required: bool = False

    @property
    def update(self) -> str:
        """Return the version that waits to be installed; empty where there is none."""
        newer = self.installed and self.candidate and compare(self.candidate, self.installed) > 0
        return self.candidate if newer else ""


class PackageWatch:
    """Looks again every hour. `state` is what was seen last."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self.state = PackageState()

    async def run(self) -> None:
        """Look for ever, in a thread of its own. Ends by cancellation."""
        while True:
            self.state = await asyncio.to_thread(read_state, self._root)
            await asyncio.sleep(EVERY_S)


def read_state(root: Path) -> PackageState:
    """Read the files; what cannot be read says nothing."""
    fields = next(_stanzas(root / STATUS, MAX_STATUS_BYTES), {})
    status = fields.get("Status", "").split()
    installed = fields.get("Version", "") if "installed" in status else ""
    return PackageState(
        installed,
        _newest(_offered(root)) if installed else "",
        held="hold" in status[:1],
        reboot_required=(root / REBOOT).exists(),
    )


def _offered(root: Path) -> Iterator[str]:
    try:
        lists = sorted((root / LISTS).glob("*_Packages"))
    except OSError:
        return
    for file in lists:
        for fields in _stanzas(file, MAX_LIST_BYTES):
            yield fields.get("Version", "")


def _newest(versions: Iterable[str]) -> str:
    return max(filter(None, versions), key=cmp_to_key(compare), default="")


def _stanzas(file: Path, most_bytes: int) -> Iterator[dict[str, str]]:
    """Yield the fields of each paragraph of ours in a file of deb822(5), where the file is not too large."""
    try:
        if file.stat().st_size > most_bytes:
            return
        text = file.read_text("utf-8", "replace")
    except OSError:
        return
    for found in re.finditer(rf"^Package: {PACKAGE}$", text, re.MULTILINE):
        start, end = text.rfind("\n\n", 0, found.start()) + 1, text.find("\n\n", found.end())
        lines = text[start : len(text) if end < 0 else end].splitlines()
        yield dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith(" "))


def compare(one: str, other: str) -> int:
    """Compare two versions as dpkg does (Debian Policy, section 5.6.12): below 0, 0, above 0."""
    for left, right in zip(_parts(one), _parts(other), strict=True):
        if (order := _compare_part(left, right)) != 0:
            return order
    return 0


def _parts(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return (epoch, upstream, revision) if dash else (epoch, rest, "0")


def _compare_part(one: str, other: str) -> int:
    """Compare runs of other characters and runs of digits in turn."""
    while one or other:
        texts = [re.match(r"\D*", each) for each in (one, other)]
        left, right = (found[0] if found else "" for found in texts)
        width = max(len(left), len(right)) + 1
        ranks = [[_rank(text[place : place + 1]) for place in range(width)] for text in (left, right)]
        if ranks[0] != ranks[1]:
            return -1 if ranks[0] < ranks[1] else 1
        one, other = one[len(left) :], other[len(right) :]
        digits = [re.match(r"\d*", each) for each in (one, other)]
        left, right = (found[0] if found else "" for found in digits)
        if int(left or 0) != int(right or 0):
            return -1 if int(left or 0) < int(right or 0) else 1
        one, other = one[len(left) :], other[len(right) :]
    return 0


def _rank(character: str) -> int:
    """A tilde comes before the end, which comes before letters, which come before everything else."""
    if character == "~":
        return -1
    if not character:
        return 0
    return ord(character) if character.isalpha() else ord(character) + 0x110000
