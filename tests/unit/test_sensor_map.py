"""The mapping of external ids: every mistake together, and what is written where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge.cli.sensor_map import Wish, check_external_id, plan, read, sensor_of
from bridge.errors import ConfigError

UUID = "5f0c1f5e-0000-4000-8000-00000000000b"


def sensor(sensor_id: int, **more: Any) -> dict[str, Any]:
    empty = {"sensor_uuid": f"u{sensor_id}", "device": "d", "name": f"n{sensor_id}", "external_id": None}
    return {"sensor_id": sensor_id, "unit": "°C", "unit_in": None, **empty, **more}


def wish(place: str, sensor_id: int, external_id: str | None = None, **more: Any) -> Wish:
    return Wish(place, sensor_id, None, external_id, **more)


def test_plan_of_names_and_units() -> None:
    (row,) = plan([wish("a", 1, "value/a#b", unit_in="°F")], [sensor(1)])
    assert (row["external_id"], row["unit_in"], row["unit"]) == ("value/a#b", "°F", "°C")
    assert row["factor"] * 68 + row["offset"] == pytest.approx(20)


def test_plan_leaves_what_is_not_named_and_takes_away_what_is_empty() -> None:
    known = [sensor(1, external_id="value/a#b", unit_in="°F")]
    (row,) = plan([wish("a", 1)], known)
    assert (row["external_id"], row["unit_in"]) == ("value/a#b", "°F")
    (row,) = plan([wish("a", 1, "", unit_in="")], known)
    assert (row["external_id"], row["unit_in"], row["factor"], row["offset"]) == (None, None, 1.0, 0.0)


def test_plan_works_a_conversion_out_again_when_the_unit_changes() -> None:
    (row,) = plan([wish("a", 1, unit="K")], [sensor(1, unit_in="°F")])
    assert row["factor"] * 32 + row["offset"] == pytest.approx(273.15)


def test_plan_reports_every_mistake() -> None:
    known = [sensor(1), sensor(2, unit=None), sensor(3, external_id="value/a#x"), sensor(4)]
    wishes = [
        wish("line 2", 1, "value/a#b"),
        wish("line 3", 9, "value/a#c"),
        wish("line 4", 2, "value/a#d", unit_in="°F"),
        wish("line 5", 4, "value/a#b"),
        wish("line 6", 4, "value/a#e"),
        wish("line 7", 1, "value/a#x"),
        wish("line 8", 4, "nonsense"),
    ]
    with pytest.raises(ConfigError) as caught:
        plan(wishes, known)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "line 3",  # no such sensor
        "line 4",  # no unit to convert to
        "line 5",  # the name stands twice
        "line 6",  # the sensor stands twice
        "line 7",  # likewise
        "line 8",  # no external id
        "line 7",  # another sensor's
    ]


def test_plan_lets_names_change_hands() -> None:
    known = [sensor(1, external_id="value/a#b"), sensor(2, external_id="value/a#c")]
    rows = plan([wish("a", 1, "value/a#c"), wish("b", 2, "value/a#b")], known)
    assert [row["external_id"] for row in rows] == ["value/a#c", "value/a#b"]


def test_read_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "sensors.csv"
    file.write_text(f"\ufeffroom,external_id,sensor,unit_in\nattic,value/a#b,1,°F\n,value/a#c,,\n,value/a#d,{UUID},\n")
    wishes, unmapped = read(file)
    assert unmapped == 1
    assert wishes == [
        Wish(f"{file}, line 2", 1, None, "value/a#b", "°F"),
        Wish(f"{file}, line 4", None, UUID, "value/a#d"),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no column external_id, sensor"),
        ("external_id\nx\n", "no column sensor"),
        ("external_id,sensor\nvalue/a#b,x\nvalue/a#c,-1\n", "neither a sensor id nor a sensor UUID"),
        ('external_id,sensor\n"value/a#b,1\n', "not CSV"),
    ],
)
def test_read_of_a_file_that_is_none(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "sensors.csv"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read(file)
    assert all(reason in problem for problem in caught.value.problems)


def test_read_of_bytes(tmp_path: Path) -> None:
    file = tmp_path / "sensors.csv"
    file.write_bytes(b"external_id,sensor\n\xff,1\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        read(file)


@pytest.mark.parametrize("text", ["", "a", "a/b", "a/#c", "/b#c", "a/b#", "a b/c#d", "a/b#\0", "a/b#" + "x" * 255])
def test_external_id_that_no_converter_gives(text: str) -> None:
    with pytest.raises(ConfigError):
        check_external_id(text)


@pytest.mark.parametrize("text", ["a/b#c", "ttn/app@tenant/dev#x.y", "sparkplug/g/n/d#Folder/Tag#1", "z/ü#é (°C)"])
def test_external_id_that_one_gives(text: str) -> None:
    check_external_id(text)


def test_sensor_by_id_or_uuid() -> None:
    assert sensor_of("42") == (42, None)
    assert sensor_of(UUID.upper()) == (None, UUID)
