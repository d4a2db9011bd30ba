"""Sparkplug B payloads, encoded by the protobuf library: a second opinion on our own reader.

The schema is that of the specification (Sparkplug 3.0.0, section 6.4.4), as far as it is needed.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_METRIC_FIELDS = [
    ("name", 1, _FIELD.TYPE_STRING),
    ("alias", 2, _FIELD.TYPE_UINT64),
    ("timestamp", 3, _FIELD.TYPE_UINT64),
    ("datatype", 4, _FIELD.TYPE_UINT32),
    ("is_historical", 5, _FIELD.TYPE_BOOL),
    ("is_transient", 6, _FIELD.TYPE_BOOL),
    ("is_null", 7, _FIELD.TYPE_BOOL),
]
_VALUE_FIELDS = [
    ("int_value", 10, _FIELD.TYPE_UINT32),
    ("long_value", 11, _FIELD.TYPE_UINT64),
    ("float_value", 12, _FIELD.TYPE_FLOAT),
    ("double_value", 13, _FIELD.TYPE_DOUBLE),
    ("boolean_value", 14, _FIELD.TYPE_BOOL),
    ("string_value", 15, _FIELD.TYPE_STRING),
    ("bytes_value", 16, _FIELD.TYPE_BYTES),
]


_SUBMESSAGES: dict[str, list[tuple[str, int, Any]]] = {
    "PropertyValue": [("type", 1, _FIELD.TYPE_UINT32), ("int_value", 3, _FIELD.TYPE_UINT32)],
    "PropertySet": [("keys", 1, _FIELD.TYPE_STRING), ("values", 2, "PropertyValue")],
    "DataSet": [("num_of_columns", 1, _FIELD.TYPE_UINT64), ("columns", 2, _FIELD.TYPE_STRING)],
    "Template": [("version", 1, _FIELD.TYPE_STRING), ("metrics", 2, "Metric"), ("is_definition", 5, _FIELD.TYPE_BOOL)],
}
_REPEATED = ("keys", "values", "columns", "metrics")


def _payload_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="sparkplug_b_test.proto", package="sparkplug_test", syntax="proto2")
    payload = file.message_type.add(name="Payload")

    def add(message: Any, name: str, number: int, kind: Any, **options: Any) -> None:
        label = _FIELD.LABEL_REPEATED if name in _REPEATED else _FIELD.LABEL_OPTIONAL
        if isinstance(kind, str):
            options["type_name"] = f".sparkplug_test.Payload.{kind}"
            kind = _FIELD.TYPE_MESSAGE
        message.field.add(name=name, number=number, type=kind, label=label, **options)

    metric_type = payload.nested_type.add(name="Metric")
    metric_type.oneof_decl.add(name="value")
    for name, number, kind in _METRIC_FIELDS:
        add(metric_type, name, number, kind)
    add(metric_type, "properties", 9, "PropertySet")
    for name, number, value_kind in [
        *_VALUE_FIELDS,
        ("dataset_value", 17, "DataSet"),
        ("template_value", 18, "Template"),
    ]:
        add(metric_type, name, number, value_kind, oneof_index=0)
    for message, fields in _SUBMESSAGES.items():
        nested = payload.nested_type.add(name=message)
        for name, number, field_kind in fields:
            add(nested, name, number, field_kind)
    add(payload, "timestamp", 1, _FIELD.TYPE_UINT64)
    add(payload, "metrics", 2, "Metric")
    add(payload, "seq", 3, _FIELD.TYPE_UINT64)
    add(payload, "uuid", 4, _FIELD.TYPE_STRING)
    add(payload, "body", 5, _FIELD.TYPE_BYTES)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sparkplug_test.Payload"))


Payload = _payload_class()


def metric(name: str | None, timestamp: int | None, datatype: int | None, **fields: Any) -> dict[str, Any]:
    """One metric; `fields` are those of the schema."""
    given = {"name": name, "timestamp": timestamp, "datatype": datatype, **fields}
    return {key: value for key, value in given.items() if value is not None}


def encode(timestamp: int | None, metrics: list[dict[str, Any]], seq: int | None, **fields: Any) -> bytes:
    """A payload as bytes; `fields` are those of the schema."""
    given = {"timestamp": timestamp, "seq": seq, **fields}
    data: bytes = Payload(metrics=metrics, **{k: v for k, v in given.items() if v is not None}).SerializeToString()
    return data
