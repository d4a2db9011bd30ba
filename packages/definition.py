"""`packages/NAME/package.toml`: what a package is made of. An unknown key is a mistake.

Flows in: the tree of a commit. Flows out: a `Definition`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
CONTROL_FILES = ("triggers",)


class BuildError(Exception):
    """Says why nothing can be built, and what to do."""


@dataclass(frozen=True)
class InstalledFile:
    """A file of the commit, and where it is installed. Each key of `replace` must stand in it."""

    source: str
    target: str
    replace: dict[str, str] = field(default_factory=dict)
    mode: int = 0o644


@dataclass(frozen=True)
class Definition:
    """A package. What it installs below /etc is a conffile, each of it (Debian Policy 10.7)."""

    name: str
    folder: Path
    summary: str
    description: str
    section: str
    entry: str
    """What the command calls, MODULE:FUNCTION. The command is called as the package is."""
    requirements: tuple[str, ...]
    """Which files of requirements/ name what it brings along."""
    without: tuple[str, ...] = ()
    """Of that, what it never loads."""
    depends: tuple[str, ...] = ()
    recommends: tuple[str, ...] = ()
    suggests: tuple[str, ...] = ()
    started: tuple[str, ...] = ()
    """Units that are enabled and started, in this order."""
    enabled: tuple[str, ...] = ()
    """Units that are enabled only: what starts them is another, or the next boot."""
    files: tuple[InstalledFile, ...] = ()

    @property
    def script_templates(self) -> dict[str, str]:
        """Return the maintainer scripts, with their tokens."""
        return {name: (self.folder / name).read_text() for name in SCRIPTS if (self.folder / name).exists()}

    @property
    def control_files(self) -> dict[str, str]:
        """Return what else dpkg reads, as it is: deb-triggers(5)."""
        return {name: (self.folder / name).read_text() for name in CONTROL_FILES if (self.folder / name).exists()}


def load(tree: Path, name: str) -> Definition:
    """Read the definition of a package. Raises BuildError."""
    folder = tree / "packages" / name
    path = folder / "package.toml"
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise BuildError(f"packages/{name}/package.toml: is not in the commit") from None
    except tomllib.TOMLDecodeError as error:
        raise BuildError(f"packages/{name}/package.toml: {error}") from None
    unknown = sorted(found.keys() - ({each.name for each in fields(Definition)} - {"name", "folder"}))
    if unknown:
        raise BuildError(f"packages/{name}/package.toml: unknown: {', '.join(unknown)}")
    files = tuple(InstalledFile(**one) for one in found.pop("files", ()))
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    return Definition(name=name, folder=folder, files=files, **values)


def names(tree: Path) -> list[str]:
    """Return the packages of a commit."""
    return sorted(path.parent.name for path in tree.glob("packages/*/package.toml"))
