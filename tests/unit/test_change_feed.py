"""What has changed in the registry is forgotten at first sight, and once more, not at every poll."""

from __future__ import annotations

import pytest

from bridge.errors import StoreUnavailable
from bridge.settings.stores import DatabaseSettings
from bridge.store.change_feed import CHANGES_BACK_S, CHANGES_KEPT_S, LOOKUP_S, ChangeFeed, ChangeFollower


def test_change_is_due_at_first_sight_and_when_no_older_look_up_can_be_under_way() -> None:
    feed = ChangeFeed()
    row = (7, "key", "abc")
    for after_s, due in ((0.0, {("key", "abc")}), (1.0, set()), (LOOKUP_S, set()), (LOOKUP_S + 1, {("key", "abc")})):
        assert feed.due([row], 100 + after_s) == due, after_s
    assert feed.due([row], 100 + LOOKUP_S + 2) == set()
    assert feed.due([row, (8, "key", "abc")], 100 + LOOKUP_S + 3) == {("key", "abc")}


def test_change_is_found_for_longer_than_a_look_up_may_take() -> None:
    assert DatabaseSettings().statement_timeout_s < LOOKUP_S < CHANGES_BACK_S - 2


class Feed:
    """The table of changes, as a follower reads it."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, str]] = []
        self.read_back_s: list[float] = []
        self.away = False

    async def changes(self, seconds: float) -> list[tuple[int, str, str]]:
        self.read_back_s.append(seconds)
        if self.away:
            raise StoreUnavailable("away")
        return self.rows


class Follower:
    """A follower on a clock of the test's, and what it has dropped."""

    def __init__(self) -> None:
        self.feed = Feed()
        self.now_s = 100.0
        self.dropped: list[tuple[str, set[str]]] = []
        table = {
            "key": [lambda refs: self.dropped.append(("key", set(refs)))],
            "all": [lambda refs: self.dropped.append(("all", set(refs)))],
        }
        self.follower = ChangeFollower(self.feed.changes, table, lambda: self.now_s)


async def test_follower_drops_what_its_table_knows() -> None:
    site = Follower()
    site.feed.rows = [(1, "key", "a"), (2, "key", "b"), (3, "gateway", "")]
    await site.follower.follow()
    assert site.dropped == [("key", {"a", "b"})]


async def test_follower_reads_back_over_the_time_that_the_database_was_away() -> None:
    site = Follower()
    site.feed.away = True
    site.now_s += 60
    with pytest.raises(StoreUnavailable):
        await site.follower.follow()
    assert site.follower.problem == "away"
    site.feed.away = False
    site.now_s += 60
    await site.follower.follow()
    assert site.follower.problem == ""
    assert site.feed.read_back_s == [60 + CHANGES_BACK_S, 120 + CHANGES_BACK_S]
    assert site.dropped == []


async def test_follower_drops_everything_where_rows_may_have_been_deleted_unread() -> None:
    site = Follower()
    site.now_s += CHANGES_KEPT_S
    await site.follower.follow()
    assert site.dropped == [("all", {""})]
