"""The files that pip installs from, as they stand. scripts/pins holds them against the registry."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(name): version
    for name, _, version in (line.partition("==") for line in (ROOT / "constraints.txt").read_text().split())
}


def _wanted(extra: str) -> set[str]:
    """The packages that pyproject.toml names for an extra, and for those that it contains."""
    named = [Requirement(line) for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]]
    inner = {one for requirement in named if requirement.name == PROJECT["name"] for one in requirement.extras}
    own = {canonicalize_name(one.name) for one in named if one.name != PROJECT["name"]}
    return own.union(*(_wanted(one) for one in inner))


def test_there_is_one_for_every_extra() -> None:
    assert {path.stem for path in FILES} == {*PROJECT["optional-dependencies"], "build"} - {"dev"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_line_is_a_pin_with_hashes(path: Path) -> None:
    text = path.read_text()
    blocks = re.split(r"\n(?=\S)", text.rstrip())[1:]
    assert blocks
    for block in blocks:
        first, *hashes = [line.rstrip(" \\") for line in block.splitlines()]
        requirement = Requirement(first)
        assert str(requirement.specifier) == f"=={PINS[canonicalize_name(requirement.name)]}"
        assert hashes
        for line in hashes:
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", line), first
    assert "://" not in text  # whose registry it is, is each machine's own affair


@pytest.mark.parametrize("extra", sorted({path.stem for path in FILES} - {"build"}))
def test_it_holds_what_the_extra_names(extra: str) -> None:
    there = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", _text(extra), re.MULTILINE)}
    assert _wanted(extra) <= there


def test_a_gateway_gets_nothing_of_the_service() -> None:
    there = {*re.findall(r"^([\w.-]+)==", _text("edge"), re.MULTILINE)}
    assert there.isdisjoint({"psycopg", "redis", "sqlalchemy", "pytest", "amqtt"})


def _text(extra: str) -> str:
    return (ROOT / "requirements" / f"{extra}.txt").read_text()
