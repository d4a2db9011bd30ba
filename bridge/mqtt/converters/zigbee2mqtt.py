"""Zigbee2MQTT: states of devices. https://www.zigbee2mqtt.io/guide/usage/mqtt_topics_and_messages.html

What a field is, its type says (https://www.zigbee2mqtt.io/guide/usage/exposes.html): numeric exposes are numbers,
enums and texts are text, binaries are booleans or two texts. So text is a state or a setting, but where the name is
that of a measurement: there it is a number written as text, or wrong. Settings that are no text are known by name.
"""

from __future__ import annotations

import re
from functools import lru_cache

from bridge.errors import DecodeError
from bridge.model.reading import Code, Packet
from bridge.mqtt.converters.home import add_text
from bridge.mqtt.converters.message import NOTHING, IncomingMessage, PacketBuilder, is_number, walk
from bridge.mqtt.converters.zigbee2mqtt_options import COMPOSITES, OPTIONS

_MEASUREMENT = re.compile(
    r"("
    r"((local|device|cpu|floor|outdoor|probe|water|soil|air|room|external)_)?temperature(_(internal|floor|probe))?"
    r"|((soil|probe)_)?(humidity|moisture)|pressure|battery|(battery_)?voltage|current|power|energy|consumption"
    r"|power_(factor|apparent|reactive)|(produced|consumed|reactive)_energy|energy_(produced|consumed|reactive)"
    r"|(ac_)?frequency|illuminance(_(lux|raw))?|co2|eco2|co|voc|pm1|pm25|pm10|hcho|formaldehyd|aqi|ph|ec|tds|orp"
    r"|dew_point|noise|flow|flow_rate|water_consumed|target_distance"
    r")(_(l?\d+|[a-d]|phase_[abc]|left|right|center|top|bottom|rgb|white|cct|cwww|main|meter))?"  # an endpoint
)
_STATE = re.compile(r"state(_\w+)?")  # of a switch: `state`, `state_<endpoint>`
_SUFFIX = re.compile(r"_(l?\d+|left|right|center)$")
_LEAVE_OUT = (
    *("last_seen", "elapsed", "linkquality", "update.*", "update_available", "device.*", "color.*"),
    *("update-*", "device-*", "color-*", "color"),  # with `output: attribute`
)
_NOT_STATES = ("set", "get", "availability")


def zigbee2mqtt(message: IncomingMessage) -> Packet:
    """`zigbee2mqtt/<friendly name>`: a JSON object, or with `output: attribute` one level more and a bare value."""
    captured = message.captured or (message.topic,)
    if captured[0] == "bridge" or any(level in _NOT_STATES for level in captured[1:]) or not message.payload:
        return NOTHING  # an attribute that is null is empty, and so is what clears a retained message
    if not message.payload.lstrip().startswith(b"{"):
        if len(captured) < 2:
            raise DecodeError(Code.BAD_JSON, "the payload is neither a JSON object nor of a topic of one attribute")
        return _attribute(message, "/".join(captured[:-1]), captured[-1])
    document = message.document()
    seen_us = message.time(document.get("last_seen"), "$.last_seen", unit="ms")  # advanced.last_seen: epoch
    readings = PacketBuilder(message, "/".join(captured), ts_us=seen_us, leave_out=_LEAVE_OUT)
    for channel, leaf, value in walk(document):
        measured, words, option = _kind(leaf)
        if "." in channel and channel.partition(".")[0] in COMPOSITES:
            option = True
        state = isinstance(value, str) and not is_number(value)
        readings.add(channel, value, f"$.{channel}", number=measured, words=words, state=state, option=option)
    return readings.packet()


def _attribute(message: IncomingMessage, device: str, attribute: str) -> Packet:
    readings = PacketBuilder(message, device, leave_out=_LEAVE_OUT)
    composite, _, leaf = attribute.rpartition("-")  # `level_config-on_level`
    measured, words, option = _kind(leaf)
    option = option or composite.partition("-")[0] in COMPOSITES
    add_text(readings, attribute, message, number=measured, words=words, booleans=True, state=True, option=option)
    return readings.packet()


@lru_cache(maxsize=1_024)
def _kind(name: str) -> tuple[bool, bool, bool]:
    """Whether it is the name of a numeric expose that is measured, of a switch's state, of a numeric one that is set.

    Of one endpoint, or of the device.
    """
    suffix = _SUFFIX.search(name)
    option = name in OPTIONS or (suffix is not None and name[: suffix.start()] in OPTIONS)
    return _MEASUREMENT.fullmatch(name) is not None, _STATE.fullmatch(name) is not None, option
