"""What OpenAPI says of bodies and answers. The hot path decodes by `pipeline.decode`, not by these."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

Moment = float | str


class DeviceReading(BaseModel):
    sensor_uuid: str
    value: float | str
    sensor_ts: Moment | None = Field(default=None, description="Unix seconds; wins over the packet's ts")
    sequence: int | None = None


class DevicePacket(BaseModel):
    ts: Moment | None = Field(default=None, description="ISO 8601; UTC where it names no zone")
    readings: list[DeviceReading]


class NamedDevicePacket(DevicePacket):
    device_uuid: str


class ApiReading(BaseModel):
    sensor_id: int
    value: float | str
    timestamp: Moment | None = None


class ApiPacket(BaseModel):
    readings: list[ApiReading]


class Rejected(BaseModel):
    index: int
    code: str
    detail: str


class Inserted(BaseModel):
    inserted: int
    duplicates: int
    rejected: list[Rejected]


class DeviceInserted(Inserted):
    unknown_sensors: list[str]
    ingested_ts: float


class SensorStatus(BaseModel):
    sensor_id: int
    final_state: Literal["alert", "warning", "prediction", "unknown"]
    alert_active: dict[str, Any] | None
    warning_active: dict[str, Any] | None
    prediction_current: dict[str, Any] | None
    operational_state: str = "INITIALIZING"
    device_status: str = "offline"


class Problem(BaseModel):
    type: str
    title: str
    status: int
    code: str
    detail: str


class Health(BaseModel):
    status: str


class Readiness(BaseModel):
    status: Literal["ready", "not ready"]
    problems: list[str]


_PROBLEMS = {
    400: "The client went away in the middle of the body",
    401: "No key, or one that is not usable",
    403: "A key of another device, or of a disabled one",
    404: "No such thing",
    405: "Not with this method",
    408: "The body did not arrive in time",
    413: "The body is over the limit",
    415: "A content encoding that is not known",
    422: "A body that is not of the form",
    429: "Over a rate limit; see Retry-After",
    503: "Nothing can be stored now; see Retry-After and send the same again",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these error statuses."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": _PROBLEMS[status], "content": {"application/problem+json": {"schema": schema}}}
        for status in statuses
    }


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """openapi_extra for a JSON body that the route reads itself."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
