"""paho's client, where it keeps from us what we need to know: bytes of the broker in, callbacks out.

Imports paho, and what reads a CONNACK.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt import MQTTException
from paho.mqtt.enums import MQTTErrorCode

from bridge.mqtt.connack import refusal

NOT_MQTT = (ValueError, UnicodeDecodeError, msgspec.MsgspecError, MQTTException)
"""What paho raises on packets that no broker should send."""


class PahoClient(mqtt.Client):
    """Tells of every refusal, and reads what a broker has sent before its connection broke.

    paho keeps a refused protocol version to itself where it is not to reconnect, takes a CONNACK in the form of the
    other version for no MQTT, and knows only some codes. And where it cannot write any more it closes the socket over
    what lies there unread: messages that a killed broker has acknowledged to devices, and will not send again.
    """

    on_refused: Callable[[int, str], None] | None = None
    may_read: Callable[[], bool] = staticmethod(lambda: False)
    """Whether another message may be taken."""
    _is_ending = False

    def _handle_connack(self) -> MQTTErrorCode:
        refused = refusal(bytes(self._in_packet["packet"]))
        if refused is None or self.on_refused is None:
            return super()._handle_connack()
        self.on_refused(*refused)
        return MQTTErrorCode.MQTT_ERR_CONN_REFUSED

    def _loop_rc_handle(self, rc: MQTTErrorCode) -> MQTTErrorCode:
        if rc == MQTTErrorCode.MQTT_ERR_CONN_LOST and self._sock is not None:
            if self._is_ending:  # an acknowledgement of what is being read, which finds the same end
                return rc
            self._is_ending = True
            with suppress(*NOT_MQTT):
                while self._sock is not None and self.may_read():
                    if self._packet_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                        break
            self._is_ending = False
            if self._sock is None:
                return rc
        return super()._loop_rc_handle(rc)
