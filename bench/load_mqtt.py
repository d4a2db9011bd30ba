"""Load for an MQTT broker, as its own process: `python -m bench.load_mqtt FLEET PORT PREFIX PROGRESS SECONDS`.

Raw sockets that write PUBLISH packets at QoS 1, prepared but for the moment of sending, and only skim the
acknowledgements. It keeps `WINDOW` messages ahead of the receiver, so that the broker's queue stays short.
PROGRESS is the port of a Redis, or the file of a counter. What counts is what the receiver has finished.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from bench import fleet
from bench.progress import Counter, Progress, Stream
from bench.timed import Stopwatch

CONNECTIONS = 16
WINDOW = 2_000
BURST = 20
"""Messages a connection sends at a time."""
PAUSE_S = 0.002


class Device:
    """One connection, and its messages in turn."""

    def __init__(self, port: int, device: fleet.Device, prefix: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        client_id = f"bench-{device.device_uuid}".encode()
        header = b"\x00\x04MQTT\x04\x02\x00\x00" + struct.pack("!H", len(client_id)) + client_id
        self.socket.sendall(b"\x10" + bytes([len(header)]) + header)
        if self.socket.recv(4) != b"\x20\x02\x00\x00":
            raise RuntimeError("the broker refuses the load")
        self._packets = cycle([_pieces(*fleet.mqtt_message(device, n, prefix)) for n in range(fleet.SENSORS)])
        self._mid = 0
        self._last_ms = 0

    def send(self, count: int) -> None:
        """Publish `count` messages. Each sensor's times differ, so that no two are one reading."""
        self.socket.sendall(b"".join(self._publish(count)))

    def _publish(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            self._mid = self._mid % 65_535 + 1
            self._last_ms = max(time.time_ns() // 1_000_000, self._last_ms + 1)
            head, body, tail = next(self._packets)
            yield b"%b%b%b%d.%03d%b" % (head, self._mid.to_bytes(2), body, *divmod(self._last_ms, 1000), tail)


def _pieces(topic: bytes, payload: bytes) -> tuple[bytes, bytes, bytes]:
    """A PUBLISH at QoS 1 up to its packet identifier, from there to the time, and the rest."""
    body, tail = payload.split(fleet.NOW_MS)
    length = 2 + len(topic) + 2 + len(payload)
    remaining = bytes([length]) if length < 128 else bytes([length % 128 | 128, length // 128])
    return b"\x32" + remaining + struct.pack("!H", len(topic)) + topic, body, tail


def run(devices: list[fleet.Device], port: int, prefix: str, progress: Progress, seconds: float) -> None:
    poll = select.epoll()
    senders: dict[int, Device] = {}
    for device in devices[:CONNECTIONS]:
        sender = Device(port, device, prefix)
        senders[sender.socket.fileno()] = sender
        poll.register(sender.socket.fileno(), select.EPOLLIN)
    turns = cycle(senders.values())
    origin = before = done = progress.read()
    sent = 0
    watch = Stopwatch(seconds)
    was_running = False
    while watch.tick():
        done = progress.read()
        if watch.running and not was_running:
            before, was_running = done, True
        for _ in range((done - origin + WINDOW - sent) // BURST):
            next(turns).send(BURST)
            sent += BURST
        time.sleep(PAUSE_S)
        for number, _ in poll.poll(0):
            senders[number].socket.recv(65_536)
    done = progress.read()
    watch.done(done - before, done - before)
    _wait_for_rest(progress, origin + sent)


def _wait_for_rest(progress: Progress, all_of_it: int) -> None:
    """So that what is under way does not fall into the next measurement."""
    deadline_s = time.perf_counter() + 10
    while progress.read() < all_of_it and time.perf_counter() < deadline_s:
        time.sleep(0.01)


if __name__ == "__main__":
    file, port, prefix, source, seconds = sys.argv[1:]
    receiver: Progress = Stream(int(source)) if source.isdecimal() else Counter(Path(source))
    run(fleet.load(Path(file)), int(port), prefix, receiver, float(seconds))
