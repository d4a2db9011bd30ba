"""What HTTP clients in the field send, byte by byte, over the real pipeline: stored, or refused with what is at fault.

Each case cites where its client's form is documented.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bridge.http.app import build_app
from bridge.http.door import plain_app
from tests.integration.test_http_service import RegisteredDevice
from tests.support.http_door import DEVICE, SENSOR, Service, open_door, open_service


@pytest.fixture
def site(postgres_url: str) -> Iterator[RegisteredDevice]:
    made = RegisteredDevice(postgres_url)
    yield made
    made.database.close()


def head(site: RegisteredDevice, *lines: str, version: str = "1.1") -> bytes:
    """Request line and headers of a post of the device."""
    first = [f"POST /devices/{site.device}/readings HTTP/{version}", f"X-Device-Key: {'key-1'}"]
    return "\r\n".join([*first, *lines, "", ""]).encode()


def body_of(site: RegisteredDevice, value: object = 21.5, **fields: object) -> bytes:
    return json.dumps({"readings": [{"sensor_uuid": site.sensor, "value": value, **fields}]}).encode()


def plain(site: RegisteredDevice, body: bytes, *lines: str, version: str = "1.1") -> bytes:
    return head(site, "Host: a", *lines, f"Content-Length: {len(body)}", version=version) + body


Client = Callable[[RegisteredDevice], list[bytes]]
CLIENTS: dict[str, tuple[str, Client]] = {
    "HTTP/1.0 without Host": (
        "SIM800 AT+HTTPACTION: SIM800 Series IP Application Note, section 2.2; RFC 1945",
        lambda site: [head(site, f"Content-Length: {len(body_of(site))}", version="1.0") + body_of(site)],
    ),
    "HTTP/1.0 keep-alive": (
        "MicroPython urequests: micropython-lib, python-ecosys/requests, requests/__init__.py (%s HTTP/1.0)",
        lambda site: [plain(site, body_of(site), "Connection: keep-alive", version="1.0")],
    ),
    "chunked": (
        "Node-RED http request node and Go's net/http with a body of unknown length: RFC 9112, section 7.1",
        lambda site: [
            head(site, "Host: a", "Transfer-Encoding: chunked"),
            b"%X\r\n" % len(body_of(site)) + body_of(site) + b"\r\n0\r\n\r\n",
        ],
    ),
    "chunked, a byte at a time, with extension and trailer": (
        "RFC 9112, sections 7.1.1 and 7.1.2",
        lambda site: [
            head(site, "Host: a", "Transfer-Encoding: Chunked", "Trailer: X-Sum"),
            *(b"0001;a=b\r\n%c\r\n" % byte for byte in body_of(site)),
            b"000\r\nX-Sum: 1\r\n\r\n",
        ],
    ),
    "Expect: 100-continue": (
        "curl, for bodies over 1 MB (formerly 1,024 bytes): everything.curl.dev, Expect 100-continue",
        lambda site: [
            head(site, "Host: a", "Expect: 100-continue", f"Content-Length: {len(body_of(site))}"),
            body_of(site),
        ],
    ),
    "Expect: 100-Continue, chunked": (
        ".NET HttpClient with ExpectContinue and a stream: RFC 9110, section 10.1.1",
        lambda site: [
            head(site, "Host: a", "Expect: 100-Continue", "Transfer-Encoding: chunked"),
            b"%x\r\n" % len(body_of(site)) + body_of(site) + b"\r\n0\r\n\r\n",
        ],
    ),
    "a NUL after the JSON": (
        "sizeof of a C string for its length: C17, 6.5.3.4; SIM7000 AT+SHBOD",
        lambda site: [plain(site, body_of(site) + b"\0")],
    ),
    "NULs and a line end after the JSON": (
        "a fixed buffer, sent whole, then println: Arduino Print",
        lambda site: [plain(site, body_of(site) + b"\0\0\0\r\n")],
    ),
    "a byte order mark before the JSON": (
        "PowerShell 5 Out-File -Encoding utf8, then curl --data-binary: about_Character_Encoding",
        lambda site: [plain(site, b"\xef\xbb\xbf" + body_of(site))],
    ),
    "a byte order mark before and a NUL after": (
        "both of these",
        lambda site: [plain(site, b"\xef\xbb\xbf" + body_of(site) + b"\0")],
    ),
    "Content-Type text/plain": (
        "ESP8266HTTPClient's examples: PostHttpClient.ino; navigator.sendBeacon (W3C Beacon, section 3.1)",
        lambda site: [plain(site, body_of(site), "Content-Type: text/plain")],
    ),
    "Content-Type of a form": (
        "curl -d: curl.1, --data",
        lambda site: [plain(site, body_of(site), "Content-Type: application/x-www-form-urlencoded")],
    ),
    "no Content-Type": ("SIM800 AT+HTTPDATA without AT+HTTPPARA CONTENT", lambda site: [plain(site, body_of(site))]),
    "Content-Type with a Latin charset": (
        "Node-RED function nodes: RFC 8259, section 11 has no charset parameter",
        lambda site: [plain(site, body_of(site), "Content-Type: application/json; charset=iso-8859-1")],
    ),
    "headers in lower case, blanks around values": (
        "HTTP/2 to HTTP/1 proxies: RFC 9110, section 5.1; RFC 9112, section 5",
        lambda site: [
            f"POST /devices/{site.device}/readings HTTP/1.1\r\nhost:a\r\nx-device-key:   key-1  \r\n"
            f"content-length:{len(body_of(site))}\r\n\r\n".encode()
            + body_of(site)
        ],
    ),
    "the whole address in the request line": (
        "SIM800 by a proxy (AT+HTTPPARA PROIP): RFC 9112, section 3.2.2",
        lambda site: [
            f"POST http://a.example/devices/{site.device}/readings HTTP/1.1\r\nHost: a.example\r\nX-Device-Key: key-1"
            f"\r\nContent-Length: {len(body_of(site))}\r\n\r\n".encode()
            + body_of(site)
        ],
    ),
    "a line end before the request line": (
        "AT command modems, after the body of the request before: RFC 9112, section 2.2",
        lambda site: [b"\r\n" + plain(site, body_of(site))],
    ),
    "head and body in one byte each": (
        "Arduino WiFiClient.print(char): each is a segment of its own",
        lambda site: [bytes([byte]) for byte in plain(site, body_of(site))],
    ),
    "value and sequence as text": (
        "Siemens LOGO! and LoRaWAN codecs (toFixed): ECMA-262, 21.1.3.3",
        lambda site: [plain(site, body_of(site, "21.50", sequence="3008"))],
    ),
    "a padded number": ("avr-libc dtostrf(21.5, 8, 2, text)", lambda site: [plain(site, body_of(site, "   21.50"))]),
    "the UUID in capitals without hyphens": (
        'C# Guid.ToString("N"): RFC 9562, section 4 says input is case-insensitive',
        lambda site: [plain(site, body_of(site).replace(site.sensor.encode(), _compact(site.sensor)))],
    ),
}


def _compact(uuid: str) -> bytes:
    return uuid.replace("-", "").upper().encode()


async def exchange(door: Service, pieces: list[bytes]) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the last answer to a request, whose pieces are sent one after the other."""
    async with door.connection() as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        while True:
            status = int((await reader.readuntil(b"\r\n")).split()[1])
            fields = (await reader.readuntil(b"\r\n\r\n") if status != 100 else await reader.readuntil(b"\r\n")).lower()
            if status == 100:
                continue
            length = int(fields.partition(b"content-length:")[2].split(b"\r\n")[0])
            answer: dict[str, Any] = json.loads(await reader.readexactly(length))
            return status, answer


@pytest.mark.parametrize("client", CLIENTS)
async def test_what_a_client_sends_is_stored(site: RegisteredDevice, postgres_url: str, client: str) -> None:
    async with open_service(postgres_url) as door:
        status, answer = await exchange(door, CLIENTS[client][1](site))
    assert (status, answer.get("inserted"), answer.get("rejected")) == (200, 1, [])
    assert "ignored" not in answer
    assert site.one("SELECT value FROM sensor_readings")["value"] == 21.5


@pytest.mark.parametrize(
    ("fields", "code", "why"),
    [
        ({"value": "21,5"}, "bad_value", "the comma at character 3"),
        ({"value": "21.5°C"}, "bad_value", 'the unit "°C" behind it'),
        ({"value": "3008.0.1"}, "bad_value", "the point at character 7"),
        ({"value": "21\x005"}, "bad_value", "the NUL at character 3"),
        ({"value": "٢١"}, "bad_value", "ARABIC-INDIC DIGIT TWO"),
        ({"value": 1, "sequence": "3008.0.1"}, "bad_form", "$.sequence"),
        ({"value": 1, "sensor_uuid": "shed"}, "bad_form", "sensor_uuid is not a UUID"),
    ],
)
async def test_what_is_refused_names_what_is_at_fault(
    site: RegisteredDevice, postgres_url: str, fields: dict[str, Any], code: str, why: str
) -> None:
    body = body_of(site, **fields)
    async with open_service(postgres_url) as door:
        status, answer = await exchange(door, [plain(site, body)])
    assert (status, answer["inserted"]) == (200, 0)
    (rejected,) = answer["rejected"]
    assert (rejected["code"], why in rejected["detail"]) == (code, True)
    assert site.one("SELECT code FROM quarantine")["code"] == code


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"readings":[{"value":21,5}]}', "comma"),
        (b'{"readings":[{"value":1\0}]}', "the NUL"),
        (b"{'readings':[]}", 'the character "\'"'),
        ('{"readings":[]}'.encode("utf-16"), "UTF-16"),
        ('{"readings":[{"value":“1”}]}'.encode(), "U+201C LEFT DOUBLE QUOTATION MARK"),
        (b"value=21.5", 'the character "v"'),
    ],
)
async def test_what_is_no_json_names_the_character(
    site: RegisteredDevice, postgres_url: str, body: bytes, why: str
) -> None:
    async with open_service(postgres_url) as door:
        status, answer = await exchange(door, [plain(site, body)])
    assert (status, answer["code"]) == (422, "bad_json")
    assert why in str(answer["detail"])


async def test_sensor_that_does_not_answer_costs_no_other_its_reading(
    site: RegisteredDevice, postgres_url: str
) -> None:
    """https://github.com/sensebox/openSenseMap-API/issues/190: printf writes nan where a sensor is broken."""
    one = json.loads(body_of(site))["readings"][0]
    body = json.dumps({"readings": [{**one, "value": "NAN"}, one]}).replace('"NAN"', "nan").encode()
    async with open_service(postgres_url) as door:
        status, answer = await exchange(door, [plain(site, body)])
    assert (status, answer["inserted"]) == (200, 1)
    assert [(rejected["index"], rejected["code"]) for rejected in answer["rejected"]] == [(0, "bad_value")]
    assert site.one("SELECT code, reading_index FROM quarantine") == {"code": "bad_value", "reading_index": 0}


async def test_answer_says_which_fields_nobody_reads(site: RegisteredDevice, postgres_url: str) -> None:
    async with open_service(postgres_url) as door:
        _, answer = await exchange(door, [plain(site, body_of(site, colour="red"))])
        assert (answer["inserted"], answer["ignored"]) == (1, ["$.readings[0].colour"])
        async with door.client(**{"X-API-Key": "api-1"}) as client:
            one = {"sensor_id": site.sensor_id, "value": True, "unit": "C", "sequence": 4, "msgId": "m"}
            assert (await client.post("/ingest/readings", json=one)).json() == {
                "inserted": 1,
                "duplicates": 0,
                "rejected": [],
                "ignored": ["$.unit"],
            }
            again = {"readings": [one, {**one, "value": None}], "device": "shed"}
            found = (await client.post("/ingest/readings/bulk", json=again)).json()
            assert (found["inserted"], found["duplicates"], found["rejected"]) == (0, 1, [])
            assert found["ignored"] == ["$.device", "$.readings[0].unit", "$.readings[1].unit"]
            nothing = (await client.post("/ingest/readings", json={**one, "value": None, "unit": None})).json()
            assert (nothing["inserted"], nothing["rejected"]) == (0, [])
        assert door.sample("ignored_fields_total", source="http") == 4
    assert site.stored() == 2


async def test_door_of_a_gateway_says_the_same() -> None:
    """A gateway has the same endpoints without FastAPI."""
    readings = [{"sensor_uuid": SENSOR, "value": value, "colour": 1} for value in (1, None, "21,5")]
    for make_app in (build_app, plain_app):
        async with (
            open_door(make_app=make_app) as door,
            door.client(**{"X-Device-Key": "device-key"}) as client,
        ):
            answer = await client.post(f"/devices/{DEVICE}/readings", json={"readings": readings, "site": "a"})
            assert answer.status_code == 200
            found = answer.json()
            assert found["ignored"] == ["$.site", "$.readings[0].colour", "$.readings[1].colour"]
            assert [rejected["index"] for rejected in found["rejected"]] == [2]
