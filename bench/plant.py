"""Everything that runs during a measurement: real servers, a service, the receivers that are its ceilings."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import psycopg

from bench import cpu, fleet
from bench.timed import MACHINE, Clock
from tests.acceptance.service import Service
from tests.support.servers import MosquittoProcess, PostgresServer, RedisServer, mosquitto_program

CEILING = "ceiling/"
"""Prefix of the topics that only the acknowledging receiver reads."""


class Plant(NamedTuple):
    """What a measurement needs to know of it."""

    service: Service
    fleet_file: Path
    ceiling_url: str  # a database of the same content, for the procedure alone
    redis_port: int
    mqtt_port: int
    noop_port: int
    counter_file: Path  # of the acknowledging receiver
    clocks: dict[str, Clock]  # CPU of each party

    def batches(self) -> tuple[float, float]:
        """Calls of the store so far, and readings in them."""
        with urlopen(f"{self.service.http}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("iot_bridge_batch_readings_"))
        return float(values["iot_bridge_batch_readings_count"]), float(values["iot_bridge_batch_readings_sum"])


@contextmanager
def plant() -> Iterator[Plant]:
    """Start it all; stop it all."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="ib"))  # short: it holds unix sockets
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = postgres_server(folder / "pg", stack)
        database = postgres.create_migrated()
        fleet_file = folder / "fleet.json"
        fleet.save(fleet.register(postgres.url_of(database)), fleet_file)
        ceiling = postgres.create_database(template=database)
        redis = redis_server(folder / "redis", stack)
        mosquitto = _mosquitto(folder / "mosquitto", stack)
        service = Service(folder, postgres.url_of(database), redis.url, mosquitto.url)
        service.start()
        stack.callback(service.stop)
        noop, noop_port = _child(stack, "bench.noop_app")
        topics, counter_file = f"{CEILING}devices/+/sensors/+", folder / "counter"
        receiver, _ = _child(stack, "bench.acknowledge_only", str(mosquitto.port), topics, str(counter_file))
        clocks: dict[str, Clock] = {
            "service": partial(cpu.process_s, service.pid),
            "postgres": cpu.Family(postgres_pid(folder / "pg")).cpu_s,
            "redis": partial(cpu.process_s, redis.pid),
            "mosquitto": partial(cpu.process_s, mosquitto.pid),
            "noop": partial(cpu.process_s, noop),
            "receiver": partial(cpu.process_s, receiver),
            MACHINE: cpu.machine_s,
        }
        url = postgres.url_of(ceiling)
        yield Plant(service, fleet_file, url, redis.port, mosquitto.port, int(noop_port), counter_file, clocks)


def postgres_server(folder: Path, stack: ExitStack) -> PostgresServer:
    """A PostgreSQL that writes to the disk as in production: the tests' own does not."""
    server = PostgresServer(folder)
    stack.callback(server.close)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM RESET ALL")
        connection.execute("SELECT pg_reload_conf()")
    return server


def postgres_pid(folder: Path) -> int:
    """The postmaster of a data folder."""
    return int((folder / "postmaster.pid").read_text().split("\n", 1)[0])


def redis_server(folder: Path, stack: ExitStack) -> RedisServer:
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    stack.callback(server.stop)
    return server


def _mosquitto(folder: Path, stack: ExitStack) -> MosquittoProcess:
    program = mosquitto_program()
    if program is None:
        raise SystemExit("mosquitto is not installed; scripts/servers installs it")
    folder.mkdir()
    server = MosquittoProcess(program, folder)
    server.start()
    stack.callback(server.stop)
    return server


def _child(stack: ExitStack, module: str, *arguments: str) -> tuple[int, str]:
    """A process of ours, running once it has written its first line: its id, and the line."""
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True)
    stack.callback(_end, process)
    assert process.stdout is not None
    return process.pid, process.stdout.readline()


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()
