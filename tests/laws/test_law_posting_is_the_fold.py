"""Posting in SQL is the fold in Python: for any history, in groups of any size, while others write and post, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot.books.entry import PROOFS, Entry, Kind
from tests.laws.histories import histories
from tests.laws.shelf import Shelf, posted_in_python, tallies_in_python
from tests.servers.postgres import fresh_database

pytest_plugins = ["tests.servers.postgres_fixtures"]

MESSAGES = 5


class Turn(NamedTuple):
    """Something happens to the book: entries are written, operations completed, and somebody posts a group."""

    entries: list[Entry]
    operations: list[tuple[int, Kind]]
    poster: int
    group: int
    posts: int


def _turn(entries: list[Entry], code: bytes) -> Turn:
    operation, how = code
    kind = PROOFS[operation // 8 % 3]
    operations = [(operation % MESSAGES, kind)] if operation >= 128 else []
    return Turn(entries, operations, how % 2, 1 + how // 2 % 8, how // 16 % 4)


TURNS = st.lists(
    st.builds(_turn, histories(messages=MESSAGES, max_size=6), st.binary(min_size=2, max_size=2)),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def shelf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    with ExitStack() as stack:
        if request.param == "sqlite":
            place = str(tmp_path_factory.mktemp("book") / "book.db")
        else:
            place = stack.enter_context(fresh_database(request.getfixturevalue("postgres")))
        made = Shelf(place)
        yield made
        made.close()


@given(turns=TURNS)
def test_posting_equals_the_fold_whatever_the_groups_and_whoever_posts(shelf: Shelf, turns: list[Turn]) -> None:
    shelf.clear(MESSAGES)
    written: list[Entry] = []
    operations: list[tuple[int, Kind]] = []
    for turn in turns:
        shelf.write(turn.entries)
        shelf.complete(turn.operations)
        written += turn.entries
        operations += turn.operations
        for _ in range(turn.posts):
            shelf.post(poster=turn.poster, group=turn.group)
        taken = shelf.taken()
        assert shelf.posted() == posted_in_python(written[:taken], MESSAGES), "posted so far is the fold so far"
    shelf.post_all(group=turns[0].group)

    assert shelf.posted() == posted_in_python(written, MESSAGES)
    assert shelf.tallies() == tallies_in_python(written, MESSAGES, operations)


@given(turns=TURNS)
def test_posting_what_is_posted_changes_nothing(shelf: Shelf, turns: list[Turn]) -> None:
    shelf.clear(MESSAGES)
    for turn in turns:
        shelf.write(turn.entries)
    shelf.post_all()
    before = shelf.posted(), shelf.tallies()

    assert shelf.post(poster=1) == 0
    assert (shelf.posted(), shelf.tallies()) == before
