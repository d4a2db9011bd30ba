"""Validation: a decoded reading and its sensor in, a `Reading` or a `Rejection` out. Pure.

The sensor must be active and of the sender's device, the value within the physical limits of its
type and of the sensor itself, the time neither too far ahead nor too old.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from hashlib import blake2b

from bridge.model.reading import Code, DecodedReading, Delivery, ExternalId, Reading, Rejection, Sensor, TsQuality
from bridge.settings.process import PipelineSettings


class Validator:
    """The rules of one configuration.

    `keep_unknown` is for a gateway, whose registry may be behind: a sensor that it does not know is
    the service's to resolve or refuse. `judges_times` is, too: while its clock is not set, a reading's time that is far
    from it says nothing of the reading.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        *,
        keep_unknown: bool = False,
        judges_times: Callable[[], bool] | None = None,
    ) -> None:
        self._keep_unknown = keep_unknown
        self._judges_times = judges_times
        self._limits: Mapping[str, tuple[float, float]] = settings.limits
        self._ahead_us = int(settings.max_ahead_s * 1_000_000)
        self._behind_us = int(settings.max_behind_s * 1_000_000)

    def check(self, decoded: DecodedReading, sensor: Sensor | None, delivery: Delivery) -> Reading | Rejection:
        """The reading that `decoded` becomes, or why it will not be stored."""
        if sensor is None:
            return self._unknown(decoded, delivery)
        value = decoded.value if delivery.in_unit else _in_unit(decoded.value, sensor)
        problem = self._sensor_problem(decoded, sensor, delivery) or self._value_problem(value, sensor)
        if problem is None and decoded.ts_us is not None:
            problem = self._time_problem(decoded.ts_us, delivery.received_us)
        if problem is not None:
            return Rejection(decoded.index, *problem)
        return _reading(decoded, sensor, delivery, value)

    def _unknown(self, decoded: DecodedReading, delivery: Delivery) -> Reading | Rejection:
        """A reading for the service to resolve, on the sender's device alone; or a rejection."""
        device_uuid = delivery.device_uuid or delivery.packet.device_uuid
        if not self._keep_unknown or delivery.packet.device_uuid not in (None, device_uuid):
            known_as = _unmapped(decoded.sensor) if isinstance(decoded.sensor, ExternalId) else _UNKNOWN
            return Rejection(decoded.index, *known_as)
        problem = None if decoded.ts_us is None else self._time_problem(decoded.ts_us, delivery.received_us)
        if problem is not None:
            return Rejection(decoded.index, *problem)
        named = decoded.sensor.text if isinstance(decoded.sensor, ExternalId) else decoded.sensor
        stand_in = Sensor(0, str(named), delivery.device_id, device_uuid or "", "")
        return _reading(decoded, stand_in, delivery, decoded.value, unresolved=named)

    def _sensor_problem(self, decoded: DecodedReading, sensor: Sensor, delivery: Delivery) -> tuple[Code, str] | None:
        if decoded.sensor_uuid not in (None, sensor.sensor_uuid):
            return _UNKNOWN
        # A sensor of another device is not told apart from one that does not exist: the answer
        # must not say which UUIDs are registered.
        for device in (delivery.device_uuid, delivery.packet.device_uuid):
            if device is not None and device != sensor.device_uuid:
                return _UNKNOWN
        if delivery.devices is not None and sensor.device_uuid not in delivery.devices:
            return _UNKNOWN
        if sensor.device_disabled:
            return Code.DEVICE_DISABLED, "the device is disabled"
        if not sensor.is_active:
            return Code.SENSOR_INACTIVE, "the sensor is not active"
        return None

    def _value_problem(self, value: float, sensor: Sensor) -> tuple[Code, str] | None:
        low, high = self._limits.get(sensor.sensor_type, _NO_LIMITS)
        if sensor.min_value is not None and sensor.min_value > low:
            low = sensor.min_value
        if sensor.max_value is not None and sensor.max_value < high:
            high = sensor.max_value
        if low <= value <= high and math.isfinite(value):
            return None
        return Code.VALUE_OUT_OF_RANGE, f"{value:g} is outside {low:g} to {high:g} ({sensor.sensor_type})"

    def _behind_detail(self, off_us: int) -> str:
        return f"the reading is {-off_us / 86_400e6:.1f} days old, more than {self._behind_us / 86_400e6:g}"

    def _time_problem(self, ts_us: int, received_us: int) -> tuple[Code, str] | None:
        off_us = ts_us - received_us
        if -self._behind_us <= off_us <= self._ahead_us:
            return None
        if self._judges_times is not None and not self._judges_times():
            return None
        if off_us > self._ahead_us:
            return Code.TIME_AHEAD, f"the time is {off_us / 1e6:.0f} s ahead of ours; set the device's clock"
        return Code.TIME_BEHIND, self._behind_detail(off_us)


_UNKNOWN = (Code.UNKNOWN_SENSOR, "no such sensor on this device; register it, and what waits is stored")
_NO_LIMITS = (float("-inf"), float("inf"))


def _unmapped(ref: ExternalId) -> tuple[Code, str]:
    return Code.UNKNOWN_SENSOR, f"no sensor has the external id {ref.text}; map it, and what waits is stored"


def _in_unit(value: float, sensor: Sensor) -> float:
    """What the device sent, in the sensor's unit. 12 digits: 68 °F are 20 °C, not 20.000000000000004."""
    if sensor.unit_factor == 1.0 and sensor.unit_offset == 0.0:
        return value
    return float(f"{value * sensor.unit_factor + sensor.unit_offset:.12g}")


def _reading(
    decoded: DecodedReading, sensor: Sensor, delivery: Delivery, value: float, *, unresolved: int | str | None = None
) -> Reading:
    ours = TsQuality.SERVER if delivery.gateway is None else TsQuality.GATEWAY
    quality = delivery.ts_quality or (ours if decoded.ts_us is None else TsQuality.DEVICE)
    key = None if quality is TsQuality.DEVICE else delivery.identity
    if key is None and decoded.ts_us is None:
        key = _key(decoded, sensor, delivery)
    return Reading(
        sensor_id=sensor.sensor_id,
        value=value,
        # By their places, or two untimed readings of a sensor in one packet would be one.
        ts_us=delivery.received_us + decoded.index if decoded.ts_us is None else decoded.ts_us,
        received_us=delivery.received_us,
        device_id=sensor.device_id,
        sensor_type=sensor.sensor_type,
        source=delivery.source,
        sequence=decoded.sequence,
        gateway=delivery.gateway,
        ts_quality=quality,
        key=key,
        updates_liveness=not delivery.retained,
        redelivered=delivery.redelivered or decoded.key is not None,
        device_uuid=sensor.device_uuid or None,
        unresolved=unresolved,
        replay_of=None if delivery.replay_of is None else (delivery.replay_of, decoded.index),
    )


def _key(decoded: DecodedReading, sensor: Sensor, delivery: Delivery) -> str | None:
    """The identity of a reading whose time is ours, by what its sender gave."""
    if decoded.key is not None:
        name = sensor.sensor_id or f"{sensor.device_uuid}\0{sensor.sensor_uuid}"  # 0: not resolved yet
        digest = blake2b(f"{name}\0{decoded.key}".encode(errors="surrogatepass"), digest_size=16)
        return f"d-{digest.hexdigest()}"
    if delivery.key is not None:
        return f"{delivery.key}-{decoded.index}"
    return None
