"""One package for one target, from its definition to the .deb.

Flows in: a `Definition`, the commit, our wheel, a `Target`. Flows out: a .deb in the folder named.
"""

from __future__ import annotations

import gzip
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from packages import deb, licences, maintainer_scripts, wheels
from packages.definition import BuildError, Definition, InstalledFile
from packages.source import Source
from packages.targets import Suite, Target

LAUNCHER = """\
#!/usr/bin/python3 -IS
# Isolated (-I), and without the machine's own packages (-S): what others install for Python changes nothing here.
import sys

sys.path.insert(0, "/usr/lib/{name}")

from {module} import {function}

{function}()
"""


@dataclass(frozen=True)
class Workshop:
    """Where packages are built: of which commit, with which wheel of it, in which folders."""

    source: Source
    wheel: Path
    work: Path
    cache: Path
    out: Path
    revision: int = 1
    """Of the package, not of what is in it: higher where the same version is packaged anew."""

    def version(self, suite: Suite) -> str:
        """Return the version of the packages for a release of Debian."""
        return f"{self.source.version}-{self.revision}{suite.version_suffix}"


def build(definition: Definition, target: Target, workshop: Workshop) -> Path:
    """Build a package; returns its file. Raises BuildError."""
    source, name = workshop.source, definition.name
    root = workshop.work / f"{name}-{target.name}"
    site = root / "usr/lib" / name
    site.mkdir(parents=True)
    kept = wheels.fetch(wheels.requirements(source.tree, definition, target), target, workshop.cache)
    wheels.lay_out(workshop.wheel, kept, target, site, source)
    module, _, function = definition.entry.partition(":")
    _write(root / "usr/bin" / name, LAUNCHER.format(name=name, module=module, function=function), 0o755)
    for file in definition.files:
        _write(root / file.target, _replaced(file, source.tree), file.mode)
    version = workshop.version(target.suite)
    _documents(root, definition, target, source, version)
    path = workshop.out / f"{name}_{version}_{target.architecture.debian}.deb"
    scripts = maintainer_scripts.texts(definition)
    deb.write(root, _fields(definition, target, source, version), scripts, definition.control_files, source, path)
    shutil.rmtree(root)
    return path


def _replaced(file: InstalledFile, tree: Path) -> str:
    try:
        text = (tree / file.source).read_text()
    except FileNotFoundError:
        raise BuildError(f"{file.source}: is not in the commit, and is to become {file.target}") from None
    for old, new in file.replace.items():
        if old not in text:
            raise BuildError(f"{file.source}: {old!r}, which {file.target} is to have replaced, does not stand in it")
        text = text.replace(old, new)
    return text


def _fields(definition: Definition, target: Target, source: Source, version: str) -> dict[str, str]:
    major, minor = target.suite.python
    python = (f"python3 (>= {major}.{minor})", f"python3 (<< {major}.{minor + 1})")
    lines = [f" {line.strip() or '.'}" for line in definition.description.strip().splitlines()]
    return {
        "Package": definition.name,
        "Version": version,
        "Architecture": target.architecture.debian,
        "Maintainer": source.maintainer,
        "Section": definition.section,
        "Priority": "optional",
        "Depends": ", ".join((*python, *definition.depends)),
        "Recommends": ", ".join(definition.recommends),
        "Suggests": ", ".join(definition.suggests),
        "Description": "\n".join((definition.summary, *lines)),
    }


def _documents(root: Path, definition: Definition, target: Target, source: Source, version: str) -> None:
    folder = root / "usr/share/doc" / definition.name
    at = format_datetime(datetime.fromtimestamp(source.epoch, UTC))
    entry = f"{definition.name} ({version}) {target.suite.codename}; urgency=medium\n\n"
    entry += f"  * Of commit {source.commit[:12]}. What changed for who uses it: changelog.gz.\n\n"
    entry += f" -- {source.maintainer}  {at}\n"
    site = root / "usr/lib" / definition.name
    _write(folder / "copyright", licences.copyright_text(site, definition.name, "iot-edge-bridge"))
    _write_gzip(folder / "changelog.Debian.gz", entry)
    _write_gzip(folder / "changelog.gz", (source.tree / "CHANGELOG.md").read_text())
    overrides = definition.folder / "lintian-overrides"
    if overrides.exists():
        _write(root / "usr/share/lintian/overrides" / definition.name, overrides.read_text())


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _write_gzip(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
