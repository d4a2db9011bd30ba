"""ESPHome and Homie 5: firmware of buildings, one value a topic."""

from __future__ import annotations

import re

from bridge.model.reading import Packet
from bridge.mqtt.converters.message import NOTHING, IncomingMessage, PacketBuilder, unknown_message

# ESPHome: https://esphome.io/components/mqtt

_ESPHOME_NUMBERS = ("sensor", "number")
_ESPHOME_WORDS = ("binary_sensor", "switch")
_ESPHOME_STATES = (
    *("text_sensor", "text", "light", "fan", "cover", "valve", "lock", "climate", "select", "button", "event"),
    *("alarm_control_panel", "update", "date", "datetime", "time"),
)
"""Components whose `state` is text or JSON: of esphome/components/mqtt in https://github.com/esphome/esphome."""
_ESPHOME_NOT_STATES = ("command", "status", "debug")
_WITH_UNIT = re.compile(r"[+-]?\d+([.,]\d+)?\s*[^\d.,:\s-]{1,3}")


def esphome(message: IncomingMessage) -> Packet:
    """`<prefix>/<component>/<name>/state`: text. Sensors, numbers, binary sensors and switches are readings.

    A text sensor is a `sensor`, too (`MQTTTextSensor::component_type`): what is no number there is text, but where
    it begins like a value with its unit.
    """
    levels = message.levels
    if levels[-1] in _ESPHOME_NOT_STATES or not message.payload:
        return NOTHING
    component = levels[-3] if len(levels) > 3 and levels[-1] == "state" else ""
    if component in _ESPHOME_STATES:
        return NOTHING
    if component not in (*_ESPHOME_NUMBERS, *_ESPHOME_WORDS):
        return unknown_message(message)
    text = message.text()
    if text.lower() in ("", "nan", "none", "unknown"):  # the sensor has no value
        return NOTHING
    readings = PacketBuilder(message, "/".join(levels[:-3]))
    number = component == "number" or (component == "sensor" and _WITH_UNIT.fullmatch(text) is not None)
    add_text(readings, f"{component}/{levels[-2]}", message, number=number, words=component in _ESPHOME_WORDS)
    return readings.packet()


# Homie 5: https://homieiot.github.io/specification/

_HOMIE_NOT_VALUES = ("set",)


def homie(message: IncomingMessage) -> Packet:
    """`homie/5/<device>/<node>/<property>`: text. Integers, floats and booleans are readings."""
    levels = message.levels
    if len(levels) < 2 or levels[1] != "5":
        return unknown_message(message)  # another version: another form
    if any(level.startswith("$") for level in levels) or message.payload in (b"", b"\0"):
        return NOTHING  # an attribute; or no value, and "" as the specification writes it
    if len(levels) == 6 and levels[-1] in _HOMIE_NOT_VALUES:
        return NOTHING
    if len(levels) != 5:
        return unknown_message(message)
    _, _, device, node, prop = levels
    readings = PacketBuilder(message, device)
    add_text(readings, f"{node}/{prop}", message, booleans=True)
    return readings.packet()


def add_text(
    readings: PacketBuilder,
    channel: str,
    message: IncomingMessage,
    *,
    number: bool = False,
    words: bool = False,
    booleans: bool = False,
    state: bool = False,
    option: bool = False,
) -> None:
    """The one field of a payload that is bare text. What is wholly a number is one. See `PacketBuilder.add`.

    `booleans`: `true` and `false`, in lower case, are booleans.
    """
    text = message.text()
    value: object = text == "true" if booleans and text in ("true", "false") else text
    readings.add(channel, value, channel, number=number, words=words, free=True, state=state, option=option)
