"""The Containerfile as it is written, and what the image says of itself. Its steps run in `make container`."""

from __future__ import annotations

import re

from tests.support.containerfile import Instruction, Stage, parse
from tests.support.reference import ROOT

STAGES = parse((ROOT / "Containerfile").read_text())
IMAGE = STAGES[-1]


def runs(stage: Stage) -> list[str]:
    return [each.text for each in stage.instructions if each.name == "RUN"]


def copies(stage: Stage) -> list[Instruction]:
    return [each for each in stage.instructions if each.name == "COPY"]


def test_containerfile_is_of_debian_alone() -> None:
    assert {stage.base for stage in STAGES} == {"docker.io/library/debian:trixie-slim"}


def test_containerfile_installs_by_hash_and_builds_nothing() -> None:
    installs = [line for line in runs(STAGES[0]) if "pip install" in line]
    assert all("--no-index --no-deps" in line or "--require-hashes --only-binary :all:" in line for line in installs)
    assert "pip uninstall" in runs(STAGES[0])[-1]


def test_containerfile_leaves_no_builder_in_the_image() -> None:
    (packages,) = [line for line in runs(IMAGE) if "apt-get install" in line]
    named = packages.split("--no-install-recommends ")[1].split(" &&")[0].split()
    assert named == ["python3", "ca-certificates"]
    assert [each.flags for each in copies(IMAGE)] == [{"from": "build"}]


def test_containerfile_copies_only_what_the_build_is_sent() -> None:
    ignored = (ROOT / ".containerignore").read_text().splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    assert {name for each in copies(STAGES[0]) for name in each.arguments[:-1]} == sent


def test_containerfile_runs_as_nobody_else_and_stops_in_order() -> None:
    user = IMAGE.last("USER").text
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert any(f"--uid {user.partition(':')[0]} " in line for line in runs(IMAGE))
    assert (IMAGE.last("STOPSIGNAL").text, IMAGE.last("ENTRYPOINT").arguments) == ("SIGTERM", ["iot-bridge"])
    assert (IMAGE.last("CMD").arguments, IMAGE.environment["PYTHONDONTWRITEBYTECODE"]) == (["serve"], "1")
    assert IMAGE.last("HEALTHCHECK").arguments[0] == "python3"
