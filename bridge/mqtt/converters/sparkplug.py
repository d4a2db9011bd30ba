"""Sparkplug B (Eclipse Sparkplug 3.0.0): metrics of edge nodes and their devices, in protobuf.

https://sparkplug.eclipse.org/specification/version/3.0/. The one format with a memory: see `sparkplug_nodes`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial

from bridge.errors import DecodeError
from bridge.model.reading import Code, Packet
from bridge.mqtt.converters.message import MAX_ID, NOTHING, IncomingMessage, OutgoingMessage, PacketBuilder
from bridge.mqtt.converters.sparkplug_metric import DATE_TIME, DEFINITION, NULL, Metric, signed
from bridge.mqtt.converters.sparkplug_nodes import Known, Nodes
from bridge.mqtt.converters.sparkplug_payload import Payload, decode_payload, named, rebirth_request

NAMESPACE = "spBv1.0"
_OF_NODE = ("NBIRTH", "NDATA", "NDEATH")
_OF_DEVICE = ("DBIRTH", "DDATA", "DDEATH")
_COMMANDS = ("NCMD", "DCMD")
_LEAVE_OUT = ("bdSeq", "Node Control/*", "Device Control/*", "Node Info/*", "Properties/*")
BAD_QUALITY = "its quality is bad or stale"


def make_sparkplug() -> Callable[[IncomingMessage], Packet]:
    """A decoder with a memory of its own: every message of an edge node must come to the same one, in order."""
    nodes = Nodes()

    def sparkplug(message: IncomingMessage) -> Packet:
        return _decode(message, nodes)

    return sparkplug


def _decode(message: IncomingMessage, nodes: Nodes) -> Packet:
    match message.levels:
        case ["STATE", _] | [_, "STATE", _]:
            return NOTHING  # of host applications, in Sparkplug 2.2 and 3.0
        case [_, _, kind, *_] if kind in _COMMANDS:
            return NOTHING
        case [str(space), group, kind, node] if kind in _OF_NODE:
            device = ""
        case [str(space), group, kind, node, device] if kind in _OF_DEVICE and device:
            pass
        case _:
            detail = f"{message.topic[:200]!r} is no topic of Sparkplug: {NAMESPACE}/group/type/edge node[/device]"
            raise DecodeError(Code.BAD_TOPIC, detail, where="topic")
    if space != NAMESPACE:
        raise DecodeError(Code.BAD_TOPIC, f"the topic does not begin with {NAMESPACE}", where="topic")
    name = f"{group}/{node}/{device}" if device else f"{group}/{node}"
    if len(name) > MAX_ID:
        raise DecodeError(Code.BAD_FORM, f"{name[:80]!r} is no name of a device", where="device")
    payload = decode_payload(message.payload)
    seen = nodes.see(kind, f"{group}/{node}", device, payload, message.received_us)
    if seen.ask:
        message.outgoing.append(
            OutgoingMessage(f"{space}/{group}/NCMD/{node}", rebirth_request(message.received_us // 1_000))
        )
    readings = PacketBuilder(message, name, leave_out=_LEAVE_OUT)
    for index, (metric, known) in enumerate(zip(payload.metrics, seen.metrics, strict=True)):
        if kind == "NDEATH":
            _skip(readings)  # a will says what was known when the session began
        else:
            _add(readings, message, payload, index, metric, known)
    for place, value in payload.unknown:
        readings.add(place, value, place)
    return readings.packet(partial(_excerpts, message.payload, payload, seen.metrics))


def _add(
    readings: PacketBuilder, message: IncomingMessage, payload: Payload, index: int, metric: Metric, known: Known
) -> None:
    where = f"metrics[{index}]"
    if known.problem:
        readings.refuse(Code.BAD_FORM, f"{where}: {known.problem}; a rebirth is asked for")
        return
    if metric.kind in (NULL, DEFINITION):
        _skip(readings)
        return
    if known.datatype == DATE_TIME and not message.settings.take:
        _skip(readings)  # when something was, and no measurement
        return
    channel = known.name or ""
    if metric.bad_quality is not None:
        readings.add_unknown(channel, metric.value, BAD_QUALITY)
        return
    value: object = metric.raw if metric.kind else metric.value
    if type(value) is int:
        value = signed(value, known.datatype)
    try:
        stamp_ms = metric.timestamp_ms or payload.timestamp_ms or None  # 0 is a field that was not filled in
        ts_us = message.time(stamp_ms, f"{where}.timestamp", unit="ms")
    except DecodeError as error:
        readings.refuse(Code(error.reason), error.detail)
        return
    readings.add(channel, value, f"{where}.value", free=True, ts_us=ts_us)


def _skip(readings: PacketBuilder) -> None:
    """A metric that is known to be no measurement."""
    readings.pass_over()
    readings.add_known()


def _excerpts(
    data: bytes, payload: Payload, metrics: Collection[Known], indexes: Collection[int]
) -> Mapping[int, bytes]:
    """Payloads of one metric each, by its full name. What has no name keeps its own bytes; what is no metric, all."""
    found = dict.fromkeys(indexes, data)
    for index, (metric, known) in enumerate(zip(payload.metrics, metrics, strict=True), start=1):
        if index in found:
            found[index] = named(metric, known.name or "", known.datatype, payload.timestamp_ms)
    return found
