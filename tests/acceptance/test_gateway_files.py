"""Every file that a gateway makes is for its user alone, under the usual umask, whatever made it."""

from __future__ import annotations

import stat
from pathlib import Path

import httpx

from bridge.auth.key_cache import hash_key
from bridge.model.reading import Source
from edge.record import Record
from edge.uplink.rejected_file import RejectedFile
from tests.acceptance.gateway import GatewayProcess
from tests.support.gateway_service import open_gateway_service
from tests.support.gateway_site import DEVICE_KEY
from tests.support.servers import until


def open_to_others(folder: Path) -> list[str]:
    return [
        f"{path.relative_to(folder)}: {stat.S_IMODE(path.lstat().st_mode):o}"
        for path in (folder, *sorted(folder.rglob("*")))
        if path.lstat().st_mode & 0o077
    ]


async def test_every_file_of_a_gateway_is_for_its_user_alone(postgres_url: str, tmp_path: Path) -> None:
    async with open_gateway_service(postgres_url) as service:
        ((device_id, device),) = service.rows("INSERT INTO devices (name) VALUES ('a') RETURNING id, device_uuid::text")
        ((sensor_id, sensor),) = service.rows(
            "INSERT INTO sensors (device_id, name, sensor_type) VALUES (%s, 't', 'temperature') "
            "RETURNING id, sensor_uuid::text",
            device_id,
        )
        digest = hash_key(DEVICE_KEY)
        service.rows(
            "INSERT INTO device_api_keys (device_id, api_key_hash) VALUES (%s, %s) RETURNING id", device_id, digest
        )
        service.rows(
            "INSERT INTO alert_thresholds (sensor_id, condition_type, threshold_value_min, severity) "
            "VALUES (%s, 'greater_than', 30, 'critical') RETURNING id",
            sensor_id,
        )
        gateway = GatewayProcess(tmp_path, mqtt__port="0")
        spool = gateway.data_dir / "spool.db"
        names = set()
        try:
            await gateway.start("--embedded-broker")
            await gateway.command("enrol", service.url, service.add_gateway())
            await until(lambda: (gateway.data_dir / "registry.json.newest").exists(), 30)
            async with httpx.AsyncClient(headers={"X-Device-Key": DEVICE_KEY}) as client:
                reading = {"sensor_uuid": sensor, "value": 31, "sequence": 1}
                url = f"{gateway.http}/devices/{device}/readings"
                assert (await client.post(url, json={"readings": [reading]})).status_code == 202
            await until(lambda: (gateway.data_dir / "alarms.json").exists(), 20)
            assert open_to_others(gateway.data_dir) == []
            names |= {path.name for path in gateway.data_dir.rglob("*")}

            gateway.kill()
            spool.with_name("spool.db-wal").unlink()
            spool.write_bytes(b"no spool" * 4_096)
            spool.chmod(0o644)  # as the release before left it
            gateway.data_dir.chmod(0o755)
            await gateway.start("--embedded-broker")
            await until(lambda: list(gateway.data_dir.glob("spool.db.salvaged-*")), 20)
            assert open_to_others(gateway.data_dir) == []
            assert gateway.log.count("modes_narrowed") == 2, "once at each start: the test has made the folder"
            names |= {path.name for path in gateway.data_dir.rglob("*")}
        finally:
            gateway.stop()
    assert names >= {"enrolment.json", "registry.json", "registry.json.copy", "running.json", "alarms.json"}
    assert names >= {"spool.db", "spool.db-wal", "spool.db-shm", "spool.db-reserve"}


def test_rejected_records_are_for_the_gateways_user_alone(tmp_path: Path) -> None:
    file = RejectedFile(tmp_path / "made" / "refused.jsonl", max_bytes=1)
    for _ in range(2):
        assert file.keep(Record(1, "e", Source.MQTT, 1, "b", 1), "why")
    assert open_to_others(tmp_path / "made") == []
    assert (tmp_path / "made" / "refused.jsonl.1").exists()
