"""The same page in ten ways: what most write, what one is told to write, the nearest libraries, and what crossfoot adds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp

from benchmarks.flow_kit.libraries import with_hyx, with_nopanic, with_pyresilience, with_stamina
from benchmarks.flow_kit.pages import DEADLINE, SERVICES, Page, Variant, get
from crossfoot import flow


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
    return flow.Limit(flow.Aimd(24, most=40, tolerance=0.6, rise=4), name="pricing", wait=0.05)


VARIANTS: dict[str, Variant] = {
    "sequential": sequential,
    "unbounded gather": unbounded_gather,
    "semaphore 100 + deadline": semaphore_and_deadline,
    "hyx, pricing optional": with_hyx,
    "pyresilience, optional": with_pyresilience,
    "nopanic, optional": with_nopanic,
    "stamina + aiolimiter, optional": with_stamina,
    "crossfoot, all required": _crossfoot(fixed, required=True),
    "crossfoot, pricing optional": _crossfoot(fixed, required=False),
    "crossfoot, optional, adaptive": _crossfoot(adaptive, required=False),
}
