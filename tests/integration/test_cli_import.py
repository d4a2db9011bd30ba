"""`iot-bridge import` into a real database: what is stored, what is quarantined, and what a SIGKILL costs."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.commands import Commands

DAY_S = 86_400


class Import:
    """A device with two sensors, and a file for it."""

    def __init__(self, commands: Commands, folder: Path, url: str) -> None:
        commands.set(database__url=url)
        made = commands.json("device", "add", "shed", "--sensor", "air:temperature", "--sensor", "soil:humidity")
        self.device: str = made["device_uuid"]
        self.sensors: list[str] = [sensor["sensor_uuid"] for sensor in made["sensors"]]
        self.file = folder / "history.csv"
        self.bookmark = folder / "history.csv.bookmark"
        self._commands = commands
        self._url = url

    @property
    def arguments(self) -> list[str]:
        air, soil = self.sensors
        mapped = ["--map", f"air={air}", "--map", f"soil={soil}"]
        return ["import", str(self.file), "--device", self.device, *mapped, "--time", "at"]

    def run(self, *more: str, expect: int = 0) -> Any:
        return self._commands.json(*self.arguments, *more, expect=expect)

    def problems(self, *arguments: str) -> list[str]:
        return self._commands.problems("import", str(self.file), "--device", self.device, *arguments)

    def rows(self) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url) as connection:
            return connection.execute(
                """SELECT s.name, r.value, to_us(r."timestamp") / 1000000, r.sequence
                   FROM sensor_readings r JOIN sensors s ON s.id = r.sensor_id ORDER BY 3, 1"""
            ).fetchall()

    def balanced(self) -> dict[str, int]:
        answer = self._commands.json("ledger", "--verify")
        assert answer["balanced"] is True
        total: dict[str, int] = answer["total"]
        return total


@pytest.fixture
def into(commands: Commands, postgres_url: str, tmp_path: Path) -> Import:
    return Import(commands, tmp_path, postgres_url)


def test_import_stores_once_however_often(into: Import) -> None:
    into.file.write_text("at,air,soil,n\n2020-01-01T00:00:00Z,20.5,40,1\n1577836860,21,,2\n")
    first = into.run("--sequence", "n")
    assert (first["rows"], first["inserted"], first["duplicates"], first["rejected"]) == (2, 3, 0, 0)
    assert into.rows() == [
        ("air", 20.5, 1_577_836_800, 1),
        ("soil", 40.0, 1_577_836_800, 1),
        ("air", 21.0, 1_577_836_860, 2),
    ]
    assert not into.bookmark.exists()
    again = into.run("--sequence", "n")
    assert (again["rows"], again["skipped_rows"], again["inserted"], again["duplicates"]) == (2, 0, 0, 3)
    assert into.balanced()["stored"] == 3


def test_import_quarantines_bad_cells_with_their_code(into: Import, commands: Commands) -> None:
    ahead = time.time() + DAY_S
    into.file.write_text(
        f"at,air,soil\n2020-01-01,warm,40\nyesterday,20,\n2020-01-03,9999,\n{ahead},20,\n2020-01-05,a\x00b,\n"
    )
    answer = into.run(expect=1)
    assert answer["inserted"] == 1
    assert answer["rejected_by_code"] == {"bad_value": 2, "bad_time": 1, "value_out_of_range": 1, "time_ahead": 1}
    rows = {row["code"]: row for row in commands.json("quarantine", "list")}
    assert rows["bad_time"]["device_uuid"] == into.device
    assert '"yesterday"' in commands.json("quarantine", "show", str(rows["bad_time"]["id"]))["text"]
    total = into.balanced()
    assert (total["received"], total["stored"], total["quarantined"]) == (6, 1, 5)
    assert into.run("--max-age-days", "30", expect=1)["rejected_by_code"]["time_behind"] == 1


def test_quarantined_history_can_be_replayed_whatever_its_age(
    into: Import, commands: Commands, postgres_url: str
) -> None:
    into.file.write_text("at,air,soil\n2020-01-01,600,\n")
    assert into.run(expect=1)["rejected_by_code"] == {"value_out_of_range": 1}
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE sensors SET sensor_type = 'power'")
    assert [row["outcome"] for row in commands.json("quarantine", "replay", "--code", "value_out_of_range")] == [
        "stored"
    ]
    assert [row[1] for row in into.rows()] == [600]


def test_import_says_every_mistake_of_the_plan(into: Import, commands: Commands, tmp_path: Path) -> None:
    into.file.write_text("at,air\n1,2\n")
    air, soil = into.sensors
    wrong = ["air", f"={air}", "air=x", f"air={air}", f"air={soil}", f"other={air}"]
    problems = into.problems("--time", "at", *(part for text in wrong for part in ("--map", text)))
    assert [line.split(":")[0] for line in problems] == [f"--map {text}" for text in wrong if text != f"air={air}"]
    assert f"there are {air} (air), {soil} (soil)" in problems[2]
    mapped = ["--map", f"air={air}", "--time", "at"]
    assert "--delimiter" in into.problems(*mapped, "--delimiter", ";;")[0]
    assert "Europe/Vienna" in into.problems(*mapped, "--time-zone", "Mars/Base")[0]
    assert "no column 'n'; there are 'at', 'air'" in into.problems(*mapped, "--sequence", "n")[0]
    unwritable = into.problems(*mapped, "--bookmark", str(tmp_path / "none" / "b"))
    assert unwritable[0].endswith("name another place with --bookmark FILE")
    assert into.rows() == []
    assert commands.json("import", str(tmp_path / "none"), "--device", "1", *mapped, expect=2)["error"]
    assert commands.problems("import", str(into.file), "--device", "99", *mapped, expect=4)


def test_import_shows_progress_on_a_terminal_alone(into: Import, commands: Commands) -> None:
    into.file.write_text("at,air,soil\n1577836800,20,\n")
    ran = commands.run(*into.arguments)
    assert ran.err == ""
    assert "inserted: 1" in ran.out
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        command = [sys.executable, "-m", "bridge", *into.arguments, "--json"]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}, check=True
        )
        os.close(theirs)
        shown = terminal.read(65_536).decode()
    assert "importing" in shown
    assert done.stdout.count(b"\n") == 1


def test_import_takes_a_sensor_of_the_device_alone(into: Import, commands: Commands) -> None:
    other = commands.json("device", "add", "other", "--sensor", "x:ph")["sensors"][0]["sensor_uuid"]
    into.file.write_text("at,air\n1,2\n")
    assert "no such sensor of this device" in into.problems("--map", f"air={other}", "--time", "at")[0]


def test_import_goes_on_after_sigkill(into: Import, postgres_url: str) -> None:
    rows = 40_000
    into.file.write_text("at,air,soil\n" + "".join(f"{1_577_836_800 + i},{i % 50},\n" for i in range(rows)))
    process = subprocess.Popen(
        [sys.executable, "-m", "bridge", *into.arguments, "--json"],
        env={**os.environ, "IOT_BRIDGE_DATABASE__URL": postgres_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        deadline_s = time.monotonic() + 30
        while not (into.bookmark.exists() and b'"rows":0,' not in into.bookmark.read_bytes()):
            assert process.poll() is None
            assert time.monotonic() < deadline_s
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    answer = into.run()
    assert 0 < answer["skipped_rows"] < rows
    assert answer["rows"] == rows
    assert answer["skipped_rows"] + answer["inserted"] + answer["duplicates"] == rows
    assert [row[2] for row in into.rows()] == list(range(1_577_836_800, 1_577_836_800 + rows))


def test_import_memory_stays_flat(into: Import, postgres_url: str) -> None:
    into.file.write_text("at,air,soil\n" + "".join(f"{1_577_836_800 + i},{i % 50},\n" for i in range(100_000)))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *into.arguments, "--json"],
        env={**os.environ, "IOT_BRIDGE_DATABASE__URL": postgres_url},
        capture_output=True,
        text=True,
        check=True,
    )
    before_kib, after_kib = map(int, done.stderr.split()[-2:])
    assert after_kib - before_kib < 60 * 1024, done.stderr
    assert into.balanced()["stored"] == 100_000


PEAK = """
import resource, sys
# What is loaded once is not what grows.
import bridge.service.core, bridge.cli, bridge.maintenance.csv_import, rich.progress

def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak_kib()
try:
    bridge.cli.main()
finally:
    print(before, peak_kib(), file=sys.stderr)
"""
