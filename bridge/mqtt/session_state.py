"""The states of an MQTT session and what moves it from one to another. Pure: a state and an event in, a state out.

Theory of operation
===================

A session is the sequence of connections that the bridge keeps with one broker under one client id. At any time
it is in exactly one `SessionState`. Nothing else says whether it is connected, whether it may read, or whether it
is stopping: all of that is derived from the state, as attributes of it.

    RECALLING ──RECALLED──► READY ◄──────────WAITED──────────────┐
                            │   ▲                                │
                     NO_CAPACITY│CAPACITY                        │
                            ▼   │                                │
                  AWAITING_CAPACITY                              │
                                                                 │
    READY ──CONNECT──► CONNECTING ──ENDED──────────────────► BACKOFF
                          │ ACCEPTED    (also from the three         │
                          ▼              below; TAKEN_OVER      YIELDING
                      SUBSCRIBING        leads to YIELDING)
                       │        │ SUBSCRIPTION_REFUSED
            SUBSCRIBED │        ▼
                       │   SUBSCRIPTION_REFUSED
                       ▼        │ SUBSCRIBED
                      SUBSCRIBED◄

    PAUSE: a connection that was accepted ──► DRAINING ──ENDED or CLOSE──► CLOSED
           every other state ──────────────────────────────────────────► CLOSED

`session.MqttSession` tells this module what happens and does the I/O that belongs to the state it is in then:
it looks up, waits, connects, subscribes, disconnects. `TRANSITIONS` below is the whole of the rules. Three kinds
of events are told apart where an event does not fit the state:

- News from outside (`NEWS`: the broker, the network, the handler of messages, the owner) may come at any time,
  also late. Where the table does not name it, nothing changes.
- Steps of the session's own task (all others) are taken only in the states that the table names. Elsewhere they
  are a mistake in the program, and raise `UnexpectedEvent`.
- A closed session takes no event at all, of either kind: its task may be in the middle of a step when it is closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto


class SessionState(Enum):
    """Where a session stands. The value says what the session does in this state, and what it may do."""

    RECALLING = ("looks up what the broker has it subscribed to",)
    READY = ("is about to connect",)
    AWAITING_CAPACITY = ("does not connect, since the handler holds as many messages as it may",)
    CONNECTING = ("opens a connection and waits for CONNACK", "connection", "reads")
    SUBSCRIBING = ("was accepted, and waits for SUBACK", "connection", "reads")
    SUBSCRIPTION_REFUSED = ("was accepted, and subscribes again every now and then", "connection", "reads")
    SUBSCRIBED = ("receives messages, acknowledges and publishes", "connection", "reads", "publishes")
    BACKOFF = ("waits before it connects again",)
    YIELDING = ("waits for longer, since another process seems to use its client id",)
    DRAINING = ("reads nothing more, and acknowledges what is settled", "connection", "publishes")
    CLOSED = ("is over",)

    def __init__(self, meaning: str, *traits: str) -> None:
        self.meaning = meaning
        self.has_connection = "connection" in traits
        """Whether a connection is being opened or open."""
        self.reads = "reads" in traits
        """Whether packets of the broker may be read, as far as the handler has capacity."""
        self.publishes = "publishes" in traits
        """Whether publications may go out."""


class SessionEvent(Enum):
    """What can happen to a session."""

    # Steps of the session's own task.
    RECALLED = auto()
    """The earlier subscriptions are known."""
    CONNECT = auto()
    """The handler has capacity: a connection is made."""
    NO_CAPACITY = auto()
    """The handler has none."""
    WAITED = auto()
    """The time between two connections is over."""

    # News.
    CAPACITY = auto()
    """The handler has capacity again."""
    ACCEPTED = auto()
    """CONNACK: the broker takes us."""
    SUBSCRIBED = auto()
    """SUBACK: every filter is granted."""
    SUBSCRIPTION_REFUSED = auto()
    """SUBACK: a filter is not granted."""
    ENDED = auto()
    """The connection was not made, was refused, ended, or is given up."""
    TAKEN_OVER = auto()
    """The connection ended, and another process seems to use our client id."""
    PAUSE = auto()
    """The owner wants nothing more to be read."""
    CLOSE = auto()
    """The owner ends the session, or its task has ended."""


class UnexpectedEvent(RuntimeError):
    """A step of the session's own that its state does not have: a mistake in the program."""


_S, _E = SessionState, SessionEvent

NEWS = frozenset(
    {
        _E.CAPACITY,
        _E.ACCEPTED,
        _E.SUBSCRIBED,
        _E.SUBSCRIPTION_REFUSED,
        _E.ENDED,
        _E.TAKEN_OVER,
        _E.PAUSE,
        _E.CLOSE,
    }
)
"""Events from outside the session's task: ignored where the table does not name them."""

TRANSITIONS: Mapping[SessionState, Mapping[SessionEvent, SessionState]] = {
    _S.RECALLING: {
        _E.RECALLED: _S.READY,
        _E.PAUSE: _S.CLOSED,
        _E.CLOSE: _S.CLOSED,
    },
    _S.READY: {
        _E.CONNECT: _S.CONNECTING,
        _E.NO_CAPACITY: _S.AWAITING_CAPACITY,
        _E.PAUSE: _S.CLOSED,
        _E.CLOSE: _S.CLOSED,
    },
    _S.AWAITING_CAPACITY: {
        _E.CAPACITY: _S.READY,
        _E.PAUSE: _S.CLOSED,
        _E.CLOSE: _S.CLOSED,
    },
    _S.CONNECTING: {
        _E.ACCEPTED: _S.SUBSCRIBING,
        _E.ENDED: _S.BACKOFF,
        _E.TAKEN_OVER: _S.YIELDING,
        _E.PAUSE: _S.CLOSED,  # nothing came over it yet that could be acknowledged
        _E.CLOSE: _S.CLOSED,
    },
    _S.SUBSCRIBING: {  # messages of a session that the broker has kept come before SUBACK
        _E.SUBSCRIBED: _S.SUBSCRIBED,
        _E.SUBSCRIPTION_REFUSED: _S.SUBSCRIPTION_REFUSED,
        _E.ENDED: _S.BACKOFF,
        _E.TAKEN_OVER: _S.YIELDING,
        _E.PAUSE: _S.DRAINING,
        _E.CLOSE: _S.CLOSED,
    },
    _S.SUBSCRIPTION_REFUSED: {
        _E.SUBSCRIBED: _S.SUBSCRIBED,
        _E.ENDED: _S.BACKOFF,
        _E.TAKEN_OVER: _S.YIELDING,
        _E.PAUSE: _S.DRAINING,
        _E.CLOSE: _S.CLOSED,
    },
    _S.SUBSCRIBED: {
        _E.ENDED: _S.BACKOFF,
        _E.TAKEN_OVER: _S.YIELDING,
        _E.PAUSE: _S.DRAINING,
        _E.CLOSE: _S.CLOSED,
    },
    _S.BACKOFF: {
        _E.WAITED: _S.READY,
        _E.PAUSE: _S.CLOSED,
        _E.CLOSE: _S.CLOSED,
    },
    _S.YIELDING: {
        _E.WAITED: _S.READY,
        _E.PAUSE: _S.CLOSED,
        _E.CLOSE: _S.CLOSED,
    },
    _S.DRAINING: {
        _E.ENDED: _S.CLOSED,
        _E.TAKEN_OVER: _S.CLOSED,
        _E.CLOSE: _S.CLOSED,
    },
    _S.CLOSED: {},
}


def next_state(state: SessionState, event: SessionEvent) -> SessionState:
    """The state after an event; the same where the event is ignored. Raises UnexpectedEvent."""
    after = TRANSITIONS[state].get(event)
    if after is not None:
        return after
    if event in NEWS or state is SessionState.CLOSED:
        return state
    raise UnexpectedEvent(f"{event.name} while the session {state.meaning} ({state.name})")
