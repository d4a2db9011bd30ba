"""The ceiling of the MQTT door: paho that acknowledges and does nothing else.

As its own process: `python -m bench.acknowledge_only PORT FILTER FILE`; counts into FILE until it is ended.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from bench.progress import Counter


def run(port: int, topics: str, counter: Counter) -> None:
    count = 0

    def on_connect(*_: Any) -> None:
        client.subscribe(topics, 1)

    def on_message(_client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        nonlocal count
        client.ack(message.mid, message.qos)
        count += 1
        counter.write(count)

    def on_subscribe(*_: Any) -> None:
        sys.stdout.write("ready\n")
        sys.stdout.flush()

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="bench-ceiling", manual_ack=True)
    client.on_connect = on_connect
    client.on_subscribe = on_subscribe
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.loop_forever()


if __name__ == "__main__":
    port, topics, file = sys.argv[1:]
    run(int(port), topics, Counter(Path(file)))
