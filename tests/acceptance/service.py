"""A real `iot-bridge serve` process, started, killed and asked as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from tests.support.process import OwnProcess
from tests.support.redis_process import free_port

READY_S = 40.0


class Service(OwnProcess):
    """One service over given servers; `start` after `kill` comes back on the same port."""

    _end_s = 20.0

    def __init__(self, folder: Path, database: str, redis: str, mqtt: str = "", **settings: str) -> None:
        self.port = free_port()
        self.http = f"http://127.0.0.1:{self.port}"
        self.database = database
        self.redis = redis
        self._folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("IOT_BRIDGE_")},
            "IOT_BRIDGE_DATABASE__URL": database,
            "IOT_BRIDGE_REDIS__URL": redis,
            "IOT_BRIDGE_MQTT__URL": mqtt,
            "IOT_BRIDGE_MQTT__RECONNECT_MAX_S": "1",
            "IOT_BRIDGE_HTTP__PORT": str(self.port),
            "IOT_BRIDGE_LOG__FORMAT": "json",
            **{f"IOT_BRIDGE_{name.upper()}": value for name, value in settings.items()},
        }

    @property
    def log(self) -> str:
        return (self._folder / "service.log").read_text()

    def start(self) -> None:
        """Returns once it has printed that it is ready."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start it, whatever it waits for."""
        with (self._folder / "service.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bridge", "serve"],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def await_ready(self) -> None:
        """Returns once it has printed that it is ready."""
        try:
            self._await_ready()
        except BaseException:
            self.kill()  # or a test that fails here leaves it running
            raise

    def await_end(self) -> int:
        """Returns its exit code, once it has ended by itself."""
        assert self._process is not None
        code = self._process.wait(self._end_s)
        self.kill()
        return code

    def _await_ready(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        deadline_s = time.monotonic() + READY_S
        line = ""
        while not line.startswith("ready "):
            assert time.monotonic() < deadline_s, self.log
            assert self._process.poll() is None, self.log
            line = self._process.stdout.readline()
            if not line:
                time.sleep(0.01)

    @property
    def is_ready(self) -> bool:
        """Whether it takes readings in, over every door that is open."""
        with suppress(httpx.TransportError):
            return not httpx.get(f"{self.http}/health/ready").json()["degraded"]
        return False

    def command(self, *arguments: str, expect: int | None = 0) -> Any:
        """Run a command against the same servers with --json; its document."""
        done = subprocess.run(
            [sys.executable, "-m", "bridge", *arguments, "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if expect is not None:
            assert done.returncode == expect, done.stdout + done.stderr
        return json.loads(done.stdout) if done.stdout else {}
