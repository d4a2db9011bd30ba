"""Predicts what sensors will measure, and flags what does not fit.

iot:readings ─► a Predictor ─► predictions

One process works, others stand by: the models are in one memory. They are kept in the database bit by bit, so
that a restart does not warm up again. A reading that comes again teaches nothing: it is not newer than the last.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec
import structlog

from bridge.consumers.api import Event
from bridge.consumers.predictor import Judgement, Predictor
from bridge.consumers.tables import PredictionTable, StateTable
from bridge.model.prediction import Prediction
from bridge.settings.consumers import MlSettings
from bridge.telemetry import Metrics

log = structlog.get_logger("ml")

TICK_S = 1.0
KEEP_AT_LEAST = 100
"""Models kept in one tick; more where it takes more to keep all within `checkpoint_s`."""
KEEP_AT_MOST = 1_000
EXPIRE_TICKS = 600
SPREAD = 7_919_000_003
"""A large prime."""


class Watch(msgspec.Struct):
    """Holds what has been written of a sensor."""

    slot: int = 0  # of `write_every_s` since the epoch: one forecast in each, also when readings come again
    anomaly_us: int = 0  # time of the reading


class MlWorker:
    """Predicts each sensor's next values, and flags anomalies. `start` first, `keep_all` last."""

    def __init__(
        self,
        settings: MlSettings,
        predictor: Predictor,
        states: StateTable,
        table: PredictionTable,
        metrics: Metrics,
        now_us: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._predictor = predictor
        self._states = states
        self._table = table
        self._metrics = metrics
        self._now_us = now_us
        self._sensors: OrderedDict[int, Watch] = OrderedDict()
        self._dirty: OrderedDict[int, None] = OrderedDict()  # the longest not kept first
        self._forgotten: list[int] = []
        self._unwritten: list[Prediction] = []
        self._ticks = 0

    async def start(self) -> None:
        """Load the models where the last process left them. Raises StoreUnavailable."""
        useless = 0
        for sensor_id, kept in await self._states.load():
            try:
                self._predictor.restore(sensor_id, kept)
            except ValueError:
                useless += 1
            else:
                self._sensors[sensor_id] = Watch()
        log.info("models_loaded", sensors=len(self._sensors), of_another_form=useless)

    async def handle(self, events: Sequence[Event]) -> None:
        """See `Handler.handle`."""
        for event in events:
            self._observe(event)
        await self._write()

    async def tick(self) -> None:
        """See `Handler.tick`."""
        share = math.ceil(len(self._sensors) * TICK_S / self._settings.checkpoint_s)
        await self._keep(min(max(share, KEEP_AT_LEAST), KEEP_AT_MOST))
        if self._ticks % EXPIRE_TICKS == 0:
            await self._table.expire(self._settings.keep_days)
        self._ticks += 1
        self._metrics.cache_size.labels("ml").set(len(self._sensors))

    async def keep_all(self) -> None:
        """Save every model that has learned. Raises StoreUnavailable."""
        while self._dirty or self._forgotten:
            await self._keep(KEEP_AT_MOST)

    def _observe(self, event: Event) -> None:
        sensor_id, fields = event.sensor_id, event.fields
        value, ts_us = float(fields["value"]), round(float(fields["timestamp"]) * 1_000_000)
        clean = fields["class"] == "clean"
        judgement = self._predictor.observe(sensor_id, value, ts_us, learn=clean)
        watch = self._watch(sensor_id)
        if clean:
            self._dirty[sensor_id] = None
        every_us = self._settings.write_every_s * 1e6
        if judgement is not None and judgement.is_anomaly:
            if ts_us - watch.anomaly_us >= every_us:
                watch.anomaly_us = ts_us
                self._note(self._anomaly(sensor_id, judgement, ts_us), "anomaly")
        else:
            self._forecast(sensor_id, ts_us, watch)

    def _anomaly(self, sensor_id: int, judgement: Judgement, ts_us: int) -> Prediction:
        known = self._predictor.predict(sensor_id, ts_us)
        confidence = known.confidence if known else 0.0
        model_id, score = self._predictor.model_id, min(judgement.score, 1e9)
        return Prediction(sensor_id, model_id, judgement.forecast, confidence, ts_us, True, score)

    def _forecast(self, sensor_id: int, ts_us: int, watch: Watch) -> None:
        every_us = round(self._settings.write_every_s * 1e6)
        shift_us = sensor_id * SPREAD % every_us  # or all sensors are written at the same moment
        slot = (ts_us + shift_us) // every_us
        if slot <= watch.slot:
            return
        soon = self._predictor.predict(sensor_id, ts_us)
        if soon is None:
            return
        watch.slot = slot
        ahead_us = round(max(self._settings.horizon_s, soon.interval_s) * 1e6)
        target_us = (slot + 1) * every_us - shift_us + ahead_us
        if target_us <= self._now_us():
            return  # of a backlog: nobody waits for it
        if (ahead := self._predictor.predict(sensor_id, target_us)) is not None:
            model_id = self._predictor.model_id
            self._note(Prediction(sensor_id, model_id, ahead.value, ahead.confidence, target_us), "forecast")

    def _note(self, prediction: Prediction, kind: str) -> None:
        if math.isfinite(prediction.value):
            self._unwritten.append(prediction)
            self._metrics.predictions.labels(kind).inc()

    async def _write(self) -> None:
        if self._unwritten:
            await self._table.write(self._unwritten)
            self._unwritten = []

    def _watch(self, sensor_id: int) -> Watch:
        watch = self._sensors.get(sensor_id)
        if watch is None:
            watch = self._sensors[sensor_id] = Watch()
            if len(self._sensors) > self._settings.max_sensors:
                self._forget()
        self._sensors.move_to_end(sensor_id)
        return watch

    def _forget(self) -> None:
        sensor_id, _ = self._sensors.popitem(last=False)
        self._predictor.forget(sensor_id)
        self._dirty.pop(sensor_id, None)
        self._forgotten.append(sensor_id)

    async def _keep(self, count: int) -> None:
        chosen = [sensor_id for sensor_id, _ in zip(self._dirty, range(count), strict=False)]
        states = {each: kept for each in chosen if (kept := self._predictor.export(each)) is not None}
        await self._states.save(states)
        for sensor_id in chosen:
            del self._dirty[sensor_id]
        gone, self._forgotten = self._forgotten[:KEEP_AT_MOST], self._forgotten[KEEP_AT_MOST:]
        await self._states.forget([sensor_id for sensor_id in gone if sensor_id not in self._sensors])
