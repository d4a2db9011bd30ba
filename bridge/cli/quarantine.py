"""`iot-bridge quarantine`: what could not be stored, and why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.console import FAILED, Config, DataDir, Json, NotFound, Rows, admin, connect_admin, settings, show
from bridge.errors import ConfigError
from bridge.model.reading import Source

if TYPE_CHECKING:
    from bridge.settings.service import Settings
    from bridge.store.admin import Admin

Ids = Annotated[list[int] | None, typer.Argument(help="Ids, as list shows them.")]
CodeOption = Annotated[str | None, typer.Option(help="Only this reason code.")]
ALL = 1_000_000
PAGE = 500
"""Rows replayed, or dropped, at a time: their payloads are in memory together."""


def register(app: typer.Typer) -> None:
    noun = typer.Typer(no_args_is_help=True, help="Readings that could not be stored.")
    noun.command("list")(list_rows)
    noun.command("show")(show_row)
    noun.command("replay")(replay)
    noun.command("drop")(drop)
    noun.command("usage")(usage)
    app.add_typer(noun, name="quarantine")


def list_rows(
    code: CodeOption = None,
    limit: Rows = 100,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List quarantined readings, newest first.

    Example: iot-bridge quarantine list --code unknown_sensor
    """
    _check_code(code)
    with admin(config, data_dir) as connection:
        show(connection.fetch("list_quarantine", code=code, pending=None, limit=limit), json)


def usage(
    limit: Rows = 100,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """What quarantine holds of each device, gateway, and of unknown senders, and what was thinned of it.

    Example: iot-bridge quarantine usage
    """
    with admin(config, data_dir) as connection:
        show(connection.fetch("quarantine_usage", limit=limit), json)


def show_row(
    row_id: Annotated[int, typer.Argument(help="Id, as list shows it.")],
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """One quarantined reading with its bytes, as text where they are text and in hexadecimal.

    Example: iot-bridge quarantine show 7
    """
    with admin(config, data_dir) as connection:
        row = _row(connection, row_id)
    payload = bytes(row.pop("payload"))
    for internal in ("received_us", "sender_device"):
        row.pop(internal)
    text = payload.decode(errors="replace")
    row["text"] = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    row["hex"] = payload.hex()
    show(row, json)


def drop(
    ids: Ids = None, code: CodeOption = None, config: Config = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Delete quarantined readings; the ledger remembers how many.

    Example: iot-bridge quarantine drop --code bad_json
    """
    with admin(config, data_dir) as connection:
        chosen = _chosen(connection, ids, code, pending=False)
        dropped = sum(connection.drop_quarantine(some) for some in _pages(chosen))
    if ids and not dropped:
        raise NotFound("nothing in quarantine has these ids; see iot-bridge quarantine list")
    show({"dropped": dropped}, json)


def replay(
    ids: Ids = None, code: CodeOption = None, config: Config = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Take quarantined bytes through the pipeline again, once their cause is mended.

    What is stored now is marked as replayed; what is refused again stays as it was. Exit code 1 if any is.
    What a gateway has brought is judged by what it may speak for now.

    Example: iot-bridge quarantine replay --code unknown_sensor
    """
    with settings(config, data_dir) as found, connect_admin(found) as connection:
        results = asyncio.run(_replay(found, connection, _chosen(connection, ids, code, pending=True)))
    show(results, json, columns=("id", "outcome", "code", "detail"))
    if any(result["outcome"] not in ("stored", "duplicate") for result in results):
        raise SystemExit(FAILED)


async def _replay(found: Settings, connection: Admin, ids: Sequence[int]) -> list[dict[str, Any]]:
    rows = [row for some in _pages(ids) for row in connection.fetch("quarantine_sources", ids=some)]
    imported = {row["id"] for row in rows if row["source"] == Source.IMPORT}
    # History was imported without regard to its age, so it is replayed likewise.
    ageless = found.model_copy(update={"pipeline": found.pipeline.model_copy(update={"max_behind_s": time.time()})})
    results = await _replay_with(found, connection, [row_id for row_id in ids if row_id not in imported])
    return results + await _replay_with(ageless, connection, [row_id for row_id in ids if row_id in imported])


async def _replay_with(found: Settings, connection: Admin, ids: Sequence[int]) -> list[dict[str, Any]]:
    from bridge.maintenance.quarantine_replay import SETTLED, QuarantineReplay, Speakers
    from bridge.mqtt.converters.select import Converters
    from bridge.service.core import open_core

    results: list[dict[str, Any]] = []
    if not ids:
        return results
    converters = Converters(found.mqtt)
    async with open_core(found) as core:
        for some in _pages(ids):
            rows = [_row(connection, row_id) for row_id in some]
            # Asked anew for each page: a replay may take a while.
            speakers = Speakers(_gateways(connection, rows), _api_keys(connection, rows))
            replay = QuarantineReplay(
                core.pipeline, core.check, converters, speakers, found.http.max_readings_per_packet
            )
            done = await asyncio.gather(*(replay.replay(row) for row in rows))
            connection.mark_replayed([row["id"] for row in done if row["outcome"] in SETTLED])
            results += done
    return results


def _gateways(connection: Admin, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    ids = {row["gateway_id"] for row in rows} - {None}
    names = {row["gateway"] for row in rows} - {None}
    return connection.fetch("speakers", ids=list(ids), names=list(names)) if names else []


def _api_keys(connection: Admin, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    from bridge.maintenance.quarantine_replay import api_key_of

    ids = {key_id for row in rows if (key_id := api_key_of(row["sender"])) is not None}
    return connection.fetch("api_key_speakers", ids=list(ids)) if ids else []


def _chosen(connection: Admin, ids: list[int] | None, code: str | None, *, pending: bool) -> list[int]:
    if ids:
        beyond = [str(row_id) for row_id in ids if not 0 < row_id < 1 << 63]
        if beyond:
            raise NotFound(f"nothing in quarantine has the id {beyond[0]}; see iot-bridge quarantine list")
        return list(dict.fromkeys(ids))
    if code is None:
        raise ConfigError(["name ids, or a reason code with --code"])
    _check_code(code)
    return [row["id"] for row in connection.fetch("list_quarantine", code=code, pending=pending, limit=ALL)]


def _check_code(code: str | None) -> None:
    from bridge.model.reading import Code as ReasonCode

    if code is not None and code not in list(ReasonCode):
        raise ConfigError([f"--code {code}: allowed is one of {', '.join(ReasonCode)}"])


def _pages(ids: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(ids), PAGE):
        yield list(ids[start : start + PAGE])


def _row(connection: Admin, row_id: int) -> dict[str, Any]:
    rows = connection.fetch("show_quarantine", id=row_id) if 0 < row_id < 1 << 63 else []
    if not rows:
        raise NotFound(f"nothing in quarantine has the id {row_id}; see iot-bridge quarantine list")
    return rows[0]
