"""Retries: how long between them, and when there are no more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot.errors import EnvelopeInvalid, IdentityTaken, NoProof, PayloadInvalid, UnknownType, UsageError, WornOut
from crossfoot.worker.retry import Retry

chances = st.floats(0, 1)
retries = st.tuples(st.integers(1, 100), st.floats(0.001, 100), st.floats(0, 1000)).map(
    lambda three: Retry(attempts=three[0], base=three[1], cap=three[1] + three[2])
)


@given(retries, st.integers(1, 10**9), chances)
def test_no_pause_is_negative_or_longer_than_the_cap(retry: Retry, attempt: int, chance: float) -> None:
    assert 0 <= retry.pause(attempt, chance) <= retry.cap


@given(retries, st.integers(1, 100))
def test_pauses_grow_until_the_cap(retry: Retry, attempt: int) -> None:
    assert retry.pause(attempt, 1) <= retry.pause(attempt + 1, 1) <= 2 * retry.pause(attempt, 1)


@given(retries, st.integers(1, 100), chances, chances)
def test_the_jitter_is_the_whole_pause(retry: Retry, attempt: int, one: float, other: float) -> None:
    assert (retry.pause(attempt, one) <= retry.pause(attempt, other)) or one > other
    assert retry.pause(attempt, 0) == 0


def test_pauses_double_from_the_base() -> None:
    retry = Retry(base=0.5, cap=3)

    assert [retry.pause(attempt, 1) for attempt in range(1, 6)] == [0.5, 1, 2, 3, 3]


def test_without_a_given_chance_no_two_workers_come_back_together() -> None:
    retry = Retry()

    assert len({retry.pause(5) for _ in range(50)}) == 50


def test_the_last_attempt_is_the_last() -> None:
    retry = Retry(attempts=3)

    assert [retry.gives_up(attempt, NoProof("no row")) for attempt in range(1, 5)] == [False, False, True, True]


@pytest.mark.parametrize(
    "error",
    [EnvelopeInvalid("not an event"), PayloadInvalid("$.amount", "must be a number"), IdentityTaken("x"), WornOut("x")],
)
def test_poison_is_not_tried_again(error: Exception) -> None:
    assert Retry(attempts=5).gives_up(1, error)


def test_an_unknown_type_is_tried_again_because_another_version_may_know_it() -> None:
    assert not Retry(attempts=5).gives_up(1, UnknownType("no handler takes it"))


@pytest.mark.parametrize("attempts", [0, -1])
def test_a_message_is_delivered_at_least_once(attempts: int) -> None:
    with pytest.raises(UsageError, match=r"Retry\(attempts=.*at least once"):
        Retry(attempts=attempts)


@pytest.mark.parametrize(
    ("base", "cap"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (1.0, float("nan"))]
)
def test_pauses_that_cannot_be_are_refused(base: float, cap: float) -> None:
    with pytest.raises(UsageError, match=r"need 0 < base <= cap, in seconds"):
        Retry(base=base, cap=cap)
