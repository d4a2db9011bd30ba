"""One file to carry on a stick: what a site without any network needs, and a script that installs it.

Flows in: our packages of one machine for every release of Debian; of Debian's own, what a base system may lack (Python
and Mosquitto). Flows out: `NAME-offline-ARCHITECTURE.tar`. What Debian brings is what its mirror has today.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

from packages.source import Source, run
from packages.targets import SUITES, Architecture, Suite

FROM_DEBIAN = ("python3", "mosquitto")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEFAULT_MIRROR = "http://deb.debian.org/debian"


def bundle(
    name: str, architecture: Architecture, debs: list[Path], source: Source, work: Path, out: Path, mirror: str | None
) -> Path:
    """Write the bundle of a package; without a mirror nothing of Debian's is in it. Raises BuildError."""
    title = f"{name}-offline-{architecture.debian}"
    root = work / title
    for suite in SUITES:
        folder = root / suite.codename
        folder.mkdir(parents=True)
        ours = [path for path in debs if suite.version_suffix in path.name and f"_{architecture.debian}." in path.name]
        for path in ours:
            shutil.copy(path, folder)
        if mirror is not None:
            _from_debian(suite, architecture, mirror, folder, work / f"apt-{suite.codename}-{architecture.debian}")
        (folder / "Packages").write_bytes(run("apt-ftparchive", "packages", ".", cwd=folder))
    template = (source.tree / "packages" / name / "offline-install").read_text()
    (root / "install").write_text(template.replace("@ARCHITECTURE@", architecture.debian))
    (root / "install").chmod(0o755)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in files]
    (root / "SHA256SUMS").write_text("".join(sums))
    path = out / f"{title}.tar"
    order = ("--sort=name", "--owner=root:0", "--group=root:0", f"--mtime=@{source.epoch}", "--format=gnu")
    run("tar", *order, "-C", work, "-c", "-f", path, title, environment=source.environment)
    return path


def _from_debian(suite: Suite, architecture: Architecture, mirror: str, folder: Path, work: Path) -> None:
    """Fetch what installs FROM_DEBIAN on a base system of another machine, by a state of apt of its own."""
    for place in ("lists/partial", "archives/partial", "etc/apt.conf.d", "etc/preferences.d"):
        (work / place).mkdir(parents=True)
    (work / "status").touch()
    security = re.sub(r"/debian/?$", "/debian-security", mirror)
    (work / "etc/sources.list").write_text(
        f"deb [signed-by={KEYRING}] {mirror} {suite.codename} main\n"
        f"deb [signed-by={KEYRING}] {security} {suite.codename}-security main\n"
    )
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    settings = {
        "APT::Architecture": architecture.debian,
        "APT::Architectures": architecture.debian,
        "Dir::State": work,
        "Dir::State::status": work / "status",
        "Dir::Cache": work,
        "Dir::Etc": work / "etc",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::GzipIndexes": "false",
    }
    apt = ("apt-get", "-qq", *(part for name, value in settings.items() for part in ("-o", f"{name}={value}")))
    run(*apt, "update", environment=environment)
    base = _base_system(work, suite, architecture)
    has = _installed(run(*apt, "--simulate", "install", *base, environment=environment))
    needs = _installed(run(*apt, "--simulate", "install", *base, *FROM_DEBIAN, environment=environment))
    run(*apt, "download", *sorted(needs - has), environment=environment, cwd=folder)


def _base_system(work: Path, suite: Suite, architecture: Architecture) -> list[str]:
    """Return what debootstrap installs: whatever is required or important."""
    (index,) = (work / "lists").glob(f"*_dists_{suite.codename}_main_binary-{architecture.debian}_Packages")
    stanzas = index.read_text().split("\n\n")
    wanted = [stanza for stanza in stanzas if re.search(r"^Priority: (required|important)$", stanza, re.MULTILINE)]
    return [stanza.partition("\n")[0].removeprefix("Package: ") for stanza in wanted]


def _installed(simulation: bytes) -> set[str]:
    return set(re.findall(r"^Inst (\S+)", simulation.decode(), re.MULTILINE))
