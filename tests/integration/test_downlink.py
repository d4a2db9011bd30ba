"""Commands to devices, end to end: HTTP and the command line in, Mosquitto, a device, its answer in the database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from bridge.settings.service import CommandSettings
from bridge.store.admin import Admin, connect
from tests.support.commands import Commands
from tests.support.mqtt_door import Device
from tests.support.servers import MosquittoProcess, free_port, until
from tests.support.whole_bridge import open_bridge

NOBODY = "00000000-0000-4000-8000-000000000000"
QUICK = CommandSettings(poll_s=0.05, retry_s=0.1)


@pytest.fixture(params=["3.1.1", "5"])
def protocol(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


class CommandedDevice:
    """A registered device and an operator's key."""

    def __init__(self, url: str, admin: Admin) -> None:
        self.url = url
        self.api_key = admin.add_api_key("operator", None)["api_key"]
        self.uuid = str(admin.add_device("pump", [])["device_uuid"])
        self.other = str(admin.add_device("valve", [])["device_uuid"])
        self.path = f"/devices/{self.uuid}/commands"
        self.topics = f"devices/{self.uuid}/commands/+"

    def do(self, query: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(query.encode())


@pytest.fixture
def registered(postgres_url: str) -> Iterator[CommandedDevice]:
    with connect(postgres_url) as admin:
        yield CommandedDevice(postgres_url, admin)


async def sent(client: httpx.AsyncClient, registered: CommandedDevice, payload: Any, **more: Any) -> dict[str, Any]:
    answer = await client.post(registered.path, json={"payload": payload, **more})
    assert answer.status_code == 201, answer.text
    command: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"{registered.path}/{command['command_id']}"
    return command


async def in_state(client: httpx.AsyncClient, command: dict[str, Any], state: str) -> dict[str, Any]:
    """The command, once it is in a state."""
    place = f"/devices/{command['device_uuid']}/commands/{command['command_id']}"
    found: dict[str, Any] = {}

    async def there() -> bool:
        found.update((await client.get(place)).json())
        return bool(found["state"] == state)

    await until(there, 20)
    return found


async def test_command_is_published_and_its_answer_is_readable(
    mosquitto: MosquittoProcess, registered: CommandedDevice, protocol: str
) -> None:
    async with (
        open_bridge(registered.url, mosquitto.url, protocol=protocol, commands=QUICK) as bridge,
        bridge.client(registered.api_key) as client,
    ):
        with Device(mosquitto.port) as device:
            await device.subscribe(registered.topics, 1)
            command = await sent(client, registered, {"interval_s": 30})
            assert (command["state"], command["result"], command["payload"]) == ("queued", None, {"interval_s": 30})
            await until(lambda: device.received)
            topic, payload = device.received[0]
            assert (topic, json.loads(payload)) == (
                f"{registered.path[1:]}/{command['command_id']}",
                {"interval_s": 30},
            )
            await device.publish(b'{"status": "delivered"}', topic=f"{topic}/result")
            at_it = await in_state(client, command, "delivered")
            assert at_it["sent_at"]
            assert (at_it["finished_at"], at_it["result"]) == (None, None)
            await device.publish(b'{"status": "failed", "why": "stuck"}', topic=f"{topic}/result")
            failed = await in_state(client, command, "failed")
            assert failed["result"] == {"status": "failed", "why": "stuck"}
            await device.publish(b"too late", topic=f"{topic}/result")
            text = await sent(client, registered, "reboot")
            await until(lambda: len(device.received) == 2)
            assert device.received[1][1] == b"reboot"
            await device.publish(b"ok", topic=f"{device.received[1][0]}/result")
            assert (await in_state(client, text, "done"))["result"] == "ok"
            listed = (await client.get(registered.path)).json()
            assert [each["state"] for each in listed] == ["done", "failed"]
            assert bridge.sample("commands_total", event="published") == 2
            assert bridge.sample("mqtt_inflight") == 0


async def test_device_that_is_away_gets_it_when_it_comes_back(
    mosquitto: MosquittoProcess, registered: CommandedDevice, protocol: str
) -> None:
    async with (
        open_bridge(registered.url, mosquitto.url, protocol=protocol, commands=QUICK) as bridge,
        bridge.client(registered.api_key) as client,
    ):
        with Device(mosquitto.port, session="pump") as device:
            await device.subscribe(registered.topics, 1)
        lasting = await sent(client, registered, "open")
        await until(lambda: bridge.sample("commands_total", event="published") == 1)
        with Device(mosquitto.port, session="pump") as device:
            await until(lambda: device.received)
            assert [payload for _, payload in device.received] == [b"open"]
            await device.publish(b"", topic=f"{device.received[0][0]}/result")
            assert (await in_state(client, lasting, "done"))["result"] is None


async def test_device_without_a_session_gets_it_when_it_subscribes(
    mosquitto: MosquittoProcess, registered: CommandedDevice
) -> None:
    async with (
        open_bridge(registered.url, mosquitto.url, protocol="5", commands=QUICK) as bridge,
        bridge.client(registered.api_key) as client,
    ):
        command = await sent(client, registered, "open")
        await until(lambda: bridge.sample("commands_total", event="unreachable") > 1)
        assert (await in_state(client, command, "queued"))["sent_at"] is None
        with Device(mosquitto.port) as device:
            await device.subscribe(registered.topics, 1)
            await until(lambda: device.received)
            await until(lambda: bridge.sample("commands_total", event="published") == 1)
            assert [payload for _, payload in device.received] == [b"open"]


async def test_command_that_has_expired_is_not_sent(
    mosquitto: MosquittoProcess, registered: CommandedDevice, protocol: str
) -> None:
    async with (
        open_bridge(registered.url, f"mqtt://127.0.0.1:{free_port()}", connected=False) as bridge,
        bridge.client(registered.api_key) as client,
    ):
        command = await sent(client, registered, "open", expires_in_s=1)
        kept = await sent(client, registered, "close", expires_in_s=600)
        await in_state(client, command, "expired")
        await in_state(client, kept, "queued")
    with Device(mosquitto.port) as device:
        await device.subscribe(registered.topics, 1)
        async with (
            open_bridge(registered.url, mosquitto.url, protocol=protocol, commands=QUICK) as bridge,
            bridge.client(registered.api_key) as client,
        ):
            await until(lambda: device.received)
            assert [payload for _, payload in device.received] == [b"close"]
            await bridge.core.commands.expire()
            await in_state(client, command, "expired")
            topic = f"{registered.path[1:]}/{command['command_id']}/result"
            await device.publish(b"did it in time", topic=topic)
            assert (await in_state(client, command, "done"))["result"] == "did it in time"


async def test_message_expires_at_the_broker(mosquitto: MosquittoProcess, registered: CommandedDevice) -> None:
    async with (
        open_bridge(registered.url, mosquitto.url, protocol="5", commands=QUICK) as bridge,
        bridge.client(registered.api_key) as client,
    ):
        with Device(mosquitto.port, session="pump") as device:
            await device.subscribe(registered.topics, 1)
        short = await sent(client, registered, "old", expires_in_s=2)
        await sent(client, registered, "new", expires_in_s=600)
        await until(lambda: bridge.sample("commands_total", event="published") == 2)
        await in_state(client, short, "expired")
        with Device(mosquitto.port, session="pump") as device:
            await until(lambda: device.received)
            await device.publish(b"1", topic=f"{device.received[0][0]}/result")
            assert [payload for _, payload in device.received] == [b"new"]


async def test_of_several_processes_exactly_one_publishes(
    mosquitto: MosquittoProcess, registered: CommandedDevice
) -> None:
    with Device(mosquitto.port) as device:
        await device.subscribe(registered.topics, 1)
        async with (
            open_bridge(registered.url, mosquitto.url, "one", commands=QUICK) as one,
            open_bridge(registered.url, mosquitto.url, "two", commands=QUICK) as two,
            one.client(registered.api_key) as client,
            two.client(registered.api_key) as other,
        ):
            for number in range(40):
                await sent(client if number % 2 else other, registered, number)
            await until(lambda: len(device.received) >= 40, 20)
            both = (one, two)
            await until(lambda: sum(bridge.sample("commands_total", event="published") for bridge in both) == 40)
            assert sorted(int(payload) for _, payload in device.received) == list(range(40))


HOSTILE = {
    b"\xff\xfe\x00": "\ufffd\ufffd\x00",
    b"NaN": "NaN",
    b'{"a": NaN}': '{"a": NaN}',
    b'"\\u0000"': "\x00",
    b"[" * 5_000: "[" * 5_000,
    b"1e999999": "1e999999",
    b'{"status": ["failed"]}': {"status": ["failed"]},
    b"\xed\xa0\x80": "\ufffd\ufffd\ufffd",
}


async def test_answers_are_hostile(mosquitto: MosquittoProcess, registered: CommandedDevice) -> None:
    async with (
        open_bridge(registered.url, mosquitto.url, commands=QUICK) as bridge,
        bridge.client(registered.api_key) as client,
    ):
        with Device(mosquitto.port) as device:
            for payload, kept in HOSTILE.items():
                command = await sent(client, registered, 1)
                topic = f"{registered.path[1:]}/{command['command_id']}/result"
                await device.publish(payload, topic=topic)
                assert (await in_state(client, command, "done"))["result"] == kept
            command = await sent(client, registered, 1)
            topic = f"{registered.path[1:]}/{command['command_id']}/result"
            await device.publish(b"mine", topic=topic.replace(registered.uuid, registered.other))
            await device.publish(b"x", topic=topic.replace(command["command_id"], NOBODY))
            await device.publish(b"y" * 200_000, topic=topic)
            assert (await in_state(client, command, "done"))["result"] == "y" * 65_536
            assert bridge.sample("commands_total", event="unknown_result") == 2
            await device.publish(b"x", topic=topic.replace(command["command_id"], "17"))
            await until(lambda: bridge.sample("quarantined_total", code="bad_topic") == 1)
            assert bridge.sample("mqtt_inflight") == 0


async def test_what_is_refused_over_http(registered: CommandedDevice) -> None:
    few = CommandSettings(max_open_per_device=2, max_payload_bytes=100)
    async with (
        open_bridge(registered.url, f"mqtt://127.0.0.1:{free_port()}", commands=few, connected=False) as bridge,
        bridge.client(registered.api_key) as client,
    ):
        for body, code in (
            (b"", "bad_json"),
            (b"{}", "bad_form"),
            (b"[]", "bad_form"),
            (b'{"payload": NaN}', "bad_json"),
            (b'{"payload": \xff}', "bad_json"),
            (b'{"payload": "\xff"}', "bad_json"),
            (b'{"payload": 1, "expire": 3}', "bad_form"),
            (b'{"payload": 1, "expires_in_s": 0}', "bad_form"),
            (b'{"payload": 1, "expires_in_s": 1e9}', "bad_form"),
            (b'{"payload": 1, "expires_in_s": "9"}', "bad_form"),
            # Deeper than every Python goes: how deep C may recurse is 1,000 in 3.11 and 10,000 in 3.13.
            (b'{"payload": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "bad_json"),
        ):
            answer = await client.post(registered.path, content=body)
            assert (answer.status_code, answer.json()["code"]) == (422, code), body
        assert (await client.post(registered.path, json={"payload": "x" * 100})).status_code == 413
        assert (await client.post("/devices/17/commands", json={"payload": 1})).status_code == 422
        assert (await client.post(f"/devices/{NOBODY}/commands", json={"payload": 1})).status_code == 404
        assert (await client.get(f"/devices/{NOBODY}/commands")).status_code == 404
        assert (await client.get(f"{registered.path}/{NOBODY}")).status_code == 404
        assert (await client.get(f"{registered.path}/17")).status_code == 422
        assert (await client.post(registered.path, headers={"X-API-Key": "no"}, json={"payload": 1})).status_code == 401
        once = {"Idempotency-Key": "a"}
        first = await client.post(registered.path, headers=once, json={"payload": "\x00"})
        again = await client.post(registered.path, headers=once, json={"payload": "\x00"})
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json() == again.json()
        assert first.json()["payload"] == "\x00"
        await sent(client, registered, None)
        full = await client.post(registered.path, json={"payload": 3})
        assert (full.status_code, full.json()["code"]) == (429, "too_many_commands")
        assert full.headers["retry-after"]
        registered.do(f"UPDATE devices SET status = 'disabled' WHERE device_uuid = '{registered.uuid}'")
        assert (await client.post(registered.path, json={"payload": 1})).status_code == 409


def test_commands_from_the_command_line(commands: Commands, registered: CommandedDevice) -> None:
    commands.set(database__url=registered.url)
    made = commands.json("command", "send", registered.uuid, '{"interval_s": 30}', "--expires-in", "600")
    assert (made["state"], made["payload"]) == ("queued", {"interval_s": 30})
    text = commands.json("command", "send", registered.uuid, "reboot now")
    assert text["payload"] == "reboot now"
    listed = commands.json("command", "list", registered.uuid)
    assert [each["command_id"] for each in listed] == [text["command_id"], made["command_id"]]
    assert commands.json("command", "show", registered.uuid, made["command_id"]) == made
    assert '"reboot now"' in commands.run("command", "list", registered.uuid).out
    assert "payload: " in commands.run("command", "show", registered.uuid, made["command_id"]).out
    commands.problems("command", "show", registered.uuid, NOBODY, expect=4)
    commands.problems("command", "show", registered.uuid, "17")
    commands.problems("command", "send", NOBODY, "1", expect=4)
    commands.problems("command", "send", registered.uuid, "1", "--expires-in", "0")
