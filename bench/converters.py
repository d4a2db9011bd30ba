"""What a message costs each converter: `python -m bench.converters [--seconds S] [--json]`.

Messages are those of the golden samples. The ceiling of the same run is the decoding of the same bytes as
JSON with nothing made of them (for protobuf and CBOR: a walk over the bytes), so that a ratio can be compared
between machines.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bridge.mqtt.converters.select import Converters
from bridge.settings.mqtt import ConverterSettings, MqttSettings

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
DEVICE = "5f0c1f5e-0000-4000-8000-00000000000a"
SENSOR = "5f0c1f5e-0000-4000-8000-00000000000b"
RECEIVED_US = 1_769_594_400_000_000
ROUNDS_PER_LOOK = 50  # at the clock

Message = tuple[str, bytes]
Row = dict[str, Any]


def measure(seconds: float) -> list[Row]:
    """One row a format: messages, bytes and readings a message, microseconds a message, and the ceiling's."""
    cases: list[tuple[str, Converters, list[Message]]] = [("native", Converters(MqttSettings()), _native())]
    for folder in sorted(GOLDEN.iterdir()):
        for path in sorted(folder.glob("*.json")):
            found = _sample(path)
            if found is not None:
                cases.append((f"{folder.name}/{path.stem}", *found))
    return [_row(name, converters, messages, seconds) for name, converters, messages in cases]


def _row(name: str, converters: Converters, messages: list[Message], seconds: float) -> Row:
    readings = sum(
        len(converters.convert(topic, payload, received_us=RECEIVED_US).packet.readings) for topic, payload in messages
    )

    def convert() -> None:
        for topic, payload in messages:
            converters.convert(topic, payload, received_us=RECEIVED_US)

    decode = msgspec.json.Decoder().decode

    def ceiling() -> None:
        for _, payload in messages:
            try:
                decode(payload)
            except (msgspec.DecodeError, UnicodeDecodeError):
                sum(payload)

    cost_us = _timed(convert, seconds) / len(messages)
    ceiling_us = _timed(ceiling, seconds / 4) / len(messages)
    return {
        "format": name,
        "bytes": round(sum(len(payload) for _, payload in messages) / len(messages)),
        "readings": round(readings / len(messages), 1),
        "us_per_message": round(cost_us, 1),
        "us_per_reading": round(cost_us * len(messages) / readings, 1) if readings else None,
        "ceiling_us": round(ceiling_us, 1),
        "ratio": round(cost_us / ceiling_us, 1) if ceiling_us else None,
    }


def _timed(work: Callable[[], None], seconds: float) -> float:
    """Microseconds of CPU that one call of `work` takes."""
    work()
    rounds = 0
    started = time.process_time()
    while (spent := time.process_time() - started) < seconds:
        for _ in range(ROUNDS_PER_LOOK):
            work()
        rounds += ROUNDS_PER_LOOK
    return spent / max(rounds, 1) * 1e6


def _native() -> list[Message]:
    packet = {"ts": "2026-01-28T10:00:00Z", "readings": [{"sensor_uuid": SENSOR, "value": 20.5, "sequence": 7}]}
    return [
        (f"devices/{DEVICE}/readings", json.dumps(packet).encode()),
        (f"devices/{DEVICE}/sensors/{SENSOR}", b"20.5"),
    ]


def _sample(path: Path) -> tuple[Converters, list[Message]] | None:
    """The converters of a golden sample and its messages with readings, if it has any; malformed ones are left out."""
    sample = json.loads(path.read_text())
    messages = [message for message in sample["messages"] if message["readings"] and not message.get("refused")]
    if path.stem == "malformed" or not messages:
        return None
    converters = Converters(MqttSettings(converters=(ConverterSettings(**sample["converter"]),)))
    for message in sample["messages"]:  # births and the like
        converters.convert(message["topic"], _payload(message), received_us=RECEIVED_US)
    return converters, [(message["topic"], _payload(message)) for message in messages]


def _payload(message: dict[str, Any]) -> bytes:
    if "hex" in message:
        return bytes.fromhex(message["hex"])
    return (message["text"] if "text" in message else json.dumps(message["json"])).encode()


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench.converters", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.2, help="CPU time for each format")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    arguments = parser.parse_args(argv)
    rows = measure(arguments.seconds)
    if arguments.json:
        print(json.dumps({"converters": rows}))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
