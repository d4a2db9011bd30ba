"""What systemd is told."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from edge.host.systemd import SystemdNotifier


@pytest.fixture
def listener(short_dir: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(short_dir / "notify"))
    made.settimeout(20)
    return made


def test_notifier_tells_the_socket_that_is_named(listener: socket.socket) -> None:
    with listener:
        SystemdNotifier({"NOTIFY_SOCKET": str(listener.getsockname())}).tell("READY=1")
        assert listener.recv(100) == b"READY=1"


async def test_notifier_feeds_the_watchdog_three_times_as_often_as_needed(listener: socket.socket) -> None:
    with listener:
        environment = {"NOTIFY_SOCKET": str(listener.getsockname()), "WATCHDOG_USEC": "30000"}
        notifier = SystemdNotifier(environment)
        assert notifier.watchdog_s == 0.03
        task = asyncio.create_task(notifier.watch())
        for _ in range(3):
            assert await asyncio.to_thread(listener.recv, 100) == b"WATCHDOG=1"
        task.cancel()


def test_notifier_without_systemd_says_nothing() -> None:
    notifier = SystemdNotifier({})
    notifier.tell("READY=1")
    assert notifier.watchdog_s == 0
    assert SystemdNotifier({"WATCHDOG_USEC": "1", "WATCHDOG_PID": str(os.getpid() + 1)}).watchdog_s == 0


def test_notifier_survives_a_socket_that_is_gone(short_dir: Path) -> None:
    SystemdNotifier({"NOTIFY_SOCKET": str(short_dir / "gone")}).tell("READY=1")
