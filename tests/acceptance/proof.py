"""Holds the books of devices against the table, the streams and the ledger: the proof that nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import psycopg
import redis

from tests.acceptance.senders import Books, Reading
from tests.acceptance.service import Service

ROWS = """
    SELECT sensor_id, to_us("timestamp"), sequence FROM sensor_readings ORDER BY sensor_id, sequence
"""
"""In the order in which a device sends, and sends again, the readings of a sensor."""
PAGE = 10_000


async def prove(books: Books, service: Service, *, within_s: float = 60.0) -> dict[str, Any]:
    """Wait until everything has arrived, then assert that it has. Returns figures."""
    assert not books.complaints, books.complaints
    assert books.sent == books.acknowledged, "a device has given up"
    settled_s = await asyncio.to_thread(_wait_settled, service, len(books.sent), within_s)
    return await asyncio.to_thread(_compare, books, service) | {"settled_s": settled_s}


def _wait_settled(service: Service, readings: int, within_s: float) -> float:
    """PUBACK comes from the broker, before a reading is stored: wait for the rest, and for the outbox."""
    started_s = time.monotonic()
    with psycopg.connect(service.database, autocommit=True) as connection:
        while True:
            stored, batches = connection.execute(
                "SELECT (SELECT count(*) FROM sensor_readings), (SELECT count(*) FROM ingest_outbox)"
            ).fetchone() or (0, 0)
            if stored >= readings and not batches:
                return round(time.monotonic() - started_s, 1)
            waited = f"{stored} of {readings} stored, {batches} batches in the outbox"
            if time.monotonic() - started_s > within_s:
                raise AssertionError(f"{waited}; {service.command('ledger', '--verify', expect=None)['total']}")
            time.sleep(0.05)


def _compare(books: Books, service: Service) -> dict[str, Any]:
    with psycopg.connect(service.database, autocommit=True) as connection:
        rows = [Reading(*row) for row in connection.execute(ROWS)]
        alerts = {str(row[0]) for row in connection.execute("SELECT id FROM alerts")}
        # Their grace is for processes that come back; ours are killed.
        connection.execute("SELECT fold_dead_instances_v1(interval '0')")
    stored = Counter(rows)
    assert set(stored) == books.sent, "acknowledged and not stored, or stored and never sent"
    assert len(rows) == len(stored), "stored twice"
    events = _entries(service.redis, "iot:readings")
    first = list(dict.fromkeys(fields["event_id"] for fields in events))
    assert set(first) == {row.event_id for row in rows}, "stored and not published, or the reverse"
    assert _by_sensor(first) == _by_sensor(row.event_id for row in rows), "published in another order than sent"
    raised = {fields["alert_id"] for fields in _entries(service.redis, "iot:alerts") if fields["kind"] == "alert"}
    assert raised == alerts
    answer = service.command("ledger", "--verify", expect=None)
    assert answer["balanced"] is True, answer["problems"]
    assert (answer["total"]["pending"], answer["total"]["stored"]) == (0, len(rows)), answer["total"]
    assert answer["missing"] == []
    return {
        "stored": len(rows),
        "duplicates": answer["total"]["duplicate"],
        "published_again": len(events) - len(first),
        "alerts": len(alerts),
    }


def _entries(url: str, stream: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    after = "-"
    with redis.Redis.from_url(url, decode_responses=True) as client:
        while page := client.xrange(stream, min=after, count=PAGE):
            found.extend(fields for _, fields in page)
            after = f"({page[-1][0]}"
    return found


def _by_sensor(event_ids: Any) -> dict[str, list[str]]:
    ordered: dict[str, list[str]] = {}
    for event_id in event_ids:
        ordered.setdefault(event_id.partition("-")[0], []).append(event_id)
    return ordered
