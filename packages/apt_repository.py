"""A folder that any web server serves to apt: packages, indexes with their hashes, one signature over them.

Flows in: .deb files, the key of who hands them out. Flows out: `pool/`, `dists/`, the key, a `.sources` file for each
release of Debian. What stands in the folder already stays, so that a gateway can go back to the version before.
https://wiki.debian.org/DebianRepository/Format
"""

from __future__ import annotations

import hashlib
import lzma
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

from packages import refusal
from packages.definition import BuildError
from packages.source import run
from packages.targets import ARCHITECTURES, SUITES, Suite

NAME = "iot-edge-bridge"
INDEXED = (*(each.debian for each in ARCHITECTURES), refusal.ARCHITECTURE)
DEB = re.compile(r"(?P<name>[a-z0-9.+-]+)_(?P<version>[^_]+(?P<suffix>~deb\d+u\d+))_(?P<architecture>[a-z0-9]+)\.deb")
KEPT_INDEXES = 3
"""By-hash files of as many states before: for who has fetched the list of them just now."""


def publish(debs: list[Path], out: Path, key: str, url: str) -> None:
    """Bring packages into the folder, and sign what it has then. Raises BuildError."""
    out.mkdir(parents=True, exist_ok=True)
    for path in debs:
        _add(path, out)
    exported = run("gpg", "--batch", "--armor", "--export", key).decode()
    if not exported:
        raise BuildError(f"gpg knows no key {key}: gpg --list-secret-keys")
    (out / f"{NAME}.asc").write_text(exported)
    for suite in SUITES:
        _index(out, suite)
        _sign(out / "dists" / suite.codename, suite, key)
        (out / f"{NAME}-{suite.codename}.sources").write_text(_source_list(suite, url, exported))


def _add(path: Path, out: Path) -> None:
    match = DEB.fullmatch(path.name)
    suites = [suite for suite in SUITES if match and match["suffix"] == suite.version_suffix]
    if match is None or not suites:
        raise BuildError(f"{path}: is no package of ours: NAME_VERSION~debNu1_ARCHITECTURE.deb")
    place = out / "pool" / suites[0].codename / path.name
    if place.exists() and place.read_bytes() != path.read_bytes():
        raise BuildError(
            f"{path.name}: is published with other content; a machine that has it would never see this one"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    new = place.with_name(f"{place.name}.new")
    shutil.copyfile(path, new)
    new.replace(place)


def _index(out: Path, suite: Suite) -> None:
    for architecture in INDEXED:
        folder = out / "dists" / suite.codename / "main" / f"binary-{architecture}"
        folder.mkdir(parents=True, exist_ok=True)
        pool = Path("pool") / suite.codename
        (out / pool).mkdir(parents=True, exist_ok=True)
        text = run("apt-ftparchive", "--arch", architecture, "packages", pool, cwd=out)
        for name, content in (("Packages", text), ("Packages.xz", lzma.compress(text))):
            (folder / name).write_bytes(content)
            by_hash = folder / "by-hash/SHA256" / hashlib.sha256(content).hexdigest()
            by_hash.parent.mkdir(parents=True, exist_ok=True)
            by_hash.write_bytes(content)
        states = sorted((folder / "by-hash/SHA256").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for old in states[: -2 * KEPT_INDEXES]:
            old.unlink()


def _sign(folder: Path, suite: Suite, key: str) -> None:
    """Write Release and InRelease; what apt begins with comes last, for who fetches meanwhile."""
    release = folder / "Release.new"
    release.write_text(_release(folder, suite))
    gpg = ("gpg", "--batch", "--yes", "--local-user", key, "--digest-algo", "SHA512", "--armor")
    run(*gpg, "--output", folder / "Release.gpg.new", "--detach-sign", release)
    run(*gpg, "--output", folder / "InRelease.new", "--clearsign", release)
    for name in ("Release", "Release.gpg", "InRelease"):
        (folder / f"{name}.new").replace(folder / name)


def _release(folder: Path, suite: Suite) -> str:
    """Return what is signed. No Valid-Until: a site is visited by nobody, and its clock may be wrong."""
    facts = {
        "Origin": NAME,
        "Label": NAME,
        "Suite": suite.codename,
        "Codename": suite.codename,
        "Date": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S UTC"),
        "Architectures": " ".join(INDEXED),
        "Components": "main",
        "Acquire-By-Hash": "yes",
    }
    lines = [f"{name}: {text}" for name, text in facts.items()]
    lines.append("SHA256:")
    for path in sorted(folder.glob("main/binary-*/Packages*")):
        content = path.read_bytes()
        lines.append(f" {hashlib.sha256(content).hexdigest()} {len(content)} {path.relative_to(folder)}")
    return "\n".join(lines) + "\n"


def _source_list(suite: Suite, url: str, key: str) -> str:
    """Return the one file that a machine needs, with the key in it: sources.list(5), since apt 2.3.10."""
    lines = "".join(f" {line or '.'}\n" for line in key.strip().splitlines())
    return f"Types: deb\nURIs: {url}\nSuites: {suite.codename}\nComponents: main\nSigned-By:\n{lines}"
