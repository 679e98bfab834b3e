"""How things end, and what errors mean to an HTTP client."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot import flow
from crossfoot.flow import Fate
from crossfoot.flow.fates import fate_of, leaves

ERRORS = [
    flow.Expired("x"), flow.Rejected("x", retry_after=2), flow.Overloaded("x", retry_after=7), flow.InDoubt("x"), flow.WireInvalid("x"),
    ValueError(), TimeoutError(), KeyboardInterrupt(),
]  # fmt: skip


def groups(errors: st.SearchStrategy[BaseException]) -> st.SearchStrategy[BaseException]:
    return st.lists(errors, min_size=1, max_size=3).map(lambda some: BaseExceptionGroup("several", some))


@given(error=st.recursive(st.sampled_from(ERRORS), groups, max_leaves=6))
def test_an_error_means_the_same_however_deep_in_groups_it_is(error: BaseException) -> None:
    flat = BaseExceptionGroup("flat", list(leaves(error)))

    assert flow.http_meaning(error) == flow.http_meaning(flat)
    assert fate_of(error) == fate_of(flat)


@pytest.mark.parametrize(
    ("errors", "meaning"),
    [
        ([flow.Rejected("x", retry_after=2)], (429, 2)),
        ([flow.Overloaded("x", retry_after=7)], (503, 7)),
        ([flow.Rejected("x", retry_after=9), flow.Overloaded("x", retry_after=7)], (503, 9)),
        ([flow.Expired("x"), flow.Rejected("x", retry_after=9)], (504, None)),
        ([flow.WireInvalid("x")], (400, None)),
        ([flow.InDoubt("x"), flow.Rejected("x")], (500, None)),
        ([ValueError(), flow.Rejected("x")], (500, None)),
    ],
)
def test_a_group_means_the_worst_that_is_in_it(errors: list[Exception], meaning: tuple[int, float | None]) -> None:
    assert flow.http_meaning(ExceptionGroup("x", errors)) == meaning


def test_an_arrival_ends_once_whoever_is_first() -> None:
    ledger = flow.Ledger()
    arrival = ledger.arrive("branch", "price")
    first: list[Fate] = []

    def end(fate: Fate) -> None:
        if arrival.end(fate):
            first.append(fate)

    threads = [threading.Thread(target=end, args=(fate,)) for fate in Fate]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (account,) = ledger.accounts
    assert first == [arrival.fate]
    assert account.fates == {arrival.fate: 1}
    assert account.balances


def test_names_beyond_those_that_are_kept_apart_are_counted_together() -> None:
    ledger = flow.Ledger(most=2)
    for number in range(10):
        ledger.arrive("branch", f"customer {number}").end(Fate.FULL)

    assert [(one.name, one.arrivals) for one in ledger.accounts] == [
        ("customer 0", 1),
        ("customer 1", 1),
        ("(others)", 8),
    ]
