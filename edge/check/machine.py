"""The machine that a gateway stands on, as its checks ask for it: files below a root, users, units of systemd.

Flows in: a root, and who asks. Flows out: facts. Changes nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import msgspec

from edge.host import system_user

SYSTEMD = Path("/run/systemd/system")
UNIT_FOLDERS = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
CREDENTIALS = Path("etc/iot-edge/credentials")
SETTINGS = Path("etc/iot-edge/edge.toml")
ASK_S = 10.0


class Machine(msgspec.Struct, frozen=True):
    """Is a machine. `euid`: of who asks."""

    root: Path = Path("/")
    euid: int = msgspec.field(default_factory=os.geteuid)

    @property
    def is_root(self) -> bool:
        """Return whether who asks may see everything."""
        return self.euid == 0

    def is_installed(self, config: Path | None) -> bool:
        """Return whether these settings are those of the unit."""
        try:
            return config is not None and config.samefile(self.root / SETTINGS)
        except OSError:
            return False

    def hides_credentials(self) -> bool:
        """Return whether there are secrets that who asks may not read."""
        folder = self.root / CREDENTIALS
        return folder.exists() and not os.access(folder, os.R_OK | os.X_OK, effective_ids=True)

    def has_program(self, *places: str) -> bool:
        """Return whether one of these files is there."""
        return any((self.root / place).exists() for place in places)

    def has_unit(self, name: str) -> bool:
        """Return whether a unit of systemd is installed."""
        return any((self.root / folder / name).exists() for folder in UNIT_FOLDERS)

    def unit_state(self, name: str) -> str:
        """Return what `systemctl is-active` says, which everybody may ask; empty where systemd does not run here."""
        if self.root != Path("/") or not SYSTEMD.exists():
            return ""
        return said("systemctl", "is-active", name).strip()

    def gateway_uid(self) -> int | None:
        """Return the number of the gateway's user; None where there is none."""
        return system_user.number_in(self.root / "etc/passwd")

    def user_name(self, uid: int) -> str:
        """Return the name of a user, or its number."""
        try:
            lines = (self.root / "etc/passwd").read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        named = (line.split(":") for line in lines)
        return next((row[0] for row in named if len(row) > 2 and row[2] == str(uid)), str(uid))


def said(program: str, *arguments: str) -> str:
    """Return what a program prints within `ASK_S`; empty where it is not there or does not answer."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        return ""
    try:
        done = subprocess.run([path, *arguments], capture_output=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


def mount_point(folder: Path) -> Path:
    """Return where the file system of a folder is mounted."""
    folder = folder.resolve()
    for above in (folder, *folder.parents):
        if above.is_mount():
            return above
    return Path("/")


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there. One that may not be entered counts as there."""
    for above in (folder, *folder.parents):
        try:
            above.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return above.parent
        return above
    return Path("/")
