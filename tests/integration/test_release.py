"""A release: the same bytes each time, the wheel and what it brings along."""

from __future__ import annotations

import json
import os
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EPOCH = 1_767_225_600
"""The first second of 2026."""


def release(out: Path, umask: int, **environment: str) -> dict[str, bytes]:
    """The files of a release, made under other circumstances than the last."""
    subprocess.run(
        [ROOT / "scripts" / "release", str(out)],
        env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), **environment},
        umask=umask,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    release(folder, 0o022, TZ="UTC", PYTHONHASHSEED="1")
    return folder


def document(folder: Path, kind: str) -> Any:
    return json.loads((folder / f"iot-edge-bridge-{kind}.cdx.json").read_text())


def test_twice_the_same_bytes(made: Path, tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in made.iterdir()}
    again = release(tmp_path / "again", 0o077, TZ="Asia/Tokyo", PYTHONHASHSEED="2", LC_ALL="C")
    assert sorted(first) == sorted(again)
    assert [name for name in first if first[name] != again[name]] == []


def test_the_wheel_is_of_the_time_it_is_told(made: Path) -> None:
    (wheel,) = made.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(2026, 1, 1, 0, 0, 0)}
        names = archive.namelist()
    assert {"bridge/store/sql/schema.sql", "edge/host/installed/edge.toml"} <= {*names}
    assert not [name for name in names if name.startswith(("tests/", "bench/", "config/"))]


@pytest.mark.parametrize("kind", ["service", "edge"])
def test_what_it_brings_along_is_what_is_installed(made: Path, kind: str) -> None:
    found = document(made, kind)
    assert (found["bomFormat"], found["metadata"]["component"]["name"]) == ("CycloneDX", "iot-edge-bridge")
    assert "serialNumber" not in found  # random
    assert found["metadata"]["timestamp"].startswith("2026-01-01T00:00:00")
    requirements = (ROOT / "requirements" / f"{kind}.txt").read_text()
    components = {
        f"{one['name']}=={one['version']}": {
            entry["content"] for reference in one["externalReferences"] for entry in reference["hashes"]
        }
        for one in found["components"]
    }
    assert sorted(components) == sorted(re.findall(r"^\S+==\S+", requirements, re.MULTILINE))
    assert {digest for part in components.values() for digest in part} == {*re.findall(r"sha256:(\w+)", requirements)}
