"""The sequence guard: whose turn it is. That any order of arrival ends well is a law and stands in tests/laws."""

from __future__ import annotations

import pytest

from crossfoot.effects.sequence import InOrder, Turn, awaited, turn_of
from crossfoot.errors import UsageError


@pytest.mark.parametrize(
    ("last", "sequence", "predecessor", "turn"),
    [
        (None, 1, None, Turn.APPLY),
        (None, 0, None, Turn.APPLY),
        (None, 2, None, Turn.PARK),
        (1, 2, None, Turn.APPLY),
        (1, 3, None, Turn.PARK),
        (2, 2, None, Turn.SUPERSEDE),
        (5, 2, None, Turn.SUPERSEDE),
        (None, 7, 0, Turn.APPLY),
        (None, 7, 4, Turn.PARK),
        (3, 7, 4, Turn.PARK),
        (4, 7, 4, Turn.APPLY),
        (5, 7, 4, Turn.APPLY),
    ],
)
def test_contiguous_events_wait_for_the_one_before(
    last: int | None, sequence: int, predecessor: int | None, turn: Turn
) -> None:
    assert turn_of(last, sequence, predecessor, InOrder(contiguous=True)) is turn


@pytest.mark.parametrize(
    ("last", "sequence", "predecessor", "turn"),
    [
        (None, 5, None, Turn.APPLY),
        (2, 5, None, Turn.APPLY),
        (5, 5, None, Turn.SUPERSEDE),
        (6, 5, None, Turn.SUPERSEDE),
        (None, 5, 3, Turn.PARK),
        (3, 5, 3, Turn.APPLY),
        (4, 5, 3, Turn.APPLY),
        (7, 5, 3, Turn.SUPERSEDE),
    ],
)
def test_other_events_wait_only_for_a_predecessor_they_name(
    last: int | None, sequence: int, predecessor: int | None, turn: Turn
) -> None:
    assert turn_of(last, sequence, predecessor, InOrder(contiguous=False)) is turn


def test_a_stale_event_is_superseded_whatever_it_waits_for() -> None:
    assert turn_of(9, 5, 8, InOrder(contiguous=True)) is Turn.SUPERSEDE


def test_the_first_event_waits_for_nothing() -> None:
    assert awaited(1, None, InOrder(contiguous=True)) is None
    assert awaited(0, None, InOrder(contiguous=True)) is None
    assert awaited(8, 0, InOrder(contiguous=True)) is None, "its publisher says that it is the first"
    assert awaited(8, None, InOrder(contiguous=False)) is None


def test_what_is_named_goes_before_what_is_counted() -> None:
    assert awaited(8, 3, InOrder(contiguous=True)) == 3
    assert awaited(8, None, InOrder(contiguous=True)) == 7


@pytest.mark.parametrize("wait", [0, -1.0, float("nan")])
def test_an_early_event_must_be_given_time(wait: float) -> None:
    with pytest.raises(UsageError, match=r"InOrder\(wait=.*give seconds above zero"):
        InOrder(wait=wait)
