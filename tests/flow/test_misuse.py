"""What is used as it is not meant to be is refused, with what to do instead, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from crossfoot import flow
from crossfoot.errors import UsageError
from crossfoot.flow import Fate
from tests.flow.virtual import backend, block


async def last_price() -> int:
    return 95


async def get_price() -> int:
    return 99


async def get_late_price() -> int:
    await anyio.sleep(10)
    return 99


# ---- fallbacks --------------------------------------------------------------------------------------------------------


async def test_a_fallback_that_is_awaited_needs_a_share_of_the_time() -> None:
    with pytest.raises(UsageError, match=r"give the branch a share"):
        await flow.call(get_price, deadline=1, fallback=last_price)
    async with flow.fan_out(deadline=1) as group:
        with pytest.raises(UsageError, match=r"give the branch a share"):
            group.branch("price", get_price, fallback=last_price)
        late = group.branch("late", get_late_price, share=0.5, fallback=last_price)

    assert (group.branches, late.fate, late.value) == ([late], Fate.DEGRADED, 95)


def test_a_fallback_that_is_awaited_is_refused_in_threads() -> None:
    with flow.fan_out_threads(deadline=1) as group, pytest.raises(UsageError, match="nobody awaits in a thread"):
        group.branch("price", int, share=0.5, fallback=last_price)

    assert group.branches == []


# ---- outside the block ------------------------------------------------------------------------------------------------


async def test_a_branch_outside_the_block_is_refused() -> None:
    ledger = flow.Ledger()
    group = flow.fan_out(1, ledger=ledger)

    with pytest.raises(UsageError, match="block has not begun yet"):
        group.branch("price", get_price)
    async with group:
        pass
    with pytest.raises(UsageError, match="block has ended"):
        group.branch("price", get_price)

    assert ledger.accounts == []


def test_a_branch_outside_the_block_of_threads_is_refused() -> None:
    ledger = flow.Ledger()
    group = flow.fan_out_threads(1, ledger=ledger)

    with pytest.raises(UsageError, match="block has not begun yet"):
        group.branch("price", int)
    with group:
        pass
    with pytest.raises(UsageError, match="block has ended"):
        group.branch("price", int)

    assert ledger.accounts == []


async def test_a_branch_may_begin_another_one_while_the_block_waits_for_it() -> None:
    begun: list[flow.Branch[int]] = []

    async def begins_another() -> None:
        await anyio.sleep(0.1)
        begun.append(group.branch("price", get_price))

    async with flow.fan_out(1) as group:
        group.branch("first", begins_another)

    assert [branch.value for branch in begun] == [99]


@pytest.mark.parametrize("anyio_backend", [backend("asyncio")], ids=["asyncio"])
async def test_a_branch_whose_task_cannot_be_begun_has_ended() -> None:
    def refuse(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        coroutine.close()
        raise RuntimeError("no tasks today")

    ledger, loop = flow.Ledger(), asyncio.get_running_loop()
    async with flow.fan_out(1, ledger=ledger) as group:
        loop.set_task_factory(refuse)
        with pytest.raises(RuntimeError, match="no tasks today"):
            group.branch("price", get_price)
        loop.set_task_factory(None)

    assert [(account.under_way, account.fates) for account in ledger.accounts] == [(0, {Fate.FAILED: 1})]


# ---- used twice -------------------------------------------------------------------------------------------------------


async def test_a_fan_out_is_for_one_block() -> None:
    group = flow.fan_out(1)
    async with group:
        with pytest.raises(UsageError, match="for one block"):
            await group.__aenter__()
    with pytest.raises(UsageError, match="for one block"):
        await group.__aenter__()


def test_a_fan_out_of_threads_is_for_one_block() -> None:
    group = flow.fan_out_threads(1)
    with group, pytest.raises(UsageError, match="for one block"):
        group.__enter__()
    with pytest.raises(UsageError, match="for one block"):
        group.__enter__()


async def test_a_deadline_is_for_one_block() -> None:
    held = flow.deadline(1)
    with held, pytest.raises(UsageError, match="for one block"):
        held.begin()
    with pytest.raises(UsageError, match="for one block"):
        held.begin()


# ---- arguments --------------------------------------------------------------------------------------------------------


NAN = float("nan")


@pytest.mark.parametrize(
    "make",
    [
        lambda: flow.Limit(2.5),  # type: ignore[arg-type] # on purpose, as all of these
        lambda: flow.Limit(NAN),  # type: ignore[arg-type] # on purpose
        lambda: flow.Limit("3"),  # type: ignore[arg-type] # on purpose
        lambda: flow.Limit(3, waiting=NAN),  # type: ignore[arg-type] # on purpose
        lambda: flow.Vegas(forget=0),
        lambda: flow.Gradient2(window=-1),
        lambda: flow.Gradient2(smoothing=1.5),
        lambda: flow.Gradient2(smoothing=-0.1),
        lambda: flow.Gradient2(queue=-1),
        lambda: flow.Gradient2(tolerance=-1),
        lambda: flow.Budget(ratio=0, floor=0, seconds=float("inf")),
        lambda: flow.Retry(attempts=NAN),  # type: ignore[arg-type] # on purpose
        lambda: flow.Retry(each=-1),
        lambda: flow.Retry(each=NAN),
    ],
)
def test_an_argument_that_is_none_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        make()


async def test_a_listener_that_raises_does_not_replace_the_result(caplog: pytest.LogCaptureFixture) -> None:
    def breaks(report: flow.Report) -> None:
        raise RuntimeError("of the listener")

    async def blocks() -> int:
        block(0.5)
        return 99

    with flow.listen(breaks):
        assert await flow.call(blocks, deadline=0.1) == 99

    assert "breaks raised" in caplog.text
