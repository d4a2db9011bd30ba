"""The bench of the converters runs, and has a row for every format."""

from __future__ import annotations

import json

import pytest

from bench.converters import main
from bridge.mqtt.converters.formats import FORMATS


def test_bench_of_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "0.0001", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["converters"]
    assert {row["format"].split("/")[0] for row in rows} == {"native", *FORMATS} - {"ignore"}
    assert all(row["us_per_message"] > 0 for row in rows)
