"""What has become of the enrolment file on the boot partition, by which a gateway without a keyboard is enrolled.

Flows in: the boot partition's files. Flows out: whether one waits, or was refused, and why. Changes nothing.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

FILES = (Path("boot/firmware/iot-edge-enrol.toml"), Path("boot/iot-edge-enrol.toml"))
FAILED = ".failed"
SAID = "# iot-edge: "
"""Begins the line with the reason, in a file that was renamed."""
MAX_BYTES = 65_536


class FirstBoot(msgspec.Struct, frozen=True):
    """Says which file there is. `state`: waits, failed, or empty: there is none."""

    state: str = ""
    file: str = ""
    reason: str = ""


def look_at_first_boot(root: Path = Path("/")) -> FirstBoot:
    """Return what has become of the file; nothing where none was there, or it has done its work."""
    try:
        return _look(root)
    except OSError as error:
        return FirstBoot("failed", str(error.filename), f"it cannot be read: {error.strerror}")


def _look(root: Path) -> FirstBoot:
    for file in FILES:
        for name in (root / file, root / f"{file}.txt"):
            if name.is_file():
                return FirstBoot("waits", str(name), "it is tried until the service answers")
    for file in FILES:
        failed = root / f"{file}{FAILED}"
        if failed.is_file():
            with failed.open("rb") as opened:
                text = opened.read(MAX_BYTES).decode("utf-8", "replace")
            said = [line.removeprefix(SAID).strip() for line in text.splitlines() if line.startswith(SAID)]
            return FirstBoot("failed", str(failed), said[0] if said else "it does not say why")
    return FirstBoot()
