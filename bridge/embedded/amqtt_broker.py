"""amqtt as a process of its own: the embedded MQTT broker where there is no Mosquitto.

    python -m bridge.embedded.amqtt_broker PORT

For a bench only: it acknowledges before anything is durable and does not deliver again.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any


async def run(port: int) -> None:
    """Serve MQTT 3.1.1 on loopback until SIGTERM."""
    from amqtt.broker import Broker

    config: dict[str, Any] = {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    broker = Broker(config)
    await broker.start()
    await stop.wait()
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1])))
