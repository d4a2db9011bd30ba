"""The HTTP door over the real pipeline: what clients get while PostgreSQL is away or slow, keys, statuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from bridge.auth.key_cache import hash_key
from tests.support.http_door import open_service
from tests.support.servers import PostgresServer, TcpProxy, until

QUICK_S = 1.5
"""Far below every timeout that could be waited for; wide for a machine that is busy."""


class RegisteredDevice:
    """A registered device with two sensors and two keys, and an API key."""

    def __init__(self, url: str) -> None:
        self.database = psycopg.connect(url, autocommit=True, row_factory=dict_row)
        device = self.one("INSERT INTO devices (name) VALUES ('shed') RETURNING id, device_uuid::text")
        self.device_id, self.device = device["id"], device["device_uuid"]
        sensor = "INSERT INTO sensors (device_id, name, sensor_type) VALUES (%s, %s, 'temperature')"
        made = [self.one(f"{sensor} RETURNING id, sensor_uuid::text", self.device_id, name) for name in ("air", "soil")]
        self.sensor_id, self.sensor = made[0]["id"], made[0]["sensor_uuid"]
        for key in ("key-1", "key-2"):
            self.do(
                "INSERT INTO device_api_keys (device_id, api_key_hash) VALUES (%s, %s)", self.device_id, hash_key(key)
            )
        for key in ("api-1", "api-2"):
            self.do("INSERT INTO api_keys (name, api_key_hash) VALUES (%s, %s)", key, hash_key(key))
        self.do("DELETE FROM registry_changes")  # or what was just made is asked for at every poll, for a while

    def do(self, query: str, *arguments: Any) -> None:
        self.database.execute(query.encode(), arguments)

    def one(self, query: str, *arguments: Any) -> dict[str, Any]:
        row = self.database.execute(query.encode(), arguments).fetchone()
        assert row is not None
        return row

    def stored(self) -> int:
        return int(self.one("SELECT count(*) FROM sensor_readings")["count"])

    def requests(self, number: int) -> list[tuple[str, str, dict[str, str], dict[str, Any] | None]]:
        """One of every route that needs the database, with the keys of this number: method, path, headers, body."""
        now = time.time()
        packet = {"readings": [{"sensor_uuid": self.sensor, "value": 20.5, "sensor_ts": now}]}
        reading = {"sensor_id": self.sensor_id, "value": 20.5, "timestamp": now + 1}
        device, api = {"X-Device-Key": f"key-{number}"}, {"X-API-Key": f"api-{number}"}
        return [
            ("POST", f"/devices/{self.device}/readings", device, packet),
            ("POST", "/ingest/packets", device, {"device_uuid": self.device, **packet}),
            ("POST", "/ingest/readings", api, reading),
            ("POST", "/ingest/readings/bulk", api, {"readings": [reading]}),
            ("GET", f"/sensors/{self.sensor_id}/status", api, None),
        ]


@pytest.fixture
def site(postgres_url: str) -> Iterator[RegisteredDevice]:
    made = RegisteredDevice(postgres_url)
    yield made
    made.database.close()


def over(proxy: TcpProxy, url: str) -> str:
    """A database's URL by way of a proxy."""
    info = conninfo_to_dict(url)
    return f"postgresql://{info.get('user', 'postgres')}@127.0.0.1:{proxy.port}/{info['dbname']}"


async def ask(client: httpx.AsyncClient, requests: list[Any]) -> list[httpx.Response]:
    return list(
        await asyncio.gather(
            *(client.request(method, path, headers=headers, json=body) for method, path, headers, body in requests)
        )
    )


async def store_one(
    client: httpx.AsyncClient, site: RegisteredDevice, key: str = "key-1", **headers: str
) -> httpx.Response:
    body = {"readings": [{"sensor_uuid": site.sensor, "value": 20.5}]}
    return await client.post(f"/devices/{site.device}/readings", json=body, headers={"X-Device-Key": key, **headers})


async def test_readings_of_a_sensor_without_a_time_in_one_packet_are_all_stored(
    site: RegisteredDevice, postgres_url: str
) -> None:
    readings = [{"sensor_uuid": site.sensor, "value": value} for value in (20.5, 20.5, 21)]
    async with open_service(postgres_url) as service, service.client(**{"X-Device-Key": "key-1"}) as client:
        for _ in range(2):  # sent again, they are known by the key
            answer = await client.post(
                f"/devices/{site.device}/readings", json={"readings": readings}, headers={"Idempotency-Key": "p-1"}
            )
            assert answer.status_code == 200
        assert (answer.json()["inserted"], answer.json()["duplicates"]) == (0, 3)
    assert site.stored() == 3


async def test_idempotency_key_with_another_body_is_compared_by_place(
    site: RegisteredDevice, postgres_url: str
) -> None:
    """Firmware whose buffer grew between tries is not trapped, and nothing of it is lost."""
    path = f"/devices/{site.device}/readings"

    def body(*values: float) -> dict[str, Any]:
        return {"readings": [{"sensor_uuid": site.sensor, "value": value} for value in values]}

    headers = {"X-Device-Key": "key-1", "Idempotency-Key": "boot-7/1"}
    async with open_service(postgres_url) as service, service.client(**headers) as client:
        first = (await client.post(path, json=body(20, 21))).json()
        grown = (await client.post(path, json=body(20, 21, 22))).json()
        other = (await client.post(path, json=body(20, 99, 22, 23))).json()
        refused = await client.post(path, json=body(97, 98))
        again = await client.post(path, json=body(97, 98))
        unchanged = (await client.post(path, json=body(20, 21, 22, 23))).json()
    assert [(a["inserted"], a["duplicates"], len(a["rejected"])) for a in (first, grown, other, unchanged)] == [
        (2, 0, 0),
        (1, 2, 0),
        (1, 2, 1),
        (0, 4, 0),
    ]
    (rejected,) = other["rejected"]
    assert (rejected["index"], rejected["code"]) == (1, "conflicting_identity")
    assert rejected["detail"] == "its key was sent with 21 before, now with 99"
    assert (refused.status_code, refused.json()["code"], again.status_code) == (422, "conflicting_identity", 422)
    assert site.stored() == 4
    kept = site.database.execute("SELECT code, payload FROM quarantine ORDER BY id").fetchall()
    assert [row["code"] for row in kept] == ["conflicting_identity"] * 5
    assert b"99" in bytes(kept[0]["payload"])
    books = site.one(
        "SELECT sum(received)::int AS received, sum(stored)::int AS stored, sum(duplicate)::int AS duplicate,"
        " sum(quarantined)::int AS quarantined, sum(returned)::int AS returned FROM ingest_ledger"
    )
    assert books == {"received": 17, "stored": 4, "duplicate": 8, "quarantined": 5, "returned": 0}


async def test_two_values_of_one_second_are_two_readings_and_sent_again_two_duplicates(
    site: RegisteredDevice, postgres_url: str
) -> None:
    at_s = int(time.time())
    path = f"/devices/{site.device}/readings"
    body = {"readings": [{"sensor_uuid": site.sensor, "value": value, "sensor_ts": at_s} for value in (19, 430)]}
    async with open_service(postgres_url) as service, service.client(**{"X-Device-Key": "key-1"}) as client:
        first = (await client.post(path, json=body)).json()
        again = (await client.post(path, json=body)).json()
        body["readings"] = [{**reading, "sequence": 1} for reading in body["readings"]]
        counted = (await client.post(path, json=body)).json()
    assert (first["inserted"], again["inserted"], again["duplicates"]) == (2, 0, 2)
    assert (counted["inserted"], [r["code"] for r in counted["rejected"]]) == (1, ["conflicting_identity"])
    assert site.stored() == 3


# -- PostgreSQL away


async def test_database_stopped_is_503_quickly_on_every_route_and_passes(
    site: RegisteredDevice, postgres_url: str, postgres_server: PostgresServer
) -> None:
    async with open_service(postgres_url) as service, service.client() as client:
        assert [answer.status_code for answer in await ask(client, site.requests(1))] == [200] * 5
        postgres_server.stop()
        await until(lambda: service.core.problem)  # without any traffic
        for number in (1, 2):  # keys that are cached, keys that are not
            started_s = time.monotonic()
            for answer in await ask(client, site.requests(number)):
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["Retry-After"]) >= 1
                assert answer.json()["code"] in ("unavailable", "store_unavailable")
            assert time.monotonic() - started_s < QUICK_S
        ready = await client.get("/health/ready")
        assert (ready.status_code, len(ready.json()["problems"])) == (503, 1)
        assert str(postgres_server.socket_path) not in ready.text, "where it is, the log says"
        assert (await client.get("/health")).status_code == 200
        postgres_server.start()
        await until(lambda: not service.core.problem, 20)
        assert [answer.status_code for answer in await ask(client, site.requests(2))] == [200] * 5
        assert (await client.get("/health/ready")).status_code == 200


async def test_database_stopped_is_503_before_anybody_knows(
    site: RegisteredDevice, postgres_url: str, postgres_server: PostgresServer
) -> None:
    async with open_service(postgres_url, ack_timeout_s=1) as service, service.client() as client:
        await ask(client, site.requests(1))
        postgres_server.stop()
        answers = await ask(client, [*site.requests(1), *site.requests(2)])
        assert [answer.status_code for answer in answers] == [503] * 10
        assert all(answer.headers["Retry-After"] for answer in answers)


@pytest.mark.parametrize("identity", ["ts", "Idempotency-Key"])
async def test_slow_database_is_503_in_time_and_the_repeated_reading_stored_once(
    site: RegisteredDevice, postgres_url: str, postgres_server: PostgresServer, identity: str
) -> None:
    reading = {"sensor_uuid": site.sensor, "value": 20.5}
    headers = {"X-Device-Key": "key-1"}
    if identity == "ts":
        reading["sensor_ts"] = time.time()
    else:
        headers[identity] = "boot-7/1"
    path = f"/devices/{site.device}/readings"
    async with (
        TcpProxy(postgres_server.socket_path) as proxy,
        open_service(over(proxy, postgres_url), ack_timeout_s=0.3) as service,
        service.client(**headers) as client,
    ):
        assert (await client.post(path, json={"readings": []})).status_code == 200
        proxy.stall()
        started_s = time.monotonic()
        answer = await client.post(path, json={"readings": [reading]})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert 0.3 <= time.monotonic() - started_s < QUICK_S
        proxy.resume()

        async def accepted() -> dict[str, Any] | None:
            again = await client.post(path, json={"readings": [reading]})
            assert again.status_code in (200, 503)
            return again.json() if again.status_code == 200 else None

        body = await until(accepted, 20)
        assert body["inserted"] + body["duplicates"] == 1
        assert (await client.post(path, json={"readings": [reading]})).json()["duplicates"] == 1
    assert site.stored() == 1


async def test_connection_lost_costs_no_error(
    site: RegisteredDevice, postgres_url: str, postgres_server: PostgresServer
) -> None:
    async with (
        TcpProxy(postgres_server.socket_path) as proxy,
        open_service(over(proxy, postgres_url)) as service,
        service.client() as client,
    ):
        assert (await store_one(client, site)).status_code == 200
        proxy.cut()
        assert (await store_one(client, site)).status_code in (200, 503)
        await until(lambda: not service.core.problem, 20)
        assert (await store_one(client, site)).status_code == 200


# -- keys


async def test_key_costs_no_query_and_a_revoked_one_is_refused_within_5_s(
    site: RegisteredDevice, postgres_url: str
) -> None:
    async with open_service(postgres_url) as service, service.client() as client:
        for key in ("key-1", "key-2") * 10:
            assert (await store_one(client, site, key)).status_code == 200
        assert service.sample("cache_total", cache="key", result="miss") == 2
        site.do("UPDATE device_api_keys SET revoked_at = now() WHERE api_key_hash = %s", hash_key("key-1"))

        async def refused() -> bool:
            return (await store_one(client, site, "key-1")).status_code == 401

        await until(refused, 5)
        assert (await store_one(client, site, "key-2")).status_code == 200
        site.do("UPDATE devices SET status = 'disabled' WHERE id = %s", site.device_id)

        async def disabled() -> bool:
            return (await store_one(client, site, "key-2")).status_code == 403

        await until(disabled, 5)


async def test_key_revoked_while_the_change_feed_is_cut_off_is_refused_once_it_is_back(
    site: RegisteredDevice, postgres_url: str, postgres_server: PostgresServer
) -> None:
    async with (
        TcpProxy(postgres_server.socket_path) as proxy,
        open_service(over(proxy, postgres_url)) as service,
        service.client() as client,
    ):
        assert (await store_one(client, site)).status_code == 200
        proxy.refuse = True
        proxy.cut()
        await until(lambda: service.core.problem, 20)
        site.do("UPDATE device_api_keys SET revoked_at = now()")
        # As if that had been longer ago than the feed is read back each time.
        site.do("UPDATE registry_changes SET changed_at = changed_at - interval '1 minute'")
        service.core.changes.read_s -= 60
        proxy.refuse = False

        async def refused() -> bool:
            return (await store_one(client, site)).status_code == 401

        await until(refused, 20)


async def test_key_expires(site: RegisteredDevice, postgres_url: str) -> None:
    site.do("UPDATE device_api_keys SET expires_at = now() - interval '1 s' WHERE api_key_hash = %s", hash_key("key-1"))
    async with open_service(postgres_url) as service, service.client() as client:
        assert (await store_one(client, site, "key-1")).status_code == 401
        assert (await store_one(client, site, "key-2")).status_code == 200


# -- the status of a sensor

ALERT = {"id", "sensor_id", "device_id", "threshold_id", "severity", "status", "triggered_value", "triggered_at"}
WARNING = {
    *("id", "sensor_id", "device_id", "event_type", "event_code"),
    *("status", "created_at", "title", "message", "payload"),
}
PREDICTION = {"id", "sensor_id", "model_id", "predicted_value", "confidence", "predicted_at", "target_timestamp"}


async def test_status_has_the_documented_fields_and_the_worst_wins(site: RegisteredDevice, postgres_url: str) -> None:
    async with open_service(postgres_url) as service, service.client(**{"X-API-Key": "api-1"}) as client:

        async def status() -> dict[str, Any]:
            answer = await client.get(f"/sensors/{site.sensor_id}/status")
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            assert set(found) == {
                *("sensor_id", "final_state", "alert_active", "warning_active", "prediction_current"),
                *("operational_state", "device_status", "device_uuid"),  # ours: fields may be added
            }
            assert found["sensor_id"] == site.sensor_id
            return found

        nothing = await status()
        assert nothing == {
            "sensor_id": site.sensor_id,
            "final_state": "unknown",
            "alert_active": None,
            "warning_active": None,
            "prediction_current": None,
            "operational_state": "INITIALIZING",
            "device_status": "offline",
            "device_uuid": site.device,
        }
        predict = (
            "INSERT INTO predictions (sensor_id, model_id, predicted_value, confidence, predicted_at, target_timestamp)"
            " VALUES (%s, 'ewma', %s, 0.9, now(), now() + %s * interval '1 s')"
        )
        site.do(predict, site.sensor_id, 1.0, -60)
        assert (await status())["final_state"] == "unknown"  # its time has passed
        site.do(predict, site.sensor_id, 3.0, 120)
        site.do(predict, site.sensor_id, 2.0, 60)
        predicted = await status()
        assert predicted["final_state"] == "prediction"
        assert set(predicted["prediction_current"]) >= PREDICTION
        assert predicted["prediction_current"]["predicted_value"] == 2.0

        warn = (
            "INSERT INTO ml_events (sensor_id, device_id, event_type, event_code, status, created_at, title, message,"
            " payload) VALUES (%s, %s, 'warning', 'DELTA_SPIKE', %s, now(), 't', 'm', %s)"
        )
        site.do(warn, site.sensor_id, site.device_id, "resolved", Jsonb({}))
        assert (await status())["final_state"] == "prediction"
        site.do(warn, site.sensor_id, site.device_id, "active", Jsonb({"delta": 4.5}))
        site.do("UPDATE ml_events SET payload = '{\"delta\": 4.5, \"beyond\": 1e5000}' WHERE status = 'active'")
        warned = await status()
        assert warned["final_state"] == "warning"
        assert set(warned["warning_active"]) >= WARNING
        assert warned["warning_active"]["payload"] == {"delta": 4.5, "beyond": None}

        alert = (
            "INSERT INTO alerts (sensor_id, device_id, severity, status, triggered_value, triggered_at)"
            " VALUES (%s, %s, 'critical', %s, 35.5, now())"
        )
        site.do(alert, site.sensor_id, site.device_id, "resolved")
        assert (await status())["final_state"] == "warning"
        site.do(alert, site.sensor_id, site.device_id, "active")
        alerted = await status()
        assert alerted["final_state"] == "alert"
        assert set(alerted["alert_active"]) >= ALERT
        assert (alerted["alert_active"]["triggered_value"], alerted["alert_active"]["threshold_id"]) == (35.5, None)
        assert alerted["warning_active"]
        assert alerted["prediction_current"]
        site.do("UPDATE alerts SET status = 'acknowledged' WHERE status = 'active'")
        assert (await status())["final_state"] == "alert"  # seen by somebody, and still so
        assert (await client.get("/sensors/999999/status")).status_code == 404
