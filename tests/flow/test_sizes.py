"""Limits that find their size: what each algorithm does to its samples, and to an outage."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot import flow
from crossfoot.errors import UsageError
from crossfoot.flow.sizes import Algorithm, Outcome

GOOD, OVER, UNKNOWN = Outcome.GOOD, Outcome.OVERLOADED, Outcome.UNKNOWN

KINDS: list[Callable[..., Algorithm]] = [flow.Aimd, flow.Gradient2, flow.Vegas]

every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@every
@given(samples=st.lists(st.tuples(st.sampled_from(Outcome), st.floats(0, 100), st.integers(1, 300)), max_size=200))
def test_the_size_keeps_within_its_bounds(
    kind: Callable[..., Algorithm], samples: list[tuple[Outcome, float, int]]
) -> None:
    algorithm = kind(5, least=2, most=50)

    for outcome, seconds, in_use in samples:
        size = algorithm.sample(outcome, seconds, in_use)
        assert 2 <= size == algorithm.size <= 50


@every
def test_a_limit_that_nothing_tests_does_not_grow(kind: Callable[..., Algorithm]) -> None:
    algorithm = kind(20)

    for _ in range(1000):
        algorithm.sample(GOOD, 0.1, 3)

    assert algorithm.size == 20


@every
def test_a_limit_that_is_used_up_by_good_answers_grows(kind: Callable[..., Algorithm]) -> None:
    algorithm = kind(10)

    for _ in range(300):
        algorithm.sample(GOOD, 0.1, algorithm.size)

    assert algorithm.size > 15


def test_aimd_takes_one_step_down_for_one_overload_however_many_tell_of_it() -> None:
    algorithm = flow.Aimd(100)

    for number in range(100):
        algorithm.sample(OVER if number % 5 else GOOD, 0.3, 100)

    assert algorithm.size == 50


def test_aimd_falls_to_the_least_at_once_when_nobody_is_answered() -> None:
    algorithm = flow.Aimd(100, least=3)

    sizes = [algorithm.sample(OVER, 0.3, 100) for _ in range(10)]

    assert sizes == [100] * 9 + [3]


def test_a_row_that_chance_may_bring_is_no_outage() -> None:
    algorithm = flow.Aimd(100, tolerance=0.6)

    for _ in range(200):
        for outcome in [OVER] * 13 + [GOOD] * 10:
            algorithm.sample(outcome, 0.3, 100)

    assert algorithm.size > 50


def test_after_an_outage_it_doubles_to_half_of_what_was_under_way_and_then_adds_one_by_one() -> None:
    algorithm = flow.Aimd(40)
    for _ in range(10):
        algorithm.sample(OVER, 0.3, 40)
    sizes = [algorithm.size]

    for _ in range(300):
        if (size := algorithm.sample(GOOD, 0.1, algorithm.size)) != sizes[-1]:
            sizes.append(size)

    assert sizes[:8] == [1, 2, 4, 8, 16, 20, 21, 22]


def test_aimd_goes_by_what_was_under_way_and_not_by_what_was_allowed() -> None:
    algorithm = flow.Aimd(100)

    for number in range(8):
        algorithm.sample(OVER if number else GOOD, 0.3, 8)

    assert algorithm.size == 4


def test_aimd_leaves_a_service_alone_of_which_a_third_is_slow() -> None:
    algorithm = flow.Aimd(40)

    for number in range(2000):
        algorithm.sample(GOOD if number % 3 else OVER, 0.1, min(29, algorithm.size))

    assert algorithm.size >= 40


def test_aimd_comes_down_to_what_the_outage_leaves_and_back_to_where_it_was() -> None:
    algorithm = flow.Aimd(50, most=60)
    while algorithm.size > 1:
        algorithm.sample(OVER, 0.3, algorithm.size)

    good = 0
    while algorithm.size < 50:
        algorithm.sample(GOOD, 0.08, algorithm.size)
        good += 1

    doubled, added = [1, 2, 4, 8, 16], range(25, 50)
    assert good == sum(doubled) + sum(added), "a good round doubles it to a half, and adds one from there"


def test_aimd_learns_nothing_of_errors_that_are_none_of_its_business() -> None:
    algorithm = flow.Aimd(50)

    for _ in range(100):
        algorithm.sample(UNKNOWN, 0.3, 50)

    assert algorithm.size == 50


def test_gradient2_takes_a_stable_timeout_for_a_healthy_service() -> None:
    """The reason why it is not the default: the longer all calls run into the same timeout, the higher it goes."""
    gradient, aimd = flow.Gradient2(20, most=200), flow.Aimd(20, most=200)

    for _ in range(5000):
        gradient.sample(OVER, 0.3, gradient.size)
        aimd.sample(OVER, 0.3, aimd.size)

    assert (gradient.size, aimd.size) == (200, 1)


def test_gradient2_goes_down_when_times_grow() -> None:
    algorithm = flow.Gradient2(100, queue=1)
    for _ in range(600):
        algorithm.sample(GOOD, 0.1, 10)

    for _ in range(30):
        algorithm.sample(GOOD, 0.5, algorithm.size)

    assert algorithm.size < 50


def test_vegas_keeps_a_short_line_where_it_is_served() -> None:
    """A service that does 10 at once in 0.1 s: beyond that, calls wait for each other there."""
    algorithm = flow.Vegas(5)

    for _ in range(3000):
        in_use = algorithm.size
        algorithm.sample(GOOD, 0.1 * max(1.0, in_use / 10), in_use)

    assert 10 < algorithm.size <= 20, "ten are served, and a few wait"


def test_vegas_measures_the_shortest_time_anew_when_a_service_has_become_slower_for_good() -> None:
    algorithm = flow.Vegas(20, forget=100)
    algorithm.sample(GOOD, 0.01, 20)
    for _ in range(2000):
        algorithm.sample(GOOD, 0.1, algorithm.size)

    assert algorithm.size > 20


@every
@pytest.mark.parametrize(("initial", "least", "most"), [(0, 0, 10), (5, 6, 10), (11, 1, 10), (5, 0, 10)])
def test_bounds_that_are_none_are_refused(kind: Callable[..., Algorithm], initial: int, least: int, most: int) -> None:
    with pytest.raises(UsageError, match="need 1 <= least <= initial <= most"):
        kind(initial, least=least, most=most)
