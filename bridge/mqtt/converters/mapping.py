"""A mapping for anything else: JMESPath expressions of the configuration say what is what.

They are evaluated on `{"topic": [levels], "levels": [what the wildcards stand for], "payload": document or text,
"item": item}`; `item` is one of the list that `each` gives, or null.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jmespath
import jmespath.exceptions

from bridge.errors import DecodeError
from bridge.model.reading import Code, Packet
from bridge.mqtt.converters.message import MAX_FIELDS, MAX_ID, IncomingMessage, PacketBuilder
from bridge.settings.mqtt import ConverterSettings


def make_mapping(settings: ConverterSettings) -> Callable[[IncomingMessage], Packet]:
    """The decoder of one mapping."""
    names = ("each", "device", "sensor", "value", "time")
    expressions = {name: jmespath.compile(text) for name in names if (text := getattr(settings, name))}

    def evaluate(name: str, scope: dict[str, Any]) -> Any:
        try:
            return expressions[name].search(scope)
        except (jmespath.exceptions.JMESPathError, ArithmeticError, ValueError, TypeError, LookupError) as error:
            reason = (str(error).splitlines() or [""])[0][:200]
            raise DecodeError(Code.BAD_FORM, f"{name} ({getattr(settings, name)}): {reason}", where=name) from None
        except RecursionError:
            raise DecodeError(Code.BAD_FORM, f"{name}: the payload is nested too deeply", where=name) from None

    def mapping(message: IncomingMessage) -> Packet:
        scope = {"topic": message.levels, "levels": list(message.captured), "payload": _payload(message), "item": None}
        items: list[Any] = [None]
        if "each" in expressions:
            found = evaluate("each", scope)
            if not isinstance(found, list):
                raise DecodeError(Code.BAD_FORM, f"each ({settings.each}) gives no list", where="each")
            items = found
        if len(items) > MAX_FIELDS:
            raise DecodeError(Code.TOO_LARGE, f"more than {MAX_FIELDS} items in one message", where="each")
        readings = PacketBuilder(message)
        for item in items:
            scope["item"] = item
            try:
                _add(readings, message, scope, evaluate, timed="time" in expressions)
            except DecodeError as error:
                readings.refuse(Code(error.reason), error.detail)
        return readings.packet()

    return mapping


def _add(
    readings: PacketBuilder,
    message: IncomingMessage,
    scope: dict[str, Any],
    evaluate: Callable[[str, dict[str, Any]], Any],
    *,
    timed: bool,
) -> None:
    """One reading. Raises DecodeError."""
    device, channel = (_name(evaluate(name, scope), name) for name in ("device", "sensor"))
    value = evaluate("value", scope)
    at = None
    if timed:
        name = f"{device}#{channel}"[:MAX_ID]  # each has a clock of its own: devices behind one hub, a history each
        at = message.time(evaluate("time", scope), f"time ({message.settings.time})", channel=name)
    readings.of(device)
    readings.add(channel, value, f"value ({message.settings.value})", words=True, free=True, ts_us=at)


def _name(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DecodeError(Code.BAD_FORM, f"{name} gives no name", where=name)
    return str(value)


def _payload(message: IncomingMessage) -> Any:
    """A JSON document, or text where it begins like none."""
    if message.payload.lstrip()[:1] in (b"{", b"["):
        return message.decoded()[1]
    return message.text()
