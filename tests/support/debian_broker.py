"""Debian's Mosquitto as its package ships it: the program, and its main configuration, which includes ours.

It is the system's, or what MOSQUITTO names: a program, or a folder with a Debian of another version, where the package
is installed (`make debian-broker MOSQUITTO=...`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from hashlib import md5
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import needs

MAIN = Path("etc/mosquitto/mosquitto.conf")


class DebianMosquitto(NamedTuple):
    """How to run it, and the text of its main configuration."""

    command: tuple[str, ...]
    main: str


def debian_mosquitto() -> DebianMosquitto:
    """Leaves the test out where there is none."""
    named = os.environ.get("MOSQUITTO", "")
    root = Path(named) if named and Path(named).is_dir() else Path("/")
    if root == Path("/"):
        return DebianMosquitto((named or needs.program(needs.MOSQUITTO),), _pristine(root))
    (loader,) = root.glob("lib64/ld-linux-*.so.2")
    (libraries,) = {path.parent for path in root.glob("usr/lib/*/libc.so.6")}
    program = str(root / "usr/sbin/mosquitto")
    return DebianMosquitto((str(loader), "--library-path", str(libraries), program), _pristine(root))


def debian_broker(root: Path) -> Path:
    """Write the main configuration below `root`, and have what is included there name files below it."""
    for folder in ("run/mosquitto", "var/lib/mosquitto", "var/log/mosquitto"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for included in (root / "etc/mosquitto/conf.d").glob("*.conf"):
        included.write_text(included.read_text().replace(" /etc/mosquitto/", f" {root}/etc/mosquitto/"))
    text = debian_mosquitto().main
    for folder in ("/run/", "/var/", "/etc/"):
        text = text.replace(f" {folder}", f" {root}{folder}")
    (root / MAIN).write_text(f"{text}\nuser root\n")
    return root / MAIN


def _pristine(root: Path) -> str:
    """The main configuration as the package has it, which dpkg knows the sum of."""
    query = shutil.which("dpkg-query") or needs.leave_out(needs.MOSQUITTO)
    command = [query, f"--admindir={root}/var/lib/dpkg", "-W", "-f=${Conffiles}", "mosquitto"]
    known = subprocess.run(command, capture_output=True, text=True, check=False)
    sums = dict(line.split()[:2] for line in known.stdout.splitlines() if line.strip())
    if f"/{MAIN}" not in sums:
        needs.leave_out(needs.MOSQUITTO)
    content = (root / MAIN).read_bytes()
    if md5(content, usedforsecurity=False).hexdigest() != sums[f"/{MAIN}"]:
        pytest.fail(f"{root / MAIN} is not as the package ships it; bring it back, or name another in MOSQUITTO")
    return content.decode()
