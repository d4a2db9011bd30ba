"""Devices of other people's firmware, over a real broker: mapped, converted, quarantined, replayed, asked again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.publish as publish
import psycopg
import pytest

from tests.acceptance.service import Service
from tests.acceptance.test_service import balanced
from tests.support.mqtt_door import Device as Client
from tests.support.redis_process import RedisProcess
from tests.support.servers import MosquittoProcess
from tests.support.sparkplug import Payload, encode, metric
from tests.support.waiting import eventually

CONVERTERS = [
    {"filter": "tele/+/SENSOR", "format": "tasmota"},
    {"filter": "/home/+/tele/SENSOR", "format": "tasmota"},
    {"filter": "meters/+/+", "format": "value"},
    {"filter": "spBv1.0/#", "format": "sparkplug"},
]


@pytest.fixture
def service(
    postgres_url: str, redis_server: RedisProcess, mosquitto: MosquittoProcess, tmp_path: Path
) -> Iterator[Service]:
    made = Service(tmp_path, postgres_url, redis_server.url, mosquitto.url, mqtt__converters=json.dumps(CONVERTERS))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def sensors(service: Service) -> list[int]:
    """Two thermometers and a hygrometer."""
    wanted = ("air:temperature", "water:temperature", "damp:humidity:%")
    made = service.command("device", "add", "kitchen", *(part for name in wanted for part in ("--sensor", name)))
    return [sensor["sensor_id"] for sensor in made["sensors"]]


def tasmota(**fields: Any) -> str:
    return json.dumps({"Time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()), "AM2301": fields, "TempUnit": "C"})


def stored(url: str) -> list[tuple[int, float]]:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT sensor_id, value FROM sensor_readings ORDER BY id").fetchall()


async def test_unknown_sensors_are_mapped_and_replayed(
    service: Service, sensors: list[int], mosquitto: MosquittoProcess, postgres_url: str, tmp_path: Path
) -> None:
    publish.single("tele/kitchen/SENSOR", tasmota(Temperature=21.5, Humidity=48), qos=1, port=mosquitto.port)
    await eventually(lambda: service.command("ledger", expect=None)["total"]["quarantined"] == 2, 20)
    rows = service.command("quarantine", "list", "--code", "unknown_sensor")
    names = [f"tasmota/kitchen#AM2301.{name}" for name in ("Humidity", "Temperature")]
    assert all(name in row["detail"] for name, row in zip(names, rows, strict=True))
    file = tmp_path / "sensors.csv"
    file.write_text(f"external_id,sensor,unit_in\n{names[1]},{sensors[0]},\n{names[0]},{sensors[2]},\nx/y#z,,\n")
    assert service.command("sensor", "map", str(file), "--dry-run") == {
        "mapped": 2,
        "changed": 0,
        "unmapped": 1,
        "dry_run": True,
    }
    assert service.command("quarantine", "replay", "--code", "unknown_sensor", expect=1)
    mapped = service.command("sensor", "map", str(file))
    assert (mapped["changed"], mapped["waiting"]) == (2, 2)
    assert service.command("sensor", "map", str(file))["changed"] == 0
    # Nobody has to know of a command: the service stores what has waited.
    await eventually(lambda: sorted(stored(postgres_url)) == [(sensors[0], 21.5), (sensors[2], 48.0)], 20)

    def sent_again() -> bool:
        """The service knows the new names within seconds."""
        publish.single("tele/kitchen/SENSOR", tasmota(Temperature=22.5), qos=1, port=mosquitto.port)
        return (sensors[0], 22.5) in stored(postgres_url)

    await eventually(sent_again, 20)
    balanced(service)


async def test_what_a_device_sends_is_turned_into_the_sensors_unit(
    service: Service, sensors: list[int], mosquitto: MosquittoProcess, postgres_url: str
) -> None:
    name = "value/boiler#water"
    service.command("sensor", "set", str(sensors[1]), "--external-id", name, "--unit-in", "°F", "--unit", "°C")
    publish.single("meters/boiler/water", "140", qos=1, port=mosquitto.port)
    await eventually(lambda: stored(postgres_url) == [(sensors[1], 60.0)], 20)
    publish.single("meters/boiler/water", "1400", qos=1, port=mosquitto.port)  # 760 °C
    await eventually(lambda: service.command("ledger", expect=None)["total"]["quarantined"] == 1, 20)
    (row,) = service.command("quarantine", "list")
    assert (row["code"], row["detail"]) == ("value_out_of_range", "760 is outside -100 to 500 (temperature)")
    service.command("sensor", "set", str(sensors[1]), "--unit-in", "")

    def sent_as_it_is() -> bool:
        publish.single("meters/boiler/water", "61", qos=1, port=mosquitto.port)
        return (sensors[1], 61.0) in stored(postgres_url)

    await eventually(sent_as_it_is, 20)
    balanced(service)


async def test_malformed_field_is_named_and_its_neighbours_are_stored(
    service: Service, sensors: list[int], mosquitto: MosquittoProcess, postgres_url: str
) -> None:
    service.command("sensor", "set", str(sensors[2]), "--external-id", "tasmota/kitchen#AM2301.Humidity")
    publish.single("tele/kitchen/SENSOR", tasmota(Temperature="n/a", Humidity=48), qos=1, port=mosquitto.port)
    await eventually(lambda: service.command("ledger", expect=None)["total"]["quarantined"] == 1, 20)
    (row,) = service.command("quarantine", "list")
    assert (row["code"], row["reading_index"]) == ("bad_value", 2)
    assert "$.AM2301.Temperature" in row["detail"]
    assert stored(postgres_url) == [(sensors[2], 48.0)]
    balanced(service)


async def test_message_quarantined_before_its_converter_was_configured(
    service: Service, sensors: list[int], mosquitto: MosquittoProcess, postgres_url: str
) -> None:
    """As a whole: all of its readings come back. The topic begins like an HTTP path."""
    with psycopg.connect(postgres_url) as connection:
        connection.execute(
            "INSERT INTO quarantine (code, detail, payload, source, topic, received_at)"
            " VALUES ('bad_topic', 'of an older configuration', %s, 'mqtt', '/home/kitchen/tele/SENSOR', now())",
            [tasmota(Temperature=21.5, Humidity=48).encode()],
        )
    for sensor, name in ((sensors[0], "Temperature"), (sensors[2], "Humidity")):
        service.command("sensor", "set", str(sensor), "--external-id", f"tasmota/kitchen#AM2301.{name}")
    assert [row["outcome"] for row in service.command("quarantine", "replay", "--code", "bad_topic")] == ["stored"]
    assert sorted(stored(postgres_url)) == [(sensors[0], 21.5), (sensors[2], 48.0)]


async def test_edge_node_is_asked_for_its_births(
    service: Service, sensors: list[int], mosquitto: MosquittoProcess, postgres_url: str
) -> None:
    service.command("sensor", "set", str(sensors[0]), "--external-id", "sparkplug/g/n/d#Temperature")
    now_ms = int(time.time() * 1_000)
    with Client(mosquitto.port) as edge:
        await edge.subscribe("spBv1.0/g/NCMD/n")
        data = encode(now_ms, [metric(None, now_ms, None, alias=7, float_value=21.5)], 9)
        await edge.publish(data, topic="spBv1.0/g/DDATA/n/d")
        await eventually(lambda: bool(edge.received), 20)
        ((_, request),) = edge.received
        assert Payload.FromString(request).metrics[0].name == "Node Control/Rebirth"
        await edge.publish(encode(now_ms + 1, [], 0), topic="spBv1.0/g/NBIRTH/n")
        birth = encode(now_ms + 1, [metric("Temperature", now_ms + 1, 9, alias=7, float_value=21.5)], 1)
        await edge.publish(birth, topic="spBv1.0/g/DBIRTH/n/d")
        data = encode(now_ms + 2, [metric(None, now_ms + 2, None, alias=7, float_value=22.5)], 2)
        await edge.publish(data, topic="spBv1.0/g/DDATA/n/d")
    await eventually(lambda: stored(postgres_url) == [(sensors[0], 21.5), (sensors[0], 22.5)], 20)
    balanced(service)


def test_mapping_reports_every_mistake_and_changes_nothing(
    service: Service, sensors: list[int], tmp_path: Path
) -> None:
    service.command("sensor", "set", str(sensors[0]), "--external-id", "value/a#b")
    file = tmp_path / "sensors.csv"
    file.write_text(
        "external_id,sensor,unit_in,room\n"
        f"value/a#c,{sensors[1]},,attic\n"
        f"value/a#b,{sensors[2]},,\n"  # another's
        "value/a#d,999999,,\n"
        f"no name,{sensors[2]},,\n"
        f"value/a#c,{sensors[2]},psi,\n"  # twice, and no pressure
    )
    done = service.command("sensor", "map", str(file), expect=2)
    assert len(done["error"]["problems"]) > 3
    listed = service.command("device", "show", "1")["sensors"]
    assert [sensor["external_id"] for sensor in listed] == ["value/a#b", None, None]


def test_names_change_hands(service: Service, sensors: list[int], tmp_path: Path) -> None:
    file = tmp_path / "sensors.csv"
    for first, second in (sensors[:2], sensors[1::-1]):
        file.write_text(f"external_id,sensor\nvalue/a#b,{first}\nvalue/a#c,{second}\n")
        service.command("sensor", "map", str(file))
        named = {row["sensor_id"]: row["external_id"] for row in service.command("device", "show", "1")["sensors"]}
        assert (named[first], named[second]) == ("value/a#b", "value/a#c")


def test_setting_nothing_and_setting_what_is_not_there(service: Service, sensors: list[int]) -> None:
    service.command("sensor", "set", str(sensors[0]), expect=2)
    service.command("sensor", "set", "999999", "--unit", "V", expect=4)
    service.command("sensor", "set", str(sensors[0]), "--external-id", "nonsense", expect=2)


async def test_first_of_what_is_not_taken_is_a_sample_and_replayed_once_it_is_taken(
    postgres_url: str, redis_server: RedisProcess, mosquitto: MosquittoProcess, tmp_path: Path
) -> None:
    @contextmanager
    def running(*take: str) -> Iterator[Service]:
        converter = {"filter": "zigbee2mqtt/#", "format": "zigbee2mqtt", "take": take}
        settings = {"mqtt__converters": json.dumps([converter])}
        service = Service(tmp_path, postgres_url, redis_server.url, mosquitto.url, **settings)
        service.start()
        try:
            yield service
        finally:
            service.stop()

    with running("temperature") as service:
        made = service.command("device", "add", "hall", "--sensor", "air:temperature", "--sensor", "damp:humidity:%")
        air, damp = (sensor["sensor_id"] for sensor in made["sensors"])
        service.command("sensor", "set", str(air), "--external-id", "zigbee2mqtt/hall#temperature")
        service.command("sensor", "set", str(damp), "--external-id", "zigbee2mqtt/hall#humidity")
        for temperature in (20.5, 21.5, 22.5):
            payload = json.dumps({"temperature": temperature, "humidity": 48, "linkquality": 90, "preset": "hold"})
            publish.single("zigbee2mqtt/hall", payload, qos=1, port=mosquitto.port)
        await eventually(lambda: len(stored(postgres_url)) == 3, 20)
        rows = service.command("quarantine", "list", "--code", "not_taken")
        assert sorted((row["reading_index"], row["detail"]) for row in rows) == [
            (2, "zigbee2mqtt/hall#humidity: not taken: not among take: 48"),
            (4, "zigbee2mqtt/hall#preset: not taken: not among take: 'hold'"),
        ]
        assert balanced(service)["quarantined"] == 2
        metrics = (await asyncio.to_thread(httpx.get, f"{service.http}/metrics", timeout=30)).text
        assert 'iot_bridge_mqtt_unknown_fields_total{channel="humidity",format="zigbee2mqtt"} 3.0' in metrics
    with running("temperature", "humidity") as service:
        replayed = service.command("quarantine", "replay", "--code", "not_taken", expect=None)
        assert sorted(row["outcome"] for row in replayed) == ["refused", "stored"]
        assert (damp, 48.0) in stored(postgres_url)
        balanced(service)
