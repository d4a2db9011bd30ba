"""`python -m packages debs`: see docs/packages.md."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from packages import definition, source, stage
from packages.definition import BuildError
from packages.targets import ARCHITECTURES, SUITES, TARGETS, Target

CACHE = source.ROOT / "build/packages/wheels"


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
    debs.add_argument("--out", type=Path, default=source.ROOT / "dist")
    debs.add_argument(
        "--maintainer", help="NAME <ADDRESS> of who hands them out; default: $MAINTAINER, else who made the commit"
    )
    debs.set_defaults(command=build_debs)
    return parser


def _targets(arguments: argparse.Namespace) -> list[Target]:
    return [
        target
        for target in TARGETS
        if arguments.suite in (None, target.suite.codename) and arguments.arch in (None, target.architecture.debian)
    ]


def build_debs(arguments: argparse.Namespace) -> int:
    """Build packages, and print their files."""
    work = Path(tempfile.mkdtemp(prefix="packages-"))
    try:
        commit = source.checkout(work, arguments.maintainer)
        wheel = source.own_wheel(commit, work / "wheel")
        workshop = stage.Workshop(commit, wheel, work, CACHE, arguments.out.resolve(), arguments.revision)
        for name in arguments.names or definition.names(commit.tree):
            wanted = definition.load(commit.tree, name)
            for target in _targets(arguments):
                print(stage.build(wanted, target, workshop), flush=True)
    finally:
        shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
