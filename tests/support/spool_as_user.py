"""A process without root's rights that opens a spool: `python -m tests.support.spool_as_user FOLDER`.

Root may read what nobody may. For each line that it gets it tries to spool a reading, and says in a line of JSON what
came of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from bridge.errors import StoreUnavailable
from tests.support.spool_site import SpoolFeeder, imbalance, make_spool, read_all, reading

NOBODY = 65_534


async def main(folder: Path) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    spool = make_spool(folder)
    sender = SpoolFeeder(spool)
    for number, _ in enumerate(sys.stdin):
        said: dict[str, object] = {}
        try:
            await sender.send(reading(1_000 + number))
            records = await read_all(spool)
            said = {"records": len(records), "imbalance": imbalance(await spool.totals(), len(records))}
        except StoreUnavailable as error:
            said = {"problem": error.detail, "told": error.told, "lost": spool.backlog().lost}
        sys.stdout.write(f"{json.dumps(said)}\n")
        sys.stdout.flush()
    await spool.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
