"""How a queue is set, as far as that decides what may be lost: for who audits it. Optional, like the other capabilities."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec

from crossfoot.clock import Micros
from crossfoot.queues.queue import Queue


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What an open queue tells of its settings. Times in seconds; `None`: it does not tell, or has none.

    Attributes:
        figures: settings as they were read, for people.
        warnings: what may be lost by them, each with its remedy.
        lease: what the queue leases for where a consumer does not say.
        buries: whether what fails again and again finds dead letters by itself or at a worker's word; `None`: not known.
        dead_retention: after which the queue of dead letters forgets.
        since_origin: whether that counts from when the message was first sent, and not from when it died.
    """

    figures: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    lease: float | None = None
    buries: bool | None = None
    dead_retention: float | None = None
    since_origin: bool = False


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker counted between two moments, whoever did it."""

    at: Micros
    until: Micros
    sent: int
    received: int
    deleted: int


@runtime_checkable
class TellsTraffic(Queue, Protocol):
    """A queue whose broker counts for itself what went through it."""

    async def traffic(self, since: Micros, until: Micros) -> tuple[Counted, ...] | None:
        """Sums, the oldest first; stretches without any may be left out. `None`: nobody counts here.

        Raises:
            QueueUnavailable: it could not be asked.
        """
        ...


@runtime_checkable
class TellsSettings(Protocol):
    """A queue that tells how it is set."""

    async def told(self) -> Told:
        """Its settings, once it is open.

        Raises:
            QueueUnavailable: it could not be asked.
        """
        ...
