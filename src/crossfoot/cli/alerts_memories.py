"""What queues say of how long they remember, and how much they hold: asked now and then, and kept in between, for alerts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from msgspec import UNSET

from crossfoot.books import lately
from crossfoot.books.losing import Memory
from crossfoot.cli.check_queues import service_of
from crossfoot.cli.outcomes_up_to_date import retention_known
from crossfoot.cli.output import note
from crossfoot.connection import Connection
from crossfoot.recover.checklist.survey import Attached

EVERY = 300.0
"""Seconds between two times that queues are asked: how they are set changes seldom, and one that is down takes its time to say nothing."""


class Memories:
    """The queues of one book.

    Args:
        retention: seconds after which queues forget what waits, as somebody has stated it, whatever they say.
        dead_retention: the same of dead letters, counted from when a message was first sent.
        ask: whether queues outside the book's file may be asked.
        tell: called with what nobody can tell, when that is new.
        clock: seconds, monotonic.
    """

    def __init__(
        self, retention: float | None = None, dead_retention: float | None = None, *, ask: bool = True,
        tell: Callable[[str], None] = note, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._retention = retention
        self._dead_retention = dead_retention
        self._ask = ask
        self._tell = tell
        self._clock = clock
        self._asked_at: float | None = None
        self._said: dict[str, Attached] = {}
        self._silent: frozenset[str] = frozenset()

    def of(self, path: str, connection: Connection) -> Mapping[str, Memory]:
        """What is known, by the queue's name. Of a queue that gives no answer that is what it said last, or what was stated."""
        names = lately.queues(connection)
        new = set(names) - self._said.keys() - self._silent
        if self._asked_at is None or new or self._clock() - self._asked_at >= EVERY:
            self._look(path, names)
        by_settings = retention_known()
        return {name: self._memory(name, by_settings) for name in names}

    def _look(self, path: str, names: list[str]) -> None:
        service = service_of(path, names, None, ask=self._ask)
        self._asked_at = self._clock()
        self._said.update(service.attached)
        silent = frozenset(names) - service.attached.keys()
        if silent - self._silent and self._dead_retention is None:
            self._tell(
                f"how long is remembered what waits or is dead there, its own settings would tell: {'; '.join(service.unasked)}; "
                "--retention and --dead-retention say it, or no alert tells of its time to loss"
            )
        self._silent = silent

    def _memory(self, name: str, by_settings: float | None) -> Memory:
        said = self._said.get(name)
        stated = Memory(
            messages=self._retention or by_settings or UNSET, dead=self._dead_retention or UNSET, since_origin=True
        )
        if said is None:
            return stated
        return Memory(
            messages=self._retention or said.retention or by_settings,
            dead=self._dead_retention or said.told.dead_retention,
            since_origin=self._dead_retention is not None or said.told.since_origin,
            held=None if name in self._silent else said.held,  # how it is set stays so; what it holds does not
        )
