"""The ceiling of the HTTP door: our uvicorn, with an app that reads the body and answers.

As its own process: `python -m bench.noop_app`; writes its port and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop

from bridge.http.server import HttpServer
from bridge.settings.http import HttpSettings
from bridge.telemetry import Metrics

ANSWER = b'{"inserted":1,"duplicates":0,"rejected":[],"unknown_sensors":[],"ingested_ts":1769594400.1}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


async def app(_scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


async def serve() -> None:
    url = await HttpServer(app, HttpSettings(port=0), Metrics()).start()
    sys.stdout.write(url.rpartition(":")[2] + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve())
