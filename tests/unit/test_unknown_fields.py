"""What converters do not take is counted, and its first each day is a sample: bounded, whatever a sender makes up."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter

from bridge.model.reading import Code, Packet, UnknownField
from bridge.mqtt.unknown_fields import DAY_US, MAX_LABELS, MAX_OF_DEVICE, MAX_OF_MESSAGE, OTHER, UnknownFields


def packet(*names: str) -> Packet:
    fields = (UnknownField(index, name, "abc", "text") for index, name in enumerate(names, start=1))
    return Packet((), unknown=tuple(fields))


class Door:
    def __init__(self, samples_a_day: int = 1_000) -> None:
        self.registry = CollectorRegistry()
        counter = Counter("unknown", "Fields", ["format", "channel"], registry=self.registry)
        self.fields = UnknownFields(samples_a_day, counter)

    def sampled(self, *names: str, day: int = 1) -> list[int]:
        return [rejection.index for rejection in self.fields.sample(packet(*names), day * DAY_US).rejections]

    def counted(self, channel: str) -> float:
        return self.registry.get_sample_value("unknown_total", {"format": "ttn", "channel": channel}) or 0.0


def test_first_of_each_name_each_day_is_a_sample() -> None:
    door = Door()
    assert door.sampled("ttn/a/1#x", "ttn/a/1#y") == [1, 2]
    assert door.sampled("ttn/a/1#x", "ttn/a/2#x") == [2]
    assert door.sampled("ttn/a/1#x", day=2) == [1]


def test_sample_says_what_it_is() -> None:
    (rejection,) = Door().fields.sample(packet("ttn/a/1#x"), DAY_US).rejections
    assert (rejection.code, rejection.whole) == (Code.NOT_TAKEN, False)
    assert rejection.detail == "ttn/a/1#x: not taken: text: 'abc'"


def test_sample_of_a_whole_message_keeps_it_whole() -> None:
    unknown = Packet((), unknown=(UnknownField(0, "homie/homie/5/x", b"\xff", "kind"),))
    (rejection,) = Door().fields.sample(unknown, DAY_US).rejections
    assert (rejection.index, rejection.whole) == (0, True)


@pytest.mark.parametrize("most", [0, 1, 50])
def test_no_more_samples_a_day_than_the_setting_says(most: int) -> None:
    door = Door(most)
    assert sum(len(door.sampled(f"ttn/a/{number}#x")) for number in range(200)) == most
    assert sum(len(door.sampled(f"ttn/a/{number}#x", day=2)) for number in range(200)) == most


def test_device_that_makes_up_channels_has_no_more_samples_than_its_share() -> None:
    door = Door()
    assert sum(len(door.sampled(f"ttn/a/1#x{number}")) for number in range(500)) == MAX_OF_DEVICE
    assert door.sampled("ttn/a/2#x") == [1]


def test_message_gives_a_few_samples_and_later_ones_the_others() -> None:
    door = Door()
    names = [f"ttn/a/1#x{number}" for number in range(MAX_OF_MESSAGE + 3)]
    assert len(door.sampled(*names)) == MAX_OF_MESSAGE
    assert door.sampled(*names) == [MAX_OF_MESSAGE + 1, MAX_OF_MESSAGE + 2, MAX_OF_MESSAGE + 3]


def test_sample_that_was_not_settled_is_sampled_again() -> None:
    door = Door()
    taken = door.fields.sample(packet("ttn/a/1#x", "ttn/a/1#y"), DAY_US)
    door.fields.forget(taken)
    assert door.sampled("ttn/a/1#x", "ttn/a/1#y") == [1, 2]
    door.fields.forget(packet("ttn/a/1#x"))  # was no sample
    assert door.sampled("ttn/a/1#x") == []


def test_every_field_is_counted_and_the_labels_are_bounded() -> None:
    door = Door(0)
    for number in range(MAX_LABELS + 50):
        door.fields.count(packet(f"ttn/a/1#x{number}"), "ttn")
        door.fields.count(packet(f"ttn/a/2#x{number}"), "ttn")
    assert door.counted("x0") == 2
    assert door.counted(OTHER) == 100
    assert len([1 for family in door.registry.collect() for sample in family.samples if "_total" in sample.name]) == (
        MAX_LABELS + 1
    )


def test_channel_that_no_label_can_be_is_counted_with_the_others() -> None:
    door = Door(0)
    door.fields.count(packet("ttn/a/1#a\nb"), "ttn")
    assert door.counted(OTHER) == 1
