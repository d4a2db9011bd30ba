"""Asks the broker who it is where shared subscriptions depend on it: messages, in; a warning in the log, out.

Mosquitto 2.0.11 and 2.0.21 (Debian 12 and 13) say that a session is present after they have restarted, and route
nothing to its shared subscriptions until they are subscribed to again. What devices publish in between is
acknowledged to them, and dropped. docs/mqtt-sessions.md has the figures.
"""

from __future__ import annotations

from typing import Any

import structlog

from bridge.settings.mqtt import MqttSettings

log = structlog.get_logger("mqtt")

VERSION_TOPIC = "$SYS/broker/version"
"""Retained, of Mosquitto ("mosquitto version 2.0.11"). Brokers that have none, or whose ACL denies it, say nothing."""
_MAX_TEXT = 100


class BrokerVersion:
    """Wanted until it is known, where there is a shared subscription."""

    def __init__(self, settings: MqttSettings) -> None:
        self.is_wanted = bool(settings.share)
        self._share = settings.share
        self._is_subscribed = any(each.startswith("$SYS/") for each in settings.subscriptions)

    def take(self, message: Any) -> bool:
        """Whether a message was the version, and is of no use to anybody else.

        Also where nobody here has asked: a process that ended before its answer came has left the subscription in our
        session.
        """
        try:
            if message.qos or message.topic != VERSION_TOPIC:
                return False
        except UnicodeDecodeError:
            return False
        was_wanted, self.is_wanted = self.is_wanted, False
        version = bytes(message.payload[:_MAX_TEXT]).decode("utf-8", "replace")
        if was_wanted and version.startswith("mosquitto version"):
            log.warning(
                "mqtt_share_loses_messages",
                broker=version,
                share=self._share,
                detail="at each restart this broker drops what devices publish, acknowledged, until we have subscribed "
                "again, and it has no other way to share",
                advice='one process with mqtt.share = "" loses nothing then; so does a cluster of EMQX or HiveMQ with '
                "shares: docs/mqtt-sessions.md",
            )
        return not self._is_subscribed
