"""Whatever is added to the service is attacked: endpoints, fields of their bodies, decoders, topics, formats."""

from __future__ import annotations

import uuid
from random import Random

import msgspec
import pytest

from bridge.gateway_protocol import batches
from bridge.http.app import build_app, service_endpoints
from bridge.mqtt.converters.formats import FORMATS
from bridge.settings.mqtt import MqttSettings
from tests.acceptance.senders import Registered
from tests.hostile import sources
from tests.hostile.attacked import Loot
from tests.hostile.documents import doubled, example, paths, replaced, text_of
from tests.hostile.handovers import Handovers
from tests.hostile.messages import Messages
from tests.hostile.requests import Requests, names_of
from tests.hostile.values import heavy, light
from tests.unit.test_http_endpoints import parts


def registered(sensor_id: int) -> Registered:
    return Registered(str(uuid.uuid4()), "dk_key", {sensor_id: str(uuid.uuid4())})


LOOT = Loot(1, registered(1), 1, "ak_key", registered(2), 2, gateway="captured", gateway_key="gk_key")


def test_every_endpoint_is_attacked_by_its_body_its_headers_and_its_path() -> None:
    requests = Requests(LOOT, Random(1), 0.01)
    names = [request.name for request in (*requests.bodies(), *requests.heads(), *requests.bombs())]
    for endpoint in service_endpoints(parts()):
        assert any(name.startswith(f"{endpoint.method} {endpoint.path}, Host") for name in names), endpoint.path
        if "{" in endpoint.path:
            assert any(name.startswith(f"{endpoint.method} {endpoint.path}, {{") for name in names), endpoint.path


def test_every_field_that_openapi_names_is_attacked() -> None:
    names = {request.name.partition(" = ")[0] for request in Requests(LOOT, Random(1), 0.01).bodies()}
    document = build_app(parts()).openapi()
    bodies = {
        path: operation["post"]["requestBody"]["content"]["application/json"]["schema"]
        for path, operation in document["paths"].items()
        if "requestBody" in operation.get("post", {})
    }
    assert bodies
    for path, schema in bodies.items():
        for at in paths(example(schema, document, names_of(LOOT))):
            assert f"POST {path}, a reading {text_of(at)}" in names


@pytest.mark.parametrize("struct", [batches.UplinkBatch, batches.EnrolmentRequest])
def test_every_field_of_a_gateways_protocol_is_attacked(struct: type[msgspec.Struct]) -> None:
    (path,) = [path for path, found in sources.STRUCTS.items() if found is struct]
    names = {request.name.partition(" = ")[0] for request in Requests(LOOT, Random(1), 0.01).bodies()}
    schema = msgspec.json.schema(struct)
    wanted = {text_of(at) for at in paths(example(schema, schema, names_of(LOOT)))}
    told = {name.rpartition(" ")[2] for name in names if name.startswith(f"POST {path}, ")}
    assert wanted <= told


def test_every_body_of_the_gateways_protocol_is_known_here() -> None:
    """A struct that is neither part of another nor an answer is the body of an endpoint."""
    answers = {batches.BatchAnswer, batches.Enrolled, batches.RefusedCode}
    structs = {
        each
        for each in vars(batches).values()
        if isinstance(each, type) and issubclass(each, msgspec.Struct) and each.__module__ == batches.__name__
    }
    schemas = {each: msgspec.json.schema(each)["$defs"] for each in structs}
    parts_of_others = {name for each, found in schemas.items() for name in found if name != each.__name__}
    bodies = {each for each in structs - answers if each.__name__ not in parts_of_others}
    assert bodies == set(sources.STRUCTS.values())


def test_fields_of_hooks_are_found_in_their_source() -> None:
    (target,) = [target for target in sources.http_targets() if target.path == "/hooks/emqx/authn"]
    assert {"username", "password", "topic", "action"} <= set(target.good(names_of(LOOT)))


def test_what_openapi_does_not_name_and_decoders_take_is_attacked() -> None:
    (target,) = [target for target in sources.http_targets() if target.path == "/devices/{device_uuid}/readings"]
    (reading,) = target.good(names_of(LOOT))["readings"]
    assert {"msgId", "metadata", "sequence", "sensorId"} <= set(reading)


def test_every_topic_and_every_format_is_attacked() -> None:
    names = {message.name for message in Messages(LOOT, Random(1), 0.01).all()}
    for topic in MqttSettings().topics:
        assert any(name.startswith(f"{topic}, levels") for name in names)
        for form in sources.own_documents(names_of(LOOT)):
            assert any(name.startswith(f"{topic}, {form} $") for name in names)
    for name in set(FORMATS) - {"ignore"}:
        assert any(found.startswith(f"{name}: ") for found in names), name
    assert {entry["format"] for entry in sources.converters()} == set(FORMATS) - {"ignore"}


def test_a_gateway_serves_its_door_and_its_page() -> None:
    found = {target.path for target in sources.http_targets(of_gateway=True)}
    assert {"/ingest/packets", "/status.json", "/", "/metrics"} <= found
    assert "/gateways/enrol" not in found


def test_the_same_seed_gives_the_same_inputs() -> None:
    def names(seed: int) -> list[str]:
        return [request.name for request in Requests(LOOT, Random(seed), 0.05).bodies()]

    assert names(7) == names(7) != names(8)


def test_batches_have_names_of_their_own() -> None:
    assert len({request.name for request in Handovers(LOOT).all()}) > 20


def test_a_value_stands_where_it_was_put() -> None:
    document = {"a": [{"b": 1, "c": 2}]}
    assert replaced(document, ("a", 0, "b"), b"1e999") == b'{"a":[{"b":1e999,"c":2}]}'
    assert doubled(document, ("a", 0, "b"), b"-0.0") == b'{"a":[{"b":1,"c":2,"b":-0.0}]}'
    assert replaced(document, (), b"}") == b"}"


def test_heavy_values_differ_each_time() -> None:
    for value in heavy():
        assert value.make() != value.make(), value.name
    assert all(len(value.make()) < 60_000 for value in light())
