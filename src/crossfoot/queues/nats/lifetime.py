"""Whether the stream is still the one that deliveries came from.

A receipt names a message by its number in the stream. A stream that is deleted and made anew counts from 1 again, and the server
would take the ack of an old message for that of a new one which bears its number: it would be gone, and nobody had handled it. So
this end listens to the word that the stream was deleted, and on each new connection compares when it was made. A moment is left
between the deletion and the word of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from anyio import Lock

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.nats.answers import NoAnswer, NobodyListens, Rejected, answer_of
from crossfoot.queues.nats.connection import Connection
from crossfoot.queues.nats.link import Link

if TYPE_CHECKING:
    from nats.aio.msg import Msg


class Lifetime:
    """Of one stream.

    Args:
        made: when it was made, as the server says it.
        over: called when it is found that it was deleted.
    """

    def __init__(self, connection: Connection, stream: str, made: str, over: Callable[[], None]) -> None:
        self._connection = connection
        self._stream = stream
        self._made: str | None = made
        self._over = over
        self._looking = Lock()
        self._known_on: Link | None = None
        """The connection on which it is known to be the one it was."""
        self._heard_on: Link | None = None
        """The connection on which its deletion would be heard."""

    async def see(self) -> None:
        """Make sure of it; costs something on a new connection, and after a deletion.

        Raises:
            QueueUnavailable: it cannot be told.
        """
        if self._known_on is not None and self._connection.standing is self._known_on:  # at each ack: so without a wait
            return
        link = await self._connection.link()
        async with self._looking:
            if link is self._known_on:
                return
            if link is not self._heard_on:
                await link.subscribe(f"$JS.EVENT.ADVISORY.STREAM.DELETED.{self._stream}", self._heed)
                self._heard_on = link
            self._known_on = link  # before the look: what is heard meanwhile counts
            try:
                made = await self._look(link)
            except BaseException:
                self._known_on = None
                raise
            if self._made not in (None, made):
                self._over()
            self._made = made

    async def _look(self, link: Link) -> str | None:
        """When it was made; `None` where there is none."""
        try:
            told = answer_of((await link.ask(f"$JS.API.STREAM.INFO.{self._stream}", b"")).data)
        except Rejected as error:
            if error.code == 404:
                return None
            raise self._unseen(error) from error
        except (NoAnswer, NobodyListens) as error:
            raise self._unseen(error) from error
        return str(told["created"])

    async def _heed(self, _: Msg) -> None:
        self._known_on, self._made = None, None
        self._over()

    def _unseen(self, error: Exception) -> QueueUnavailable:
        return QueueUnavailable(
            f"queue {self._connection.label}: whether stream {self._stream} is the one it was could not be told: {error}. Try again"
        )
