"""Which notice goes to which channel, when, and in which words. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

import msgspec

from bridge.consumers.notices import BODY, DECISION, PAST, RANKS, TITLE, fill, unknown_variables, variables
from bridge.errors import ConfigError
from bridge.model.notification import Notice, NotificationDraft, Subject
from bridge.settings.consumers import NotifierSettings, RuleSettings

BODIES = {"decision": DECISION, "past": PAST}
"""What is told of a kind of notice, where that is not BODY."""


class RuleBook:
    """Applies the rules of the configuration. Raises ConfigError for templates that name what is not there."""

    def __init__(self, settings: NotifierSettings) -> None:
        self._rules = settings.rules
        self._groups = settings.groups
        self._zone = ZoneInfo(settings.timezone)
        self.longest_cooldown_s = max((rule.cooldown_s for rule in settings.rules), default=0.0)
        problems = [
            f"notifier.rules: rule {rule.name!r}: no variable ${name} in {template!r}"
            for rule in settings.rules
            for template in (rule.title, rule.body)
            for name in unknown_variables(template)
        ]
        if problems:
            raise ConfigError(problems)

    def drafts(self, notice: Notice, subject: Subject, now_us: int) -> list[NotificationDraft]:
        """Return what is to be sent of a notice: to each channel once, by the first rule that fits."""
        found: dict[str, NotificationDraft] = {}
        for rule in self._rules:
            if self._fits(rule, notice, subject):
                for channel in rule.channels:
                    if channel not in found:
                        found[channel] = self._draft(rule, channel, notice, subject, now_us)
        return list(found.values())

    def _fits(self, rule: RuleSettings, notice: Notice, subject: Subject) -> bool:
        kind = "alert" if notice.kind == "past" else notice.kind
        if kind not in rule.kinds or RANKS[notice.severity] < RANKS[rule.severity]:
            return False
        if rule.sensor_types and subject.sensor_type not in rule.sensor_types:
            return False
        patterns = [*rule.devices, *(pattern for group in rule.groups for pattern in self._groups[group])]
        return not (rule.devices or rule.groups) or _is_one_of(subject, patterns)

    def _draft(
        self, rule: RuleSettings, channel: str, notice: Notice, subject: Subject, now_us: int
    ) -> NotificationDraft:
        values = variables(notice, subject, self._zone)
        due_us, digest = now_us, False
        if rule.digest_s:
            span_us = round(rule.digest_s * 1_000_000)
            due_us, digest = (now_us // span_us + 1) * span_us, True
        is_loud = rule.quiet_except is not None and RANKS[notice.severity] >= RANKS[rule.quiet_except]
        if rule.quiet and not is_loud:
            ends_us = quiet_until_us(rule.quiet, due_us, self._zone)
            due_us, digest = (ends_us, True) if ends_us is not None else (due_us, digest)
        return NotificationDraft(
            notice,
            channel,
            rule.name,
            fill(rule.title or TITLE, values),
            fill(rule.body or BODIES.get(notice.kind, BODY), values),
            msgspec.json.encode(values | {"event_id": notice.event_id}).decode(),
            due_us,
            digest,
            rule.repeat_s,
            rule.cooldown_s,
        )


def quiet_until_us(span: str, at_us: int, zone: ZoneInfo) -> int | None:
    """Return when the quiet hours ("22:00-06:00") that `at_us` lies in end; None where it lies in none."""
    at = datetime.fromtimestamp(at_us / 1_000_000, zone)
    begin, end = (datetime.strptime(text, "%H:%M").time() for text in span.split("-"))
    clock = at.time()
    inside = begin <= clock < end if begin <= end else clock >= begin or clock < end
    if not inside:
        return None
    ends = datetime.combine(at.date() + timedelta(days=1 if clock >= end else 0), end, zone)
    return round(ends.timestamp() * 1_000_000)


def with_cooldown(
    drafts: Iterable[NotificationDraft], last_us: dict[tuple[int, str, str, str], int], now_us: int
) -> list[NotificationDraft]:
    """Suppress the drafts whose sensor was notified within their cool-down. Keeps `last_us` up to date."""
    decided: list[NotificationDraft] = []
    for each in drafts:
        key = (each.notice.sensor_id, each.channel, each.notice.kind, each.notice.severity)
        since_us = now_us - last_us.get(key, -(2**62))
        if each.cooldown_s and since_us < each.cooldown_s * 1_000_000:
            decided.append(msgspec.structs.replace(each, suppressed=True))
        else:
            last_us[key] = now_us
            decided.append(each)
    return decided


def _is_one_of(subject: Subject, patterns: Sequence[str]) -> bool:
    return any(
        pattern == str(subject.device_id)
        or pattern.lower() == subject.device_uuid
        or fnmatchcase(subject.device, pattern)
        for pattern in patterns
    )
