"""One connection to the broker and its channel, from its making to its loss, which everybody who waits on it learns at once.

The client never reconnects by itself. What was delivered on a connection is the broker's again when that is lost, so that a
connection that came back in silence would hide that everything in hand is void.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import uuid4

import anyio
from anyio import CancelScope

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.rabbitmq.answers import NoAnswer, answer_of, import_aiormq
from crossfoot.queues.rabbitmq.frames import Reader

if TYPE_CHECKING:
    from aiormq.channel import Channel
    from aiormq.connection import Connection as Client

T = TypeVar("T")

CLOSING_SECONDS = 2.0

HEADERS_BYTES = 1_024
"""Of a frame that a message's headers cannot have."""

_log = logging.getLogger("crossfoot.queues.rabbitmq")


class Link:
    """One connection with one channel on it.

    Args:
        label: the queue's name, for errors.
        timeout: seconds until a request without an answer is given up; the whole connection goes with it, because an answer
            that comes later could not be told from the next one's.
        lost: called when the connection or its channel is lost, with the reason.
    """

    def __init__(self, label: str, timeout: float, lost: Callable[[Link, str], None]) -> None:
        self.id = uuid4().hex[:12]
        self._label = label
        self._timeout = timeout
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._client: Client | None = None
        self._channel: Channel | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def up(self) -> bool:
        """Whether it can be used, here and now: a connection belongs to the event loop it was made in."""
        channel = self._channel
        return channel is not None and not channel.is_closed and self._loop is asyncio.get_running_loop()

    @property
    def channel(self) -> Channel:
        """Raises `QueueUnavailable` when it is closed already."""
        if self._channel is None:
            raise QueueUnavailable(f"queue {self._label}: the connection was lost, nothing was sent")
        return self._channel

    @property
    def frame(self) -> int:
        """Bytes of one frame, in which all properties of a message travel."""
        assert self._client is not None
        return int(self._client.connection_tune.frame_max or 131_072)

    @property
    def longest_headers(self) -> int:
        """Bytes of the headers of what is published."""
        return self.frame - HEADERS_BYTES

    @property
    def version(self) -> tuple[int, ...]:
        """The broker's version."""
        assert self._client is not None
        text = str(self._client.server_properties.get("version", ""))
        return tuple(int(part) for part in text.split(".") if part.isdecimal())

    async def open(self, url: str, *, heartbeat: int, context: ssl.SSLContext | None, confirms: bool) -> None:
        """Connect. Raises what the client raises."""
        aiormq = import_aiormq()
        address = aiormq.connection.URL(url).update_query(heartbeat=heartbeat, name="crossfoot")
        self._client = client = aiormq.Connection(
            address, context=context, transport_factory=self._factory(aiormq, address.scheme == "amqps")
        )
        await client.connect()
        self._channel = channel = cast(
            "Channel", await client.channel(publisher_confirms=confirms, on_return_raises=False)
        )
        channel.closing.add_done_callback(self._over)

    async def ask(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """One request, sent at most once. A cancellation waits for its answer, as long as the timeout at most.

        Raises:
            Rejected, NoAnswer: as their names say.
            QueueUnavailable: nothing was sent.
        """
        task = await over_within(self._timeout, call())
        if not task.done():
            await self.close(f"no answer within {self._timeout:g} s")
            raise NoAnswer(f"no answer within {self._timeout:g} s")
        return answer_of(task, self._label)

    async def must_flow(self) -> None:
        """See that the broker takes messages.

        Raises:
            QueueUnavailable: it has said that it does not, and nothing was sent.
        """
        assert self._client is not None
        with anyio.move_on_after(0.001) as scope:
            await self._client.ready()
        if scope.cancelled_caught:
            raise QueueUnavailable(
                f"queue {self._label}: the broker takes no messages now, it is short of memory or disk; nothing was sent. Look at "
                "its alarms (rabbitmq-diagnostics alarms)"
            )

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[Channel]:
        """A channel for requests that may be refused: the broker closes the channel they come by, with all it holds."""
        channel = await self.another()
        try:
            yield channel
        finally:
            await over_within(CLOSING_SECONDS, channel.close())  # which it is already, if it was refused

    async def another(self) -> Channel:
        """A channel beside the link's own; whoever asks closes it. Raises what `ask` raises."""
        client = self._client
        if client is None:
            raise QueueUnavailable(f"queue {self._label}: the connection was lost, nothing was sent")
        return cast("Channel", await self.ask(lambda: client.channel(publisher_confirms=False)))

    async def close(self, reason: str = "it was closed here") -> None:
        """Close it, at once if it cannot be done in order; never raises."""
        client, self._client, self._channel = self._client, None, None
        if client is None or self._loop is not asyncio.get_running_loop():
            return
        self._lost(self, reason)
        errors = import_aiormq().exceptions
        await over_within(CLOSING_SECONDS, client.close(errors.ConnectionClosed(0, reason)))
        if self._writer is not None:
            self._writer.transport.abort()

    def _over(self, closing: asyncio.Future[Any]) -> None:
        if self._channel is None:  # closed here
            return
        error = None if closing.cancelled() else closing.exception()
        if error is None or isinstance(error, asyncio.CancelledError):
            self._lost(self, "its event loop has ended")  # with everybody who could be told
            return
        why = str(error) or type(error).__name__
        _log.warning("queue %s: a connection or its channel was lost: %s", self._label, why)
        self._lost(self, why)

    def _factory(self, aiormq: Any, encrypted: bool) -> Any:
        """The client's own way to connect, with a reader that heeds what the client cannot read (`frames.py`), and a hand on the
        socket: what is closed must not go on holding messages."""
        module = aiormq.connection
        inner = module.TLSTransportFactory() if encrypted else module.TCPTransportFactory()
        link = self

        class Factory(module.TransportFactory):  # type: ignore[misc, name-defined] # the module is imported late
            async def create(self, url: Any, **options: Any) -> Any:
                reader, link._writer = await inner.create(url, **options)
                return Reader(reader, link._label), link._writer

        return Factory()


async def over_within(seconds: float, request: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A request that goes on by itself, over or not after so many seconds. In a task of its own, and not cancelled: when the client
    loses its connection it cancels whoever waits, and who is cancelled while waiting would take the channel down."""
    task = asyncio.get_running_loop().create_task(request)
    task.add_done_callback(_unheeded)
    with CancelScope(shield=True):
        await asyncio.wait([task], timeout=seconds)
    return task


def _unheeded(task: asyncio.Future[Any]) -> None:
    """Whatever it comes to, somebody may have gone on without it."""
    if not task.cancelled():
        task.exception()
