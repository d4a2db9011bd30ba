"""Commands of the gateway that need no running one: size, status, check, enrol, install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from bridge.errors import ConfigError
from bridge.mqtt.mosquitto import User, passwords
from bridge.store.passwords import mosquitto_hash
from edge import cli
from edge.cli import console
from edge.cli.size import CYCLES_GOOD, CYCLES_POOR, card_years, seconds, written
from edge.service_api import enrolment
from edge.service_api.enrolment import Enrolment
from edge.service_api.http_client import parse_url
from edge.web.document import problems
from tests.support import needs
from tests.support.commands import _logging_restored
from tests.support.debian_broker import debian_broker, debian_mosquitto
from tests.support.servers import free_port, listens, wait_until

ROOT = Path(__file__).parents[2]


class EdgeCommands:
    """Runs `iot-edge` in this process, on a data folder of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.data_dir = folder / "data"
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        for name in [name for name in os.environ if name.startswith("IOT_EDGE_")]:
            monkeypatch.delenv(name)
        self.set(gateway__data_dir=str(self.data_dir), spool__path=str(self.data_dir / "spool.db"))
        self.set(spool__min_free_bytes="0", spool__max_bytes="16777216", gateway__trust_clock="true", http__port="1")

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self._monkeypatch.setenv(f"IOT_EDGE_{name.upper()}", value)

    def stand_in(self, environment: Path) -> None:
        """Run as from this virtual environment, wherever the tests' own stands: a checkout is often in a home."""
        self._monkeypatch.setattr(sys, "executable", str(environment / "bin" / "python"))

    def run(self, *arguments: str, expect: int = 0) -> str:
        self._monkeypatch.setattr(sys, "argv", ["iot-edge", *arguments])
        self._capsys.readouterr()
        code = 0
        with _logging_restored():
            try:
                cli.main()
            except SystemExit as stop:
                code = int(stop.code or 0)
        out, err = self._capsys.readouterr()
        assert code == expect, out + err
        return out

    def json(self, *arguments: str, expect: int = 0) -> Any:
        out = self.run(*arguments, "--json", expect=expect)
        assert out.count("\n") == 1, out
        return msgspec.json.decode(out)


@pytest.fixture
def edge(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> EdgeCommands:
    return EdgeCommands(tmp_path, capsys, monkeypatch)


# -- size


def test_size_says_what_two_weeks_take(edge: EdgeCommands) -> None:
    found = edge.json("size", "--devices", "40", "--every", "10s", "--days", "14")
    assert found["readings"] == 4_838_400
    assert 390e6 < found["disk_bytes"] < 410e6
    assert "max_bytes" in edge.run("size", "--devices", "40")


@pytest.mark.parametrize(("text", "expected"), [("10s", 10), ("500ms", 0.5), ("5min", 300), ("2m", 120), ("1h", 3_600)])
def test_size_knows_units(text: str, expected: float) -> None:
    assert seconds(text) == expected


def test_size_of_nonsense_is_a_mistake(edge: EdgeCommands) -> None:
    for every in ("ten", "10", "0s", "-1s", f"0.{'0' * 320}1ms", f"{'9' * 400}h"):
        assert (
            "write a number"
            in edge.json("size", "--devices", "1", f"--every={every}", expect=2)["error"]["problems"][0]
        )


@pytest.mark.parametrize("arguments", [("9" * 400, "1"), ("1", "1e308"), ("1", "nan")])
def test_size_of_numbers_beyond_all_sites_is_a_mistake(edge: EdgeCommands, arguments: tuple[str, str]) -> None:
    devices, days = arguments
    edge.run("size", "--devices", devices, "--days", days, expect=2)


def test_size_of_writes_is_less_with_an_interval() -> None:
    assert written(4, 1.0) < written(4, 0.0) / 2
    assert written(0.1, 1.0) == written(0.1, 0.0)


def test_size_reckons_what_was_measured_and_the_page_says() -> None:
    page = (ROOT / "docs" / "spool.md").read_text()
    measured = re.findall(
        r"^\| (\d+) \| ([\d.]+) \| ([\d,]+) \| ([\d.]+) GB \| ([\d.]+) GB \| ([\d.]+) \| (\d\S*) \|$", page, re.M
    )
    assert len(measured) == 8
    for per_s, interval_s, each, a_day, broker, poor, good in measured:
        bytes_a_day = int(each.replace(",", "")) * int(per_s) * 86_400
        assert bytes_a_day / 1e9 == pytest.approx(float(a_day), rel=0.025)
        assert written(int(per_s), float(interval_s)) == pytest.approx(bytes_a_day, rel=0.25)
        both = (float(a_day) + float(broker)) * 1e9
        assert card_years(both, CYCLES_POOR) == pytest.approx(float(poor), rel=0.03)
        assert card_years(both, CYCLES_GOOD) == pytest.approx(float(good), rel=0.03)


# -- status


def well() -> dict[str, Any]:
    return {
        "uplink": {"problem": ""},
        "spool": {"problem": ""},
        "mqtt": {"problem": "off", "contested": "", "refused": {}},
        "first_boot": {"state": "", "file": "", "reason": ""},
        "registry": {"problem": ""},
        "clock": {"set": True, "ahead_s": 0},
    }


def test_status_finds_what_needs_a_look() -> None:
    assert problems(well()) == []
    assert problems(well() | {"uplink": {"problem": "away"}, "clock": {"set": False, "ahead_s": 0}}) == [
        "uplink: away",
        "clock: not set",
    ]
    behind = well() | {"clock": {"set": True, "ahead_s": -7_200}}
    assert problems(behind) == ["clock: the host's is 7200 s behind"]
    refused = {"problem": "", "contested": "", "refused": {"site/#": "its ACL must allow us to write site/#"}}
    assert "site/#" in problems(well() | {"mqtt": refused})[0]
    failed = {"state": "failed", "file": "/boot/firmware/iot-edge-enrol.toml.failed", "reason": "the code has expired"}
    assert problems(well() | {"first_boot": failed}) == [f"enrolment: {failed['file']}: the code has expired"]


def test_status_without_a_gateway_says_where_to_look(edge: EdgeCommands) -> None:
    error = edge.json("status", expect=3)["error"]
    assert error["code"] == "not_running"
    assert "journalctl" in error["problems"][0]


# -- enrol


def test_enrol_where_nothing_listens_is_an_error_to_try_again(edge: EdgeCommands) -> None:
    error = edge.json("enrol", f"http://127.0.0.1:{free_port()}", "ABCD-EFGH-JKMN", expect=3)["error"]
    assert error["code"] == "service_away"
    assert not (edge.data_dir / enrolment.FILE).exists()


@pytest.mark.parametrize("url", ["http://192.0.2.1", "http://iot.example.com:8000", "http://127.0.0.1.example.com"])
def test_enrol_in_clear_is_refused(edge: EdgeCommands, url: str) -> None:
    error = edge.json("enrol", url, "ABCD-EFGH-JKMN", expect=2)["error"]
    assert "--insecure" in error["problems"][0]
    assert not (edge.data_dir / enrolment.FILE).exists()


def test_enrol_in_clear_goes_on_when_told_so(edge: EdgeCommands) -> None:
    error = edge.json("enrol", "http://iot.invalid", "ABCD-EFGH-JKMN", "--insecure", expect=3)["error"]
    assert error["code"] == "service_away"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "URL and CODE are missing"),
        (("https://iot.example.com",), "URL and CODE are missing"),
        (("https://iot.example.com", "ABCD-EFGH-JKMN", "--file", "x.toml"), "either URL and CODE, or --file"),
        (("https://iot.example.com", "ABCD-EFGH-JKMN", "--wait"), "--wait goes with --file"),
        (("https://iot.example.com", "ABCD-EFGH-JKMO"), "there is no O in any"),
    ],
)
def test_enrol_says_what_is_missing_or_mistyped(edge: EdgeCommands, arguments: tuple[str, ...], said: str) -> None:
    assert said in edge.json("enrol", *arguments, expect=2)["error"]["problems"][0]
    assert not edge.data_dir.exists()


def test_enrol_by_a_file_says_what_became_of_it(edge: EdgeCommands, tmp_path: Path) -> None:
    file = tmp_path / "iot-edge-enrol.toml"
    assert edge.json("enrol", "--file", str(file))["ok"], "nothing asks for it"
    file.write_text(f"url = http://127.0.0.1:{free_port()}\ncode = ABCD-EFGH-JKMN\n")
    assert edge.json("enrol", "--file", str(file), expect=3)["error"]["code"] == "service_away"
    assert file.exists()
    file.write_text("code = ABCD-EFGH-JKMN\n")
    assert "url" in edge.json("enrol", "--file", str(file), expect=1)["said"][0]
    assert file.with_name("iot-edge-enrol.toml.failed").exists()


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.8.0.1", "[::1]"])
def test_loopback_is_not_in_clear(host: str) -> None:
    assert not parse_url(f"http://{host}:8000").in_clear
    assert not parse_url(f"https://{host}").in_clear


# -- check


def finding(document: Any, name: str) -> Any:
    return next(each for each in document["findings"] if each["name"] == name)


def test_check_stops_at_a_configuration_that_is_none(edge: EdgeCommands) -> None:
    edge.set(uplink__kind="x")
    document = edge.json("check", expect=1)
    assert [each["name"] for each in document["findings"]] == ["configuration"]


def test_check_says_what_to_do_for_each_failure(edge: EdgeCommands) -> None:
    edge.set(mqtt__url=f"mqtt://127.0.0.1:{free_port()}", spool__max_bytes=str(1 << 48))
    document = edge.json("check", "--listen", "0", expect=1)
    assert not document["ok"]
    for name, advice in (("disk", "iot-edge size"), ("broker", "sudo "), ("service", "iot-edge enrol")):
        assert finding(document, name)["ok"] is False
        assert advice in finding(document, name)["advice"]
    assert "→" in edge.run("check", "--listen", "0", expect=1)


def test_check_of_a_service_that_is_not_there(edge: EdgeCommands) -> None:
    edge.data_dir.mkdir()
    enrolment.write(edge.data_dir, Enrolment("https://no-such-host.invalid", "north", "k", 0))
    assert finding(edge.json("check", expect=1), "DNS")["ok"] is False
    enrolment.write(edge.data_dir, Enrolment(f"http://127.0.0.1:{free_port()}", "north", "k", 0))
    document = edge.json("check", expect=1)
    assert finding(document, "DNS")["ok"]
    assert "nothing listens" in finding(document, "service")["detail"]


# -- install


@pytest.fixture
def outside(edge: EdgeCommands, tmp_path: Path) -> EdgeCommands:
    """Commands of an environment that stands in no home folder, as the unit asks."""
    program = tmp_path / "opt" / "bin" / "iot-edge"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    edge.stand_in(program.parents[1])
    return edge


def test_install_from_a_home_folder_is_refused(edge: EdgeCommands, tmp_path: Path) -> None:
    edge.stand_in(Path("/home/pi/venv"))
    error = edge.json("install", "--root", str(tmp_path / "image"), expect=2)["error"]
    assert "stands in a home folder" in error["problems"][0]
    assert not (tmp_path / "image").exists()


def test_install_writes_below_a_root_and_keeps_what_is_there(outside: EdgeCommands, tmp_path: Path) -> None:
    root = tmp_path / "image"
    written = outside.json("install", "--root", str(root))
    assert all(file["written"] for file in written["files"])
    assert "systemctl enable --now iot-edge" in written["to_do"]
    assert written["devices"] == "keys"
    settings, unit = root / "etc/iot-edge/edge.toml", root / "etc/systemd/system/iot-edge.service"
    settings.write_text("# ours\n")
    unit.write_text("# ours\n")
    assert not any(file["written"] for file in outside.json("install", "--root", str(root))["files"])
    outside.run("upgrade", "--root", str(root))
    assert (settings.read_text(), unit.read_text()) == ("# ours\n", "# ours\n")
    assert (root / "etc/iot-edge/credentials").stat().st_mode & 0o777 == 0o700
    assert "u iot-edge" in (root / "etc/sysusers.d/iot-edge.conf").read_text()
    outside.run("uninstall", "--root", str(root))
    assert (settings.exists(), unit.exists()) == (True, False)
    outside.run("uninstall", "--root", str(root))


def test_install_without_mosquitto_leaves_the_broker_alone(outside: EdgeCommands, tmp_path: Path) -> None:
    outside.run("install", "--root", str(tmp_path), "--no-mosquitto")
    assert not (tmp_path / "etc/mosquitto").exists()


def test_install_again_locks_nobody_out(outside: EdgeCommands, tmp_path: Path) -> None:
    """An installation of the release before let anybody in."""
    arguments = ("--root", str(tmp_path))
    conf, settings = tmp_path / "etc/mosquitto/conf.d/iot-edge.conf", tmp_path / "etc/iot-edge/edge.toml"
    outside.run("install", *arguments, "--anonymous-lan")
    before = settings.read_text()
    for command in ("install", "upgrade"):
        said = outside.json(command, *arguments)
        assert said["devices"] == "anybody"
        assert "as before" in said["notes"][0]
        assert "allow_anonymous true" in conf.read_text()
        assert settings.read_text() == before
    said = outside.json("install", *arguments, "--device-keys")
    assert "locked out" in said["notes"][1]
    assert "allow_anonymous false" in conf.read_text()
    assert outside.json("upgrade", *arguments)["devices"] == "keys"
    assert "anybody" in outside.run("install", *arguments, "--anonymous-lan")
    assert "allow_anonymous true" in conf.read_text()


def test_upgrade_leaves_a_broker_alone_that_is_not_ours(outside: EdgeCommands, tmp_path: Path) -> None:
    outside.run("install", "--root", str(tmp_path), "--no-mosquitto")
    outside.run("upgrade", "--root", str(tmp_path))
    assert not (tmp_path / "etc/mosquitto").exists()


def test_install_with_keys_makes_a_password_of_its_own_once(outside: EdgeCommands, tmp_path: Path) -> None:
    outside.run("install", "--root", str(tmp_path))
    own, first = tmp_path / "etc/iot-edge/credentials/mqtt.password", tmp_path / "etc/mosquitto/iot-edge.passwd"
    before = (own.read_text(), first.read_text())
    assert len(before[0].strip()) > 40
    assert before[1].startswith("iot-edge:$7$")
    assert own.stat().st_mode & 0o777 == first.stat().st_mode & 0o777 == 0o600
    assert "127.0.0.1:1884" in (tmp_path / "etc/iot-edge/edge.toml").read_text()
    outside.run("upgrade", "--root", str(tmp_path))
    assert (own.read_text(), first.read_text()) == before


def written_by_gateway(root: Path) -> Path:
    path = root / "var/lib/iot-edge/mosquitto.passwd"
    path.parent.mkdir(parents=True)
    return path


def test_passwords_that_the_gateway_wrote_are_brought_to_mosquitto(outside: EdgeCommands, tmp_path: Path) -> None:
    outside.run("install", "--root", str(tmp_path))
    content = passwords(
        [User("iot-edge", "bridge", mosquitto_hash("a")), User("b" * 36, "device", mosquitto_hash("b"))]
    )
    written_by_gateway(tmp_path).write_text(content)
    assert outside.json("broker-passwords", "--root", str(tmp_path)) == {"accounts": 2}
    assert (tmp_path / "etc/mosquitto/iot-edge.passwd").read_text() == content


@pytest.mark.parametrize("content", ["root:x:0:0\n", "a:$7$101$c2FsdA==$aGFzaA==\n\n", "a:$7$101$c2FsdA==$aGFzaA=="])
def test_what_is_no_password_file_is_not_brought_to_mosquitto(
    outside: EdgeCommands, tmp_path: Path, content: str
) -> None:
    outside.run("install", "--root", str(tmp_path))
    before = (tmp_path / "etc/mosquitto/iot-edge.passwd").read_text()
    source = written_by_gateway(tmp_path)
    source.write_text(content)
    outside.run("broker-passwords", "--root", str(tmp_path), expect=2)
    source.unlink()
    source.symlink_to(tmp_path / "etc/mosquitto/iot-edge.passwd")
    outside.run("broker-passwords", "--root", str(tmp_path), expect=2)
    assert (tmp_path / "etc/mosquitto/iot-edge.passwd").read_text() == before


SERVICES = ("iot-edge.service", "iot-edge-enrol.service", "iot-edge-passwords.service")
UNITS = (*SERVICES, "iot-edge-passwords.path")
BRIDGE_SERVICES = ("iot-bridge.service", "iot-bridge-consumer@.service")


def test_every_unit_that_is_shipped_is_looked_at() -> None:
    shipped = [path.name for path in (ROOT / "edge/host/installed").iterdir() if path.suffix in {".service", ".path"}]
    assert sorted(shipped) == sorted(UNITS)
    assert sorted(path.name for path in (ROOT / "config/systemd").glob("*.service")) == sorted(BRIDGE_SERVICES)


def test_installed_units_are_valid(outside: EdgeCommands, tmp_path: Path) -> None:
    needs.program(needs.SYSTEMD_ANALYZE)
    outside.run("install", "--root", str(tmp_path))
    units = [str(tmp_path / "etc/systemd/system" / each) for each in UNITS]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def exposed(unit: Path) -> bool:
    """Whether systemd rates a unit at more than 2.0 of 10, which is the best grade that it gives, "OK"."""
    program = needs.program(needs.SYSTEMD_ANALYZE)
    command = [program, "security", "--offline=true", "--threshold=20", str(unit)]
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_units_are_hardened(tmp_path: Path) -> None:
    folder = ROOT / "edge/host/installed"
    bridge = ROOT / "config/systemd"
    for unit in (*(folder / name for name in SERVICES), *(bridge / name for name in BRIDGE_SERVICES)):
        assert not exposed(unit), unit
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert exposed(bare)


@pytest.fixture
def installed_broker(outside: EdgeCommands, tmp_path: Path) -> Iterator[int]:
    """Mosquitto by the files that install writes, on a port of its own."""
    outside.run("install", "--root", str(tmp_path), "--anonymous-lan")
    conf = tmp_path / "etc/mosquitto/conf.d/iot-edge.conf"
    port = free_port()
    conf.write_text(conf.read_text().replace("listener 1883", f"listener {port} 127.0.0.1"))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*debian_mosquitto().command, "-c", str(debian_broker(tmp_path))], stdout=log, stderr=log
        )
    try:
        wait_until(lambda: listens(port), 20)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def test_installed_broker_lets_the_gateway_speak_for_the_site_and_devices_not(installed_broker: int) -> None:
    received: list[tuple[str, bytes | bytearray]] = []

    def client(name: str) -> paho.Client:
        made = paho.Client(CallbackAPIVersion.VERSION2)
        if name:
            made.username_pw_set(name)
        made.connect("127.0.0.1", installed_broker)
        made.loop_start()
        wait_until(made.is_connected, 20)
        return made

    gateway, device, forger = client("iot-edge"), client(""), client("")
    granted: list[bool] = []
    device.on_message = lambda _c, _u, message: received.append((message.topic, message.payload))
    device.on_subscribe = lambda _c, _u, _mid, reasons, _p: granted.extend(not r.is_failure for r in reasons)
    device.subscribe([("site/#", 1), ("devices/x/rejected", 1)])
    wait_until(lambda: granted, 20)
    forger.publish("site/alerts", b"forged", 1)  # Mosquitto may hang up on it
    for topic in ("site/alerts", "devices/x/rejected"):
        gateway.publish(topic, b"ours", 1).wait_for_publish(20)
    wait_until(lambda: len(received) >= 2, 20)
    assert received == [("site/alerts", b"ours"), ("devices/x/rejected", b"ours")]
    for each in (gateway, device, forger):
        each.disconnect()
        each.loop_stop()


def test_what_others_wrote_is_printed_as_visible_text(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]0;owned\x07\nforged\u202e"
    console.lines({hostile: hostile})
    console.table([("device", "last heard"), (hostile, "1 s")])
    console.say(f"the service refused record 1: {hostile}")
    console.show({"detail": hostile})
    with pytest.raises(SystemExit):
        console.fail(ConfigError([hostile]), as_json=True)
    out, err = capsys.readouterr()
    assert all(line.isprintable() and not line.startswith("forged") for line in (out + err).split("\n"))
    assert (out + err).count("owned") == 7
