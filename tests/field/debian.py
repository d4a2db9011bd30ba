"""Debian systems that are booted: made once by scripts/field-root, copied for each use."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support import needs

PROJECT = Path(__file__).parents[2]
KEPT = PROJECT / "build" / "field"
TOOLS = (needs.SYSTEMD_NSPAWN, needs.MMDEBSTRAP, needs.DPKG_SCANPACKAGES)


class Debian(NamedTuple):
    """A system as its installer leaves it, and a repository with Debian's packages of what is installed on it later."""

    suite: str
    base: Path
    archive: Path


def prepare(suite: str, architecture: str = "amd64") -> Debian:
    """Make it, where it is not kept from before. Leaves the test out where the machine cannot."""
    for tool in TOOLS:
        needs.program(tool)
    if os.geteuid() != 0:
        needs.leave_out(needs.ROOT)
    done = subprocess.run([PROJECT / "scripts/field-root", suite, architecture], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    name = f"{suite}-{architecture}"
    return Debian(suite, KEPT / f"base-{name}", KEPT / f"archive-{name}")


@contextmanager
def copied(debian: Debian) -> Iterator[Path]:
    """The root of a copy, in a folder that is removed afterwards; so are those that a run that was killed has left."""
    for left in KEPT.glob("run-*-*"):
        if not Path("/proc", left.name.split("-")[1]).exists():
            shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=f"run-{os.getpid()}-", dir=KEPT))
    try:
        subprocess.run(["cp", "-a", "--reflink=auto", debian.base, folder / "root"], check=True)
        yield folder / "root"
    finally:
        shutil.rmtree(folder)
