"""Hostile HTTP requests as bytes: every endpoint, with each field, header and level of its path replaced in turn.

A `Request` is made when it is sent, so that times and counters in it are those of the moment.
"""

from __future__ import annotations

import gzip
import itertools
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from random import Random
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from tests.hostile.attacked import Loot
from tests.hostile.documents import Names, doubled, paths, replaced, text_of
from tests.hostile.sources import HttpTarget, http_targets
from tests.hostile.values import Value, heavy, light, texts

GZIP_FROM = 100_000
"""Bodies of so many bytes are sent compressed, as an attacker would."""
HEADERS = (
    *("X-Device-Key", "X-API-Key", "X-Gateway-Key", "Authorization", "Idempotency-Key", "Content-Type"),
    *("Content-Encoding", "Content-Length", "Transfer-Encoding", "X-Forwarded-For", "Host", "Expect", "Connection"),
    *("Upgrade", "If-None-Match", "Cookie", "Accept-Encoding", "Range"),
)
ENDS = (
    "%0a",
    "%00",
    "/",
    "//",
    "/.",
    "/..%2f",
    ";a=b",
    "?secret=%00",
    "?limit=-1&limit=1e999",
    "#a",
    "%",
    "%zz",
    "\xff",
)
"""What is put behind a path."""
METHODS = ("HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "X" * 300)


class Request(NamedTuple):
    """A hostile request. Its name says what is wrong with it."""

    name: str
    make: Callable[[], bytes]


def names_of(loot: Loot) -> Names:
    """What a good document of the captured device holds."""
    numbers = itertools.count(time.time_ns() // 1_000)
    sensor_id, sensor_uuid = loot.sensor_id, loot.sensor_uuid
    given: dict[str, Callable[[], Any]] = {
        **dict.fromkeys(("device_uuid", "deviceUuid", "username"), lambda: loot.device.uuid),
        **dict.fromkeys(("sensor_uuid", "sensorUuid"), lambda: sensor_uuid),
        **dict.fromkeys(("sensor_id", "sensorId", "sensor"), lambda: sensor_id),
        **dict.fromkeys(("sensor_ts", "ts", "timestamp"), time.time),
        **dict.fromkeys(("received_us", "ts_us", "oldest_us"), lambda: time.time_ns() // 1_000),
        **dict.fromkeys(("sequence", "id"), lambda: next(numbers)),
        **dict.fromkeys(("command_id",), lambda: str(uuid.uuid4())),
        "device_id": lambda: loot.device_id,
        "msgId": lambda: f"m{next(numbers)}",
        "identity": lambda: None,
        "payload": lambda: b64encode(packet_of(loot.sensor_uuid, next(numbers))).decode(),
        "epoch": lambda: "hostile",
        "name": lambda: loot.gateway,
        "code": lambda: "bad_json",
        "password": lambda: loot.device.key,
        "acc": lambda: "2",
        "action": lambda: "publish",
        "topic": lambda: f"devices/{loot.device.uuid}/readings",
        "expires_in_s": lambda: 60,
    }
    return given


def packet_of(sensor_uuid: str, sequence: int) -> bytes:
    """A packet that would be stored."""
    return msgspec.json.encode(
        {"readings": [{"sensor_uuid": sensor_uuid, "value": 20.5, "sensor_ts": time.time(), "sequence": sequence}]}
    )


def keys_of(loot: Loot) -> dict[str, bytes]:
    """Every credential at once: an endpoint takes the one that it asks for."""
    return {
        "X-Device-Key": loot.device.key.encode(),
        "X-API-Key": loot.api_key.encode(),
        "X-Gateway-Key": loot.gateway_key.encode(),
        "Authorization": b"Bearer " + loot.hook_secret.encode(),
    }


def encode(method: str, path: bytes, headers: Mapping[str, bytes], body: bytes) -> bytes:
    """A request of HTTP/1.1 after which the connection is closed. `headers` win over those that belong there."""
    lines = {"Host": b"bridge", "Connection": b"close", "Content-Type": b"application/json"}
    if len(body) >= GZIP_FROM:
        body = gzip.compress(body, 6)
        lines["Content-Encoding"] = b"gzip"
    lines |= {"Content-Length": str(len(body)).encode()} | dict(headers)
    head = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in lines.items())
    return method.encode() + b" " + path + b" HTTP/1.1\r\n" + head + b"\r\n" + body


class Requests:
    """Makes the hostile requests. `share` of the light values are tried at each place, chosen by `random`."""

    def __init__(self, loot: Loot, random: Random, share: float) -> None:
        self._names = names_of(loot)
        self._keys = keys_of(loot)
        self._random = random
        self._share = share
        self._targets = http_targets(of_gateway=loot.of_gateway)

    def good(self) -> Iterator[Request]:
        """Each endpoint as it should be asked."""
        for target in self._targets:
            yield self._request(
                target, "as it should be", lambda document: b"" if document is None else _json(document)
            )

    def bodies(self) -> Iterator[Request]:
        """Each field of each body, replaced by light values; and with its key twice."""
        for target in self._targets:
            for variant, at in self._places(target):
                what = f"{variant} {text_of(at)}"
                for value in self._some(light()):
                    yield self._request(target, f"{what} = {value.name}", partial(_replace, at, value), variant)
                value = self._random.choice(light())
                yield self._request(target, f"{what} twice, {value.name}", partial(_double, at, value), variant)

    def bombs(self) -> Iterator[Request]:
        """Heavy values: as a whole body, and in fields."""
        for target in self._targets:
            for variant, at in self._places(target):
                chosen = heavy() if len(at) < 2 and self._share == 1 else self._random.sample(heavy(), 1)
                for value in chosen:
                    what = f"{variant} {text_of(at)} = {value.name}"
                    yield self._request(target, what, partial(_replace, at, value), variant)

    def heads(self) -> Iterator[Request]:
        """Headers, paths, queries and methods."""
        for target in self._targets:
            body = target.good(self._names)
            raw = b"" if body is None else _json(body)
            described = [name for where, name in target.parameters if where == "header"]
            for name in dict.fromkeys((*HEADERS, *described)):
                for what, text in self._some(list(texts().items())):
                    yield Request(
                        f"{target.name}, {name}: {what}",
                        partial(self._encode, target.method, target.path, {name: text.replace(b"\0", b"\x01")}, raw),
                    )
            for query in [name for where, name in target.parameters if where == "query"]:
                for what, text in self._some(list(texts().items())):
                    end = f"?{query}={quote(text)}"
                    yield Request(f"{target.name}?{query} = {what}", self._at(target, {}, raw, end))
            yield from self._paths(target, raw)

    def _paths(self, target: HttpTarget, raw: bytes) -> Iterator[Request]:
        for level in target.levels:
            for what, text in self._some(list(texts().items())):
                yield Request(f"{target.name}, {{{level}}} = {what}", self._at(target, {level: quote(text, "")}, raw))
            long = quote(b"%d" % self._random.getrandbits(64) + b"-" * 20_000)
            yield Request(f"{target.name}, {{{level}}} of 20 KB", self._at(target, {level: long}, raw))
        for end in self._some(list(ENDS)):
            yield Request(f"{target.name} with {end!r} behind it", self._at(target, {}, raw, end))
        for method in self._some(list(METHODS)):
            yield Request(f"{method[:10]} {target.path}", partial(self._encode, method, target.path, {}, raw))

    def _places(self, target: HttpTarget) -> Iterator[tuple[str, tuple[str | int, ...]]]:
        document = target.good(self._names)
        if document is not None:
            for variant, of in variants(document).items():
                for at in paths(of):
                    yield variant, at

    def _some(self, values: list[Any]) -> list[Any]:
        return self._random.sample(values, max(1, round(self._share * len(values))))

    def _request(
        self, target: HttpTarget, what: str, body: Callable[[Any], bytes], variant: str = "a reading"
    ) -> Request:
        def make() -> bytes:
            document = target.good(self._names)
            chosen = variants(document)[variant] if document is not None else None
            return self._encode(target.method, target.path, {}, body(chosen))

        return Request(f"{target.name}, {what}", make)

    def _at(self, target: HttpTarget, levels: dict[str, str], body: bytes, end: str = "") -> Callable[[], bytes]:
        path = target.path
        for level, text in levels.items():
            path = path.replace(f"{{{level}}}", text)
        return partial(self._encode, target.method, path + end, {}, body)

    def _encode(self, method: str, path: str, headers: Mapping[str, bytes], body: bytes) -> bytes:
        for name, value in self._names.items():
            path = path.replace(f"{{{name}}}", str(value()))
        return encode(method, path.encode("latin-1"), {**self._keys, **headers}, body)


def variants(document: Any) -> dict[str, Any]:
    """A batch of a gateway holds readings, or what it has quarantined; any other document is what it is."""
    records = document.get("records") if isinstance(document, dict) else None
    if not records:
        return {"a reading": document}
    told = ("code", "detail", "payload", "topic", "index")
    return {
        "a reading": document | {"records": [{k: v for k, v in each.items() if k not in told} for each in records]},
        "quarantined": document,
    }


def _json(document: Any) -> bytes:
    return msgspec.json.encode(variants(document)["a reading"])


def _replace(at: tuple[str | int, ...], value: Value, document: Any) -> bytes:
    return replaced(document, at, value.make())


def _double(at: tuple[str | int, ...], value: Value, document: Any) -> bytes:
    return doubled(document, at, value.make())
