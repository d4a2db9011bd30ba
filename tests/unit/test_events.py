"""Stream fields are exact."""

from __future__ import annotations

from decimal import Decimal

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bridge.broker.events import ALERT_FIELDS, READING_FIELDS, alert_rows, reading_rows, unix_seconds
from bridge.model.reading import Publication, ReadingClass
from bridge.store.postgres import alert_event
from tests.support.publications import alert, publication, reading


@given(st.integers(-(2**33) * 10**6, 2**33 * 10**6))
def test_unix_seconds_is_exact_to_the_microsecond(us: int) -> None:
    assert Decimal(unix_seconds(us)) * 1_000_000 == us


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_reading_rows_value_reads_back_the_same(value: float) -> None:
    row = publication(1)
    row = msgspec.structs.replace(row, readings=[msgspec.structs.replace(row.readings[0], value=value)])
    assert float(dict(zip(READING_FIELDS, reading_rows(row)[0], strict=True))["value"]) == value


def test_reading_rows_carry_what_is_optional() -> None:
    full = msgspec.structs.replace(reading(1, 0), sequence=0, gateway="site-1", key="m-1")
    row = Publication(1, 1, [full], [ReadingClass.ALERT], 0)
    fields = dict(zip(READING_FIELDS, reading_rows(row)[0], strict=True))
    assert (fields["sequence"], fields["gateway"], fields["event_id"], fields["class"]) == (
        "0",
        "site-1",
        "m-1",
        "alert",
    )


def test_alert_rows_say_what_is_past_and_why_it_is_over() -> None:
    told = msgspec.structs.replace(
        alert(1, 0), threshold_kind="alert", past=True, resolved_at_us=1_500_000, resolution="in_range"
    )
    [row] = alert_rows(Publication(1, 1, [], [], 0, [told]))
    assert dict(zip(ALERT_FIELDS, row, strict=True)) | {
        "threshold_kind": "alert",
        "past": "1",
        "resolved_at": "1.500000",
        "resolution": "in_range",
    } == dict(zip(ALERT_FIELDS, row, strict=True))


def test_alert_event_of_an_older_or_a_later_release_is_read() -> None:
    former = {
        "event_id": "a-9-alert",
        "alert_id": 9,
        "sensor_id": 1,
        "kind": "alert",
        "severity": "info",
        "value": 1.0,
        "threshold_id": None,
        "triggered_at_us": 5,
    }
    assert alert_event(former) == alert_event(former | {"of": "a later release"})
    assert (alert_event(former).past, alert_event(former).threshold_kind) == (False, None)


def test_alert_rows_carry_the_threshold() -> None:
    row = Publication(1, 1, [], [], 0, [msgspec.structs.replace(alert(1, 0), threshold_id=7)])
    assert dict(zip(ALERT_FIELDS, alert_rows(row)[0], strict=True))["threshold_id"] == "7"
