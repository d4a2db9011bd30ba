"""The MQTT client id is made once and kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge.host import client_id

ONE, OTHER = "1" * 32, "2" * 32


@pytest.fixture
def machine_id(tmp_path: Path) -> Path:
    path = tmp_path / "machine-id"
    path.write_text(f"{ONE}\n")
    return path


def kept(folder: Path, machine_id: Path, name: str = "", *, spool: bool = False) -> str:
    data = folder / "data"
    data.mkdir(exist_ok=True)
    if spool:
        (data / "spool.db").touch()
    return client_id.keep(data, name, data / "spool.db", machine_id=machine_id)


def test_new_gateway_gets_an_id_that_enrolment_does_not_change(tmp_path: Path, machine_id: Path) -> None:
    first = kept(tmp_path, machine_id)
    assert first.startswith("iot-edge-")
    assert ONE[:6] not in first
    assert len(first) <= 23, "MQTT 3.1.1, section 3.1.3.1: every broker takes as many"
    assert kept(tmp_path, machine_id, "north", spool=True) == first
    assert kept(tmp_path, machine_id, "south", spool=True) == first
    assert (tmp_path / "data" / client_id.FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("name", "expected"), [("north", "iot-edge-north"), ("", "iot-edge-gateway")])
def test_gateway_that_ran_before_keeps_the_id_that_it_had(
    tmp_path: Path, machine_id: Path, name: str, expected: str
) -> None:
    assert kept(tmp_path, machine_id, name, spool=True) == expected
    assert kept(tmp_path, machine_id, "another", spool=True) == expected


def test_gateway_that_was_enrolled_while_it_ran_keeps_the_session_that_it_had(tmp_path: Path, machine_id: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number, name in enumerate(("running.json", "enrolment.json")):
        (data / name).touch()
        os.utime(data / name, (number, number))
    assert kept(tmp_path, machine_id, "north", spool=True) == "iot-edge-gateway"
    (data / client_id.FILE).unlink()
    (data / "enrolment.json.previous").touch()  # its key was rotated since: it was enrolled when it started
    assert kept(tmp_path, machine_id, "north", spool=True) == "iot-edge-north"


def test_copy_of_a_card_in_another_machine_gets_another_id(tmp_path: Path, machine_id: Path) -> None:
    first = kept(tmp_path, machine_id, "north", spool=True)
    machine_id.write_text(f"{OTHER}\n")
    second = kept(tmp_path, machine_id, "north", spool=True)
    assert second != first
    assert kept(tmp_path, machine_id, "north", spool=True) == second
    machine_id.write_text(f"{'3' * 32}\n")
    assert kept(tmp_path, machine_id, "north", spool=True) not in (first, second)


@pytest.mark.parametrize("text", ["", "uninitialized\n"])
def test_machine_without_an_id_yet_keeps_what_is_made(tmp_path: Path, machine_id: Path, text: str) -> None:
    machine_id.write_text(text)
    first = kept(tmp_path, machine_id)
    assert kept(tmp_path, machine_id) == first
    machine_id.write_text(f"{ONE}\n")
    assert kept(tmp_path, machine_id) == first
    machine_id.write_text(f"{OTHER}\n")
    assert kept(tmp_path, machine_id) != first


def test_id_that_cannot_be_kept_is_the_same_at_the_next_start(tmp_path: Path, machine_id: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    data = tmp_path / "data"
    made = {client_id.keep(data, "", data / "spool.db", machine_id=machine_id) for _ in range(2)}
    assert len(made) == 1


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"no second line\n", b"a\nb\nc\n"])
def test_file_that_is_none_is_made_anew(tmp_path: Path, machine_id: Path, content: bytes) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / client_id.FILE).write_bytes(content)
    assert kept(tmp_path, machine_id, "north", spool=True) == "iot-edge-north"
