"""Commands, run in this process: what they print, and their exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import pytest
import structlog

from bridge.cli import main


class Ran(NamedTuple):
    """What became of a command."""

    code: int
    out: str
    err: str


class Commands:
    """Runs commands with the settings of the environment."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def set(self, **variables: str) -> None:
        """`database__url="…"` sets IOT_BRIDGE_DATABASE__URL."""
        for name, value in variables.items():
            self._monkeypatch.setenv(f"IOT_BRIDGE_{name.upper()}", value)

    def run(self, *arguments: str, expect: int = 0) -> Ran:
        """Run a command, which must end with the exit code `expect`."""
        self._monkeypatch.setattr(sys, "argv", ["iot-bridge", *arguments])
        self._capsys.readouterr()
        code = 0
        with _logging_restored(), _umask_restored():
            try:
                main()
            except SystemExit as stop:
                code = int(stop.code or 0)
            ran = Ran(code, *self._capsys.readouterr())
        assert ran.code == expect, ran
        return ran

    def json(self, *arguments: str, expect: int = 0) -> Any:
        """The one document that the command prints with --json."""
        ran = self.run(*arguments, "--json", expect=expect)
        assert ran.out.count("\n") == 1, ran.out
        return msgspec.json.decode(ran.out)

    def problems(self, *arguments: str, expect: int = 2) -> list[str]:
        """What the command says is wrong; the same for people and for scripts."""
        ran = self.run(*arguments, "--json", expect=expect)
        problems: list[str] = msgspec.json.decode(ran.out)["error"]["problems"]
        assert ran.err.splitlines() == [f"error: {line}" for line in problems]
        return problems


@contextmanager
def _logging_restored() -> Iterator[None]:
    """Commands set up logging for their process, which is ours here."""
    root = logging.getLogger()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    try:
        yield
    finally:
        root.handlers, root.level = handlers, level
        structlog.configure(**config)


@contextmanager
def _umask_restored() -> Iterator[None]:
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)
