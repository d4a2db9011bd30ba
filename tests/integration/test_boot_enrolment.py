"""The file on the boot partition: kept until the service has answered, then gone, or set aside with the reason."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest

from edge.host.clock import HostClock, host_clock
from edge.service_api import enrolment
from edge.service_api.boot_enrolment import BootEnrolment
from edge.service_api.code_exchange import CodeOrder, exchange
from edge.service_api.enrolment import WAITING_FILE, EnrolmentFile, Waiting, waiting_for
from edge.service_api.http_client import ServiceAway
from tests.integration.test_service_api import json, saying
from tests.support.certificates import Authority
from tests.support.gateway_service import FakeDirectory, open_gateway_door
from tests.support.gateway_site import GATEWAY
from tests.support.mqtt_door import FakePipeline
from tests.support.servers import TcpProxy

CODE = "ABCD-EFGH-JKMN"


class Boot:
    """A gateway that finds a file. `meanwhile` happens in each pause between two tries."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "boot" / "iot-edge-enrol.toml"
        self.path.parent.mkdir()
        self.failed = self.path.with_name("iot-edge-enrol.toml.failed")
        self.data = folder / "data"
        self.lines: list[str] = []
        self.pauses: list[float] = []
        self.clock: HostClock = host_clock(assume_set=True)
        self.meanwhile: Callable[[int], None] = lambda tries: None

    def write(self, url: str, code: str = CODE, more: str = "") -> None:
        self.path.write_text(f'url = "{url}"\ncode = "{code}"\n{more}')

    async def run(self, *, wait: bool = True) -> bool:
        async def sleep(pause_s: float) -> None:
            self.pauses.append(pause_s)
            self.meanwhile(len(self.pauses))

        enrolling = BootEnrolment(
            [self.path],
            self.data,
            ca_file=None,
            version="0.1.0",
            owner=None,
            say=self.lines.append,
            clock=self.clock,
            sleep=sleep,
            random=Random(1),
        )
        return await enrolling.run(wait=wait)


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    return Boot(tmp_path)


async def test_file_is_gone_once_the_gateway_is_enrolled(boot: Boot) -> None:
    async with open_gateway_door(FakePipeline(), FakeDirectory()) as service:
        boot.write(service.url)
        assert await boot.run()
    assert EnrolmentFile(boot.data).current.name == GATEWAY
    assert list(boot.path.parent.iterdir()) == []
    assert not (boot.data / WAITING_FILE).exists()
    assert f"this is gateway {GATEWAY}" in boot.lines[-1]
    assert await boot.run(), "nothing asks for it any more"


async def test_file_is_kept_and_tried_until_the_service_answers(boot: Boot) -> None:
    async with (
        open_gateway_door(FakePipeline(), FakeDirectory()) as service,
        TcpProxy(("127.0.0.1", service.port)) as proxy,
    ):
        proxy.refuse = True
        boot.write(f"http://127.0.0.1:{proxy.port}")

        def meanwhile(tries: int) -> None:
            assert boot.path.exists()
            found = msgspec.json.decode((boot.data / WAITING_FILE).read_bytes(), type=Waiting)
            assert found.file == str(boot.path)
            assert found.problem in waiting_for(boot.data)
            proxy.refuse = tries < 200

        boot.meanwhile = meanwhile
        assert await boot.run()
    assert len(boot.pauses) == 200
    assert boot.pauses[0] < 10 < 225 <= boot.pauses[-1] <= 375, "about five minutes between two tries, for ever"
    hours = sum(boot.pauses) / 3_600
    assert len(boot.lines) < hours + 5, "said once an hour"
    assert "tried again until the service answers" in boot.lines[0]
    assert EnrolmentFile(boot.data).current.name == GATEWAY
    assert not (boot.data / WAITING_FILE).exists()


@pytest.mark.parametrize(
    ("code", "more", "said"),
    [("ZZZZ-ZZZZ-ZZZZ", "", "no such code"), ("ABCD", "", "mistyped"), (CODE, "wifi = 'x'\n", "wifi")],
)
async def test_file_that_the_answer_is_no_to_says_why(boot: Boot, code: str, more: str, said: str) -> None:
    async with open_gateway_door(FakePipeline(), FakeDirectory()) as service:
        boot.write(service.url, code, more)
        assert not await boot.run()
    assert not boot.path.exists()
    text = boot.failed.read_text()
    assert said in text.splitlines()[0]
    assert f'code = "{code}"' in text
    assert said in boot.lines[-1]
    found = msgspec.json.decode((boot.data / WAITING_FILE).read_bytes(), type=Waiting) if boot.data.exists() else None
    assert found is None or "not enrolled" in found.problem


async def test_file_that_was_corrected_is_one_as_any_other(boot: Boot) -> None:
    async with open_gateway_door(FakePipeline(), FakeDirectory()) as service:
        boot.write(service.url, "ZZZZ-ZZZZ-ZZZZ")
        assert not await boot.run()
        boot.path.write_text(boot.failed.read_text().replace("ZZZZ-ZZZZ-ZZZZ", CODE))
        assert await boot.run()
    assert EnrolmentFile(boot.data).current.name == GATEWAY


@pytest.mark.parametrize("url", ["ftp://x", "http://iot.example.com", "not a url"])
async def test_url_that_cannot_be_meant_is_not_tried(boot: Boot, url: str) -> None:
    boot.write(url)
    assert not await boot.run()
    assert boot.failed.exists()
    assert boot.pauses == []


async def test_what_answers_in_the_services_place_is_not_believed(boot: Boot) -> None:
    """A portal of the network answers 404, 200 with a page, or a redirect: none of it is the service's no."""
    async with open_gateway_door(FakePipeline(), FakeDirectory()) as service:
        boot.write(f"{service.url}/portal")
        boot.meanwhile = lambda tries: boot.write(service.url) if tries == 3 else None
        assert await boot.run()
    assert len(boot.pauses) == 3


async def test_certificate_that_does_not_hold_is_tried_again(boot: Boot, tmp_path: Path) -> None:
    """So it is at a first boot, in 1970: it is not valid yet."""
    authority = Authority(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*authority.issue("IP:127.0.0.1"))
    async with saying(json('{"name": "north", "gateway_key": ""}'), server) as port:
        url = f"https://127.0.0.1:{port}"
        boot.write(url)

        def trust(tries: int) -> None:
            if tries == 2:
                (boot.path.parent / "ca.pem").write_text(authority.certificate.read_text())
                boot.write(url, more="ca_file = 'ca.pem'\n")

        boot.meanwhile = trust
        assert await boot.run()
    assert len(boot.pauses) == 2
    assert "certificate does not hold" in boot.lines[0]
    assert EnrolmentFile(boot.data).current.ca_pem == authority.certificate.read_text()


async def test_certificates_that_are_none_are_told(boot: Boot) -> None:
    boot.write("https://iot.example.com", more="ca_file = 'ca.pem'\n")
    (boot.path.parent / "ca.pem").write_text("no certificate")
    assert not await boot.run()
    assert "ca_file" in boot.failed.read_text()


async def test_gateway_that_was_enrolled_before_its_file_went_asks_nobody(boot: Boot) -> None:
    """The plug was pulled between the two, or the partition is read-only."""
    async with open_gateway_door(FakePipeline(), FakeDirectory()) as service:
        boot.write(service.url)
        assert await boot.run()
        boot.write(service.url)
        before = EnrolmentFile(boot.data).current
    assert await boot.run(), "the service is away, and is not needed"
    assert not boot.path.exists()
    assert EnrolmentFile(boot.data).current == before


async def test_folder_that_takes_no_file_is_tried_again_and_the_code_is_not_spent(boot: Boot) -> None:
    boot.data.write_text("a file where the folder should be")
    async with open_gateway_door(FakePipeline(), FakeDirectory()) as service:
        boot.write(service.url)
        boot.meanwhile = lambda tries: boot.data.unlink() if tries == 2 else None
        assert await boot.run()
    assert sorted(path.name for path in boot.data.iterdir()) == [enrolment.FILE]


@pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "by file"])
async def test_site_without_a_time_server_enrols_though_its_clock_is_not_set(
    boot: Boot, tmp_path: Path, by_hand: bool
) -> None:
    """The certificate is not valid yet by the host's clock. One that is in step is believed."""
    authority = Authority(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*authority.issue_at("20400101000000Z", "20450101000000Z", "DNS:localhost"))
    pem = authority.certificate.read_text()
    kept: list[bool] = [True]
    boot.clock = HostClock(
        "b", wall_us=lambda: 1_800_000_000_000_000, boottime_us=lambda: 60_000_000, synchronised=lambda: bool(kept)
    )

    async def enrol(url: str) -> None:
        if by_hand:
            await exchange(boot.data, CodeOrder(url, CODE, ca_pem=pem), "0.1.0", boot.clock)
        else:
            assert await boot.run(wait=False)

    async with saying(json('{"name": "north", "gateway_key": ""}'), server) as port:
        url = f"https://localhost:{port}"
        (boot.path.parent / "ca.pem").write_text(pem)
        boot.write(url, more="ca_file = 'ca.pem'\n")
        with pytest.raises(ServiceAway, match="not valid yet by this host's clock"):
            await enrol(url)
        kept.clear()
        boot.clock = HostClock(
            "b", wall_us=lambda: 60_000_000, boottime_us=lambda: 60_000_000, synchronised=lambda: bool(kept)
        )
        await enrol(url)
    assert EnrolmentFile(boot.data).current.name == "north"
