"""Batch jobs against a real database, and an explainer that answers, refuses, or is down."""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from bridge.maintenance.predictions import FAILURES_IN_A_ROW, Explainer, Predicted, explain, predict
from bridge.settings.consumers import ExplainSettings, MlSettings
from bridge.store import jobs
from tests.acceptance.service import Service
from tests.support.plant import Plant, connect
from tests.support.receivers import WebhookReceiver


@pytest.fixture
def plant(postgres_url: str) -> Iterator[Plant]:
    with connect(postgres_url) as connection:
        yield Plant(connection)


@pytest.fixture
def table(postgres_url: str) -> Iterator[jobs.JobTable]:
    with jobs.connect(postgres_url) as table:
        yield table


@pytest.fixture
def explainer() -> Iterator[WebhookReceiver]:
    receiver = WebhookReceiver()
    receiver.reply = b'{"explanation": "a door was open"}'
    yield receiver
    receiver.close()


def store_series(plant: Plant, count: int, spike_at: int | None = None) -> None:
    """Readings every 10 s that end now."""
    random, now = Random(1), time.time()
    values = [60.0 if place == spike_at else random.gauss(20, 0.5) for place in range(count)]
    plant.all(
        'INSERT INTO sensor_readings (sensor_id, value, "timestamp")'
        " SELECT %(id)s, v, to_timestamp(t) FROM unnest(%(values)s::float8[], %(times)s::float8[]) AS r (v, t)"
        " RETURNING id",
        id=plant.sensor,
        values=values,
        times=[now - (count - place) * 10 for place in range(count)],
    )
    plant.all(
        "INSERT INTO sensor_readings_latest (sensor_id, latest_value, latest_timestamp)"
        " VALUES (%(id)s, 20, now()) RETURNING sensor_id",
        id=plant.sensor,
    )


def rows(plant: Plant, which: str = "true") -> list[dict[str, Any]]:
    return plant.all(f"SELECT * FROM predictions WHERE {which} ORDER BY id")


def add_anomalies(plant: Plant, count: int) -> None:
    plant.all(
        "INSERT INTO predictions (sensor_id, model_id, predicted_value, target_timestamp, is_anomaly, anomaly_score)"
        " SELECT %(id)s, 'baseline-1', 20, now() - n * interval '1 minute', true, 9"
        " FROM generate_series(1, %(count)s) n RETURNING id",
        id=plant.sensor,
        count=count,
    )


def test_predictions_of_what_the_online_worker_missed(plant: Plant, table: jobs.JobTable) -> None:
    store_series(plant, 500, spike_at=400)
    now_us = time.time_ns() // 1_000
    assert predict(table, MlSettings(), 24, now_us) == Predicted(1, 1, 1)
    [anomaly] = rows(plant, "is_anomaly")
    [forecast] = rows(plant, "NOT is_anomaly")
    assert anomaly["anomaly_score"] > 6
    assert forecast["predicted_value"] == pytest.approx(20, abs=0.5)
    assert forecast["model_id"] == "baseline-1-batch"
    # Now there is a prediction, so there is nothing to do.
    assert predict(table, MlSettings(), 24, now_us) == Predicted(0, 0, 0)


def test_predictions_learn_nothing_from_readings_within_an_alert(plant: Plant, table: jobs.JobTable) -> None:
    store_series(plant, 500)
    plant.all(
        "INSERT INTO alerts (sensor_id, device_id, severity, triggered_value, triggered_at)"
        " VALUES (%(id)s, %(device)s, 'critical', 1, now() - interval '1 day') RETURNING id",
        id=plant.sensor,
        device=plant.device,
    )
    assert predict(table, MlSettings(), 24, time.time_ns() // 1_000) == Predicted(1, 0, 0)


def test_explanations_are_asked_for_and_stored(plant: Plant, table: jobs.JobTable, explainer: WebhookReceiver) -> None:
    store_series(plant, 100)
    add_anomalies(plant, 3)
    ask = Explainer(ExplainSettings(url=explainer.base, token="secret"))
    done = explain(table, ask, 2)
    assert (done.explained, done.skipped) == (2, 0)
    assert explain(table, ask, 1_000).explained == 1
    assert explain(table, ask, 1_000).explained == 0
    assert [row["explanation"] for row in rows(plant)] == ["a door was open"] * 3
    post = explainer.posts[0]
    assert post.path == "/explain/anomaly"
    assert post.headers["authorization"] == "Bearer secret"
    question = post.document
    assert question["prediction_id"] == rows(plant)[0]["id"]
    assert (question["sensor"], question["sensor_type"], question["anomaly_score"]) == ("inlet", "temperature", 9)
    assert len(question["before"]) == 50
    assert question["before"][0]["timestamp"] < question["before"][-1]["timestamp"] < question["timestamp"]


def test_anomaly_that_cannot_be_explained_is_skipped(
    plant: Plant, table: jobs.JobTable, explainer: WebhookReceiver
) -> None:
    add_anomalies(plant, 3)
    explainer.answers = [200, 500, 200]
    done = explain(table, Explainer(ExplainSettings(url=explainer.base)), 1_000)
    assert (done.explained, done.skipped, done.problem) == (2, 1, "the explainer answers 500")
    assert [row["explanation"] for row in rows(plant)] == ["a door was open", None, "a door was open"]


@pytest.mark.parametrize("reply", [b"", b"[]", b'{"explanation": 3}', b"{" * 100_000])
def test_answer_of_another_form_is_skipped(
    plant: Plant, table: jobs.JobTable, explainer: WebhookReceiver, reply: bytes
) -> None:
    add_anomalies(plant, 1)
    explainer.reply = reply
    assert explain(table, Explainer(ExplainSettings(url=explainer.base)), 1_000).skipped == 1


def test_explainer_that_is_down_is_not_asked_for_ever(plant: Plant, table: jobs.JobTable) -> None:
    add_anomalies(plant, 300)
    done = explain(table, Explainer(ExplainSettings(url="http://127.0.0.1:9", timeout_s=2)), 1_000)
    assert (done.explained, done.skipped) == (0, FAILURES_IN_A_ROW)
    assert done.problem.startswith("the explainer does not answer")
    assert done.down


def test_commands(plant: Plant, postgres_url: str, explainer: WebhookReceiver, tmp_path: Any) -> None:
    store_series(plant, 100)
    add_anomalies(plant, 2)
    service = Service(tmp_path, postgres_url, "", explain__url=explainer.base)
    assert service.command("job", "predictions") == {"sensors": 1, "forecasts": 1, "anomalies": 0}
    assert service.command("job", "explain") == {"explained": 2, "skipped": 0, "problem": ""}


@pytest.mark.parametrize("anomalies", [1, 300])
def test_command_says_that_the_explainer_is_down(
    plant: Plant, postgres_url: str, tmp_path: Any, anomalies: int
) -> None:
    add_anomalies(plant, anomalies)
    service = Service(tmp_path, postgres_url, "", explain__url="http://127.0.0.1:9")
    done = service.command("job", "explain", expect=3)
    assert (done["explained"], done["skipped"]) == (0, min(anomalies, FAILURES_IN_A_ROW))
    assert "does not answer" in done["problem"]


def test_command_is_done_where_the_explainer_answers_that_it_cannot(
    plant: Plant, postgres_url: str, explainer: WebhookReceiver, tmp_path: Any
) -> None:
    add_anomalies(plant, 1)
    explainer.answers = [422]
    service = Service(tmp_path, postgres_url, "", explain__url=explainer.base)
    assert service.command("job", "explain")["skipped"] == 1
    explainer.answers = [500] * FAILURES_IN_A_ROW
    add_anomalies(plant, FAILURES_IN_A_ROW)
    service.command("job", "explain", expect=3)
