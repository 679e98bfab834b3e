"""aiohttp with a true total time, which counts for the whole block in which the answer is read.

async with flow.aiohttp_client.request(session, "GET", url, total=0.3, limit=pricing) as response:
    price = await response.json()
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
from multidict import CIMultiDict

from crossfoot.flow.answers import header, refusal
from crossfoot.flow.deadlines import deadline
from crossfoot.flow.limits import ORDINARY, Limit

FOREVER = aiohttp.ClientTimeout(total=None)
"""aiohttp's own, because the deadline is ours."""


@asynccontextmanager
async def request(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    total: float = math.inf,
    limit: Limit | None = None,
    priority: int = ORDINARY,
    **options: Any,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """A request, and the reading of its answer, within one time: the wait for a permit and a connection, names, redirects, the body.

    Args:
        total: seconds for all of it; the deadline that holds where it is made counts, too.
        limit: what it needs a permit of.
        options: of `ClientSession.request`, but for `timeout`.

    Raises:
        Expired: the time was over, or the other side answered 504.
        Rejected: no permit in time, or the other side answered 429; Overloaded for 503.
    """
    with deadline(total):
        async with AsyncExitStack() as held:
            permit = None if limit is None else await held.enter_async_context(limit.permit(priority))
            headers = CIMultiDict(options.pop("headers", None) or {})
            headers.update(header())
            response = await held.enter_async_context(
                session.request(method, url, headers=headers, timeout=FOREVER, **options)
            )
            error = refusal(response.status, response.headers, of=response.url.host or url)
            if error is not None:
                if permit is not None:
                    permit.overloaded()
                raise error
            yield response
