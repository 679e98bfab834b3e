"""A fan-out's tasks end with its block, whoever cancels what, and whenever; on asyncio, where the group is our own, and on trio."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Callable

import anyio
import pytest

from crossfoot import flow
from crossfoot.flow import virtual
from crossfoot.flow.groups import LoopGroup, group


@pytest.fixture
def ledger() -> flow.Ledger:
    return flow.Ledger()


async def test_a_shield_in_a_branch_holds(ledger: flow.Ledger) -> None:
    closed = []

    async def ask() -> None:
        try:
            await anyio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)
                closed.append(anyio.current_time())

    began = anyio.current_time()
    async with flow.fan_out(deadline=0.3, ledger=ledger) as branches:
        branches.branch("price", ask)

    assert closed == [pytest.approx(began + 5.3)]
    assert branches.branches[0].fate is flow.Fate.EXPIRED


async def test_a_cancellation_comes_again_until_the_branch_ends(ledger: flow.Ledger) -> None:
    tries = 0

    async def stubborn() -> None:
        nonlocal tries
        while tries < 3:
            try:
                await anyio.sleep(60)
            except BaseException:  # noqa: BLE001 - the bug
                tries += 1

    began = anyio.current_time()
    async with flow.fan_out(deadline=0.3, ledger=ledger) as branches:
        branches.branch("price", stubborn)

    assert tries == 3
    assert anyio.current_time() == pytest.approx(began + 0.3)


async def test_a_shield_around_keeps_the_outer_cancellation_off(ledger: flow.Ledger) -> None:
    with anyio.CancelScope() as outer:
        with anyio.CancelScope(shield=True):
            async with flow.fan_out(deadline=9, ledger=ledger) as branches:
                price = branches.branch("price", anyio.sleep, 1)
                outer.cancel()
    assert price.fate is flow.Fate.FULL


async def test_who_cancels_while_it_waits_is_obeyed_when_the_branches_have_ended(ledger: flow.Ledger) -> None:
    ended = []

    async def ask() -> None:
        try:
            await anyio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
            ended.append("price")

    with anyio.move_on_after(0.1) as outer:
        async with flow.fan_out(deadline=9, ledger=ledger) as branches:
            branches.branch("price", ask)
        pytest.fail("it is cancelled")
    assert outer.cancelled_caught
    assert ended == ["price"]
    assert branches.fate is flow.Fate.CANCELLED


def on_asyncio(test: Callable[[flow.Ledger], object]) -> None:
    async def main() -> None:
        await test(flow.Ledger())  # type: ignore[misc] # a coroutine function

    virtual.run(main)


def test_a_task_s_own_cancellation_is_not_lost_and_leaves_no_orphan() -> None:
    async def test(ledger: flow.Ledger) -> None:
        async def work() -> None:
            async with flow.fan_out(deadline=9, name="page", ledger=ledger) as branches:
                branches.branch("price", asyncio.sleep, 60)
                branches.branch("stock", asyncio.sleep, 60)

        for turns in range(8):
            task = asyncio.create_task(work())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert asyncio.all_tasks() == {asyncio.current_task()}
        assert all(one.balances and not one.under_way for one in ledger.accounts)

    on_asyncio(test)


def test_a_branch_that_somebody_cancels_before_it_begins_ends_and_nobody_waits_for_ever() -> None:
    async def test(ledger: flow.Ledger) -> None:
        async with flow.fan_out(deadline=9, ledger=ledger) as branches:
            price = branches.branch("price", asyncio.sleep, 1)
            stock = branches.branch("stock", asyncio.sleep, 1)
            assert price.task is not None
            price.task.cancel()
        assert (price.fate, stock.fate) == (flow.Fate.CANCELLED, flow.Fate.FULL)

    on_asyncio(test)


def test_an_error_of_a_task_ends_the_others_and_is_raised() -> None:
    async def test(ledger: flow.Ledger) -> None:
        async def fail() -> None:
            raise ZeroDivisionError

        with pytest.raises(ExceptionGroup) as caught:
            async with group() as tasks:
                assert isinstance(tasks, LoopGroup)
                other = tasks.start_soon(asyncio.sleep, 60)
                tasks.start_soon(fail)
        assert [type(one) for one in caught.value.exceptions] == [ZeroDivisionError]
        assert other.done()

    on_asyncio(test)


def test_what_is_done_leaves_nothing_for_the_garbage_collector() -> None:
    async def test(ledger: flow.Ledger) -> None:
        async def work() -> None:
            async with flow.fan_out(deadline=9, name="page", ledger=ledger) as branches:
                branches.branch("price", asyncio.sleep, 1)
            await flow.call(asyncio.sleep, 0, deadline=1, limit=limit, ledger=ledger)

        limit = flow.Limit(1)
        await work()
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await work()
            gc.collect()
            assert [one for one in gc.garbage if type(one).__module__.startswith(("crossfoot.", "anyio."))] == []
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    on_asyncio(test)


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_is_cancelled_when_everything_ends_within_the_block(seed: int, ledger: flow.Ledger) -> None:
    chance = random.Random(seed)
    running = 0

    async def ask(seconds: float) -> None:
        nonlocal running
        running += 1
        try:
            await anyio.sleep(seconds)
            if chance.random() < 0.2:
                raise ConnectionError
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(chance.choice([0, 0.05]))
            running -= 1

    for _ in range(20):
        with anyio.move_on_after(chance.choice([0.1, 0.3, 9])):
            try:
                async with flow.fan_out(deadline=chance.choice([0.1, 0.2, 9]), name="page", ledger=ledger) as branches:
                    for number in range(chance.randrange(5)):
                        branches.branch(
                            str(number), ask, chance.choice([0, 0.1, 0.2, 0.4]), required=chance.random() < 0.3
                        )
                    if chance.random() < 0.5:
                        await anyio.sleep(chance.choice([0, 0.1, 0.3]))
            except (ExceptionGroup, flow.Expired):
                pass
        assert running == 0
        assert all(one.balances and not one.under_way for one in ledger.accounts)
