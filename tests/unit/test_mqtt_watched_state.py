"""Waiting for a state of the session, and for replies over its connection."""

from __future__ import annotations

import asyncio

import pytest

from bridge.errors import Unavailable
from bridge.mqtt.pending_replies import PendingReplies
from bridge.mqtt.session_state import SessionEvent as Event
from bridge.mqtt.session_state import SessionState as State
from bridge.mqtt.session_state import UnexpectedEvent
from bridge.mqtt.watched_state import WatchedState


async def test_apply_wakes_everyone_who_waits() -> None:
    state = WatchedState()
    change = asyncio.create_task(state.changes())
    ready = asyncio.create_task(state.becomes(lambda present: present is State.READY))
    closed = asyncio.create_task(state.becomes(lambda present: present is State.CLOSED))
    await asyncio.sleep(0)
    assert state.apply(Event.RECALLED)
    assert await change
    await ready
    assert not closed.done()
    assert state.apply(Event.CLOSE)
    await closed
    await state.becomes(lambda present: present is State.CLOSED)  # already: at once


async def test_apply_of_what_changes_nothing_wakes_nobody() -> None:
    state = WatchedState()
    change = asyncio.create_task(state.changes(0.01))
    await asyncio.sleep(0)
    assert not state.apply(Event.ENDED)
    assert not await change
    with pytest.raises(UnexpectedEvent):
        state.apply(Event.WAITED)
    assert state.present is State.RECALLING


async def test_reply_comes_or_the_connection_ends() -> None:
    replies = PendingReplies()
    first, second = (asyncio.create_task(replies.wait(packet_id)) for packet_id in (1, 2))
    await asyncio.sleep(0)
    replies.answer(3, [0])  # nobody waits for it
    replies.answer(2, [16])
    replies.answer(2, [0])
    assert await second == [16]
    replies.fail()
    with pytest.raises(Unavailable, match="ended before"):
        await first
    replies.fail()


async def test_reply_that_nobody_waits_for_any_more_is_dropped() -> None:
    replies = PendingReplies()
    waiting = asyncio.create_task(replies.wait(1))
    await asyncio.sleep(0)
    waiting.cancel()
    replies.answer(1, [0])
    replies.fail()
    with pytest.raises(asyncio.CancelledError):
        await waiting
