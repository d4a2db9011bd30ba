"""What a gateway waits for, by what the service knows of it. Pure: a row in, sentences out, each with its command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from bridge.gateway_protocol.batches import GatewayState

SILENT_S = 300.0
"""Ten of its reports."""
CLOCK_S = 30.0
"""As `iot-edge check` has it."""
WAITING_S = 60.0
"""A backlog that is older does not drain by itself with the next batch."""


def state_of(row: Mapping[str, Any]) -> GatewayState:
    """Return what a gateway has said of itself; what is not of the form (of a release before) counts as not said."""
    try:
        return msgspec.convert(row["state"] or {}, GatewayState)
    except (msgspec.ValidationError, RecursionError):
        return GatewayState()


def waits_for(row: Mapping[str, Any], service_version: str) -> list[str]:
    """Return it, the most urgent first; empty: it is well."""
    return list(_waits(row, state_of(row), service_version))


def _waits(row: Mapping[str, Any], state: GatewayState, service_version: str) -> Iterator[str]:
    name = row["name"]
    new_code = f"iot-bridge gateway code {name}; there: sudo iot-edge enrol URL CODE"
    if row["status"] == "revoked":
        yield f"a new code, for it was revoked: {new_code}"
        return
    if row["status"] == "new":
        until = row["code_until"]
        yield (
            f"its enrolment: the code holds until {until}"
            if until
            else f"a new code, for the last has expired: {new_code}"
        )
        return
    if row["silent_s"] is None or row["silent_s"] > SILENT_S:
        yield f"a sign of life: silent for {span(row['silent_s'])}; there: sudo iot-edge check"
    yield from _clock(row, state)
    yield from _update(row, state, service_version)
    if state.reboot_required:
        yield "a reboot, for what apt has installed"
    if state.backlog_records and (row.get("oldest_s") or 0) > WAITING_S:
        yield f"its backlog to drain: {state.backlog_records} readings, the oldest {span(row['oldest_s'])} old"
    yield from state.problems


def _clock(row: Mapping[str, Any], state: GatewayState) -> Iterator[str]:
    off_s = None if row["clock_ahead_s"] is None else float(row["clock_ahead_s"])
    if not state.clock_set:
        yield "its clock to be set; there: sudo iot-edge check"
    elif off_s is not None and abs(off_s) > CLOCK_S:
        yield f"its clock to be set: {span(abs(off_s))} {'ahead of' if off_s > 0 else 'behind'} ours"


def _update(row: Mapping[str, Any], state: GatewayState, service_version: str) -> Iterator[str]:
    if state.candidate:
        how = "sudo apt-mark unhold iot-edge" if state.held else "sudo apt-get install --only-upgrade iot-edge"
        held = ", which is on hold" if state.held else ""
        yield f"an update from {state.package} to {state.candidate}{held}; there: {how}"
    elif row["version"] and row["version"] != service_version:
        yield f"an update: it is of release {row['version']}, this service of {service_version}"


def span(seconds: float | None) -> str:
    """Return a span of time as people say it."""
    if seconds is None:
        return "ever"
    for limit, unit, word in ((120, 1, "s"), (5_400, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {word}"
    return f"{seconds / 86_400:,.0f} days"
