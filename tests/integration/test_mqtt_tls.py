"""TLS and passwords on the way to a real Mosquitto: what is wrong is said once and clearly, and tried for ever."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import ConfigError
from bridge.mqtt.address import tls_context
from bridge.settings.mqtt import MqttSettings
from tests.support.certificates import Authority
from tests.support.mqtt_door import (
    TOPIC,
    Device,
    Door,
    FakeBroker,
    FakePipeline,
    MqttLog,
    numbered,
    open_door,
    publication,
)
from tests.support.servers import MosquittoProcess, TcpProxy, free_port, until


class SecureBroker:
    """A Mosquitto with a second listener, for TLS."""

    def __init__(self, server: MosquittoProcess, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._conf = folder / "mosquitto.conf"
        self._plain = self._conf.read_text()
        self.port = free_port()
        self.plain_port = server.port

    def restart(self, certificate: Path, key: Path, *more: str) -> None:
        """Come back with this certificate."""
        self._server.stop()
        listener = (f"listener {self.port} 127.0.0.1", f"certfile {certificate}", f"keyfile {key}", *more)
        self._conf.write_text(self._plain + "\n".join(listener) + "\n")
        self._server.start()

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    folder = tmp_path / "trusted"
    folder.mkdir()
    return Authority(folder)


@pytest.fixture
def broker(mosquitto: MosquittoProcess, tmp_path: Path) -> SecureBroker:
    return SecureBroker(mosquitto, tmp_path / "mosquitto")


async def tried_again(door: Door, times: int = 3) -> None:
    enough = door.reconnects + times
    await until(lambda: door.reconnects >= enough)


async def test_tls_with_a_ca_file(broker: SecureBroker, authority: Authority) -> None:
    broker.restart(*authority.issue("IP:127.0.0.1", "DNS:localhost"))
    pipeline = FakePipeline()
    for host in ("127.0.0.1", "localhost"):
        url = f"mqtts://{host}:{broker.port}"
        async with open_door(url, pipeline, ca_file=authority.certificate) as door:
            await until(lambda: door.connected)
            with Device(broker.plain_port) as device:
                await device.publish(*numbered(100))
            await until(lambda: len(pipeline.taken) == 100)
            pipeline.taken.clear()


async def test_tls_at_the_bound_leaves_nothing_behind_in_its_buffer(authority: Authority) -> None:
    """One TLS record may carry many messages; what is decrypted and not read does not make a socket readable."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("IP:127.0.0.1"))
    pipeline = FakePipeline(None)
    async with (
        FakeBroker(tls=context) as broker,
        open_door(broker.url, pipeline, ca_file=authority.certificate, max_inflight=3) as door,
    ):
        await until(lambda: door.connected)
        broker.send(b"".join(publication(TOPIC, b"%d" % mid, mid=mid) for mid in range(1, 51)))
        await pipeline.wait_taken(3)
        pipeline.full = 2
        pipeline.settle_held()
        await until(lambda: len(broker.acknowledged) == 50)
        assert pipeline.payloads == numbered(50, 1)
        assert (door.reconnects, door.inflight) == (0, 0)


async def test_ca_that_did_not_sign_the_broker(
    broker: SecureBroker, authority: Authority, tmp_path: Path, mqtt_log: MqttLog
) -> None:
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    broker.restart(*Authority(stranger).issue("IP:127.0.0.1"))
    url = f"mqtts://127.0.0.1:{broker.port}"
    async with open_door(url, FakePipeline(), ca_file=authority.certificate) as door:
        await tried_again(door)
        assert not door.connected
        (error,) = mqtt_log.errors
        assert error.startswith("TLS: we do not trust the CA of the broker's certificate (")
        assert error.endswith("); check mqtt.ca_file")
        await asyncio.to_thread(broker.restart, *authority.issue("IP:127.0.0.1"))
        await until(lambda: door.connected)
        assert door.ingest.problem == ""


async def test_certificate_of_another_host(broker: SecureBroker, authority: Authority, mqtt_log: MqttLog) -> None:
    broker.restart(*authority.issue("DNS:elsewhere.example", "IP:127.0.0.2"))
    async with open_door(f"mqtts://127.0.0.1:{broker.port}", FakePipeline(), ca_file=authority.certificate) as door:
        await tried_again(door)
        (error,) = mqtt_log.errors
        assert error == "TLS: the broker's certificate is not for the host 127.0.0.1; check the host in mqtt.url"


# -- client certificates


def wanting_certificates(authority: Authority) -> tuple[str, ...]:
    return (f"cafile {authority.certificate}", "require_certificate true")


async def test_client_certificate(broker: SecureBroker, authority: Authority) -> None:
    broker.restart(*authority.issue("IP:127.0.0.1"), *wanting_certificates(authority))
    certificate, key = authority.issue_client("bridge")
    url = f"mqtts://127.0.0.1:{broker.port}"
    files: dict[str, Any] = {"ca_file": authority.certificate, "cert_file": certificate, "key_file": key}
    async with open_door(url, FakePipeline(), **files) as door:
        await until(lambda: door.connected)


async def test_client_certificate_that_is_wanted_and_not_set(
    broker: SecureBroker, authority: Authority, mqtt_log: MqttLog
) -> None:
    broker.restart(*authority.issue("IP:127.0.0.1"), *wanting_certificates(authority))
    async with open_door(f"mqtts://127.0.0.1:{broker.port}", FakePipeline(), ca_file=authority.certificate) as door:
        await tried_again(door)
        assert mqtt_log.errors
        assert all("client certificate" in error and "mqtt.cert_file" in error for error in mqtt_log.errors)


async def test_client_certificate_of_a_ca_that_the_broker_does_not_know(
    broker: SecureBroker, authority: Authority, tmp_path: Path, mqtt_log: MqttLog
) -> None:
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    certificate, key = Authority(stranger, "stranger").issue_client("bridge")
    broker.restart(*authority.issue("IP:127.0.0.1"), *wanting_certificates(authority))
    files: dict[str, Any] = {"ca_file": authority.certificate, "cert_file": certificate, "key_file": key}
    async with open_door(f"mqtts://127.0.0.1:{broker.port}", FakePipeline(), **files) as door:
        await tried_again(door)
        assert mqtt_log.errors
        assert all("client certificate" in error and "mqtt.cert_file" in error for error in mqtt_log.errors)


def test_tls_files_that_do_not_do_are_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue_client("bridge")
    _, other_key = authority.issue("DNS:x")
    rubbish, locked, nowhere = tmp_path / "rubbish", tmp_path / "locked", tmp_path / "nowhere"
    rubbish.write_text("no PEM")
    lock = ["openssl", "pkey", "-in", str(key), "-aes256", "-passout", "pass:x", "-out", str(locked)]
    subprocess.run(lock, check=True, capture_output=True)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"ca_file": nowhere}, f"mqtt.ca_file = {nowhere}: No such file"),
        ({"ca_file": rubbish}, f"mqtt.ca_file = {rubbish}: "),
        ({"cert_file": nowhere, "key_file": key}, f"mqtt.cert_file = {nowhere}: No such file"),
        ({"cert_file": certificate, "key_file": nowhere}, f"mqtt.key_file = {nowhere}: No such file"),
        ({"cert_file": certificate, "key_file": other_key}, f"mqtt.key_file = {other_key}: is not the key of"),
        ({"cert_file": certificate, "key_file": locked}, "mqtt.key_file: the key has a password"),
        ({"cert_file": rubbish, "key_file": key}, f"mqtt.cert_file = {rubbish}, mqtt.key_file = {key}: no PEM"),
    ]
    for files, said in cases:
        with pytest.raises(ConfigError) as error:
            tls_context(MqttSettings(**files))
        assert error.value.problems[0].startswith(said)


@pytest.mark.parametrize(
    ("scheme", "port"),
    [("mqtts", lambda broker: broker.plain_port), ("mqtt", lambda broker: broker.port)],
    ids=["mqtts", "mqtt"],
)
async def test_url_of_the_other_kind_of_port(
    broker: SecureBroker,
    authority: Authority,
    mqtt_log: MqttLog,
    scheme: str,
    port: Callable[[SecureBroker], int],
) -> None:
    broker.restart(*authority.issue("IP:127.0.0.1"))
    url = f"{scheme}://127.0.0.1:{port(broker)}"
    async with open_door(url, FakePipeline(), ca_file=authority.certificate) as door:
        await tried_again(door)
        assert not door.connected
        assert mqtt_log.errors
        assert all("is this " in error and "TLS" in error for error in mqtt_log.errors)


async def test_settled_during_the_handshake_is_not_sent_before_connect(
    broker: SecureBroker, authority: Authority
) -> None:
    """CONNECT must be the first packet (MQTT-3.1.0-1), or the broker hangs up."""
    broker.restart(*authority.issue("IP:127.0.0.1"))
    pipeline = FakePipeline(None)
    proxy = TcpProxy(("127.0.0.1", broker.port))
    async with proxy:
        url = f"mqtts://127.0.0.1:{proxy.port}"
        async with open_door(url, pipeline, ca_file=authority.certificate) as door:
            await until(lambda: door.connected)
            with Device(broker.plain_port) as device:
                await device.publish(*numbered(3))
                await until(lambda: len(pipeline.held) == 3)
                proxy.cut()
                proxy.stall()
                await until(lambda: proxy.accepted == 2)
                pipeline.settle_held()
                proxy.resume()
                await until(lambda: door.connected)
                await device.publish(b"99")
                await until(lambda: b"99" in pipeline.payloads)
            assert proxy.accepted == 2
            assert pipeline.payloads == [*numbered(3), *numbered(3), b"99"]


async def test_wrong_password_is_said_and_tried_for_ever(
    broker: SecureBroker, authority: Authority, tmp_path: Path, mqtt_log: MqttLog
) -> None:
    passwords = tmp_path / "passwords"

    def come_back(password: str) -> None:
        subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "bri@dge", password], check=True)
        secured = ("per_listener_settings false", "allow_anonymous false", f"password_file {passwords}")
        broker.restart(certificate, key, *secured)

    certificate, key = authority.issue("IP:127.0.0.1")
    come_back("another")
    pipeline = FakePipeline()
    url = f"mqtts://bri%40dge:pass%2Fword@127.0.0.1:{broker.port}"
    async with open_door(url, pipeline, ca_file=authority.certificate) as door:
        await tried_again(door)
        assert not door.connected
        (error,) = mqtt_log.errors
        assert error.startswith(
            "the broker refuses us: Not authorized; check mqtt.username and mqtt.password, and what"
        )
        await asyncio.to_thread(come_back, "pass/word")
        await until(lambda: door.connected)
        with Device(broker.plain_port, username="bri@dge", password="pass/word") as device:
            await device.publish(b"1")
        await until(lambda: pipeline.payloads == [b"1"])
    assert "pass/word" not in str(mqtt_log.entries)
