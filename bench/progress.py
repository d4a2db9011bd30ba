"""How far a receiver of MQTT messages has come, at next to no cost to it: what the load keeps its distance by."""

from __future__ import annotations

import mmap
import socket
import struct
from pathlib import Path
from typing import Protocol

from bridge.broker.events import READINGS

_COUNT = struct.Struct("<q")


class Progress(Protocol):
    def read(self) -> int:
        """Readings received so far."""
        ...


class Counter:
    """A number in a file, shared by two processes: the acknowledging receiver writes it."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_COUNT.pack(0))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _COUNT.size)

    def read(self) -> int:
        return int(_COUNT.unpack_from(self._map)[0])

    def write(self, count: int) -> None:
        _COUNT.pack_into(self._map, 0, count)


class Stream:
    """Readings on the stream of a service: the ordinal in the id of its newest entry (docs/streams.md)."""

    _ASK = b"XREVRANGE %s + - COUNT 1\r\n" % READINGS.encode()

    def __init__(self, redis_port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", redis_port))

    def read(self) -> int:
        self._socket.sendall(self._ASK)
        answer = self._socket.recv(4096)
        if answer.startswith(b"*0"):
            return 0
        # *1 *2 $<length> <milliseconds>-<ordinal> …
        return int(answer.split(b"\r\n", 4)[3].rpartition(b"-")[2])
