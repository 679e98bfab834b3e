"""What can be counted, and by whom things are held.

A passive declaration tells how many messages of a queue are ready and how many consume from it. It does not tell how many were
delivered and have no end. Of these this process knows its own. For those of others there is a queue beside, `<QUEUE>.holders`,
that never has a message: whoever holds something of the queue consumes from it, and stops when nothing is in hand any more. A
process that dies is off it in the same moment in which what it held is ready again. So a queue that looks empty while somebody
holds some of it says that at least so many are in flight.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from anyio import Lock

from crossfoot.clock import Clock
from crossfoot.errors import QueueMissing, QueueUnavailable
from crossfoot.queues.queue import Depth
from crossfoot.queues.rabbitmq.address import Address
from crossfoot.queues.rabbitmq.answers import NOT_FOUND, NoAnswer, Rejected
from crossfoot.queues.rabbitmq.connection import Connection
from crossfoot.queues.rabbitmq.delays import rungs_of
from crossfoot.queues.rabbitmq.holding import Holding
from crossfoot.queues.rabbitmq.link import CLOSING_SECONDS, over_within

if TYPE_CHECKING:
    from aiormq.channel import Channel

_log = logging.getLogger("crossfoot.queues.rabbitmq")


class Count(NamedTuple):
    """What a queue says of itself."""

    ready: int
    consumers: int


class Watcher:
    """Looks at one queue and those beside it."""

    def __init__(self, connection: Connection, place: Address, holding: Holding, clock: Clock) -> None:
        self._connection = connection
        self._place = place
        self._holding = holding
        self._clock = clock
        self._marking = Lock()
        self._marked: Channel | None = None

    async def depth(self) -> Depth:
        """See `Queue.depth`. In flight is what is held here, and one for each other process that holds some.

        Raises:
            QueueUnavailable: it cannot be told.
        """
        place, as_of = self._place, self._clock.now()
        dead, holders, queue, *waiting = await self.counts(
            [place.dead, place.holders, place.queue, *rungs_of(place.queue)]
        )
        others = max(0, holders.consumers - int(self._is_marked))
        return Depth(
            ready=queue.ready,
            in_flight=len(self._holding) + others,
            delayed=sum(rung.ready for rung in waiting),
            # Whoever reads the dead letters holds them meanwhile.
            dead=dead.ready + dead.consumers,
            as_of=as_of,
        )

    async def counts(self, queues: Sequence[str]) -> list[Count]:
        """What each of them says.

        Raises:
            QueueMissing: the queue itself is not there.
            QueueUnavailable: one of those beside it is not there, or one cannot be asked.
        """
        link = await self._connection.receiving()
        found = []
        asked = ""
        try:
            async with link.aside() as channel:
                for asked in queues:
                    answer = await link.ask(lambda: channel.queue_declare(asked, passive=True))  # noqa: B023 - awaited here
                    found.append(Count(int(answer.message_count or 0), int(answer.consumer_count or 0)))
        except Rejected as error:
            kind = QueueMissing if error.code == NOT_FOUND and asked == self._place.name else QueueUnavailable
            raise kind(self.missing(asked, error)) from error
        except NoAnswer as error:
            raise QueueUnavailable(f"queue {self._place.name} could not be looked at: {error}. Try again") from error
        return found

    async def is_there(self, queue: str) -> bool:
        """Whether the broker has such a queue.

        Raises:
            QueueUnavailable: it could not be asked.
        """
        link = await self._connection.receiving()
        try:
            async with link.aside() as channel:
                await link.ask(lambda: channel.queue_declare(queue, passive=True))
        except Rejected as error:
            if error.code == NOT_FOUND:
                return False
            raise QueueUnavailable(self.missing(queue, error)) from error
        except NoAnswer as error:
            raise QueueUnavailable(f"queue {queue} could not be looked at: {error}. Try again") from error
        return True

    async def mark(self) -> None:
        """Let others know that this process holds some, or that it holds none any more. Never raises: what was delivered must
        be handed over, and where the queue beside is missing, opening says so."""
        async with self._marking:
            wanted = len(self._holding) > 0
            if wanted == self._is_marked:
                return
            marked, self._marked = self._marked, None
            if marked is not None:
                await over_within(CLOSING_SECONDS, marked.close())
            if not wanted:
                return
            try:
                link = await self._connection.receiving()
                # Not the link's own: the broker would end that, with all that is held, if the queue beside is missing.
                channel = await link.another()
                await link.ask(lambda: channel.basic_consume(self._place.holders, _nothing))
            except (Rejected, NoAnswer, QueueUnavailable) as error:
                _log.warning("queue %s: others cannot see what is held here: %s", self._place.name, error)
            else:
                self._marked = channel

    @property
    def _is_marked(self) -> bool:
        return self._marked is not None and not self._marked.is_closed

    def missing(self, queue: str, error: Rejected) -> str:
        """Which queue could not be asked, and the remedy."""
        where, name = self._place.shown, self._place.name
        if error.code != NOT_FOUND:
            return f"queue {name}: {queue} at {where} cannot be used: {error}"
        if queue == name:
            return f"queue {name} does not exist at {where}: create it, or correct the queue's address"
        return (
            f"queue {name} needs {queue} beside it, and it does not exist at {where}: create it, see the guide on RabbitMQ, or have "
            "crossfoot.queues.rabbitmq.ensure do it"
        )


async def _nothing(message: object) -> None:
    """The queue of the holders never has a message."""
