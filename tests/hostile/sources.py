"""What can be attacked, found where it is defined: whatever is added there is attacked without a change here.

table of endpoints + OpenAPI ──► HttpTarget     documents for each body, parameters for each path and header
structs of the decoders      ──► own_documents  what our own topics carry
topics, formats, samples     ──► MqttTarget
structs of gateways' batches ──► the documents of the endpoints that only gateways call
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from bridge.gateway_protocol import batches
from bridge.http.app import build_app, service_endpoints
from bridge.http.door import Door
from bridge.http.endpoint import Endpoint
from bridge.mqtt.subscriptions import RESULTS
from bridge.pipeline import decode, forms
from bridge.settings.mqtt import MqttSettings
from edge.web import page
from tests.hostile.documents import Names, Schema, example
from tests.support import golden
from tests.unit.test_http_endpoints import parts

STRUCTS: dict[str, type[msgspec.Struct]] = {
    "/gateways/enrol": batches.EnrolmentRequest,
    "/gateways/{name}/batches": batches.UplinkBatch,
}
"""The bodies of endpoints that stay out of OpenAPI and decode a struct."""


class HttpTarget(NamedTuple):
    """An endpoint, and what stands in its requests."""

    method: str
    path: str
    document: Schema | None  # of its body, as JSON Schema
    root: Schema  # what the document refers to
    parameters: tuple[tuple[str, str], ...]  # (query or header, name)

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def levels(self) -> list[str]:
        """The names of the parameters in its path."""
        return re.findall(r"{(\w+)}", self.path)

    def good(self, names: Names) -> Any:
        """A body that breaks nothing, with whatever else the decoders know of; None where there is none."""
        if self.document is None:
            return None
        document = example(self.document, self.root, names)
        return _with_all_fields(document, names) if self.path not in STRUCTS else document


def http_targets(*, of_gateway: bool = False) -> list[HttpTarget]:
    """Every endpoint of the table of a service, in OpenAPI or not, and the document itself; or those of a gateway."""
    everything = parts()
    openapi = build_app(everything).openapi()
    endpoints = Door(everything).endpoints if of_gateway else service_endpoints(everything)
    more = page_paths() if of_gateway else ["/openapi.json"]
    found = [_http_target(endpoint, openapi) for endpoint in endpoints]
    return found + [HttpTarget("GET", path, None, {}, ()) for path in more]


def page_paths() -> list[str]:
    """What a gateway serves beside its door: the paths that the module of its page compares with."""
    texts = [node.value for node in ast.walk(ast.parse(inspect.getsource(page))) if isinstance(node, ast.Constant)]
    return sorted({text for text in texts if isinstance(text, str) and re.fullmatch(r"/[\w./-]*", text)})


def _http_target(endpoint: Endpoint, openapi: dict[str, Any]) -> HttpTarget:
    operation = openapi["paths"].get(endpoint.path, {}).get(endpoint.method.lower(), {})
    parameters = tuple(
        (each["in"], each["name"]) for each in operation.get("parameters", ()) if each["in"] in ("query", "header")
    )
    content = operation.get("requestBody", {}).get("content", {})
    document, root = next((each["schema"] for each in content.values()), None), openapi
    if document is None and endpoint.path in STRUCTS:
        document = root = msgspec.json.schema(STRUCTS[endpoint.path])
    if document is None and endpoint.method != "GET":
        fields = asked_fields(endpoint.run)
        document = {"type": "object", "properties": {name: {"type": "string"} for name in fields}}
    return HttpTarget(endpoint.method, endpoint.path, document, root, parameters)


def asked_fields(run: Callable[..., Any]) -> list[str]:
    """The names that the module of an endpoint asks a document for, by `fields.get("name")`."""
    module = sys.modules[inspect.unwrap(run).__module__]
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Call)]
    names = [
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "get"
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    ]
    return sorted(set(names) - {"authorization", "content-type", "secret"})


# -- what the decoders know


def decoder_structs() -> dict[str, type[msgspec.Struct]]:
    """The forms that `bridge.pipeline.decode` reads, by their names."""
    found: dict[str, type[msgspec.Struct]] = {}
    for name, each in vars(decode).items():
        if isinstance(each, forms.Form):
            found[name.strip("_").lower()] = each.kind
        elif isinstance(each, forms.PacketForm):
            found[f"{name.strip('_')} packet"] = each.strict.type
    return found


def own_documents(names: Names) -> dict[str, Any]:
    """A good document of each of these forms."""
    found = {}
    for name, struct in decoder_structs().items():
        schema = msgspec.json.schema(struct)
        found[name] = example(schema, schema, names)
    return found


def _with_all_fields(document: Any, names: Names) -> Any:
    """Add to each reading what decoders take and OpenAPI does not name, such as `msgId`."""
    if isinstance(document, dict) and "value" in document:
        known = {
            field: example(schema["properties"][field], root, names, field)
            for root in (msgspec.json.schema(struct) for struct in decoder_structs().values())
            for schema in (root["$defs"][root["$ref"].rpartition("/")[2]],)
            if "value" in schema["properties"]
            for field in schema["properties"]
        }
        return known | document
    if isinstance(document, dict):
        return {key: _with_all_fields(inner, names) for key, inner in document.items()}
    if isinstance(document, list):
        return [_with_all_fields(inner, names) for inner in document]
    return document


# -- MQTT


class MqttTarget(NamedTuple):
    """A topic that the bridge listens to, with a message that it takes there."""

    name: str
    topic: str  # of our own topics: a filter, whose levels are parameters
    payload: bytes | None = None  # None: whatever `own_documents` has

    @property
    def is_own(self) -> bool:
        return self.payload is None


def own_topics() -> list[MqttTarget]:
    """The topics of the settings, and those of answers to commands."""
    return [MqttTarget(topic, topic) for topic in (*MqttSettings().topics, RESULTS)]


def samples() -> Iterator[dict[str, Any]]:
    """One golden sample with readings for each format of other people: every format has some (by test)."""
    seen: set[str] = set()
    for path in golden.samples():
        sample = golden.load(path)
        taken = any(message.get("readings") for message in sample["messages"])
        if path.parent.name not in seen and taken:
            seen.add(path.parent.name)
            yield sample


def foreign_topics() -> list[MqttTarget]:
    """The messages of those samples."""
    return [
        MqttTarget(f"{sample['converter']['format']}: {message['topic']}", message["topic"], golden.payload_of(message))
        for sample in samples()
        for message in sample["messages"]
    ]


def converters() -> list[dict[str, Any]]:
    """What `mqtt.converters` is for all of them to be read."""
    return [sample["converter"] for sample in samples()]
