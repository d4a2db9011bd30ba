"""What has changed in the registry is forgotten at first sight, and once more, not at every poll."""

from __future__ import annotations

from bridge.service.app import CHANGES_BACK_S
from bridge.service.change_feed import LOOKUP_S, ChangeFeed
from bridge.settings.stores import DatabaseSettings


def test_change_is_due_at_first_sight_and_when_no_older_look_up_can_be_under_way() -> None:
    feed = ChangeFeed()
    row = (7, "key", "abc")
    for after_s, due in ((0.0, {("key", "abc")}), (1.0, set()), (LOOKUP_S, set()), (LOOKUP_S + 1, {("key", "abc")})):
        assert feed.due([row], 100 + after_s) == due, after_s
    assert feed.due([row], 100 + LOOKUP_S + 2) == set()
    assert feed.due([row, (8, "key", "abc")], 100 + LOOKUP_S + 3) == {("key", "abc")}


def test_change_is_found_for_longer_than_a_look_up_may_take() -> None:
    assert DatabaseSettings().statement_timeout_s < LOOKUP_S < CHANGES_BACK_S - 2
