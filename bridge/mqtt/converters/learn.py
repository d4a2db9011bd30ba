"""What a broker's messages are, collected: messages in, findings out, and the files that a mapping begins with.

Every finding is tried with the converter that it stands for: what is shown is what would become of the messages.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import msgspec
from pydantic import ValidationError

from bridge.model.reading import ExternalId
from bridge.mqtt.converters.formats import FORMATS
from bridge.mqtt.converters.message import NOTHING
from bridge.mqtt.converters.recognise import Guess, recognise
from bridge.mqtt.converters.select import Conversion, Converters
from bridge.mqtt.unknown_fields import example
from bridge.settings.mqtt import ConverterSettings, MqttSettings

MAX_CHANNELS = 20_000
MAX_UNKNOWN = 1_000
MAX_FINDINGS = 1_000
MAX_TOPIC = 255
"""Longer topics are counted as unknown, by their beginning."""
SAMPLES = 5
SAMPLE_BYTES = 16_384
EXAMPLE = 60
QUARTER_US = 900_000_000


class Sample(msgspec.Struct, frozen=True):
    """A message, and what became of it."""

    topic: str
    payload: bytes
    retained: bool
    after_us: int  # since the finding's first sample
    conversion: Conversion


class NotTaken(msgspec.Struct):
    """A field that is not taken, or a kind of message."""

    reason: str
    example: str
    count: int = 0


class TopicFinding:
    """All messages of one format and filter."""

    def __init__(self, settings: ConverterSettings | None) -> None:
        self.settings = settings  # None: our own topics
        self.converters = Converters(MqttSettings(converters=() if settings is None else (settings,)))
        self.messages = 0
        self.outcomes: Counter[str] = Counter()
        self.channels: dict[str, float] = {}  # external id -> a value
        self.not_taken: dict[str, NotTaken] = {}  # by external id
        self.problems: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self.started_us = 0
        self.off_quarters: int | None = None  # quarters of an hour that its times are ahead of ours

    @property
    def format(self) -> str:
        return "native" if self.settings is None else self.settings.format

    @property
    def devices(self) -> int:
        return len({name.partition("#")[0] for name in self.channels})

    def summary(self) -> dict[str, Any]:
        """One line of the report."""
        return {
            "format": self.format,
            "filter": "" if self.settings is None else self.settings.filter,
            "messages": self.messages,
            "with_readings": self.outcomes["readings"],
            "refused": self.outcomes["refused"],
            "devices": self.devices,
            "channels": len(self.channels),
            "not_taken": len(self.not_taken),
            "problem": self.problems.most_common(1)[0][0] if self.problems else "",
        }


class Learner:
    """Hears messages. Bounded, whatever the broker carries."""

    def __init__(self) -> None:
        self._findings: dict[tuple[str, str], TopicFinding] = {}
        self._bases = {"zigbee2mqtt"}
        self._channels = 0
        self.unknown: Counter[str] = Counter()
        self.examples: dict[str, bytes] = {}  # of unknown topics
        self.messages = 0

    @property
    def findings(self) -> list[TopicFinding]:
        """The most frequent first."""
        return sorted(self._findings.values(), key=lambda finding: -finding.messages)

    def hear(self, topic: str, payload: bytes, *, received_us: int, retained: bool) -> None:
        """One message."""
        self.messages += 1
        if topic.startswith("$"):
            return
        guess = recognise(topic, payload, self._bases) if len(topic) <= MAX_TOPIC else None
        finding = self._finding_of(guess) if guess is not None else None
        if finding is None:
            self._note_unknown(topic[:MAX_TOPIC], payload)
        else:
            self._add(finding, topic, payload, received_us, retained)

    def _finding_of(self, guess: Guess) -> TopicFinding | None:
        """What was found of this kind, or will be; None where there are too many, or no settings can name it."""
        finding = self._findings.get(guess)
        if finding is None and len(self._findings) < MAX_FINDINGS:
            name, of_topics = guess
            try:
                settings = (
                    None
                    if name == "native"
                    else ConverterSettings.model_validate({"format": name, "filter": of_topics})
                )
            except ValidationError:  # a topic that is empty, or has control characters
                return None
            finding = self._findings[guess] = TopicFinding(settings)
        return finding

    def _note_unknown(self, topic: str, payload: bytes) -> None:
        if topic in self.unknown or len(self.unknown) < MAX_UNKNOWN:
            self.unknown[topic] += 1
            self.examples.setdefault(topic, payload[:200])

    def _add(self, finding: TopicFinding, topic: str, payload: bytes, received_us: int, retained: bool) -> None:
        conversion = finding.converters.convert(topic, payload, received_us=received_us, retained=retained)
        finding.messages += 1
        finding.outcomes[conversion.outcome] += 1
        if not finding.samples:
            finding.started_us = received_us
        fresh = self._note_not_taken(finding, conversion)
        for rejection in conversion.packet.rejections[:1]:
            if len(finding.problems) < MAX_UNKNOWN:
                finding.problems[f"{rejection.code}: {rejection.detail}"[:200]] += 1
        if conversion.packet.readings and not retained:
            ts_us = conversion.packet.readings[0].ts_us
            if ts_us is not None and finding.off_quarters is None:
                finding.off_quarters = round((ts_us - received_us) / QUARTER_US)
        for decoded in conversion.packet.readings:
            if isinstance(decoded.sensor, ExternalId) and self._channels < MAX_CHANNELS:
                new = decoded.sensor.text not in finding.channels
                finding.channels.setdefault(decoded.sensor.text, decoded.value)
                fresh += new
                self._channels += new
        # Where a message means nothing without those before it, the first ones, without a gap.
        remembers = finding.settings is not None and FORMATS[finding.format].remembers
        tells_more = remembers or fresh or (conversion.packet != NOTHING and not finding.samples)
        if tells_more and len(finding.samples) < SAMPLES and len(payload) <= SAMPLE_BYTES:
            after_us = received_us - finding.started_us
            finding.samples.append(Sample(topic, payload, retained, after_us, conversion))

    def _note_not_taken(self, finding: TopicFinding, conversion: Conversion) -> int:
        """Remember what is not taken; how many of it are heard for the first time."""
        fresh = 0
        for field in conversion.packet.unknown:
            if field.name not in finding.not_taken:
                if self._channels >= MAX_CHANNELS:
                    continue
                finding.not_taken[field.name] = NotTaken(field.reason, example(field.value, EXAMPLE))
                fresh += 1
                self._channels += 1
            finding.not_taken[field.name].count += 1
        return fresh


def channel_rows(findings: list[TopicFinding]) -> list[dict[str, Any]]:
    """Every channel that was heard, taken or not, with an example: what is not taken first."""
    rows: list[dict[str, Any]] = []
    for finding in findings:
        for name, field in sorted(finding.not_taken.items()):
            rows.append({"external_id": name, "taken": False, "example": field.example, "reason": field.reason})
    for finding in findings:
        for name, value in sorted(finding.channels.items()):
            rows.append({"external_id": name, "taken": True, "example": f"{value:g}", "reason": ""})
    return rows


def toml(findings: list[TopicFinding]) -> str:
    """The `mqtt.converters` of a configuration file."""
    parts = ["# Found by iot-bridge mqtt learn. Read it before you use it: formats were guessed by topics and bytes.\n"]
    for finding in findings:
        if finding.settings is None:
            continue
        channels = sorted({name.partition("#")[2] for name in finding.channels})
        parts.append(
            f"# {finding.messages} messages of {finding.devices} devices\n"
            "[[mqtt.converters]]\n"
            f"filter = {_quoted(finding.settings.filter)}\n"
            f"format = {_quoted(finding.settings.format)}\n{_zone(finding)}"
            f"# take = [{', '.join(map(_quoted, channels[:50]))}]\n{_skips(finding)}"
        )
    return "\n".join(parts)


def _skips(finding: TopicFinding) -> str:
    """What is not taken, as a line to uncomment."""
    channels = sorted({channel for name in finding.not_taken if (channel := name.partition("#")[2])})
    if not channels:
        return ""
    return f"# not taken: skip_also = [{', '.join(map(_quoted, channels[:50]))}]\n"


def _zone(finding: TopicFinding) -> str:
    """Clocks that are off by the hours of a time zone are probably local."""
    if not finding.off_quarters or abs(finding.off_quarters) > 14 * 4:
        return ""
    return f'# zone = "Area/City"  # its times are about {finding.off_quarters / 4:+g} h from UTC\n'


def csv_rows(findings: list[TopicFinding]) -> list[tuple[str, str, str, str]]:
    """Rows of a file for `iot-bridge sensor map`: the sensor is for a human to fill in."""
    rows = [("external_id", "sensor", "unit_in", "example")]
    for finding in findings:
        rows += [(name, "", "", f"{value:g}") for name, value in sorted(finding.channels.items())]
    return rows


def golden(finding: TopicFinding, source: str) -> dict[str, Any]:
    """A golden sample, of the form that tests/support/golden has, of a topic whose format is known."""
    if finding.settings is None:
        raise ValueError(f"{finding.samples[0].topic if finding.samples else 'a topic'}: of no known format")
    messages = []
    before_us = 0
    for sample in finding.samples:
        message: dict[str, Any] = {"topic": sample.topic, **_payload(sample.payload)}
        if sample.retained:
            message["retained"] = True
        if sample.after_us > before_us:
            message["after_s"] = (sample.after_us - before_us) / 1_000_000
        before_us = sample.after_us
        messages.append(message | _outcome(sample.conversion))
    return {
        "source": source,
        "received_at": moment(finding.started_us),
        "converter": {"filter": finding.settings.filter, "format": finding.settings.format},
        "messages": messages,
    }


def _payload(payload: bytes) -> dict[str, str]:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return {"hex": payload.hex()}
    return {"text": text} if "\r" not in text else {"hex": payload.hex()}


def _outcome(conversion: Conversion) -> dict[str, Any]:
    readings = []
    for decoded in conversion.packet.readings:
        reading: dict[str, Any] = {"index": decoded.index}
        name = decoded.sensor
        reading |= {"external_id": name.text} if isinstance(name, ExternalId) else {"sensor": name}
        reading["value"] = decoded.value
        if decoded.ts_us is not None:
            reading["at"] = moment(decoded.ts_us)
        if decoded.sequence is not None:
            reading["sequence"] = decoded.sequence
        readings.append(reading)
    found: dict[str, Any] = {"readings": readings}
    if conversion.packet.rejections:
        found["refused"] = [
            {"index": rejection.index, "code": rejection.code.value, "detail": rejection.detail}
            for rejection in conversion.packet.rejections
        ]
    if conversion.packet.unknown:
        found["unknown"] = [{"index": field.index, "external_id": field.name} for field in conversion.packet.unknown]
    if conversion.packet.known:
        found["known"] = conversion.packet.known
    if conversion.outgoing:
        found["asks"] = [ask.topic for ask in conversion.outgoing]
    return found


def moment(ts_us: int) -> str:
    """Microseconds as ISO 8601, without what is zero at the end."""
    seconds, micros = divmod(ts_us, 1_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{micros:06d}".rstrip("0").rstrip(".") + "Z" if micros else text + "Z"


def _quoted(text: str) -> str:
    """A TOML basic string, which JSON's is too, but for DEL."""
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")
