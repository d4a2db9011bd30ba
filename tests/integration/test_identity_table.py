"""The table of identities (decision 26), written down once more in Python, held against the procedures.

The model knows the rows of one sensor, and keys, and says of each reading in order what becomes of it, and where it is
stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.plant import START, Connection, Plant, connect, us

STORED, DUPLICATE, REFUSED = range(3)
WITHIN_US = 999

SEND = """
    SELECT outcomes, stored_ts_us FROM sp_insert_readings(
        %(sensors)s::bigint[], %(values)s::double precision[], %(ts_us)s::bigint[], %(sequences)s::bigint[],
        %(ts_us)s::bigint[], %(device_time)s::boolean[], %(keys)s::text[], NULL, %(redelivered)s::boolean[])
"""


@dataclass(frozen=True)
class Sent:
    value: float
    offset_us: int
    timed: bool
    sequence: int | None
    key: str | None
    redelivered: bool


@dataclass
class Model:
    """Rows: (time, sequence) to (value, the device's time)."""

    rows: dict[tuple[int, int | None], tuple[float, int | None]] = field(default_factory=dict)
    keys: dict[str, float] = field(default_factory=dict)

    def take(self, sent: Sent) -> tuple[int, int]:
        """The outcome, and where it is stored."""
        if sent.timed:
            return self._timed(sent)
        if sent.key is not None:
            known = self.keys.get(sent.key)
            if known is not None and sent.redelivered:
                return (DUPLICATE if known == sent.value else REFUSED), 0
            self.keys[sent.key] = sent.value
        at_us = next(at for at in range(sent.offset_us, 1 << 60) if (at, sent.sequence) not in self.rows)
        self.rows[at_us, sent.sequence] = sent.value, None
        return STORED, at_us

    def _timed(self, sent: Sent) -> tuple[int, int]:
        own = sent.offset_us
        if sent.sequence is not None:
            row = self.rows.get((own, sent.sequence))
            if row is not None:
                return (DUPLICATE if row[0] == sent.value else REFUSED), 0
            self.rows[own, sent.sequence] = sent.value, own
            return STORED, own
        places = [(at, self.rows.get((at, None))) for at in range(own, own + WITHIN_US + 1)]
        for at_us, row in places:
            if row is not None and row[0] == sent.value and (row[1] == own or (row[1] is None and at_us == own)):
                return DUPLICATE, 0
        for at_us, row in places:
            if row is None:
                self.rows[at_us, None] = sent.value, own
                return STORED, at_us
        return REFUSED, 0


sent = st.builds(
    Sent,
    value=st.sampled_from((1.0, 2.0, 3.0)),
    offset_us=st.sampled_from((0, 0, 0, 1, 2, 3, 1_000)),
    timed=st.booleans(),
    sequence=st.sampled_from((None, None, 1, 2)),
    key=st.sampled_from((None, None, "a", "b")),
    redelivered=st.sampled_from((True, True, False)),
)


@pytest.fixture(scope="module")
def connection(database: str) -> Iterator[Connection]:
    with connect(database) as connection:
        yield connection


def send(plant: Plant, batch: list[Sent]) -> list[tuple[int, int]]:
    """The outcome of each, and where it is stored."""
    answer = plant.one(
        SEND,
        sensors=[plant.sensor] * len(batch),
        values=[row.value for row in batch],
        ts_us=[us(0) + row.offset_us for row in batch],
        sequences=[row.sequence for row in batch],
        device_time=[row.timed for row in batch],
        keys=[row.key and f"{plant.sensor}/{row.key}" for row in batch],
        redelivered=[row.redelivered for row in batch],
    )
    places = answer["stored_ts_us"] or [us(0) + row.offset_us for row in batch]
    return [
        (outcome, place - us(0) if outcome == STORED else 0)
        for outcome, place in zip(answer["outcomes"], places, strict=True)
    ]


@settings(deadline=None, max_examples=400, suppress_health_check=list(HealthCheck))
@given(batches=st.lists(st.lists(sent, min_size=1, max_size=12), min_size=1, max_size=3))
def test_identity_is_what_the_table_says(connection: Connection, batches: list[list[Sent]]) -> None:
    plant, model = Plant(connection), Model()
    for batch in batches:
        assert send(plant, batch) == [model.take(row) for row in batch]
    rows = plant.all("SELECT * FROM sensor_readings WHERE sensor_id = %(id)s", id=plant.sensor)
    assert model.rows == {
        (us_of(row["timestamp"]), row["sequence"]): (
            row["value"],
            None if row["device_timestamp"] is None else us_of(row["device_timestamp"]),
        )
        for row in rows
    }
    assert {row["clock"] for row in rows} <= {"device", "server"}
    assert all((row["clock"] == "device") == (row["device_timestamp"] is not None) for row in rows)


def us_of(moment: datetime) -> int:
    """Microseconds after START."""
    return (moment - START) // timedelta(microseconds=1)
