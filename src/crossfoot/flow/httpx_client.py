"""httpx with a true total time, and a pool that cancelled requests leave usable.

    async with flow.httpx_client.Client(total=0.3, limit=flow.Limit(50)) as client:
        response = await client.get(url)

httpx's own timeouts are for each read, each write, each wait: a server that drips a byte at a time is waited for as long as it drips.
Here one time counts for all of it: the wait for a connection, redirects, and the body, for as long as it is read.

A request that is cancelled while it waits for httpx's own pool can take a place in it for ever (encode/httpcore#1093). So nobody waits
there: at most as many requests are under way as the pool has connections, and the line is the limit's.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import httpx

from crossfoot.flow.answers import header, refusal
from crossfoot.flow.deadlines import Deadline, current, deadline, seconds_of
from crossfoot.flow.limits import Limit, Permit

CONNECTIONS = 100

OF_A_TRANSPORT = ("verify", "cert", "http1", "http2", "proxy")
"""Options that a client hands to the transport it makes, and ignores where it is given one."""


class Client(httpx.AsyncClient):
    """An AsyncClient whose requests are bounded.

    Args:
        total: seconds for a request in all; the deadline that holds where it is made counts, too.
        limit: what each request needs a permit of; 100, unless given. Its size, at most, is the number of connections.
        refusals: whether answers of 429, 503 and 504 are raised as Rejected, Overloaded and Expired.
        options: AsyncClient's own, but for `limits` and `timeout`. A proxy is the one that is given: the environment names none.

    Raises:
        UsageError: a total that is no number of seconds.
    """

    def __init__(
        self, *, total: float = math.inf, limit: Limit | None = None, refusals: bool = True, **options: Any
    ) -> None:
        self._total, self._refusals = seconds_of(total, "Client(total=...)"), refusals
        bound = limit or Limit(CONNECTIONS, name="httpx", waiting=10 * CONNECTIONS, wait=math.inf)
        if "transport" not in options:
            # Without a line of its own: whoever has a permit has a connection.
            own = {name: options.pop(name) for name in OF_A_TRANSPORT if name in options}
            options["transport"] = httpx.AsyncHTTPTransport(
                limits=httpx.Limits(max_connections=None), trust_env=options.get("trust_env", True), **own
            )
        options["transport"] = _Transport(options["transport"], bound)
        if mounts := options.get("mounts"):
            options["mounts"] = {url: inner and _Transport(inner, bound) for url, inner in mounts.items()}
        super().__init__(timeout=None, **options)

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        with deadline(self._total):
            request.headers.update(header())
            response = await super().send(request, **options)
            if self._refusals and (error := refusal(response.status_code, response.headers, of=request.url.host)):
                await response.aclose()
                raise error
            return response


class _Transport(httpx.AsyncBaseTransport):
    """Holds a permit from the request until its response is closed."""

    def __init__(self, inner: httpx.AsyncBaseTransport, limit: Limit) -> None:
        self._inner = inner
        self._limit = limit

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        permit = self._limit.permit()
        await permit.__aenter__()
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException as error:
            permit.give_back(error)
            raise
        if response.status_code in (429, 503, 504):
            permit.overloaded()
        if response.is_closed:  # a transport that answers out of memory has read it, and nobody closes it again
            permit.give_back()
            return response
        assert isinstance(response.stream, httpx.AsyncByteStream), "an asynchronous transport"
        response.stream = _Stream(response.stream, permit)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Stream(httpx.AsyncByteStream):
    """A body, each part of which comes within the deadline under which it was asked for."""

    def __init__(self, inner: httpx.AsyncByteStream, permit: Permit) -> None:
        self._inner = inner
        self._permit = permit
        self._asked: Deadline | None = current()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = aiter(self._inner)
        while True:
            try:
                with deadline(math.inf if self._asked is None else max(0.0, self._asked.remaining())):
                    part = await anext(parts)
            except StopAsyncIteration:
                return
            except BaseException as error:
                self._permit.give_back(error)
                raise
            yield part

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            self._permit.give_back()
