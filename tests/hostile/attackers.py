"""Sends what is hostile, from a process of its own: what it costs to make is not taken from the good senders' time.

`attack` runs one kind of attack to its end, and returns what came of each input by its name.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from itertools import islice
from random import Random
from typing import Any, NamedTuple, TypeVar

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.hostile.attacked import Account, Loot
from tests.hostile.connections import Connection, connections
from tests.hostile.handovers import Handovers
from tests.hostile.messages import HostileMessage, Messages, Packet, Who, packets
from tests.hostile.requests import Request, Requests

AT_ONCE = 10
"""Requests under way."""
ANSWER_S = 15.0
HOLD_S = 2.0
"""How long connections are kept that send nothing more, or read nothing."""
PUBACK_S = 5.0
IN_FLIGHT = 20
"""Messages without their PUBACK."""
LONGEST_WAIT_S = 5
AGAIN = 3
"""How often an input that was answered 503 is sent again: what is true of its content is true every time."""
NICE = 10

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_RETRY = re.compile(rb"retry-after: (\d+)", re.IGNORECASE)
_LEAKS = re.compile(rb"Traceback|psycopg|sp_insert|ingest_batch|PL/pgSQL|INSERT INTO|CHECK \(|File \\?\"/")
Input = TypeVar("Input", Request, Connection, HostileMessage, Packet)


class Outcome(NamedTuple):
    """What came of an input: `status` of the answer, 0 where there was none; why it is wrong, where it is."""

    name: str
    status: int
    wrong: str = ""


class Plan(NamedTuple):
    """What an attack is made from: the same plan gives the same inputs."""

    kind: str
    seed: int
    share: float
    """Of the light values that are tried at each place."""
    only: str = ""
    """Nothing but inputs with this in their name."""

    @property
    def random(self) -> Random:
        return Random(f"{self.seed}-{self.kind}")


def attack(plan: Plan, loot: Loot) -> list[Outcome]:
    """Run an attack."""
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    return asyncio.run(_ATTACKS[plan.kind](plan, loot))


def _requests(plan: Plan, loot: Loot) -> Requests:
    return Requests(loot, plan.random, plan.share)


async def _connections(plan: Plan, loot: Loot) -> list[Outcome]:
    wanted = list(_wanted(plan, connections(loot)))
    read = [each for each in wanted if each.then == "read"]
    held = [each for each in wanted if each.then != "read"]
    answered = await _each(iter(read), lambda found: _connect(loot, found), 2 * AT_ONCE)
    return answered + await _each(iter(held), lambda found: _connect(loot, found), len(held))


async def _packets(plan: Plan, loot: Loot) -> list[Outcome]:
    return await _each(_wanted(plan, packets(loot)), lambda found: _packet(loot, found), 3)


async def _messages(plan: Plan, loot: Loot) -> list[Outcome]:
    found = list(_wanted(plan, Messages(loot, plan.random, plan.share).all()))
    whose: tuple[Who, ...] = ("device", "publisher", "formats")
    works = [
        asyncio.to_thread(_publish_all, loot, who, [message for message in found if message.who == who])
        for who in whose
    ]
    return [outcome for outcomes in await asyncio.gather(*works) for outcome in outcomes]


async def _over_http(plan: Plan, loot: Loot, requests: Iterator[Request]) -> list[Outcome]:
    """What the attack itself has made too much is sent again alone, once it is over."""
    too_much: list[Request] = []
    outcomes = await _each(_wanted(plan, requests), lambda request: _ask(loot, request, too_much), AT_ONCE)
    still_too_much: list[Request] = []
    outcomes += [await _ask(loot, request, still_too_much) for request in too_much]
    return outcomes + [Outcome(request.name, 503, "503 again and again, also alone") for request in still_too_much]


_ATTACKS: dict[str, Callable[[Plan, Loot], Coroutine[Any, Any, list[Outcome]]]] = {
    "good": lambda plan, loot: _over_http(plan, loot, _requests(plan, loot).good()),
    "bodies": lambda plan, loot: _over_http(plan, loot, _requests(plan, loot).bodies()),
    "heads": lambda plan, loot: _over_http(plan, loot, _requests(plan, loot).heads()),
    "bombs": lambda plan, loot: _over_http(plan, loot, _requests(plan, loot).bombs()),
    "connections": _connections,
    "handovers": lambda plan, loot: _over_http(plan, loot, Handovers(loot).all()),
    "messages": _messages,
    "packets": _packets,
}
KINDS = tuple(_ATTACKS)


def _wanted(plan: Plan, inputs: Iterator[Input]) -> Iterator[Input]:
    return (found for found in inputs if plan.only in found.name)


async def _each(inputs: Iterator[Input], send: Callable[[Input], Awaitable[Outcome]], at_once: int) -> list[Outcome]:
    """Send every input, so many at a time."""
    outcomes: list[Outcome] = []

    async def work() -> None:
        for found in inputs:
            outcomes.append(await send(found))

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return outcomes


# -- HTTP


async def _ask(loot: Loot, request: Request, too_much: list[Request]) -> Outcome:
    """Send a request, and again after a 503: only a fault of its content stays. One that stays is noted."""
    for _ in range(AGAIN):
        answer = await _exchange(loot.http_port, request.make(), one=True)
        outcome = _judge(request.name, answer)
        retry = _RETRY.search(answer)
        if outcome.status != 503 or retry is None:
            return outcome
        await asyncio.sleep(min(LONGEST_WAIT_S, int(retry[1])))
    too_much.append(request)
    return outcome


async def _connect(loot: Loot, found: Connection) -> Outcome:
    if found.then == "read":
        answer = await _exchange(loot.http_port, found.make(), one=bool(found.expect))
        outcome = _judge(found.name, answer)
        if found.expect and outcome.status != found.expect:
            return outcome._replace(wrong=f"the answer is {outcome.status or 'lost'}, not {found.expect}")
        return outcome
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", loot.http_port, limit=1_024)
    except OSError:
        return Outcome(found.name, 0)
    writer.write(found.make())
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(HOLD_S):
            await writer.drain()
            await asyncio.sleep(HOLD_S if found.then == "hold" else 0)
    if found.then == "cut":  # linger of 0 s: a reset
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return Outcome(found.name, 0)


async def _exchange(port: int, raw: bytes, *, one: bool = False) -> bytes:
    """Everything that comes back until the door closes, or `one` answer. What could not be sent is no fault."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return b""
    answer = bytearray()
    try:
        async with asyncio.timeout(ANSWER_S):
            writer.write(raw)
            with suppress(OSError):
                await writer.drain()
            while (piece := await reader.read(65_536)) and not (one and _is_whole(answer + piece)):
                answer += piece
            answer += piece
    except OSError:  # TimeoutError is one
        pass
    finally:
        writer.transport.abort()
    return bytes(answer)


def _is_whole(answer: bytearray) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(found) and length is not None and len(body) >= int(length[1])


def _judge(name: str, answer: bytes) -> Outcome:
    """The last status of an answer, and what is wrong with it whatever was asked."""
    statuses = [int(found) for found in _STATUS.findall(answer)]
    status = max(statuses, default=0)
    if status >= 500 and status != 503:
        return Outcome(name, status, _end(answer))
    if status == 503 and _RETRY.search(answer) is None:
        return Outcome(name, status, f"503 without Retry-After: {_end(answer)}")
    leak = _LEAKS.search(answer) if status >= 400 else None
    return Outcome(name, status, f"it tells what is ours: {_end(answer)}" if leak else "")


def _end(answer: bytes) -> str:
    return answer.rpartition(b"\r\n\r\n")[2][:400].decode(errors="replace")


# -- MQTT


async def _packet(loot: Loot, found: Packet) -> Outcome:
    trust = ssl.create_default_context(cafile=loot.ca_file)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", loot.mqtt_device_port, ssl=trust)
    except OSError:
        return Outcome(found.name, 0)
    with suppress(OSError):  # also TimeoutError: the broker neither answers nor closes
        async with asyncio.timeout(HOLD_S):
            writer.write(found.data)
            await writer.drain()
            while await reader.read(65_536):
                pass
    writer.transport.abort()
    return Outcome(found.name, 0)


def _publish_all(loot: Loot, who: Who, messages: list[HostileMessage]) -> list[Outcome]:
    """At QoS 1, some at a time. A broker that hangs up on one is told the next by a new connection."""
    outcomes: list[Outcome] = []
    client = _client(loot, who)
    rest = iter(messages)
    while some := list(islice(rest, IN_FLIGHT)):
        if not client.is_connected():
            client.loop_stop()
            client = _client(loot, who)
        told = [(message.name, _publish(client, message)) for message in some]
        deadline_s = time.monotonic() + PUBACK_S
        for name, info in told:
            with suppress(ValueError, RuntimeError):  # the connection is gone
                if info is not None and client.is_connected():
                    info.wait_for_publish(max(0.001, deadline_s - time.monotonic()))
            outcomes.append(Outcome(name, int(info is not None and info.rc == 0 and info.is_published())))
    client.disconnect()
    client.loop_stop()
    return outcomes


def _publish(client: paho.Client, message: HostileMessage) -> paho.MQTTMessageInfo | None:
    with suppress(ValueError):  # no topic to this client
        return client.publish(message.topic, message.make(), 1, message.retain)
    return None


def _client(loot: Loot, who: Who) -> paho.Client:
    account = {
        "device": Account(loot.device.uuid, loot.device.key),
        "publisher": loot.publisher,
        "formats": loot.formats,
    }[who]
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"hostile-{who}")
    client.username_pw_set(*account)
    if who == "device":
        client.tls_set(ca_certs=loot.ca_file)
    up = threading.Event()
    client.on_connect = lambda *_: up.set()
    client.connect("127.0.0.1", loot.mqtt_device_port if who == "device" else loot.mqtt_publisher_port)
    client.loop_start()
    up.wait(PUBACK_S)
    return client
