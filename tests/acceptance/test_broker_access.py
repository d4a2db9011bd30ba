"""Who may speak: Mosquitto with the files we write, the hooks as EMQX and mosquitto-go-auth call them, EMQX's API."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.acceptance.service import Service
from tests.support import needs
from tests.support.certificates import Authority
from tests.support.servers import free_port, listens, until, wait_until

SECRET = "a secret of the hooks"


class Client:
    """An MQTT client as a device would use one."""

    def __init__(self, port: int, username: str, password: str = "", **tls: Any) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
        if username:
            self._client.username_pw_set(username, password)
        if tls:
            self._client.tls_set(**tls)
        self.refused: str | None = None
        self.got: list[tuple[str, bytes]] = []
        self.granted: list[bool] = []
        self.ended = threading.Event()
        self._up = threading.Event()
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = lambda *_: self.ended.set()
        self._client.on_message = lambda _c, _u, message: self.got.append((message.topic, bytes(message.payload)))
        self._client.on_subscribe = lambda _c, _u, _m, codes, _p: self.granted.extend(not c.is_failure for c in codes)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._up.wait(20)

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self.refused = str(reason) if reason.is_failure else None
        self._up.set()

    def subscribe(self, topic: str) -> None:
        before = len(self.granted)
        self._client.subscribe(topic, 1)
        wait_until(lambda: len(self.granted) > before, 20)

    def publish(self, topic: str, payload: str = "1") -> None:
        self._client.publish(topic, payload, qos=1).wait_for_publish(20)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def service(postgres_url: str, tmp_path: Path) -> Iterator[Service]:
    """A service with hooks, without an MQTT door; its streams are in memory."""
    made = Service(
        tmp_path,
        postgres_url,
        "",
        broker__kind="memory",
        hooks__enabled="true",
        hooks__secret=SECRET,
        mqtt__enabled="false",
    )
    made.start()
    yield made
    made.stop()


@pytest.fixture
def device(service: Service) -> dict[str, Any]:
    made: dict[str, Any] = service.command("device", "add", "pump", "--sensor", "t:temperature")
    return made


class Broker:
    """A Mosquitto with our files, and what keeps them current."""

    def __init__(self, service: Service, folder: Path, *options: str) -> None:
        self.port, self.tls_port = free_port(), free_port()
        self.pid_file = folder / "mosquitto.pid"
        self.folder = folder / "files"
        arguments = ["mqtt", "config", "mosquitto", "--out", str(self.folder), "--port", str(self.port)]
        arguments += ["--persistence", str(folder), "--owner", "", "--pid-file", str(self.pid_file), *options]
        self.summary = service.command(*arguments, "--tls-port", str(self.tls_port if options else 0))
        conf = self.folder / "mosquitto.conf"
        with conf.open("a") as more:
            more.write(f"user root\npid_file {self.pid_file}\n" if os.geteuid() == 0 else f"pid_file {self.pid_file}\n")
        program = needs.program(needs.MOSQUITTO)
        self._log = (folder / "broker.log").open("wb")
        self._broker = subprocess.Popen([program, "-c", str(conf)], stdout=self._log, stderr=self._log)
        self._watch = subprocess.Popen(
            [sys.executable, "-m", "bridge", *arguments, "--tls-port", "0", "--watch"],
            env=service.environment,
            stdout=subprocess.DEVNULL,
        )
        wait_until(lambda: self.pid_file.exists() and listens(self.port), 20)

    def close(self) -> None:
        for process in (self._watch, self._broker):
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        self._log.close()


@pytest.fixture
def closing() -> Iterator[list[Any]]:
    """Whatever is put here is closed at the end, last first."""
    things: list[Any] = []
    yield things
    for thing in reversed(things):
        thing.close()


def test_mosquitto_lets_devices_touch_their_own_topics_only(
    service: Service, device: dict[str, Any], tmp_path: Path, closing: list[Any]
) -> None:
    hub = service.command("mqtt", "account", "add", "hub", "--role", "bridge")
    weather = service.command("mqtt", "account", "add", "weather")
    broker = Broker(service, tmp_path)
    closing.append(broker)
    assert broker.summary["devices"] == broker.summary["bridge_accounts"] == broker.summary["publisher_accounts"] == 1

    bridge = Client(broker.port, "hub", hub["password"])
    closing.append(bridge)
    bridge.subscribe("#")
    pump = Client(broker.port, device["device_uuid"], device["device_key"])
    closing.append(pump)
    publisher = Client(broker.port, "weather", weather["password"])
    closing.append(publisher)
    assert (bridge.refused, pump.refused, publisher.refused) == (None, None, None)

    own = f"devices/{device['device_uuid']}"
    other = "devices/5f0c1f5e-0000-4000-8000-00000000000a/readings"
    for topic in (other, "iot/sensors/1/readings", f"{own}/readings"):
        pump.publish(topic)
    for topic in (f"{own}/readings", "iot/sensors/2/readings"):
        publisher.publish(topic)
    wait_until(lambda: len(bridge.got) >= 2, 20)
    assert sorted(topic for topic, _ in bridge.got) == sorted([f"{own}/readings", "iot/sensors/2/readings"])
    pump.subscribe(f"{own}/rejected")
    bridge.publish(f"{own}/rejected", "{}")
    wait_until(lambda: pump.got, 20)

    for username, password in ((device["device_uuid"], "wrong"), ("hub", weather["password"]), ("", "")):
        stranger = Client(broker.port, username, password)
        closing.append(stranger)
        assert stranger.refused == "Not authorized"


def test_mosquitto_drops_an_open_session_when_its_key_is_revoked(
    service: Service, device: dict[str, Any], tmp_path: Path, closing: list[Any]
) -> None:
    broker = Broker(service, tmp_path)
    closing.append(broker)
    pump = Client(broker.port, device["device_uuid"], device["device_key"])
    closing.append(pump)
    assert pump.refused is None
    service.command("device", "key", "revoke", device["device_uuid"])
    assert pump.ended.wait(5), "an open session outlives its key by 5 s"
    again = Client(broker.port, device["device_uuid"], device["device_key"])
    closing.append(again)
    assert again.refused == "Not authorized"
    key = service.command("device", "key", "rotate", device["device_uuid"])["device_key"]

    def works() -> bool:
        client = Client(broker.port, device["device_uuid"], key)
        closing.append(client)
        return client.refused is None

    wait_until(works, 20)


def test_mosquitto_takes_the_common_name_of_a_client_certificate(
    service: Service, device: dict[str, Any], tmp_path: Path, closing: list[Any]
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("DNS:localhost", "IP:127.0.0.1")
    own, own_key = authority.issue_client(device["device_uuid"])
    tls = ["--certificate", str(certificate), "--key", str(key), "--client-ca", str(authority.certificate)]
    hub = service.command("mqtt", "account", "add", "hub", "--role", "bridge")
    broker = Broker(service, tmp_path, *tls)
    closing.append(broker)
    bridge = Client(broker.port, "hub", hub["password"])
    closing.append(bridge)
    bridge.subscribe("#")
    pump = Client(broker.tls_port, "", ca_certs=str(authority.certificate), certfile=str(own), keyfile=str(own_key))
    closing.append(pump)
    assert pump.refused is None
    pump.publish("devices/5f0c1f5e-0000-4000-8000-00000000000a/readings")
    pump.publish(f"devices/{device['device_uuid']}/readings")
    wait_until(lambda: bridge.got, 20)
    assert [topic for topic, _ in bridge.got] == [f"devices/{device['device_uuid']}/readings"]


def test_file_of_an_earlier_version_stays_and_is_said_to_lack_something(service: Service, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    old = "listener 1883 127.0.0.1\n\nlistener 8883\ncertfile /b.pem\nkeyfile /b.key\n"
    (folder / "mosquitto.conf").write_text(old)
    service.command("device", "add", "pump", "--sensor", "t:temperature")

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bridge", "mqtt", "config", "mosquitto", "--out", str(folder), *options]
        return subprocess.run(command, env=service.environment, capture_output=True, text=True, timeout=60, check=True)

    said = run().stderr
    assert "a device can take the bridge's client id" in said
    assert "--force" in said
    assert (folder / "mosquitto.conf").read_text() == old
    assert (folder / "passwd").read_text().count("\n") == 1
    assert "client id" not in run("--force", "--certificate", "/b.pem", "--key", "/b.key", "--included").stderr
    assert "use_username_as_clientid true" in (folder / "mosquitto.conf").read_text()


def hook(service: Service, path: str, body: Any, **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {SECRET}"}
    return httpx.post(f"{service.http}/hooks/{path}", json=body, headers=headers, timeout=20, **more)


def test_emqx_hooks_answer_200_also_for_a_denial(service: Service, device: dict[str, Any]) -> None:
    uuid, key = device["device_uuid"], device["device_key"]
    service.command("mqtt", "account", "add", "hub", "--role", "bridge")
    for username, password, result in (
        (uuid, key, "allow"),
        (uuid, "x", "deny"),
        ("hub", key, "deny"),
        ("", "", "deny"),
    ):
        answer = hook(service, "emqx/authn", {"username": username, "password": password, "clientid": "c"})
        assert (answer.status_code, answer.json()["result"]) == (200, result)
    for username, action, topic, result in (
        (uuid, "publish", f"devices/{uuid}/readings", "allow"),
        (uuid, "subscribe", f"devices/{uuid}/#", "allow"),
        (uuid, "publish", "devices/5f0c1f5e-0000-4000-8000-00000000000a/readings", "deny"),
        (uuid, "shout", f"devices/{uuid}/readings", "deny"),
        ("hub", "subscribe", "$share/bridge/devices/+/readings", "allow"),
        ("5f0c1f5e-0000-4000-8000-00000000000a", "publish", "devices/5f0c1f5e-0000-4000-8000-00000000000a/r", "deny"),
    ):
        answer = hook(service, "emqx/authz", {"username": username, "action": action, "topic": topic})
        assert (answer.status_code, answer.json()["result"]) == (200, result), (username, action, topic)
    # A certificate stands for nothing unless hooks.trust_certificates says so.
    answer = hook(service, "emqx/authn", {"username": uuid, "password": "", "cert_common_name": uuid})
    assert answer.json()["result"] == "deny"


@pytest.mark.parametrize("form", [False, True])
def test_go_auth_hooks_answer_by_status_and_by_body(service: Service, device: dict[str, Any], form: bool) -> None:
    uuid, key = device["device_uuid"], device["device_key"]

    def ask(path: str, **fields: str) -> tuple[int, bool]:
        body: dict[str, Any] = {"data": fields} if form else {"json": fields}
        answer = httpx.post(f"{service.http}/hooks/mosquitto/{path}?secret={SECRET}", timeout=20, **body)
        return answer.status_code, answer.json()["Ok"]

    assert ask("user", username=uuid, password=key, clientid="c") == (200, True)
    assert ask("user", username=uuid, password="x", clientid="c") == (403, False)
    assert ask("superuser", username=uuid) == (403, False)
    for acc, topic, answer in (
        ("2", f"devices/{uuid}/readings", (200, True)),
        ("4", f"devices/{uuid}/#", (200, True)),
        ("1", f"devices/{uuid}/rejected", (200, True)),
        ("2", "devices/5f0c1f5e-0000-4000-8000-00000000000a/readings", (403, False)),
        ("9", f"devices/{uuid}/readings", (403, False)),
    ):
        assert ask("acl", username=uuid, clientid="c", topic=topic, acc=acc) == answer


def test_hooks_refuse_a_client_id_of_somebody_else(service: Service, device: dict[str, Any]) -> None:
    uuid, key = device["device_uuid"], device["device_key"]
    other = service.command("device", "add", "other", "--sensor", "t:temperature")["device_uuid"]
    hub = service.command("mqtt", "account", "add", "hub", "--role", "bridge")["password"]
    service.command("mqtt", "account", "add", "iot-bridge-x", expect=2)
    for client_id, allowed in (
        ("esp32-c0ffee", True),
        (uuid, True),
        (other, False),
        ("hub", False),
        ("iot-bridge-bridge", False),
        ("iot-edge-barn", False),
    ):
        login = {"username": uuid, "password": key, "clientid": client_id}
        answer = hook(service, "emqx/authn", login)
        assert answer.json()["result"] == ("allow" if allowed else "deny"), client_id
        url = f"{service.http}/hooks/mosquitto/user?secret={SECRET}"
        assert httpx.post(url, data=login, timeout=20).json()["Ok"] is allowed, client_id
        login = {"username": "hub", "password": hub, "clientid": client_id}
        assert hook(service, "emqx/authn", login).json()["result"] == "allow"
    assert service.log.count("client_id_refused") == 8
    assert "hook_without_client_id" not in service.log
    for _ in range(2):
        answer = hook(service, "emqx/authn", {"username": uuid, "password": key})
        assert answer.json()["result"] == "allow"
    assert service.log.count("hook_without_client_id") == 1


def test_hooks_want_their_secret_and_survive_junk(service: Service, device: dict[str, Any]) -> None:
    assert httpx.post(f"{service.http}/hooks/emqx/authn", json={}).status_code == 401
    wrong = {b"Authorization": "Bearer \u00fcwrong".encode()}
    assert httpx.post(f"{service.http}/hooks/mosquitto/user", json={}, headers=wrong).status_code == 401
    headers = {"Authorization": f"Bearer {SECRET}"}
    for junk in (b"", b"[]", b"\xff", b"{" * 100_000, b'{"username": {"a": [1]}, "password": null}', b"x" * 2_000_000):
        answer = httpx.post(f"{service.http}/hooks/emqx/authn", content=junk, headers=headers, timeout=20)
        assert (answer.status_code, answer.json()) == (200, {"result": "deny"})
        answer = httpx.post(f"{service.http}/hooks/mosquitto/acl", content=junk, headers=headers, timeout=20)
        assert 400 <= answer.status_code < 500
    assert "Traceback" not in service.log


def test_hooks_stop_a_revoked_key_within_5_s(service: Service, device: dict[str, Any]) -> None:
    uuid = device["device_uuid"]
    login = {"username": uuid, "password": device["device_key"]}
    publish = {"username": uuid, "action": "publish", "topic": f"devices/{uuid}/readings"}
    for path, body in (("emqx/authn", login), ("emqx/authz", publish)):
        assert hook(service, path, body).json()["result"] == "allow"
    service.command("device", "key", "revoke", uuid)
    deadline_s = time.monotonic() + 5
    for path, body in (("emqx/authn", login), ("emqx/authz", publish)):
        while hook(service, path, body).json()["result"] != "deny":
            assert time.monotonic() < deadline_s


class FakeEmqx(ThreadingHTTPServer):
    """The two calls of EMQX's management API that we make, after its documentation."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _EmqxRequest)
        self.clients: dict[str, str] = {}
        self.refuse = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _EmqxRequest(BaseHTTPRequestHandler):
    server: FakeEmqx

    def do_GET(self) -> None:
        name = parse_qs(urlsplit(self.path).query)["username"][0]
        found = [{"clientid": client} for client, username in self.server.clients.items() if username == name]
        self._answer(503 if self.server.refuse else 200, {"data": found, "meta": {}})

    def do_DELETE(self) -> None:
        client = unquote(self.path.removeprefix("/api/v5/clients/"))
        gone = self.server.clients.pop(client, None)
        self._answer(204 if gone else 404, None)

    def _answer(self, status: int, body: Any) -> None:
        assert self.headers["Authorization"].startswith("Basic ")
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def emqx() -> Iterator[FakeEmqx]:
    server = FakeEmqx()
    thread = threading.Thread(target=server.serve_forever, name="emqx")
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def test_emqx_is_told_to_end_sessions_of_a_revoked_key(postgres_url: str, tmp_path: Path, emqx: FakeEmqx) -> None:
    service = Service(
        tmp_path,
        postgres_url,
        "",
        broker__kind="memory",
        mqtt__enabled="false",
        emqx__url=emqx.url,
        emqx__key="k",
        emqx__secret="s",
    )
    await asyncio.to_thread(service.start)
    try:
        device = service.command("device", "add", "pump", "--sensor", "t:temperature")
        uuid = device["device_uuid"]
        emqx.refuse = True
        emqx.clients = {"a/1": uuid, "b": uuid.upper(), "c": "another"}
        service.command("device", "key", "revoke", uuid)
        await until(lambda: "emqx_unavailable" in service.log, 20)
        emqx.refuse = False
        await until(lambda: list(emqx.clients) == ["c"], 20)
        # Once for each revocation: a device that is back with another key stays.
        emqx.clients["d"] = uuid
        service.command("device", "add", "another", "--sensor", "t:temperature")
        other = service.command("device", "add", "third", "--sensor", "t:temperature")["device_uuid"]
        emqx.clients["e"] = other
        service.command("device", "disable", other)
        await until(lambda: "e" not in emqx.clients, 20)
        assert sorted(emqx.clients) == ["c", "d"]
    finally:
        service.stop()
