"""One guarded call, and what is said about its end. Time is virtual, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import anyio
import pytest

from crossfoot import flow
from tests.flow.virtual import backend


async def late() -> int:
    await anyio.sleep(10)
    return 99


async def expires() -> None:
    with pytest.raises(flow.Expired):
        await flow.call(late, deadline=0.1)


async def expires_with_a_fallback() -> None:
    assert await flow.call(late, deadline=0.1, fallback=lambda: 95) == 95


async def expires_with_a_share() -> None:
    assert await flow.call(late, deadline=0.1, share=0.5, fallback=lambda: 95) == 95


@pytest.mark.parametrize("call", [expires, expires_with_a_fallback, expires_with_a_share])
async def test_a_call_that_expires_as_it_should_is_no_trouble(call: Callable[[], Awaitable[None]]) -> None:
    reports: list[flow.Report] = []

    with flow.listen(reports.append):
        await call()

    assert reports == []


@pytest.mark.parametrize("how", ["call", "fan_out"])
@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_an_order_to_leave_the_program_in_the_cleanup_after_the_deadline_is_obeyed(name: str, how: str) -> None:
    async def cleans_up() -> None:
        try:
            await anyio.sleep(10)
        finally:
            sys.exit(3)

    async def main() -> None:
        if how == "call":
            await flow.call(cleans_up, deadline=0.1, fallback=lambda: None)
        else:
            async with flow.fan_out(deadline=0.1) as group:
                group.branch("late", cleans_up, fallback=lambda: None)

    kind, options = backend(name)
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - in a group, on trio
        anyio.run(main, backend=kind, backend_options=options)

    assert isinstance(caught.value, SystemExit) or (
        isinstance(caught.value, BaseExceptionGroup) and caught.group_contains(SystemExit)
    )


@pytest.mark.parametrize("anyio_backend", [backend("asyncio")], ids=["asyncio"])
async def test_a_cancellation_of_somebody_else_s_is_booked_as_one() -> None:
    ledger = flow.Ledger()
    task = asyncio.create_task(flow.call(anyio.sleep, 10, deadline=1, name="left", ledger=ledger, fallback=lambda: 95))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    (account,) = ledger.accounts
    assert account.fates == {flow.Fate.CANCELLED: 1}
    assert flow.Waste.LEFT in ledger.wasted
