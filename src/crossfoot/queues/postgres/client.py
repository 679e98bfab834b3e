"""One queue's connections: statements sent once, each answered within a deadline, and nothing left half read.

Connections belong to an event loop. A service publishes in one loop and works in another (`anyio.run` twice is enough),
so there are some for each, closed when the queue is closed in that loop or when the loop ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import anyio
import psycopg
from anyio import CancelScope, CapacityLimiter
from psycopg.rows import tuple_row

from crossfoot.errors import DatabaseUnavailable, QueueUnavailable
from crossfoot.postgres import connect_async
from crossfoot.queues.postgres.address import Address
from crossfoot.queues.postgres.answers import NoAnswer, read_error
from crossfoot.queues.postgres.link import Link

GROUP = 1_000
"""Messages, or receipts, of one request."""

GROUP_BYTES = 4 * 1024 * 1024
"""What one request carries, unless a single message is larger."""

CONNECTIONS = 4
"""Requests under way at once per queue and loop. One more connection listens."""

GRACE = 1.0
"""Seconds by which we wait longer than the server, so that it is the server who gives up, and says so."""

SETTINGS = b"""
SELECT set_config('statement_timeout', %s, false), set_config('default_transaction_isolation', 'read committed', false),
  set_config('plan_cache_mode', 'force_generic_plan', false)
"""
"""The plan is one for all parameters: the server would go on to plan claims anew, for it takes what it plans for these parameters for
better, and none is."""

LONGER = b"SELECT set_config('statement_timeout', %s, true)"

Rows = list[tuple[Any, ...]]


class Client:
    """The connections of one queue.

    Args:
        timeout: seconds until the server gives a request up. A second later we do, without knowing what became of it.
    """

    def __init__(self, address: Address, *, timeout: float) -> None:
        self.address = address
        self._timeout = timeout
        self._homes: dict[asyncio.AbstractEventLoop, _Home] = {}

    async def ask(self, statement: str, parameters: Mapping[str, Any] | None = None, *, patience: float = 1.0) -> Rows:
        """One statement, committed when it is answered; its rows.

        A cancellation waits for the answer, the deadline permitting: what was done would otherwise go unheard.

        Args:
            patience: how many times as long as others it may take; one that may take longer can be cancelled, and must only read.

        Raises:
            NoAnswer, Rejected: as their names say.
            QueueUnavailable: nothing was done, and no request to this queue can succeed now.
        """
        home = await self._home()
        async with home.requests:
            with CancelScope(shield=True):
                link = await self._connected(home)
            try:
                with CancelScope(shield=patience <= 1.0):  # what may take long only reads
                    rows = await self._exchange(link, statement, parameters, self._timeout * patience)
            finally:
                with CancelScope(shield=True):
                    await home.put_back(link)
        return rows

    async def listen(self, channel: str, heard: Callable[[], None]) -> None:
        """Have `heard` called in this loop whenever something is told on `channel`, and when nothing can be heard any more;
        until the loop ends, or the connection does. Behind a pooler nothing can be heard.

        Raises:
            QueueUnavailable: it cannot be heard.
        """
        home = await self._home()
        async with home.listening:
            if home.deaf or (home.ear is not None and home.ear.alive):
                return
            await home.stop_listening()
            with CancelScope(shield=True):
                link = await self._connect()
                if link.prepare_threshold is None:  # a pooler would listen in a session that others are given, too
                    home.deaf = True
                    await home.put_back(link)
                    return
                try:
                    with anyio.fail_after(self._timeout + GRACE):
                        await link.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
                except (psycopg.Error, TimeoutError) as error:
                    await link.close()
                    raise QueueUnavailable(f"queue {self.address.name} cannot be listened to: {error}") from error
                home.listen_on(link, heard)

    def soon(self, call: Callable[[], Awaitable[None]]) -> None:
        """Have a loop with connections of ours make a call that raises nothing, if there is one. From any thread."""
        for loop, home in list(self._homes.items()):
            with suppress(RuntimeError):  # it has just been closed
                loop.call_soon_threadsafe(home.begin, call)
                return

    async def close(self) -> None:
        """Close this loop's connections."""
        home = self._homes.pop(asyncio.get_running_loop(), None)
        if home is not None:
            await home.guard.aclose()

    async def _connected(self, home: _Home) -> Link:
        """One that is alive: a server that has gone is noticed before anything is sent."""
        while home.idle:
            link = home.idle.pop()
            if link.alive:
                return link
            await link.close()
        return await self._connect()

    async def _connect(self) -> Link:
        address = self.address
        try:
            with anyio.fail_after(self._timeout + GRACE):
                link: Link = await connect_async(Link, address.url)
        except TimeoutError:
            raise QueueUnavailable(
                f"queue {address.name} cannot be reached: {address.place} did not answer in {self._timeout + GRACE:g} s, "
                "and was asked nothing; check that the server runs, its address and the network"
            ) from None
        except DatabaseUnavailable as error:
            raise QueueUnavailable(f"queue {address.name} cannot be reached, and was asked nothing: {error}") from None
        try:
            if link.prepare_threshold is not None:  # not behind a pooler, where others would inherit it
                with anyio.fail_after(self._timeout + GRACE):
                    await link.execute(SETTINGS, (f"{self._timeout * 1000:.0f}",))
        except (psycopg.Error, TimeoutError) as error:
            await link.close()
            raise QueueUnavailable(f"queue {address.name} cannot be reached, and was asked nothing: {error}") from error
        return link

    async def _exchange(self, link: Link, statement: str, parameters: Mapping[str, Any] | None, seconds: float) -> Rows:
        try:
            with anyio.fail_after(seconds + GRACE):
                async with link.cursor(row_factory=tuple_row, binary=True) as cursor:
                    if seconds == self._timeout:
                        await cursor.execute(statement.encode(), parameters)
                        return await cursor.fetchall() if cursor.description else []
                    async with link.transaction():
                        await cursor.execute(LONGER, (f"{seconds * 1000:.0f}",))
                        await cursor.execute(statement.encode(), parameters)
                        return await cursor.fetchall()
        except psycopg.Error as error:
            if link.closed:
                raise NoAnswer(f"the connection broke: {str(error).strip() or type(error).__name__}") from error
            raise read_error(error, name=self.address.name, url=self.address.url) from error
        except TimeoutError:
            await link.close()
            raise NoAnswer(f"no answer in {seconds + GRACE:g} s") from None

    async def _home(self) -> _Home:
        loop = asyncio.get_running_loop()
        home = self._homes.get(loop)
        if home is None:
            home = self._homes[loop] = _Home()
            home.guard = self._close_at_the_end(loop, home)
            await anext(home.guard)
        return home

    async def _close_at_the_end(self, loop: asyncio.AbstractEventLoop, home: _Home) -> AsyncGenerator[None]:
        """Closes what it guards when it is closed itself. Should nobody do that, the loop does: one that ends closes the
        generators that were started in it and are not through."""
        try:
            yield
        finally:
            self._homes.pop(loop, None)
            with CancelScope(shield=True):
                await home.close()


class _Home:
    """What belongs to one event loop."""

    guard: AsyncGenerator[None]

    def __init__(self) -> None:
        self.idle: list[Link] = []
        self.requests = CapacityLimiter(CONNECTIONS)
        self.listening = anyio.Lock()
        self.ear: Link | None = None
        self.deaf = False
        self._ear_number = -1
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._calls: set[asyncio.Future[None]] = set()

    async def put_back(self, link: Link) -> None:
        if link.closed or self._closed:
            await link.close()
        else:
            self.idle.append(link)

    def listen_on(self, link: Link, heard: Callable[[], None]) -> None:
        """Read what arrives on `link`, without a task that waits for it."""
        self.ear, self._ear_number = link, link.fileno()

        def read() -> None:
            if link.alive:
                told = False
                while link.pgconn.notifies() is not None:
                    told = True
                if told:
                    heard()
            else:
                self._loop.remove_reader(self._ear_number)
                heard()  # whoever waits has a look, and finds out

        self._loop.add_reader(self._ear_number, read)

    def begin(self, call: Callable[[], Awaitable[None]]) -> None:
        if not self._closed:
            task = asyncio.ensure_future(call())
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    async def stop_listening(self) -> None:
        if self.ear is not None:
            link, self.ear = self.ear, None
            if not link.closed:
                self._loop.remove_reader(self._ear_number)
            await link.close()

    async def close(self) -> None:
        self._closed = True
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self.stop_listening()
        while self.idle:
            await self.idle.pop().close()
