"""Law 9: last write is not latest event. Clocks date entries and decide nothing; sequences decide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot.books import fate
from crossfoot.books.entry import Entry
from crossfoot.effects import sequence
from crossfoot.effects.sequence import InOrder, Turn
from tests.laws.histories import histories, moments, seeds, shuffled, timed_anew
from tests.laws.shelf import Shelf

MESSAGES = 3
DATED_ANEW = st.tuples(histories(messages=MESSAGES), seeds, moments)


class Arrivals(NamedTuple):
    """Events of one subject, and the order in which they reach the handler, some more than once."""

    events: list[tuple[int, int | None]]
    """(sequence, predecessor), by sequence."""
    arriving: list[tuple[int, int | None]]
    contiguous: bool


@st.composite
def _arrivals(draw: st.DrawFn) -> Arrivals:
    steps = draw(st.lists(st.integers(1, 3), min_size=1, max_size=8))
    contiguous, seed = draw(st.booleans()), draw(seeds)
    sequences = [1]
    for step in steps:
        sequences.append(sequences[-1] + (1 if contiguous else step))
    named = [None if contiguous else before for before in (0, *sequences)]
    events = list(zip(sequences, named, strict=False))
    return Arrivals(events, shuffled(events + events[:: 1 + seed % 3], seed), contiguous)


ARRIVALS = _arrivals()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    made = Shelf(tmp_path_factory.mktemp("book") / "book.db")
    yield made
    made.close()


@given(DATED_ANEW)
def test_wrong_clocks_change_no_fate(scene: tuple[list[Entry], int, int]) -> None:
    history, seed, now = scene
    one = [entry for entry in history if entry.message == 0]
    wrongly = fate.fold(timed_anew(one, seed))

    assert wrongly == fate.fold(one)
    assert fate.posted_fate(wrongly) == fate.posted_fate(fate.fold(one))
    assert fate.fate_of(wrongly, now) == fate.fate_of(fate.fold(one), now)


@given(scene=DATED_ANEW)
def test_wrong_clocks_change_nothing_that_is_posted(shelf: Shelf, scene: tuple[list[Entry], int, int]) -> None:
    history, seed, _ = scene
    seen = []
    for entries in (history, timed_anew(history, seed)):
        shelf.clear(MESSAGES)
        shelf.write(entries)
        shelf.post_all()
        seen.append((shelf.posted(), shelf.tallies()))

    assert seen[0] == seen[1]


@given(ARRIVALS)
def test_events_take_effect_in_order_and_once_whatever_order_they_arrive_in(scene: Arrivals) -> None:
    applied = _apply(scene)

    assert applied == [number for number, _ in scene.events]


@given(ARRIVALS)
def test_without_the_guard_the_same_arrivals_would_not(scene: Arrivals) -> None:
    """The proof that the arrivals above are out of order: only sorted ones without repetition need no guard."""
    in_order = scene.arriving == scene.events

    assert in_order == ([number for number, _ in scene.arriving] == _apply(scene))


def _apply(scene: Arrivals) -> list[int]:
    """The guard as the worker uses it: early events wait in the book, and each one applied sends on its followers."""
    last: int | None = None
    applied: list[int] = []
    parked: dict[int, tuple[int, int | None]] = {}
    line = list(scene.arriving)
    while line:
        number, predecessor = line.pop(0)
        turn = sequence.turn_of(last, number, predecessor, InOrder(contiguous=scene.contiguous))
        if turn is Turn.PARK:
            parked[number] = (number, predecessor)
        elif turn is Turn.APPLY:
            last = number
            applied.append(number)
            waiting = sorted(parked.items())
            ready = [event for _, event in waiting if _awaited(event, scene) <= number]
            parked = {number: event for number, event in parked.items() if event not in ready}
            line += ready
    assert not parked, "nobody waits for what was applied"
    return applied


def _awaited(event: tuple[int, int | None], scene: Arrivals) -> int:
    before = sequence.awaited(*event, InOrder(contiguous=scene.contiguous))
    assert before is not None, "an event that waits for nothing is never parked"
    return before
