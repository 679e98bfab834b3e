"""Opening: the queue is found, its settings are learned and judged, and what works with it is put together."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from anyio import CancelScope

from crossfoot.clock import Clock
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Capabilities, DepthIs, Order
from crossfoot.queues.rabbitmq.address import Address
from crossfoot.queues.rabbitmq.answers import NoAnswer
from crossfoot.queues.rabbitmq.checks import max_attempts_of, retention_of, strands, unfit, warnings, wears_out
from crossfoot.queues.rabbitmq.connection import Connection
from crossfoot.queues.rabbitmq.counting import Counting, Rule
from crossfoot.queues.rabbitmq.delays import LONGEST, rungs_of
from crossfoot.queues.rabbitmq.holding import Holding
from crossfoot.queues.rabbitmq.moving import Mover
from crossfoot.queues.rabbitmq.probing import Settings, settings_of
from crossfoot.queues.rabbitmq.publishing import AT_ONCE, Sender
from crossfoot.queues.rabbitmq.receiving import MAX_RECEIVE, Receiver
from crossfoot.queues.rabbitmq.watching import Watcher

T = TypeVar("T")

MOVING = 200.0
"""Seconds after which a quorum queue sends again, at the latest, what the queue it moves to did not take. Three minutes; until
then such a message is counted nowhere."""

_log = logging.getLogger("crossfoot.queues.rabbitmq")


class Parts:
    """What an open queue consists of."""

    def __init__(
        self, connection: Connection, place: Address, settings: Settings, holding: Holding, clock: Clock
    ) -> None:
        self.settings = settings
        self.max_attempts = max_attempts_of(settings)
        self.retention = retention_of(settings)
        self.sender = Sender(connection)
        self.sender.full_is_refused = settings.full_is_refused
        counts = settings.kind == "quorum"
        self.mover = Mover(self.sender, holding, queue=place.queue, dead=place.dead)
        counting = Counting(self.sender, holding, self.mover, queue=place.queue, rule=Rule(counts, self.max_attempts))
        self.receiver = Receiver(connection, holding, counting, clock, queue=place.queue)
        self.watcher = Watcher(connection, place, holding, clock)
        self._connection = connection
        self._place = place
        self._complete = False
        self._dead_stay = False

    async def must_be_complete(self) -> None:
        """See, once, that the queues beside it are there and lose nothing, which only who receives needs.

        Raises:
            QueueUnavailable: one is not there, or loses what it is given.
        """
        if self._complete:
            return
        place, rungs = self._place, rungs_of(self._place.queue)
        await self.watcher.counts([place.dead, place.holders, *rungs])
        await self.dead_must_stay()
        found: Settings | None = None
        for rung in rungs:
            found = await self._settings_of(rung, found)
            if not found.told:  # nor are the others'
                break
            if reason := strands(found, place.queue):
                raise QueueUnavailable(f"queue {place.name} cannot use {rung} beside it: {reason}")
        self._complete = True

    async def dead_must_stay(self) -> None:
        """See, once, that dead letters are not lost by being looked at.

        Raises:
            QueueUnavailable: they are; that is, if it is certain. A policy could have lifted what is only the broker's default, so
                that is said as a warning.
        """
        if self._dead_stay:
            return
        place = self._place
        found = await self._settings_of(place.dead)
        if reason := wears_out(found):
            if found.number("x-delivery-limit") is not None:
                raise QueueUnavailable(f"queue {place.name} cannot use {place.dead} for its dead letters: {reason}")
            _log.warning("queue %s: %s may lose dead letters: %s", place.name, place.dead, reason)
        self._dead_stay = True

    async def dead_settings(self) -> Settings | None:
        """How the queue of the dead letters is set; `None` where there is none, as for who only publishes.

        Raises:
            QueueUnavailable: it could not be asked.
        """
        dead = self._place.dead
        return await self._settings_of(dead) if await self.watcher.is_there(dead) else None

    async def _settings_of(self, queue: str, guess: Settings | None = None) -> Settings:
        try:
            return await settings_of(await self._connection.receiving(), queue, guess)
        except NoAnswer as error:
            raise QueueUnavailable(f"queue {queue} could not be looked at: {error}. Try again") from error

    async def marked(self, step: Coroutine[Any, Any, T]) -> T:
        """Do what may change whether anything is in hand, and let others see it."""
        try:
            return await step
        finally:
            with CancelScope(shield=True):
                await self.watcher.mark()


async def open_parts(connection: Connection, place: Address, holding: Holding, clock: Clock) -> Parts:
    """Find the queue, and say as a warning what its settings may lose.

    Raises:
        QueueUnavailable: it does not exist or cannot be used; the server cannot be reached or refuses us.
        UsageError: the client is not installed.
    """
    await Watcher(connection, place, holding, clock).counts([place.queue])
    try:
        settings = await settings_of(await connection.receiving(), place.queue)
    except NoAnswer as error:
        raise QueueUnavailable(
            f"queue {place.name} could not be opened at {place.shown}: {error}. Try again"
        ) from error
    if reason := unfit(settings):
        raise QueueUnavailable(f"queue {place.name} at {place.shown} cannot be used: {reason}")
    for warning in warnings(settings):
        _log.warning("queue %s: %s", place.name, warning)
    return Parts(connection, place, settings, holding, clock)


def capabilities_of(place: Address, settings: Settings | None, max_bytes: int) -> Capabilities:
    """What such a queue can do; before it is open, what a quorum queue could."""
    return Capabilities(
        order=Order.NONE,
        depth=DepthIs.APPROXIMATE,
        browsing=False,
        # Or it is on its way to a process that has frozen, before that could say that it holds anything: until the broker takes it
        # for dead.
        hides=MOVING + 2.0 * place.heartbeat,
        redrive=settings is None or settings.kind == "quorum",
        receipts_fenced=True,
        publish_dedup=0.0,
        max_delay=LONGEST,
        max_release_delay=LONGEST,
        max_lease=float(place.longest_lease),
        max_receive=MAX_RECEIVE,
        max_publish=AT_ONCE,
        max_bytes=max_bytes,
    )
