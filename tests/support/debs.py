"""The package of the commit, built once for every test that installs it or looks into it, and kept for the next run."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from packages.source import ROOT

KEPT = ROOT / "build" / "debs"
SETTINGS = {
    "SOURCE_DATE_EPOCH": "1767225600",  # the first second of 2026
    "MAINTAINER": "A Site <packages@example.com>",
    "TZ": "UTC",
    "PYTHONHASHSEED": "1",
}
OLD_S = 86_400


def built(suite: str, architecture: str = "amd64") -> Path:
    """iot-edge of the commit, for a release of Debian."""
    commit = out("git", "rev-parse", "HEAD")
    folder = KEPT / f"{commit[:12]}-{suite}-{architecture}"
    KEPT.mkdir(parents=True, exist_ok=True)
    with open(KEPT / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of the run may be building it
        if not list(folder.glob("*.deb")):
            _remove_old(commit)
            command = (sys.executable, "-m", "packages", "debs", "iot-edge", "--suite", suite, "--arch", architecture)
            out(*command, "--out", str(folder))
    (deb,) = folder.glob("*.deb")
    return deb


def out(*command: str) -> str:
    """What a command prints, in the project's folder."""
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | SETTINGS, capture_output=True, text=True, umask=0o022, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def _remove_old(commit: str) -> None:
    """Packages of other commits that no run can be using any more."""
    for folder in KEPT.glob("*-*-*"):
        if not folder.name.startswith(commit[:12]) and folder.stat().st_mtime < time.time() - OLD_S:
            shutil.rmtree(folder)
