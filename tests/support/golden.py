"""Golden samples, `tests/golden/<format>/*.json`: a converter's configuration, and messages with what becomes of them.

`source` cites where the form is documented. A payload is `text`, `json` or `hex`. Times are ISO 8601. `unknown` (index
and external id) and `known` (a count) say what becomes of the other fields; left out, they say nothing. `in_order`:
local times that only the messages before tell apart.
`iot-bridge mqtt learn --out DIR` writes files of the same form.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bridge.model.reading import ExternalId
from bridge.mqtt.converters.learn import moment
from bridge.mqtt.converters.select import Conversion, Converters
from bridge.settings.mqtt import ConverterSettings, MqttSettings

FOLDER = Path(__file__).parents[1] / "golden"
RECEIVED_US = 1_769_594_400_000_000  # 2026-01-28T10:00:00Z


def samples(folder: Path = FOLDER) -> list[Path]:
    """Every sample, in order."""
    return sorted(folder.glob("*/*.json"))


def load(path: Path) -> dict[str, Any]:
    """One sample."""
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def converters_of(sample: dict[str, Any]) -> Converters:
    """The converters of a sample's configuration."""
    return Converters(MqttSettings(converters=(ConverterSettings(**sample["converter"]),)))


def payload_of(message: dict[str, Any]) -> bytes:
    """The bytes of a message of a sample."""
    if "hex" in message:
        return bytes.fromhex(message["hex"])
    if "text" in message:
        return str(message["text"]).encode()
    return json.dumps(message["json"]).encode()


def outcome(conversion: Conversion) -> dict[str, Any]:
    """What became of a message, as a sample says it."""
    readings = []
    for draft in conversion.packet.readings:
        reading: dict[str, Any] = {"index": draft.index}
        if isinstance(draft.sensor, ExternalId):
            reading["external_id"] = draft.sensor.text
        else:
            reading["sensor"] = draft.sensor
        reading["value"] = draft.value
        if draft.ts_us is not None:
            reading["at"] = moment(draft.ts_us)
        if draft.sequence is not None:
            reading["sequence"] = draft.sequence
        readings.append(reading)
    refused = [
        {"index": refusal.index, "code": refusal.code.value, "detail": refusal.detail}
        for refusal in conversion.packet.rejections
    ]
    unknown = [{"index": field.index, "external_id": field.name} for field in conversion.packet.unknown]
    return {
        "readings": readings,
        "refused": refused,
        "unknown": unknown,
        "known": conversion.packet.known,
        "asks": [ask.topic for ask in conversion.outgoing],
    }
