"""The same page in seven ways: what most write, what one is told to write, and what crossfoot adds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp

from crossfoot import flow

SERVICES = ("/stock", "/ratings", "/reviews", "/pricing")
DEADLINE = 0.3

Page = Callable[[], Awaitable[bool]]
"""Answers whether the answer is full; raises when there is none."""

Variant = Callable[[aiohttp.ClientSession, str], Page]


async def get(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url) as response:
        return await response.read()


def sequential(session: aiohttp.ClientSession, url: str) -> Page:
    async def page() -> bool:
        for path in SERVICES:
            await get(session, url + path)
        return True

    return page


def unbounded_gather(session: aiohttp.ClientSession, url: str) -> Page:
    async def page() -> bool:
        await asyncio.gather(*(get(session, url + path) for path in SERVICES))
        return True

    return page


def semaphore_and_deadline(session: aiohttp.ClientSession, url: str) -> Page:
    semaphore = asyncio.Semaphore(100)

    async def page() -> bool:
        async with asyncio.timeout(DEADLINE), semaphore, asyncio.TaskGroup() as group:
            for path in SERVICES:
                group.create_task(get(session, url + path))
        return True

    return page


def _crossfoot(limit: Callable[[], flow.Limit], *, required: bool) -> Variant:
    def variant(session: aiohttp.ClientSession, url: str) -> Page:
        pricing, ledger = limit(), flow.Ledger()

        async def page() -> bool:
            async with flow.fan_out(deadline=DEADLINE, name="page", ledger=ledger) as group:
                for path in SERVICES[:3]:
                    group.branch(path, get, session, url + path, required=True)
                group.branch(
                    "/pricing", get, session, url + "/pricing", limit=pricing, required=required,
                    fallback=None if required else lambda: b"last known",
                )  # fmt: skip
            return group.fate is flow.Fate.FULL

        return page

    return variant


def fixed() -> flow.Limit:
    return flow.Limit(40, name="pricing", wait=0.05)


def adaptive() -> flow.Limit:
    return flow.Limit(flow.Aimd(40, most=60, rise=4), name="pricing", wait=0.05)


def with_hyx(session: aiohttp.ClientSession, url: str) -> Page:
    """The nearest library, as far as it goes: a bulkhead, a timeout and a fallback; the page's time and the call's are set by hand."""
    from hyx.bulkhead import bulkhead
    from hyx.fallback import fallback
    from hyx.timeout import timeout

    async def last_known(*_: object, **__: object) -> None:
        return None

    @fallback(handler=last_known, on=Exception)
    @timeout(max_delay_secs=DEADLINE - 0.02)
    @bulkhead(max_concurrency=40, max_capacity=80)
    async def pricing() -> bytes:
        return await get(session, url + "/pricing")

    @timeout(max_delay_secs=DEADLINE)
    async def page() -> bool:
        answers = await asyncio.gather(*(get(session, url + path) for path in SERVICES[:3]), pricing())
        return answers[-1] is not None

    return page


VARIANTS: dict[str, Variant] = {
    "sequential": sequential,
    "unbounded gather": unbounded_gather,
    "semaphore 100 + deadline": semaphore_and_deadline,
    "hyx, pricing optional": with_hyx,
    "crossfoot, all required": _crossfoot(fixed, required=True),
    "crossfoot, pricing optional": _crossfoot(fixed, required=False),
    "crossfoot, optional, adaptive": _crossfoot(adaptive, required=False),
}

PATIENCE = aiohttp.ClientTimeout(total=5)
"""Of the variants that have no deadline; the others end before."""
