"""Which entries a batch takes: readings first, and of what is refused a bounded number of bytes."""

from collections.abc import Sequence

import pytest

from bridge.model.reading import Code, DecodedReading, Delivery, Packet, Receipt, Rejection, Sensor, Source
from bridge.pipeline.batch import MAX_QUARANTINED_BYTES, Entry, make_entry
from bridge.pipeline.ready import REFUSED_BYTES, ReadyEntries
from bridge.pipeline.validate import Validator
from bridge.settings.process import PipelineSettings

NOW_US = 1_790_000_000_000_000
SENSOR = Sensor(1, "11111111-1111-4111-8111-111111111111", 7, "d", "temperature", True, False)


def entry(readings: int = 0, refused: int = 0, payload: bytes = b"x") -> Entry:
    decoded = tuple(DecodedReading(index, 1, 20.0, NOW_US, index) for index in range(readings))
    rejections = tuple(Rejection(readings + index, Code.BAD_FORM, "", whole=True) for index in range(refused))

    def settle(_: Sequence[Receipt]) -> None: ...

    delivery = Delivery(Packet(decoded, rejections), Source.MQTT, payload, NOW_US, settle)
    return make_entry(delivery, lambda _: SENSOR, Validator(PipelineSettings()))


def ready(*entries: Entry) -> ReadyEntries:
    found = ReadyEntries()
    for each in entries:
        found.append(each)
    return found


def test_readings_pass_what_is_refused() -> None:
    flood = [entry(refused=1, payload=b"x" * 65_536) for _ in range(100)]
    good = [entry(readings=2, refused=1), entry(readings=1)]
    found = ready(*flood, *good)
    taken = found.take(1_000)
    assert taken == good + flood[: REFUSED_BYTES // 65_536]
    assert [each for _ in range(30) for each in found.take(1_000)] == flood[REFUSED_BYTES // 65_536 :]
    assert not found


def test_what_is_refused_goes_on_beside_any_number_of_readings() -> None:
    found = ready(*(entry(readings=1) for _ in range(10)), entry(refused=1), entry(refused=1))
    assert [len(found.take(2)) for _ in range(5)] == [3, 3, 2, 2, 2]


def test_refused_rows_count_as_rows() -> None:
    found = ready(*(entry(refused=10) for _ in range(10)))
    assert [sum(len(each.todo) for each in found.take(25)) for _ in range(4)] == [30, 30, 30, 10]


def test_entry_larger_than_a_batch_is_taken() -> None:
    found = ready(entry(readings=50), entry(refused=1, payload=b"x" * 10 * MAX_QUARANTINED_BYTES))
    assert [len(found.take(5)) for _ in range(2)] == [2, 0]


@pytest.mark.parametrize("refused", [0, 1])
def test_what_is_put_back_is_the_first_again(refused: int) -> None:
    first, second = (entry(readings=1 - refused, refused=refused) for _ in range(2))
    found = ready(second)
    found.put_back(first)
    assert found.take(1)[0] is first


def test_remove_where_looks_at_both_kinds() -> None:
    entries = [entry(readings=1), entry(refused=1), entry(readings=2), entry(refused=2)]
    found = ready(*entries)
    assert found.remove_where(lambda each: len(each.todo) == 2) == entries[2:]
    assert list(found) == entries[:2]
