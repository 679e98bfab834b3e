"""How long batches are careful after a failure."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crossfoot.effects.optimism import MOST, Optimism


def careful_after(failures: int) -> int:
    """How many batches have savepoints after so many failures, one after each pause."""
    optimism = Optimism()
    for _ in range(failures):
        while not optimism.holds:
            optimism.learn(failed=False)
        optimism.learn(failed=True)
    count = 0
    while not optimism.holds:
        optimism.learn(failed=False)
        count += 1
    return count


def test_it_is_hopeful_at_first() -> None:
    assert Optimism().holds


def test_each_failure_makes_it_careful_for_twice_as_long() -> None:
    assert [careful_after(failures) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 64, 64]


def test_what_goes_well_without_savepoints_shortens_the_next_pause() -> None:
    optimism = Optimism()
    for _ in range(3):
        while not optimism.holds:
            optimism.learn(failed=False)
        optimism.learn(failed=True)
    while not optimism.holds:
        optimism.learn(failed=False)
    for _ in range(3):
        optimism.learn(failed=False)
    optimism.learn(failed=True)
    optimism.learn(failed=False)
    assert optimism.holds


@given(st.lists(st.booleans(), max_size=300))
def test_it_is_never_careful_for_longer_than_the_most_after_the_last_failure(history: list[bool]) -> None:
    optimism = Optimism()
    for failed in history:
        optimism.learn(failed=failed)
    for _ in range(MOST):
        optimism.learn(failed=False)
    assert optimism.holds
