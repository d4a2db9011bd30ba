"""The gateway's user and group, made by what the machine has for it: systemd-sysusers, or useradd. Below a root.

Flows in: a root, with installed/iot-edge.sysusers in its /etc/sysusers.d. Flows out: a line in its /etc/passwd, and
the state of a release before is the user's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from edge.host.installation import USER

SYSUSERS = Path("etc/sysusers.d/iot-edge.conf")
STATE, PRIVATE = Path("var/lib/iot-edge"), Path("var/lib/private/iot-edge")
NOLOGIN = "/usr/sbin/nologin"


def exists(root: Path) -> bool:
    """Return whether the user stands in the root's own files: a DynamicUser that runs has the name as well."""
    return number_in(root / "etc/passwd") is not None and number_in(root / "etc/group") is not None


def make(root: Path) -> list[str]:
    """Make user and group where they are not there. Returns the command to run by hand, where none here can."""
    if exists(root):
        return []
    for command in _commands(root):
        if shutil.which(command[0]) is None:
            continue
        try:
            subprocess.run(command, check=False, capture_output=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if exists(root):
            return []
    return [f"systemd-sysusers {SYSUSERS.name}"]


def was_dynamic(root: Path) -> bool:
    """Return whether the state is where systemd keeps that of a DynamicUser: the unit of a release before had one.

    Also where the power went between the two steps of `carry_over`.
    """
    state = root / STATE
    return (root / PRIVATE).is_dir() and (state.is_symlink() or not state.exists())


def carry_over(root: Path) -> None:
    """Bring the state back from there, and give it to the user. The gateway does not run meanwhile. Raises OSError.

    systemd brings it back as well, but since 257 leaves it to nobody, and only shows it to the unit as the user's own:
    every other process of nobody could read the key.
    """
    if was_dynamic(root):
        (root / STATE).unlink(missing_ok=True)
        (root / PRIVATE).rename(root / STATE)
    numbers = owner(root)
    if numbers is None or os.geteuid() != 0 or not (root / STATE).is_dir() or (root / STATE).is_symlink():
        return
    if (root / STATE).stat().st_uid != numbers[0]:
        for _, folders, files, folder in os.fwalk(root / STATE, follow_symlinks=False):
            for name in (*folders, *files):
                os.chown(name, *numbers, dir_fd=folder, follow_symlinks=False)
        os.chown(root / STATE, *numbers)


def owner(root: Path) -> tuple[int, int] | None:
    """Return the numbers of user and group, which are those of the root; None where it has no such user."""
    user, group = number_in(root / "etc/passwd"), number_in(root / "etc/group")
    return None if user is None or group is None else (user, group)


def _commands(root: Path) -> tuple[list[str], ...]:
    useradd = ["useradd", "--system", "--user-group", "--no-create-home"]
    useradd += ["--home-dir", "/var/lib/iot-edge", "--shell", NOLOGIN, "--comment", "IoT gateway", USER]
    if root == Path("/"):
        return (["systemd-sysusers", SYSUSERS.name], useradd)
    return (["systemd-sysusers", f"--root={root.resolve()}", SYSUSERS.name], [*useradd, "--root", str(root.resolve())])


def number_in(path: Path) -> int | None:
    """Return the number in the gateway's line of a passwd(5) or group(5); None where it has none."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split(":")
        if fields[0] == USER and len(fields) > 2 and fields[2].isdecimal():
            return int(fields[2])
    return None
