"""Hundreds of devices, behaving and misbehaving, over a real pipeline: the ledger says what became of all they sent."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial
from itertools import chain

from bridge.settings.http import LimitSettings
from tests.fleet.devices import RawDevice, send_all
from tests.fleet.plant import Plant
from tests.support.servers import MosquittoProcess, TcpProxy, until
from tests.support.whole_bridge import open_bridge

DAY_S = 86_400.0


def broker(port: int) -> str:
    return f"mqtt://127.0.0.1:{port}"


async def test_fleet_connect_storm(port: int, postgres_url: str) -> None:
    plant = Plant(postgres_url, 300)
    async with open_bridge(postgres_url, broker(port)) as bridge:
        await asyncio.gather(
            *(send_all(port, device, [device.packet(n) for n in range(3)]) for device in plant.devices)
        )
        books = await plant.settled(bridge, 900)
    assert (books.received, books.stored) == (900, 900)
    assert all(plant.sequences(device) == [0, 1, 2] for device in plant.devices[::50])


def reached(messages: list[bytes], count: int) -> bool:
    return len(messages) >= count


async def test_fleet_flapping_links(mosquitto: MosquittoProcess, postgres_url: str) -> None:
    plant = Plant(postgres_url, 40)
    acknowledged: list[bytes] = []
    async with (
        open_bridge(postgres_url, broker(mosquitto.port)) as bridge,
        TcpProxy(("127.0.0.1", mosquitto.port)) as proxy,
    ):
        sending = [
            asyncio.create_task(
                send_all(
                    proxy.port,
                    device,
                    [device.packet(n) for n in range(25)],
                    seed=seed,
                    timeout_s=1,
                    acknowledged=acknowledged,
                )
            )
            for seed, device in enumerate(plant.devices)
        ]
        for cut in range(4):
            # By what devices know: the bridge may still have all of it before itself when they are done.
            await until(partial(reached, acknowledged, 100 * (cut + 1)), 60)
            proxy.half_close() if cut % 2 else proxy.cut()
        connections = await asyncio.gather(*sending)
        books = await plant.settled(bridge, 1_000)
    assert sum(connections) > len(plant.devices)
    assert books.stored == 1_000  # each that was acknowledged, once, however often it was sent
    assert books.received == 1_000 + books.duplicate
    assert all(plant.sequences(device) == list(range(25)) for device in plant.devices)


async def test_fleet_duplicates_with_dup(port: int, postgres_url: str) -> None:
    plant = Plant(postgres_url, 40)

    async def live(device_number: int) -> None:
        device = plant.devices[device_number]
        async with RawDevice(port, device) as raw:
            for mid in range(1, 11):
                payload = device.packet(mid)
                for times in range(3):
                    await raw.publish(payload, mid, dup=times > 0)

    async with open_bridge(postgres_url, broker(port)) as bridge:
        await asyncio.gather(*(live(number) for number in range(40)))
        books = await plant.settled(bridge, 1_200)
    assert (books.received, books.stored, books.duplicate) == (1_200, 400, 800)


async def test_fleet_out_of_order_and_clocks_that_jump(port: int, postgres_url: str) -> None:
    plant = Plant(postgres_url, 40)
    now_s = time.time()
    jumps = [now_s + DAY_S, now_s - 40 * DAY_S, 0.0, -1.0, 4e9]
    async with open_bridge(postgres_url, broker(port)) as bridge:
        await asyncio.gather(
            *(
                send_all(
                    port,
                    device,
                    chain(
                        [device.packet(n, value=n) for n in reversed(range(10))],
                        [device.packet(100 + n, ts=ts) for n, ts in enumerate(jumps)],
                    ),
                )
                for device in plant.devices
            )
        )
        books = await plant.settled(bridge, 600)
    assert (books.received, books.stored, books.quarantined) == (600, 400, 200)
    assert plant.codes() == {"time_ahead": 80, "time_behind": 120}
    assert plant.sequences(plant.devices[7]) == list(range(10))
    latest = plant.latest()
    assert len(latest) == 40
    assert set(latest.values()) == {9.0}  # the newest by its own time, though it came first


async def test_fleet_wills(port: int, postgres_url: str) -> None:
    plant = Plant(postgres_url, 50)
    async with open_bridge(postgres_url, broker(port)) as bridge:
        async with AsyncExitStack() as stack:
            raws = [
                await stack.enter_async_context(RawDevice(port, device, will=device.packet(99)))
                for device in plant.devices
            ]
            await asyncio.gather(
                *(raw.publish(device.packet(1), 1) for raw, device in zip(raws, plant.devices, strict=True))
            )
        books = await plant.settled(bridge, 100)
    assert (books.received, books.stored) == (100, 100)
    assert all(plant.sequences(device) == [1, 99] for device in plant.devices)


async def test_fleet_retained_junk(port: int, postgres_url: str) -> None:
    plant = Plant(postgres_url, 20)
    good, bad = plant.devices[:10], plant.devices[10:]
    await asyncio.gather(*(send_all(port, device, [device.packet(1)], retain=True) for device in good))
    await asyncio.gather(
        *(
            send_all(port, each, [b"21.5"], topic=each.bare_topic, client_id=f"b{n}", retain=True)
            for n, each in enumerate(good)
        ),
        *(send_all(port, device, [b"\xff junk"], retain=True) for device in bad),
    )
    for times in (1, 2):  # they come again at every subscription
        async with open_bridge(postgres_url, broker(port)) as bridge:
            books = await plant.settled(bridge, 30)
            assert books.stored == 20
            assert books.quarantined >= 10 * times  # amqtt sends them twice to a session that is resumed
    assert set(plant.codes()) == {"bad_json"}


async def test_fleet_two_devices_with_one_identity(mosquitto: MosquittoProcess, postgres_url: str) -> None:
    plant = Plant(postgres_url, 10)
    async with open_bridge(postgres_url, broker(mosquitto.port)) as bridge:
        await asyncio.gather(
            *(
                send_all(
                    mosquitto.port,
                    device,
                    [device.packet(n) for n in range(half, 20, 2)],
                    client_id=device.uuid,
                    seed=half,
                    timeout_s=1,
                )
                for device in plant.devices
                for half in (0, 1)
            )
        )
        books = await plant.settled(bridge, 200)
    assert books.stored == 200
    assert all(plant.sequences(device) == list(range(20)) for device in plant.devices)


async def test_fleet_device_that_floods_is_limited_and_others_are_not(port: int, postgres_url: str) -> None:
    plant = Plant(postgres_url, 21)
    flooder, others = plant.devices[0], plant.devices[1:]
    async with open_bridge(postgres_url, broker(port), limits=LimitSettings(mqtt_device_per_minute=100)) as bridge:
        flood = asyncio.create_task(send_all(port, flooder, [flooder.packet(n) for n in range(1_000)]))
        await until(lambda: bridge.sample("limited_total", limit="mqtt_device") > 0, 30)
        await asyncio.gather(*(send_all(port, each, [each.packet(n) for n in range(10)]) for each in others))
        await flood
        await plant.settled(bridge, 1_200)
        limited = bridge.sample("limited_total", limit="mqtt_device")
    assert plant.books(*others).stored == 200
    stored = len(plant.sequences(flooder))
    assert 100 <= stored <= 200  # twice where a minute ends meanwhile
    assert plant.codes() == {"rate_limited": 1_000 - stored}
    assert limited == 1_000 - stored
