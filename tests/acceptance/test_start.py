"""The service starts while what it needs is away, or refuses it: what its doors say, and what ends the process."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest

from bridge.store.migrate import migrate
from tests.acceptance.service import Service
from tests.support.redis_process import RedisProcess
from tests.support.servers import MosquittoProcess, PostgresServer, wait_until

WAIT_S = 30.0
MakeService = Callable[..., Service]


def answer(service: Service, path: str) -> httpx.Response | None:
    """What the service answers; None while it does not listen."""
    try:
        return httpx.get(service.http + path, timeout=10)
    except httpx.TransportError:
        return None


def until_open(service: Service) -> None:
    """The HTTP door is open."""
    wait_until(lambda: answer(service, "/health"), WAIT_S)


def until_problem(service: Service, words: str) -> None:
    """`/health/ready` names it."""

    def told() -> bool:
        ready = answer(service, "/health/ready")
        return ready is not None and ready.status_code == 503 and words in " ".join(ready.json()["problems"])

    wait_until(told, WAIT_S)


def post(service: Service, key: str, sensor_uuid: str, device_uuid: str, value: float) -> httpx.Response:
    return httpx.post(
        f"{service.http}/devices/{device_uuid}/readings",
        json={"readings": [{"sensor_uuid": sensor_uuid, "value": value}]},
        headers={"X-Device-Key": key},
        timeout=10,
    )


def test_doors_open_at_once_while_the_database_is_away(
    make_service: MakeService, postgres_server: PostgresServer, mosquitto: MosquittoProcess
) -> None:
    service = make_service(mqtt=mosquitto.url)
    device = service.command("device", "add", "roof", "--sensor", "air:temperature")
    sent = (device["device_key"], device["sensors"][0]["sensor_uuid"], device["device_uuid"])
    postgres_server.stop()
    service.launch()
    until_open(service)
    until_problem(service, "starting: no answer from the database")
    refused = post(service, *sent, 20.0)
    assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
    assert refused.headers["retry-after"].isdecimal()
    assert refused.json()["code"] == "store_unavailable"
    assert httpx.get(f"{service.http}/sensors/1/status", headers={"X-API-Key": "x"}).status_code == 503
    assert "iot_bridge_store_up 0.0" in httpx.get(f"{service.http}/metrics").text
    assert "mqtt_connected" not in service.log  # a subscription would bring what nobody can keep

    service.kill()  # a kill while it waits leaves nothing behind
    service.launch()
    until_problem(service, "starting: no answer from the database")

    postgres_server.start()
    service.await_ready()
    assert answer_status(service, "/health/ready") == 200
    assert post(service, *sent, 21.0).json()["inserted"] == 1
    wait_until(lambda: "mqtt_connected" in service.log, WAIT_S)
    assert service.stop() == 0


def answer_status(service: Service, path: str) -> int:
    found = answer(service, path)
    return 0 if found is None else found.status_code


def test_stop_while_waiting_is_in_order(
    make_service: MakeService, postgres_server: PostgresServer, mosquitto: MosquittoProcess
) -> None:
    service = make_service(mqtt=mosquitto.url)
    postgres_server.stop("immediate")
    service.launch()
    until_problem(service, "starting:")
    assert service.stop() == 0
    assert "Traceback" not in service.log


def test_schema_that_is_not_there_is_waited_for(make_service: MakeService, postgres_server: PostgresServer) -> None:
    name = postgres_server.create_database()
    try:
        service = make_service(database=postgres_server.url_of(name))
        service.launch()
        until_problem(service, "42P01")
        assert "run iot-bridge db migrate" in service.log
        migrate(postgres_server.url_of(name))
        service.await_ready()
        assert answer_status(service, "/health/ready") == 200
        service.stop()
    finally:
        postgres_server.drop_database(name)


def ends_with(service: Service, words: str) -> None:
    """The process ends by itself, with exit code 2 and one line of error."""
    service.launch()
    assert service.await_end() == 2, service.log
    errors = [line for line in service.log.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, service.log
    assert words in errors[0]
    assert "Traceback" not in service.log


def test_wrong_password_ends_the_start(make_service: MakeService, password_url: Callable[..., str]) -> None:
    ends_with(make_service(database=password_url("wrong")), "password authentication failed")


def test_missing_right_ends_the_start(make_service: MakeService, password_url: Callable[..., str]) -> None:
    ends_with(make_service(database=password_url()), "42501: permission denied for table")


@pytest.mark.parametrize(
    ("pattern", "instead", "words"),
    [
        (r"postgres:@", "nobody_here:@", 'role "nobody_here" does not exist'),
        (r"/[a-z0-9_]+\?", "/no_such_database?", 'database "no_such_database" does not exist'),
    ],
)
def test_name_that_is_wrong_ends_the_start(
    make_service: MakeService, postgres_url: str, pattern: str, instead: str, words: str
) -> None:
    ends_with(make_service(database=re.sub(pattern, instead, postgres_url, count=1)), words)


def test_kills_while_the_database_comes_and_goes(make_service: MakeService, postgres_server: PostgresServer) -> None:
    """At every moment of a start; nothing that was said to be stored is lost, and each start is like the first."""
    service = make_service()
    device = service.command("device", "add", "roof", "--sensor", "air:temperature")
    sent = (device["device_key"], device["sensors"][0]["sensor_uuid"], device["device_uuid"])
    stored = 0
    for round_ in range(3):
        postgres_server.stop("immediate" if round_ % 2 else "fast")
        service.launch()
        until_open(service)
        if round_ % 2:
            service.kill()
            service.launch()
        postgres_server.start()
        if round_ == 2:
            service.kill()  # as it connects
            service.launch()
        service.await_ready()
        stored += int(post(service, *sent, 20.0 + round_).json()["inserted"])
        service.kill()
    service.start()
    assert stored == 3
    ledger = service.command("ledger", "--verify")
    assert (ledger["balanced"], ledger["total"]["stored"]) == (True, 3)
    assert "Traceback" not in service.log
    service.stop()


def test_redis_away_at_the_start(make_service: MakeService, redis_server: RedisProcess) -> None:
    redis_server.stop()
    service = make_service()
    service.start()
    device = service.command("device", "add", "roof", "--sensor", "air:temperature")
    sent = (device["device_key"], device["sensors"][0]["sensor_uuid"], device["device_uuid"])
    assert post(service, *sent, 20.0).json()["inserted"] == 1

    def is_degraded() -> bool:
        ready = answer(service, "/health/ready")
        return ready is not None and ready.status_code == 200 and "streams" in " ".join(ready.json()["degraded"])

    wait_until(is_degraded, WAIT_S)
    redis_server.start()
    wait_until(lambda: service.command("tail", "readings", "--count", "1", expect=None), WAIT_S)
    wait_until(lambda: not is_degraded(), WAIT_S)
    service.stop()
