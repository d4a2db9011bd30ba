"""CSV files as bodies of packets: cells, times, mistakes of the plan and of the file, and how far it has come."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge.errors import ConfigError
from bridge.maintenance.csv_import import CHUNK_READINGS, Bookmark, Chunk, ImportPlan, Totals, chunks, import_rows
from bridge.model.reading import Delivery, Outcome, Receipt
from bridge.pipeline.decode import decode_packet

DEVICE = "5f0c1f5e-0000-4000-8000-00000000000d"
AIR = "5f0c1f5e-0000-4000-8000-000000000001"
SOIL = "5f0c1f5e-0000-4000-8000-000000000002"


def plan_of(path: Path, content: str | bytes, **settings: Any) -> ImportPlan:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    plan = ImportPlan(str(path), DEVICE, 1, {"air": AIR, "soil": SOIL}, "at")
    return msgspec.structs.replace(plan, **settings)


def readings_of(plan: ImportPlan, skip_rows: int = 0) -> list[dict[str, Any]]:
    return [reading for chunk in chunks(plan, skip_rows) for reading in msgspec.json.decode(chunk.body)["readings"]]


class FakePipeline:
    """Settles every delivery at once: drafts as stored, refusals as quarantined."""

    def __init__(self, on_offer: Callable[[], object] = lambda: None) -> None:
        self.values: list[float] = []
        self._on_offer = on_offer

    def submit(self, delivery: Delivery) -> None:
        self._on_offer()
        packet = delivery.packet
        self.values += [draft.value for draft in packet.readings]
        delivery.settle(
            [
                *(Receipt(draft.index, Outcome.STORED) for draft in packet.readings),
                *(Receipt(refusal.index, Outcome.QUARANTINED, refusal.code) for refusal in packet.rejections),
            ]
        )


async def run(plan: ImportPlan, pipeline: FakePipeline, bookmark: Path | None = None) -> Totals:
    mark = Bookmark(bookmark or Path(plan.path + ".bookmark"), plan)
    return await import_rows(plan, mark, pipeline, lambda: 1_800_000_000_000_000, lambda _: None)


# -- cells


def test_rows_become_readings_of_their_sensors(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "f", "at,air,soil,other\n2026-05-01T10:00:00Z,20.5,,x\n1769594400.1, 21 ,-3e1,y\n")
    assert readings_of(plan) == [
        {"sensor_uuid": AIR, "value": 20.5, "sensor_ts": "2026-05-01T10:00:00Z"},
        {"sensor_uuid": AIR, "value": 21, "sensor_ts": 1769594400.1},
        {"sensor_uuid": SOIL, "value": -30.0, "sensor_ts": 1769594400.1},
    ]


def test_byte_order_mark_delimiter_quotes_and_windows_lines(tmp_path: Path) -> None:
    content = '\ufeff"at"; air ;soil\r\n"2026-05-01 10:00";1;"2"\r\n\r\n2026-05-01 11:00;3;\r\n'
    plan = plan_of(tmp_path / "f", content, delimiter=";")
    assert [(r["sensor_uuid"], r["value"]) for r in readings_of(plan)] == [(AIR, 1), (SOIL, 2), (AIR, 3)]


@pytest.mark.parametrize("text", ["0", "7", "9007199254740993", "1000000000000000000"])
def test_sequence_stays_exact(tmp_path: Path, text: str) -> None:
    plan = plan_of(tmp_path / "f", f"at,air,soil,n\n1,1,,{text}\n", sequence_column="n")
    (chunk,) = chunks(plan)
    (draft,) = decode_packet(chunk.body, max_readings=10).readings
    assert draft.sequence == int(text)


def test_sequence_of_a_spreadsheet_and_none(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "f", "at,air,soil,n\n1,1,,7.0\n2,2,,\n", sequence_column="n")
    assert [reading.get("sequence") for reading in readings_of(plan)] == [7, None]


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        ("1,warm", "bad_value"),
        ("1,nan", "bad_value"),
        ("1,1e999", "bad_value"),
        ("1,0x10", "bad_value"),
        ('1,"21,5"', "bad_value"),
        ("1,21,5,6", "bad_value"),  # a decimal comma: no cell is what its column says
        (",1", "bad_time"),
        ("yesterday,1", "bad_time"),
    ],
)
def test_bad_cells_are_refused_with_their_code(tmp_path: Path, cells: str, code: str) -> None:
    (chunk,) = chunks(plan_of(tmp_path / "f", f"at,air,soil\n{cells}\n"))
    packet = decode_packet(chunk.body, max_readings=10)
    assert not packet.readings
    assert {refusal.code.value for refusal in packet.rejections} == {code}


@pytest.mark.parametrize(
    ("settings", "text", "utc"),
    [
        ({}, "2026-07-01 12:00", "2026-07-01T12:00:00+00:00"),
        ({}, "2026-07-01T12:00:00+02:00", "2026-07-01T10:00:00+00:00"),
        ({"time_zone": "Europe/Vienna"}, "2026-07-01 12:00", "2026-07-01T10:00:00+00:00"),
        ({"time_zone": "Europe/Vienna"}, "2026-01-01 12:00", "2026-01-01T11:00:00+00:00"),
        ({"time_zone": "Europe/Vienna"}, "2026-07-01T12:00:00Z", "2026-07-01T12:00:00+00:00"),
        ({"time_zone": "Europe/Vienna"}, "1782900000", "2026-07-01T10:00:00+00:00"),
        ({"time_format": "%d.%m.%Y %H:%M"}, "01.07.2026 12:00", "2026-07-01T12:00:00+00:00"),
        ({"time_format": "%Y%m%d%H%M", "time_zone": "Asia/Kolkata"}, "202607011200", "2026-07-01T06:30:00+00:00"),
        ({"time_format": "%d.%m.%Y %H:%M"}, "2026-07-01 12:00", None),
        ({"time_format": "%d.%m.%Y %H:%M"}, "1782900000", None),
        ({"time_zone": "Europe/Vienna"}, "noon", None),
    ],
)
def test_times_and_their_zones(tmp_path: Path, settings: dict[str, str], text: str, utc: str | None) -> None:
    from datetime import datetime

    (chunk,) = chunks(plan_of(tmp_path / "f", f"at,air,soil\n{text},1,\n", **settings))
    packet = decode_packet(chunk.body, max_readings=10)
    wanted = None if utc is None else round(datetime.fromisoformat(utc).timestamp() * 1e6)
    assert [draft.ts_us for draft in packet.readings] == ([] if wanted is None else [wanted])
    assert [refusal.code.value for refusal in packet.rejections] == (["bad_time"] if utc is None else [])


# -- mistakes of the plan and of the file


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("when,air,soil\n1,2,3\n", "no column 'at'; there are 'when', 'air', 'soil'"),
        ("", "no column 'at'; there are none"),
        ("at;air;soil\n1;2;3\n", "there are 'at;air;soil'"),
        ("at,air,soil,air\n1,2,3,4\n", "the column 'air' is there twice"),
        (b"at,air,soil\n1,2,\xff\n", "after row 0: not CSV in UTF-8"),
        ('at,air,soil\n1,2,3\n2,"3,4\n', "after row 1: not CSV in UTF-8: unexpected end of data"),
        ("at,air,soil\n" + "1" * 2_000_000, "a line of more than 1048576 bytes"),
        ("at,air,soil\n1,2,3\n".encode("utf-16"), "not CSV in UTF-8"),
    ],
)
def test_what_is_no_such_file_is_said(tmp_path: Path, content: str | bytes, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        list(chunks(plan_of(tmp_path / "f", content)))
    assert words in caught.value.detail


async def test_bookmark_that_cannot_be_written_is_said_before_anything_is_stored(tmp_path: Path) -> None:
    pipeline = FakePipeline()
    with pytest.raises(ConfigError, match="--bookmark FILE"):
        await run(plan_of(tmp_path / "f", "at,air,soil\n1,2,3\n"), pipeline, tmp_path / "none" / "bookmark")
    assert pipeline.values == []


@pytest.mark.parametrize("change", ["grows", "replaced", "gone"])
async def test_file_that_changes_meanwhile_is_said(tmp_path: Path, change: str) -> None:
    path = tmp_path / "f"
    plan = plan_of(path, "at,air,soil\n" + "1,2,3\n" * CHUNK_READINGS * 3)

    def do() -> None:
        match change:
            case "grows":
                with path.open("a") as file:
                    file.write("2,3,4\n")
            case "replaced":
                (tmp_path / "new").write_bytes(path.read_bytes())
                os.replace(tmp_path / "new", path)
            case "gone":
                path.unlink(missing_ok=True)

    with pytest.raises(ConfigError, match="No such file" if change == "gone" else "has changed while it was read"):
        await run(plan, FakePipeline(do))


# -- how far it has come


class Crash(Exception):
    """Stands for a process that dies."""


async def test_goes_on_after_the_rows_that_are_done(tmp_path: Path) -> None:
    rows = CHUNK_READINGS * 8
    plan = plan_of(tmp_path / "f", "at,air,soil\n" + "".join(f"{i},{i},\n" for i in range(rows)))
    offered = 0

    def crash_late() -> None:
        nonlocal offered
        offered += 1
        if offered == 7:
            raise Crash

    first = FakePipeline(crash_late)
    with pytest.raises(Crash):
        await run(plan, first)
    assert first.values == list(range(6 * CHUNK_READINGS))
    second = FakePipeline()
    totals = await run(plan, second)
    assert totals.skipped_rows == 3 * CHUNK_READINGS  # what was in flight is sent again
    assert second.values == list(range(totals.skipped_rows, rows))
    assert totals.rows == rows
    assert not Path(plan.path + ".bookmark").exists()


@pytest.mark.parametrize("kept", ['{"rows": 5}', "not JSON", '{"rows": "x", "of": 1}', "[]", ""])
async def test_bookmark_of_something_else_starts_over(tmp_path: Path, kept: str) -> None:
    plan = plan_of(tmp_path / "f", "at,air,soil\n1,2,\n")
    Path(plan.path + ".bookmark").write_text(kept)
    assert (await run(plan, FakePipeline())).skipped_rows == 0


def test_bookmark_is_of_one_plan_and_one_state_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    plan = plan_of(path, "at,air,soil\n1,2,\n")
    mark = tmp_path / "bookmark"
    Bookmark(mark, plan).keep(1)
    assert Bookmark(mark, plan).rows() == 1
    assert Bookmark(mark, msgspec.structs.replace(plan, time_zone="Europe/Vienna")).rows() == 0
    path.write_text("at,air,soil\n1,3,\n")  # of the same length
    assert Bookmark(mark, plan).rows() == 0


async def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    rows = 100_000
    plan = plan_of(tmp_path / "f", "at,air,soil\n" + "".join(f"{i},1.5,\n" for i in range(rows)))
    pipeline = FakePipeline(lambda: pipeline.values.clear())
    tracemalloc.start()
    try:
        totals = await run(plan, pipeline)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert totals.inserted == rows
    assert peak < 8 << 20


def test_chunks_say_where_they_are(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "f", "at,air,soil\n" + "1,2,3\n" * 1_200)
    found: list[Chunk] = list(chunks(plan))
    assert [chunk.rows for chunk in found] == [500, 1_000, 1_200]
    assert found[-1].position == (tmp_path / "f").stat().st_size
