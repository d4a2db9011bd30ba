"""Whatever remembers by a key is named here, with what bounds its keys: a sender chooses neither size nor number."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.mqtt.converters.select import Converters
from bridge.mqtt.topics import MAX_TOPIC
from bridge.pipeline import decode
from bridge.rate_limit import MAX_KEY_LENGTH, SlidingWindow, check
from bridge.settings.mqtt import ConverterSettings, MqttSettings

ROOT = Path(__file__).parents[2]
COLLECTIONS = {"dict", "set", "OrderedDict", "defaultdict", "TtlCache", "SlidingWindow", "WeakValueDictionary"}
BY_NUMBER = re.compile(r"\w+\[int\b")
MADE_BY_US = ("bridge/simulation/", "bridge/embedded/", "bridge/cli/", "bridge/maintenance/")
"""Programs that an operator runs, and that end."""

BOUNDED = {
    # -- keys that come from outside: their length, and their number
    "bridge/pipeline/decode.py _normal_uuid": "texts of at most 64 characters, by normal_uuid; 16,384",
    "bridge/auth/key_cache.py KeyCache._known": "SHA-256; keys.cache_size",
    "bridge/auth/key_cache.py KeyCache._unknown": "SHA-256; keys.cache_size",
    "bridge/auth/key_cache.py KeyCache._waiting": "SHA-256; no more than requests under way",
    "bridge/auth/key_cache.py KeyCache._used": "SHA-256 of keys that are known; taken at intervals",
    "bridge/auth/broker_access.py BrokerAccess._devices": "UUIDs, by normal_uuid; DEVICES_KEPT",
    "bridge/auth/failed_logins.py FailedLogins._by_address": "addresses, by ClientAddress; TRACKED",
    "bridge/auth/failed_logins.py FailedLogins._by_account": "names up to MAX_NAME; TRACKED",
    "bridge/auth/failed_logins.py FailedLogins._of_all": "one key",
    "bridge/auth/failed_logins.py FailedLogins._lines": "one key",
    "bridge/auth/failed_logins.py FailedLogins._told": "addresses, and names up to MAX_NAME; TRACKED",
    "bridge/auth/failed_logins.py FailedLogins._totals": "addresses, and names up to MAX_NAME; KEPT",
    "bridge/auth/broker_access.py BrokerAccess._ids_of_devices": "UUIDs, by normal_uuid; CLIENT_IDS_KEPT",
    "bridge/http/authentication.py Authentication._by_ip": "addresses, by ClientAddress; limits.max_tracked",
    "bridge/http/authentication.py Authentication._by_sender": "kind and number; limits.max_tracked",
    "bridge/http/authentication.py Authentication._by_sensor": "numbers and UUIDs, by decode; limits.max_tracked",
    "bridge/http/hooks.py HookAuthentication._window": "one key",
    "bridge/http/request_counter.py RequestCounter._children": "paths of endpoints and statuses: ours",
    "bridge/http/gateways.py GatewayDoor._settled_keys": "SHA-256 of gateways' keys that were looked up",
    "bridge/mqtt/publications.py Publications._told": "kinds of topics of ours, two of each: OwnTopic",
    "bridge/mqtt/refused_publications.py RefusedPublications._records": "likewise",
    "bridge/service/registered_replay.py RegisteredReplay._changed": "names of registered sensors; MAX_CHANGED",
    "bridge/mqtt/converters/select.py Converters._of_topic": "topics up to MAX_TOPIC; REMEMBERED_TOPICS",
    "bridge/mqtt/converters/local_times.py LocalTimes._channels": "digests of topics and channels; REMEMBERED",
    "bridge/mqtt/converters/local_times.py LocalClock._readings": "names up to MAX_ID; no more than one message has",
    "bridge/mqtt/converters/sparkplug_nodes.py Nodes._nodes": "names up to MAX_ID; MAX_NODES",
    "bridge/mqtt/converters/sparkplug_nodes.py _Node.aliases": "as _Node.names",
    "bridge/mqtt/converters/sparkplug_nodes.py _Node.names": "names up to MAX_ID; MAX_NAMES of all nodes",
    "bridge/mqtt/ingest.py MqttIngest._messages": "formats and outcomes: ours; 64",
    "bridge/mqtt/ingest.py MqttIngest._by_device": "UUIDs and topics, by `check`; limits.max_tracked",
    "bridge/mqtt/rejections.py Rejections._window": "UUIDs, by normal_uuid; limits.max_tracked",
    "bridge/mqtt/unknown_fields.py UnknownFields._children": "formats, and channels up to 64 characters; MAX_LABELS",
    "bridge/mqtt/unknown_fields.py UnknownFields._sampled": "external ids up to 255 characters; mqtt.unknown_samples",
    "bridge/mqtt/unknown_fields.py UnknownFields._of_device": "as _sampled",
    "bridge/mqtt/downlink.py Downlink._by_device": "UUIDs, by normal_uuid; DEVICES_KEPT",
    "bridge/pipeline/resolve.py Resolver._known": "sensors of the registry; pipeline.cache_size",
    "bridge/pipeline/resolve.py Resolver._unknown": "UUIDs, or external ids up to 255 characters; pipeline.cache_size",
    "bridge/pipeline/ledger.py DoorLedger._totals": "devices and gateways of the registry",
    "bridge/pipeline/ledger.py DoorLedger._dirty": "as _totals",
    "bridge/pipeline/ledger.py DoorLedger.set_aside": "as _totals",
    "edge/local/publisher.py LocalPublisher.heard_us": "UUIDs, by normal_uuid; MAX_HEARD",
    "edge/local/publisher.py LocalPublisher._event_ids": "keys that the spool takes, and numbers; MAX_EVENT_IDS",
    "bridge/pipeline/ignored.py IgnoredFields._told": "UUIDs, or topics up to 255 characters; MAX_SENDERS",
    "edge/spool/names.py SensorNames.refs": "as Resolver._unknown; spool.max_unknown_sensors",
    "edge/spool/names.py SensorNamesChange.added": "as SensorNames.refs; one transaction",
    "bridge/mqtt/converters/learn.py Learner._findings": "formats and filters; of `mqtt learn`, which ends",
    "bridge/mqtt/converters/learn.py Learner.examples": "topics; MAX_UNKNOWN, of `mqtt learn`, which ends",
    "bridge/mqtt/converters/learn.py TopicFinding.not_taken": "external ids up to 255 characters; MAX_CHANNELS",
    "bridge/mqtt/converters/learn.py TopicFinding.channels": "external ids up to 255 characters; of `mqtt learn`",
    # -- keys that are ours, or the operator's
    "bridge/auth/broker_access.py BrokerAccess._accounts": "accounts of the registry",
    "bridge/http/fast_path.py FastPath._by_path": "paths of endpoints",
    "bridge/http/fast_path.py FastPath._by_pattern": "methods of endpoints",
    "bridge/http/graceful_shutdown.py GracefulShutdown._under_way": "requests under way",
    "bridge/model/ttl_cache.py TtlCache._entries": "see each TtlCache",
    "bridge/rate_limit.py SlidingWindow._windows": "see each SlidingWindow",
    "bridge/mqtt/converters/zigbee2mqtt.py _kind": "names up to MAX_PATH; 1,024",
    "bridge/mqtt/converters/tasmota.py _kind": "names up to MAX_PATH; 1,024",
    "bridge/mqtt/converters/shelly.py _is_gen2_number": "names up to MAX_PATH; 1,024",
    "bridge/mqtt/converters/radio.py _is_rtl_number": "names up to MAX_PATH, levels up to MAX_TOPIC; 1,024",
    "bridge/mqtt/converters/message.py _any_of": "patterns of the configuration; 256",
    "bridge/broker/memory.py _Group.pending": "ids of entries; memory_cap",
    "bridge/broker/memory.py _Stream.groups": "groups of the program",
    "bridge/broker/memory.py MemoryBroker._streams": "streams of the program",
    "bridge/broker/memory.py MemoryBroker._singles": "ids of rows",
    "bridge/consumers/orchestrator.py Orchestrator._applied": "event ids of the streams",
    "bridge/consumers/worker.py Worker._held": "ids of entries",
    "bridge/consumers/worker.py Worker._remembered": "ids of entries",
    "edge/spool/hashes.py RecentIdentities._newer": "hashes; spool.recent_identities",
    "edge/registry/snapshot.py LocalRegistry._keys": "the registry",
    "edge/spool/file.py SpoolFile._insertions": "statements of the program",
}  # fmt: skip


def memories() -> Iterator[str]:
    """Every cached function, and every attribute that starts as an empty collection by a key that is no number."""
    for root in ("bridge", "edge"):
        for file in sorted((ROOT / root).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            if not path.startswith(MADE_BY_US):
                for name in found(ast.parse(file.read_text())):
                    yield f"{path} {name}"


def found(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any("cache" in ast.unparse(mark) for mark in node.decorator_list):
            yield node.name
        if isinstance(node, ast.ClassDef):
            for statement in (part for method in node.body for part in ast.walk(method)):
                match statement:
                    case ast.AnnAssign(target=ast.Attribute(attr=name), value=ast.expr() as value, annotation=kind):
                        if is_collection(value) and not BY_NUMBER.match(ast.unparse(kind)):
                            yield f"{node.name}.{name}"
                    case ast.Assign(targets=[ast.Attribute(attr=name)], value=value) if is_collection(value):
                        yield f"{node.name}.{name}"


def is_collection(value: ast.expr) -> bool:
    match value:
        case ast.Dict(keys=[]):
            return True
        case ast.Call(func=ast.Name(id="dict" | "set"), args=[_, *_]):
            return False  # a copy
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Subscript(value=ast.Name(id=name))):
            return name in COLLECTIONS
        case ast.Call(func=ast.Call(func=ast.Name(id=name))):
            return "cache" in name
    return False


def test_every_memory_says_what_bounds_its_keys() -> None:
    seen = set(memories())
    assert seen - BOUNDED.keys() == set(), "say here what bounds the length and the number of its keys"
    assert BOUNDED.keys() - seen == set(), "there is no such memory any more"


LONG = "é" * 100_000


def test_window_keeps_no_long_text() -> None:
    window = SlidingWindow("x", 2, 100)
    assert [check([(window, [(LONG, 1)])], 1.0).allowed for _ in range(3)] == [True, True, False]
    assert check([(window, [(LONG + "x", 1)])], 1.0).allowed
    assert all(len(key) <= MAX_KEY_LENGTH for key in window._windows if isinstance(key, str | bytes))


def test_uuid_of_any_length_is_not_remembered() -> None:
    before = decode._normal_uuid.cache_info().currsize
    for number in range(50):
        assert decode.normal_uuid(f"{number}{LONG}") is None
    assert decode._normal_uuid.cache_info().currsize == before


@pytest.mark.parametrize("topic", ["a/" + LONG[:20_000], "a/b"])
def test_topic_of_any_length_is_judged_and_only_a_short_one_remembered(topic: str) -> None:
    settings = ConverterSettings(format="ignore", filter="a/#")
    converters = Converters(MqttSettings(converters=(settings,)))
    is_short = len(topic) <= MAX_TOPIC
    for _ in range(2):
        assert (not converters.convert(topic, b"1", received_us=0).packet.rejections) == is_short
    assert len(converters._of_topic) == is_short
