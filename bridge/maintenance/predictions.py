"""Batch jobs: their wiring. Each may be run at any time, again and again, and by several processes.

predictions: recent readings of sensors that nothing is predicted of ─► a Baseline ─► predictions
explain: anomalies without an explanation ─► an external explainer over HTTP ─► predictions.explanation
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import msgspec

from bridge.consumers.http_post import PostFailed, post
from bridge.consumers.predictor import Baseline
from bridge.errors import BridgeError
from bridge.model.prediction import Prediction
from bridge.settings.consumers import ExplainSettings, MlSettings
from bridge.store.jobs import Anomaly, JobTable

SENSORS_AT_ONCE = 500
ANOMALIES_AT_ONCE = 100
READINGS_BEFORE = 50
"""Readings before an anomaly that the explainer is shown."""
FAILURES_IN_A_ROW = 5
"""The explainer is down: the rest is left to the next run."""
MAX_ANSWER_BYTES = 65_536


class Predicted(msgspec.Struct, frozen=True):
    """What the job did."""

    sensors: int
    forecasts: int
    anomalies: int


class Explained(msgspec.Struct, frozen=True):
    """What the job did."""

    explained: int
    skipped: int
    problem: str = ""  # the last one
    down: bool = False
    """Nothing was explained since the explainer stopped answering, or failed too often in a row: the rest is left."""


class NotExplained(BridgeError):
    """The explainer did not answer, or (`answered`) not in the agreed form."""

    code = "not_explained"

    def __init__(self, detail: str, *, answered: bool = True) -> None:
        super().__init__(detail)
        self.answered = answered


def predict(table: JobTable, settings: MlSettings, hours: float, now_us: int) -> Predicted:
    """Predict what the online worker has missed, by the readings of the last hours. Raises StoreUnavailable."""
    sensors = table.unpredicted_sensors(hours)
    forecasts = anomalies = 0
    for start in range(0, len(sensors), SENSORS_AT_ONCE):
        part = sensors[start : start + SENSORS_AT_ONCE]
        found = list(_predictions(table.recent_readings(part, hours), settings, now_us))
        table.write(found)
        flagged = sum(each.is_anomaly for each in found)
        anomalies += flagged
        forecasts += len(found) - flagged
    return Predicted(len(sensors), forecasts, anomalies)


def _predictions(
    readings: Iterator[tuple[int, float, int, bool]], settings: MlSettings, now_us: int
) -> Iterator[Prediction]:
    """One forecast for each sensor, and its anomalies, `write_every_s` apart."""
    model = Baseline(settings)
    model_id = f"{model.model_id}-batch"
    current, flagged_us = 0, 0
    for sensor_id, value, ts_us, clean in readings:
        if sensor_id != current:
            yield from _forecast(model, model_id, current, settings, now_us)
            model.forget(current)
            current, flagged_us = sensor_id, 0
        judged = model.observe(sensor_id, value, ts_us, learn=clean)
        if judged is not None and judged.is_anomaly and ts_us - flagged_us >= settings.write_every_s * 1e6:
            flagged_us = ts_us
            known = model.predict(sensor_id, ts_us)
            confidence = known.confidence if known else 0.0
            yield Prediction(sensor_id, model_id, judged.forecast, confidence, ts_us, True, min(judged.score, 1e9))
    yield from _forecast(model, model_id, current, settings, now_us)


def _forecast(
    model: Baseline, model_id: str, sensor_id: int, settings: MlSettings, now_us: int
) -> Iterator[Prediction]:
    target_us = now_us + round(settings.horizon_s * 1e6)
    ahead = model.predict(sensor_id, target_us)
    if ahead is not None and math.isfinite(ahead.value):
        yield Prediction(sensor_id, model_id, ahead.value, ahead.confidence, target_us)


def explain(table: JobTable, ask: Callable[[Anomaly], str], limit: int) -> Explained:
    """Have anomalies explained, up to `limit`. One that cannot be is skipped. Raises StoreUnavailable."""
    explained = skipped = failures = after = 0
    problem, answered = "", True
    while explained + skipped < limit and failures < FAILURES_IN_A_ROW:
        part = table.unexplained(after, min(ANOMALIES_AT_ONCE, limit - explained - skipped), READINGS_BEFORE)
        if not part:
            break
        for anomaly in part:
            after = anomaly.id
            try:
                table.explain(anomaly.id, ask(anomaly))
            except NotExplained as error:
                skipped, failures, problem, answered = skipped + 1, failures + 1, error.detail, error.answered
                if failures >= FAILURES_IN_A_ROW:
                    break
            else:
                explained, failures, answered = explained + 1, 0, True
    return Explained(explained, skipped, problem, failures >= FAILURES_IN_A_ROW or not answered)


class Explainer:
    """The external explainer. Raises NotExplained."""

    def __init__(self, settings: ExplainSettings) -> None:
        self._settings = settings

    def __call__(self, anomaly: Anomaly) -> str:
        """The explanation of one anomaly."""
        settings = self._settings
        headers = {"Authorization": f"Bearer {settings.token}"} if settings.token else {}
        try:
            body = post(
                "the explainer",
                settings.url.rstrip("/") + "/explain/anomaly",
                msgspec.json.encode(_question(anomaly)),
                headers,
                timeout_s=settings.timeout_s,
                max_answer_bytes=MAX_ANSWER_BYTES + 1,
            )
        except PostFailed as error:
            raise NotExplained(error.detail, answered=error.answered) from error
        return _text(body)


def _question(anomaly: Anomaly) -> dict[str, object]:
    document = msgspec.structs.asdict(anomaly)
    document["prediction_id"] = document.pop("id")
    document["timestamp"] = document.pop("target_us") / 1e6
    return document


def _text(body: bytes) -> str:
    try:
        document = msgspec.json.decode(body[:MAX_ANSWER_BYTES])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotExplained("the explainer's answer is not JSON, or too long") from error
    text = document.get("explanation") if isinstance(document, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise NotExplained('the explainer\'s answer has no text "explanation"')
    return text
