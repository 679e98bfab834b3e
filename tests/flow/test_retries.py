"""Trying again, within bounds. Time is virtual, on asyncio and on trio."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot import flow
from crossfoot.errors import UsageError
from crossfoot.flow import retries
from crossfoot.flow.budgets import Budget
from tests.flow.virtual import backend


class Service:
    """Answers after so many failures."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls: list[float] = []

    async def ask(self) -> str:
        self.calls.append(anyio.current_time())
        if self.errors:
            raise self.errors.pop(0)
        return "answer"

    @property
    def pauses(self) -> list[float]:
        return [after - before for before, after in itertools.pairwise(self.calls)]


@pytest.fixture
def reports() -> Iterator[list[flow.Report]]:
    told: list[flow.Report] = []
    with flow.listen(told.append):
        yield told


def always(chance: float = 1.0, **options: float) -> flow.Retry:
    return flow.Retry(5, base=1, cap=4, chance=lambda: chance, **options)  # type: ignore[arg-type] # seconds


async def test_it_is_asked_again_until_it_answers_with_longer_pauses() -> None:
    service = Service(*(ConnectionError() for _ in range(4)))

    with flow.deadline(60):
        assert await always().run(service.ask, idempotent=True) == "answer"

    assert service.pauses == pytest.approx([1, 2, 4, 4])


@given(chance=st.floats(0, 1), attempt=st.integers(1, 2000), hint=st.none() | st.floats(0, 100))
def test_pauses_have_full_jitter_and_a_hint_is_waited_for(chance: float, attempt: int, hint: float | None) -> None:
    pause = flow.Retry(5, base=0.1, cap=2, chance=lambda: chance).pause(attempt, hint)

    assert (hint or 0) <= pause <= (hint or 0) + min(2, 0.1 * 2 ** min(attempt - 1, 40)) + 1e-9


async def test_what_the_other_side_asks_for_is_waited_for() -> None:
    service = Service(flow.Rejected("later", retry_after=7))

    with flow.deadline(60):
        await always(0.5).run(service.ask, idempotent=True)

    assert service.pauses == pytest.approx([7.5])


async def test_there_is_no_try_that_could_not_begin_in_time() -> None:
    service = Service(flow.Rejected("later", retry_after=7))
    began = anyio.current_time()

    with pytest.raises(flow.Rejected) as caught, flow.deadline(5):
        await always().run(service.ask, idempotent=True)

    assert anyio.current_time() == began, "refused at once, and not when the time is over"
    assert caught.value.__notes__ == ["not tried again: 5.000 s are left, and the next try was due in 8.000 s"]


async def test_only_errors_that_pass_are_worth_another_try() -> None:
    service = Service(ZeroDivisionError())

    with pytest.raises(ZeroDivisionError), flow.deadline(60):
        await always().run(service.ask, idempotent=True)

    assert len(service.calls) == 1


async def test_a_try_has_a_time_of_its_own() -> None:
    times = [10.0, 0.5]

    async def slow_at_first() -> str:
        await anyio.sleep(times.pop(0))
        return "answer"

    began = anyio.current_time()
    with flow.deadline(60):
        assert await always(each=1.0).run(slow_at_first, idempotent=True) == "answer"

    assert anyio.current_time() - began == pytest.approx(1 + 1 + 0.5)


async def test_without_a_deadline_nothing_is_tried_again() -> None:
    with pytest.raises(UsageError, match=r"Service\.ask is tried again only under a deadline"):
        await always().run(Service().ask, idempotent=True)


async def test_only_what_is_safe_to_repeat_is_tried_again() -> None:
    service = Service(ConnectionError(), ConnectionError(), ConnectionError())

    @flow.idempotent
    async def declared() -> str:
        return await service.ask()

    with flow.deadline(60):
        with pytest.raises(UsageError, match="only if that does no harm"):
            await always().run(service.ask)
        assert service.calls == []
        assert await always().run(service.ask, key="order-1") == "answer"
        service.errors.append(ConnectionError())
        assert await always().run(declared) == "answer"


async def test_a_retry_in_a_retry_is_reported_with_both_places_and_tries_once(reports: list[flow.Report]) -> None:
    service = Service(*(ConnectionError() for _ in range(20)))

    async def inner() -> str:
        return await always(0).run(service.ask, idempotent=True)

    with pytest.raises(ConnectionError), flow.deadline(60):
        await always(0).run(inner, idempotent=True)

    assert len(service.calls) == 5, "and not 25"
    assert {report.trouble for report in reports} == {flow.Trouble.NESTED_RETRY}
    assert reports[0].place.endswith("inner")
    assert reports[0].within.endswith("test_a_retry_in_a_retry_is_reported_with_both_places_and_tries_once")


async def test_a_retry_after_a_retry_or_beside_it_is_none_within_it(reports: list[flow.Report]) -> None:
    async def left_behind(go_on: anyio.Event) -> None:
        await go_on.wait()
        with flow.deadline(60):
            await always().run(Service(ConnectionError()).ask, idempotent=True)

    async with anyio.create_task_group() as group:
        go_on = anyio.Event()

        async def begins_a_task() -> None:
            group.start_soon(left_behind, go_on)

        with flow.deadline(60):
            await always().run(begins_a_task, idempotent=True)
            await always().run(Service(ConnectionError()).ask, idempotent=True)
        go_on.set()

    assert reports == []


async def test_a_branch_is_tried_again_each_time_with_a_permit(reports: list[flow.Report]) -> None:
    service, limit, ledger = Service(ConnectionError(), ConnectionError()), flow.Limit(1), flow.Ledger()

    async with flow.fan_out(deadline=60, ledger=ledger) as group:
        branch = group.branch("price", service.ask, limit=limit, retry=always(), idempotent=True)

    assert branch.value == "answer"
    assert limit.counts.granted == 3
    assert ledger.wasted == {flow.Waste.RETRIED: (2, 0.0)}
    assert reports == []


async def test_a_used_up_budget_ends_the_tries() -> None:
    service = Service(*(ConnectionError() for _ in range(20)))
    retry = flow.Retry(10, base=0, budget=Budget(ratio=0, floor=0.2, seconds=10))

    with pytest.raises(ConnectionError) as caught, flow.deadline(60):
        await retry.run(service.ask, idempotent=True)

    assert len(service.calls) == 3
    assert caught.value.__notes__ == ["not tried again: the budget for retries is used up"]


def test_a_budget_is_shared_by_loops_whose_clocks_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = itertools.count(0.0, 10.0)
    monkeypatch.setattr(retries, "SYSTEM", lambda: next(moments))
    again, tries = flow.Retry(2, base=0, budget=Budget(ratio=0, floor=1, seconds=1)), []

    async def ask() -> None:
        service = Service(ConnectionError(), ConnectionError())
        with pytest.raises(ConnectionError), flow.deadline(60):
            await again.run(service.ask, idempotent=True)
        tries.append(len(service.calls))

    for name in ("asyncio", "trio", "asyncio", "trio"):
        kind, options = backend(name)
        anyio.run(ask, backend=kind, backend_options=options)

    assert tries == [2, 2, 2, 2]


# ---- the budget -------------------------------------------------------------------------------------------------------


@given(
    events=st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=300),
    ratio=st.floats(0, 2), floor=st.floats(0, 3), seconds=st.floats(1, 20),
)  # fmt: skip
def test_retries_never_exceed_what_the_last_calls_allow(
    events: list[tuple[float, bool]], ratio: float, floor: float, seconds: float
) -> None:
    budget, now = Budget(ratio, floor, seconds), 1000.0
    calls: list[float] = []
    retries: list[float] = []
    for pause, is_call in events:
        now += pause
        if is_call:
            budget.call(now)
            calls.append(now)
        elif budget.retry(now):
            retries.append(now)
            # Slices are emptied as a whole, so that what counts as of the last seconds is less than they, and never more.
            recent = sum(1 for at in retries if at > now - seconds * 0.9 + 1e-6)
            counted = sum(1 for at in calls if at > now - seconds - 1e-6)
            assert recent <= ratio * counted + floor * seconds + 1e-6


def test_a_fifth_of_the_calls_and_a_floor() -> None:
    budget = Budget(ratio=0.2, floor=0.5, seconds=10)
    for _ in range(100):
        budget.call(1.0)

    assert [budget.retry(2.0) for _ in range(30)] == [True] * 25 + [False] * 5
    assert [budget.retry(50.0) for _ in range(6)] == [True] * 5 + [False]


@pytest.mark.parametrize("wrong", [{"ratio": -1}, {"floor": -1}, {"seconds": 0}])
def test_a_budget_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Budget(**wrong)


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"base": -1}, {"base": 3, "cap": 2}])
def test_a_retry_that_is_none_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        flow.Retry(**wrong)  # type: ignore[arg-type] # on purpose
