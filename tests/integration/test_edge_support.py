"""`iot-edge support`: what is in the bundle, that no secret is, and that it is made whatever is wrong."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge.settings.stores import RedisSettings
from bridge.store.passwords import mosquitto_hash
from bridge.store.secret import new_code, new_key
from edge.check.machine import Machine
from edge.cli.status import NotRunning
from edge.service_api import enrolment
from edge.service_api.enrolment import Enrolment
from edge.settings import EdgeSettings, GatewaySettings, SiteMqttSettings, SpoolSettings
from edge.support import bundle, parts
from edge.support.bundle import FOLDER, Bundle
from edge.support.parts import Source
from edge.support.redaction import HIDDEN, Redaction
from edge.support.secrets import secrets_of
from tests.acceptance.gateway import GatewayProcess
from tests.support.servers import until
from tests.support.status_document import status_document

DEVICE = "6f1c2d9e-0000-4000-8000-000000000003"
PASSWORD, URL_PASSWORD, REDIS_PASSWORD = "pass word/of=the broker", "p%40ss-in-a-url", "of-the-redis"


def texts(content: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        found = {}
        for entry in tar.getmembers():
            opened = tar.extractfile(entry)
            assert opened is not None
            assert entry.mode == 0o600
            found[entry.name.removeprefix(f"{FOLDER}/")] = opened.read().decode()
        return found


class Planted:
    """A gateway that is not running, with a secret in every place that has one."""

    def __init__(self, folder: Path) -> None:
        self.data_dir, self.root = folder / "data", folder / "root"
        self.data_dir.mkdir()
        credentials, log = self.root / "etc/iot-edge/credentials", self.root / "var/log/mosquitto"
        for each in (credentials, log):
            each.mkdir(parents=True)
        self.key, self.before = new_key("gk")[0], new_key("gk")[0]
        self.device_key, (self.code, code_hash) = new_key("dk")[0], new_code()
        enrolment.write(self.data_dir, Enrolment("https://iot.invalid", "north", self.before, 0))
        enrolment.write(self.data_dir, Enrolment("https://iot.invalid", "north", self.key, 0))
        hashed = mosquitto_hash(self.device_key)
        (self.data_dir / "mosquitto.passwd").write_text(f"{DEVICE}:{hashed}\n")
        (credentials / "mqtt.password").write_text(f"{PASSWORD}\n")
        (credentials / "other.token").write_text("a-token-of-another-part\n")
        (self.data_dir / "refused.jsonl").write_text('{"detail": "x", "record": {"payload": "a reading"}}\n' * 3)
        self.secrets = [PASSWORD, URL_PASSWORD, "p@ss-in-a-url", REDIS_PASSWORD, self.key, self.before, self.device_key]
        self.secrets += [self.code, code_hash, hashed, hashed.split("$")[-1], "a-token-of-another-part", "a reading"]
        self.secrets += [sha256(text.encode()).hexdigest() for text in (self.key, self.device_key)]
        self.secrets += [b64encode(PASSWORD.encode()).decode()]
        said = [f"line {number}: {text}" for number, text in enumerate(self.secrets)]
        said += [f"password={PASSWORD}", f"mqtts://iot-edge:{URL_PASSWORD}@broker:8883", f"{DEVICE}:{hashed}"]
        said += [f"Authorization: Bearer {self.secrets[-1]}", f"mosquitto_pub -u x -P {self.device_key} -t y"]
        (log / "mosquitto.log").write_text("\n".join(said))
        self.settings = EdgeSettings(
            gateway=GatewaySettings(data_dir=self.data_dir),
            spool=SpoolSettings(path=self.data_dir / "spool.db"),
            mqtt=SiteMqttSettings(
                url=f"mqtt://other:{URL_PASSWORD}@127.0.0.1:1", username="iot-edge", password=PASSWORD
            ),
            redis=RedisSettings(url=f"redis://:{REDIS_PASSWORD}@127.0.0.1:1/0"),
        )

    async def bundle(self, document: dict[str, Any] | None = None) -> Bundle:
        async def ask(_: EdgeSettings) -> dict[str, Any]:
            if document is None:
                raise NotRunning("no gateway answers")
            return document

        return await bundle.make(Source(None, self.settings, Machine(self.root, 0), ask))


async def test_no_secret_stands_in_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Planted(tmp_path)
    log = (planted.root / "var/log/mosquitto/mosquitto.log").read_text()
    monkeypatch.setattr(parts, "said", lambda *_: log)  # the journal, systemctl and every other program say them, too
    document = status_document(detail=log)
    document["spool"]["problem"] = document["uplink"]["problem"] = log
    made = await planted.bundle(document)
    found = texts(made.content)
    assert {"settings.json", "status.json", "journal.txt", "mosquitto.log", "files.json", "host.txt"} <= set(found)
    for name, text in found.items():
        for number, secret in enumerate(planted.secrets):
            if secret != "a reading":
                assert secret not in text, f"secret {number} in {name}"
    assert "a reading" not in found["refused.json"]
    assert '"records": 3' in found["refused.json"]
    assert '"password": "(hidden)"' in found["settings.json"]


async def test_bundle_holds_what_is_needed_and_says_what_is_missing(tmp_path: Path) -> None:
    found = texts((await Planted(tmp_path).bundle()).content)
    settings = msgspec.json.decode(found["settings.json"])
    assert settings["mqtt"]["username"] == "iot-edge"
    assert msgspec.json.decode(found["versions.json"])["paho-mqtt"]
    assert "spool.db" in found["spool.json"]
    assert "no gateway answers" in found["README.txt"]
    assert "Not in it: passwords, keys" in found["README.txt"]


async def test_bundle_is_bounded_and_keeps_what_is_newest(tmp_path: Path) -> None:
    planted = Planted(tmp_path)
    many = status_document(old="x" * (3 * bundle.MAX_PART)) | {"zz_new": "newest"}
    status = texts((await planted.bundle(many)).content)["status.json"]
    assert status.startswith(bundle.CUT)
    assert "newest" in status
    assert len(status) <= bundle.MAX_PART + len(bundle.CUT)


async def test_bundle_of_a_gateway_that_runs(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path, mqtt__password=PASSWORD, mqtt__username="iot-edge")
    await gateway.start()
    try:
        made = await gateway.command("support", "--output", str(tmp_path / "bundle.tar.gz"))
        again = await gateway.command("support", "--output", str(tmp_path / "bundle.tar.gz"), expect=2)
    finally:
        gateway.stop()
    assert "File exists" in again["error"]["problems"][0]
    assert Path(made["file"]).stat().st_mode & 0o777 == 0o600
    found = texts(Path(made["file"]).read_bytes())
    assert msgspec.json.decode(found["status.json"])["spool"]["lost"] == 0
    assert "iot_edge_spool_records" in found["metrics.txt"]
    assert all(PASSWORD not in text for text in found.values())


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IOT_EDGE_")}
    environment |= {"IOT_EDGE_GATEWAY__DATA_DIR": str(folder), "IOT_EDGE_SPOOL__PATH": str(folder / "spool.db")}
    command = [sys.executable, "-m", "edge", "support", *arguments]
    return subprocess.run(
        command,
        env=environment | {"IOT_EDGE_HTTP__PORT": "1"} | variables,
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_bundle_where_the_disk_is_full_goes_to_standard_output(tmp_path: Path) -> None:
    done = run(tmp_path, "--output", "/dev/full/bundle.tar.gz")
    assert done.returncode == 2
    assert b"--output -" in done.stderr
    (tmp_path / "bundle").symlink_to("/dev/full")
    assert b"support --output - >" in run(tmp_path, "--output", str(tmp_path / "bundle")).stderr
    assert "check.json" in texts(run(tmp_path, "--output", "-").stdout)


def test_bundle_where_settings_have_mistakes(tmp_path: Path) -> None:
    done = run(tmp_path, "--output", "-", IOT_EDGE_UPLINK__KIND="pigeon")
    found = texts(done.stdout)
    assert "pigeon" in found["check.json"]
    assert "the settings have mistakes" in found["README.txt"]


async def test_bundle_has_the_ledger_of_a_spool_that_nobody_has_open(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path)
    await gateway.start()
    await until((gateway.data_dir / "spool.db").exists, 10)
    gateway.stop()
    before = sorted(gateway.data_dir.iterdir())
    done = run(gateway.data_dir, "--output", "-")
    assert "as of the last checkpoint" in texts(done.stdout)["spool.json"]
    assert sorted(gateway.data_dir.iterdir()) == before, "nothing of root's beside the spool"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("clock set, 12 readings, device 6f1c2d9e-0000-4000-8000-000000000003", True),
        ("version 0.1.0-1~deb12u1 at 2026-11-27T11:49:00Z", True),
        ("the password is another one", True),
        ("mqtt.password = hunter22", False),
        ("amqp://user:hunter22@host/", False),
        ("https_proxy=http://user:at@hunter22@proxy:3128/", False),
        (r'{"password": "a\"hunter22"}', False),
        ("code ABCD-EFGH-JKMN was used", False),
    ],
)
def test_redaction_hides_secrets_and_nothing_else(text: str, kept: bool) -> None:
    assert (Redaction().text(text) == text) is kept
    assert "hunter22" not in Redaction().text(text)
    assert "ABCD-" not in Redaction().text(text)


def test_secret_is_found_as_json_has_it_and_with_its_spaces(tmp_path: Path) -> None:
    secret = 'a "b" \\ c é'
    credentials = tmp_path / "etc/iot-edge/credentials"
    credentials.mkdir(parents=True)
    (credentials / "mqtt.password").write_text(f"{secret}\n")
    redaction = Redaction(secrets_of(None, Machine(tmp_path, 0)))
    for text in (secret, json.dumps({"said": secret}), msgspec.json.encode({"said": secret}).decode()):
        assert "b" not in redaction.text(text).replace(HIDDEN, ""), text
