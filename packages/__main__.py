"""`python -m packages debs | apt-repo | offline`: see docs/packages.md."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packages import apt_repository, definition, offline, refusal, source, stage
from packages.definition import BuildError
from packages.targets import ARCHITECTURES, SUITES, TARGETS

CACHE = source.ROOT / "build/packages/wheels"
DIST = source.ROOT / "dist"
OFFLINE = "iot-edge"


def main() -> int:
    """Run a command; returns its exit code."""
    arguments = _parser().parse_args()
    os.umask(0o022)  # modes of files stand in a wheel
    try:
        return int(arguments.command(arguments))
    except BuildError as error:
        print(f"packages: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m packages", description=__doc__)
    commands = parser.add_subparsers(required=True)
    debs = commands.add_parser("debs", help="the .deb files, in OUT")
    debs.add_argument("names", nargs="*", metavar="NAME", help="which; none: every package of the commit")
    debs.add_argument("--suite", choices=[suite.codename for suite in SUITES], help="for this release of Debian only")
    debs.add_argument("--arch", choices=[each.debian for each in ARCHITECTURES], help="for this machine only")
    debs.add_argument("--revision", type=int, default=1, help="of the package, where a version is packaged anew")
    debs.add_argument("--out", type=Path, default=DIST)
    debs.set_defaults(command=build_debs)
    repository = commands.add_parser("apt-repo", help="a folder for a web server, of the .deb files in DEBS")
    repository.add_argument("--key", default=os.environ.get("KEY"), help="gpg's name of the key that signs it; $KEY")
    repository.add_argument("--url", default=os.environ.get("URL"), help="where it will be served; $URL")
    repository.add_argument("--debs", type=Path, default=DIST)
    repository.add_argument("--out", type=Path, default=DIST / "apt")
    repository.set_defaults(command=publish)
    bundles = commands.add_parser("offline", help="a tar for each machine, of the .deb files in DEBS")
    bundles.add_argument("--arch", choices=[each.debian for each in ARCHITECTURES], help="for this machine only")
    bundles.add_argument("--mirror", default=os.environ.get("MIRROR", offline.DEFAULT_MIRROR), help="Debian's; $MIRROR")
    bundles.add_argument("--ours-only", action="store_true", help="nothing of Debian's: Python must be there already")
    bundles.add_argument("--debs", type=Path, default=DIST)
    bundles.add_argument("--out", type=Path, default=DIST)
    bundles.set_defaults(command=bundle)
    return parser


def build_debs(arguments: argparse.Namespace) -> int:
    """Build packages, and print their files."""
    with _workshop(arguments) as workshop:
        for name in arguments.names or definition.names(workshop.source.tree):
            wanted = definition.load(workshop.source.tree, name)
            for target in TARGETS:
                if arguments.suite in (None, target.suite.codename) and arguments.arch in (
                    None,
                    target.architecture.debian,
                ):
                    print(stage.build(wanted, target, workshop), flush=True)
            for suite in SUITES:
                if arguments.suite in (None, suite.codename) and arguments.arch is None:
                    print(refusal.build(name, workshop.version(suite), workshop), flush=True)
    return 0


def publish(arguments: argparse.Namespace) -> int:
    """Bring what was built into the repository."""
    if not arguments.key or not arguments.url:
        raise BuildError("needs KEY=… (gpg --list-secret-keys) and URL=https://… (where the folder will be served)")
    apt_repository.publish(_built(arguments.debs), arguments.out.resolve(), arguments.key, arguments.url)
    print(arguments.out)
    return 0


def bundle(arguments: argparse.Namespace) -> int:
    """Write the offline bundles, and print their files."""
    with tempfile.TemporaryDirectory(prefix="packages-") as work:
        commit = source.checkout(Path(work))
        mirror = None if arguments.ours_only else arguments.mirror
        for architecture in ARCHITECTURES:
            if arguments.arch in (None, architecture.debian):
                debs = [path for path in _built(arguments.debs) if path.name.startswith(f"{OFFLINE}_")]
                out = arguments.out.resolve()
                print(offline.bundle(OFFLINE, architecture, debs, commit, Path(work), out, mirror), flush=True)
    return 0


def _built(folder: Path) -> list[Path]:
    debs = sorted(folder.glob("*.deb"))
    if not debs:
        raise BuildError(f"{folder}: has no .deb; build them first: make packages")
    return debs


@contextmanager
def _workshop(arguments: argparse.Namespace) -> Iterator[stage.Workshop]:
    with tempfile.TemporaryDirectory(prefix="packages-") as name:
        work = Path(name)
        commit = source.checkout(work)
        wheel = source.own_wheel(commit, work / "wheel")
        yield stage.Workshop(commit, wheel, work, CACHE, arguments.out.resolve(), arguments.revision)


if __name__ == "__main__":
    sys.exit(main())
