"""Ways out of the notifier: Apprise, and signed webhooks. Flows in: `ChannelMessage`. Raises DeliveryFailed.

Both block, so they run in threads.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Protocol

import msgspec

from bridge.consumers.http_post import PostFailed, post
from bridge.errors import BridgeError, ConfigError
from bridge.model.notification import ChannelMessage
from bridge.settings.consumers import ChannelSettings

MAX_EVENTS_POSTED = 1_000
"""Events a webhook is told of one by one; `count` says how many there are."""


class DeliveryFailed(BridgeError):
    """A channel did not take a message."""

    retryable = True
    code = "delivery_failed"


class ChannelSender(Protocol):
    """Sends the messages of one channel."""

    async def send(self, message: ChannelMessage) -> None:
        """Send; return once the other side has taken the message. Raises DeliveryFailed."""
        ...


def sender(channel: ChannelSettings) -> ChannelSender:
    """Make the sender that a channel asks for. Raises ConfigError."""
    return WebhookSender(channel) if channel.webhook else AppriseSender(channel)


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over timestamp, a full stop, and the body: a post can neither be altered nor replayed later."""
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, sha256).hexdigest()


class WebhookSender:
    """Posts JSON, signed."""

    def __init__(self, channel: ChannelSettings, now_s: Callable[[], float] = time.time) -> None:
        self._channel = channel
        self._now_s = now_s

    async def send(self, message: ChannelMessage) -> None:
        """See `ChannelSender.send`."""
        await asyncio.to_thread(self._post, message)

    def _post(self, message: ChannelMessage) -> None:
        body = msgspec.json.encode(
            {
                "v": 1,
                "id": message.id,
                "title": message.title,
                "body": message.body,
                "count": len(message.notifications),
                "events": [
                    msgspec.Raw(notification.details.encode())
                    for notification in message.notifications[:MAX_EVENTS_POSTED]
                ],
            }
        )
        timestamp = str(int(self._now_s()))
        headers = {
            "X-IoT-Bridge-Timestamp": timestamp,
            "X-IoT-Bridge-Signature": signature(self._channel.secret, timestamp, body),
            "Idempotency-Key": message.id,
        }
        try:
            post("the webhook", self._channel.webhook, body, headers, timeout_s=self._channel.timeout_s)
        except PostFailed as error:
            raise DeliveryFailed(error.detail) from error


class AppriseSender:
    """Sends over whatever an Apprise URL names."""

    def __init__(self, channel: ChannelSettings) -> None:
        try:
            import apprise
        except ImportError as error:
            raise ConfigError(["channels with a url need Apprise: pip install 'iot-edge-bridge[notify]'"]) from error
        self._channel = channel
        self._formats = (apprise.NotifyFormat.TEXT, apprise.NotifyType.WARNING)
        self._target: Any = apprise.Apprise()
        if not self._target.add(channel.url):
            raise ConfigError([f"notifier.channels: {channel.name}: Apprise does not know this url (hidden)"])
        for service in self._target:
            service.redirects = False  # over what the URL says: its tokens are for its host alone

    async def send(self, message: ChannelMessage) -> None:
        """See `ChannelSender.send`. A thread that hangs longer than the time-out is left to itself."""
        try:
            async with asyncio.timeout(self._channel.timeout_s):
                await asyncio.to_thread(self._notify, message)
        except TimeoutError as error:
            raise DeliveryFailed(f"no answer within {self._channel.timeout_s:g} s") from error

    def _notify(self, message: ChannelMessage) -> None:
        text, kind = self._formats
        with _Heard() as heard:
            sent = self._target.notify(body=message.body, title=message.title, body_format=text, notify_type=kind)
        if not sent:
            raise DeliveryFailed("; ".join(heard.lines) or "Apprise could not deliver it")


class _Heard(logging.Handler):
    """Collects what Apprise logs in this thread: it tells its callers True or False only."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._thread = threading.get_ident()

    def __enter__(self) -> _Heard:
        logging.getLogger("apprise").addHandler(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        logging.getLogger("apprise").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.lines.append(record.getMessage())
