"""Which notice goes to which channel, when, and in which words; and what the configuration refuses."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from bridge.consumers.api import Event
from bridge.consumers.notices import digest, is_told_already, notice
from bridge.consumers.rules import RuleBook, quiet_until_us, with_cooldown
from bridge.errors import ConfigError
from bridge.model.notification import Notice, NotificationDraft, QueuedNotification, Subject
from bridge.settings.consumers import NotifierSettings
from bridge.settings.service import load

ZURICH = "Europe/Zurich"
SUBJECT = Subject(7, "inlet", "temperature", "°C", 3, "5f0c1f5e-0000-4000-8000-000000000001", "pump-north")


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1_000_000)


NOON_US = us("2026-03-01T12:00:00+00:00")


def told(kind: str = "alert", severity: str = "critical", event_id: str = "a-9-alert") -> Notice:
    at = str(NOON_US // 1_000_000)
    fields = {"event_id": event_id, "sensor_id": "7", "severity": severity}
    if kind == "decision":
        fields |= {"decision": "device_offline", "reason": "silent for 5 min", "at": at}
    else:
        fields |= {"kind": kind, "alert_id": "9", "value": "99.5", "threshold_id": "2", "triggered_at": at}
    return notice(Event("iot:alerts", "1-1", fields))


def book(*rules: dict[str, Any], **settings: Any) -> RuleBook:
    channels = [{"name": name, "url": f"json://{name}"} for name in ("mail", "chat")]
    named = [{"name": f"r{i}", "channels": ["mail"]} | rule for i, rule in enumerate(rules)]
    return RuleBook(NotifierSettings.model_validate({"channels": channels, "rules": named} | settings))


def sent(
    rules: RuleBook, *notices: Notice, subject: Subject = SUBJECT, now_us: int = NOON_US
) -> list[NotificationDraft]:
    return [each for one in notices for each in rules.drafts(one, subject, now_us)]


def test_notice_reads_alerts_and_decisions() -> None:
    alert = told()
    assert (alert.kind, alert.what, alert.alert_id, alert.value, alert.at_us) == ("alert", "alert", 9, "99.5", NOON_US)
    assert told(event_id="w-9-warning").alert_id is None
    decision = told("decision")
    assert (decision.kind, decision.what, decision.reason) == ("decision", "device_offline", "silent for 5 min")


def past_alert(kind: str = "alert") -> Event:
    at = NOON_US // 1_000_000
    fields = {"event_id": f"a-9-{kind}", "sensor_id": "7", "severity": "critical", "kind": kind, "alert_id": "9"}
    times = {"triggered_at": str(at - 7200), "resolved_at": str(at - 3600)}
    return Event("iot:alerts", "1-1", fields | times | {"value": "-2.5", "threshold_id": "2", "past": "1"})


def test_past_alert_is_told_as_past_and_once() -> None:
    rules = book({"kinds": ["alert"]}, timezone=ZURICH)
    [draft] = sent(rules, notice(past_alert()))
    assert draft.title == "critical: pump-north / inlet past alert"
    assert draft.body == (
        "pump-north / inlet was out of range from 2026-03-01T11:00:00+01:00 to 2026-03-01T12:00:00+01:00,"
        " first at -2.5 °C (critical). Late readings say so"
    )
    assert msgspec.json.decode(draft.details)["until"] == "2026-03-01T12:00:00+01:00"
    assert [is_told_already(past_alert(kind)) for kind in ("alert", "resolved")] == [False, True]
    assert not is_told_already(Event("iot:alerts", "1-1", {"kind": "resolved"}))
    assert sent(book({"kinds": ["resolved", "decision"]}), notice(past_alert())) == []


def test_past_alert_holds_back_no_alert_that_burns() -> None:
    past, now = sent(book({"cooldown_s": 600}), notice(past_alert()), told())
    assert not any(draft.suppressed for draft in with_cooldown([past, now], {}, NOON_US))


def test_resolved_says_why_where_no_reading_does() -> None:
    fields = {"event_id": "a-9-resolved", "kind": "resolved", "severity": "info", "triggered_at": "1", "alert_id": "9"}
    for resolution, reason in (
        ("threshold_removed", "its threshold was removed"),
        ("threshold_changed", "its threshold was changed"),
        ("sensor_inactive", "its sensor was switched off"),
        ("device_disabled", "its device was disabled"),
        ("in_range", ""),
        ("of a later release", ""),
    ):
        event = Event("iot:alerts", "1-1", fields | {"sensor_id": "7", "resolution": resolution})
        assert notice(event).reason == reason


@pytest.mark.parametrize("missing", ["kind", "triggered_at", "alert_id"])
def test_notice_of_another_form_is_refused(missing: str) -> None:
    fields = {"event_id": "a-1-alert", "kind": "alert", "severity": "info", "triggered_at": "1", "alert_id": "1"}
    with pytest.raises((KeyError, ValueError)):
        notice(Event("iot:alerts", "1-1", {name: text for name, text in fields.items() if name != missing}))


def test_rule_chooses_by_kind_severity_and_type() -> None:
    rules = book({"kinds": ["alert"], "severity": "warning", "sensor_types": ["temperature"]})
    assert len(sent(rules, told())) == 1
    assert len(sent(rules, told(severity="warning"))) == 1
    assert sent(rules, told(severity="info"), told("resolved"), told("decision")) == []
    assert sent(rules, told(), subject=msgspec.structs.replace(SUBJECT, sensor_type="humidity")) == []


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        ({"devices": ["pump-*"]}, True),
        ({"devices": ["3"]}, True),
        ({"devices": ["5F0C1F5E-0000-4000-8000-000000000001"]}, True),
        ({"devices": ["valve-*", "33"]}, False),
        ({"groups": ["north"]}, True),
        ({"groups": ["south"]}, False),
        ({"groups": ["south"], "devices": ["3"]}, True),
    ],
)
def test_rule_chooses_by_device_and_group(rule: dict[str, Any], fits: bool) -> None:
    groups = {"north": ["*-north"], "south": ["*-south"]}
    assert bool(sent(book(rule, groups=groups), told())) == fits


def test_each_channel_is_told_once_by_the_first_rule_that_fits() -> None:
    rules = book({"channels": ["mail"], "title": "first"}, {"channels": ["chat", "mail"], "title": "second"})
    assert {each.channel: each.title for each in sent(rules, told())} == {"mail": "first", "chat": "second"}


def test_texts_are_filled_in() -> None:
    [standard] = sent(book({}), told())
    assert standard.title == "critical: pump-north / inlet alert"
    assert standard.body == "alert: pump-north / inlet is at 99.5 °C (critical), 2026-03-01T12:00:00+00:00."
    [decision] = sent(book({"kinds": ["decision"]}), told("decision"))
    assert decision.body == (
        "device offline: pump-north / inlet (critical), 2026-03-01T12:00:00+00:00. silent for 5 min"
    )
    [own] = sent(book({"title": "$$ $device_id $what", "body": "${reason}"}, timezone=ZURICH), told())
    assert own.title == "$ 3 alert"
    details = msgspec.json.decode(own.details)
    assert details["at"] == "2026-03-01T13:00:00+01:00"
    assert details["event_id"] == "a-9-alert"


def test_template_with_an_unknown_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rule 'r0': no variable \$devise"):
        book({"title": "$devise"})


@pytest.mark.parametrize(
    ("span", "at", "until"),
    [
        ("22:00-06:00", "2026-03-01T21:59:00+01:00", None),
        ("22:00-06:00", "2026-03-01T22:00:00+01:00", "2026-03-02T06:00:00+01:00"),
        ("22:00-06:00", "2026-03-02T05:59:59+01:00", "2026-03-02T06:00:00+01:00"),
        ("22:00-06:00", "2026-03-02T06:00:00+01:00", None),
        ("12:00-13:00", "2026-03-01T12:30:00+01:00", "2026-03-01T13:00:00+01:00"),
        # The night in which clocks are put forward.
        ("22:00-06:00", "2026-03-28T23:00:00+01:00", "2026-03-29T06:00:00+02:00"),
    ],
)
def test_quiet_hours_end_by_the_clock_on_the_wall(span: str, at: str, until: str | None) -> None:
    assert quiet_until_us(span, us(at), ZoneInfo(ZURICH)) == (until and us(until))


def test_quiet_hours_gather_all_but_the_loud() -> None:
    rules = book({"quiet": "11:00-13:00"})
    loud, soft = sent(rules, told(), told(severity="warning"))
    assert (loud.due_us, loud.digest) == (NOON_US, False)
    assert (soft.due_us, soft.digest) == (us("2026-03-01T13:00:00+00:00"), True)
    [silenced] = sent(book({"quiet": "11:00-13:00", "quiet_except": None}), told())
    assert silenced.digest


def test_digest_rule_gathers_until_the_next_boundary() -> None:
    [first] = sent(book({"digest_s": 3600}), told(), now_us=us("2026-03-01T12:59:00+00:00"))
    assert (first.due_us, first.digest) == (us("2026-03-01T13:00:00+00:00"), True)


def test_cooldown_suppresses_the_same_kind_from_the_same_sensor() -> None:
    rules = book({"cooldown_s": 60, "severity": "info"})
    last: dict[tuple[int, str, str, str], int] = {}
    batch = sent(rules, told(event_id="a-1-alert"), told("resolved"), told(event_id="a-2-alert"))
    assert [each.suppressed for each in with_cooldown(batch, last, NOON_US)] == [False, False, True]
    later = with_cooldown(batch[:1], last, NOON_US + 61_000_000)
    assert [each.suppressed for each in later] == [False]


def test_digest_says_how_many_of_what_and_names_the_worst() -> None:
    notifications = [
        QueuedNotification(i, f"a-{i}", "alert", "critical" if i % 100 == 0 else "warning", "t", f"line {i}", "{}")
        for i in range(1, 10_001)
    ]
    message = digest(notifications)
    assert message.title == "10,000 notifications: 100 critical alert, 9,900 warning alert"
    lines = message.body.splitlines()
    assert lines[0] == "line 100"
    assert lines[-1] == "… and 9,980 more; they are all in alert_notifications."
    assert len(lines) == 21
    assert digest(notifications[:1]).title == "t"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[notifier.rules]]\nname = "a"\nchannels = ["mail"]', "notifier: rule 'a': no channel 'mail'"),
        (
            '[notifier]\ntimezone = "Mars/North"',
            "notifier.timezone = 'Mars/North': no such time zone; name one of the tz database, e.g. Europe/Madrid",
        ),
        (
            '[[notifier.channels]]\nname = "a"\nwebhook = "http://x"',
            "notifier.channels.0: a webhook needs a secret, which its posts are signed with",
        ),
        (
            '[[notifier.channels]]\nname = "a"\nurl = "mailto://u:hush@x"\nwebhook = "http://x"',
            "notifier.channels.0: a channel has either url (Apprise) or webhook",
        ),
    ],
)
def test_settings_say_what_is_wrong_and_keep_secrets(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(tmp_path / "c.toml")
    assert refused.value.problems == [problem]
