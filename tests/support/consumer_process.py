"""Real `iot-bridge consume` processes, with consumers that a test brings along as a distribution of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support.process import OwnProcess

READY_S = 30.0


class ConsumerProcess(OwnProcess):
    """One `iot-bridge consume NAME`. `start` returns once it is ready."""

    def __init__(self, folder: Path, name: str, path: Path | None = None, **settings: str) -> None:
        self._name = name
        self._log = folder / f"{name}-{time.monotonic_ns()}.log"
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("IOT_BRIDGE_")},
            "IOT_BRIDGE_LOG__FORMAT": "json",
            **{f"IOT_BRIDGE_{key.upper()}": value for key, value in settings.items()},
        }
        if path is not None:
            self._environment["PYTHONPATH"] = str(path)
        self.ready = ""
        """The line it said when it was ready."""

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> None:
        """Returns once it is ready."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Returns at once: it may have to stand by."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bridge", "consume", self._name],
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def wait_ready(self) -> None:
        """Returns once it is ready."""
        assert self._process is not None
        assert self._process.stdout is not None
        deadline_s = time.monotonic() + READY_S
        while not (line := self._process.stdout.readline()).startswith("ready "):
            assert time.monotonic() < deadline_s, self.log
            assert self._process.poll() is None, self.log
            if not line:
                time.sleep(0.01)
        self.ready = line

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is not None and self._process.poll() is not None


def install(folder: Path, name: str, target: str, source: str) -> Path:
    """A distribution with one module and the entry point of one consumer; a folder for `sys.path`."""
    module = target.partition(":")[0]
    (folder / f"{module}.py").write_text(source)
    information = folder / f"{module}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[iot_bridge.consumers]\n{name} = {target}\n")
    return folder
