"""One deadline for everything that is done for a request. Time is virtual, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
import trio
from anyio import to_thread
from hypothesis import given
from hypothesis import strategies as st

from crossfoot import flow
from crossfoot.errors import UsageError
from tests.flow.virtual import backend, block

SECONDS = st.integers(0, 10**9).map(lambda millis: millis / 1000)


@pytest.fixture
def reports() -> Iterator[list[flow.Report]]:
    told: list[flow.Report] = []
    with flow.listen(told.append):
        yield told


# ---- how long ---------------------------------------------------------------------------------------------------------


async def test_the_work_is_stopped_when_the_time_is_over() -> None:
    began = anyio.current_time()

    with pytest.raises(flow.Expired, match=r"the deadline of 0\.3 s set at .*test_deadlines:\d+"), flow.deadline(0.3):
        await anyio.sleep(10)

    assert anyio.current_time() - began == pytest.approx(0.3)


async def test_it_is_a_timeout_error_and_means_504() -> None:
    with pytest.raises(TimeoutError) as caught, flow.deadline(0.1):
        await anyio.sleep(1)

    assert isinstance(caught.value, flow.FlowError)
    assert caught.value.status == 504


@given(times=st.lists(SECONDS, min_size=1, max_size=6))
@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_nested_deadlines_take_the_minimum(name: str, times: list[float]) -> None:
    async def nest(left: list[float], shortest: float) -> None:
        if not left:
            return
        shortest = min(shortest, left[0])
        try:
            with flow.deadline(left[0]) as held:
                assert held.remaining() == pytest.approx(shortest)
                assert flow.current() is held
                await nest(left[1:], shortest)
        except flow.Expired:
            assert shortest == 0

    kind, options = backend(name)
    anyio.run(nest, times, math.inf, backend=kind, backend_options=options)


async def test_an_inner_deadline_leaves_the_rest_to_the_outer_one() -> None:
    with flow.deadline(1) as outer:
        with pytest.raises(flow.Expired), flow.deadline(0.2):
            await anyio.sleep(5)

        assert outer.remaining() == pytest.approx(0.8)
        assert flow.current() is outer
    assert flow.remaining() == math.inf


async def test_the_outer_deadline_ends_it_when_the_inner_one_is_longer() -> None:
    after = False

    with pytest.raises(flow.Expired, match=r"of 0\.2 s"), flow.deadline(0.2):
        with flow.deadline(5):
            await anyio.sleep(10)
        after = True

    assert not after


async def test_an_expired_deadline_makes_no_call() -> None:
    called = False

    with pytest.raises(flow.Expired), flow.deadline(0.1):
        block(0.2)
        with flow.deadline(5):
            called = True

    assert not called


async def test_no_time_at_all_is_expired_at_once() -> None:
    with pytest.raises(flow.Expired), flow.deadline(0):
        pytest.fail("the block must not begin")


@pytest.mark.parametrize("seconds", [-0.1, -math.inf, math.nan, pytest.param(10**400, id="too many"), "3", None])
def test_a_deadline_that_is_none_is_refused(seconds: Any) -> None:
    with pytest.raises(UsageError, match="give seconds, 0 or more"):
        flow.deadline(seconds)


async def test_without_a_deadline_there_is_all_the_time() -> None:
    flow.check()
    assert flow.remaining() == math.inf
    with flow.deadline(math.inf):
        await anyio.sleep(3600)


async def test_the_wall_clock_may_jump_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    with flow.deadline(0.3) as held:
        monkeypatch.setattr("time.time", lambda: 0.0)
        assert held.remaining() == pytest.approx(0.3)
        await anyio.sleep(0.2)
        assert held.remaining() == pytest.approx(0.1)


# ---- who inherits it --------------------------------------------------------------------------------------------------


async def test_tasks_and_task_groups_inherit_it() -> None:
    left = {}

    async def look(name: str) -> None:
        left[name] = flow.remaining()

    with flow.deadline(0.5):
        async with anyio.create_task_group() as group:
            group.start_soon(look, "in a group")
        await look("here")

    assert left == {name: pytest.approx(0.5) for name in ("in a group", "here")}


@pytest.mark.parametrize("anyio_backend", [backend("asyncio")], ids=["asyncio"])
async def test_a_task_of_asyncio_s_own_inherits_it_and_its_guarded_calls_end_in_time() -> None:
    async def work() -> float:
        began = anyio.current_time()
        try:
            with flow.deadline(60):
                await anyio.sleep(50)
        except flow.Expired:
            pass
        return anyio.current_time() - began

    with flow.deadline(0.5):
        task = asyncio.create_task(work())
        await asyncio.wait([task], timeout=0.4)

    assert await task == pytest.approx(0.5)


@pytest.mark.parametrize("what", ["asyncio", "trio"])
def test_threads_inherit_it(what: str) -> None:
    def look() -> tuple[float, float]:
        with flow.deadline(900) as inner:
            return flow.remaining(), inner.at

    async def work() -> None:
        with flow.deadline(600) as held:
            left, at = await to_thread.run_sync(look)
        assert 0 < left <= 600
        assert at == held.at, "by the clock of the loop that set it"

    anyio.run(work, backend=what)


@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_a_loop_with_another_clock_has_the_same_time_left(name: str) -> None:
    async def look() -> tuple[float, float]:
        with flow.deadline(900) as inner:
            return inner.remaining(), inner.at - anyio.current_time()

    kind, options = backend(name)
    with flow.deadline(600):
        left = anyio.run(look, backend=kind, backend_options=options)

    assert all(590 < seconds <= 600 for seconds in left)


def test_in_a_thread_it_is_asked_for() -> None:
    with pytest.raises(flow.Expired), flow.deadline(0.001) as held:
        while held.remaining() > 0:
            pass
        flow.check()


# ---- cancellation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", [backend("asyncio")], ids=["asyncio"])
@pytest.mark.parametrize("first", ["the deadline", "somebody"])
@pytest.mark.parametrize("how", ["deadline", "call", "call with a fallback", "fan_out"])
async def test_a_cancellation_in_the_tick_of_the_deadline_is_not_swallowed(how: str, first: str) -> None:
    loop = asyncio.get_running_loop()

    async def work() -> None:
        if how == "deadline":
            with flow.deadline(0.5):
                await asyncio.sleep(10)
        elif how == "fan_out":
            async with flow.fan_out(deadline=0.5) as group:
                group.branch("late", asyncio.sleep, 10)
        else:
            await flow.call(asyncio.sleep, 10, deadline=0.5, fallback=None if how == "call" else lambda: None)

    task = asyncio.create_task(work())
    if first == "the deadline":
        await asyncio.sleep(0)
    loop.call_at(loop.time() + 0.5, task.cancel)

    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("anyio_backend", [backend("asyncio")], ids=["asyncio"])
async def test_an_answer_in_the_tick_of_the_deadline_is_not_lost(reports: list[flow.Report]) -> None:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[int] = loop.create_future()
    loop.call_at(loop.time() + 0.5, answer.set_result, 42)

    with flow.deadline(0.5):
        assert await answer == 42

    assert reports == []


async def test_another_error_in_the_block_is_itself() -> None:
    with pytest.raises(ZeroDivisionError), flow.deadline(0.5):
        raise ZeroDivisionError


async def test_errors_of_a_group_survive_the_deadline() -> None:
    async def fail_late() -> None:
        try:
            await anyio.sleep(10)
        finally:
            raise ZeroDivisionError

    with pytest.raises(BaseExceptionGroup) as caught, flow.deadline(0.5):
        async with anyio.create_task_group() as group:
            group.start_soon(fail_late)
            group.start_soon(anyio.sleep, 10)

    assert caught.group_contains(ZeroDivisionError)


# ---- troubles ---------------------------------------------------------------------------------------------------------


async def test_blocking_code_that_overran_is_reported_when_the_block_ends(reports: list[flow.Report]) -> None:
    with flow.deadline(0.1):
        block(0.5)

    (report,) = reports
    assert report.seconds == pytest.approx(0.4)
    assert "test_blocking_code_that_overran" in report.within


@pytest.mark.parametrize("anyio_backend", [backend("asyncio")], ids=["asyncio"])
async def test_blocking_code_is_named_by_where_it_could_be_stopped(reports: list[flow.Report]) -> None:
    async def reckon() -> None:
        block(0.5)
        await anyio.sleep(1)

    with pytest.raises(flow.Expired), flow.deadline(0.1):
        await reckon()

    (report,) = reports
    assert (report.trouble, report.place.partition(" in ")[2].rpartition(".")[2]) == (flow.Trouble.BLOCKED, "reckon")


@pytest.mark.parametrize("anyio_backend", [backend("asyncio")], ids=["asyncio"])
async def test_a_cancellation_that_was_swallowed_is_named(reports: list[flow.Report]) -> None:
    async def deaf() -> str:
        try:
            await anyio.sleep(10)
        except asyncio.CancelledError:
            return "as if nothing had been"
        return "slept"

    with flow.deadline(0.1):
        assert await deaf() == "as if nothing had been"

    (report,) = reports
    assert (report.trouble, report.place.partition(" in ")[2].rpartition(".")[2]) == (flow.Trouble.SWALLOWED, "deaf")


@pytest.mark.parametrize("anyio_backend", [backend("asyncio")], ids=["asyncio"])
async def test_one_trouble_is_told_once_however_many_deadlines_it_broke(reports: list[flow.Report]) -> None:
    with flow.deadline(0.1), flow.deadline(1), flow.deadline(2):
        block(0.5)

    assert len(reports) == 1


async def test_what_is_shielded_ends_late_and_is_reported_with_its_result_kept(reports: list[flow.Report]) -> None:
    done = False

    with flow.deadline(0.1):
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.5)
            done = True

    assert done
    (report,) = reports
    assert report.trouble is flow.Trouble.LATE
    assert report.seconds == pytest.approx(0.4)


async def test_one_place_is_logged_once_a_second_and_told_each_time(
    reports: list[flow.Report], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        with flow.deadline(0.1):
            block(0.5)

    assert len(reports) == 10
    assert len([record for record in caplog.records if record.name == "crossfoot.flow"]) == 1


async def test_who_ends_in_time_is_not_reported(reports: list[flow.Report]) -> None:
    with flow.deadline(0.1):
        await anyio.sleep(0.09)
    with pytest.raises(flow.Expired), flow.deadline(0.1):
        await anyio.sleep(1)

    assert reports == []


def test_a_watch_names_the_line_that_holds_everybody_up(reports: list[flow.Report]) -> None:
    seen = threading.Event()
    places: list[str] = []

    def see(place: str) -> None:
        places.append(place)
        seen.set()

    def compute() -> None:
        assert seen.wait(60)  # as long as it takes to be caught

    async def work() -> None:
        with flow.deadline(0.01):
            compute()
            while flow.remaining() > -flow.deadlines.TOLERANCE:
                pass

    with flow.watch(period=0.001, seen=see):
        anyio.run(work)

    assert [report.trouble for report in reports] == [flow.Trouble.BLOCKED]
    assert reports[0].place == places[0]
    assert places[0].endswith("compute")


@pytest.mark.parametrize("what", ["asyncio", "trio"])
def test_a_loop_that_waits_is_not_taken_for_one_that_is_held_up(what: str) -> None:
    from crossfoot.flow import places

    looked: list[str | None] = []

    async def wait() -> None:
        thread = threading.get_ident()
        woken = anyio.Event()
        token: Any = asyncio.get_running_loop() if what == "asyncio" else trio.lowlevel.current_trio_token()
        wake = token.call_soon_threadsafe if what == "asyncio" else token.run_sync_soon

        def look() -> None:
            looked.append(places.blocked(thread))
            wake(woken.set)

        helper = threading.Thread(target=look)
        helper.start()
        await woken.wait()
        helper.join()

    anyio.run(wait, backend=what)

    assert all(place is None or "join" not in place for place in looked)
