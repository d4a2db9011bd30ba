"""The commit that is packaged: its tree, its time, its version, and the wheel of it.

Flows in: git's HEAD. Flows out: files in a work folder. What is not committed is not packaged.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packages.definition import BuildError

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


@dataclass(frozen=True)
class Source:
    """The tree of a commit."""

    tree: Path
    commit: str
    epoch: int
    version: str
    maintainer: str

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment in which tools give the same bytes each time."""
        return os.environ | {"SOURCE_DATE_EPOCH": str(self.epoch), "TZ": "UTC", "LC_ALL": "C.UTF-8"}


def run(*command: str | Path, environment: dict[str, str] | None = None, cwd: Path | None = None) -> bytes:
    """Run a tool; returns what it prints. Raises BuildError with its last words."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, env=environment, cwd=cwd)
    except FileNotFoundError:
        raise BuildError(f"{command[0]}: is not installed; docs/packages.md says what a build needs") from None
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()[-5:]
        raise BuildError(f"{command[0]} failed: " + "\n".join(words))
    return done.stdout


def checkout(folder: Path) -> Source:
    """Unpack HEAD below a folder. Who made it maintains it, or $MAINTAINER: NAME <ADDRESS>. Raises BuildError."""
    tree = folder / "tree"
    tree.mkdir(parents=True)
    archive = folder / "tree.tar"
    run("git", "archive", "--output", archive, "HEAD", cwd=ROOT)
    run("tar", "-x", "-f", archive, "-C", tree)
    archive.unlink()
    commit, epoch, person = (
        run("git", "log", "-1", "--format=%H %ct %cn <%ce>", cwd=ROOT).decode().strip().split(" ", 2)
    )
    project = tomllib.loads((tree / "pyproject.toml").read_text())["project"]
    return Source(
        tree,
        commit,
        int(os.environ.get("SOURCE_DATE_EPOCH", epoch)),
        project["version"],
        os.environ.get("MAINTAINER") or person,
    )


def own_wheel(source: Source, folder: Path) -> Path:
    """Build the wheel of the commit, as scripts/release does. Raises BuildError."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ("--no-index", "--no-deps", "--no-build-isolation")
    run(*PIP, "wheel", *options, "--wheel-dir", folder, source.tree, environment=source.environment)
    (wheel,) = folder.glob("*.whl")
    return wheel
