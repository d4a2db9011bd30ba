"""Tells people of alerts and decisions.

iot:alerts, iot:decisions ─► rules ─► rows of alert_notifications ─► (acknowledged) ─► one worker a channel ─► senders

The table is the queue: an event is acknowledged once its rows are committed, at most one for each channel,
and a row is sent once it is due. A process that dies while it sends leaves a row that is sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import Protocol

import msgspec
import structlog
from cachetools import TTLCache

from bridge.consumers.api import Event
from bridge.consumers.notices import digest, is_told_already, notice, single
from bridge.consumers.rules import RuleBook, with_cooldown
from bridge.consumers.senders import ChannelSender, DeliveryFailed
from bridge.errors import StoreUnavailable
from bridge.model.notification import (
    ChannelBacklog,
    ChannelMessage,
    Notice,
    NotificationDraft,
    QueuedNotification,
    Subject,
)
from bridge.settings.consumers import ChannelSettings, NotifierSettings
from bridge.tasks import delay_s
from bridge.telemetry import Metrics

log = structlog.get_logger("notifier")

DIGEST_ROWS = 20_000
"""Most notifications in one digest."""
POLL_S = 1.0
"""How often a channel looks for what has become due."""
FORGOTTEN_S = 300.0
"""A row taken to be sent so long ago belongs to a process that is gone."""
SUBJECTS_KEPT = 10_000
SUBJECT_TTL_S = 60.0
EXPIRE_TICKS = 360


class Notifications(Protocol):
    """Writes the table alert_notifications. All methods raise StoreUnavailable."""

    async def describe(self, sensor_ids: Collection[int]) -> list[Subject]:
        """Return the registered sensors among `sensor_ids`."""
        ...

    async def recent(self, sensor_ids: Collection[int], seconds: float) -> dict[tuple[int, str, str, str], int]:
        """Return (sensor, channel, kind, severity) → when last notified, microseconds since the epoch."""
        ...

    async def spans(self, alert_ids: Collection[int]) -> dict[int, tuple[int, int]]:
        """Return from when until when these alerts lasted, microseconds since the epoch; of those that are over."""
        ...

    async def record(self, drafts: Sequence[NotificationDraft]) -> int:
        """Write rows; an event's second row for a channel is passed over. Returns how many are new."""
        ...

    async def remind(self, channels: Collection[str], keep_days: int) -> int:
        """Make rows for alerts that are to be repeated, and drop old ones. Returns how many are new."""
        ...


class NotificationQueue(Protocol):
    """Hands the rows of that table to channel workers. All methods raise StoreUnavailable."""

    async def backlog(self, channel: str, forgotten_s: float) -> ChannelBacklog:
        """Count what is due, with what was taken `forgotten_s` ago and never settled."""
        ...

    async def take(self, channel: str, limit: int, *, in_digest: bool, forgotten_s: float) -> list[QueuedNotification]:
        """Take rows that are due: nobody else gets them until `forgotten_s` have passed."""
        ...

    async def sent(self, ids: Sequence[int], message: str) -> None:
        """Note that these rows went out with a message."""
        ...

    async def failed(self, ids: Sequence[int], error: str, retry_s: float, give_up_s: float) -> None:
        """Note that these did not go out: due again in `retry_s`; failed for good once older than `give_up_s`."""
        ...


class Notifier:
    """Turns events into rows of alert_notifications. `wake` is called when there is something to send."""

    def __init__(
        self,
        settings: NotifierSettings,
        table: Notifications,
        wake: Callable[[], None],
        metrics: Metrics,
        now_us: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._rules = RuleBook(settings)
        self._table = table
        self._wake = wake
        self._metrics = metrics
        self._now_us = now_us
        self._subjects: TTLCache[int, Subject] = TTLCache(SUBJECTS_KEPT, SUBJECT_TTL_S)
        self._ticks = 0

    async def handle(self, events: Sequence[Event]) -> None:
        """See `Handler.handle`."""
        notices = await self._as_known_now([notice(event) for event in events if not is_told_already(event)])
        subjects = await self._described({told.sensor_id for told in notices})
        now_us = self._now_us()
        drafts = [each for told in notices for each in self._rules.drafts(told, subjects[told.sensor_id], now_us)]
        if drafts and self._rules.longest_cooldown_s:
            sensors = {each.notice.sensor_id for each in drafts}
            last_us = await self._table.recent(sensors, self._rules.longest_cooldown_s)
            drafts = with_cooldown(drafts, last_us, now_us)
        if drafts:
            self._metrics.notifications.inc(await self._table.record(drafts))
            self._wake()

    async def tick(self) -> None:
        """See `Handler.tick`."""
        channels = [channel.name for channel in self._settings.channels]
        keep_days = self._settings.keep_days if self._ticks % EXPIRE_TICKS == 0 else 0
        if await self._table.remind(channels, keep_days):
            self._wake()
        self._ticks += 1

    async def _as_known_now(self, notices: Sequence[Notice]) -> list[Notice]:
        """Correct when past alerts were over: more of the backlog may have come since."""
        past = [told.alert_id for told in notices if told.kind == "past" and told.alert_id is not None]
        if not past:
            return list(notices)
        spans = await self._table.spans(past)
        return [
            msgspec.structs.replace(told, at_us=span[0], until_us=span[1])
            if told.kind == "past" and (span := spans.get(told.alert_id or 0))
            else told
            for told in notices
        ]

    async def _described(self, sensor_ids: Collection[int]) -> Mapping[int, Subject]:
        missing = [sensor_id for sensor_id in sensor_ids if sensor_id not in self._subjects]
        found = {subject.sensor_id: subject for subject in await self._table.describe(missing)} if missing else {}
        for subject in found.values():
            self._subjects[subject.sensor_id] = subject
        return {
            sensor_id: found.get(sensor_id)
            or self._subjects.get(sensor_id)
            or Subject(sensor_id, f"sensor {sensor_id}")
            for sensor_id in sensor_ids
        }


class ChannelWorker:
    """Delivers what is due on one channel. `run` is its task; it ends after `stop`."""

    def __init__(
        self,
        channel: ChannelSettings,
        settings: NotifierSettings,
        queue: NotificationQueue,
        sender: ChannelSender,
        metrics: Metrics,
        random: Random,
    ) -> None:
        self._channel = channel
        self._settings = settings
        self._queue = queue
        self._sender = sender
        self._metrics = metrics
        self._random = random
        self._wake = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failures = 0  # of the channel, in a row

    def wake(self) -> None:
        """Look for what is due now."""
        self._wake.set()

    def stop(self) -> None:
        """End after the message under way."""
        self._stopped.set()
        self._wake.set()

    async def run(self) -> None:
        """Deliver until told to stop."""
        while not self._stopped.is_set():
            self._wake.clear()
            try:
                wait_s = await self.round()
            except StoreUnavailable as error:
                log.warning("store_unavailable", channel=self._channel.name, detail=error.detail)
                await asyncio.sleep(POLL_S)
                continue
            if self._failures:
                await self._rest(wait_s, self._stopped)  # the channel, whatever is new for it
            elif wait_s:
                await self._rest(wait_s, self._wake)

    async def round(self) -> float:
        """Deliver one message of what is due; seconds until it is worth while to look again."""
        backlog = await self._queue.backlog(self._channel.name, FORGOTTEN_S)
        if backlog.due_in_digest:
            return await self._deliver(digest, DIGEST_ROWS, in_digest=True)
        if not backlog.due:
            return POLL_S
        if backlog.due <= self._channel.per_minute - backlog.sent_in_minute:
            return await self._deliver(single, 1, in_digest=False)
        if self._is_digest_due(backlog):
            return await self._deliver(digest, DIGEST_ROWS, in_digest=False)
        return POLL_S

    def _is_digest_due(self, backlog: ChannelBacklog) -> bool:
        """Say whether a digest may go out: `digest_wait_s` after the first, and at most every `digest_every_s`."""
        rested = backlog.since_digest_s is None or backlog.since_digest_s >= self._channel.digest_every_s
        return rested and backlog.waited_s >= self._channel.digest_wait_s

    async def _deliver(
        self, compose: Callable[[Sequence[QueuedNotification]], ChannelMessage], limit: int, *, in_digest: bool
    ) -> float:
        name = self._channel.name
        notifications = await self._queue.take(name, limit, in_digest=in_digest, forgotten_s=FORGOTTEN_S)
        if not notifications:
            return POLL_S  # another process was quicker
        ids = [notification.id for notification in notifications]
        message = compose(notifications)
        try:
            await self._sender.send(message)
        except DeliveryFailed as error:
            wait_s = self._delay_s()
            self._failures += 1
            log.warning("not_delivered", channel=name, notifications=len(ids), detail=error.detail)
            self._metrics.deliveries.labels(name, "failed").inc()
            await self._queue.failed(ids, error.detail, wait_s, self._settings.give_up_s)
            return wait_s
        self._failures = 0
        log.info("delivered", channel=name, notifications=len(ids), message=message.id)
        self._metrics.deliveries.labels(name, "sent").inc()
        await self._settle(ids, message.id)
        return 0.0

    async def _settle(self, ids: Sequence[int], message: str) -> None:
        """Note that a message went out, trying until the database has it: what is not noted is sent twice."""
        while True:
            try:
                await self._queue.sent(ids, message)
                return
            except StoreUnavailable as error:
                log.warning("store_unavailable", channel=self._channel.name, detail=error.detail)
                if self._stopped.is_set():
                    return
                await asyncio.sleep(POLL_S)

    def _delay_s(self) -> float:
        return delay_s(
            self._failures,
            minimum_s=self._settings.retry_min_s,
            maximum_s=self._settings.retry_max_s,
            random=self._random.random(),
        )

    async def _rest(self, seconds: float, until: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await until.wait()
