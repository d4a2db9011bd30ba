"""Tells whether another client uses our client id: how connections ended, in; advice, out. Pure.

A broker keeps one connection for each client id, and drops the older one (MQTT 3.1.1 and 5, section 3.1.4).
Two clients with one id would throw each other out for ever. With MQTT 5 a broker may say so; with 3.1.1, and
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
        self._problem = ""

    def contested(self, lasts_s: float) -> str:
        """What is wrong until a connection lasts again; `lasts_s`: the present one, so far, or 0."""
        return "" if lasts_s > STEADY_S else self._problem

    def ended(self, lasted_s: float, *, subscribed: bool, orderly: bool, taken_over: bool) -> str:
        """A connection has ended; what to say where another client seems to use our client id, else nothing."""
        if lasted_s > STEADY_S:
            self._problem = ""
        advice = (
            f"give each process a service.name or mqtt.client_id of its own (this is {self._client_id}), and see "
            "that no device can connect with it"
        )
        if taken_over:
            self._problem = f"another client has connected with our client id; {advice}"
            return self._problem
        if not subscribed or lasted_s > STEADY_S:
            self._short = 0
        elif orderly:
            self._short += 1
        if self._short < SHORT_IN_A_ROW:
            return ""
        self._problem = f"the broker drops us soon after each connect, as if another client had our client id; {advice}"
        return self._problem
