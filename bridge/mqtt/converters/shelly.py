"""Shelly devices, first generation (bare values on topics) and second and later ones (JSON-RPC and statuses).

https://shelly-api-docs.shelly.cloud/gen1/#mqtt-support and
https://shelly-api-docs.shelly.cloud/gen2/ComponentsAndServices/Mqtt
"""

from __future__ import annotations

import re

from bridge.errors import DecodeError
from bridge.model.reading import Code, Packet
from bridge.mqtt.converters.home import add_text
from bridge.mqtt.converters.message import NOTHING, IncomingMessage, PacketBuilder, table, walk

_GEN1_NUMBER = re.compile(
    r"(ext_)?(temperature|humidity)|battery|lux|power|energy|voltage|current|pf|total|reactive_power"
    r"|(total_)?returned(_energy)?|concentration"
)
_GEN1_NOT_READING = re.compile(
    r"online|announce|info|command|set|settings|status|input_event|longpush|(ext_)?temperature_f|temperature_status"
    r"|ext_(temperatures|humidities)"
)

_GEN2_NUMBER = re.compile(r"tC|rh|apower|voltage|current|pf|freq|total|(\w+_)?(act|aprt)_power|percent|V|lux|xcounts")
_GEN2_LEAVE_OUT = (
    *("*.id", "*.tF", "*.minute_ts", "*.by_minute.*", "*.timer_*", "*.transition.*", "sys.*", "wifi.*", "eth.*"),
    *("cloud.*", "mqtt.*", "ws.*", "ble.*", "bthome.*", "ht_ui.*", "plugs_ui.*", "ui.*", "knx.*", "matter.*", "ts"),
)


def shelly1(message: IncomingMessage) -> Packet:
    """`shellies/<id>/<what>[/<number>[/<of it>]]`: a number, on or off, as text."""
    captured = message.captured
    if len(captured) < 2:
        raise DecodeError(Code.BAD_TOPIC, "the filter's wildcards stand for the device and what it says: shellies/+/#")
    device, *what = captured
    if any(_GEN1_NOT_READING.fullmatch(level) for level in what) or not message.payload or message.payload[:1] in b"{[":
        return NOTHING
    readings = PacketBuilder(message, device)
    leaves = [level for level in what if not level.isdecimal()]
    number = bool(leaves) and _GEN1_NUMBER.fullmatch(leaves[-1]) is not None
    add_text(readings, "/".join(what), message, number=number, words=not number)
    return readings.packet()


def shelly2(message: IncomingMessage) -> Packet:
    """`<prefix>/events/rpc` notifications, and `<prefix>/status/<component>`."""
    levels = message.levels
    if len(levels) >= 3 and levels[-2:] == ["events", "rpc"]:
        device = "/".join(levels[:-2])
        frame = message.document()
        if frame.get("method") not in ("NotifyStatus", "NotifyFullStatus"):
            return NOTHING
        document = table(frame.get("params"), "$.params")
        ts_us = message.time(document.get("ts"), "$.params.ts")
        where = "$.params."
    elif len(levels) >= 3 and levels[-2] == "status":
        device = "/".join(levels[:-2])
        document = {levels[-1]: message.document()}
        ts_us, where = None, ""
    else:
        return NOTHING
    readings = PacketBuilder(message, device, ts_us=ts_us, leave_out=_GEN2_LEAVE_OUT)
    for channel, leaf, value in walk(document):
        readings.add(channel, value, where + channel, number=_GEN2_NUMBER.fullmatch(leaf) is not None)
    return readings.packet()
