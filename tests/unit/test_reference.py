"""The documentation and the example configuration held against the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from bridge.settings.service import Settings, load
from bridge.settings.sources import keys
from bridge.telemetry import Metrics
from tests.support import reference

MONITORING = (
    reference.ROOT / "config" / "prometheus" / "iot-bridge.rules.yml",
    reference.ROOT / "config" / "grafana" / "iot-bridge.json",
)


def test_configuration_page_has_every_setting_as_it_is() -> None:
    page = reference.CONFIGURATION.read_text()
    assert [key for key in keys(Settings) if f"| `{key}` |" not in page] == [], "run scripts/reference"
    assert page == reference.with_part(page, "settings", reference.settings_tables()), "run scripts/reference"


def test_metrics_page_has_every_metric_as_it_is() -> None:
    page = reference.METRICS.read_text()
    exported = set(re.findall(r"^# TYPE (iot_bridge_\w+)", generate_latest(Metrics().registry).decode(), re.MULTILINE))
    exported = {name for name in exported if not name.endswith("_created")}
    assert exported == {name for name, *_ in reference.metric_rows()}
    assert [name for name in exported if f"| `{name}` |" not in page] == [], "run scripts/reference"
    assert page == reference.with_part(page, "metrics", reference.metrics_table()), "run scripts/reference"


def test_example_configuration_is_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in keys(Settings):
        monkeypatch.delenv(reference.environment_name(key), raising=False)
    example = reference.EXAMPLE.read_text()
    assert example == reference.example_file(), "run scripts/reference"
    in_force = tmp_path / "bridge.toml"
    in_force.write_text(reference.uncommented(example))
    assert load(reference.EXAMPLE) == load(in_force) == load(None)
    named = re.findall(r"^#? *(\w+) = ", example, re.MULTILINE)
    assert sorted(named) == sorted(key.partition(".")[2] for key in keys(Settings))


@pytest.mark.parametrize("path", MONITORING, ids=lambda path: path.name)
def test_monitoring_uses_metrics_that_exist(path: Path) -> None:
    used = set(re.findall(r"\biot_bridge_\w+", path.read_text()))
    plain = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    assert used
    assert plain <= {name for name, *_ in reference.metric_rows()}


@pytest.mark.parametrize("path", MONITORING, ids=lambda path: path.name)
def test_monitoring_uses_labels_that_exist(path: Path) -> None:
    labels = {name: set(labels.split(", ")) for name, _, labels, _ in reference.metric_rows()}
    text = path.read_text().replace('\\"', '"')
    for name, chosen in re.findall(r"\b(iot_bridge_\w+)\{([^}]*)\}", text):
        plain = re.sub(r"_(bucket|sum|count)$", "", name)
        asked = set(re.findall(r"(\w+)=", chosen)) - {"instance", "job"}
        assert asked <= labels[plain], name


def test_dashboard_panels_have_places_of_their_own() -> None:
    panels = json.loads(MONITORING[1].read_text())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)
