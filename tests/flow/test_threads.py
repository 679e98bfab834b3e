"""Work in threads. Threads wait for signs of each other; no test depends on who is faster."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from crossfoot import flow
from crossfoot.errors import UsageError
from crossfoot.flow import Fate
from crossfoot.flow.threads import Threads


class Gate:
    """A call that goes on until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def call(self) -> str:
        self.entered.set()
        assert self.open.wait(60)
        return "done"


@pytest.fixture
def gate() -> Iterator[Gate]:
    one = Gate()
    yield one
    one.open.set()


@pytest.fixture
def reports() -> Iterator[list[flow.Report]]:
    told: list[flow.Report] = []
    with flow.listen(told.append):
        yield told


both = pytest.mark.parametrize("what", ["asyncio", "trio"])


def settle(threads: Threads) -> None:
    """Wait until every thread has come to its end."""
    while threads.limit.in_use:
        pass


async def leave(threads: Threads, gate: Gate) -> None:
    """Call through the gate, and leave before it opens."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(threads.run, gate.call)
            await anyio.to_thread.run_sync(gate.entered.wait)
            scope.cancel()


@both
def test_a_function_answers_or_raises_in_its_thread(what: str) -> None:
    threads = Threads(2)

    async def work() -> None:
        assert await threads.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await threads.run(divmod, 7, 0)

    anyio.run(work, backend=what)
    assert threads.limit.in_use == 0


@both
def test_a_permit_is_held_until_the_thread_ends_whoever_has_left(
    what: str, gate: Gate, reports: list[flow.Report]
) -> None:
    ledger = flow.Ledger()
    threads = Threads(1, wait=0, ledger=ledger)

    async def work() -> None:
        await leave(threads, gate)
        assert (threads.limit.in_use, threads.abandoned) == (1, 1)
        with pytest.raises(flow.Overloaded):
            await threads.run(print)

    anyio.run(work, backend=what)
    gate.open.set()
    settle(threads)

    assert threads.abandoned == 0
    assert ledger.wasted[flow.Waste.THREAD][0] == 1
    (report,) = reports
    assert report.trouble is flow.Trouble.ABANDONED
    assert report.place.endswith("Gate.call"), "what it is doing"


@both
def test_too_many_threads_that_were_left_stop_new_ones_and_their_end_lets_them_in_again(what: str) -> None:
    threads, gates = Threads(4, abandoned=2), [Gate(), Gate()]

    async def work() -> None:
        for gate in gates:
            await leave(threads, gate)
        with pytest.raises(flow.Overloaded, match="2 threads are going on after their callers have left"):
            await threads.run(print)

        gates[0].open.set()
        while threads.abandoned == 2:
            await anyio.lowlevel.checkpoint()
        assert await threads.run(str, 1) == "1"

    anyio.run(work, backend=what)
    gates[1].open.set()
    settle(threads)


@both
def test_threads_are_used_again(what: str) -> None:
    threads = Threads(3)
    idents: set[int] = set()

    def note() -> None:
        idents.add(threading.get_ident())

    async def work() -> None:
        for _ in range(20):
            await threads.run(note)
            while not threads._idle:
                await anyio.lowlevel.checkpoint()

    anyio.run(work, backend=what)
    assert len(idents) == 1


@pytest.mark.parametrize(("size", "abandoned"), [(0, None), (2, 0), (2, 3)])
def test_threads_that_are_none_are_refused(size: int, abandoned: int | None) -> None:
    with pytest.raises(UsageError):
        Threads(size, abandoned=abandoned)


# ---- fan-out ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ledger() -> flow.Ledger:
    return flow.Ledger()


def test_branches_run_at_once_and_answer(ledger: flow.Ledger) -> None:
    together = threading.Barrier(2)

    def answer(value: str) -> str:
        together.wait(60)
        return value

    with flow.fan_out_threads(deadline=600, name="page", threads=Threads(2), ledger=ledger) as group:
        stock = group.branch("stock", answer, "12", required=True)
        price = group.branch("price", answer, "99")

    assert (stock.value, price.value, group.fate) == ("12", "99", Fate.FULL)


def test_the_block_is_left_by_the_deadline_whatever_the_threads_do(ledger: flow.Ledger, gate: Gate) -> None:
    threads, limit = Threads(4, ledger=ledger), flow.Limit(4)

    with flow.fan_out_threads(deadline=600, name="page", threads=threads, ledger=ledger) as group:
        price = group.branch("price", gate.call, fallback=lambda: "last known", limit=limit)
        charge = group.branch("charge", gate.call, effect=True, limit=limit)
        rating = group.branch("rating", gate.call, limit=limit)
        while limit.in_use < 3:
            pass
        group._deadline.at = group._deadline.clock()  # ten minutes later

    assert [one.fate for one in (price, charge, rating)] == [Fate.DEGRADED, Fate.IN_DOUBT, Fate.EXPIRED]
    assert (price.value, group.fate) == ("last known", Fate.IN_DOUBT)
    assert (threads.abandoned, limit.in_use) == (3, 3), "permits are held until the threads end"

    gate.open.set()
    settle(threads)
    assert (threads.abandoned, limit.in_use) == (0, 0)
    assert [one.fate for one in (price, charge, rating)] == [Fate.DEGRADED, Fate.IN_DOUBT, Fate.EXPIRED], (
        "one fate, for good"
    )
    assert all(one.balances and not one.under_way for one in ledger.accounts)


def test_a_required_branch_that_fails_is_not_waited_past(ledger: flow.Ledger, gate: Gate) -> None:
    threads = Threads(4, ledger=ledger)

    def fail() -> None:
        assert gate.entered.wait(60)
        raise ConnectionError

    group = flow.fan_out_threads(deadline=600, name="page", threads=threads, ledger=ledger)
    with pytest.raises(ExceptionGroup, match="no answer from stock") as caught, group:
        price = group.branch("price", gate.call)
        stock = group.branch("stock", fail, required=True)

    assert caught.group_contains(ConnectionError)
    assert (stock.fate, price.fate, group.fate) == (Fate.FAILED, Fate.CANCELLED, Fate.FAILED)
    with pytest.raises(flow.FlowError, match="branch price has no answer: cancelled"):
        _ = price.value
    gate.open.set()
    settle(threads)


def test_without_a_thread_a_branch_is_shed(ledger: flow.Ledger, gate: Gate) -> None:
    threads = Threads(1, wait=0)

    with flow.fan_out_threads(deadline=600, threads=threads, ledger=ledger) as group:
        group.branch("first", gate.call)
        second = group.branch("second", gate.call, fallback=lambda: "instead")
        third = group.branch("third", gate.call)
        gate.open.set()

    assert (second.value, third.fate) == ("instead", Fate.SHED)


def test_an_error_of_the_block_leaves_the_threads(ledger: flow.Ledger, gate: Gate) -> None:
    threads = Threads(2)

    with (
        pytest.raises(ZeroDivisionError),
        flow.fan_out_threads(deadline=600, name="page", threads=threads, ledger=ledger) as group,
    ):
        branch = group.branch("price", gate.call)
        raise ZeroDivisionError

    assert (branch.fate, group.fate) == (Fate.CANCELLED, Fate.FAILED)
    gate.open.set()
    settle(threads)


def test_a_branch_in_a_thread_is_tried_again(ledger: flow.Ledger) -> None:
    errors: list[Exception] = [ConnectionError(), ConnectionError()]

    def ask() -> str:
        if errors:
            raise errors.pop()
        return "answer"

    with flow.fan_out_threads(deadline=600, threads=Threads(1), ledger=ledger) as group:
        branch = group.branch("price", ask, retry=flow.Retry(base=0), idempotent=True)

    assert branch.value == "answer"
    assert ledger.wasted[flow.Waste.RETRIED][0] == 2


def test_without_any_deadline_no_thread_is_begun() -> None:
    with pytest.raises(UsageError, match="give it one"):
        flow.fan_out_threads()


def test_threads_inherit_what_is_left(ledger: flow.Ledger) -> None:
    def look() -> Any:
        return flow.remaining()

    with flow.deadline(500), flow.fan_out_threads(threads=Threads(1), ledger=ledger) as group:
        branch = group.branch("look", look, share=0.5)

    assert 0 < branch.value <= 250


def test_a_fallback_that_answered_is_not_asked_again_by_a_thread_that_was_left(ledger: flow.Ledger, gate: Gate) -> None:
    asked: list[str] = []

    def fails() -> str:
        gate.call()
        raise ConnectionError("no route")

    def last_known() -> str:
        asked.append("asked")
        return "last known"

    threads = Threads(1)
    with flow.fan_out_threads(deadline=0.05, threads=threads, ledger=ledger) as group:
        price = group.branch("price", fails, fallback=last_known)
    ended, told = price.fate, list(asked)
    gate.open.set()
    settle(threads)

    assert (price.fate, asked) == (ended, told)


def test_a_fallback_that_is_being_asked_at_the_deadline_is_not_asked_twice_and_not_waited_for(
    ledger: flow.Ledger, gate: Gate
) -> None:
    asked: list[str] = []

    def fails() -> str:
        raise ConnectionError("no route")

    def blocks() -> str:
        asked.append(threading.current_thread().name)
        return gate.call()

    threads = Threads(1, name="own")
    with flow.fan_out_threads(deadline=60, threads=threads, ledger=ledger) as group:
        price = group.branch("price", fails, fallback=blocks)
        assert gate.entered.wait(60)
        group._deadline.at = group._deadline.clock()  # a minute later
    assert price.fate is Fate.EXPIRED
    gate.open.set()
    settle(threads)

    assert asked == ["crossfoot own"]
    assert price.fate is Fate.EXPIRED


def test_a_branch_that_gets_no_thread_of_the_system_has_a_fate(
    ledger: flow.Ledger, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = Threads(1)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with flow.fan_out_threads(deadline=60, threads=threads, ledger=ledger) as group:
        price = group.branch("price", gate.call, fallback=lambda: "last known")

    assert (price.fate, price.value) == (Fate.DEGRADED, "last known")
    assert threads.limit.in_use == 0
