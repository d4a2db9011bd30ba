"""The ceiling of the store: `ingest_batch` in a loop, over one connection, with batches that are ready.

As its own process: `python -m bench.procedure FLEET URL PACKETS READINGS SECONDS`. A batch is what group
commit makes of PACKETS packets of READINGS readings, each of another device.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psycopg

from bench import fleet
from bench.timed import Stopwatch
from bridge.model.reading import Batch, LedgerLine, Reading, Source
from bridge.settings.stores import DatabaseSettings
from bridge.store import queries
from bridge.store.postgres import MAX_AHEAD_S, arguments, array_text


def batch_of(devices: list[fleet.Device], packets: int, readings: int) -> Batch:
    """What the service would write. Times and totals are set anew for each call."""
    made = [
        Reading(
            sensor_id=device.sensor_ids[(number + i) % fleet.SENSORS],
            value=fleet.value(number + i),
            ts_us=i,
            received_us=0,
            device_id=device.device_id,
            sensor_type="temperature",
            source=Source.HTTP,
            sequence=i,
        )
        for number, device in ((n, devices[n % len(devices)]) for n in range(packets))
        for i in range(readings)
    ]
    lines = [LedgerLine(device.device_id, Source.HTTP, 0, 0) for device in devices[:packets]]
    return Batch(0, made, ledger=lines)


def run(devices: list[fleet.Device], url: str, packets: int, readings: int, seconds: float) -> None:
    sql = queries.load("service")
    batch = batch_of(devices, packets, readings)
    with psycopg.connect(url, autocommit=True, options="-c jit=off") as connection:
        row = connection.execute(sql["register_instance"], {"name": "ceiling"}).fetchone()
        assert row is not None
        given = arguments(row[0], batch, DatabaseSettings(), int(MAX_AHEAD_S * 1_000_000))
        offsets = [reading.ts_us for reading in batch.readings]
        watch = Stopwatch(seconds)
        calls = number = stored = now_ms = 0
        while watch.tick():
            number += 1
            now_ms = max(time.time_ns() // 1_000_000, now_ms + 1)
            given |= {
                "batch": number,
                "ts_us": array_text([now_ms * 1_000 + offset for offset in offsets]),
                "received_us": array_text([now_ms * 1_000] * len(offsets)),
                "l_received": [number * readings] * packets,
            }
            answer = connection.execute(sql["ingest_batch"], given, prepare=True).fetchone()
            assert answer is not None
            given["published"] = [answer[3]]
            if watch.running:
                calls += 1
                stored += len(offsets) - sum(answer[0])
        watch.done(calls, stored, calls * len(offsets) - stored, "readings were not stored")
        connection.execute(sql["delete_outbox"], {"ids": given["published"]})


if __name__ == "__main__":
    file, url, packets, readings, seconds = sys.argv[1:]
    run(fleet.load(Path(file)), url, int(packets), int(readings), float(seconds))
