"""A process that spools readings until it is killed: `python -m tests.support.spool_writer FOLDER FIRST`.

Sends, drains and maintains at once, as a gateway does. Says each number on standard output once its reading is
acknowledged, `taken ID NUMBER` once the queue has let go of one.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from bridge.model.reading import Outcome
from edge.record import Settlement
from edge.spool import Spool
from tests.support.spool_site import Sender, make_spool, reading

SENSORS = 20


def say(line: str) -> None:
    """In one write, so that a kill does not tear it."""
    os.write(1, f"{line}\n".encode())


async def send(spool: Spool, first: int) -> None:
    sender = Sender(spool)
    number = first
    while True:
        batch = range(number, number + 1 + number % 9)
        readings = [reading(n, sensor=n % SENSORS + 1, key=f"k-{n}" if n % 4 == 0 else None) for n in batch]
        await sender.send(*readings)
        for n in batch:
            say(f"acknowledged {n}")
        number = batch.stop


async def drain(spool: Spool) -> None:
    """Hands over every now and then, but always leaves something."""
    while True:
        await asyncio.sleep(0.02)
        if spool.backlog().depth > 200:
            records = await spool.read(above=0, count=60, max_bytes=1 << 20)
            # Said before: what the service has may come again, but must not be missing here and there.
            for record in records:
                say(f"taken {record.id} {record.key or record.ts_us}")
            await spool.acknowledge([Settlement(record.id, Outcome.STORED) for record in records])


async def main(folder: Path, first: int) -> None:
    spool = make_spool(folder, checkpoint_bytes=100_000)
    await spool.open()
    say("open")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send(spool, first))
        tasks.create_task(drain(spool))
        tasks.create_task(spool.run())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
