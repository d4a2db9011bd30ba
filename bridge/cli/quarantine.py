"""`iot-bridge quarantine`: what could not be stored, and why."""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from bridge.cli.console import (
    FAILED,
    UNAVAILABLE,
    Bar,
    Config,
    DataDir,
    Json,
    JsonList,
    NotFound,
    Rows,
    admin,
    connect_admin,
    say,
    settings,
    show,
    warn,
)
from bridge.cli.device import find
from bridge.errors import ConfigError

if TYPE_CHECKING:
    from bridge.settings.service import Settings
    from bridge.store.admin import Admin

Ids = Annotated[list[int] | None, typer.Argument(help="Ids, as list shows them.")]
CodeOption = Annotated[str | None, typer.Option(help="Only this reason code.")]
_NAME_SOME = "name ids, or a reason code with --code"
ALL = 1_000_000
PAGE = 500
"""Rows replayed, or dropped, at a time: their payloads are in memory together."""
PAGE_BYTES = 4 << 20
"""Of the payloads of rows replayed at a time; one payload alone may have 256 KiB."""


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
        chosen = _chosen(connection, ids, code)
        dropped = sum(connection.drop_quarantine(some) for some in _pages(chosen))
    if ids and not dropped:
        raise NotFound("nothing in quarantine has these ids; see iot-bridge quarantine list")
    show({"dropped": dropped}, json)


def replay(
    ids: Ids = None,
    code: CodeOption = None,
    device: Annotated[str | None, typer.Option(help="Only of this device: UUID or id.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that was not replayed yet, of every code.")] = False,
    config: Config = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Take quarantined bytes through the pipeline again, once their cause is mended: the oldest first.

    Each reading is stored as it would have been when it came. What is stored now is marked as replayed; what is
    refused again stays as it was. What a gateway has brought is judged by what it may speak for now.
    Killed in the middle, or without a database, it is begun again with the same command: nothing is stored twice.
    Exit code 1 if anything is refused, 3 if the database goes away.

    Example: iot-bridge quarantine replay --code unknown_sensor
    """
    with settings(config, data_dir) as found, connect_admin(found) as connection:
        chosen = _to_replay(connection, ids, code, device, everything=everything)
        answer = _Answer(len(chosen.ids), json)
        if chosen.ids:
            asyncio.run(_replay(found, connection, chosen, answer))
        answer.end()


class _Chosen(NamedTuple):
    """Ids of rows, and the bytes of their payloads, side by side: of a million, 12 MB."""

    ids: array[int]
    sizes: array[int]


class _Answer:
    """What became of rows, printed as it is known: of many, people are told what was refused, and how much was not."""

    def __init__(self, rows: int, as_json: bool) -> None:
        self._as_json = as_json
        self._shows_all = rows <= PAGE
        self._rows = rows
        self._shown: list[dict[str, Any]] = []
        self._list = JsonList() if as_json else None
        self._counts: Counter[str] = Counter()
        self._bar = Bar(rows, "replayed")

    def add(self, results: Sequence[dict[str, Any]]) -> None:
        """These have been replayed."""
        self._counts.update(result["outcome"] for result in results)
        if self._list is not None:
            self._list.add(results)
        else:
            self._shown += (r for r in results if self._shows_all or r["outcome"] not in ("stored", "duplicate"))
            del self._shown[PAGE:]
        self._bar.advance(len(results))

    def end(self) -> None:
        """Print what is left; the exit code says whether all of it is stored."""
        self._bar.stop()
        counts = self._counts
        if self._list is not None:
            self._list.end()
        else:
            if self._shown or not self._rows:
                show(self._shown, False, columns=("id", "outcome", "code", "detail"))
            refused = counts["refused"] + counts["failed"]
            more = "" if self._shows_all or refused <= PAGE else f"; the first {PAGE} are shown"
            if self._rows:
                say(f"{counts['stored']} stored, {counts['duplicate']} duplicate, {refused} not stored{more}")
        left = self._rows - counts.total()
        if left or counts["failed"]:
            warn(f"error: the database went away; {left + counts['failed']} rows are left: replay them again")
            raise SystemExit(UNAVAILABLE)
        if counts["refused"]:
            raise SystemExit(FAILED)


async def _replay(found: Settings, connection: Admin, chosen: _Chosen, answer: _Answer) -> None:
    from bridge.mqtt.converters.select import Converters
    from bridge.service.core import open_core
    from bridge.service.quarantine_replay import SETTLED, QuarantineReplay, Speakers, ageless

    async with open_core(found.model_copy(update={"pipeline": ageless(found.pipeline)})) as core:
        most = found.http.max_readings_per_packet
        replay = QuarantineReplay(core.pipeline, core.resolver, Converters(found.mqtt), found.pipeline, most)
        for page in _pages_by_size(chosen):
            rows = connection.fetch("quarantine_page", ids=page)
            # Asked anew for each page: a replay may take a while.
            speakers = Speakers(_gateways(connection, rows), _api_keys(connection, rows))
            results = await replay.replay(rows, speakers)
            connection.mark_replayed([row["id"] for row in results if row["outcome"] in SETTLED])
            answer.add(results)
            if any(row["outcome"] == "failed" for row in results):
                return


def _to_replay(
    connection: Admin, ids: list[int] | None, code: str | None, device: str | None, *, everything: bool
) -> _Chosen:
    """The rows to be replayed, in the order in which they came. Raises NotFound, ConfigError."""
    chooses = code is not None or device is not None
    if not ids and not chooses and not everything:
        raise ConfigError([_NAME_SOME])
    if (ids and (chooses or everything)) or (chooses and everything):
        raise ConfigError(["name ids, or choose by --code and --device, or --all: not several of them"])
    _check_code(code)
    wanted = _ids(ids) if ids else None
    found = find(connection, device) if device is not None else {"device_id": None, "device_uuid": None}
    (row,) = connection.fetch(
        "quarantine_in_order",
        ids=wanted,
        code=code,
        device_id=found["device_id"],
        device_uuid=found["device_uuid"],
    )
    chosen = _Chosen(array("q", row["ids"]), array("i", row["sizes"]))
    if wanted and len(chosen.ids) < len(wanted):
        missing = min(set(wanted) - set(chosen.ids))
        raise NotFound(f"nothing in quarantine has the id {missing}; see iot-bridge quarantine list")
    return chosen


def _pages_by_size(chosen: _Chosen) -> Iterator[list[int]]:
    """Ids of rows whose payloads may be in memory together."""
    page: list[int] = []
    size = 0
    for row_id, of_bytes in zip(chosen.ids, chosen.sizes, strict=True):
        if page and (len(page) == PAGE or size + of_bytes > PAGE_BYTES):
            yield page
            page, size = [], 0
        page.append(row_id)
        size += of_bytes
    if page:
        yield page


def _gateways(connection: Admin, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    ids = {row["gateway_id"] for row in rows} - {None}
    names = {row["gateway"] for row in rows} - {None}
    return connection.fetch("speakers", ids=list(ids), names=list(names)) if names else []


def _api_keys(connection: Admin, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    from bridge.service.quarantine_replay import api_key_of

    ids = {key_id for row in rows if (key_id := api_key_of(row["sender"])) is not None}
    return connection.fetch("api_key_speakers", ids=list(ids)) if ids else []


def _chosen(connection: Admin, ids: list[int] | None, code: str | None) -> list[int]:
    if ids:
        return _ids(ids)
    if code is None:
        raise ConfigError([_NAME_SOME])
    _check_code(code)
    return [row["id"] for row in connection.fetch("list_quarantine", code=code, pending=None, limit=ALL)]


def _ids(ids: Sequence[int]) -> list[int]:
    beyond = [str(row_id) for row_id in ids if not 0 < row_id < 1 << 63]
    if beyond:
        raise NotFound(f"nothing in quarantine has the id {beyond[0]}; see iot-bridge quarantine list")
    return list(dict.fromkeys(ids))


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
