"""The gateway's web front: its own pages, and the door behind it."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter

from edge.web import page
from edge.web.page import Message, Receive, Scope, Send, WebApp


class Asked:
    """What came back."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""

    async def send(self, message: Message) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")


async def door(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": int(scope["path"].rpartition("/")[2] or 200), "headers": []})
    await send({"type": "http.response.body", "body": b"door"})


async def receive() -> Message:
    return {"type": "http.disconnect"}


def front(*, shown: bool = True, opened: bool = True) -> WebApp:
    registry = CollectorRegistry()
    Counter("seen_total", "", registry=registry)
    return WebApp(lambda: {"gateway": "north"}, registry, page=shown, door=door if opened else None)


async def ask(app: WebApp, path: str, method: str = "GET") -> Asked:
    asked = Asked()
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path}
    await app(scope, receive, asked.send)
    return asked


async def test_front_has_a_page_a_status_and_metrics() -> None:
    assert b"<!doctype html>" in (await ask(front(), "/")).body
    assert msgspec.json.decode((await ask(front(), "/status.json")).body) == {"gateway": "north"}
    assert b"seen_total" in (await ask(front(), "/metrics")).body


async def test_front_answers_202_where_the_door_says_200() -> None:
    assert (await ask(front(), "/devices/200", "POST")).status == 202
    assert (await ask(front(), "/devices/503", "POST")).status == 503
    assert (await ask(front(), "/sensors/200", "GET")).status == 200


async def test_front_without_a_door_has_nothing_else() -> None:
    assert (await ask(front(opened=False), "/devices/200", "POST")).status == 404
    assert (await ask(front(opened=False), "/health")).status == 200


async def test_front_without_a_page_leaves_it_to_the_door() -> None:
    assert (await ask(front(shown=False), "/")).body == b"door"


def test_page_loads_nothing_from_elsewhere() -> None:
    assert re.findall(r"(?:src|href)=|https?://|@import", page.PAGE) == []
    assert len(page.PAGE) < 8_000
