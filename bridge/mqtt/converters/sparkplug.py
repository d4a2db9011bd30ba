"""Sparkplug B (Eclipse Sparkplug 3.0.0): metrics of edge nodes and their devices, in protobuf.

https://sparkplug.eclipse.org/specification/version/3.0/. The one format with a memory: see `sparkplug_nodes`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial

from bridge.errors import DecodeError
from bridge.model.reading import Code, Packet
from bridge.mqtt.converters.message import MAX_ID, NOTHING, IncomingMessage, OutgoingMessage, PacketBuilder
from bridge.mqtt.converters.sparkplug_nodes import Known, Nodes
from bridge.mqtt.converters.sparkplug_payload import Metric, Payload, decode_payload, named, rebirth_request, signed

NAMESPACE = "spBv1.0"
_OF_NODE = ("NBIRTH", "NDATA", "NDEATH")
_OF_DEVICE = ("DBIRTH", "DDATA", "DDEATH")
_LEAVE_OUT = ("bdSeq", "Node Control/*", "Device Control/*", "Node Info/*", "Properties/*")


def make_sparkplug() -> Callable[[IncomingMessage], Packet]:
    """A decoder with a memory of its own: every message of an edge node must come to the same one, in order."""
    nodes = Nodes()

    def sparkplug(message: IncomingMessage) -> Packet:
        return _decode(message, nodes)

    return sparkplug


def _decode(message: IncomingMessage, nodes: Nodes) -> Packet:
    match message.levels:
        case [str(space), group, kind, node] if kind in _OF_NODE:
            device = ""
        case [str(space), group, kind, node, device] if kind in _OF_DEVICE and device:
            pass
        case [str(space), *_]:
            return NOTHING  # commands, and STATE of host applications
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
    for index, (metric, known) in enumerate(zip(payload.metrics, seen.metrics, strict=False)):
        _add(readings, message, payload, index, metric, known)
    return readings.packet(partial(_excerpts, message.payload, payload, seen.metrics))


def _add(
    readings: PacketBuilder, message: IncomingMessage, payload: Payload, index: int, metric: Metric, known: Known
) -> None:
    where = f"metrics[{index}]"
    if known.problem:
        readings.refuse(Code.BAD_FORM, f"{where}: {known.problem}; a rebirth is asked for")
        return
    value = metric.value
    if type(value) is int:
        value = signed(value, known.datatype)
    stamp = payload.timestamp_ms if metric.timestamp_ms is None else metric.timestamp_ms
    try:
        ts_us = message.time(None if stamp is None else stamp / 1_000, f"{where}.timestamp")
    except DecodeError as error:
        readings.refuse(Code(error.reason), error.detail)
        return
    readings.add(known.name or "", value, f"{where}.value", ts_us=ts_us)


def _excerpts(
    data: bytes, payload: Payload, metrics: Collection[Known], indexes: Collection[int]
) -> Mapping[int, bytes]:
    """Payloads of one metric each, by its full name. What has no name keeps its own bytes."""
    found: dict[int, bytes] = {}
    for index, (metric, known) in enumerate(zip(payload.metrics, metrics, strict=True), start=1):
        if index in indexes:
            found[index] = named(metric, known.name or "", known.datatype, payload.timestamp_ms)
    return found if found else dict.fromkeys(indexes, data)
