"""Tells whether another client uses our client id: how connections ended, in; what was seen, out. Pure.

A broker keeps one connection for each client id, and drops the older one (MQTT 3.1.1 and 5, section 3.1.4).
Two clients with one id would throw each other out for ever. With MQTT 5 a broker may say so (reason code 0x8E), and
is believed. With 3.1.1, and with Mosquitto 2.0.11 (Debian 12) in any version, it only closes the connection, which
it also does when it restarts. So there is a witness: once a connection was short, another one is held open beside
the next ones, without a client id. Where the broker ends ours, takes us back, and has held the witness all the while,
it has not restarted: it means us alone. A false alarm keeps readings away, so that is asked for more than once.
"""

from __future__ import annotations

STEADY_S = 30.0
"""A connection that lasted this long was not contested."""
SINGLED_OUT = 2
"""So many times in a row the broker has ended our connection and held the witness: the next short one is the proof."""


class ClientIdConflict:
    """The connections of one session so far."""

    def __init__(self, client_id: str) -> None:
        self._client_id = client_id
        self._short = False  # the connection before was short, and the broker closed it
        self._singled_out = 0
        self._problem = ""

    @property
    def wants_witness(self) -> bool:
        """Whether the next connection is to have a witness beside it."""
        return self._short

    def contested(self, lasts_s: float) -> str:
        """What is wrong until a connection lasts again; `lasts_s`: the present one, so far, or 0."""
        return "" if lasts_s > STEADY_S else self._problem

    def subscribed(self, *, witness_open: bool | None) -> None:
        """The broker has taken us back; `witness_open`: it holds the witness that was open as it ended the last one.

        None: there was no witness, which says nothing.
        """
        if self._short and witness_open is not None:
            self._singled_out = self._singled_out + 1 if witness_open else 0

    def ended(
        self,
        lasted_s: float,
        *,
        subscribed: bool,
        orderly: bool,
        code: int | None,
        taken_over: bool,
        explained: bool = False,
    ) -> str:
        """A connection has ended; what was seen, where another client seems to use our client id, else nothing.

        `code` is the broker's reason (MQTT 5), where it gave one: then there is nothing to guess. `explained`: it may
        be the answer to a publication of ours (`refused_publications`), and so proves nothing.
        """
        if lasted_s > STEADY_S:
            self._problem = ""
        advice = (
            f"give each process a service.name or mqtt.client_id of its own (this is {self._client_id}), and see "
            "that no device can connect with it"
        )
        if taken_over:
            self._problem = f"another client has connected with our client id; {advice}"
            return self._problem
        self._short = subscribed and orderly and not code and lasted_s <= STEADY_S
        if not self._short:
            if not subscribed or code or lasted_s > STEADY_S:
                self._singled_out = 0
            return ""
        if not explained and (self._problem or self._singled_out >= SINGLED_OUT):
            self._problem = self._problem or (
                f"the broker has closed our connection soon after each connect, {self._singled_out + 1} times in a "
                "row, and held another one from here open meanwhile: it did not restart, and another client may have "
                f"our client id; {advice}"
            )
            return self._problem
        return ""
