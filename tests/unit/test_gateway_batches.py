"""Records of a gateway on their way into the service's pipeline, by either way."""

from __future__ import annotations

import pytest

from bridge.gateway_protocol.batches import UplinkRecord, delivery_of
from bridge.model.reading import Reading, Sensor, Source
from bridge.pipeline.validate import Validator
from bridge.settings.process import PipelineSettings

DEVICE = "5f0c1f5e-0000-4000-8000-00000000000a"
SENSOR = Sensor(
    1, "5f0c1f5e-0000-4000-8000-00000000000b", 1, DEVICE, "temperature", unit_factor=5 / 9, unit_offset=-160 / 9
)


@pytest.mark.parametrize(("resolved", "stored"), [(True, 68.0), (False, 20.0)])
def test_value_is_converted_once_by_who_knew_the_sensor(resolved: bool, stored: float) -> None:
    record = UplinkRecord(1, Source.MQTT, 5, device_uuid=DEVICE, sensor=1, value=68.0, ts_us=5, resolved=resolved)
    delivery = delivery_of(record, "e1", "north", 5, lambda _: None)
    reading = Validator(PipelineSettings()).check(delivery.packet.readings[0], SENSOR, delivery)
    assert isinstance(reading, Reading)
    assert reading.value == stored
