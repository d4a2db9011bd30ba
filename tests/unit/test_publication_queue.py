"""The queue of publications: its table of transitions, and any history of it against the table that it stands for."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bridge.broker.publication_queue import (
    TRANSITIONS,
    Backlog,
    BacklogEvent,
    PublicationQueue,
    UnexpectedBacklogEvent,
)
from bridge.model.reading import Publication
from tests.support.publications import publication

EXPECTED = """
                     LEAVE                BEGIN_READ  LAST_PAGE  FULL_PAGE  READ_FAILED
NONE                 WAITING              !           !          !          !
WAITING              WAITING              READING     !          !          !
READING              READING_AND_WAITING  !           NONE       WAITING    WAITING
READING_AND_WAITING  READING_AND_WAITING  !           WAITING    WAITING    WAITING
"""
"""An exclamation mark: an error."""

HEAD, *ROWS = (line.split() for line in EXPECTED.strip("\n").splitlines())
CELLS = {
    (Backlog[row[0]], BacklogEvent[event]): cell for row in ROWS for event, cell in zip(HEAD, row[1:], strict=True)
}


def in_state(state: Backlog) -> PublicationQueue:
    """A queue with that backlog, and an empty memory."""
    queue = PublicationQueue(1_000)
    if state is not Backlog.NONE:
        queue.leave_to_table()
    if state in (Backlog.READING, Backlog.READING_AND_WAITING):
        queue.begin_read()
    if state is Backlog.READING_AND_WAITING:
        queue.leave_to_table()
    return queue


def bring(queue: PublicationQueue, event: BacklogEvent) -> None:
    match event:
        case BacklogEvent.LEAVE:
            queue.leave_to_table()
        case BacklogEvent.BEGIN_READ:
            queue.begin_read()
        case BacklogEvent.LAST_PAGE:
            queue.page_read([], last=True)
        case BacklogEvent.FULL_PAGE:
            queue.page_read([], last=False)
        case BacklogEvent.READ_FAILED:
            queue.read_failed()


def test_table_names_every_state() -> None:
    assert set(CELLS) == set(product(Backlog, BacklogEvent))
    assert set(TRANSITIONS) == set(Backlog)


@pytest.mark.parametrize(("state", "event"), list(product(Backlog, BacklogEvent)), ids=lambda member: member.name)
def test_backlog_of_every_pair(state: Backlog, event: BacklogEvent) -> None:
    queue = in_state(state)
    assert queue.backlog is state
    if CELLS[state, event] == "!":
        with pytest.raises(UnexpectedBacklogEvent, match=f"{event.name} while .* {state.name}"):
            bring(queue, event)
        assert queue.backlog is state
    else:
        bring(queue, event)
        assert queue.backlog is Backlog[CELLS[state, event]]


def test_row_that_reaches_the_capacity_is_the_last_in_memory() -> None:
    queue = PublicationQueue(2)
    for outbox_id in (1, 2, 3):
        queue.enqueue(publication(outbox_id))
    assert (len(queue), queue.readings, queue.backlog) == (2, 2, Backlog.WAITING)


def test_row_of_many_readings_is_taken_into_an_empty_queue_whatever_the_capacity() -> None:
    queue = PublicationQueue(0)
    queue.enqueue(publication(1))
    assert (len(queue), queue.backlog) == (1, Backlog.NONE)


def test_row_that_is_enqueued_while_the_page_that_holds_it_is_read_is_published_once() -> None:
    queue = PublicationQueue(1_000)
    first, second = publication(1), publication(2)
    queue.leave_to_table()
    queue.begin_read()
    queue.enqueue(first)
    queue.enqueue(second)
    queue.page_read([first, second], last=True)
    for row in (first, second):
        assert queue.head() is row
        queue.published(row)
    assert queue.head() is None
    assert (len(queue), queue.readings) == (0, 0)


PAGE = 3


class Histories(RuleBasedStateMachine):
    """Commits, lost answers, publications and reads of the table in any order. The table is a list."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = PublicationQueue(4)
        self.table: list[Publication] = []
        self.published: list[int] = []
        self.page: list[Publication] | None = None  # what a read that is under way will return

    def commit(self) -> Publication:
        row = publication(len(self.table) + 1)
        self.table.append(row)
        return row

    def first_page(self) -> list[Publication]:
        return self.table[len(self.published) :][:PAGE]

    @rule()
    def commit_a_row(self) -> None:
        self.queue.enqueue(self.commit())

    @rule()
    def lose_the_answer_to_a_commit(self) -> None:
        self.commit()
        self.queue.leave_to_table()

    @rule()
    def doubt_a_commit_that_was_none(self) -> None:
        self.queue.leave_to_table()

    @rule(turns=st.integers(1, 8), fails=st.booleans(), late=st.booleans())
    def let_the_relay_work(self, turns: int, fails: bool, late: bool) -> None:
        """More often than rows come, so that the backlog is worked off now and then."""
        for _ in range(turns):
            self.turn(fails, late)

    def turn(self, fails: bool, late: bool) -> None:
        """A turn of `Relay.run`. `late`: the table is looked at just before the read ends, not when it begins."""
        if self.page is not None:
            page = self.first_page() if late else self.page
            self.page = None
            if fails:
                self.queue.read_failed()
            else:
                self.queue.page_read(page, last=len(page) < PAGE)
            return
        head = self.queue.head()
        if head is not None:
            self.published.append(head.outbox_id)
            self.queue.published(head)
        elif self.queue.backlog is Backlog.WAITING:
            assert self.queue.begin_read() == len(self.published)
            self.page = self.first_page()

    @invariant()
    def every_row_is_published_once_and_in_order(self) -> None:
        assert self.published == list(range(1, len(self.published) + 1))

    @invariant()
    def nothing_is_forgotten(self) -> None:
        if self.queue.backlog is Backlog.NONE and self.queue.head() is None:
            assert len(self.published) == len(self.table)

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.queue.readings <= 4 + PAGE
        assert (self.queue.readings == 0) == (len(self.queue) == 0)

    def teardown(self) -> None:
        """Left alone, it publishes everything."""
        for _ in range(4 * len(self.table) + 4):
            self.turn(fails=False, late=False)
        assert self.published == [row.outbox_id for row in self.table]


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=300)
