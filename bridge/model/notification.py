"""What flows through the notifier. A leaf: imports nothing of ours, does no I/O.

stream entry --> Notice + Subject --rules--> NotificationDraft --table--> QueuedNotification… --> ChannelMessage
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Subject(msgspec.Struct, frozen=True):
    """The sensor an event is about, as it is registered."""

    sensor_id: int
    sensor: str
    sensor_type: str = ""
    unit: str = ""
    device_id: int = 0
    device_uuid: str = ""
    device: str = "?"


class Notice(msgspec.Struct, frozen=True):
    """One event that people may want to know of."""

    event_id: str
    kind: str  # alert, warning, resolved, decision, past: an alert that was over before it was known
    what: str  # the same, or which decision
    severity: str
    sensor_id: int
    value: str
    at_us: int
    alert_id: int | None  # of the row in alerts, where there is one
    threshold_id: str
    reason: str
    threshold_kind: str = ""  # of which table that is: alert, delta
    until_us: int | None = None  # of a past alert: when it was over


class NotificationDraft(msgspec.Struct, frozen=True):
    """A notification that is to be sent: one row of alert_notifications."""

    notice: Notice
    channel: str
    rule: str
    title: str
    body: str
    details: str  # JSON: what a webhook is told
    due_us: int
    digest: bool = False  # goes out with others in one message
    repeat_s: float = 0.0
    cooldown_s: float = 0.0
    suppressed: bool = False


class QueuedNotification(msgspec.Struct, frozen=True):
    """A notification that is due, as its row keeps it."""

    id: int
    event_id: str
    kind: str
    severity: str
    title: str
    body: str
    details: str
    attempts: int = 0


class ChannelMessage(msgspec.Struct, frozen=True):
    """What a channel sends at once."""

    id: str
    title: str
    body: str
    notifications: Sequence[QueuedNotification]


class ChannelBacklog(msgspec.Struct, frozen=True):
    """What a channel has sent lately and has to send."""

    sent_in_minute: int
    since_digest_s: float | None  # since the last digest; None: there was none
    due: int
    due_in_digest: int
    waited_s: float  # by the oldest of `due`
