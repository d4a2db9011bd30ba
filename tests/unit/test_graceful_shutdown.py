"""Requests that are still waiting when the service stops."""

from __future__ import annotations

import asyncio
from typing import Any

from bridge.http.graceful_shutdown import GracefulShutdown


def request(app: GracefulShutdown, sent: list[dict[str, Any]]) -> asyncio.Task[None]:
    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start" and any(m["type"] == message["type"] for m in sent):
            raise RuntimeError("begun already")  # as uvicorn does
        sent.append(message)

    async def run() -> None:
        await app({"type": "http"}, None, send)

    return asyncio.create_task(run())


async def waits(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()


async def test_waiting_request_is_told_to_come_again() -> None:
    app, sent = GracefulShutdown(waits), list[dict[str, Any]]()
    task = request(app, sent)
    await asyncio.sleep(0)
    await app.end_waiting()
    await task
    assert sent[0]["status"] == 503
    assert dict(sent[0]["headers"])[b"retry-after"] == b"1"
    assert b"stopping" in sent[1]["body"]


async def test_answer_that_has_begun_is_not_begun_again() -> None:
    async def begins(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.Event().wait()

    app, sent = GracefulShutdown(begins), list[dict[str, Any]]()
    task = request(app, sent)
    await asyncio.sleep(0)
    await app.end_waiting()
    await task
    assert [message.get("status") for message in sent] == [200]


async def test_request_cancelled_by_others_is_cancelled() -> None:
    app = GracefulShutdown(waits)
    task = request(app, [])
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    await app.end_waiting()
