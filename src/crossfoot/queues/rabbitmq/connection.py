"""The ways to one queue's broker: one to publish by, one to receive by, made when first needed and again when lost.

Two, because a broker that is short of memory stops reading from who publishes; acks must go on.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

import anyio
from anyio import Lock, to_thread

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.rabbitmq.address import Address
from crossfoot.queues.rabbitmq.answers import import_aiormq, is_of_connection
from crossfoot.queues.rabbitmq.link import Link, over_within

PAUSE_SECONDS = 0.5
"""After a failure to connect."""


class Connection:
    """The ways to one queue's broker.

    Args:
        timeout: seconds until a request without an answer is given up.
        context: for TLS, instead of the machine's own certificates.
    """

    def __init__(self, place: Address, *, timeout: float, context: ssl.SSLContext | None) -> None:
        self.label = place.name
        self.timeout = timeout
        self.lost: Callable[[Link, str], None] = lambda link, reason: None
        """Called when the way that is received by is lost: everything that came by it is void."""
        self._place = place
        self._context = context
        self._connecting = Lock()
        self._publishing: Link | None = None
        self._receiving: Link | None = None
        self._failed: tuple[float, str] = (0.0, "")
        """Until when no other attempt is made, and why the last one failed."""

    async def publishing(self) -> Link:
        """A way that is up, on which what is published is confirmed.

        Raises:
            QueueUnavailable: there is none to be had.
            UsageError: the client is not installed.
        """
        async with self._connecting:
            if self._publishing is None or not self._publishing.up:
                await _drop(self._publishing)
                self._publishing = None
                self._publishing = await self._connect(confirms=True)
            return self._publishing

    async def receiving(self) -> Link:
        """A way that is up, to receive by. Raises what `publishing` raises."""
        async with self._connecting:
            if self._receiving is None or not self._receiving.up:
                await _drop(self._receiving)
                self._receiving = None
                self._receiving = await self._connect(confirms=False)
            return self._receiving

    async def close(self) -> None:
        async with self._connecting:
            links, self._publishing, self._receiving = (self._publishing, self._receiving), None, None
            for link in links:
                await _drop(link)

    async def _connect(self, *, confirms: bool) -> Link:
        until, why = self._failed
        if anyio.current_time() < until:  # many requests were waiting for it: they need not wait one by one
            raise QueueUnavailable(why)
        aiormq = await to_thread.run_sync(import_aiormq)
        errors = aiormq.exceptions
        link = Link(self.label, self.timeout, _ignored if confirms else self.lost)
        place = self._place
        opening = await over_within(
            self.timeout,
            link.open(place.url, heartbeat=place.heartbeat, context=self._context, confirms=confirms),
        )
        error = TimeoutError() if not opening.done() or opening.cancelled() else opening.exception()
        if error is None:
            return link
        await link.close()
        if not is_of_connection(error):
            raise error
        why = f"queue {self.label} cannot be reached at {place.shown}, and was asked nothing: {_why(error, errors)}"
        self._failed = (anyio.current_time() + PAUSE_SECONDS, why)
        raise QueueUnavailable(why) from None


async def _drop(link: Link | None) -> None:
    if link is not None:
        await link.close()


def _ignored(link: Link, reason: str) -> None:
    """Nothing is held on the way that is published by."""


def _why(error: BaseException, errors: object) -> str:
    """The client's last words, which name no credentials."""
    if isinstance(error, getattr(errors, "ProbableAuthenticationError")):  # noqa: B009 - the module is imported late
        return "it refused us. Check user and password, and whether that user may use the virtual host"
    if isinstance(error, getattr(errors, "InvalidFrameError")):  # noqa: B009 - the same
        return "it closed the connection instead of opening it. Check that the virtual host is there, and open to this user"
    if isinstance(error, StopAsyncIteration):  # the client's, when the server hangs up meanwhile
        return "it closed the connection while that was being opened. Try again"
    return f"{str(error) or 'no answer in time'}. Check the address, and whether the server runs"
