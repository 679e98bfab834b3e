"""Where a receive begins to look: whatever can still become visible is within what is read. No server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from crossfoot.clock import SECOND
from crossfoot.errors import UsageError
from crossfoot.queues.postgres.address import address_of
from crossfoot.queues.postgres.messages import Limits
from crossfoot.queues.postgres.places import HIGHEST, LONG, MARGIN, MOST_POINTS, RANKS, Look, Places, after
from crossfoot.queues.postgres.receipts import NOBODY_S, parts_of, receipt_of
from crossfoot.queues.queue import Outgoing, Refused

NOW = 1_700_000_000 * SECOND


class Database(RuleBasedStateMachine):
    """Transactions that publish and end in any order, one consumer that looks and takes."""

    def __init__(self) -> None:
        super().__init__()
        self.next = 3
        self.running: dict[int, list[tuple[int, int]]] = {}
        self.visible: set[tuple[int, int]] = set()
        self.places = Places()
        self.taken = 0

    def within(self, row: tuple[int, int]) -> bool:
        rank, place = row
        return any(rank == one and low <= place <= high for one, low, high in self.places.ranges())

    @rule(rows=st.lists(st.sampled_from(RANKS), max_size=3), others=st.sampled_from([0, 0, 1, LONG]))
    def begin(self, rows: list[int], others: int) -> None:
        self.running[self.next] = [(rank, self.next) for rank in rows]
        self.next += 1 + others

    @precondition(lambda self: self.running)
    @rule(data=st.data(), commits=st.booleans())
    def end(self, data: st.DataObject, commits: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.running)))
        rows = self.running.pop(number)
        if commits:
            self.visible |= set(rows)

    @rule(limit=st.integers(1, 3))
    def take(self, limit: int) -> None:
        found = [
            row
            for rank, low, high in self.places.ranges()
            for row in sorted(self.visible)
            if row[0] == rank and low <= row[1] <= high
        ]
        self.visible -= set(found[:limit])
        self.taken += limit

    @rule(whole=st.booleans())
    def look(self, whole: bool) -> None:
        asked = Places() if whole else self.places
        first = [
            min((place for one, place in self.visible if one == rank and low <= place <= high), default=None)
            for rank, low, high in asked.ranges()
        ]
        look = Look(xmax=self.next, running=sorted(self.running), due=None, now=NOW, first=first)
        self.places = after(asked, look)

    @invariant()
    def everything_that_is_or_may_become_visible_is_read(self) -> None:
        for row in [*self.visible, *(row for rows in self.running.values() for row in rows)]:
            assert self.within(row), (row, self.places)

    @invariant()
    def the_places_asked_for_one_by_one_are_few(self) -> None:
        assert len(self.places.points) <= MOST_POINTS


TestDatabase = Database.TestCase


def test_with_nothing_in_progress_a_look_begins_where_the_last_one_ended() -> None:
    first: list[int | None] = [None] * len(RANKS)
    first[-1] = 90
    places = after(Places(), Look(xmax=100, running=[], due=None, now=NOW, first=first))
    assert places.lows == (*[100] * (len(RANKS) - 1), 90)
    assert places.points == ()
    assert places.since == NOW - MARGIN


def test_one_long_transaction_does_not_hold_the_look_back() -> None:
    places = after(Places(), Look(xmax=1_000_000, running=[7], due=None, now=NOW, first=[None] * len(RANKS)))
    assert set(places.lows) == {1_000_000}
    assert [(low, high) for rank, low, high in places.ranges() if rank == 0] == [(7, 7), (1_000_000, HIGHEST)]


def test_short_transactions_are_not_asked_for_one_by_one() -> None:
    places = after(Places(), Look(xmax=1_000, running=[998, 990, 7], due=None, now=NOW, first=[None] * len(RANKS)))
    assert (set(places.lows), places.points) == ({990}, (7,))


def test_a_wait_that_is_over_holds_the_time_back_until_it_is_seen_to() -> None:
    look = Look(xmax=9, running=[], due=NOW - 60 * SECOND, now=NOW, first=[None] * len(RANKS))
    assert after(Places(), look).since == NOW - 60 * SECOND - MARGIN


@given(st.integers(0, 10**18 - 1), st.integers(0, 2**63 - 1))
def test_a_receipt_is_read_as_it_was_written(key: int, token: int) -> None:
    assert parts_of(receipt_of(key, token)) == (key, token)


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.", "x.0000000000000001", "1.ffffffffffffffff", "1.00000000000000001", "\u0661.0000000000000001"],
)
def test_what_is_no_receipt_names_nobody(text: str) -> None:
    assert parts_of(text) == NOBODY_S


@pytest.mark.parametrize(
    ("queue", "url", "place", "name"),
    [
        ("billing", "postgresql://db.example/app", "postgresql://db.example/app", "billing"),
        ("postgresql://me:s3cret@db.example:5433/app?queue=billing", None, "postgresql://db.example:5433/app", "billing"),
        ("billing", "postgres://db/app?sslmode=require&queue=letters", "postgresql://db/app", "letters"),
        ("billing", None, "postgresql:///", "billing"),
    ],
)  # fmt: skip
def test_an_address_names_the_database_and_the_queue(queue: str, url: str | None, place: str, name: str) -> None:
    address = address_of(queue, url)
    assert (address.place, address.name) == (place, name)
    assert "queue=" not in address.url


@pytest.mark.parametrize(
    ("queue", "url", "says"),
    [
        ("postgresql://me:s3cret@db/app", None, "names|no name"),
        ("redis://me:s3cret@db/app?queue=x", None, "begins with postgresql://"),
        ("x", "postgresql://me:s3cret@db/app?sslmod=require", "cannot be read"),
        ("x", "postgresql://db/app?password=a&s3cret", "NAME=VALUE"),
        ("x" * 201, "postgresql://db/app", "200 bytes"),
    ],
)
def test_an_address_that_is_none_says_so_without_its_password(queue: str, url: str | None, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        address_of(queue, url)
    assert "s3cret" not in str(caught.value)


def test_the_same_way_to_the_same_database_is_recognized() -> None:
    address = address_of("billing", "postgresql://me@db/app?queue=billing")
    assert address.is_in("postgres://me@db/app")
    assert not address.is_in("postgresql://me@db/other")
    assert not address.is_in("postgresql://me@db/app?options=-csearch_path%3Delsewhere")
    assert not address.is_in("/srv/app.db")


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (Outgoing(key="a|1", body=b"x" * 11), "11 bytes"),
        (Outgoing(key="a|1", body=b"x" * 5, attributes={"a": "x" * 6}), "12 bytes"),
        (Outgoing(key="a|\x001", body=b""), "zero character"),
        (Outgoing(key="a|1", body=b"", partition="\x00"), "zero character"),
        (Outgoing(key="a|\ud800", body=b""), "no UTF-8 form"),
        (Outgoing(key="a|1", body=b"", delay=61.0), "forgets after 60"),
        (Outgoing(key="a|1", body=b"", delay=-1.0), "between 0 s"),
        (Outgoing(key="a|1", body=b"", delay=float("nan")), "between 0 s"),
        (Outgoing(key="a|1", body=b"", priority=10), "knows 0 to 9"),
        (Outgoing(key="a|1", body=b"", priority=-1), "knows 0 to 9"),
    ],
)
def test_what_can_never_be_stored_is_refused_for_good(message: Outgoing, says: str) -> None:
    refused = Limits(queue="orders", retention=60.0, max_bytes=10, ordered=False).refusal(message)
    assert isinstance(refused, Refused)
    assert refused.permanent
    assert says in refused.reason
