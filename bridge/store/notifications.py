"""The table alert_notifications. Implements `Notifications` and `NotificationQueue` of `bridge.consumers.notifier`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from bridge.model.notification import ChannelBacklog, NotificationDraft, QueuedNotification, Subject
from bridge.store import queries
from bridge.store.postgres import PostgresStore


class PostgresNotifications:
    """Queries of `sql/notifier.sql` on the store's pooled connections."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._sql = queries.load("notifier")

    async def describe(self, sensor_ids: Collection[int]) -> list[Subject]:
        """See `Notifications.describe`."""
        return [Subject(*row) for row in await self._fetch("describe", ids=list(sensor_ids))]

    async def recent(self, sensor_ids: Collection[int], seconds: float) -> dict[tuple[int, str, str, str], int]:
        """See `Notifications.recent`."""
        rows = await self._fetch("recent", sensors=list(sensor_ids), seconds=seconds)
        return {(sensor, channel, kind, severity): at_us for sensor, channel, kind, severity, at_us in rows}

    async def spans(self, alert_ids: Collection[int]) -> dict[int, tuple[int, int]]:
        """See `Notifications.spans`."""
        rows = await self._fetch("spans", ids=list(alert_ids))
        return {alert_id: (from_us, until_us) for alert_id, from_us, until_us in rows}

    async def record(self, drafts: Sequence[NotificationDraft]) -> int:
        """See `Notifications.record`."""
        async with self._store.pooled() as connection:
            cursor = await connection.execute(self._sql["record"], _columns(drafts))
            return cursor.rowcount

    async def remind(self, channels: Collection[str], keep_days: int) -> int:
        """See `Notifications.remind`."""
        async with self._store.pooled() as connection:
            if keep_days:
                await connection.execute(self._sql["expire"], {"days": keep_days})
            cursor = await connection.execute(self._sql["repeat"], {"channels": list(channels)})
            return cursor.rowcount

    async def backlog(self, channel: str, forgotten_s: float) -> ChannelBacklog:
        """See `NotificationQueue.backlog`."""
        [row] = await self._fetch("backlog", channel=channel, forgotten_s=forgotten_s)
        return ChannelBacklog(*row)

    async def take(self, channel: str, limit: int, *, in_digest: bool, forgotten_s: float) -> list[QueuedNotification]:
        """See `NotificationQueue.take`."""
        rows = await self._fetch("take", channel=channel, limit=limit, digest=in_digest, forgotten_s=forgotten_s)
        return sorted((QueuedNotification(*row) for row in rows), key=lambda notification: notification.id)

    async def sent(self, ids: Sequence[int], message: str) -> None:
        """See `NotificationQueue.sent`."""
        await self._fetch("settle_sent", ids=list(ids), message=message)

    async def failed(self, ids: Sequence[int], error: str, retry_s: float, give_up_s: float) -> None:
        """See `NotificationQueue.failed`."""
        await self._fetch(
            "settle_failed", ids=list(ids), error=error.replace("\0", ""), retry_s=retry_s, give_up_s=give_up_s
        )

    async def _fetch(self, query: str, **arguments: Any) -> list[tuple[Any, ...]]:
        async with self._store.pooled() as connection:
            cursor = await connection.execute(self._sql[query], arguments)
            return await cursor.fetchall() if cursor.description else []


def _columns(drafts: Sequence[NotificationDraft]) -> dict[str, list[Any]]:
    return {
        "alert_ids": [each.notice.alert_id for each in drafts],
        "channels": [each.channel for each in drafts],
        "event_ids": [each.notice.event_id for each in drafts],
        "rules": [each.rule for each in drafts],
        "sensor_ids": [each.notice.sensor_id for each in drafts],
        "kinds": [each.notice.kind for each in drafts],
        "severities": [each.notice.severity for each in drafts],
        "titles": [each.title for each in drafts],
        "bodies": [each.body for each in drafts],
        "details": [each.details for each in drafts],
        "due_us": [each.due_us for each in drafts],
        "digests": [each.digest for each in drafts],
        "repeats_s": [each.repeat_s for each in drafts],
        "suppressed": [each.suppressed for each in drafts],
    }
