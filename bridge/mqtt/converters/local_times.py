"""Which of two instants a local time means, in the hour that a zone's clock shows twice a year.

Candidates, time of receipt and the channel's last instant in, one of the candidates out: `choose` is pure. What must be
remembered for it from one message to the next is in `LocalTimes`, one for each MQTT session; a message works on the
`LocalClock` of its topic. Decision 29 has the rules.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

AHEAD_US = 300_000_000
"""How far a clock may be ahead of ours; `pipeline.max_ahead_s` allows as much. No zone repeats as little."""
REMEMBERED = 10_000
"""Channels whose last instant is known; the one that was silent for longest is forgotten first."""
RECENT = 8
"""Messages of a repeated hour that are known again, of each channel: a broker sends again all that is in flight."""


def choose(candidates: Sequence[int], received_us: int, last_us: int | None) -> int:
    """The earliest candidate after the channel's last instant; the same instant again where no later one can be meant.

    `candidates` are in order. What would lie ahead of the time of receipt is not meant, unless all would: then one of
    the two clocks is wrong, and order alone decides. Without a last instant, and of what is older than it, the latest
    that can be meant.
    """
    possible = [instant for instant in candidates if instant <= received_us + AHEAD_US]
    if last_us is None:
        return possible[-1] if possible else candidates[0]
    possible = possible or list(candidates)
    later = [instant for instant in possible if instant > last_us]
    if later:
        return later[0]
    return last_us if last_us in possible else possible[-1]


class _Judged(msgspec.Struct, frozen=True):
    """By what the times of a message were judged: the same bytes are judged by it again."""

    digest: bytes
    received_us: int
    last_us: int | None


class _Channel(msgspec.Struct):
    """What is known of one channel's clock."""

    last_us: int | None = None
    recent: list[_Judged] = []


class _Reading(msgspec.Struct):
    """Where a message is with the times of one channel."""

    channel: _Channel
    received_us: int
    last_us: int | None
    recalled: bool = False  # a first one of two candidates has come


class LocalTimes:
    """The last instants of one session's channels."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._channels: OrderedDict[bytes, _Channel] = OrderedDict()

    def channel(self, topic: str, name: str) -> _Channel:
        """What is known of a channel; of one that is not known, nothing yet."""
        key = blake2b(f"{topic}\0{name}".encode(errors="surrogatepass"), digest_size=16).digest()
        found = self._channels.get(key)
        if found is None:
            found = self._channels[key] = _Channel()
            if len(self._channels) > self._remembered:
                self._channels.popitem(last=False)
        else:
            self._channels.move_to_end(key)
        return found

    def __len__(self) -> int:
        return len(self._channels)


class LocalClock:
    """The local times of one message. Its channels are remembered by its topic and their names."""

    def __init__(self, memory: LocalTimes, topic: str, payload: bytes, received_us: int) -> None:
        self._memory = memory
        self._topic = topic
        self._payload = payload
        self._received_us = received_us
        self._readings: dict[str, _Reading] = {}  # by channel; as many as the message has

    def instant(self, name: str, candidates: Sequence[int]) -> int:
        """The instant that a time of the channel `name` means, and that the next one is held against.

        An empty name is the message as a whole.
        """
        reading = self._readings.get(name)
        if reading is None:
            channel = self._memory.channel(self._topic, name)
            reading = self._readings[name] = _Reading(channel, self._received_us, channel.last_us)
        if len(candidates) > 1 and not reading.recalled:
            self._recall(reading)
        instant = choose(candidates, reading.received_us, reading.last_us)
        # A clock that is far ahead says nothing of what comes after; but of a repeated hour each pass needs the other.
        if len(candidates) > 1 or instant <= reading.received_us + AHEAD_US:
            reading.last_us = instant if reading.last_us is None else max(instant, reading.last_us)
            known_us = reading.channel.last_us
            reading.channel.last_us = instant if known_us is None else max(instant, known_us)
        return instant

    def _recall(self, reading: _Reading) -> None:
        """Go back to where these bytes were judged first; else remember where that is."""
        reading.recalled = True
        digest = blake2b(self._payload, digest_size=16).digest()
        recent = reading.channel.recent
        for judged in recent:
            if judged.digest == digest:
                reading.received_us, reading.last_us = judged.received_us, judged.last_us
                return
        recent.append(_Judged(digest, reading.received_us, reading.last_us))
        if len(recent) > RECENT:
            del recent[0]
