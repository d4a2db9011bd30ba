"""The site's own streams: what is spooled goes to local subscribers, whatever the uplink does.

Flows in: `Publication`, after the spool's commit (implements `Outbox`). Flows out: `iot:readings` and `iot:alerts`
of the in-memory broker, and MQTT: `site/alerts`, each event; `site/sensors/{id}`, a sensor's latest value, retained,
at most one in `publish_every_s`. MQTT says `"local": true`: the service makes its own alerts of the same readings.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
import structlog

from bridge.broker.memory import MemoryBroker
from bridge.model.reading import CLASS_NAMES, AlertEvent, Publication, Reading, ReadingClass
from edge.local.alert_file import AlertFile
from edge.local.alerts import LocalAlerts, is_late
from edge.registry.snapshot import LocalRegistry
from edge.settings import SiteSettings
from edge.telemetry import SiteMetrics

log = structlog.get_logger("site")

MAX_PUBLICATIONS = 256
"""Publications that wait for the local broker; it never waits itself, so this is a burst of commits."""
MAX_ALERTS = 1_000
"""Alert events that wait for MQTT; older ones give way, and are counted."""
MAX_HEARD = 10_000
"""Devices remembered with the time they were heard; those that are not registered may be made up."""
MAX_EVENT_IDS = 20_000
"""Event ids remembered: of two readings of one time, as a clock of seconds gives them, each gets one of its own."""
ALERTS_TOPIC = "site/alerts"


class MqttOut(Protocol):
    """Publishes over the session with the site's broker."""

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        """Publish; False where there is no connection."""
        ...


class Latest(msgspec.Struct, frozen=True):
    """Is the newest reading of a sensor, by its time."""

    value: float
    ts_us: int
    until_us: int  # what is older is late: the lesser of `ts_us` and the time then
    received_us: int
    label: int


class LocalPublisher:
    """Publishes spooled readings and local alerts on the site. `run` carries on what `enqueue` took."""

    def __init__(
        self,
        gateway: str,
        broker: MemoryBroker,
        registry: LocalRegistry,
        local_alerts: LocalAlerts,
        settings: SiteSettings,
        metrics: SiteMetrics,
        alert_file: AlertFile,
        *,
        max_heard: int = MAX_HEARD,
        max_event_ids: int = MAX_EVENT_IDS,
    ) -> None:
        self._gateway = gateway
        self._broker = broker
        self._registry = registry
        self._local_alerts = local_alerts
        self._settings = settings
        self._metrics = metrics
        self._alert_file = alert_file
        self._max_heard = max_heard
        self._max_event_ids = max_event_ids
        self._kept = 0  # the changes of alerts that are in the file
        self._queue: deque[Publication] = deque()
        self._alerts: deque[AlertEvent] = deque()
        self._event_ids: OrderedDict[str, None] = OrderedDict()
        self._due: dict[int, None] = {}  # sensors whose latest value is to be published
        self._wake = asyncio.Event()
        self.mqtt: MqttOut | None = None
        self.latest: dict[int, Latest] = {}
        self.heard_us: dict[str, int] = {}  # by device UUID, registered or not, when it was last heard
        metrics.active.set_function(lambda: len(local_alerts.active))

    # -- Outbox

    def enqueue(self, publication: Publication) -> None:
        """See `Outbox.enqueue`. What there is no room for is counted, and missed by local subscribers alone."""
        readings: list[Reading] = []
        alerts: list[AlertEvent] = []
        now_us = publication.stored_us
        for place, (reading, label) in enumerate(zip(publication.readings, publication.classes, strict=True)):
            suffix = f"-{publication.outbox_id}-{place}"
            for alert in self._local_alerts.step(reading, now_us):
                event_id = self._own_event_id(alert.event_id, suffix)
                alerts.append(
                    alert if event_id == alert.event_id else msgspec.structs.replace(alert, event_id=event_id)
                )
            self._note(reading, label, now_us)
            event_id = self._own_event_id(reading.event_id, suffix)
            readings.append(reading if event_id == reading.event_id else msgspec.structs.replace(reading, key=event_id))
        self._push_alerts(alerts)
        self._push(msgspec.structs.replace(publication, readings=readings, alerts=alerts))

    def take_published(self) -> list[int]:
        """Return nothing: nothing is kept in a table."""
        return []

    def give_back(self, outbox_ids: object) -> None:
        """Do nothing: nothing was taken."""

    def recover(self) -> None:
        """Count a batch that was committed without our being told: local subscribers miss it, the service does not."""

    # -- what the status shows

    def follow_registry(self, now_us: int) -> None:
        """End alerts that no threshold means any more, or whose sensor is off, and forget sensors that have left."""
        names = self._registry.names
        values = {sensor: latest.value for sensor, latest in self.latest.items()}
        ended = self._local_alerts.review(values, self._registry.silenced, now_us)
        self._local_alerts.forget_all_but(names)
        self.latest = {sensor: latest for sensor, latest in self.latest.items() if sensor in names}
        if ended:
            self._push_alerts(ended)
            self._push(Publication(1, 0, [], [], now_us, ended))

    def status_of(self, sensor_id: int) -> dict[str, Any] | None:
        """Return the answer of GET /sensors/{id}/status, as far as the gateway can tell; None: no such sensor."""
        if sensor_id not in self._registry.names:
            return None
        active = self._local_alerts.active.get(sensor_id)
        alert = None
        if active is not None:
            alert = {
                "id": 0,
                "sensor_id": sensor_id,
                "threshold_id": active.threshold_id,
                "severity": active.severity,
                "status": "active",
                "triggered_value": active.value,
                "triggered_at": active.triggered_at_us / 1_000_000,
                "local": True,
            }
        return {
            "sensor_id": sensor_id,
            "final_state": "unknown" if alert is None else "alert",
            "alert_active": alert,
            "warning_active": None,
            "prediction_current": None,
        }

    # -- the work

    async def run(self) -> None:
        """Publish for ever. Ends by cancellation."""
        self._local_alerts.resume(self._alert_file.load())
        loop = asyncio.get_running_loop()
        next_s = 0.0
        while True:
            while self._queue:
                await self._broker.publish(self._queue.popleft())
            await self._keep_alerts()
            self._send_alerts()
            if loop.time() >= next_s:
                self._send_latest()
                next_s = loop.time() + self._settings.publish_every_s
            self._wake.clear()
            try:
                async with asyncio.timeout_at(next_s if self._due or self._alerts else None):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _keep_alerts(self) -> None:
        if self._kept != self._local_alerts.changes:
            self._kept = self._local_alerts.changes
            await asyncio.to_thread(self._alert_file.save, list(self._local_alerts.active.values()))

    def _own_event_id(self, event_id: str, suffix: str) -> str:
        """The id of an event that is published: with the suffix, which is of its record, where another has had it.

        The service stores the second reading of a time a microsecond later; the spool keeps times as they came.
        """
        if event_id in self._event_ids:
            event_id += suffix
        elif len(self._event_ids) >= self._max_event_ids:
            self._event_ids.popitem(last=False)
        self._event_ids[event_id] = None
        return event_id

    def _note(self, reading: Reading, label: int, now_us: int) -> None:
        if reading.device_uuid is not None:
            heard = self.heard_us.get(reading.device_uuid, 0)
            if not heard and len(self.heard_us) >= self._max_heard:
                del self.heard_us[next(iter(self.heard_us))]
            self.heard_us[reading.device_uuid] = max(heard, reading.received_us)
        if not reading.sensor_id:  # unknown here: its name may be made up, so nothing is kept of it
            return
        known = self.latest.get(reading.sensor_id)
        if known is None or not is_late(reading.ts_us, known.until_us, now_us):
            until_us = min(reading.ts_us, now_us)
            self.latest[reading.sensor_id] = Latest(reading.value, reading.ts_us, until_us, reading.received_us, label)
            self._due[reading.sensor_id] = None

    def _push(self, publication: Publication) -> None:
        if len(self._queue) >= MAX_PUBLICATIONS:
            self._metrics.missed.labels("broker").inc(len(self._queue.popleft().readings))
        self._queue.append(publication)
        self._wake.set()

    def _push_alerts(self, alerts: list[AlertEvent]) -> None:
        for alert in alerts:
            log.warning("local_alert", kind=alert.kind, sensor_id=alert.sensor_id, severity=alert.severity)
            self._metrics.alerts.labels(alert.kind).inc()
            if len(self._alerts) >= MAX_ALERTS:
                self._alerts.popleft()
                self._metrics.missed.labels("mqtt").inc()
            self._alerts.append(alert)

    def _send_alerts(self) -> None:
        while self._alerts and self._publish(ALERTS_TOPIC, self._alert_body(self._alerts[0]), qos=1, retain=False):
            self._alerts.popleft()

    def _send_latest(self) -> None:
        for sensor_id in list(self._due):
            latest = self.latest.get(sensor_id)
            if latest is not None and not self._publish(
                f"site/sensors/{sensor_id}", self._latest_body(sensor_id, latest), qos=0, retain=True
            ):
                return
            del self._due[sensor_id]

    def _publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        return self.mqtt is not None and self.mqtt.publish(topic, payload, qos=qos, retain=retain)

    def _alert_body(self, alert: AlertEvent) -> bytes:
        return msgspec.json.encode(
            {
                "event_id": alert.event_id,
                "sensor_id": alert.sensor_id,
                "kind": alert.kind,
                "severity": alert.severity,
                "value": alert.value,
                "threshold_id": alert.threshold_id,
                "threshold_kind": alert.threshold_kind,
                "resolution": alert.resolution,
                "triggered_at": alert.triggered_at_us / 1_000_000,
                "gateway": self._gateway,
                "local": True,
            }
        )

    def _latest_body(self, sensor_id: int, latest: Latest) -> bytes:
        name, unit = self._registry.names.get(sensor_id, ("", ""))
        body: Mapping[str, Any] = {
            "sensor_id": sensor_id,
            "name": name,
            "value": latest.value,
            "unit": unit,
            "timestamp": latest.ts_us / 1_000_000,
            "state": CLASS_NAMES[ReadingClass(latest.label)],
            "local": True,
        }
        return msgspec.json.encode(body)
