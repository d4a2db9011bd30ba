"""`iot-bridge quarantine`: what could not be stored, and why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.console import FAILED, Config, DataDir, Json, NotFound, admin, connect_admin, settings, show
from bridge.errors import ConfigError, DecodeError
from bridge.model.reading import BY_API_KEY, Source

if TYPE_CHECKING:
    from bridge.model.reading import Packet, Receipt
    from bridge.mqtt.converters.select import Converters
    from bridge.service.core import ServiceCore
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
    app.add_typer(noun, name="quarantine")


def list_rows(
    code: CodeOption = None,
    limit: Annotated[int, typer.Option(min=1)] = 100,
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
    row.pop("received_us")
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
    from bridge.mqtt.converters.select import Converters
    from bridge.service.core import open_core

    results: list[dict[str, Any]] = []
    if not ids:
        return results
    converters = Converters(found.mqtt)
    async with open_core(found) as core:
        for some in _pages(ids):
            rows = [_row(connection, row_id) for row_id in some]
            done = await asyncio.gather(*(_replay_row(core, converters, row) for row in rows))
            connection.mark_replayed([row["id"] for row in done if row["outcome"] in ("stored", "duplicate")])
            results += done
    return results


async def _replay_row(core: ServiceCore, converters: Converters, row: dict[str, Any]) -> dict[str, Any]:
    from bridge.model.reading import Delivery, Outcome

    payload = bytes(row["payload"])
    result = {"id": row["id"], "outcome": "refused", "code": None, "detail": ""}
    try:
        packet = _decode(converters, row, payload)
    except DecodeError as error:
        return result | {"code": error.reason, "detail": error.detail}
    if packet.rejections or not packet.readings:
        first = packet.rejections[0] if packet.rejections else None
        return result | {"code": first.code if first else "bad_form", "detail": first.detail if first else "no reading"}
    _, by_api_key, key_id = row["topic"].partition(BY_API_KEY)
    devices = await core.registry.api_key_devices(int(key_id)) if by_api_key and row["source"] != "mqtt" else None
    problem = await core.check(packet, row["device_uuid"], row["received_us"], devices)
    if problem is not None:
        return result | {"code": problem.code, "detail": problem.detail}
    settled: asyncio.Future[Sequence[Receipt]] = asyncio.get_running_loop().create_future()
    core.pipeline.submit(
        Delivery(
            packet,
            Source.REPLAY,
            payload,
            row["received_us"],  # judged by when it first came
            settled.set_result,
            device_uuid=row["device_uuid"],
            topic=row["topic"],
            key=f"q-{row['id']}",
            retry_in_place=True,
            retained=True,  # says nothing of the device being alive now
            devices=devices,
        )
    )
    receipts = await settled
    worst = max(receipts, key=lambda receipt: receipt.outcome)
    outcome = worst.outcome
    if outcome == Outcome.DUPLICATE and any(receipt.outcome == Outcome.STORED for receipt in receipts):
        outcome = Outcome.STORED
    return result | {"outcome": Outcome(outcome).name.lower(), "code": worst.code, "detail": worst.detail}


def _decode(converters: Converters, row: dict[str, Any], payload: bytes) -> Packet:
    """Decode by where it came from: an HTTP path or an MQTT topic. Raises DecodeError."""
    from bridge.pipeline.decode import decode_api_bulk, decode_api_reading, decode_packet

    topic = row["topic"]
    if topic.startswith("/") and row["source"] != "mqtt":  # a topic may begin so, too
        topic = topic.partition(BY_API_KEY)[0]
        if topic == "/ingest/readings":
            return decode_api_reading(payload)
        if topic == "/ingest/readings/bulk":
            return decode_api_bulk(payload, max_readings=1)
        return decode_packet(payload, max_readings=1)
    packet = converters.convert(topic, payload, received_us=row["received_us"]).packet
    # What quarantine keeps of one reading among others: the whole message with its index, or an excerpt.
    if row["reading_index"] and packet.excerpts is None and converters.is_foreign(topic):
        return _only(packet, row["reading_index"])
    return packet


def _only(packet: Packet, index: int) -> Packet:
    from bridge.model.reading import Packet

    readings = tuple(decoded for decoded in packet.readings if decoded.index == index)
    # A message that can no longer be read at all is refused with index 0.
    rejections = tuple(rejection for rejection in packet.rejections if rejection.index in (0, index))
    return Packet(readings, rejections, packet.device_uuid)


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
