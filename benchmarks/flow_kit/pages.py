"""What every variant has in common: the services of a page, its time, and how one of them is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import aiohttp

SERVICES = ("/stock", "/ratings", "/reviews", "/pricing")
DEADLINE = 0.3

Page = Callable[[], Awaitable[bool]]
"""Answers whether the answer is full; raises when there is none."""

Variant = Callable[[aiohttp.ClientSession, str], Page]

PATIENCE = aiohttp.ClientTimeout(total=5)
"""Of the variants that have no deadline; the others end before."""


async def get(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url) as response:
        return await response.read()
