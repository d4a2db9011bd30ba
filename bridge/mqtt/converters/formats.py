"""The formats by the name they have in the configuration. A table, which is also the documentation."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bridge.model.reading import Packet
from bridge.mqtt.converters import home, own, radio, shelly
from bridge.mqtt.converters.message import IncomingMessage
from bridge.mqtt.converters.senml import senml
from bridge.mqtt.converters.sparkplug import make_sparkplug
from bridge.mqtt.converters.tasmota import tasmota
from bridge.mqtt.converters.zigbee2mqtt import zigbee2mqtt
from bridge.settings.mqtt import ConverterSettings

Decoder = Callable[[IncomingMessage], Packet]
"""Raises DecodeError. Nothing else, whatever the bytes: a property test holds it."""


class Format(msgspec.Struct, frozen=True):
    """How a converter of this format is made, and what is said of its messages."""

    make: Callable[[ConverterSettings], Decoder]
    foreign: bool = True  # its fields are numbered from 1, and index 0 is the message
    binary: bool = False  # its bytes are not text: what stands around text is part of them
    remembers: bool = False  # needs every message of a device, in order: no shared subscription


def _pure(decoder: Decoder, *, foreign: bool = True) -> Format:
    return Format(lambda _settings: decoder, foreign)


def _make_mapping(settings: ConverterSettings) -> Decoder:
    from bridge.mqtt.converters.mapping import make_mapping  # JMESPath is a cost that only mappings need to pay

    return make_mapping(settings)


FORMATS: dict[str, Format] = {
    "packet": _pure(own.packet, foreign=False),
    "value": _pure(own.value),
    "legacy": _pure(own.legacy, foreign=False),
    "tasmota": _pure(tasmota),
    "zigbee2mqtt": _pure(zigbee2mqtt),
    "shelly1": _pure(shelly.shelly1),
    "shelly2": _pure(shelly.shelly2),
    "esphome": _pure(home.esphome),
    "homie": _pure(home.homie),
    "chirpstack": _pure(radio.chirpstack),
    "ttn": _pure(radio.ttn),
    "senml": Format(lambda _settings: senml, binary=True),
    "rtl_433": _pure(radio.rtl_433),
    "sparkplug": Format(lambda _settings: make_sparkplug(), binary=True, remembers=True),
    "mapping": Format(_make_mapping),
    "ignore": _pure(own.ignore),
}
