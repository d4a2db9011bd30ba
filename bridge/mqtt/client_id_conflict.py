"""Tells whether another process uses our client id: how connections ended, in; advice, out. Pure.

A broker keeps one connection for each client id, and drops the older one (MQTT 3.1.1 and 5, section 3.1.4).
Two processes with one id would throw each other out for ever. With MQTT 5 a broker may say so; with 3.1.1, and
with Mosquitto 2.0.11 (Debian 12) in any version, it can only be told from the pattern: the broker takes us,
subscribes us, and closes in order soon after, again and again. A network that breaks does not close in order,
and a broker that restarts refuses in between.
"""

from __future__ import annotations

STEADY_S = 30.0
"""A connection that lasted this long was not contested."""
SHORT_IN_A_ROW = 5
"""So many short connections in a row are a pattern."""


class ClientIdConflict:
    """The connections of one session so far."""

    def __init__(self, client_id: str) -> None:
        self._client_id = client_id
        self._short = 0

    def ended(self, lasted_s: float, *, subscribed: bool, orderly: bool, taken_over: bool) -> str:
        """A connection has ended; what to say where another process seems to use our client id, else nothing."""
        advice = f"give each process a service.name or mqtt.client_id of its own (this is {self._client_id})"
        if taken_over:
            return f"another process has connected with our client id; {advice}"
        if not subscribed or lasted_s > STEADY_S:
            self._short = 0
        elif orderly:
            self._short += 1
        if self._short < SHORT_IN_A_ROW:
            return ""
        return f"the broker drops us soon after each connect, as if another process had our client id; {advice}"
