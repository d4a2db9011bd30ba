"""The generated Mosquitto, on the real one: whose client id is whose, queues of an older file, what is too large."""

from __future__ import annotations

import os
import select
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from bridge.model.reading import Code
from bridge.mqtt.mosquitto import ACL, CONF, PASSWORDS, Layout, User, acl, conf, passwords, protects_client_ids
from bridge.settings.mqtt import MqttSettings
from bridge.store.passwords import mosquitto_hash
from tests.support import needs
from tests.support.certificates import Authority
from tests.support.mqtt_door import (
    CONNECT,
    DEVICE,
    DISCONNECT,
    OTHER_DEVICE,
    SUBSCRIBE,
    TOPIC,
    Door,
    FakePipeline,
    open_door,
    packet,
    publication,
)
from tests.support.servers import free_port, listens, until, wait_until

CLIENT_ID = "iot-bridge-north"
USERS = [
    ("hub", "bridge"),
    (CLIENT_ID, "bridge"),
    ("weather", "publisher"),
    (DEVICE, "device"),
    (OTHER_DEVICE, "device"),
]
OLD_CONF = """\
listener {port} 127.0.0.1

listener {tls_port}
certfile {certificate}
keyfile {key}
tls_version tlsv1.2

allow_anonymous false
password_file {folder}/passwd
acl_file {folder}/acl

persistence true
persistence_location {data_folder}/
autosave_interval 30
persistent_client_expiration 14d
max_queued_messages 1000000
max_queued_bytes 268435456
message_size_limit 262144
"""
"""What the first release wrote."""
DEBIAN_CONF = """\
pid_file {folder}/mosquitto.pid

persistence true
persistence_location {folder}/

log_dest file {folder}/mosquitto.log

include_dir {folder}/conf.d
"""
"""/etc/mosquitto/mosquitto.conf of Debian 12 and 13, in another folder."""


class Broker:
    """A Mosquitto by generated files; every account's password is its name."""

    def __init__(self, folder: Path) -> None:
        self._program = needs.program(needs.MOSQUITTO)
        self.folder = folder
        self.authority = Authority(folder)
        certificate, key = self.authority.issue("DNS:localhost", "IP:127.0.0.1")
        self.publishers = Authority(folder, "publishers")
        self.layout = Layout(
            folder=folder,
            data_folder=folder,
            port=free_port(),
            tls_port=free_port(),
            certificate=certificate,
            key=key,
            publisher_port=free_port(),
            publisher_ca=self.publishers.certificate,
        )
        users = [User(name, role, mosquitto_hash(name)) for name, role in USERS]
        (folder / PASSWORDS).write_text(passwords(users))
        (folder / ACL).write_text(acl(users))
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[paho.Client] = []

    def start(self, text: str) -> None:
        """Start with this mosquitto.conf; returns once it listens."""
        path = self.folder / CONF
        path.write_text(text + ("user root\n" if os.geteuid() == 0 else ""))
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, "-c", str(path)], stdout=log, stderr=log)
        wait_until(lambda: listens(self.layout.port), 20)

    def stop(self) -> None:
        """An ordered stop, which saves sessions."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)
            self._process = None

    def close(self) -> None:
        for client in self._clients:
            client.disconnect()
            client.loop_stop()
        self.stop()

    @property
    def resident_bytes(self) -> int:
        assert self._process is not None
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024

    def bridge(self, pipeline: FakePipeline, client_id: str = CLIENT_ID) -> AbstractAsyncContextManager[Door]:
        """A door of the bridge, on its listener."""
        return open_door(f"mqtt://127.0.0.1:{self.layout.port}", pipeline, client_id, username="hub", password="hub")

    def client(self, port: int, name: str, client_id: str = "", **tls: Any) -> Client:
        """A client that has got its answer."""
        made = Client(port, name, client_id, ca_certs=str(self.authority.certificate), **tls)
        self._clients.append(made.client)
        return made


class Client:
    """An MQTT client over TLS that does not come back by itself."""

    def __init__(self, port: int, name: str, client_id: str, **tls: Any) -> None:
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True, reconnect_on_failure=False
        )
        self.client.username_pw_set(name, name)
        self.client.tls_set(**tls)
        self.refused: str | None = "no answer"
        self.acknowledged: list[int] = []
        self.ended = threading.Event()
        self._answered = threading.Event()
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_publish = lambda _client, _userdata, mid, *_: self.acknowledged.append(mid)
        self.client.connect("localhost", port)
        self.client.loop_start()
        assert self._answered.wait(20)

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self.refused = str(reason) if reason.is_failure else None
        self._answered.set()

    def _on_disconnect(self, *_: Any) -> None:
        self.ended.set()
        self._answered.set()

    def publish(self, topic: str, payload: bytes | str = "1") -> None:
        message = self.client.publish(topic, payload, qos=1)
        wait_until(message.is_published, 20)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path)
    yield made
    made.close()


async def test_device_with_the_bridges_client_id_does_not_touch_the_bridges_session(broker: Broker) -> None:
    broker.start(conf(broker.layout))
    pipeline = FakePipeline()
    async with broker.bridge(pipeline) as door:
        await until(lambda: door.connected)
        hostile = broker.client(broker.layout.tls_port, OTHER_DEVICE, CLIENT_ID)
        assert hostile.refused is None
        broker.client(broker.layout.tls_port, DEVICE).publish(TOPIC)
        await pipeline.wait_taken(1)
        assert (door.connected, door.reconnects, hostile.ended.is_set()) == (True, 0, False)
    # Away, it keeps its messages, whoever comes with its client id.
    for number in range(20):
        broker.client(broker.layout.tls_port, OTHER_DEVICE, CLIENT_ID)
        broker.client(broker.layout.tls_port, DEVICE).publish(TOPIC, str(number))
    async with broker.bridge(pipeline):
        await pipeline.wait_taken(21)
    assert pipeline.payloads[1:] == [str(number).encode() for number in range(20)]


async def test_two_bridges_on_one_account_and_two_publishers_on_one_account(broker: Broker) -> None:
    broker.start(conf(broker.layout))
    first, second = FakePipeline(), FakePipeline()
    certificate, key = broker.publishers.issue_client("a publisher")
    tls = {"certfile": str(certificate), "keyfile": str(key)}
    async with broker.bridge(first, "one") as one, broker.bridge(second, "two") as two:
        await until(lambda: one.connected and two.connected)
        publishers = [broker.client(broker.layout.publisher_port, "weather", f"w-{n}", **tls) for n in (1, 2)]
        for number, publisher in enumerate(publishers, 1):
            publisher.publish(f"iot/sensors/{number}/readings", '{"value": 1}')
        await first.wait_taken(2)
        await second.wait_taken(2)
        assert not any(publisher.ended.is_set() for publisher in publishers)
        assert (one.reconnects, two.reconnects) == (0, 0)
        # On the devices' listener an account is one connection.
        alone = [broker.client(broker.layout.tls_port, "weather", f"w-{n}") for n in (1, 2)]
        assert alone[0].ended.wait(20)
        assert not alone[1].ended.is_set()


def test_publishers_listener_wants_a_certificate_that_devices_do_not_have(broker: Broker) -> None:
    broker.start(conf(broker.layout))
    certificate, key = broker.authority.issue_client(DEVICE)
    for tls in ({}, {"certfile": str(certificate), "keyfile": str(key)}):
        assert is_shut_out(broker, **tls)


def is_shut_out(broker: Broker, **tls: str) -> bool:
    """Whether TLS ends before the broker looks at a device. With TLS 1.3 a client hears of it after its handshake."""
    try:
        return broker.client(broker.layout.publisher_port, DEVICE, CLIENT_ID, **tls).refused == "no answer"
    except (ssl.SSLError, ConnectionError):
        return True


async def test_firmware_that_makes_up_its_own_client_id_goes_on_working(broker: Broker) -> None:
    broker.start(conf(broker.layout))
    pipeline = FakePipeline()
    async with broker.bridge(pipeline) as door:
        await until(lambda: door.connected)
        for client_id in ("", "esp32-c0ffee", "5f0c1f5e-9999-4000-8000-00000000000a", "x" * 200):
            device = broker.client(broker.layout.tls_port, DEVICE, client_id)
            assert device.refused is None
            device.publish(TOPIC)
        await pipeline.wait_taken(4)


async def test_bridge_of_another_host_has_an_account_of_its_client_ids_name(broker: Broker) -> None:
    broker.start(conf(broker.layout))
    pipeline = FakePipeline()
    url, ca_file = f"mqtts://localhost:{broker.layout.tls_port}", broker.authority.certificate
    options: dict[str, Any] = {"username": CLIENT_ID, "password": CLIENT_ID, "ca_file": ca_file}
    async with broker.bridge(pipeline) as door:
        await until(lambda: door.connected)
    broker.client(broker.layout.tls_port, DEVICE).publish(TOPIC)
    async with open_door(url, pipeline, CLIENT_ID, **options):
        await pipeline.wait_taken(1)


async def test_queue_of_an_older_file_is_there_with_the_new_one(broker: Broker) -> None:
    layout = broker.layout
    old = OLD_CONF.format(**{name: getattr(layout, name) for name in layout.__struct_fields__})
    assert not protects_client_ids(old)
    broker.start(old)
    pipeline = FakePipeline()
    async with broker.bridge(pipeline) as door:
        await until(lambda: door.connected)
    device = broker.client(layout.tls_port, DEVICE)
    for number in range(20):
        device.publish(TOPIC, str(number))
    broker.stop()
    broker.start(conf(layout))
    device = broker.client(layout.tls_port, DEVICE)
    for number in range(20, 30):
        device.publish(TOPIC, str(number))
    async with broker.bridge(pipeline):
        await pipeline.wait_taken(30)
    assert sorted(pipeline.payloads, key=int) == [str(number).encode() for number in range(30)]


async def test_file_is_read_by_debians_own_configuration(broker: Broker) -> None:
    folder = broker.folder / "debian"
    (folder / "conf.d").mkdir(parents=True)
    text = conf(msgspec.structs.replace(broker.layout, included=True))
    (folder / "conf.d" / "iot-bridge.conf").write_text(text)
    broker.start(DEBIAN_CONF.format(folder=folder))
    pipeline = FakePipeline()
    async with broker.bridge(pipeline) as door:
        await until(lambda: door.connected)
    broker.client(broker.layout.tls_port, DEVICE).publish(TOPIC)
    broker.stop()
    assert (folder / "mosquitto.db").stat().st_size > 0
    broker.start(DEBIAN_CONF.format(folder=folder))
    async with broker.bridge(pipeline):
        await pipeline.wait_taken(1)


def test_packet_that_is_too_large_costs_no_memory(broker: Broker) -> None:
    broker.start(conf(broker.layout))
    before = broker.resident_bytes
    head = b"\x10\xff\xff\xff\x7f\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a"  # CONNECT, 256 MB
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", broker.layout.port)) as client, pytest.raises(ConnectionError):
            client.sendall(head + bytes(100 << 20))
    assert broker.resident_bytes - before < 8 << 20


def test_device_that_does_not_read_has_nothing_kept_for_it(broker: Broker) -> None:
    broker.start(conf(broker.layout))
    before = broker.resident_bytes
    login = text(DEVICE) + text(DEVICE)
    with connected(broker.layout.port) as client:
        client.sendall(packet(CONNECT, text("MQTT") + b"\4\xc0\0\x3c" + text("deaf") + login))
        assert client.recv(4) == b"\x20\x02\x00\x00"
        client.sendall(packet(SUBSCRIBE, b"\0\1" + text(f"devices/{DEVICE}/#") + b"\1", 2))
        for number in range(1, 501):
            client.sendall(publication(f"devices/{DEVICE}/echo", bytes(200_000), mid=number))
        client.sendall(packet(DISCONNECT, b""))
        while client.recv(65_536):
            pass
    assert broker.resident_bytes - before < 8 << 20


def text(value: str) -> bytes:
    """As MQTT writes it."""
    return len(value).to_bytes(2, "big") + value.encode()


async def test_payload_a_little_too_large_is_quarantined_and_not_dropped(broker: Broker) -> None:
    broker.start(conf(broker.layout))
    limit = MqttSettings().max_payload_bytes
    pipeline = FakePipeline()
    async with broker.bridge(pipeline) as door:
        await until(lambda: door.connected)
        device = broker.client(broker.layout.tls_port, DEVICE)
        device.publish(TOPIC, b"1" * limit)
        device.publish(TOPIC, b"1" * (limit + 60_000))
        await pipeline.wait_taken(2)
        assert [rejection.code for rejection in pipeline.taken[1].packet.rejections] == [Code.TOO_LARGE]
        large = device.client.publish(TOPIC, b"1" * (limit + 70_000), qos=1)
        assert device.ended.wait(20)
        assert large.mid not in device.acknowledged, "acknowledged, and dropped"


def test_connections_of_a_listener_are_bounded(broker: Broker) -> None:
    """Of Mosquitto 2.0.11 only roughly: it counts each connection that ends twice (mended in 2.0.12)."""
    broker.start(conf(msgspec.structs.replace(broker.layout, max_devices=3)))
    written = (broker.folder / CONF).read_text()
    assert written.count("max_connections") == written.count("\nlistener ") == 3
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(broker.layout.tls_port)) for _ in range(20)]
        wait_until(lambda: select.select(clients, [], [], 0)[0], 20)  # at least one is closed
        client = stack.enter_context(connected(broker.layout.port))
        client.sendall(packet(CONNECT, b"\0\4MQTT\4\2\0\x3c\0\0"))
        assert client.recv(4) == b"\x20\x02\x00\x05", "not authorised, but answered: another listener is not full"


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 20)
