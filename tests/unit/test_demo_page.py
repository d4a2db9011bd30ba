"""What the demo shows: a scene made of stream entries, and the page drawn of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bridge.broker.events import ALERTS, READINGS
from bridge.broker.message import StreamMessage
from bridge.cli.demo_page import addresses, page
from bridge.simulation.demo import Demo
from bridge.simulation.scene import SAMPLES, Scene
from bridge.simulation.watch import parse

REGISTERED: list[dict[str, Any]] = [
    {"name": "demo-pool-0004", "sensors": [{"sensor_id": 7, "name": "water", "unit": "°C"}]},
    {"name": "demo-pump-house-0003", "sensors": [{"sensor_id": 8, "name": "motor", "unit": None}]},
]
METRICS = """
iot_bridge_readings_total{{outcome="stored",source="http"}} {stored}
iot_bridge_readings_total{{outcome="duplicate",source="mqtt"}} 3
iot_bridge_received_total{{source="http"}} {stored}
iot_bridge_alerts_total{{kind="alert"}} 2
iot_bridge_stream_entries{{stream="iot:readings"}} 41
"""


class FakeReader:
    """Streams in memory."""

    def __init__(self) -> None:
        self.entries: dict[str, list[StreamMessage]] = {READINGS: [], ALERTS: []}

    def add(self, stream: str, **fields: str) -> None:
        self.entries[stream].append(StreamMessage(f"1-{len(self.entries[stream]) + 1}", fields))

    async def read_after(self, stream: str, last_id: str, count: int, block_s: float) -> list[StreamMessage]:
        seen = int(last_id.rpartition("-")[2])
        return self.entries[stream][seen : seen + count]


def reading(reader: FakeReader, sensor: int, value: float, kind: str = "clean") -> None:
    reader.add(READINGS, sensor_id=str(sensor), value=repr(value), **{"class": kind})


async def test_scene_keeps_the_newest_value_of_each_look() -> None:
    reader = FakeReader()
    reading(reader, 7, -1.0)  # of an earlier run
    scene = Scene(REGISTERED, "demo-", {READINGS: "1-1"})
    for value in (1.0, 2.0):
        reading(reader, 7, value)
    reading(reader, 99, 5.0)  # of somebody else
    await scene.look(reader)
    await scene.look(reader)
    assert list(scene.tracks[7].values) == [(2.0, "clean")]
    for i in range(SAMPLES + 5):
        reading(reader, 7, float(i))
        await scene.look(reader)
    assert len(scene.tracks[7].values) == SAMPLES
    assert (scene.tracks[7].name, scene.tracks[8].name) == ("pool water", "pump-house motor")


async def test_scene_tells_events_of_its_sensors() -> None:
    reader = FakeReader()
    scene = Scene(REGISTERED, "demo-", {})
    for sensor in ("7", "99"):
        reader.add(ALERTS, sensor_id=sensor, kind="alert", severity="critical", value="31.25", triggered_at="1.5")
    await scene.look(reader)
    assert [(event.kind, event.text) for event in scene.events] == [("alert", "pool water 31.2 °C")]


@pytest.mark.parametrize(("width", "height"), [(120, 40), (80, 24), (40, 10)])
async def test_page_shows_all_that_matters(tmp_path: Path, width: int, height: int) -> None:
    demo = Demo(tmp_path, 60)
    demo.urls = {"http": "http://h:1", "mqtt": "mqtt://h:2"}
    console = Console(width=width, height=height, record=True, file=(tmp_path / "out").open("w"))
    console.print(page(demo, None, width, height))  # nothing is known yet
    demo.scrapes.extend(parse(METRICS.format(stored=stored), at_s) for stored, at_s in ((10, 1.0), (30, 3.0)))
    demo.scene = Scene(REGISTERED, "demo-", {})
    demo.scene.tracks[7].values.extend([(20.0, "clean"), (40.0, "alert")])
    console.print(page(demo, 20, width, height))
    text = console.export_text()
    console.file.close()
    assert max(map(len, text.splitlines())) <= width
    if width >= 80:
        for shown in ("http://h:1", "mqtt://h:2", "readings/s", "duplicate", "quarantined", "alerts raised"):
            assert shown in text
        assert "stream length            41" in text
        assert "waiting for the streams" in text
        assert "measured to published" in text
    if height >= 40:
        assert "40.0 °C  ▁█" in text


def test_page_says_how_to_look_into_redis() -> None:
    urls = {"http": "http://h:1", "mqtt": "mqtt://h:2"}
    assert addresses(urls).endswith("Redis none")
    shown = addresses(urls | {"redis": "unix:///srv/my%20demo/redis.sock?db=0"})
    assert shown.endswith("Redis redis-cli -s '/srv/my demo/redis.sock'")
