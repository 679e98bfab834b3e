"""The same page with the nearest libraries, each as far as it can express it and set as its own guide says; the rest by hand.

None of them knows the page's deadline in the call of pricing but nopanic, and none says of a page which part was had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp

from benchmarks.flow_kit.pages import DEADLINE, SERVICES, Page, get

MARGIN = 0.02
"""Seconds by which pricing's own time is shorter than the page's, so that the fallback answers in time; set by hand."""

PERMITS, WAIT = 40, 0.05

RESET = 0.5
"""Seconds after which a breaker tries again: shorter than the recovery that is asked for."""

Priced = Callable[[], Awaitable[bytes | None]]


def _page_of(session: aiohttp.ClientSession, url: str, pricing: Priced) -> Page:
    async def page() -> bool:
        answers = await asyncio.gather(*(get(session, url + path) for path in SERVICES[:3]), pricing())
        return answers[-1] is not None

    return page


def with_hyx(session: aiohttp.ClientSession, url: str) -> Page:
    """A bulkhead, a timeout and a fallback."""
    from hyx.bulkhead import bulkhead
    from hyx.fallback import fallback
    from hyx.timeout import timeout

    async def last_known(*_: object, **__: object) -> None:
        return None

    @fallback(handler=last_known, on=Exception)
    @timeout(max_delay_secs=DEADLINE - MARGIN)
    @bulkhead(max_concurrency=PERMITS, max_capacity=2 * PERMITS)
    async def pricing() -> bytes:
        return await get(session, url + "/pricing")

    bounded: Page = timeout(max_delay_secs=DEADLINE)(_page_of(session, url, pricing))
    return bounded


def with_pyresilience(session: aiohttp.ClientSession, url: str) -> Page:
    """One decorator: a timeout, a breaker that goes by a window, a bulkhead that waits, a fallback."""
    from pyresilience import (
        BulkheadConfig,
        CircuitBreakerConfig,
        FallbackConfig,
        TimeoutConfig,
        resilient,
    )

    @resilient(
        timeout=TimeoutConfig(seconds=DEADLINE - MARGIN),
        circuit_breaker=CircuitBreakerConfig(
            sliding_window_size=50, minimum_calls=20, recovery_timeout=RESET, success_threshold=1
        ),
        bulkhead=BulkheadConfig(max_concurrent=PERMITS, max_wait=WAIT),
        fallback=FallbackConfig(handler=lambda error: None),
    )
    async def pricing() -> bytes:
        return await get(session, url + "/pricing")

    asked = _page_of(session, url, pricing)

    async def page() -> bool:
        async with asyncio.timeout(DEADLINE):
            return await asked()

    return page


def with_nopanic(session: aiohttp.ClientSession, url: str) -> Page:
    """Policies in a stack, and a deadline that holds for all in it."""
    import nopanic

    @nopanic.fallback(None)
    @nopanic.circuit_breaker(failure_threshold=0.5, min_calls=20, window=1.0, reset_timeout=RESET)
    @nopanic.bulkhead(PERMITS, max_wait=WAIT)
    @nopanic.timeout(DEADLINE - MARGIN)
    async def pricing() -> bytes:
        return await get(session, url + "/pricing")

    asked = _page_of(session, url, pricing)

    async def page() -> bool:
        async with nopanic.deadline(DEADLINE):
            return await asked()

    return page


def with_stamina(session: aiohttp.ClientSession, url: str) -> Page:
    """stamina tries again within a time, aiolimiter bounds calls a second; neither knows how many are under way."""
    import stamina
    from aiolimiter import AsyncLimiter

    stamina.instrumentation.set_on_retry_hooks(())  # it would log each of them
    rate = AsyncLimiter(250, 1.0)

    @stamina.retry(on=TimeoutError, attempts=2, timeout=DEADLINE - MARGIN, wait_initial=0.01, wait_max=0.02)
    async def asked() -> bytes:
        async with asyncio.timeout((DEADLINE - MARGIN) / 2), rate:
            return await get(session, url + "/pricing")

    async def pricing() -> bytes | None:
        try:
            return await asked()
        except TimeoutError:
            return None

    inner = _page_of(session, url, pricing)

    async def page() -> bool:
        async with asyncio.timeout(DEADLINE):
            return await inner()

    return page
