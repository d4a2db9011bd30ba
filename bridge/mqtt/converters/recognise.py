"""Which format a message seems to be of, by its topic and its bytes. Guesses, for a human to confirm. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

from bridge.errors import DecodeError
from bridge.mqtt.converters.message import text_number
from bridge.mqtt.topics import is_ours
from bridge.pipeline.bare_nan import without_nan
from bridge.pipeline.decode import decode_any

Guess = tuple[str, str]
"""Format and topic filter."""

MAX_BASES = 100
"""Base topics of Zigbee2MQTT that are remembered: a site has a few."""
_BRIDGE_TOPICS = ("state", "info", "devices", "groups", "logging")
_TELE_KINDS = re.compile(r"SENSOR|STATE|LWT|RESULT|INFO\d|STATUS\d*")
_STAT_KINDS = re.compile(r"STATUS(0|8|10|11)")
"""Answers that hold what sensors say."""
_ESPHOME = ("sensor", "binary_sensor", "number", "switch")
_COMPONENT = re.compile(r"[a-z0-9_]+:\d+")


def recognise(topic: str, payload: bytes, zigbee_bases: set[str] | None = None) -> Guess | None:
    """The format and filter that a converter for this message would have; None for what nobody recognises.

    `zigbee_bases` remembers base topics of Zigbee2MQTT, which only some topics give away.
    """
    if is_ours(topic):
        return "native", ""
    levels = topic.split("/")
    bases = {"zigbee2mqtt"} if zigbee_bases is None else zigbee_bases
    if len(levels) > 2 and levels[1] == "bridge" and levels[2] in _BRIDGE_TOPICS and len(bases) < MAX_BASES:
        bases.add(levels[0])
    if levels[0] in bases and len(levels) > 1:
        return "zigbee2mqtt", f"{levels[0]}/#"
    for guess in (_by_topic, _tasmota, _shelly2, _esphome):
        found = guess(levels)
        if found is not None:
            return found
    return _by_payload(levels, payload)


def _by_topic(levels: list[str]) -> Guess | None:
    match levels:
        case ["shellies", _, *_]:
            return "shelly1", "shellies/+/#"
        case ["homie", "5", _, *_]:
            return "homie", "homie/5/#"
        case ["application", _, "device", _, "event", _]:
            return "chirpstack", "application/+/device/+/event/+"
        case ["v3", _, "devices", _, *_]:
            return "ttn", "v3/+/devices/+/#"
        case ["spBv1.0", _, *_]:
            return "sparkplug", "spBv1.0/#"
        case ["rtl_433", _, ("events" | "devices" | "states") as kind, *rest]:
            return "rtl_433", f"rtl_433/+/{kind}" + ("/#" if rest else "")
    return None


def _tasmota(levels: list[str]) -> Guess | None:
    for prefix, kinds in (("tele", _TELE_KINDS), ("stat", _STAT_KINDS)):
        if prefix in levels[:-1] and len(levels) > 2 and kinds.fullmatch(levels[-1]):
            return "tasmota", "/".join(prefix if level == prefix else "+" for level in levels)
    return None


def _shelly2(levels: list[str]) -> Guess | None:
    before = ["+"] * (len(levels) - 2)
    if len(levels) > 2 and levels[-2:] == ["events", "rpc"]:
        return "shelly2", "/".join([*before, "events", "rpc"])
    if len(levels) > 2 and levels[-2] == "status" and _COMPONENT.fullmatch(levels[-1]):
        return "shelly2", "/".join([*before, "status", "+"])
    return None


def _esphome(levels: list[str]) -> Guess | None:
    if len(levels) > 3 and levels[-1] == "state" and levels[-3] in _ESPHOME:
        return "esphome", "/".join([*["+"] * (len(levels) - 1), "state"])
    return None


def _by_payload(levels: list[str], payload: bytes) -> Guess | None:
    for is_it, name in ((_is_senml, "senml"), (_is_value, "value")):
        if is_it(payload):
            return name, _filter_of(levels, 1 if name == "senml" else 2)
    return None


def _filter_of(levels: list[str], wildcards: int) -> str:
    """The last levels are what differs: devices, and channels."""
    kept = levels[: max(1, len(levels) - wildcards)]
    return "/".join([*kept, *["+"] * (len(levels) - len(kept))])


def _is_senml(payload: bytes) -> bool:
    if payload[:1] == b"[":
        return _tried(lambda: _has_records(decode_any(without_nan(payload))))
    if payload and 0x80 < payload[0] < 0x9C:
        return _tried(lambda: _has_records(_cbor(payload)))
    return False


def _cbor(payload: bytes) -> object:
    import cbor2

    try:
        return cbor2.loads(payload[:65_536], max_depth=8)
    except (cbor2.CBORError, ArithmeticError, ValueError, TypeError, LookupError):
        return None


def _has_records(document: object) -> bool:
    if not isinstance(document, list) or not document or not isinstance(document[0], dict):
        return False
    first = document[0]
    return bool(first.keys() & {"n", "bn", 0, -2}) and bool(first.keys() & {"v", "vb", "vs", "bv", 2, 3, 4, -5})


def _is_value(payload: bytes) -> bool:
    if payload[:1] == b"{":
        return _tried(lambda: _value_of(decode_any(payload)))
    return _tried(lambda: text_number(payload[:64].decode(), "payload") is not None)


def _value_of(document: object) -> bool:
    return isinstance(document, dict) and isinstance(document.get("value"), int | float | str)


def _tried(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except (DecodeError, UnicodeDecodeError):
        return False
