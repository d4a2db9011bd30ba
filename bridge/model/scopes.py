"""What an API key may be allowed to do: the one table of scopes, which commands, doors and documentation share."""

from __future__ import annotations

from collections.abc import Collection

SCOPES = {
    "readings:write": "send readings: POST /ingest/readings and /ingest/readings/bulk",
    "status:read": "read the state of sensors: GET /sensors/{id}/status",
    "commands:write": "send commands to devices: POST /devices/{uuid}/commands",
    "commands:read": "read commands and their results: GET /devices/{uuid}/commands",
    "admin": "everything, with what later releases add",
}
"""Each scope, and what a key with it may do. A name is a contract: it stands in keys of every database."""

DEFAULT_SCOPES = ("readings:write", "status:read", "commands:write", "commands:read")
"""Of a key that is made without scopes, and of those that are older than scopes: what every key could do before there
were any. A scope that is added later is in no key until somebody puts it there (docs/decisions/0021)."""


def allows(scopes: Collection[str], scope: str) -> bool:
    """Whether a key with these scopes may do what `scope` stands for. Names that are not known here allow nothing."""
    return scope in scopes or "admin" in scopes
