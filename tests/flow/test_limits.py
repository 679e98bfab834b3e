"""At most so many at once. Time is virtual, on asyncio and on trio; threads wait for signs of each other."""

from __future__ import annotations

import math
import random
import threading
from typing import Any

import anyio
import pytest
from anyio import to_thread
from hypothesis import given
from hypothesis import strategies as st

from crossfoot import flow
from crossfoot.errors import UsageError
from crossfoot.flow.limits import _Turn
from crossfoot.flow.runtime import SYSTEM, Loop
from crossfoot.flow.sizes import Outcome
from tests.flow.virtual import backend, block


async def hold(
    limit: flow.Limit, seconds: float, began: list[str] | None = None, name: str = "", priority: int = 5
) -> None:
    async with limit.permit(priority):
        if began is not None:
            began.append(name)
        await anyio.sleep(seconds)


async def test_no_more_than_the_limit_are_under_way() -> None:
    limit = flow.Limit(3, waiting=100, wait=60)
    most = 0

    async def work() -> None:
        nonlocal most
        async with limit.permit():
            most = max(most, limit.in_use)
            await anyio.sleep(1)

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(work)

    assert (most, limit.in_use, limit.waiting) == (3, 0, 0)
    assert anyio.current_time() - began == pytest.approx(4)


async def test_one_waits_so_long_and_is_then_refused_with_429() -> None:
    limit = flow.Limit(1, name="pricing", wait=0.2)

    async with anyio.create_task_group() as group:
        group.start_soon(hold, limit, 10)
        await anyio.wait_all_tasks_blocked()
        began = anyio.current_time()
        with pytest.raises(
            flow.Rejected, match=r"pricing: all 1 permits are in use, and none came free in 0\.2 s"
        ) as caught:
            await hold(limit, 1)
        assert anyio.current_time() - began == pytest.approx(0.2)
        group.cancel_scope.cancel()

    assert (caught.value.status, caught.value.retry_after) == (429, 1.0)
    assert limit.counts.shed == 1


async def test_a_full_line_refuses_at_once() -> None:
    limit = flow.Limit(1, waiting=0, status=503)

    async with limit.permit():
        began = anyio.current_time()
        with pytest.raises(flow.Overloaded, match="0 wait already"):
            await hold(limit, 1)
        assert anyio.current_time() == pytest.approx(began)


async def test_the_wait_ends_with_the_deadline() -> None:
    limit = flow.Limit(1, wait=60)

    async with limit.permit():
        began = anyio.current_time()
        with pytest.raises(flow.Expired), flow.deadline(0.3):
            await hold(limit, 1)
        assert anyio.current_time() - began == pytest.approx(0.3)

    assert limit.in_use == limit.waiting == 0


async def test_an_expired_deadline_takes_no_permit() -> None:
    limit = flow.Limit(1)

    with pytest.raises(flow.Expired), flow.deadline(0.1):
        block(0.2)
        await hold(limit, 1)

    assert limit.counts.granted == 0


async def test_those_whose_time_is_over_are_dropped_when_their_turn_comes() -> None:
    limit = flow.Limit(1, waiting=10, wait=60)
    began: list[str] = []

    async def impatient() -> None:
        with pytest.raises(flow.Expired), flow.deadline(0.1):
            await hold(limit, 1, began, "impatient")

    async with anyio.create_task_group() as group, limit.permit():
        group.start_soon(impatient)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(hold, limit, 1, began, "patient")
        await anyio.wait_all_tasks_blocked()
        block(0.2)  # nobody had a chance to leave the line before the permit comes free

    assert began == ["patient"]
    assert limit.in_use == 0


async def test_a_permit_that_is_granted_and_cancelled_in_one_tick_goes_on() -> None:
    limit = flow.Limit(1, waiting=10, wait=60)
    began: list[str] = []

    async with anyio.create_task_group() as group:
        scope = anyio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await hold(limit, 1, began, "cancelled")

        async with limit.permit():
            group.start_soon(cancelled)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(hold, limit, 0, began, "next")
            await anyio.wait_all_tasks_blocked()
        scope.cancel()  # no await between the grant and this

    assert "next" in began
    assert limit.in_use == limit.waiting == 0


async def test_a_permit_that_comes_with_the_last_of_the_patience_is_taken_or_goes_back() -> None:
    limit = flow.Limit(1, wait=1)
    ends: list[str] = []

    async def patient() -> None:
        try:
            await hold(limit, 0)
            ends.append("taken")
        except flow.Rejected:
            ends.append("refused")

    async with anyio.create_task_group() as group:
        group.start_soon(hold, limit, 1)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(patient)

    assert len(ends) == 1, "whichever came first in that tick"
    assert limit.in_use == limit.waiting == 0


@given(seed=st.integers(0, 2**32), size=st.integers(1, 3), newest=st.booleans(), adaptive=st.booleans())
@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_no_permit_is_lost_over_random_cancellations(
    name: str, seed: int, size: int, newest: bool, adaptive: bool
) -> None:
    kind, options = backend(name)
    anyio.run(_random_cancellations, seed, size, newest, adaptive, backend=kind, backend_options=options)


async def _random_cancellations(seed: int, size: int, newest: bool, adaptive: bool) -> None:
    chance = random.Random(seed)
    order = flow.Order.NEWEST if newest else flow.Order.FIFO
    limit = flow.Limit(
        flow.Aimd(size, most=4) if adaptive else size,
        waiting=chance.randrange(6),
        wait=chance.choice([0, 1, 3]),
        order=order,
    )
    most = 4 if adaptive else size
    ends = {"done": 0, "refused": 0, "expired": 0, "cancelled": 0}

    async def one(at: float, held: float, within: float, cancel: float, priority: int) -> None:
        await anyio.sleep(at)
        with anyio.move_on_after(cancel) as scope:
            try:
                with flow.deadline(within):
                    async with limit.permit(priority):
                        assert limit.in_use <= most
                        await anyio.sleep(held)
                ends["done"] += 1
            except flow.Rejected:
                ends["refused"] += 1
            except flow.Expired:
                ends["expired"] += 1
        ends["cancelled"] += scope.cancelled_caught

    def moment(most: int) -> float:  # whole seconds, so that much falls together
        return float(chance.randrange(most))

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(one, moment(5), moment(4), moment(5) + 1, moment(6), chance.randrange(10))

    assert sum(ends.values()) == 20, "each ends in one way"
    assert limit.in_use == limit.waiting == 0
    async with limit.permit():
        assert limit.in_use == 1, "it still works"


async def test_a_dark_limit_refuses_nobody_and_counts_what_it_would_have() -> None:
    limit = flow.Limit(2, dark=True)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(hold, limit, 1)
        await anyio.wait_all_tasks_blocked()
        assert limit.in_use == 5

    assert (limit.counts.granted, limit.counts.would_refuse, limit.in_use) == (5, 3, 0)


@pytest.mark.parametrize(
    "wrong",
    [{"size": 0}, {"size": -1}, {"size": 1, "waiting": -1}, {"size": 1, "wait": -1.0}, {"size": 1, "status": 500}],
)
def test_a_limit_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        flow.Limit(**wrong)


@pytest.mark.parametrize("priority", [-1, 10])
def test_a_priority_that_is_none_is_refused(priority: int) -> None:
    with pytest.raises(UsageError, match="0 to 9"):
        flow.Limit(1).permit(priority)


# ---- outcomes ---------------------------------------------------------------------------------------------------------


class Recorder:
    """An algorithm that changes nothing."""

    size = 2

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.seconds: list[float] = []

    def sample(self, outcome: Outcome, seconds: float, in_use: int) -> int:
        self.outcomes.append(outcome)
        self.seconds.append(seconds)
        return self.size


async def test_the_algorithm_is_told_how_the_work_ended_and_how_long_it_took() -> None:
    recorder = Recorder()
    limit = flow.Limit(recorder)

    await hold(limit, 2)
    with pytest.raises(flow.Expired), flow.deadline(1):
        await hold(limit, 9)
    with anyio.move_on_after(1):
        await hold(limit, 9)
    with pytest.raises(ZeroDivisionError):
        async with limit.permit():
            raise ZeroDivisionError
    with pytest.raises(flow.Rejected):
        async with limit.permit():
            raise flow.Rejected("the service said 429")
    async with limit.permit() as permit:
        permit.overloaded()

    good, over, unknown = Outcome.GOOD, Outcome.OVERLOADED, Outcome.UNKNOWN
    assert recorder.outcomes == [good, over, unknown, unknown, over, over]
    assert recorder.seconds == pytest.approx([2, 1, 1, 0, 0, 0])


async def test_more_permits_wake_those_who_wait() -> None:
    class Grows(Recorder):
        def sample(self, outcome: Outcome, seconds: float, in_use: int) -> int:
            return 4

    limit = flow.Limit(Grows(), waiting=10, wait=60)
    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(hold, limit, 5)
        await anyio.wait_all_tasks_blocked()
        assert limit.in_use == 2
        await anyio.sleep(5)
        await anyio.wait_all_tasks_blocked()
        assert limit.in_use == 4


# ---- threads ----------------------------------------------------------------------------------------------------------


def test_a_thread_waits_for_a_thread() -> None:
    limit = flow.Limit(1, wait=60)
    entered = threading.Event()

    def second() -> None:
        with limit.permit():
            entered.set()

    with limit.permit():
        thread = threading.Thread(target=second)
        thread.start()
        while not limit.waiting:
            assert not entered.is_set()
    thread.join()

    assert entered.is_set()
    assert limit.in_use == 0


def test_a_thread_is_refused_in_time() -> None:
    limit = flow.Limit(1, wait=0.001)

    with limit.permit(), pytest.raises(flow.Rejected), limit.permit():
        pytest.fail("there is one permit")


@pytest.mark.parametrize("what", ["asyncio", "trio"])
def test_a_thread_s_permit_goes_to_a_coroutine(what: str) -> None:
    limit = flow.Limit(1, waiting=1, wait=60)

    def first(taken: threading.Event) -> None:
        with limit.permit():
            taken.set()
            while not limit.waiting:
                pass

    async def work() -> None:
        taken = threading.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(to_thread.run_sync, first, taken)
            await to_thread.run_sync(taken.wait)
            async with limit.permit():
                assert limit.in_use == 1

    anyio.run(work, backend=what)

    assert limit.in_use == 0


def test_a_permit_for_a_coroutine_whose_loop_has_ended_goes_on() -> None:
    limit = flow.Limit(1, waiting=5, wait=60)

    def ended(*_: object) -> None:
        raise RuntimeError("Event loop is closed")

    async def stand_in_line() -> None:
        limit._join(_Turn(5, math.inf, math.inf, SYSTEM, Loop(SYSTEM, ended, None)))

    with limit.permit() as permit:
        anyio.run(stand_in_line)
        assert limit.waiting == 1
        thread = threading.Thread(target=permit.give_back)
        thread.start()
        thread.join()

    assert limit.in_use == limit.waiting == 0


async def test_a_thread_s_way_in_is_refused_to_a_coroutine() -> None:
    with pytest.raises(UsageError, match="`async with` in a coroutine"), flow.Limit(1, name="x").permit():
        pytest.fail("it would block the loop")


async def test_a_permit_is_given_back_once() -> None:
    limit = flow.Limit(1)
    async with limit.permit() as permit:
        permit.give_back()
        permit.give_back()
        assert limit.in_use == 0
    assert limit.in_use == 0


async def test_a_limit_without_an_end_to_its_wait_says_when_to_come_again() -> None:
    limit = flow.Limit(1, waiting=0, wait=math.inf)

    async with limit.permit():
        with pytest.raises(flow.Rejected) as refused:
            await limit.permit().__aenter__()

    assert refused.value.retry_after == 1.0


def test_a_thread_may_wait_without_an_end() -> None:
    limit = flow.Limit(1, wait=math.inf)
    had: list[bool] = []

    def wait() -> None:
        with limit.permit():
            had.append(True)

    thread = threading.Thread(target=wait)
    with limit.permit():
        thread.start()
        while not limit.waiting and thread.is_alive():
            threading.Event().wait(0.001)
    thread.join(60)

    assert had == [True]
