"""Load for an HTTP door, as its own process: `python -m bench.load_http FLEET PORT CONNECTIONS READINGS SECONDS`.

Raw sockets in one epoll loop, each with a request prepared beforehand; the next leaves when the
answer to the last is in. Written to cost little, not to be a client.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from pathlib import Path

from bench import fleet
from bench.timed import Stopwatch

OK = b"HTTP/1.1 200"


class Connection:
    """One device's connection, and its request in pieces between which the time goes."""

    __slots__ = ("_last_ms", "_pieces", "answer", "socket")

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer = b""
        self._pieces = request.split(fleet.NOW_MS)
        self._last_ms = 0

    def send(self) -> None:
        # No two requests in one millisecond: they would be the same readings.
        self._last_ms = max(time.time_ns() // 1_000_000, self._last_ms + 1)
        self.socket.sendall(b"%d.%03d".__mod__(divmod(self._last_ms, 1000)).join(self._pieces))


def run(devices: list[fleet.Device], port: int, connections: int, readings: int, seconds: float) -> None:
    """Every answer ends with a closing brace, which stands nowhere but at an end: see `Ingest._answer`."""
    poll = select.epoll()
    open_connections: dict[int, Connection] = {}
    for number in range(connections):
        device = devices[number % len(devices)]
        connection = Connection(port, fleet.http_request(device, readings, number))
        open_connections[connection.socket.fileno()] = connection
        poll.register(connection.socket.fileno(), select.EPOLLIN)
        connection.send()
    watch = Stopwatch(seconds)
    answers = failed = 0
    note = ""
    while watch.tick():
        for number, _ in poll.poll(1.0):
            connection = open_connections[number]
            data = connection.answer + connection.socket.recv(65_536)
            if not data.endswith(b"}"):
                connection.answer = data
                continue
            connection.answer = b""
            if watch.running:
                answers += 1
                if not data.startswith(OK) or b'"inserted":%d,' % readings not in data:
                    failed += 1
                    note = data.decode()
            connection.send()
    watch.done(answers, answers * readings, failed, note)


if __name__ == "__main__":
    file, port, connections, readings, seconds = sys.argv[1:]
    run(fleet.load(Path(file)), int(port), int(connections), int(readings), float(seconds))
