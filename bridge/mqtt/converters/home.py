"""Tasmota, Zigbee2MQTT, ESPHome and Homie 5: firmware and hubs of buildings."""

from __future__ import annotations

import re
from collections.abc import Callable

from bridge.errors import DecodeError
from bridge.model.reading import Code, Packet
from bridge.mqtt.converters.message import NOTHING, IncomingMessage, PacketBuilder, text_number, walk

# Tasmota: https://tasmota.github.io/docs/MQTT/ and .../JSON-Status-Responses/

_TASMOTA_NUMBER = re.compile(
    r"Temperature|Humidity|DewPoint|Pressure|SeaPressure|Illuminance|CarbonDioxide|eCO2|TVOC|Distance|Vcc"
    r"|Total|Today|Yesterday|Power|ApparentPower|ReactivePower|Factor|Frequency|Voltage|Current"
)
_TASMOTA_STATE = re.compile(r"(POWER|Switch)\d*")
_TASMOTA_LEAVE_OUT = (
    *("Time", "TempUnit", "PressureUnit", "SpeedUnit", "Uptime*", "Heap", "Sleep", "LoadAvg", "MqttCount", "Wifi.*"),
    *("Berry.*", "Hostname", "IPAddress", "*.Id", "ENERGY.Period", "ENERGY.Period.*"),
)
_FROM_UNIT: dict[str, Callable[[float], float]] = {
    "F": lambda f: round((f - 32.0) / 1.8, 6),
    "mmHg": lambda p: round(p * 1.33322387415, 6),
    "inHg": lambda p: round(p * 33.86388640341, 6),
}
"""To °C and hPa: SetOption8, SetOption24 and SetOption139 change what a device sends from one day to the next."""


def tasmota(message: IncomingMessage) -> Packet:
    """`tele/<topic>/SENSOR` and `/STATE`, or the answer to a question for them, `stat/<topic>/STATUS10`."""
    kind = message.levels[-1]
    if kind not in ("SENSOR", "STATE", "STATUS8", "STATUS10", "STATUS11"):
        return NOTHING
    document = message.document()
    for inner in ("StatusSNS", "StatusSTS"):
        if inner in document:
            document = document[inner] if isinstance(document[inner], dict) else {}
    captured = message.captured[:-1] if message.captured and message.captured[-1] == kind else message.captured
    ts_us = message.time(document.get("Time"), "$.Time")
    readings = PacketBuilder(message, "/".join(captured) or message.topic, ts_us=ts_us, leave_out=_TASMOTA_LEAVE_OUT)
    of_temperature = _FROM_UNIT.get(str(document.get("TempUnit")))
    of_pressure = _FROM_UNIT.get(str(document.get("PressureUnit")))
    for channel, leaf, value in walk(document):
        convert = None
        if leaf in ("Temperature", "DewPoint"):
            convert = of_temperature
        elif leaf in ("Pressure", "SeaPressure"):
            convert = of_pressure
        words = _TASMOTA_STATE.fullmatch(leaf) is not None
        readings.add(
            channel,
            value,
            f"$.{channel}",
            number=_TASMOTA_NUMBER.fullmatch(leaf) is not None,
            words=words,
            convert=convert,
        )
    return readings.packet()


# Zigbee2MQTT: https://www.zigbee2mqtt.io/guide/usage/mqtt_topics_and_messages.html

_ZIGBEE_NUMBER = re.compile(
    r"((local_|device_)?temperature|(soil_)?(humidity|moisture)|pressure|battery|voltage|power|current|energy"
    r"|illuminance(_lux)?|co2|voc|pm25)(_\w+)?"
)
_ZIGBEE_LEAVE_OUT = ("last_seen", "elapsed", "linkquality", "update.*", "update_available", "device.*", "color.*")
_ZIGBEE_NOT_STATES = ("set", "get", "availability")


def zigbee2mqtt(message: IncomingMessage) -> Packet:
    """`zigbee2mqtt/<friendly name>`: a JSON object, or with `output: attribute` one level more and a bare value."""
    captured = message.captured or (message.topic,)
    if captured[0] == "bridge" or any(level in _ZIGBEE_NOT_STATES for level in captured[1:]) or not message.payload:
        return NOTHING
    if not message.payload.lstrip().startswith(b"{"):
        if len(captured) < 2:
            raise DecodeError(Code.BAD_JSON, "the payload is neither a JSON object nor of a topic of one attribute")
        readings = PacketBuilder(message, "/".join(captured[:-1]), leave_out=_ZIGBEE_LEAVE_OUT)
        add_text(readings, captured[-1], message, number=_ZIGBEE_NUMBER.fullmatch(captured[-1]) is not None)
        return readings.packet()
    document = message.document()
    seen_us = message.time(document.get("last_seen"), "$.last_seen", unit="ms")  # advanced.last_seen: epoch
    readings = PacketBuilder(message, "/".join(captured), ts_us=seen_us, leave_out=_ZIGBEE_LEAVE_OUT)
    for channel, leaf, value in walk(document):
        readings.add(
            channel,
            value,
            f"$.{channel}",
            number=_ZIGBEE_NUMBER.fullmatch(leaf) is not None,
            words=leaf.startswith("state"),
        )
    return readings.packet()


# ESPHome: https://esphome.io/components/mqtt

_ESPHOME_NUMBERS = ("sensor", "number")
_ESPHOME_WORDS = ("binary_sensor", "switch")


def esphome(message: IncomingMessage) -> Packet:
    """`<prefix>/<component>/<name>/state`: text. Sensors, numbers, binary sensors and switches are readings."""
    levels = message.levels
    if len(levels) < 4 or levels[-1] != "state" or levels[-3] not in (*_ESPHOME_NUMBERS, *_ESPHOME_WORDS):
        return NOTHING
    if message.text().lower() in ("", "nan", "none", "unknown"):  # the sensor has no value
        return NOTHING
    readings = PacketBuilder(message, "/".join(levels[:-3]))
    numeric = levels[-3] in _ESPHOME_NUMBERS
    add_text(readings, f"{levels[-3]}/{levels[-2]}", message, number=numeric, words=not numeric)
    return readings.packet()


# Homie 5: https://homieiot.github.io/specification/

_HOMIE_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE]-?\d+)?", re.ASCII)


def homie(message: IncomingMessage) -> Packet:
    """`homie/5/<device>/<node>/<property>`: text. Integers, floats and booleans are readings."""
    levels = message.levels
    if len(levels) != 5 or levels[1] != "5" or any(level.startswith("$") for level in levels) or not message.payload:
        return NOTHING
    _, _, device, node, prop = levels
    text = message.text()
    readings = PacketBuilder(message, device)
    value: object = text
    if text in ("true", "false"):  # case sensitive
        value = text == "true"
    elif _HOMIE_NUMBER.fullmatch(text):
        value = text_number(text, f"{node}/{prop}")
    readings.add(f"{node}/{prop}", value, f"{node}/{prop}")
    return readings.packet()


def add_text(
    readings: PacketBuilder, channel: str, message: IncomingMessage, *, number: bool = False, words: bool = False
) -> None:
    """The one field of a payload that is bare text. What looks like a number is one; other text is for `take`."""
    text = message.text()
    value: object = text
    if not number and _PLAIN.fullmatch(text):
        value = text_number(text, channel)
    readings.add(channel, value, channel, number=number, words=words)


_PLAIN = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)
