"""Tasmota. https://tasmota.github.io/docs/MQTT/ and https://tasmota.github.io/docs/JSON-Status-Responses/

Names are those of https://github.com/arendst/Tasmota, tasmota/include/i18n.h. Temperatures, pressures and wind
speeds come out in Tasmota's default units, whatever its settings are: °C, hPa, km/h.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import chain

from bridge.model.reading import Packet
from bridge.mqtt.converters.message import (
    NOTHING,
    IncomingMessage,
    PacketBuilder,
    table,
    unknown_message,
    walk,
)

_NUMBER = re.compile(
    r"(Probe|Reference|Chip)?Temperature\d*|Humidity\d*|aHumidity|DewPoint|HeatIndex|(Sea)?Pressure|Illuminance\d*"
    r"|CarbonDioxide|eCO2|TVOC|Distance|Vcc|Total|Today|Yesterday|(Apparent|Reactive|Active|Import|Export)?Power"
    r"|Factor|Frequency|Voltage|Current|Total(Import|Export)?(Active|Reactive)?|Moisture|Gas|pH|ORP|EC|Weight|UvIndex"
)
_STATE = re.compile(r"(POWER|Switch|Button)\d*")
_TEMPERATURE = re.compile(r"Temp(?!late|o\b)|(?:^|[^A-Za-z])temp|[Tt]emperature|DewPoint|HeatIndex")
"""What SetOption8 converts (`ConvertTemp`, and `ResponseAppendTHD` for dew point and heat index): whatever the key,
it is called a temperature. OBJTMP and AMBTMP of the MLX90614 are not converted (xsns_46_MLX90614.ino), nor here.
"""
_PRESSURE = re.compile(r"(Sea)?Pressure\d*")
_LEAVE_OUT = (
    *("Time", "Epoch", "TempUnit", "PressureUnit", "SpeedUnit", "Uptime*", "Heap", "Sleep*", "LoadAvg", "MqttCount"),
    *("Wifi.*", "Ethernet.*", "Berry.*", "Hostname", "IPAddress", "*.Id", "ENERGY.Period", "ENERGY.Period.*"),
    *("*.TotalStartTime", "*.Error", "*.Time", "*.Address", "*.MAC", "*.mac", "*.alias", "*.UID", "*.Type", "*.Name"),
    *("*.UvIndexText", "*.Card", "*.AvgCard", "*.Device"),
    *("Color", "HSBColor", "Fade", "LedTable", "Scheme", "Speed"),  # of lights, in STATE
)
_KNOWN_KINDS = re.compile(r"LWT|INFO\d|STATUS([1-7]|9|12|13)?|UPTIME|HASS_STATE|MARGINS|LOGGING|POWER\d*|RESULT")
"""Messages without a measurement. POWER and RESULT repeat at once what STATE says."""
_HEARD = re.compile(rb'"(?:Rf|Ir|S?Serial|Zb|Ble|Lora|Knx|Tuya|Nec)\w*Received"', re.IGNORECASE)
"""In a RESULT: what a receiver has heard of others, in SENSOR or messages of its own in newer releases."""
_KNOWN_BESIDE = re.compile(r"Status\w{0,3}|idx|nvalue|svalue")
"""What stands beside `StatusSNS` where several statuses come in one message, and what Domoticz gets."""

_FROM_TEMPERATURE: dict[str, Callable[[float], float]] = {"F": lambda f: round((f - 32.0) / 1.8, 6)}
_FROM_PRESSURE: dict[str, Callable[[float], float]] = {
    "mmHg": lambda p: round(p * 1.33322387415, 6),
    "inHg": lambda p: round(p * 33.86388640341, 6),
}
_FROM_SPEED: dict[str, Callable[[float], float]] = {
    "m/s": lambda v: round(v * 3.6, 6),
    "kn": lambda v: round(v * 1.852, 6),
    "mph": lambda v: round(v * 1.609344, 6),
    "ft/s": lambda v: round(v * 1.09728, 6),
    "yd/s": lambda v: round(v * 3.29184, 6),
}
"""To °C, hPa and km/h: SetOption8, SetOption24, SetOption139 and SpeedUnit change what a device sends from one day to
the next.
"""


def tasmota(message: IncomingMessage) -> Packet:
    """`tele/<topic>/SENSOR` and `/STATE`, or the answer to a question for them: `stat/<topic>/STATUS10`, `STATUS0`."""
    kind = message.levels[-1]
    if kind not in ("SENSOR", "STATE", "STATUS0", "STATUS8", "STATUS10", "STATUS11"):
        is_known = _KNOWN_KINDS.fullmatch(kind) and not (kind == "RESULT" and _HEARD.search(message.payload))
        return NOTHING if is_known else unknown_message(message)
    whole = message.document()
    parts = {inner: table(whole[inner], f"$.{inner}") for inner in ("StatusSNS", "StatusSTS") if inner in whole}
    if kind == "STATUS0" and not parts:
        return NOTHING
    document, *further = parts.values() or (whole,)
    captured = message.captured[:-1] if message.captured and message.captured[-1] == kind else message.captured
    at = "Epoch" if type(document.get("Epoch")) is int else "Time"  # with `Time 2` both, of which one needs no zone
    ts_us = message.time(document.get(at), f"$.{at}", from_boot=True)
    readings = PacketBuilder(message, "/".join(captured) or message.topic, ts_us=ts_us, leave_out=_LEAVE_OUT)
    of_temperature = _FROM_TEMPERATURE.get(str(document.get("TempUnit")))
    of_pressure = _FROM_PRESSURE.get(str(document.get("PressureUnit")))
    of_speed = _FROM_SPEED.get(str(document.get("SpeedUnit")))
    for channel, leaf, value in chain(walk(document), *map(walk, further)):
        number, words, temperature = _kind(leaf)
        convert = None
        if temperature:
            convert = of_temperature
        elif of_pressure is not None and _PRESSURE.fullmatch(leaf):
            convert = of_pressure
        elif of_speed is not None and (leaf == "Speed" or ".Speed." in channel):  # {"Speed": {"Act": 14.8, …}}
            convert = of_speed
        readings.add(channel, value, f"$.{channel}", number=number, words=words, convert=convert)
    if parts:
        _add_beside(readings, {key: value for key, value in whole.items() if key not in parts})
    return readings.packet()


@lru_cache(maxsize=1_024)
def _kind(name: str) -> tuple[bool, bool, bool]:
    """Whether it is the name of a number, of a state in words, of a temperature."""
    return (
        _NUMBER.fullmatch(name) is not None,
        _STATE.fullmatch(name) is not None,
        _TEMPERATURE.search(name) is not None,
    )


def _add_beside(readings: PacketBuilder, document: dict[str, object]) -> None:
    for channel, _, value in walk(document):
        if _KNOWN_BESIDE.fullmatch(channel.partition(".")[0]):
            readings.add_known()
        else:
            readings.add_unknown(channel, value)
