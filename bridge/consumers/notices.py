"""What there is to tell, in words. Pure: stream events in; `Notice`s, texts and digests out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from string import Template

from bridge.consumers.api import Event
from bridge.model.notification import ChannelMessage, Notice, QueuedNotification, Subject

RANKS = {"info": 0, "warning": 1, "critical": 2}
"""Severities, the least first."""
VARIABLES = (
    "kind",
    "what",
    "severity",
    "device",
    "device_id",
    "device_uuid",
    "sensor",
    "sensor_id",
    "sensor_type",
    "value",
    "unit",
    "at",
    "until",
    "reason",
    "alert_id",
    "threshold_id",
    "threshold_kind",
)
"""Names that templates may use, as in $device."""
TITLE = "$severity: $device / $sensor $what"
BODY = "$what: $device / $sensor is at $value $unit ($severity), $at. $reason"
PAST = "$device / $sensor was out of range from $at to $until, first at $value $unit ($severity). Late readings say so"
DECISION = "$what: $device / $sensor ($severity), $at. $reason"
DIGEST_LINES = 20
"""Notifications that a digest names; of the rest it says how many."""


RESOLUTIONS = {
    "threshold_changed": "its threshold was changed",
    "threshold_removed": "its threshold was removed",
    "sensor_inactive": "its sensor was switched off",
    "device_disabled": "its device was disabled",
}
"""Why it is over, where no reading says so."""


def is_told_already(event: Event) -> bool:
    """Whether an entry is the end of a past alert: its beginning, right before, tells of both."""
    return event.fields.get("past") == "1" and event.fields.get("kind") == "resolved"


def notice(event: Event) -> Notice:
    """Read an entry of iot:alerts or iot:decisions. Raises KeyError or ValueError where it is not of that form."""
    fields = event.fields
    decision = fields.get("decision", "")
    severity = fields.get("severity", "warning")
    if severity not in RANKS:
        raise ValueError(f"no severity {severity!r}")
    # The procedure's event ids begin with the table that alert_id is of: "a-" alerts, "w-" ml_events.
    of_alert = not decision and event.event_id.startswith("a-")
    is_past = fields.get("past") == "1"
    return Notice(
        event_id=event.event_id,
        kind="decision" if decision else "past" if is_past else fields["kind"],
        what=decision or ("past alert" if is_past else fields["kind"]),
        severity=severity,
        sensor_id=event.sensor_id,
        value=fields.get("value", ""),
        at_us=_us(fields["at"] if decision else fields["triggered_at"]),
        alert_id=int(fields["alert_id"]) if of_alert else None,
        threshold_id=fields.get("threshold_id", ""),
        reason=fields.get("reason", "") or RESOLUTIONS.get(fields.get("resolution", ""), ""),
        threshold_kind=fields.get("threshold_kind", ""),
        until_us=_us(fields["resolved_at"]) if is_past else None,
    )


def variables(told: Notice, subject: Subject, zone: tzinfo) -> dict[str, str]:
    """Return the variables that templates and webhooks may use."""
    return {
        "kind": told.kind,
        "what": told.what.replace("_", " "),
        "severity": told.severity,
        "device": subject.device,
        "device_id": str(subject.device_id or ""),
        "device_uuid": subject.device_uuid,
        "sensor": subject.sensor,
        "sensor_id": str(told.sensor_id or ""),
        "sensor_type": subject.sensor_type,
        "value": told.value,
        "unit": subject.unit,
        "at": _moment(told.at_us, zone),
        "until": "" if told.until_us is None else _moment(told.until_us, zone),
        "reason": told.reason,
        "alert_id": "" if told.alert_id is None else str(told.alert_id),
        "threshold_id": told.threshold_id,
        "threshold_kind": told.threshold_kind,
    }


def _moment(us: int, zone: tzinfo) -> str:
    return datetime.fromtimestamp(us / 1_000_000, zone).isoformat(timespec="seconds")


def _us(text: str) -> int:
    return round(float(text) * 1_000_000)


def fill(template: str, values: Mapping[str, str]) -> str:
    """Fill the variables into a template; runs of spaces that empty ones leave become one."""
    return re.sub(" {2,}", " ", Template(template).safe_substitute(values)).strip()


def unknown_variables(template: str) -> list[str]:
    """Return the names in a template that are no variables."""
    found = Template(template)
    if not found.is_valid():
        return ["$"]
    return [name for name in found.get_identifiers() if name not in VARIABLES]


def single(notifications: Sequence[QueuedNotification]) -> ChannelMessage:
    """Make a message of one notification."""
    [notification] = notifications
    return ChannelMessage(notification.event_id, notification.title, notification.body, notifications)


def digest(notifications: Sequence[QueuedNotification]) -> ChannelMessage:
    """Make one message of many notifications: how many of what, the worst first."""
    if len(notifications) == 1:
        return single(notifications)
    counts = Counter((notification.severity, notification.kind) for notification in notifications)
    worst = sorted(counts, key=lambda pair: (-RANKS.get(pair[0], 0), pair[1]))
    summary = ", ".join(f"{counts[pair]:,} {pair[0]} {pair[1]}" for pair in worst)
    named = sorted(notifications, key=lambda notification: (-RANKS.get(notification.severity, 0), notification.id))[
        :DIGEST_LINES
    ]
    lines = [notification.body for notification in named]
    if len(notifications) > len(named):
        lines.append(f"… and {len(notifications) - len(named):,} more; they are all in alert_notifications.")
    title = f"{len(notifications):,} notifications: {summary}"
    return ChannelMessage(
        f"digest-{notifications[0].id}-{notifications[-1].id}", title, "\n".join(lines), notifications
    )
