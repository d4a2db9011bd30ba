"""Conversions of units: exact factors, and a reason for what is none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.cli.units import conversion
from bridge.errors import ConfigError
from bridge.model.reading import DecodedReading, Delivery, Packet, Reading, Sensor, Source
from bridge.pipeline.validate import Validator
from bridge.settings.process import PipelineSettings


@pytest.mark.parametrize(
    ("unit_in", "unit", "sent", "stored"),
    [
        ("°F", "°C", 68.0, 20.0),
        ("°F", "°C", -40.0, -40.0),
        ("K", "°C", 293.15, 20.0),
        ("psi", "hPa", 14.5, 999.739807509),
        ("inHg", "hPa", 29.92, 1013.20748119),
        ("mph", "m/s", 10.0, 4.4704),
        ("m³/h", "l/s", 3.6, 1.0),
        ("mV", "V", 3045.0, 3.045),
        ("ppm", "%", 415.0, 0.0415),
        ("pH", "pH", 7.1, 7.1),
    ],
)
def test_conversion_of_a_reading(unit_in: str, unit: str, sent: float, stored: float) -> None:
    factor, offset = conversion(unit_in, unit)
    sensor = Sensor(1, "u", 1, "d", "any", unit_factor=factor, unit_offset=offset)
    delivery = Delivery(Packet(()), Source.MQTT, b"", 0, lambda _: None)
    reading = Validator(PipelineSettings()).check(DecodedReading(0, 1, sent), sensor, delivery)
    assert isinstance(reading, Reading)
    assert reading.value == stored


@pytest.mark.parametrize(
    ("unit_in", "unit", "reason"),
    [
        ("F", "°C", "different things"),  # farad
        ("foo", "°C", "not defined"),
        ("dBm", "W", "not a factor and an offset"),
        ("", "V", "no unit"),
        ("2*V", "V", "no unit"),
        ("__import__('os')", "V", "no unit"),
        ("°C", "pH", "different things"),
        ("m/", "V", ""),
    ],
)
def test_conversion_that_there_is_not(unit_in: str, unit: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        conversion(unit_in, unit)
    assert reason in caught.value.problems[0]
    assert "write units as in" in caught.value.problems[0] or "factor" in caught.value.problems[0]


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=8) | st.text("mskgVW°C/*^.-² 2", max_size=8))
def test_any_text_as_a_unit(text: str) -> None:
    try:
        factor, offset = conversion(text, "V")
    except ConfigError:
        return
    assert isinstance(factor, float)
    assert isinstance(offset, float)
