"""On loops whose timers are half a millisecond early, as uvloop's are, a deadline is a deadline all the same; and who waits for a permit
until their deadline is counted, on every loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import anyio
import pytest

from crossfoot import flow
from crossfoot.flow.sizes import Outcome
from crossfoot.flow.virtual import VirtualLoop
from tests.flow.virtual import backend

Args = TypeVarTuple("Args")


class Early(VirtualLoop):
    """Its clock counts whole milliseconds for timers, and rounds them down."""

    def call_at(
        self,
        when: float,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        early = when - 0.0005
        return super().call_at(early if early > self.time() else when, callback, *args, context=context)


EARLY = ("asyncio", {"loop_factory": Early})

loops = pytest.mark.parametrize(
    "anyio_backend", [backend("asyncio"), EARLY, backend("trio")], ids=["asyncio", "early", "trio"]
)


class Told:
    """An algorithm that keeps what it is told."""

    size = 1

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def sample(self, outcome: Outcome, seconds: float, in_use: int) -> int:
        self.outcomes.append(outcome)
        return self.size


async def in_a_call(limit: flow.Limit) -> None:
    with pytest.raises(flow.Expired):
        await flow.call(anyio.sleep, 10, deadline=0.1, limit=limit)


async def in_a_branch(limit: flow.Limit) -> None:
    async with flow.fan_out(deadline=0.1) as group:
        branch = group.branch("late", anyio.sleep, 10, limit=limit)
    assert branch.fate is flow.Fate.EXPIRED


async def in_a_block(limit: flow.Limit) -> None:
    with pytest.raises(flow.Expired), flow.deadline(0.1):
        async with limit.permit():
            await anyio.sleep(10)


async def in_an_inner_block(limit: flow.Limit) -> None:
    with pytest.raises(flow.Expired), flow.deadline(0.1), flow.deadline(5):
        async with limit.permit():
            await anyio.sleep(10)


ways = pytest.mark.parametrize("way", [in_a_call, in_a_branch, in_a_block, in_an_inner_block])


@loops
@ways
async def test_what_its_deadline_cut_off_is_an_overload(way: Callable[[flow.Limit], Awaitable[None]]) -> None:
    told = Told()

    await way(flow.Limit(told))

    assert told.outcomes == [Outcome.OVERLOADED]


@loops
@ways
@pytest.mark.parametrize("wait", [60.0, 0.1])
async def test_who_waits_for_a_permit_until_their_deadline_is_counted_as_expired(
    wait: float, way: Callable[[flow.Limit], Awaitable[None]]
) -> None:
    limit = flow.Limit(1, wait=wait)

    async with limit.permit():
        await way(limit)

    counts = limit.counts
    assert (counts.granted, counts.shed, counts.expired) == (1, 0, 1)


@loops
async def test_who_is_cancelled_while_they_wait_is_not_counted_as_expired() -> None:
    limit = flow.Limit(1, wait=60)

    with flow.deadline(30):
        async with limit.permit():
            with anyio.move_on_after(0.1):
                async with limit.permit():
                    pytest.fail("there is one permit")

    assert limit.counts.expired == 0
