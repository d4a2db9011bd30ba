"""One-time codes, over a real service: none is lost, and what is wrong with one is told."""

from __future__ import annotations

import asyncio
import resource
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest

from bridge.errors import ConfigError
from bridge.store import admin
from edge.host.clock import host_clock
from edge.registry.refresh import Refresher
from edge.registry.snapshot import REGISTRY_FILE, LocalRegistry
from edge.service_api import code_exchange, enrolment
from edge.service_api.code_exchange import SECRET_FILE, CodeOrder, CodeRefused, exchange, normal_code
from edge.service_api.enrolment import Enrolment, EnrolmentFile
from edge.service_api.http_client import ServiceAway, ServiceClient, parse_url
from edge.service_api.transport import HttpsTransport
from tests.support.enrolled_gateway import EnrolledGateway
from tests.support.servers import TcpProxy, free_port, until


class Codes:
    """Codes of the gateway `north`, as an operator makes them."""

    def __init__(self, database: str) -> None:
        self._database = database

    def new(self, minutes: int = 10) -> str:
        with admin.connect(self._database) as connection:
            gateway = connection.fetch("find_gateway", name="north")[0]["gateway_id"]
            return str(connection.add_gateway_code(gateway, minutes)["code"])

    def revoke(self) -> None:
        with admin.connect(self._database) as connection:
            connection.fetch("revoke_gateway", gateway=connection.fetch("find_gateway", name="north")[0]["gateway_id"])

    def expire(self) -> None:
        with psycopg.connect(self._database, autocommit=True) as connection:
            connection.execute("UPDATE gateway_codes SET expires_at = now() - interval '1 minute'")


@pytest.fixture
def codes(site: EnrolledGateway) -> Codes:
    return Codes(site.database)


async def enrolled(folder: Path, url: str, code: str) -> Enrolment:
    return await exchange(folder, CodeOrder(url, code), "0.1.0", host_clock())


async def is_let_in(site: EnrolledGateway, key: str) -> bool:
    site.key = key
    return (await site.get("/gateways/north/registry")).status_code == 200


async def test_key_that_the_gateway_made_is_let_in_and_never_sent(
    site: EnrolledGateway, codes: Codes, tmp_path: Path
) -> None:
    seen: list[bytes] = []
    async with TcpProxy(("127.0.0.1", int(site.url.rpartition(":")[2]))) as proxy:
        proxy.corrupt = lambda data: seen.append(data) or data  # type: ignore[func-returns-value]
        made = await enrolled(tmp_path, f"http://127.0.0.1:{proxy.port}", codes.new())
    assert made.name == "north"
    assert made.key.encode() not in b"".join(seen)
    assert await is_let_in(site, made.key)
    assert EnrolmentFile(tmp_path).current == made
    assert sorted(path.name for path in tmp_path.iterdir()) == [enrolment.FILE]
    assert stat.S_IMODE((tmp_path / enrolment.FILE).stat().st_mode) == 0o600


async def test_answer_that_was_lost_is_given_again(site: EnrolledGateway, codes: Codes, tmp_path: Path) -> None:
    code = codes.new()
    async with TcpProxy(("127.0.0.1", int(site.url.rpartition(":")[2]))) as proxy:

        def lose_answers(data: bytes) -> bytes:
            if data.startswith(b"HTTP/1.1 200"):
                proxy.cut()
                return b""
            return data

        proxy.corrupt = lose_answers
        url = f"http://127.0.0.1:{proxy.port}"
        for _ in range(2):
            with pytest.raises(ServiceAway):
                await enrolled(tmp_path, url, code)
        assert not (tmp_path / enrolment.FILE).exists()
        proxy.corrupt = lambda data: data
        made = await enrolled(tmp_path, url, code.lower().replace("-", " "))
    assert made.name == "north"
    assert await is_let_in(site, made.key)


async def test_another_code_between_two_attempts_loses_nothing(
    site: EnrolledGateway, codes: Codes, tmp_path: Path
) -> None:
    code, secret = codes.new(), tmp_path / SECRET_FILE
    secret.write_bytes(b"s" * 32)
    made = await enrolled(tmp_path, site.url, code)
    # As a plug that is pulled between the answer and the key's file leaves it.
    (tmp_path / enrolment.FILE).unlink()
    secret.write_bytes(b"s" * 32)
    with pytest.raises(CodeRefused):
        await enrolled(tmp_path, site.url, "AAAA-BBBB-CCCC")
    assert (await enrolled(tmp_path, site.url, code)).key == made.key


async def test_code_is_not_given_again_to_another_gateway(site: EnrolledGateway, codes: Codes, tmp_path: Path) -> None:
    code = codes.new()
    await enrolled(tmp_path / "a", site.url, code)
    with pytest.raises(CodeRefused) as caught:
        await enrolled(tmp_path / "b", site.url, code)
    assert caught.value.reason == "code_used"
    assert "for gateway north" in caught.value.detail
    assert "UTC" in caught.value.detail
    assert "iot-bridge gateway code north" in caught.value.detail


async def test_key_that_has_ended_is_not_given_again(site: EnrolledGateway, codes: Codes, tmp_path: Path) -> None:
    code, secret = codes.new(), b"s" * 32
    (tmp_path / SECRET_FILE).write_bytes(secret)
    made = await enrolled(tmp_path, site.url, code)
    site.key = made.key
    site.key = (await site.post("/gateways/north/key")).json()["gateway_key"]
    assert await is_let_in(site, site.key)
    (tmp_path / SECRET_FILE).write_bytes(secret)
    with pytest.raises(CodeRefused) as caught:
        await enrolled(tmp_path, site.url, code)
    assert caught.value.reason == "code_used"


async def test_expired_unknown_and_mistyped_codes_are_told_apart(
    site: EnrolledGateway, codes: Codes, tmp_path: Path
) -> None:
    code = codes.new()
    codes.expire()
    for text, reason, said in (
        (code, "code_expired", "expired at"),
        ("ABCD-EFGH-JKMN", "bad_code", "mistyped"),
        ("ABCD-EFGH-JKM", "mistyped", "11 characters"),
        ("ABCD-EFGH-JKM0", "mistyped", "there is no 0 in any"),
        ("https://iot", "mistyped", "there is no"),
    ):
        with pytest.raises(CodeRefused) as caught:
            await enrolled(tmp_path, site.url, text)
        assert caught.value.reason == reason
        assert said in caught.value.detail
    older = codes.new()
    codes.new()
    with pytest.raises(CodeRefused) as caught:
        await enrolled(tmp_path, site.url, older)
    assert "a newer code has replaced it" in caught.value.detail


async def test_revoked_gateway_is_told_so_for_a_code_that_it_used(
    site: EnrolledGateway, codes: Codes, tmp_path: Path
) -> None:
    code = codes.new()
    await enrolled(tmp_path / "a", site.url, code)
    codes.revoke()
    with pytest.raises(CodeRefused) as caught:
        await enrolled(tmp_path / "b", site.url, code)
    assert caught.value.reason == "gateway_revoked"


async def test_key_hash_of_no_form_is_refused(site: EnrolledGateway, codes: Codes) -> None:
    for key_hash in ("x", "A" * 64, "a" * 63):
        answer = await site.client.post(f"{site.url}/gateways/enrol", json={"code": codes.new(), "key_hash": key_hash})
        assert answer.status_code == 422


async def test_key_of_another_gateway_is_refused_and_the_code_is_not_spent(
    site: EnrolledGateway, codes: Codes, tmp_path: Path
) -> None:
    code, taken = codes.new(), sha256(site.key.encode()).hexdigest()
    answer = await site.client.post(f"{site.url}/gateways/enrol", json={"code": code, "key_hash": taken})
    assert 400 <= answer.status_code < 500
    assert (await enrolled(tmp_path, site.url, code)).name == "north"


async def test_registry_on_the_disk_is_under_the_new_key_after_another_enrolment(
    site: EnrolledGateway, codes: Codes, tmp_path: Path
) -> None:
    """Nothing in it has changed: it has to come again all the same, for a boot without an uplink."""
    registry = LocalRegistry(tmp_path / REGISTRY_FILE)
    for _ in range(2):
        made = await enrolled(tmp_path, site.url, codes.new())
        client = ServiceClient(parse_url(site.url), None, 20)
        transport = HttpsTransport(made.name, made.key, {"registry": client})
        file = EnrolmentFile(tmp_path)
        refresher = Refresher(registry, transport, file, every_s=60, rotate_days=0, time_s=time.time)
        task = asyncio.create_task(refresher.run())
        digest = transport.key_hash
        await until(lambda digest=digest: LocalRegistry(tmp_path / REGISTRY_FILE).load(digest), 10)  # type: ignore[misc]
        task.cancel()
        client.close()


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """RLIMIT_FSIZE makes write(2) fail as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_folder_that_takes_no_file_spends_no_code(site: EnrolledGateway, codes: Codes, tmp_path: Path) -> None:
    code = codes.new()
    with file_size_limit(10), pytest.raises(ConfigError) as caught:
        await enrolled(tmp_path, site.url, code)
    assert "the code is not used" in caught.value.detail
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        await enrolled(tmp_path / "file" / "data", site.url, code)
    assert "the code is not used" in caught.value.detail
    assert (await enrolled(tmp_path, site.url, code)).name == "north"


async def test_disk_that_is_full_once_the_code_is_spent_loses_nothing(
    site: EnrolledGateway, codes: Codes, tmp_path: Path
) -> None:
    code = codes.new()
    with file_size_limit(100), pytest.raises(ConfigError) as caught:  # room for the secret, not for the key's file
        await enrolled(tmp_path, site.url, code)
    assert "give the same code again" in caught.value.detail
    made = await enrolled(tmp_path, site.url, code)
    assert await is_let_in(site, made.key)


async def test_service_that_is_away_spends_no_code(site: EnrolledGateway, codes: Codes, tmp_path: Path) -> None:
    code = codes.new()
    with pytest.raises(ServiceAway):
        await enrolled(tmp_path, f"http://127.0.0.1:{free_port()}", code)
    with pytest.raises(ServiceAway) as caught:
        await enrolled(tmp_path, f"{site.url}/portal", code)
    assert "no service of ours" in caught.value.detail
    made = await enrolled(tmp_path, site.url, code)
    order = CodeOrder(site.url, code)
    assert code_exchange.is_done(tmp_path, order)
    assert not code_exchange.is_done(tmp_path, CodeOrder(site.url, codes.new()))
    assert code_exchange.present(tmp_path) == made


@pytest.mark.parametrize("text", [" abcd-efgh-jkmn\t", "ABCD EFGH JKMN", "abcd\u2013efgh\u2011jkmn", "ABCD_EFGH.JKMN"])
def test_code_is_read_however_it_is_written(text: str) -> None:
    assert normal_code(text) == "ABCDEFGHJKMN"
