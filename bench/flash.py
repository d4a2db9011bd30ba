"""What a gateway writes to its SD card: `python -m bench.flash`. As root, for loop mounts; about ten minutes.

Each case has an ext4 of its own on a loop device, and what counts are the sectors that the device was asked to write
(`/sys/block/loopN/stat`): the spool's pages, and the file system's own journal and inodes. Readings come one by one at
a steady rate, each acknowledged once it is committed, and leave again as an uplink takes them. Mosquitto is measured on
an ext4 of its own likewise. All cases run side by side: it is bytes that are counted, not time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from bench.spool import readings
from bridge.model.reading import Batch, Outcome, Reading
from edge.host.clock import host_clock
from edge.record import Settlement
from edge.settings import SpoolSettings
from edge.spool import Spool
from edge.telemetry import SpoolMetrics

RATES = (1, 50)
INTERVALS_S = (0.0, 0.2, 1.0, 5.0)
SECONDS = 600
SECTOR_BYTES = 512  # of /sys/block/*/stat, whatever the device: Documentation/block/stat.rst
IMAGE_BYTES = 1 << 30
ROUND_TRIP_S = 0.05
WARM_BATCHES = 4
WARM_SIZE = 7_500
WAITING = 10_000
SUBSCRIBER = "iot-edge"
PAYLOAD = b'{"sensor_uuid":"43960340-c925-46e6-a874-5b045b8e0f7a","value":20.25,"timestamp":"2026-03-01T12:00:00Z"}'
AUTOSAVE_S = 5  # as edge/host/installed/mosquitto.conf


class Written(msgspec.Struct, frozen=True):
    """A case, and what the device was asked to write in it."""

    case: str
    per_s: float
    commit_interval_s: float | None
    readings: int
    bytes_per_reading: float
    bytes_per_day: float


@contextmanager
def card(name: str) -> Iterator[tuple[Path, str]]:
    """A mounted ext4, and its loop device; both gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-flash-") as folder:
        image, mounted = Path(folder) / "card.img", Path(folder) / name
        mounted.mkdir()
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        # Nothing is left to be initialised later, which would be written while it is measured.
        _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
        device = _run("losetup", "--find", "--show", str(image)).strip()
        try:
            _run("mount", "-o", "noatime", device, str(mounted))
            try:
                yield mounted, device
            finally:
                _run("umount", str(mounted))
        finally:
            _run("losetup", "--detach", device)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def sectors(folder: Path, device: str) -> int:
    """Return the sectors that a device was asked to write since it is there, once all is written."""
    _run("sync", "--file-system", str(folder))
    return int(Path("/sys/block", Path(device).name, "stat").read_text().split()[6])


def spool_case(case: tuple[int, float, float]) -> Written:
    """Spool readings at a rate with a commit interval, for some seconds."""
    per_s, interval_s, seconds = case
    with card("spool") as (folder, device):
        count, took_s, total = asyncio.run(_spooled(folder, device, per_s, interval_s, seconds))
    return Written("spool", per_s, interval_s, count, round(total / count), round(total / took_s * 86_400))


async def _spooled(folder: Path, device: str, per_s: int, interval_s: float, seconds: float) -> tuple[int, float, int]:
    settings = SpoolSettings(path=folder / "spool.db", commit_interval_s=interval_s)
    spool = Spool(settings, host_clock(assume_set=True), SpoolMetrics())
    await spool.open()
    uplink = asyncio.create_task(_deliver(spool))
    number = await _warm_up(spool)
    before = sectors(folder, device)
    arrived: asyncio.Queue[Reading] = asyncio.Queue()
    total = round(per_s * seconds)
    started = monotonic()
    feeder = asyncio.create_task(_arrive(arrived, per_s, total))
    done = 0
    while done < total:
        batch = [await arrived.get()]
        while not arrived.empty():
            batch.append(arrived.get_nowait())
        number += 1
        await spool.write(Batch(number, batch))
        done += len(batch)
    await feeder
    took_s = monotonic() - started
    written_bytes = (sectors(folder, device) - before) * SECTOR_BYTES
    uplink.cancel()
    await spool.close()
    return done, took_s, written_bytes


async def _warm_up(spool: Spool) -> int:
    """Have the files grow to the size that they keep: a log that grows costs more than one that is used again."""
    for number in range(1, WARM_BATCHES + 1):
        await spool.write(Batch(number, readings(-number * WARM_SIZE, WARM_SIZE)))
    while spool.backlog().depth:  # noqa: ASYNC110 - there is nothing to wait for: it is the uplink that empties it
        await asyncio.sleep(0.1)
    return WARM_BATCHES


async def _arrive(arrived: asyncio.Queue[Reading], per_s: int, total: int) -> None:
    started = monotonic()
    for number, reading in enumerate(readings(0, total)):
        await asyncio.sleep(max(0.0, started + number / per_s - monotonic()))
        arrived.put_nowait(reading)


async def _deliver(spool: Spool) -> None:
    above = 0
    while True:
        await spool.wait_above(above)
        records = await spool.read(above=above, count=1_000, max_bytes=1 << 22)
        await asyncio.sleep(ROUND_TRIP_S)
        await spool.acknowledge([Settlement(record.id, Outcome.STORED) for record in records])
        above = records[-1].id


def broker_case(case: tuple[int, int, int, float]) -> Written:
    """Mosquitto with messages at a rate, `waiting` more that nobody takes, saving every so many seconds (0: never)."""
    per_s, waiting, autosave_s, seconds = case
    with card("mosquitto") as (folder, device), ExitStack() as stack:
        port = _start_mosquitto(folder, autosave_s, stack)
        subscriber = _client(port, SUBSCRIBER)
        publisher = _client(port, "device")
        if waiting:
            subscriber.disconnect()
            subscriber.loop_stop()
            _publish(publisher, waiting, 0)
        before, started = sectors(folder, device), monotonic()
        count = _publish(publisher, round(per_s * seconds), per_s)
        sleep(max(0.0, started + seconds - monotonic()))
        total, took_s = (sectors(folder, device) - before) * SECTOR_BYTES, monotonic() - started
        for client in (publisher, subscriber):
            client.disconnect()
            client.loop_stop()
    name = f"mosquitto, autosave_interval {autosave_s}, {waiting} waiting"
    return Written(name, per_s, None, count, round(total / max(1, count)), round(total / took_s * 86_400))


def _start_mosquitto(folder: Path, autosave_s: int, stack: ExitStack) -> int:
    from tests.support.servers import free_port, listens

    port = free_port()
    conf = folder.parent / "mosquitto.conf"
    conf.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {folder}/\n"
        f"autosave_interval {autosave_s}\nmax_queued_messages 1000000\nuser root\n"
    )
    process = subprocess.Popen(["/usr/sbin/mosquitto", "-c", str(conf)], stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    while not listens(port):
        sleep(0.05)
    return port


def _client(port: int, name: str) -> mqtt.Client:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=name != SUBSCRIBER)
    subscribed: list[bool] = []
    client.on_subscribe = lambda *_: subscribed.append(True)
    client.max_queued_messages_set(0)
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe("devices/+/readings", 1)
    while not subscribed:
        sleep(0.01)
    if name != SUBSCRIBER:
        client.unsubscribe("devices/+/readings")
    return client


def _publish(publisher: mqtt.Client, count: int, per_s: int) -> int:
    started = monotonic()
    sent = []
    for number in range(count):
        if per_s:
            sleep(max(0.0, started + number / per_s - monotonic()))
        sent.append(publisher.publish("devices/3a1f0c52-0000-4000-8000-000000000001/readings", PAYLOAD, qos=1))
    for one in sent:
        one.wait_for_publish(60)
    return count


def run(seconds: float) -> list[Written]:
    """Measure every case."""
    spools = [(per_s, interval_s, seconds) for per_s in RATES for interval_s in INTERVALS_S]
    brokers = [(per_s, 0, AUTOSAVE_S, seconds) for per_s in (0, *RATES)]
    brokers += [(1, WAITING, AUTOSAVE_S, seconds), (50, 0, 0, seconds)]
    with get_context("spawn").Pool(len(spools) + len(brokers)) as pool:
        spooled = pool.map_async(spool_case, spools, 1)
        brokered = pool.map_async(broker_case, brokers, 1)
        return [*spooled.get(), *brokered.get()]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.flash", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each case; they run side by side")
    arguments: Any = parser.parse_args()
    if os.geteuid() != 0:
        print("bench.flash: needs root, for loop mounts", file=sys.stderr)
        return 2
    print(msgspec.json.format(json.dumps([msgspec.to_builtins(each) for each in run(arguments.seconds)])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
