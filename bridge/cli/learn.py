"""`iot-bridge mqtt learn`: what a broker carries, and what a configuration for it would be."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.console import MAX_WAIT_S, Config, DataDir, Json, finite, load_settings, say, show
from bridge.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    import paho.mqtt.client as mqtt

    from bridge.mqtt.address import BrokerAddress
    from bridge.mqtt.converters.learn import Learner, TopicFinding
    from bridge.settings.mqtt import MqttSettings

CONNECT_S = 10.0
COLUMNS = ("format", "filter", "messages", "with_readings", "refused", "devices", "channels", "not_taken", "problem")
SHOWN = 200
"""Channels on the screen; --json and the files of --out have them all."""


def register(app: typer.Typer) -> None:
    noun = next((group.typer_instance for group in app.registered_groups if group.name == "mqtt"), None)
    if noun is None:
        noun = typer.Typer(no_args_is_help=True, help="The MQTT door.")
        app.add_typer(noun, name="mqtt")
    noun.command("learn")(learn)


def learn(
    url: Annotated[str | None, typer.Option(help="Broker; without it, the one of the settings.")] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=MAX_WAIT_S, callback=finite, help="How long to listen.")
    ] = 60.0,
    topic_filter: Annotated[str, typer.Option("--filter", help="What to listen to.")] = "#",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to: converters.toml, sensors.csv, not_taken.csv and golden samples."),
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Listen to a broker, recognise the formats, and write a mapping with a golden sample for each.

    It subscribes at QoS 0 and publishes nothing. Interrupted, it reports what it has heard so far.

    Example: iot-bridge mqtt learn --url mqtt://broker.local --seconds 60 --out learned
    """
    from bridge.model.topic_filter import problem
    from bridge.mqtt.address import parse_address
    from bridge.mqtt.converters.learn import Learner

    wrong = problem(topic_filter)
    if wrong is not None:
        raise ConfigError([f"--filter {topic_filter}: {wrong}"])
    settings = _settings(url, config, data_dir)
    learner = Learner()
    address = parse_address(settings)
    _listen(settings, address, topic_filter, seconds, learner)
    findings = learner.findings
    if out is not None:
        _write(out, findings, str(address))
    _report(learner, findings, out, json)


def _settings(url: str | None, config: Path | None, data_dir: Path | None) -> MqttSettings:
    loaded = load_settings(config, embedded=data_dir is not None)
    if url is not None:
        if not url.startswith(("mqtt://", "mqtts://")):
            raise ConfigError([f"--url {url}: write mqtt://[user:password@]host[:1883], or mqtts://… for TLS"])
        return loaded.mqtt.model_copy(update={"url": url})
    if data_dir is not None:
        from bridge.embedded.stack import attached

        with attached(data_dir, loaded) as found:
            loaded = found
    if not loaded.mqtt.url:
        raise ConfigError(["no broker: name one with --url mqtt://host, or mqtt.url in the settings"])
    return loaded.mqtt


def _listen(
    settings: MqttSettings, address: BrokerAddress, topic_filter: str, seconds: float, learner: Learner
) -> None:
    """Raises Unavailable."""
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    from bridge.mqtt.address import tls_context

    client = mqtt.Client(CallbackAPIVersion.VERSION2, clean_session=True, reconnect_on_failure=False)
    client.connect_timeout = CONNECT_S
    if address.username:
        client.username_pw_set(address.username, address.password)
    if address.tls:
        client.tls_set_context(tls_context(settings))
    client.on_message = lambda _client, _userdata, message: _hear(learner, message)
    subscribed = [False]
    _answers(client, topic_filter, str(address), subscribed)
    try:
        client.connect(address.host, address.port)
        deadline_s = time.monotonic() + CONNECT_S
        while not subscribed[0] and time.monotonic() < deadline_s:
            _turn(client, str(address))
        if not subscribed[0]:
            raise Unavailable(f"{address} does not answer")
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            _turn(client, str(address))
    except OSError as error:
        raise Unavailable(f"{address}: {error.strerror or error}") from error
    except KeyboardInterrupt:
        pass
    client.disconnect()


def _answers(client: mqtt.Client, topic_filter: str, broker: str, subscribed: list[bool]) -> None:
    def on_connect(_client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            raise Unavailable(f"{broker} refuses us: {reason}")
        client.subscribe(topic_filter, 0)

    def on_subscribe(_client: Any, _userdata: Any, _mid: int, reasons: list[Any], _properties: Any) -> None:
        if reasons and reasons[0].is_failure:
            raise Unavailable(f"{broker} does not let us subscribe to {topic_filter}; check its ACL")
        subscribed[0] = True

    client.on_connect = on_connect
    client.on_subscribe = on_subscribe


def _turn(client: mqtt.Client, broker: str) -> None:
    if client.loop(timeout=0.1) != 0:
        raise Unavailable(f"{broker}: the connection ended")


def _hear(learner: Learner, message: mqtt.MQTTMessage) -> None:
    try:
        topic = message.topic
    except UnicodeDecodeError:
        return
    learner.hear(topic, bytes(message.payload), received_us=time.time_ns() // 1_000, retained=message.retain)


def _write(folder: Path, findings: list[TopicFinding], broker: str) -> None:
    import msgspec

    from bridge.mqtt.converters.learn import channel_rows, csv_rows, golden, moment, toml

    source = f"learned from {broker} on {moment(time.time_ns() // 1_000)[:10]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "converters.toml").write_text(toml(findings))
        with (folder / "sensors.csv").open("w", newline="") as file:
            csv.writer(file).writerows(csv_rows(findings))
        with (folder / "not_taken.csv").open("w", newline="") as file:
            names = ("external_id", "example", "reason")
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for row in channel_rows(findings) if not row["taken"])
        for number, finding in enumerate(findings):
            if finding.settings is None or not finding.samples:
                continue
            sample = folder / "golden" / finding.format / f"learned_{number}.json"
            sample.parent.mkdir(parents=True, exist_ok=True)
            sample.write_bytes(msgspec.json.format(msgspec.json.encode(golden(finding, source)), indent=2) + b"\n")
    except OSError as error:
        raise ConfigError([f"--out {folder}: {error.strerror}"]) from error


def _report(learner: Learner, findings: list[TopicFinding], out: Path | None, json: bool) -> None:
    from bridge.mqtt.converters.learn import channel_rows

    formats = [finding.summary() for finding in findings]
    unknown = [
        {"topic": topic, "messages": count, "example": learner.examples[topic].decode(errors="replace")[:60]}
        for topic, count in learner.unknown.most_common(20)
    ]
    channels = channel_rows(findings)
    if json:
        report = {"messages": learner.messages, "formats": formats, "channels": channels, "unknown": unknown}
        show(report | {"out": out}, json)
        return
    say(f"{learner.messages} messages")
    show(formats, json, columns=COLUMNS)
    if channels:
        say("")
        say("channels, with what was heard first; what is not taken stands first:")
        show([row | {"taken": "yes" if row["taken"] else "no"} for row in channels[:SHOWN]], json)
        if len(channels) > SHOWN:
            say(f"... and {len(channels) - SHOWN} more: --json has them all")
    if unknown:
        say("")
        say("not recognised (a mapping can be written for them; see docs/converters.md):")
        show(unknown, json)
    if out is not None:
        say("")
        say(f"written to {out}: fill in sensors.csv, then iot-bridge sensor map {out / 'sensors.csv'} --dry-run")
