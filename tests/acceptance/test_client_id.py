"""What a real Mosquitto has taken for a gateway that was down is delivered, also where it was enrolled meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge.host import client_id
from tests.acceptance.gateway import GatewayProcess
from tests.support import needs
from tests.support.gateway_service import open_gateway_service
from tests.support.servers import free_port, listens, until, wait_until

pytestmark = pytest.mark.timeout(120)

COUNT = 10


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    """Mosquitto on a port of its own; it runs on while the gateway does not."""
    port = free_port()
    conf = tmp_path / "mosquitto.conf"
    conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([needs.program(needs.MOSQUITTO), "-c", str(conf)], stderr=subprocess.DEVNULL)
    wait_until(lambda: listens(port), 20)
    yield port
    process.terminate()
    process.wait(20)


def publish(port: int, device: str, sensor: str, first: int) -> None:
    """Publish as a device does, at QoS 1; the broker has acknowledged each message when this returns."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for number in range(first, first + COUNT):
        text = f'{{"value": {number}, "sequence": {number}}}'
        client.publish(f"devices/{device}/sensors/{sensor}", text, 1).wait_for_publish(20)
    client.disconnect()
    client.loop_stop()


@pytest.mark.parametrize("is_upgraded", [False, True])
async def test_messages_that_the_broker_took_before_enrolment_are_all_stored(
    broker: int, postgres_url: str, tmp_path: Path, is_upgraded: bool
) -> None:
    async with open_gateway_service(postgres_url) as service:
        ((device_id, device),) = service.rows("INSERT INTO devices (name) VALUES ('a') RETURNING id, device_uuid::text")
        ((_, sensor),) = service.rows(
            "INSERT INTO sensors (device_id, name, sensor_type) VALUES (%s, 't', 'power') "
            "RETURNING id, sensor_uuid::text",
            device_id,
        )
        gateway = GatewayProcess(tmp_path, mqtt=f"mqtt://127.0.0.1:{broker}")
        if is_upgraded:  # as a release before called itself, until it was started again after its enrolment
            gateway.environment["IOT_EDGE_MQTT__CLIENT_ID"] = "iot-edge-gateway"
        try:
            await gateway.start()
            gateway.stop()
            publish(broker, device, sensor, 1)
            if is_upgraded:
                del gateway.environment["IOT_EDGE_MQTT__CLIENT_ID"]
                (gateway.data_dir / client_id.FILE).unlink()
            await gateway.command("enrol", service.url, service.add_gateway())
            publish(broker, device, sensor, 1 + COUNT)
            await gateway.start()

            def stored() -> int:
                ((count,),) = service.rows("SELECT count(DISTINCT sequence) FROM sensor_readings")
                return int(count)

            await until(lambda: stored() == 2 * COUNT, 40)
        finally:
            gateway.stop()
        assert (gateway.data_dir / client_id.FILE).read_text().startswith("iot-edge-")
