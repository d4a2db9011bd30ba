"""By which time a gateway lets keys expire."""

from __future__ import annotations

from pathlib import Path

from edge.app import Gateway
from edge.host.clock import HostClock
from edge.settings import EdgeSettings, GatewaySettings, SpoolSettings

IN_2096_US = 4_000_000_000_000_000
IN_2026_US = 1_795_000_000_000_000


async def test_no_key_expires_while_nobody_knows_the_time(tmp_path: Path) -> None:
    settings = EdgeSettings(
        gateway=GatewaySettings(data_dir=tmp_path), spool=SpoolSettings(path=tmp_path / "spool.db", min_free_bytes=0)
    )
    gateway = Gateway(settings)
    gateway.clock = HostClock(
        "b", wall_us=lambda: IN_2096_US, boottime_us=lambda: 60_000_000, synchronised=lambda: False
    )
    assert gateway.key_time_us() == 0
    gateway.clock.learn(IN_2026_US, 0, 60_000_000, 60_000_000)
    assert gateway.key_time_us() == IN_2026_US
    await gateway.spool.close()
