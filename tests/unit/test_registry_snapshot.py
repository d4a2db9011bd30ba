"""The registry of a gateway: from the service, from the disk, and whether it may be believed."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from bridge.errors import DecodeError, StoreUnavailable
from bridge.gateway_protocol import snapshot as form
from edge.registry.snapshot import LocalRegistry, SnapshotRefused
from edge.telemetry import RegistryMetrics
from tests.support.gateway_site import DEVICE_KEY, KEY_HASH, SENSOR_UUID, adopt, make_registry, snapshot
from tests.support.spool_site import DEVICE_UUID

DIGEST = sha256(DEVICE_KEY.encode()).hexdigest()
OTHER_HASH = "ab" * 32


async def test_registry_without_a_snapshot_is_unsure(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry.json")
    assert not registry.load(KEY_HASH)
    assert await registry.find_sensors([1], [SENSOR_UUID.format(1)], []) == []
    with pytest.raises(StoreUnavailable):
        await registry.find_keys([DIGEST])


async def test_registry_is_read_back_after_a_boot(tmp_path: Path) -> None:
    body = adopt(LocalRegistry(tmp_path / "registry.json"), snapshot())
    again = LocalRegistry(tmp_path / "registry.json")
    assert again.load(KEY_HASH)
    assert again.etag == form.etag(body)
    (sensor,) = await again.find_sensors([], [SENSOR_UUID.format(2)], [])
    assert (sensor.sensor_id, sensor.device_id, sensor.device_uuid) == (2, 7, DEVICE_UUID)
    (key,) = await again.find_keys([DIGEST, OTHER_HASH])
    assert (key.hash, key.device_uuid, key.kind) == (DIGEST, DEVICE_UUID, "device")


async def test_registry_of_a_disabled_device_says_so(tmp_path: Path) -> None:
    registry = make_registry(tmp_path)
    adopt(registry, snapshot(disabled=True))
    assert [sensor.device_disabled for sensor in await registry.find_sensors([1], [], [])] == [True]
    assert [key.disabled for key in await registry.find_keys([DIGEST])] == [True]


def test_registry_refuses_what_is_not_signed_with_its_key(tmp_path: Path) -> None:
    registry = make_registry(tmp_path)
    body = form.encode(snapshot(sensors=9))
    for signature in (form.signature(body, OTHER_HASH), "", "ü"):
        with pytest.raises(DecodeError):
            registry.adopt(body, signature, KEY_HASH)
    assert len(registry.names) == 2


@pytest.mark.parametrize("damage", [b"", b"\n", b"\x00" * 500, b"not a snapshot"])
def test_registry_damaged_on_disk_is_read_from_its_copy(tmp_path: Path, damage: bytes) -> None:
    registry = make_registry(tmp_path)
    adopt(registry, snapshot(sensors=5))
    (tmp_path / "registry.json").write_bytes(damage)
    again = LocalRegistry(tmp_path / "registry.json")
    assert again.load(KEY_HASH)
    assert len(again.names) == 5


def test_registry_changed_on_disk_is_noticed(tmp_path: Path) -> None:
    make_registry(tmp_path)
    for path in (tmp_path / "registry.json", tmp_path / "registry.json.copy"):
        path.write_bytes(path.read_bytes().replace(b'"disabled":false', b'"disabled":true ').replace(b"shed", b"barn"))
    assert not LocalRegistry(tmp_path / "registry.json").load(KEY_HASH)


def test_registry_signed_again_holds_under_the_new_key(tmp_path: Path) -> None:
    registry = make_registry(tmp_path)
    registry.sign_again(OTHER_HASH)
    again = LocalRegistry(tmp_path / "registry.json")
    assert again.load(OTHER_HASH)
    assert again.etag == registry.etag


def test_registry_tells_that_it_has_changed(tmp_path: Path) -> None:
    registry = make_registry(tmp_path)
    told: list[int] = []
    registry.changed = lambda: told.append(len(registry.names))
    adopt(registry, snapshot(sensors=3))
    assert told == [3]


def test_registry_on_a_disk_that_takes_nothing_works_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    registry = LocalRegistry(tmp_path / "file" / "registry.json")
    adopt(registry, snapshot())
    assert registry.known


def counted(metrics: RegistryMetrics, reason: str) -> float:
    (family,) = metrics.refused.collect()
    totals = {sample.labels["reason"]: sample.value for sample in family.samples if sample.name.endswith("_total")}
    return totals.get(reason, 0)


def issued(epoch: int, issue: int, *, sensors: int = 2) -> form.Snapshot:
    return form.issued(snapshot(sensors=sensors), form.IssueNumber(epoch, issue))


@pytest.mark.parametrize("older", [(7, 4), (6, 9), (0, 0)])
def test_registry_older_than_one_that_was_seen_is_refused(tmp_path: Path, older: tuple[int, int]) -> None:
    metrics = RegistryMetrics()
    registry = LocalRegistry(tmp_path / "registry.json", metrics)
    adopt(registry, issued(7, 5, sensors=3))
    with pytest.raises(SnapshotRefused, match=r"older.*iot-bridge db new-epoch"):
        adopt(registry, issued(*older))
    assert len(registry.names) == 3
    assert counted(metrics, "older") == 1
    adopt(registry, issued(7, 5, sensors=3))
    adopt(registry, issued(8, 1, sensors=4))
    assert len(registry.names) == 4


def test_registry_knows_an_older_one_after_a_restart(tmp_path: Path) -> None:
    adopt(LocalRegistry(tmp_path / "registry.json"), issued(7, 5))
    again = LocalRegistry(tmp_path / "registry.json")
    assert again.load(KEY_HASH)
    with pytest.raises(SnapshotRefused):
        adopt(again, issued(7, 4))


def test_registry_knows_an_older_one_without_its_snapshot(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry.json")
    older = form.encode(issued(7, 4))
    adopt(registry, issued(7, 5))
    for name in ("registry.json", "registry.json.copy"):
        (tmp_path / name).write_bytes(form.signature(older, KEY_HASH).encode() + b"\n" + older)
    again = LocalRegistry(tmp_path / "registry.json")
    assert not again.load(KEY_HASH)
    with pytest.raises(SnapshotRefused):
        adopt(again, issued(7, 4))
    adopt(again, issued(7, 5))


def test_registry_without_its_mark_goes_by_its_snapshot(tmp_path: Path) -> None:
    adopt(LocalRegistry(tmp_path / "registry.json"), issued(7, 5))
    for damage in (b"", b"\n[9,9]", b"\xff\n\xff"):
        (tmp_path / "registry.json.newest").write_bytes(damage)
        again = LocalRegistry(tmp_path / "registry.json")
        assert again.load(KEY_HASH)
        with pytest.raises(SnapshotRefused):
            adopt(again, issued(7, 4))


def test_registry_keeps_the_order_under_a_rotated_key(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry.json")
    adopt(registry, issued(7, 5))
    registry.sign_again(OTHER_HASH)
    for each in (registry, LocalRegistry(tmp_path / "registry.json")):
        each.load(OTHER_HASH)
        with pytest.raises(SnapshotRefused):
            adopt(each, issued(7, 4), OTHER_HASH)


def test_registry_of_another_enrolment_begins_anew(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry.json")
    adopt(registry, issued(7, 5))
    adopt(registry, issued(3, 1, sensors=4), OTHER_HASH)
    assert len(registry.names) == 4


def test_registry_of_the_release_before_is_read(tmp_path: Path) -> None:
    body = form.encode(snapshot())
    (tmp_path / "registry.json.previous").write_bytes(form.signature(body, KEY_HASH).encode() + b"\n" + body)
    registry = LocalRegistry(tmp_path / "registry.json")
    assert registry.load(KEY_HASH)
    adopt(registry, snapshot(sensors=3))
    assert not (tmp_path / "registry.json.previous").exists()
