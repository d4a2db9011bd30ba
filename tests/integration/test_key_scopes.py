"""What an API key may do: its scopes and its devices, held at every endpoint that takes one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest

from bridge.model.scopes import DEFAULT_SCOPES, SCOPES
from bridge.store.admin import Admin, connect
from tests.support.commands import Commands
from tests.support.http_door import open_service
from tests.support.servers import until

OWN, FOREIGN, NOBODY = "own", "foreign", "00000000-0000-4000-8000-000000000000"


class TwoDevices:
    """Two devices with a sensor each, and a way to make keys."""

    def __init__(self, url: str, admin: Admin) -> None:
        self.url = url
        self.admin = admin
        self.devices = {name: admin.add_device(name, [("air", "temperature", None)]) for name in (OWN, FOREIGN)}

    def do(self, query: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(query.encode())

    def uuid(self, name: str) -> str:
        return str(self.devices[name]["device_uuid"])

    def sensor(self, name: str) -> int:
        return int(self.devices[name]["sensors"][0]["sensor_id"])

    def key(self, *scopes: str, devices: Sequence[str] | None = None) -> str:
        ids = None if devices is None else [self.devices[name]["device_id"] for name in devices]
        return str(self.admin.add_api_key("k", None, scopes, ids)["api_key"])

    def requests(self, name: str) -> dict[str, list[tuple[str, str, Any]]]:
        """A request to each endpoint that takes an API key, about this device, by the scope it wants."""
        reading = {"sensor_id": self.sensor(name), "value": 20.5, "timestamp": time.time()}
        commands = f"/devices/{self.uuid(name)}/commands"
        return {
            "readings:write": [
                ("POST", "/ingest/readings", reading),
                ("POST", "/ingest/readings/bulk", {"readings": [reading]}),
            ],
            "status:read": [("GET", f"/sensors/{self.sensor(name)}/status", None)],
            "commands:write": [("POST", commands, {"payload": 1})],
            "commands:read": [("GET", commands, None), ("GET", f"{commands}/{NOBODY}", None)],
        }


@pytest.fixture
def two_devices(postgres_url: str) -> Iterator[TwoDevices]:
    with connect(postgres_url) as admin:
        yield TwoDevices(postgres_url, admin)


@asynccontextmanager
async def client_of(two_devices: TwoDevices, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with open_service(two_devices.url) as service, service.client(**{"X-API-Key": key}) as client:
        yield client


async def ask(client: httpx.AsyncClient, request: tuple[str, str, Any]) -> tuple[int, dict[str, Any]]:
    method, path, body = request
    answer = await client.request(method, path, json=body)
    document = answer.json()
    return answer.status_code, document if isinstance(document, dict) else {}


async def test_every_endpoint_of_an_api_key_wants_a_scope(two_devices: TwoDevices) -> None:
    """The requests of this file are all that OpenAPI names."""
    async with open_service(two_devices.url) as service, service.client() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    wanted = {
        (method.upper(), path)
        for path, methods in paths.items()
        for method, described in methods.items()
        if {"ApiKey": []} in described.get("security", [])
    }
    named = {(method, path) for each in two_devices.requests(OWN).values() for method, path, _ in each}
    assert len(wanted) == len(named) == 6
    assert set(two_devices.requests(OWN)) | {"admin"} == set(SCOPES)


@pytest.mark.parametrize("scope", [*DEFAULT_SCOPES, "of:tomorrow"])
async def test_key_of_one_scope_may_do_that_alone(two_devices: TwoDevices, scope: str) -> None:
    async with client_of(two_devices, two_devices.key(scope)) as client:
        for wanted, requests in two_devices.requests(OWN).items():
            for request in requests:
                status, document = await ask(client, request)
                if wanted == scope:
                    assert status in (200, 201, 404), document
                    assert document.get("code") in (None, "unknown_command")
                else:
                    assert (status, document["code"]) == (403, "missing_scope")
                    assert wanted in document["detail"]


@pytest.mark.parametrize("scopes", [DEFAULT_SCOPES, ("admin",)])
async def test_key_of_before_and_admin_may_do_everything(two_devices: TwoDevices, scopes: Sequence[str]) -> None:
    async with client_of(two_devices, two_devices.key(*scopes)) as client:
        for requests in two_devices.requests(OWN).values():
            for request in requests:
                assert (await ask(client, request))[0] in (200, 201, 404)


async def test_key_of_some_devices_speaks_for_no_other(two_devices: TwoDevices) -> None:
    async with client_of(two_devices, two_devices.key(*DEFAULT_SCOPES, devices=[OWN])) as client:
        for requests in two_devices.requests(OWN).values():
            for request in requests:
                status, document = await ask(client, request)
                assert status in (200, 201, 404)
                assert document.get("rejected", []) == []
        foreign = two_devices.requests(FOREIGN)
        for request in foreign["readings:write"]:
            status, document = await ask(client, request)
            assert (status, document["inserted"]) == (200, 0)
            assert [each["code"] for each in document["rejected"]] == ["unknown_sensor"]
        both = [
            {"sensor_id": two_devices.sensor(name), "value": 1.5, "timestamp": time.time()} for name in (OWN, FOREIGN)
        ]
        status, document = await ask(client, ("POST", "/ingest/readings/bulk", {"readings": both}))
        assert (document["inserted"], [each["index"] for each in document["rejected"]]) == (1, [1])
        nobody = ("GET", "/sensors/999/status", None)
        assert await ask(client, foreign["status:read"][0]) == await ask(client, nobody)
        for request in (*foreign["commands:write"], *foreign["commands:read"]):
            there = await ask(client, request)
            assert (there[0], there[1]["code"]) == (403, "foreign_device")
            not_there = await ask(
                client, (request[0], request[1].replace(two_devices.uuid(FOREIGN), NOBODY), request[2])
            )
            assert not_there == there


async def test_change_of_scopes_or_devices_reaches_a_running_service(two_devices: TwoDevices) -> None:
    key = two_devices.key("status:read", devices=[OWN])
    own, foreign = (two_devices.requests(name)["status:read"][0] for name in (OWN, FOREIGN))

    async with client_of(two_devices, key) as client:

        async def answered(request: tuple[str, str, Any], status: int) -> None:
            async def so() -> bool:
                return (await ask(client, request))[0] == status

            await until(so, 10)

        await answered(own, 200)
        await answered(foreign, 404)
        two_devices.do("INSERT INTO api_key_devices SELECT max(k.id), max(d.id) FROM api_keys k, devices d")
        await answered(foreign, 200)
        two_devices.do("DELETE FROM devices WHERE name = 'own'")
        await answered(foreign, 200)
        two_devices.do("DELETE FROM api_key_devices")  # none is none, not every one
        await answered(foreign, 404)
        two_devices.do("UPDATE api_keys SET all_devices = true")
        await answered(foreign, 200)
        two_devices.do("UPDATE api_keys SET scopes = '{commands:read}'")
        await answered(foreign, 403)


async def test_replay_holds_a_key_to_its_devices(two_devices: TwoDevices, commands: Commands) -> None:
    """A sensor that is registered later may be anybody's."""
    late = two_devices.sensor(FOREIGN) + 1
    key = two_devices.key("readings:write", devices=[OWN])
    reading = {"sensor_id": late, "value": 20.5, "timestamp": time.time()}
    async with client_of(two_devices, key) as client:
        for path, body in (("/ingest/readings", reading), ("/ingest/readings/bulk", {"readings": [reading]})):
            assert (await ask(client, ("POST", path, body)))[1]["rejected"][0]["code"] == "unknown_sensor"
    two_devices.do("INSERT INTO sensors (device_id, name, sensor_type) VALUES (2, 'late', 'temperature')")
    commands.set(database__url=two_devices.url)
    replay = ("quarantine", "replay", "--code", "unknown_sensor")
    refused = await asyncio.to_thread(commands.json, *replay, expect=1)
    assert [(row["outcome"], row["code"]) for row in refused] == [("refused", "foreign_device")] * 2
    two_devices.do("INSERT INTO api_key_devices VALUES (1, 2)")
    replayed = await asyncio.to_thread(commands.json, *replay)
    assert sorted(row["outcome"] for row in replayed) == ["duplicate", "stored"]
