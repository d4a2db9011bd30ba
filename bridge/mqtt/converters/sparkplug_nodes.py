"""What is known of Sparkplug edge nodes: births give aliases their names, sequence numbers show what is missing.

Payloads of one edge node in, in the order in which they come; what each metric is called out, and whether
to ask for a rebirth. No I/O and no clock: `now_us` is an argument.

    unknown ──NBIRTH──► known ──gap──► waiting for the missing ones ──REORDER_US──► stale ──NBIRTH──► known
                          └──NDEATH──► unknown                                        (aliases may have moved)

Sparkplug 3.0.0, sections 5.12 (message ordering) and 5.13 (rebirth requests).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from bridge.mqtt.converters.message import MAX_ID
from bridge.mqtt.converters.sparkplug_metric import Metric
from bridge.mqtt.converters.sparkplug_payload import Payload

REORDER_US = 2_000_000
"""How long a missing message may be late ("a couple of seconds")."""
ASK_EVERY_US = 30_000_000
"""A node that does not answer a rebirth request is not asked more often."""
MAX_NODES = 10_000
MAX_NAMES = 1_000_000
"""Names and aliases kept, of all nodes; the node that was silent for longest is forgotten first, and asked again."""
_CHANGES = ("NBIRTH", "DBIRTH", "NDEATH", "DDEATH")
"""Messages after which other names are kept."""
SMALL = 128
"""Below, an integer is the same in every type, signed or not."""


class Known(msgspec.Struct, frozen=True):
    """What a metric is. `problem`: why that cannot be said, or not be relied on."""

    name: str | None
    datatype: int | None = None
    problem: str = ""


class Seen(msgspec.Struct, frozen=True):
    """Of one payload: its metrics, in order, and whether to ask the edge node for its births."""

    metrics: Sequence[Known]
    ask: bool = False


class _Node:
    """One edge node between two births."""

    def __init__(self) -> None:
        self.born = False
        self.stale = False
        self.names: dict[str, dict[str, int | None]] = {}  # by device ("": the node's own): name -> data type
        # By device: alias -> name. A topic names the device, and not every client numbers across devices.
        self.aliases: dict[str, dict[int, str]] = {}
        self.bd_seq: object = None
        self.expected = 0
        self.head_ms = -1  # when the newest message was sent
        self.missing: set[int] = set()
        self.missing_since_us = 0
        self.asked_us: int | None = None

    @property
    def size(self) -> int:
        """Names of devices and metrics, or aliases, whichever are more: none costs more than MAX_ID characters."""
        aliases = sum(len(aliases) for aliases in self.aliases.values())
        return max(aliases, sum(1 + len(names) for names in self.names.values()))


class Nodes:
    """Every edge node that one subscription hears."""

    def __init__(self, *, max_nodes: int = MAX_NODES, max_names: int = MAX_NAMES) -> None:
        self._max_nodes = max_nodes
        self._max_names = max_names
        self._nodes: OrderedDict[str, _Node] = OrderedDict()
        self._names = 0

    @property
    def names(self) -> int:
        """Names and aliases that are kept."""
        return self._names

    def see(self, kind: str, node_name: str, device: str, payload: Payload, now_us: int) -> Seen:
        """`kind` is the message type of the topic: NBIRTH, DBIRTH, NDATA, DDATA, NDEATH or DDEATH."""
        node = self._node(node_name)
        before = node.size if kind in _CHANGES else 0  # which has to look at each device
        if kind == "NBIRTH":
            _be_born(node, payload)
        elif kind == "NDEATH":
            if _bd_seq(payload) in (None, node.bd_seq):  # a will may come after the next birth
                del self._nodes[node_name]
                self._names -= before
            return Seen([Known(metric.name, metric.datatype) for metric in payload.metrics])
        else:
            _follow(node, payload, now_us)
        if kind in ("NBIRTH", "DBIRTH"):
            _learn(node, device, payload)
        elif kind == "DDEATH":
            _forget_device(node, device)
        if kind in _CHANGES:
            self._names += node.size - before
        self._shrink()
        metrics = [_identify(node, device, metric) for metric in payload.metrics]
        lost = not node.born or node.stale or any(known.problem for known in metrics)
        return Seen(metrics, lost and kind != "NBIRTH" and _may_ask(node, now_us))

    def _node(self, name: str) -> _Node:
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = _Node()
        self._nodes.move_to_end(name)
        return node

    def _shrink(self) -> None:
        """Forget the oldest; the node at hand is the newest, and goes last, where it is too large by itself."""
        while len(self._nodes) > self._max_nodes or self._names > self._max_names:
            self._names -= self._nodes.popitem(last=False)[1].size


def _be_born(node: _Node, payload: Payload) -> None:
    node.born, node.stale = True, False
    node.names.clear()
    node.aliases.clear()
    node.missing.clear()
    node.bd_seq = _bd_seq(payload)
    node.expected = ((payload.seq or 0) + 1) % 256
    node.head_ms = payload.timestamp_ms or -1
    node.asked_us = None


def _follow(node: _Node, payload: Payload, now_us: int) -> None:
    """Hold a message's sequence number against what was due."""
    seq = payload.seq
    if node.missing and now_us - node.missing_since_us > REORDER_US:
        node.stale = True
    if seq is None or not node.born:
        return
    sent_ms = payload.timestamp_ms or 0
    ahead = (seq - node.expected) % 256
    if ahead == 0:
        node.expected = (seq + 1) % 256
    elif seq in node.missing:
        node.missing.discard(seq)
    elif sent_ms <= node.head_ms:
        return  # had it already
    elif ahead < 128:
        if not node.missing:
            node.missing_since_us = now_us
        node.missing.update((node.expected + step) % 256 for step in range(ahead))
        node.expected = (seq + 1) % 256
    else:
        node.stale = True  # newer, and yet counted from a smaller number: a birth has passed us by
    node.head_ms = max(node.head_ms, sent_ms)


def _learn(node: _Node, device: str, payload: Payload) -> None:
    _forget_device(node, device)
    names = node.names[device] = {}
    aliases = node.aliases[device] = {}
    for metric in payload.metrics:
        name = _full(metric.name, metric.member)
        if metric.name and name and len(name) <= MAX_ID:  # of a longer one there will never be a reading
            names[name] = metric.datatype
            if metric.alias is not None:
                aliases[metric.alias] = metric.name


def _forget_device(node: _Node, device: str) -> None:
    node.names.pop(device, None)
    node.aliases.pop(device, None)


def _full(name: str | None, member: str) -> str | None:
    """The name of a member of a template has that of the template before it."""
    return f"{name}/{member}" if name and member else name


def _identify(node: _Node, device: str, metric: Metric) -> Known:
    if metric.name:
        return _typed(node, device, metric, metric.name)
    if metric.alias is None:
        return Known(None, None, "it has neither name nor alias")
    name = node.aliases.get(device, {}).get(metric.alias)
    if name is None:
        return Known(None, None, f"no birth says what alias {metric.alias} stands for")
    known = _typed(node, device, metric, name)
    if node.stale and not known.problem:
        problem = f"a birth may be missing, so alias {metric.alias} may not be {name[:80]} any more"
        return Known(known.name, known.datatype, problem)
    return known


def _typed(node: _Node, device: str, metric: Metric, name: str) -> Known:
    full = _full(name, metric.member)
    datatype = metric.datatype or node.names.get(device, {}).get(full or "")
    if datatype is None and type(metric.value) is int and metric.value >= SMALL:
        return Known(full, None, "no birth says which integer type it has")
    return Known(full, datatype)


def _may_ask(node: _Node, now_us: int) -> bool:
    if node.asked_us is not None and 0 <= now_us - node.asked_us < ASK_EVERY_US:
        return False
    node.asked_us = now_us
    return True


def _bd_seq(payload: Payload) -> object:
    return next((metric.value for metric in payload.metrics if metric.name == "bdSeq"), None)
