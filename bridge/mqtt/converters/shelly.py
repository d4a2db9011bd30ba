"""Shelly devices, first generation (bare values on topics) and second and later ones (JSON-RPC and statuses).

https://shelly-api-docs.shelly.cloud/gen1/#mqtt-support and
https://shelly-api-docs.shelly.cloud/gen2/ComponentsAndServices/Mqtt
"""

from __future__ import annotations

import re
from functools import lru_cache

from bridge.errors import DecodeError
from bridge.model.reading import Code, Packet
from bridge.mqtt.converters.home import add_text
from bridge.mqtt.converters.message import NOTHING, IncomingMessage, PacketBuilder, table, unknown_message, walk

_GEN1_NUMBER = re.compile(
    r"(ext_)?(temperature|humidity)|battery|lux|power|energy|voltage|current|pf|total|reactive_power"
    r"|(total_)?returned(_energy)?|concentration"
)
_GEN1_NOT_READING = re.compile(
    r"online|announce|info|command|set|settings|input_event|longpush|(ext_)?temperature_f|temperature_status"
    r"|ext_(temperatures|humidities)|act_reasons|longpush_time"
)
_GEN1_STATE = re.compile(
    r"overpower|open|close|stop|charging|charged|normal|mild|heavy|none|unknown|n/a", re.IGNORECASE
)
"""Words that the documentation has for relays, rollers, doors, valves, gas and chargers, beside on and off."""

_GEN1_STATUS_LEAVE_OUT = (
    *("ison", "overpower", "mode", "source", "has_timer", "timer_*", "transition", "timestamp", "*.units"),
    *("*.is_valid", "*.enabled", "schedule", "schedule_profile", "boost_minutes"),
)
"""Of a `status`: what its neighbours say as well, timers, settings, and when something was."""
_GEN1_MEASURED = ("value", "tC")
_INVALID = "is_valid is false beside it"

_GEN2_NUMBER = re.compile(r"tC|rh|apower|voltage|current|pf|freq|total|(\w+_)?(act|aprt)_power|percent|V|lux|xcounts")
_GEN2_LEAVE_OUT = (
    *("*.id", "*.tF", "*_ts", "*.packet_id", "*.by_minute.*", "*.timer_*", "*.transition.*", "sys.*", "wifi.*"),
    *("eth.*", "cloud.*", "mqtt.*", "ws.*", "ble.*", "bthome.*", "ht_ui.*", "plugs_ui.*", "ui.*", "knx.*", "matter.*"),
    *("ts", "*.source", "*.errors.*", "*_errors.*", "*.flags.*", "*.move_started_at"),
)
_GEN2_STATES = (
    *("state", "mode", "last_direction", "direction", "thermostat_mode", "work_state", "illumination", "calibration"),
)
"""Of covers, lights, thermostats and meters; `state` of an input is a boolean."""
_GEN2_NOT_STATUS = ("online", "rpc", "command", "log", "announce")
_GEN2_FRAME = ("src", "dst", "method", "id")


def shelly1(message: IncomingMessage) -> Packet:
    """`shellies/<id>/<what>[/<number>[/<of it>]]`: a number, on or off, as text.

    A `status` is JSON: lights have their brightness in it alone, Shelly Motion and TRV all that they measure.
    """
    captured = message.captured
    if message.levels[-1] in ("announce", "command"):
        return NOTHING  # of all devices, which the filter has as well: shellies/announce
    if len(captured) < 2:
        raise DecodeError(Code.BAD_TOPIC, "the filter's wildcards stand for the device and what it says: shellies/+/#")
    device, *what = captured
    if any(_GEN1_NOT_READING.fullmatch(level) for level in what) or not message.payload:
        return NOTHING
    if what[-1] == "status" and message.payload.startswith(b"{"):
        return _gen1_status(message, device, "/".join(what))
    if message.payload[:1] in b"{[":
        return unknown_message(message)
    readings = PacketBuilder(message, device)
    leaves = [level for level in what if not level.isdecimal()]
    number = bool(leaves) and _GEN1_NUMBER.fullmatch(leaves[-1]) is not None
    state = _GEN1_STATE.fullmatch(message.text()) is not None
    add_text(readings, "/".join(what), message, number=number, words=not number, state=state)
    return readings.packet()


def _gen1_status(message: IncomingMessage, device: str, name: str) -> Packet:
    document = message.document()
    leave_out = tuple(f"{name}.{pattern}" for pattern in _GEN1_STATUS_LEAVE_OUT)
    readings = PacketBuilder(message, device, leave_out=leave_out)
    for part, found in document.items():
        is_invalid = isinstance(found, dict) and found.get("is_valid") is False
        for channel, leaf, value in walk(found, name, part):
            if is_invalid and leaf in _GEN1_MEASURED:
                readings.add_unknown(channel, value, _INVALID)
            else:
                readings.add(channel, value, f"$.{channel.removeprefix(name + '.')}", state=True)
    return readings.packet()


def shelly2(message: IncomingMessage) -> Packet:
    """`<prefix>/events/rpc` notifications, and `<prefix>/status/<component>`."""
    levels = message.levels
    beside: dict[str, object] = {}
    frame = 0  # fields around the status
    if len(levels) >= 3 and levels[-2:] == ["events", "rpc"]:
        device = "/".join(levels[:-2])
        beside = message.document()
        method = beside.get("method")
        if method not in ("NotifyStatus", "NotifyFullStatus"):
            return NOTHING if method == "NotifyEvent" else unknown_message(message)
        document = table(beside.pop("params", None), "$.params")
        frame = len([beside.pop(key) for key in _GEN2_FRAME if not isinstance(beside.get(key, {}), dict | list)])
        ts_us = message.time(document.get("ts"), "$.params.ts", from_boot=True)
        where = "$.params."
    elif len(levels) >= 3 and levels[-2] == "status":
        device = "/".join(levels[:-2])
        document = {levels[-1]: message.document()}
        ts_us, where = None, ""
    else:
        return NOTHING if levels[-1] in _GEN2_NOT_STATUS else unknown_message(message)
    readings = PacketBuilder(message, device, ts_us=ts_us, leave_out=_GEN2_LEAVE_OUT)
    readings.add_known(frame)
    for channel, leaf, value in walk(document):
        readings.add(channel, value, where + channel, number=_is_gen2_number(leaf), state=leaf in _GEN2_STATES)
    for channel, _, value in walk(beside) if beside else ():
        readings.add_unknown(channel, value)
    return readings.packet()


@lru_cache(maxsize=1_024)
def _is_gen2_number(name: str) -> bool:
    return _GEN2_NUMBER.fullmatch(name) is not None
