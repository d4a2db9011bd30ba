"""Registry snapshots in the service's memory, beside other processes that issue them too."""

from __future__ import annotations

from bridge.gateway_protocol.snapshot import IssueNumber, Snapshot, decode, issued
from bridge.http.gateway_cache import GatewayCache
from tests.support.gateway_service import FakeDirectory


def issues(body: bytes | None) -> int:
    assert body is not None
    return decode(body).issue


async def test_newest_snapshot_is_what_another_process_has_issued_meanwhile() -> None:
    directory = FakeDirectory()
    cache = GatewayCache(directory, lambda: 0.0)
    directory.given = issued(Snapshot("north"), IssueNumber(1, 5))
    assert issues(await cache.newest_snapshot(1)) == 5
    directory.given = issued(Snapshot("north"), IssueNumber(1, 6))
    assert issues(await cache.snapshot(1)) == 5, "from memory"
    assert issues(await cache.newest_snapshot(1)) == 6
    assert issues(await cache.snapshot(1)) == 6
