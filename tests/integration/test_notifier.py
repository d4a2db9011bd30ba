"""The notifier against a real database, a real SMTP server, and a webhook receiver."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge.broker.events import ALERT_FIELDS, ALERTS, alert_rows
from bridge.broker.redis import RedisBroker
from bridge.consumers.api import Event, Handler, Tools
from bridge.consumers.builtin import notifier
from bridge.consumers.senders import DeliveryFailed, WebhookSender, signature
from bridge.errors import StoreUnavailable
from bridge.model.notification import ChannelMessage, QueuedNotification
from bridge.model.reading import Publication
from bridge.settings.consumers import ChannelSettings
from bridge.settings.service import Settings
from bridge.settings.stores import BrokerSettings, RedisSettings
from bridge.store.postgres import alert_event
from bridge.telemetry import Metrics
from tests.support.consumer_process import ConsumerProcess
from tests.support.plant import Plant, at, connect
from tests.support.receivers import MailServer, WebhookReceiver
from tests.support.servers import PostgresServer, RedisServer, until

SECRET = "not much of a secret"
REPEAT_S = 0.01


@pytest.fixture
def hook() -> Iterator[WebhookReceiver]:
    receiver = WebhookReceiver()
    yield receiver
    receiver.close()


@pytest.fixture
def mail() -> Iterator[MailServer]:
    server = MailServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def plant(postgres_url: str) -> Iterator[Plant]:
    with connect(postgres_url) as connection:
        yield Plant(connection)


def configuration(hook: WebhookReceiver, mail: MailServer | None = None, **rule: Any) -> dict[str, Any]:
    """Everything to the webhook, and to the mail server where there is one."""
    channels: list[dict[str, Any]] = [
        {"name": "hook", "webhook": hook.url, "secret": SECRET, "digest_wait_s": 1.0, "timeout_s": 10.0}
    ]
    if mail is not None:
        channels.append({"name": "mail", "url": mail.url})
    names = [channel["name"] for channel in channels]
    rules = [{"name": "all", "channels": names, "severity": "info"} | rule]
    return {"channels": channels, "rules": rules, "retry_min_s": 0.05, "retry_max_s": 0.2}


class Silent:
    """Streams that nothing is appended to."""

    async def append(self, stream: str, fields: object) -> None:
        raise AssertionError(stream)


@asynccontextmanager
async def opened(postgres_url: str, notifier_settings: dict[str, Any]) -> AsyncIterator[Handler]:
    settings = Settings.model_validate({"database": {"url": postgres_url}, "notifier": notifier_settings})
    async with notifier.open(Tools(settings, Metrics(), Silent(), lambda: time.time_ns() // 1_000)) as handler:
        yield handler


def alert(plant: Plant, number: int, kind: str = "alert", severity: str = "critical", alert_id: int = 0) -> Event:
    fields = {
        "event_id": f"a-{number}-{kind}",
        "alert_id": str(alert_id or number),
        "sensor_id": str(plant.sensor),
        "kind": kind,
        "severity": severity,
        "value": "99.5",
        "threshold_id": "",
        "triggered_at": f"{time.time():.6f}",
    }
    return Event(ALERTS, f"{number}-{number}", fields)


def rows(plant: Plant) -> list[dict[str, Any]]:
    return plant.all("SELECT * FROM alert_notifications ORDER BY id")


def repeat_is_due(plant: Plant) -> bool:
    """Whether `repeat_s` has passed for the notification that was sent last, by the database's clock."""
    [row] = plant.all(
        "SELECT clock_timestamp() - max(sent_at) >= make_interval(secs => %(after_s)s) AS due FROM alert_notifications",
        after_s=REPEAT_S,
    )
    return bool(row["due"])


def all_are(plant: Plant, status: str, count: int) -> bool:
    found = rows(plant)
    return len(found) == count and all(row["status"] == status for row in found)


async def test_alert_is_mailed_and_posted_with_a_signature(
    postgres_url: str, plant: Plant, hook: WebhookReceiver, mail: MailServer
) -> None:
    plant.threshold("greater_than", 50.0, severity="critical")
    plant.store(99.5, 1.0)
    [raised] = plant.alerts
    async with opened(postgres_url, configuration(hook, mail)) as handler:
        await handler.handle([alert(plant, raised["id"])])
        await until(lambda: hook.posts and mail.mails, 20)
        await until(lambda: all_are(plant, "sent", 2), 20)
    [post] = hook.posts
    timestamp = post.headers["x-iot-bridge-timestamp"]
    assert abs(int(timestamp) - time.time()) < 60
    assert post.headers["x-iot-bridge-signature"] == signature(SECRET, timestamp, post.body)
    assert post.document["title"] == "critical: pump / inlet alert"
    [told] = post.document["events"]
    assert (told["sensor_id"], told["device"], told["value"]) == (str(plant.sensor), "pump", "99.5")
    assert mail.subjects == ["critical: pump / inlet alert"]
    assert "is at 99.5" in mail.mails[0].get_content()
    record = rows(plant)[0]
    assert (record["alert_id"], record["rule"], record["kind"]) == (raised["id"], "all", "alert")
    assert record["sent_at"] is not None
    assert record["error"] is None


async def test_event_that_comes_again_is_not_told_again(postgres_url: str, plant: Plant, hook: WebhookReceiver) -> None:
    for _ in range(2):  # the second time as another process
        async with opened(postgres_url, configuration(hook)) as handler:
            await handler.handle([alert(plant, 1), alert(plant, 1)])
            await until(lambda: all_are(plant, "sent", 1), 20)
            await handler.handle([alert(plant, 1)])
    async with opened(postgres_url, configuration(hook)) as handler:
        await handler.handle([alert(plant, 1), alert(plant, 2)])
        await until(lambda: all_are(plant, "sent", 2), 20)
    assert [post.document["id"] for post in hook.posts] == ["a-1-alert", "a-2-alert"]


async def test_storm_becomes_a_digest(postgres_url: str, plant: Plant, hook: WebhookReceiver) -> None:
    settings = configuration(hook)
    settings["channels"][0] |= {"digest_wait_s": 2.0, "digest_every_s": 2.0}
    async with opened(postgres_url, settings) as handler:
        for start in range(1, 10_001, 500):
            await handler.handle([alert(plant, number) for number in range(start, start + 500)])
        await until(lambda: all_are(plant, "sent", 10_000), 60)
    assert len(hook.posts) <= 5  # one, unless the machine records them for longer than a digest waits
    assert sum(post.document["count"] for post in hook.posts) == 10_000
    assert "notifications" in hook.posts[0].document["title"]


async def test_channel_that_is_down_is_tried_until_it_is_back(
    postgres_url: str, plant: Plant, hook: WebhookReceiver, mail: MailServer
) -> None:
    mail.stop()
    hook.answers = [500, 302, 429]
    async with opened(postgres_url, configuration(hook, mail)) as handler:
        await handler.handle([alert(plant, 1)])
        await until(lambda: hook.posts, 20)  # the other channel does not wait for mail

        def mail_failed() -> bool:
            return any(row["channel"] == "mail" and row["attempts"] >= 1 and row["error"] for row in rows(plant))

        await until(mail_failed, 20)
        mail.start()
        await until(lambda: all_are(plant, "sent", 2), 20)
    assert len(mail.mails) == 1
    assert len(hook.posts) == 1
    assert {row["channel"]: row["attempts"] for row in rows(plant)}["hook"] == 4


async def test_channel_that_stays_down_is_given_up(postgres_url: str, plant: Plant, hook: WebhookReceiver) -> None:
    hook.answers = [500] * 1000
    async with opened(postgres_url, configuration(hook) | {"give_up_s": 0.2}) as handler:
        await handler.handle([alert(plant, 1)])
        await until(lambda: all_are(plant, "failed", 1), 20)
    assert rows(plant)[0]["error"] == "the webhook answers 500"
    assert hook.posts == []


async def test_database_that_restarts_meanwhile(
    postgres_url: str, postgres_server: PostgresServer, hook: WebhookReceiver
) -> None:
    with connect(postgres_url) as connection:
        sensor = Plant(connection).sensor

    class Known:
        pass

    known: Any = Known()
    known.sensor = sensor
    async with opened(postgres_url, configuration(hook)) as handler:
        await handler.handle([alert(known, 1)])
        await until(lambda: len(hook.posts) == 1, 20)
        postgres_server.stop("immediate")
        postgres_server.start()

        async def handled() -> bool:
            try:
                await handler.handle([alert(known, 2)])
            except StoreUnavailable:
                return False
            return True

        await until(handled, 30)
        await until(lambda: len(hook.posts) == 2, 20)
    assert sorted(post.document["id"] for post in hook.posts) == ["a-1-alert", "a-2-alert"]


async def test_active_alert_is_repeated_until_it_is_acknowledged(
    postgres_url: str, plant: Plant, hook: WebhookReceiver
) -> None:
    plant.threshold("greater_than", 50.0, severity="critical")
    plant.store(99.5, 1.0)
    [raised] = plant.alerts
    async with opened(postgres_url, configuration(hook, repeat_s=REPEAT_S)) as handler:
        await handler.handle([alert(plant, raised["id"])])
        for times in (1, 2, 3):
            await until(lambda expected=times: all_are(plant, "sent", expected), 20)  # type: ignore[misc]
            await until(lambda: repeat_is_due(plant), 20)
            await handler.tick()
            await handler.tick()
        await until(lambda: all_are(plant, "sent", 4), 20)
        plant.all("UPDATE alerts SET status = 'acknowledged' RETURNING id")
        await until(lambda: repeat_is_due(plant), 20)
        await handler.tick()
    assert len(rows(plant)) == 4
    assert len({post.document["id"] for post in hook.posts}) == 4


async def test_cooldown_is_kept_over_a_restart(postgres_url: str, plant: Plant, hook: WebhookReceiver) -> None:
    for number in (1, 2):
        async with opened(postgres_url, configuration(hook, cooldown_s=3600)) as handler:
            await handler.handle([alert(plant, number)])
            await until(lambda: hook.posts, 20)
    assert [row["status"] for row in rows(plant)] == ["sent", "suppressed"]


async def test_two_processes_share_the_work(postgres_url: str, plant: Plant, hook: WebhookReceiver) -> None:
    settings = configuration(hook)
    settings["channels"][0]["per_minute"] = 1_000
    async with opened(postgres_url, settings) as one, opened(postgres_url, settings) as two:
        await asyncio.gather(
            one.handle([alert(plant, number) for number in range(1, 60)]),
            two.handle([alert(plant, number) for number in range(30, 90)]),
        )
        await until(lambda: all_are(plant, "sent", 89), 60)
    assert sorted(post.document["id"] for post in hook.posts) == sorted(f"a-{number}-alert" for number in range(1, 90))


async def test_event_of_a_sensor_that_is_gone_is_told_all_the_same(
    postgres_url: str, plant: Plant, hook: WebhookReceiver
) -> None:
    gone = alert(plant, 1)
    plant.all("DELETE FROM devices RETURNING id")
    async with opened(postgres_url, configuration(hook)) as handler:
        await handler.handle([gone])
        await until(lambda: hook.posts, 20)
    assert hook.posts[0].document["title"] == f"critical: ? / sensor {plant.sensor} alert"


async def test_old_rows_are_dropped(postgres_url: str, plant: Plant, hook: WebhookReceiver) -> None:
    plant.all(
        "INSERT INTO alert_notifications (channel, status, created_at) VALUES"
        " ('old', 'sent', now() - interval '91 days'), ('open', 'pending', now() - interval '91 days'),"
        " ('new', 'sent', now()) RETURNING id"
    )
    async with opened(postgres_url, configuration(hook)) as handler:
        await handler.tick()
    assert [row["channel"] for row in rows(plant)] == ["open", "new"]


async def test_webhook_that_does_not_answer_is_a_failed_delivery() -> None:
    channel = ChannelSettings(name="h", webhook="http://127.0.0.1:9/x", secret=SECRET, timeout_s=2)
    notification = QueuedNotification(1, "a-1", "alert", "info", "t", "b", "{}")
    with pytest.raises(DeliveryFailed):
        await WebhookSender(channel).send(ChannelMessage("a-1", "t", "b", [notification]))


async def test_process_killed_and_started_again_tells_everything_once(
    postgres_url: str, plant: Plant, hook: WebhookReceiver, redis_server: RedisServer, tmp_path: Path
) -> None:
    settings = configuration(hook)
    settings["channels"][0]["per_minute"] = 1_000
    broker = RedisBroker(RedisSettings(url=redis_server.url), BrokerSettings(), Metrics())

    def process() -> ConsumerProcess:
        made = ConsumerProcess(
            tmp_path,
            "notifier",
            database__url=postgres_url,
            redis__url=redis_server.url,
            consumers__claim_after_s="0.5",
            notifier__channels=json.dumps(settings["channels"]),
            notifier__rules=json.dumps(settings["rules"]),
        )
        made.start()
        return made

    first = process()
    for number in range(1, 21):
        await broker.append(ALERTS, alert(plant, number).fields)
    await until(lambda: len(hook.posts) >= 3, 30)
    first.kill()
    # What was being sent when it died is sent again after FORGOTTEN_S; here nobody waits for it.
    plant.all(
        "UPDATE alert_notifications SET claimed_at = now() - interval '1 hour' WHERE status = 'sending' RETURNING id"
    )
    second = process()
    for number in range(15, 31):
        await broker.append(ALERTS, alert(plant, number).fields)
    await until(lambda: all_are(plant, "sent", 30), 60)
    assert second.stop() == 0, second.log
    ids = [post.document["id"] for post in hook.posts]
    assert {*ids} == {f"a-{number}-alert" for number in range(1, 31)}
    assert len(ids) - len({*ids}) <= 1  # at most the one that was under way
    await broker.close()


async def test_past_alert_is_told_with_the_times_that_are_known_by_now(
    postgres_url: str, hook: WebhookReceiver, plant: Plant
) -> None:
    """Its events say what was known when it was raised; more of the backlog has come since."""
    plant.threshold("greater_than", 50)
    plant.store(20.0, 100)
    raised, resolved = plant.store(60.0, 10).events
    plant.store(20.0, 30)
    publication = Publication(1, 1, [], [], 0, [alert_event(raised), alert_event(resolved)])
    pair = [
        Event(ALERTS, f"1-{place}", dict(zip(ALERT_FIELDS, row, strict=True)))
        for place, row in enumerate(alert_rows(publication))
    ]
    async with opened(postgres_url, configuration(hook)) as handler:
        await handler.handle(pair)
        await handler.handle(pair)
        await until(lambda: all_are(plant, "sent", 1), 20)
    [row] = rows(plant)
    assert (row["kind"], row["details"]["at"]) == ("past", at(10).isoformat(timespec="seconds"))
    assert row["details"]["until"] == at(30).isoformat(timespec="seconds")
