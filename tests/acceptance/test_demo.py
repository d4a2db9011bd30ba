"""`demo` and `simulate`, as users run them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg

from bridge.embedded.stack import running_urls
from tests.acceptance.service import Service
from tests.support.process import running_in

COMMAND = [sys.executable, "-m", "bridge"]


def test_demo_balances_and_leaves_nothing_running(short_dir: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "demo", "--seconds", "4", "--data-dir", str(short_dir / "demo"), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["balanced"] is True
    assert answer["stored"] > 100
    assert {door["door"]: door["acknowledged"] > 50 for door in answer["doors"]} == {"http": True, "mqtt": True}
    assert not running_in(short_dir)


def test_demo_fails_when_the_ledger_does_not_balance(short_dir: Path) -> None:
    folder = short_dir / "demo"
    command = [*COMMAND, "demo", "--seconds", "4", "--data-dir", str(folder), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deleted = 0
        deadline_s = time.monotonic() + 60
        while not deleted:
            assert time.monotonic() < deadline_s
            assert process.poll() is None
            url = running_urls(folder).get("http") and running_urls(folder).get("database")
            if url:
                with psycopg.connect(url, autocommit=True) as connection:
                    deleted = connection.execute(
                        "DELETE FROM sensor_readings WHERE id = (SELECT min(id) FROM sensor_readings)"
                    ).rowcount
            time.sleep(0.05)
        answer = json.loads(process.communicate(timeout=60)[0])
    assert process.returncode == 1
    assert answer["balanced"] is False
    assert "the ledger has" in answer["problems"][0]


def test_demo_stops_cleanly_on_ctrl_c(short_dir: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "demo", "--data-dir", str(short_dir / "demo")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines: list[str] = []
    while "stored" not in (line := process.stdout.readline()):
        assert line, lines
        lines.append(line)
    process.send_signal(signal.SIGINT)
    started_s = time.monotonic()
    rest, _ = process.communicate(timeout=20)
    assert process.returncode == 0, rest
    assert time.monotonic() - started_s < 5
    assert "the ledger balances" in rest
    assert not running_in(short_dir)


def test_simulate_sends_what_the_service_stores(service: Service, mosquitto: object) -> None:
    broker = service.environment["IOT_BRIDGE_MQTT__URL"]
    arguments = ("simulate", "--devices", "4", "--rate", "100", "--seconds", "2", "--http", service.http)
    first = service.command(*arguments, "--mqtt", broker)
    assert first["unacknowledged"] == 0
    assert first["acknowledged"] > 100
    again = service.command(*arguments)
    assert again["inserted"] == again["acknowledged"]
    assert len(service.command("device", "list")) == 4


def test_simulate_says_what_is_missing(service: Service, tmp_path: Path) -> None:
    (tmp_path / "devices").write_text("{}\n")
    for arguments in (
        ["--http", "ftp://x"],
        ["--registered", str(tmp_path / "devices"), "--http", service.http],
        ["--registered", str(tmp_path / "none"), "--http", service.http],
    ):
        done = subprocess.run(
            [*COMMAND, "simulate", *arguments], env=service.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: ")
