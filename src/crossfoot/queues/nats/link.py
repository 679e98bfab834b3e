"""One connection to the servers, from its making to its loss, which ends every wait on it at once."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
from anyio import CancelScope

from crossfoot.errors import QueueUnavailable, missing_extra
from crossfoot.queues.nats.answers import NoAnswer, NobodyListens

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

CLOSING_SECONDS = 2.0

_FORBIDDEN = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')
"""The client hands it on in lower case; the server does not say which request it means."""

_log = logging.getLogger("crossfoot.queues.nats")


class Link:
    """One connection, from its making to its loss."""

    def __init__(self, label: str, timeout: float) -> None:
        from nats.aio.client import Client

        self.client: Client = Client()
        self.watched = False
        """Whether somebody listens to what the consumer gives up."""
        self.last_error = ""
        self._label = label
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._waits: dict[CancelScope, tuple[str, list[Exception]]] = {}
        self._life: AsyncGenerator[None, None] | None = None

    @property
    def up(self) -> bool:
        """Whether it can be used, here and now: a connection belongs to the event loop it was made in."""
        return self.client.is_connected and self._loop is asyncio.get_running_loop()

    async def open(self, servers: list[str], options: Mapping[str, Any]) -> None:
        self._life = self._until_the_loop_ends()
        await anext(self._life)
        seconds = max(1, round(self._timeout))
        await self.client.connect(
            servers, error_cb=self._heed, disconnected_cb=self._lost, closed_cb=self._lost, allow_reconnect=False,
            max_reconnect_attempts=1, reconnect_time_wait=0, connect_timeout=seconds,
            ping_interval=seconds, pending_size=0, **options,
        )  # fmt: skip

    async def ask(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None, *, shield: bool = False
    ) -> Msg:
        """See `Connection.ask`."""
        errors = import_nats().errors
        with self.waiting(subject, self._timeout, shield=shield):
            try:
                return await self.client.request(
                    subject, payload, timeout=2 * self._timeout, headers=dict(headers or {}) or None
                )
            except errors.NoRespondersError:
                raise NobodyListens(
                    "nobody takes such requests: no stream, no consumer, or no JetStream there"
                ) from None
            except (errors.ConnectionClosedError, errors.OutboundBufferLimitError) as error:
                raise QueueUnavailable(f"queue {self._label}: the connection was lost, nothing was sent") from error
            except (errors.Error, OSError) as error:
                raise NoAnswer(f"{type(error).__name__}: {error}") from error

    @contextmanager
    def waiting(self, subject: str, seconds: float, *, shield: bool = False) -> Iterator[None]:
        """Within: a wait of so many seconds at most that the loss of the connection, or a refusal, ends at once.

        Raises:
            NoAnswer: time is up, or the connection was lost.
            QueueUnavailable: the servers forbid the subject.
        """
        found: list[Exception] = []
        with anyio.move_on_after(seconds, shield=shield) as scope:
            self._waits[scope] = (subject, found)
            try:
                yield
            finally:
                del self._waits[scope]
        if scope.cancelled_caught:
            raise found[0] if found else NoAnswer(f"no answer within {seconds:g} s")

    async def subscribe(self, subject: str, take: Callable[[Msg], Awaitable[None]], *, group: str = "") -> Subscription:
        """Hand every message on `subject` to `take`; of a group one subscriber gets it.

        Raises:
            QueueUnavailable: the connection was lost.
        """
        with self._sending():  # without a limit of bytes: what is over it, the client would drop
            return await self.client.subscribe(subject, queue=group, cb=take, pending_bytes_limit=0)

    async def send(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Publish without waiting for an answer. Raises what `subscribe` raises."""
        with self._sending():
            await self.client.publish(subject, payload, reply)

    @contextmanager
    def _sending(self) -> Iterator[None]:
        errors = import_nats().errors
        try:
            yield
        except (errors.Error, OSError) as error:
            raise QueueUnavailable(f"queue {self._label}: the connection was lost ({type(error).__name__})") from error

    async def close(self) -> None:
        """Close it, as far as it can be closed; never raises."""
        life, self._life = self._life, None
        if life is None or self._loop is not asyncio.get_running_loop():
            return
        with CancelScope(shield=True):
            await life.aclose()

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        """Closes the connection when it is told to, or else when its event loop ends.

        A program may publish in one event loop and work in the next (`anyio.run` twice) without closing anything. An
        ending loop closes the asynchronous generators that were begun in it, and nothing else.
        """
        try:
            yield
        finally:
            self._lost_now()
            with CancelScope(shield=True), anyio.move_on_after(CLOSING_SECONDS), suppress(Exception):
                await self.client.close()  # whatever it stumbles over on its way out

    async def _heed(self, error: Exception) -> None:
        """What the client says beside any answer."""
        self.last_error = str(error)
        if (match := _FORBIDDEN.search(self.last_error)) is None:
            _log.debug("queue %s: %s", self._label, type(error).__name__)
            return
        act, subject = match.groups()
        text = f"the servers do not permit this user's {act} to {subject}: check its permissions"
        if act == "subscription":
            _log.warning("queue %s: %s", self._label, text)
        for scope, (asked, found) in list(self._waits.items()):
            if act == "publish" and asked.lower() == subject:
                found.append(QueueUnavailable(f"queue {self._label}: {text}"))
                scope.cancel()
            elif act == "subscription" and subject.startswith("_inbox."):  # whatever was asked, no answer can come
                found.append(NoAnswer(text))
                scope.cancel()

    async def _lost(self) -> None:
        self._lost_now()

    def _lost_now(self) -> None:
        for scope, (_, found) in list(self._waits.items()):
            found.append(NoAnswer("the connection was lost before an answer came"))
            scope.cancel()


def import_nats() -> Any:
    """The client's package, or the remedy when it is not there.

    Its log is kept to what is critical unless it was set otherwise: of what becomes of a connection, `Link` tells."""
    try:
        import nats.aio.client
        import nats.errors
    except ImportError as error:
        raise missing_extra("NATS", "nats") from error
    log = logging.getLogger("nats.aio.client")
    if log.level == logging.NOTSET:
        log.setLevel(logging.CRITICAL)
    return nats
