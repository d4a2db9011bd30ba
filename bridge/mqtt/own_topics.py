"""The topics that we publish to and subscribe to: a topic in, its kind out. Pure.

Everything that leaves over a session is of one of these kinds, and the access lists that we ship are held against them
by a test: what is published under a topic that is not named here is a mistake in the program.
"""

from __future__ import annotations

from enum import StrEnum

from bridge.mqtt.broker_version import VERSION_TOPIC
from bridge.mqtt.subscriptions import RESULTS


class OwnTopic(StrEnum):
    """What we publish, as the filter that an access list has to allow us to write."""

    STATUS = "bridge/+/status"
    """Ours, and our will."""
    REJECTED = "devices/+/rejected"
    COMMAND = "devices/+/commands/+"
    SITE = "site/#"
    """A gateway's latest values and alerts."""
    NODE_COMMAND = "spBv1.0/+/NCMD/+"
    """Asks a Sparkplug node for its births."""


class UnlistedTopic(RuntimeError):
    """A topic of ours that no access list of ours can know: a mistake in the program."""


OF_SERVICE = (OwnTopic.STATUS, OwnTopic.REJECTED, OwnTopic.COMMAND, OwnTopic.NODE_COMMAND)
"""What the service publishes; the last where the format sparkplug is configured."""
OF_GATEWAY = (OwnTopic.STATUS, OwnTopic.REJECTED, OwnTopic.SITE, OwnTopic.NODE_COMMAND)
"""What a gateway publishes."""
READ_BY_SERVICE = (RESULTS, VERSION_TOPIC)
"""What the service subscribes to beside mqtt.topics and the topics of converters."""
READ_BY_GATEWAY = (VERSION_TOPIC,)


def kind_of(topic: str) -> OwnTopic:
    """The kind of a topic that we publish to. Raises UnlistedTopic."""
    head, _, rest = topic.partition("/")
    if head == "devices":
        if rest.endswith("/rejected"):
            return OwnTopic.REJECTED
        if "/commands/" in rest:
            return OwnTopic.COMMAND
    elif head == "site" and rest:
        return OwnTopic.SITE
    elif head == "bridge" and rest.endswith("/status"):
        return OwnTopic.STATUS
    elif head == "spBv1.0" and "/NCMD/" in rest:
        return OwnTopic.NODE_COMMAND
    raise UnlistedTopic(topic)
