"""Law 1, on paper: the fate of a message is a function of the *set* of its entries, and `join` is a semilattice's."""

from __future__ import annotations

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from crossfoot.books import fate
from crossfoot.books.entry import PROOFS, Entry, Kind
from crossfoot.books.fate import FATE_OF_LATEST, FATE_OF_PROOF, NOTHING, Summary
from tests.laws.histories import (
    UNPROVEN,
    Rearranged,
    Scattered,
    entries,
    histories,
    histories_rearranged,
    histories_scattered,
    moments,
)

REARRANGED = st.tuples(histories_rearranged(), moments)
SCATTERED = histories_scattered()
THREE = st.tuples(histories(), histories(), histories())
PROVEN = st.tuples(histories(), entries(PROOFS), histories(), moments)
OUTRANKED = st.tuples(histories(UNPROVEN), entries(UNPROVEN))


@given(REARRANGED)
def test_the_fate_does_not_depend_on_order_or_repetition(scene: tuple[Rearranged, int]) -> None:
    (history, again), now = scene
    summary, other = fate.fold(history), fate.fold(again)

    assert summary == other
    assert fate.posted_fate(summary) == fate.posted_fate(other)
    assert fate.fate_of(summary, now) == fate.fate_of(other, now)


@given(SCATTERED)
def test_the_fate_does_not_depend_on_which_books_the_entries_are_in(scene: Scattered) -> None:
    merged = reduce(fate.join, (fate.fold(scene.books[number]) for number in scene.order), NOTHING)

    assert merged == fate.fold(scene.history)


@given(THREE)
def test_join_is_commutative_associative_and_idempotent(scene: tuple[list[Entry], list[Entry], list[Entry]]) -> None:
    one, two, three = map(fate.fold, scene)

    assert fate.join(one, two) == fate.join(two, one)
    assert fate.join(fate.join(one, two), three) == fate.join(one, fate.join(two, three))
    assert fate.join(one, one) == one
    assert fate.join(one, NOTHING) == one


@given(THREE)
def test_join_only_ever_learns(scene: tuple[list[Entry], list[Entry], list[Entry]]) -> None:
    one, two = map(fate.fold, scene[:2])
    both = fate.join(one, two)

    assert both.marks & one.marks == one.marks
    assert (both.latest, both.due) >= (one.latest, one.due)
    assert fate.join(both, one) == both, "what was known already changes nothing"


@given(PROVEN)
def test_a_proof_is_final(scene: tuple[list[Entry], Entry, list[Entry], int]) -> None:
    before, proof, after, now = scene
    seen = {entry.kind for entry in (*before, proof, *after)}
    strongest = next(kind for kind in PROOFS if kind in seen)

    assert fate.fate_of(fate.fold([*before, proof, *after]), now) is FATE_OF_PROOF[strongest]


@given(OUTRANKED)
def test_a_later_attempt_outranks_all_that_is_no_proof(scene: tuple[list[Entry], Entry]) -> None:
    history, last = scene
    latest = max((entry.attempt for entry in history), default=0)
    later = Entry(message=0, kind=last.kind, at=0, attempt=latest + 1)

    assert fate.posted_fate(fate.fold([later, *history])) is FATE_OF_LATEST[later.kind]


@given(OUTRANKED)
def test_within_one_attempt_the_higher_kind_tells(scene: tuple[list[Entry], Entry]) -> None:
    same_attempt = [Entry(message=0, kind=entry.kind, at=entry.at, attempt=2) for entry in (*scene[0], scene[1])]

    assert fate.posted_fate(fate.fold(same_attempt)) is FATE_OF_LATEST[max(entry.kind for entry in same_attempt)]


@given(st.tuples(histories(min_size=1), moments))
def test_whatever_has_an_entry_has_one_fate(scene: tuple[list[Entry], int]) -> None:
    history, now = scene
    assert fate.fate_of(fate.fold(history), now) is not None


def test_without_entries_there_is_no_fate() -> None:
    assert fate.fold([]) == NOTHING == Summary()
    assert fate.posted_fate(NOTHING) is None


def test_every_kind_has_its_fate_and_none_has_two() -> None:
    assert set(FATE_OF_PROOF) == set(PROOFS)
    assert set(FATE_OF_LATEST) == set(Kind) - set(PROOFS)
