"""An engineer's files beside ours, against what is said of them; and what the real Mosquitto makes of them."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from edge.host.broker_conflicts import fatal, find_conflicts
from edge.host.broker_files import CONF
from edge.host.install import template
from tests.support.debian_broker import MAIN, debian_broker, debian_mosquitto
from tests.support.servers import free_port, listens, wait_until

OURS = template("mosquitto-keys.conf")
STOPS = [
    ("local.conf", "password_file /etc/mosquitto/passwords\n", "password_file may stand once"),
    ("a.conf", "acl_file /etc/mosquitto/acl\n", "acl_file may stand once"),
    ("local.conf", "# the workshop's\nlistener  1883\nallow_anonymous true\n", "local.conf:2: listener 1883"),
    ("local.conf", "port 1883\n", "it makes one on port 1883"),
    ("local.conf", "max_connections 20\n", "it makes one on port 1883"),
    ("z.conf", "per_listener_settings true\n", "keeps nothing for a client that is away"),
]
"""With each of these Mosquitto does not start."""
GOES = [
    ("local.conf", "listener 1885\nmax_connections 20\n", []),
    ("local.conf", "max_packet_size 1000\nlog_type all\n", []),
    ("a.conf", "allow_anonymous true\n", []),  # ours is read after it
    ("z.conf", "allow_anonymous true\n", ["lets anybody connect, and publish as any device, whatever"]),
    ("z.conf", "max_queued_messages 0\n", ["hang up on a client whose publication it denies"]),
    ("z.conf", "persistence false\n", ["keeps nothing over a restart"]),
]
"""With each of these it does; and what is told all the same."""


def place(root: Path, name: str, text: str) -> None:
    (root / CONF.parent).mkdir(parents=True)
    (root / MAIN).write_text(debian_mosquitto().main)
    (root / CONF.parent / name).write_text(text)


def ends_by_itself(root: Path) -> bool:
    """Whether Mosquitto does not start, with our ports moved, theirs likewise."""
    ports = {"1883": free_port(), "1884": free_port(), "1885": free_port()}
    own = root / CONF
    own.write_text(OURS)
    for name in ("iot-edge.passwd", "iot-edge.acl", "passwords", "acl"):
        (root / "etc/mosquitto" / name).write_text("")
    for path in own.parent.iterdir():
        text = path.read_text().replace("  ", " ")
        for port, here in ports.items():
            text = text.replace(f"listener {port}", f"listener {here}").replace(f"port {port}", f"port {here}")
        path.write_text(text)
    process = subprocess.Popen([*debian_mosquitto().command, "-c", str(debian_broker(root))], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: process.poll() is not None or listens(ports["1884"]), 20)
        if process.poll() is None:  # it opens its listeners one after the other
            wait_until(lambda: process.poll() is not None or listens(ports["1883"]), 20)
            with suppress(subprocess.TimeoutExpired):
                process.wait(2)  # the last of them may be the one that it cannot have
        return process.poll() is not None
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize(("name", "text", "said"), STOPS)
def test_file_that_stops_mosquitto_is_told_with_its_place(tmp_path: Path, name: str, text: str, said: str) -> None:
    place(tmp_path, name, text)
    (problem,) = fatal(find_conflicts(tmp_path, CONF, OURS))
    assert problem.startswith(f"/etc/mosquitto/conf.d/{name}:")
    assert said in problem


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, text, _ in STOPS if "max_conn" not in text])
def test_file_that_is_told_to_stop_mosquitto_does(tmp_path: Path, name: str, text: str) -> None:
    place(tmp_path, name, text)
    assert ends_by_itself(tmp_path)


@pytest.mark.parametrize(("name", "text", "said"), GOES)
def test_file_that_mosquitto_goes_on_with_is_no_obstacle(tmp_path: Path, name: str, text: str, said: list[str]) -> None:
    place(tmp_path, name, text)
    found = find_conflicts(tmp_path, CONF, OURS)
    assert not fatal(found)
    assert len(found) == len(said)
    assert all(part in conflict.detail for part, conflict in zip(said, found, strict=True))
    assert not ends_by_itself(tmp_path)


def test_main_file_that_includes_nothing_is_told(tmp_path: Path) -> None:
    place(tmp_path, "local.conf", "")
    (tmp_path / MAIN).write_text("listener 1885\n")
    assert fatal(find_conflicts(tmp_path, CONF, OURS)) == [
        "/etc/mosquitto/mosquitto.conf has no include_dir /etc/mosquitto/conf.d: /etc/mosquitto/conf.d/iot-edge.conf "
        "is not read"
    ]


def test_option_of_a_listener_in_the_main_file_counts_too(tmp_path: Path) -> None:
    place(tmp_path, "local.conf", "")
    (tmp_path / MAIN).write_text(f"listener 1883\n{debian_mosquitto().main}")
    (problem,) = fatal(find_conflicts(tmp_path, CONF, OURS))
    assert problem.startswith("/etc/mosquitto/mosquitto.conf:1: listener 1883")


def test_machine_without_mosquitto_has_no_conflicts(tmp_path: Path) -> None:
    assert find_conflicts(tmp_path, CONF, OURS) == []


def test_debians_own_files_are_no_conflict_for_ours(tmp_path: Path) -> None:
    place(tmp_path, "local.conf", "")
    for name in ("mosquitto-keys.conf", "mosquitto.conf"):
        assert find_conflicts(tmp_path, CONF, template(name)) == []


def test_odd_files_are_read_without_waiting_and_line_by_line_as_mosquitto_does(tmp_path: Path) -> None:
    place(tmp_path, "a.conf", "# what stands here\u2028listener 1883\n# and\x0blistener 1883\r\n")
    os.mkfifo(tmp_path / CONF.parent / "pipe.conf")
    assert find_conflicts(tmp_path, CONF, OURS) == []
    (tmp_path / CONF.parent / "x.conf").mkdir()
    with pytest.raises(IsADirectoryError, match=r"x\.conf"):
        find_conflicts(tmp_path, CONF, OURS)
