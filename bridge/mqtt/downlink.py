"""Sends commands to devices: what is due goes to the broker, what devices answer goes to the table.

Flows in: `CommandQueue` (the table, shared with every other process) and result messages from the door. Flows out:
publications to `devices/{device_uuid}/commands/{id}` at QoS 1, states and results.

A command is claimed for a while before it is published, so no two processes publish it; one that dies
meanwhile leaves it to the others when its claim runs out. A device may so see a command twice, and knows it by its id.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec
import structlog

from bridge.errors import BridgeError, StoreUnavailable, Unavailable
from bridge.mqtt.connection import NO_SUBSCRIBERS, REFUSAL
from bridge.mqtt.publications import PACKET_TOO_LARGE
from bridge.rate_limit import SlidingWindow, check
from bridge.settings.service import CommandSettings
from bridge.telemetry import Metrics

log = structlog.get_logger("downlink")

CLAIM_LIMIT = 100
LEASE_S = 30.0
"""How long a claim holds; longer than a publication may take."""
PUBLISH_S = 10.0
RETRY_S = 1.0
"""How soon to try again where the broker or the table is away."""
MAX_RESULT_BYTES = 65_536
DEVICES_KEPT = 100_000

PublishConfirmed = Callable[[str, bytes, int], Awaitable[int]]
"""Topic, payload, seconds until it expires; the broker's reason code. Raises Unavailable."""


class DueCommand(Protocol):
    """A command to publish. `payload` is JSON."""

    @property
    def command_id(self) -> str: ...
    @property
    def device_uuid(self) -> str: ...
    @property
    def payload(self) -> str: ...
    @property
    def expires_us(self) -> int: ...


class CommandQueue(Protocol):
    """The table of commands. All raise StoreUnavailable."""

    async def claim(self, limit: int, lease_s: float) -> Sequence[DueCommand]:
        """Commands that are due: ours alone for `lease_s`, in the order in which they were given."""
        ...

    async def sent(self, command_id: str) -> None: ...

    async def postpone(self, command_id: str, after_s: float) -> None: ...

    async def answered(self, device_uuid: str, command_id: str, state: str, result: bytes) -> bool:
        """False where the device has no such open command."""
        ...


class CommandResult(msgspec.Struct, frozen=True):
    """What a device has answered to a command. `settle` acknowledges its message."""

    device_uuid: str
    command_id: str
    payload: bytes
    settle: Callable[[], None]


class Downlink:
    """`publish_forever` and `answer_forever` are its tasks. `now_us` is the time of day, `now_s` a monotonic clock."""

    def __init__(
        self,
        commands: CommandQueue,
        settings: CommandSettings,
        metrics: Metrics,
        now_us: Callable[[], int],
        now_s: Callable[[], float],
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        self._commands = commands
        self._settings = settings
        self._metrics = metrics
        self._now_us = now_us
        self._now_s = now_s
        self._retry_s = retry_s
        self._by_device = SlidingWindow("command_results", settings.results_per_minute, DEVICES_KEPT)
        self._results: deque[CommandResult] = deque()  # bounded: each is one of the door's messages in flight
        self._new_command = asyncio.Event()
        self._new_result = asyncio.Event()

    def wake(self) -> None:
        """There is a new command: do not wait for the next look at the table."""
        self._new_command.set()

    def take(self, device_uuid: str, command_id: str, payload: bytes, settle: Callable[[], None]) -> None:
        """A device has answered; `settle` is called once that is stored, or dropped and counted."""
        if not check([(self._by_device, [(device_uuid, 1)])], self._now_s()).allowed:
            self._metrics.limited.labels("command_results").inc()
            settle()
            return
        self._results.append(CommandResult(device_uuid, command_id, payload, settle))
        self._new_result.set()

    # -- to the devices

    async def publish_forever(self, publish_confirmed: PublishConfirmed, connected: Callable[[], bool]) -> None:
        """Publish what is due. Returns only by cancellation."""
        while True:
            self._new_command.clear()
            claimed: Sequence[DueCommand] = ()
            if connected():
                with suppress(StoreUnavailable):
                    claimed = await self._commands.claim(CLAIM_LIMIT, LEASE_S)
            async with asyncio.TaskGroup() as group:
                for due in claimed:  # they are published in this order
                    group.create_task(self._publish(due, publish_confirmed), name=f"command-{due.command_id}")
            if len(claimed) < CLAIM_LIMIT:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.poll_s):
                        await self._new_command.wait()

    async def _publish(self, due: DueCommand, publish_confirmed: PublishConfirmed) -> None:
        left_s = (due.expires_us - self._now_us()) // 1_000_000
        if left_s < 1:
            return
        topic = f"devices/{due.device_uuid}/commands/{due.command_id}"
        try:
            async with asyncio.timeout(PUBLISH_S):
                reason = await publish_confirmed(topic, message_of(due.payload), left_s)
        except (Unavailable, TimeoutError):
            await self._record(self._commands.postpone(due.command_id, self._retry_s))
            return
        if reason == NO_SUBSCRIBERS:  # MQTT 5 tells: the device is away and has left no session behind
            self._metrics.commands.labels("unreachable").inc()
            await self._record(self._commands.postpone(due.command_id, self._settings.retry_s))
        elif reason >= REFUSAL:
            advice = "it is larger than the broker takes" if reason == PACKET_TOO_LARGE else "check the broker's ACL"
            log.error("command_refused", topic=topic, reason=reason, advice=advice)
            await self._record(self._commands.postpone(due.command_id, self._settings.retry_s))
        else:
            self._metrics.commands.labels("published").inc()
            await self._record(self._commands.sent(due.command_id))

    async def _record(self, writing: Awaitable[None]) -> None:
        """Write to the table; where the database is away the claim runs out, and the command is published again."""
        with suppress(StoreUnavailable):
            await writing

    # -- from the devices

    async def answer_forever(self) -> None:
        """Store what devices answer, in order; while the database is away, it waits. Returns only by cancellation."""
        while True:
            if not self._results:
                self._new_result.clear()
                await self._new_result.wait()
            result = self._results[0]
            state, document = read_result(result.payload)
            try:
                known = await self._commands.answered(result.device_uuid, result.command_id, state, document)
            except StoreUnavailable:
                await asyncio.sleep(self._retry_s)
                continue
            except BridgeError as error:  # the database will not have it, ever
                log.warning("result_refused", device=result.device_uuid, detail=error.detail)
                known = False
            self._metrics.commands.labels("result" if known else "unknown_result").inc()
            self._results.popleft()
            result.settle()


def message_of(payload: str) -> bytes:
    """What is published for a command: text as it is, anything else as JSON."""
    return str(msgspec.json.decode(payload)).encode() if payload.startswith('"') else payload.encode()


def read_result(payload: bytes) -> tuple[str, bytes]:
    """The state that an answer means, and the answer as JSON; what is no JSON is text, cut where it is long.

    An object may say how it went in `status`: "delivered" (it has the command, and is at it) or "failed".
    """
    if not payload:
        return "done", b"null"
    cut = payload[:MAX_RESULT_BYTES]
    try:
        found = msgspec.json.decode(cut)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "done", msgspec.json.encode(cut.decode("utf-8", "replace"))
    status = found.get("status") if isinstance(found, dict) else None
    return status if status in ("delivered", "failed") else "done", cut
