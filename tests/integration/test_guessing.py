"""Guessing keys, codes and secrets is limited, costs no query, and shuts out nobody who has the right one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from bridge.settings.http import LimitSettings
from bridge.settings.service import HookSettings
from bridge.store.admin import Admin, connect
from tests.support.http_door import Service, open_service

LIMIT = 5
SECRET = "the right secret of the hooks"


@pytest.fixture
def admin(postgres_url: str) -> Iterator[Admin]:
    with connect(postgres_url) as connection:
        yield connection


@pytest.fixture
async def service(postgres_url: str) -> AsyncIterator[Service]:
    hooks = HookSettings(enabled=True, secret=SECRET)
    limits = LimitSettings(failures_per_minute=LIMIT)
    async with open_service(postgres_url, limits=limits, hooks=hooks) as opened:
        yield opened


def queries(service: Service) -> float:
    """Look-ups of keys in the database."""
    return service.sample("cache_total", cache="key", result="miss")


async def guess(service: Service, count: int) -> list[int]:
    """Try wrong device keys, and answer the statuses."""
    path = "/devices/5f0c1f5e-0000-4000-8000-00000000000a/readings"
    async with service.client() as client:
        answers = [
            await client.post(path, json={"readings": []}, headers={"X-Device-Key": f"dk_00000000_{number}"})
            for number in range(count)
        ]
        assert all(answer.headers["Retry-After"] for answer in answers if answer.status_code == 429)
        return [answer.status_code for answer in answers]


def packet_of(device: dict[str, Any]) -> dict[str, Any]:
    sensor = device["sensors"][0]["sensor_uuid"]
    return {"readings": [{"sensor_uuid": sensor, "value": 1.5, "sensor_ts": time.time()}]}


async def test_key_that_is_made_while_somebody_guesses_is_let_in_at_once(service: Service, admin: Admin) -> None:
    await guess(service, LIMIT + 20)
    code = admin.add_gateway("north", [], everything=True, code_minutes=10)["code"]
    async with service.client() as client:
        enrolled = await client.post("/gateways/enrol", json={"code": code, "version": "1"})
        key = enrolled.json()["gateway_key"]
        answer = await client.get("/gateways/north/registry", headers={"X-Gateway-Key": key})
        assert (enrolled.status_code, answer.status_code) == (200, 200)


async def test_form_of_a_hook_with_too_many_fields_is_refused(service: Service) -> None:
    form = {f"field{number}": "x" for number in range(100)}
    async with service.client(Authorization=f"Bearer {SECRET}") as client:
        assert (await client.post("/hooks/mosquitto/user", data=form)).status_code == 422
        assert (await client.post("/hooks/emqx/authn", data=form)).json() == {"result": "deny"}


async def test_wrong_keys_are_limited_and_a_right_one_is_let_in(service: Service, admin: Admin) -> None:
    """Though it was never used before, and is of the same address."""
    device = admin.add_device("shed", [("air", "temperature", None)])
    api_key = admin.add_api_key("k", None)["api_key"]
    assert await guess(service, LIMIT + 20) == [401] * LIMIT + [429] * 20
    assert queries(service) == LIMIT
    assert service.limited("failures") == 20
    async with service.client(**{"X-Device-Key": device["device_key"]}) as client:
        answer = await client.post(f"/devices/{device['device_uuid']}/readings", json=packet_of(device))
        assert (answer.status_code, answer.json()["inserted"]) == (200, 1)
    async with service.client(**{"X-API-Key": api_key}) as client:
        assert (await client.get(f"/sensors/{device['sensors'][0]['sensor_id']}/status")).status_code == 200
    assert queries(service) == LIMIT + 2
    async with service.client(**{"X-API-Key": device["device_key"]}) as client:  # known, and of the wrong kind
        assert (await client.get("/sensors/1/status")).status_code == 429


async def test_revoked_key_is_a_wrong_one(service: Service, admin: Admin) -> None:
    made = admin.add_api_key("k", None)
    admin.fetch("revoke_api_key", key_id=made["key_id"])
    await guess(service, LIMIT + 1)
    async with service.client(**{"X-API-Key": made["api_key"]}) as client:
        assert (await client.get("/sensors/1/status")).status_code == 429
    assert queries(service) == LIMIT


async def test_wrong_codes_are_limited_and_a_right_one_is_let_in(service: Service, admin: Admin) -> None:
    code = admin.add_gateway("north", [], everything=True, code_minutes=5)["code"]
    async with service.client() as client:

        async def enrol(text: str) -> int:
            return (await client.post("/gateways/enrol", json={"code": text})).status_code

        assert [await enrol(f"AAAA-AAAA-AA{number:02}") for number in range(10, 20)] == [403] * LIMIT + [429] * 5
        assert await enrol(code.lower()) == 200
        assert await enrol(code) == 429  # it was used


async def test_wrong_secrets_are_limited_and_the_broker_goes_on(service: Service, admin: Admin) -> None:
    device = admin.add_device("shed", [])
    login = {"username": device["device_uuid"], "password": device["device_key"]}
    async with service.client() as client:

        async def authn(secret: str) -> tuple[int, Any]:
            headers = {"Authorization": f"Bearer {secret}"}
            answer = await client.post("/hooks/emqx/authn", json=login, headers=headers)
            return answer.status_code, answer.json().get("result")

        told = [(await authn(f"guess {number}"))[0] for number in range(LIMIT + 20)]
        assert told == [401] * LIMIT + [429] * 20
        assert await authn(SECRET) == (200, "allow")
        assert await guess(service, 1) == [429]  # one limit over all doors


@pytest.mark.parametrize("peerhost", [None, "203.0.113.7", "2001:db8::7"])
async def test_wrong_passwords_are_limited_and_a_right_one_is_let_in(
    service: Service, admin: Admin, peerhost: str | None
) -> None:
    """By the client's address where the broker tells it, else by account."""
    device = admin.add_device("shed", [])
    account = admin.add_mqtt_account("weather", "publisher")
    async with service.client(Authorization=f"Bearer {SECRET}") as client:

        async def login(username: str, password: str) -> bool:
            fields = {"username": username, "password": password} | ({"peerhost": peerhost} if peerhost else {})
            answer = await client.post("/hooks/emqx/authn", json=fields)
            emqx = bool(answer.json()["result"] == "allow")
            other = await client.post("/hooks/mosquitto/user", json=fields)
            assert (other.status_code == 200) == emqx
            return emqx

        for number in range(10):
            assert not await login(device["device_uuid"], f"dk_00000000_{number}")
            assert not await login("weather", f"mq_{number}")
        assert queries(service) <= LIMIT
        assert await login(device["device_uuid"], device["device_key"])
        assert await login("weather", account["password"])
    assert await guess(service, 1) == [401]  # the broker's own address is not to blame


async def test_flood_of_guesses_leaves_the_right_key_its_answer(service: Service, admin: Admin) -> None:
    """A thousand wrong ones at once, in the middle of which a device sends that was never heard before."""
    device = admin.add_device("shed", [("air", "temperature", None)])
    flood = [asyncio.create_task(guess(service, 100)) for _ in range(10)]
    async with service.client(**{"X-Device-Key": device["device_key"]}) as client:
        while not all(task.done() for task in flood):
            answer = await client.post(f"/devices/{device['device_uuid']}/readings", json=packet_of(device))
            assert answer.status_code == 200, answer.text
    statuses = [status for task in flood for status in await task]
    assert statuses.count(429) >= 1_000 - LIMIT - 10
