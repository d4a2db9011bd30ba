"""LoRaWAN network servers (ChirpStack v4, The Things Stack) and rtl_433: what comes over the air, decoded by others."""

from __future__ import annotations

import re
from functools import lru_cache

from bridge.errors import DecodeError
from bridge.model.reading import Code, Packet
from bridge.mqtt.converters.home import add_text
from bridge.mqtt.converters.message import (
    NOTHING,
    IncomingMessage,
    PacketBuilder,
    table,
    unknown_message,
    walk,
    whole,
)

# ChirpStack v4: https://www.chirpstack.io/docs/chirpstack/integrations/events.html

_CHIRPSTACK_EVENTS = ("join", "ack", "txack", "status", "log", "location", "integration")
"""Without a measurement of the device's sensors."""


def chirpstack(message: IncomingMessage) -> Packet:
    """`application/<id>/device/<DevEUI>/event/up`, in JSON. The device profile's codec makes `object`."""
    levels = message.levels
    if len(levels) < 3 or levels[-2] != "event":
        raise DecodeError(Code.BAD_TOPIC, "the topic does not end in <DevEUI>/event/<event>", where="topic")
    if levels[-1] != "up":
        return NOTHING if levels[-1] in _CHIRPSTACK_EVENTS else unknown_message(message)
    document = message.document()
    if "deviceInfo" not in document and "devEUI" in document:
        detail = "$.devEUI: a message of ChirpStack 3, and this converter reads those of version 4; a mapping reads it"
        raise DecodeError(Code.BAD_FORM, detail, where="$.devEUI")
    eui = table(document.get("deviceInfo"), "$.deviceInfo").get("devEui")
    if not isinstance(eui, str) or eui.lower() != levels[-3].lower():
        raise DecodeError(Code.BAD_FORM, "$.deviceInfo.devEui is not the one in the topic", where="$.deviceInfo.devEui")
    if document.get("object") is None:
        if not document.get("data"):
            return NOTHING  # an uplink of MAC commands alone
        raise DecodeError(Code.BAD_FORM, "$.object is missing: the device profile has no codec", where="$.object")
    return _decoded(
        message, eui.lower(), document["object"], "object", document.get("time"), "$.time", document, "fCnt"
    )


# The Things Stack: https://www.thethingsindustries.com/docs/integrations/data-formats/

_TTN_KINDS = ("join", "queued", "sent", "ack", "nack", "failed", "push", "replace", "solved", "data")
"""Last levels of join, down/…, location/solved and service/data."""


def ttn(message: IncomingMessage) -> Packet:
    """`v3/<application>[@<tenant>]/devices/<device>/up`. A payload formatter makes `decoded_payload`."""
    levels = message.levels
    if len(levels) < 4 or levels[-3] != "devices" or levels[-1] != "up":
        return NOTHING if "devices" in levels and levels[-1] in _TTN_KINDS else unknown_message(message)
    document = message.document()
    device = table(document.get("end_device_ids"), "$.end_device_ids").get("device_id")
    where = "$.end_device_ids.device_id"
    if device != levels[-2]:
        raise DecodeError(Code.BAD_FORM, f"{where} is not the one in the topic", where=where)
    if document.get("simulated") is True:
        return NOTHING
    uplink = table(document.get("uplink_message"), "$.uplink_message")
    if uplink.get("decoded_payload") is None:
        if not uplink.get("frm_payload"):
            return NOTHING
        where = "$.uplink_message.decoded_payload"
        raise DecodeError(Code.BAD_FORM, f"{where} is missing: the device has no payload formatter", where=where)
    at = uplink.get("received_at", document.get("received_at"))
    return _decoded(
        message,
        f"{levels[-4]}/{device}",
        uplink["decoded_payload"],
        "uplink_message.decoded_payload",
        at,
        "$.uplink_message.received_at",
        uplink,
        "f_cnt",
    )


def _decoded(
    message: IncomingMessage,
    device: str,
    fields: object,
    place: str,
    at: object,
    at_place: str,
    counted: dict[str, object],
    counter: str,
) -> Packet:
    """What a codec made of an uplink: numbers and booleans of it are readings, the frame counter their sequence.

    Codecs round by `toFixed`, which makes text of a number: text that is wholly a number is one.
    """
    readings = PacketBuilder(
        message,
        device,
        ts_us=message.time(at, at_place),
        sequence=whole(counted.get(counter), f"$.{counter}"),
    )
    for channel, _, value in walk(table(fields, f"$.{place}")):
        readings.add(channel, value, f"$.{place}.{channel}", free=True)
    return readings.packet()


# rtl_433: https://github.com/merbanan/rtl_433/blob/master/docs/DATA_FORMAT.md and .../OPERATION.md#mqtt-output

_RTL_NUMBERS = re.compile(
    r"(temperature|setpoint)(_?\d)?(_(amb|int|HI|LO))?_[CF]|humidity(_?\d)?|moisture|pressure_(hPa|kPa|PSI|psi)"
    r"|wind_(avg|max|gust|spd)_(km_h|m_s|mi_h)|wind_dir_deg|rain\d?_(mm|in)|rain_rate_(mm|in)_h|light_(lux|klx)"
    r"|uvi?|uv_index|co2_ppm|pm\d+(_\d)?_ug_m3|battery_ok|battery_m?V"
)
"""Doubles of the format: `<type>_<unit>`. What only begins like one (uv_status, temperature_trend) may be text."""
_RTL_LEAVE_OUT = (
    *("time", "model", "subtype", "type", "id", "channel", "mic", "mod", "protocol", "freq", "freq1", "freq2"),
    *("rssi", "snr", "noise", "sequence_num", "exception", "data", "raw*", "code", "msg", "flags", "rows.*", "codes.*"),
)
_RTL_NAMES = ("type", "model", "subtype", "channel", "id")
"""What a device is known by, in the order of the default topic: `devices[/type][/model][/subtype][/channel][/id]`."""
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")  # what rtl_433 itself replaces in topics, and no more


def rtl_433(message: IncomingMessage) -> Packet:
    """`rtl_433/<host>/events`, JSON, or `rtl_433/<host>/devices/<device>/<field>`, text."""
    levels = message.levels
    if "devices" in levels[:-2]:
        start = levels.index("devices") + 1
        readings = PacketBuilder(message, "/".join(levels[start:-1]), leave_out=_RTL_LEAVE_OUT)
        add_text(readings, levels[-1], message, number=_is_rtl_number(levels[-1]))
        return readings.packet()
    if levels[-1] in ("states", "availability") or not message.payload:
        return NOTHING
    document = message.document()
    if not isinstance(document.get("model"), str):
        if "model" not in document:
            return NOTHING  # a state of the receiver: "states" data has no model
        raise DecodeError(Code.BAD_FORM, "$.model is not text", where="$.model")
    names = [_UNSAFE.sub("_", str(document[name])) for name in _RTL_NAMES if document.get(name) is not None]
    ts_us = message.time(document.get("time"), "$.time")
    readings = PacketBuilder(message, "/".join(names)[:200], ts_us=ts_us, leave_out=_RTL_LEAVE_OUT)
    for channel, leaf, value in walk(document):
        readings.add(channel, value, f"$.{channel}", number=_is_rtl_number(leaf))
    return readings.packet()


@lru_cache(maxsize=1_024)
def _is_rtl_number(name: str) -> bool:
    return _RTL_NUMBERS.fullmatch(name) is not None
