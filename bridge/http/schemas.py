"""What OpenAPI says of keys, bodies and answers. The hot path decodes by `pipeline.decode`, not by these.

Functions give the arguments of FastAPI's `add_api_route`, and are called only where there is one (`Endpoint.describe`).
The title of a model is its name in the document, by which generated clients know it: it stays where a class is renamed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from bridge.http.authentication import KEY_HEADERS, KeyKind
from bridge.model.reading import MAX_TIME_US, MIN_TIME_US

_INT64 = {"type": "integer", "minimum": -(1 << 63), "maximum": (1 << 63) - 1}
_NUMBER_TEXT = {"type": "string", "pattern": r"^-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?$"}
_UNIX_S = {"type": "number", "minimum": MIN_TIME_US // 1_000_000, "maximum": MAX_TIME_US // 1_000_000}
"""What is beyond is milliseconds, microseconds or nanoseconds. Texts that are times are of the same years."""

Value = Annotated[
    float | str | bool | None,
    WithJsonSchema(
        {
            "anyOf": [{"type": "number"}, _NUMBER_TEXT, {"type": "boolean"}, {"type": "null"}],
            "description": "In the sensor's unit; true and false are 1 and 0; null was not measured, and is not stored",
        }
    ),
]
MessageId = Annotated[
    str | None, WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1, "maxLength": 255}, {"type": "null"}]})
]
Moment = Annotated[
    float | str | None,
    WithJsonSchema({"anyOf": [_UNIX_S, {"type": "string", "format": "date-time"}, {"type": "null"}]}),
]
SequenceNumber = Annotated[int | None, WithJsonSchema({"anyOf": [_INT64, {"type": "null"}]})]
Uuid = Annotated[str, WithJsonSchema({"type": "string", "format": "uuid"})]
SensorId = Annotated[int, WithJsonSchema(_INT64 | {"minimum": 1})]


class _Schema(BaseModel):
    """Validators are built when they are used: a gateway has the rows of the table, and never uses them."""

    model_config = ConfigDict(defer_build=True)


class _Times(_Schema):
    """Of several times the first counts."""

    sensor_ts: Moment = Field(
        default=None, description="When it was measured (1900 to 2200): Unix seconds; wins over ts"
    )
    ts: Moment = Field(default=None, description="The same, ISO 8601; wins over timestamp")
    timestamp: Moment = Field(default=None, description="The same, ISO 8601")


class _Reading(_Times):
    value: Value
    sequence: SequenceNumber = Field(default=None, description="The sender's counter; part of the reading's identity")
    msgId: MessageId = Field(  # noqa: N815 - the wire's own name
        default=None, description="The sender's own identity for a reading without a time"
    )


class DeviceReading(_Reading):
    sensor_uuid: Uuid


class DevicePacket(_Times):
    readings: list[DeviceReading]


class NamedDevicePacket(DevicePacket):
    device_uuid: Uuid


class ApiReading(_Reading):
    sensor_id: SensorId


class ApiPacket(_Times):
    readings: list[ApiReading]


class Rejected(_Schema):
    index: int
    code: str
    detail: str


class Inserted(_Schema):
    inserted: int
    duplicates: int
    rejected: list[Rejected]
    ignored: list[str] = Field(
        default_factory=list, description="JSON paths of the first fields that nobody reads; only where there are any"
    )


class DeviceInserted(Inserted):
    unknown_sensors: list[str]
    ingested_ts: float


class ActiveAlert(_Schema):
    id: int
    sensor_id: int
    device_id: int
    threshold_id: int | None
    severity: Literal["info", "warning", "critical"]
    status: str
    triggered_value: float
    triggered_at: str
    threshold_kind: Literal["alert"] | None = Field(default=None, description="threshold_id is of alert_thresholds")


class ResolvedAlert(_Schema):
    id: int
    threshold_id: int | None
    severity: Literal["info", "warning", "critical"]
    triggered_value: float
    triggered_at: str
    resolved_at: str | None
    past: bool = Field(description="Late readings told of it: it was over before it was known")
    resolution: str | None = Field(
        description="Why: in_range, severity_changed, continued, threshold_changed, threshold_removed, sensor_inactive,"
        " device_disabled; none: by hand"
    )


class ActiveWarning(_Schema):
    id: int
    sensor_id: int
    device_id: int
    event_type: str
    event_code: str
    status: str
    created_at: str
    title: str
    message: str
    payload: Any
    threshold_id: int | None = None
    threshold_kind: Literal["delta"] | None = Field(default=None, description="threshold_id is of delta_thresholds")


class CurrentPrediction(_Schema):
    id: int
    sensor_id: int
    model_id: str
    predicted_value: float
    confidence: float | None
    predicted_at: str
    target_timestamp: str


class SensorStatus(_Schema):
    sensor_id: int
    final_state: Literal["alert", "warning", "prediction", "unknown"] = Field(description="The first that there is")
    alert_active: ActiveAlert | None
    warning_active: ActiveWarning | None
    prediction_current: CurrentPrediction | None = Field(description="The newest forecast that is still due")
    alert_resolved: ResolvedAlert | None = Field(default=None, description="The last alert that is over, and why")
    operational_state: str = "INITIALIZING"
    device_status: str = "offline"
    device_uuid: Uuid = Field(description="The sensor's device")


class CommandBody(_Schema):
    model_config = ConfigDict(title="Order")

    payload: Any = Field(description="What the device gets: text as it is, anything else as JSON")
    expires_in_s: float | None = Field(default=None, description="How long it may wait for the device")


class Command(_Schema):
    command_id: Uuid
    device_uuid: Uuid
    state: Literal["queued", "delivered", "done", "failed", "expired"]
    payload: Any
    created_at: str
    expires_at: str
    sent_at: str | None = Field(description="Since then the MQTT broker has it")
    delivered_at: str | None = Field(description="Since then the device has said that it has it")
    finished_at: str | None
    result: Any = Field(description="What the device answered; text where it was no JSON")


class ProblemDetails(_Schema):
    model_config = ConfigDict(title="Problem")

    type: str
    title: str
    status: int
    code: str
    detail: str
    where: str | None = Field(default=None, description="Of a body: the JSON path of the field that is wrong")


class Health(_Schema):
    status: str
    notes: list[str] = Field(default_factory=list, description="What the settings keep from consumers, if anything")


class Readiness(_Schema):
    status: Literal["ready", "not ready"]
    problems: list[str]
    degraded: list[str]
    notes: list[str] = Field(default_factory=list, description="What the settings keep from consumers, if anything")


_PROBLEMS = {
    400: "The client went away in the middle of the body",
    401: "No key, or one that is not usable",
    403: "A key of another device or of a disabled one, or without the scope",
    404: "No such thing",
    405: "Not with this method",
    408: "The body did not arrive in time",
    409: "The device is disabled",
    413: "The body is over the limit",
    415: "A content encoding that is not known",
    422: "A body that is not of the form",
    429: "Over a rate limit; see Retry-After",
    503: "Nothing can be stored now; see Retry-After and send the same again",
}


_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds"}}

SECURITY_SCHEMES: dict[KeyKind, str] = {"api": "ApiKey", "device": "DeviceKey"}
"""What the document calls each kind of key."""


def security_schemes() -> dict[str, Any]:
    """How each kind of key is sent."""
    headers = {name: KEY_HEADERS[kind] for kind, name in SECURITY_SCHEMES.items()}
    return {name: {"type": "apiKey", "in": "header", "name": header} for name, header in headers.items()}


def components() -> dict[str, Any]:
    """Schemas that `problems` and `ingest` refer to, by name."""
    found = [model.model_json_schema() for model in (ProblemDetails, DeviceReading, ApiReading)]
    return {schema["title"]: schema for schema in found}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these error statuses."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": _PROBLEMS[status],
            "content": {"application/problem+json": {"schema": schema}},
            **({"headers": _RETRY_AFTER} if status in (429, 503) else {}),
        }
        for status in statuses
    }


_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "description": "Identity of readings that carry no time of their own; the same key sent again stores nothing",
}


def answer(model: Any, *errors: int) -> dict[str, Any]:
    """An endpoint that takes nothing but its path, by its answer and the statuses of its errors."""
    return {"response_model": model, "responses": problems(*errors)}


def readiness() -> dict[str, Any]:
    """The endpoint that tells whether readings can be stored."""
    return {"response_model": Readiness, "responses": {503: {"model": Readiness}}}


def ingest(answer: type[BaseModel], body: type[BaseModel], max_readings: int = 1) -> dict[str, Any]:
    """An ingest endpoint: its answer, and the JSON body that it reads itself."""
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    if "readings" in schema["properties"]:
        schema["properties"]["readings"]["maxItems"] = max_readings
    return {
        "response_model": answer,
        "responses": problems(400, 401, 403, 408, 413, 415, 422, 429, 503),
        "openapi_extra": _request(schema),
    }


def command(max_expiry_s: float) -> dict[str, Any]:
    """The endpoint for a new command."""
    schema = CommandBody.model_json_schema()
    schema["properties"]["expires_in_s"] = {
        "anyOf": [{"type": "number", "minimum": 1, "maximum": max_expiry_s}, {"type": "null"}]
    }
    return {
        "status_code": 201,
        "response_model": Command,
        "responses": {200: {"model": Command}, **problems(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503)},
        "openapi_extra": _request(schema | {"additionalProperties": False}),
    }


def _request(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "parameters": [_IDEMPOTENCY_KEY],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
    }
