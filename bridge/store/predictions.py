"""The table predictions. Implements `PredictionTable` of `bridge.consumers.tables`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bridge.model.prediction import Prediction
from bridge.store import queries
from bridge.store.postgres import PostgresStore


class PostgresPredictions:
    """Queries of `sql/consumers.sql` on the store's pooled connections."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._sql = queries.load("consumers")

    async def write(self, predictions: Sequence[Prediction]) -> int:
        """See `PredictionTable.write`."""
        async with self._store.pooled() as connection:
            return (await connection.execute(self._sql["write_predictions"], columns(predictions))).rowcount

    async def expire(self, days: int) -> None:
        """See `PredictionTable.expire`."""
        async with self._store.pooled() as connection:
            await connection.execute(self._sql["expire_predictions"], {"days": days})


def columns(predictions: Sequence[Prediction]) -> dict[str, list[Any]]:
    """Arguments of the query write_predictions."""
    return {
        "sensor_ids": [each.sensor_id for each in predictions],
        "model_ids": [each.model_id for each in predictions],
        "values": [each.value for each in predictions],
        "confidences": [each.confidence for each in predictions],
        "target_us": [each.target_us for each in predictions],
        "anomalies": [each.is_anomaly for each in predictions],
        "scores": [each.score for each in predictions],
    }
