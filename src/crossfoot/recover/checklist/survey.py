"""Everything the checklist asks, read once: the balance, what is not settled, and bounded samples of what was done last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import msgspec

from crossfoot.books import lately, queries
from crossfoot.books.balance import Balance
from crossfoot.books.contents import Contents
from crossfoot.books.custody import Depth
from crossfoot.books.failures import MOST, Standing, born, latest_workers, standing, unkept
from crossfoot.books.fate import PATIENCE, Fate, Patience
from crossfoot.books.lately import SAMPLE, Done, Recorded
from crossfoot.books.lines import Line, last_lines
from crossfoot.books.queries import CauseRow, WorkerRow
from crossfoot.books.stock import Part, take_stock
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.queues.telling import Counted, Told
from crossfoot.recover.checklist.findings import SHOWN
from crossfoot.recover.checklist.looking import alike, compared, partitions, trails
from crossfoot.recover.checklist.overtaken import Overtaken, Trail, overtaken

WAITING = (Fate.QUEUED, Fate.RETRYING, Fate.PROCESSING)
ILL = (Fate.DEAD, Fate.VANISHED, Fate.EXPIRED, Fate.REFUSED, Fate.IN_DOUBT, Fate.INTENDED)

RECOVERY = 3 * 86_400.0
"""Seconds within which somebody has mended whatever breaks, unless it is said otherwise: from Friday evening to Monday."""


class HandlerTold(msgspec.Struct, frozen=True):
    """A handler as the service declares it."""

    name: str
    type: str
    proves: tuple[str, ...]
    in_order: bool


class Attached(msgspec.Struct, frozen=True, kw_only=True):
    """A queue that was asked. Times in seconds; `held` and `dead` are its own counts of messages and dead letters.

    Attributes:
        local: whether it is a table in the book's own file.
        counted: what its broker counted lately, where it does.
    """

    name: str
    told: Told = Told()
    retention: float | None = None
    max_attempts: int | None = None
    held: int | None = None
    dead: int | None = None
    local: bool = False
    publish_dedup: float = 0.0
    counted: tuple[Counted, ...] = ()


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """An expectation or an invariant that is not kept, or of which nobody can tell.

    Attributes:
        of_messages: whether the ids are those of messages, and not the names of rows.
    """

    text: str
    count: int = 0
    ids: tuple[str, ...] = ()
    of_messages: bool = False
    figures: dict[str, str] = {}
    first_at: Micros | None = None


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the service beside its book: from its settings, or from the program itself.

    Attributes:
        queue: from which its workers receive, where that is known.
        sends_to: queues that the program names to send to.
        lease: seconds for which they do.
        veiled: whether the book keeps something else than what messages carried, so that it cannot be compared.
        promises: what is stated and not kept.
        handlers: `None` where the program was not named.
        unreached: names of queues that should have been asked, and could not be.
    """

    queue: str | None = None
    sends_to: tuple[str, ...] = ()
    lease: float | None = None
    payloads: bool = True
    veiled: bool = False
    handlers: tuple[HandlerTold, ...] | None = None
    promises: tuple[Promise, ...] = ()
    attached: Mapping[str, Attached] = {}
    unasked: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()


class Bounds(msgspec.Struct, frozen=True):
    """How far is looked: at the newest entries, operations and outcomes, and at messages of each fate one by one."""

    newest: int = SAMPLE
    of_each: int = MOST


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What was read: of each fate at most `most` messages, and of entries and of operations the newest `sample`.

    Attributes:
        operations: how many were looked at; of these `done` are those of the part that was asked about.
        overtaken: events that took effect after a later one of their subject, and `trails` the ways of the newest of them.
        partitions: the partition keys of messages that wait, where one of them fails again and again and has one.
        unkept: keys of dead letters whose payload the book does not keep.
    """

    as_of: Micros
    of_type: str | None
    balance: Balance
    patience: Patience
    recovery: float
    sample: int
    most: int
    operations: int
    service: Service
    ill: dict[Fate, tuple[Standing, ...]]
    waiting: tuple[Standing, ...]
    parked: tuple[Standing, ...]
    lines: tuple[Line, ...]
    done: tuple[Done, ...]
    outcomes: tuple[Recorded, ...]
    causes: dict[str, CauseRow]
    workers: tuple[WorkerRow, ...]
    born: dict[str, Micros]
    opened: dict[str, int]
    alike: dict[int, bytes]
    overtaken: tuple[Overtaken, ...]
    trails: dict[int, Trail]
    partitions: dict[int, str]
    unkept: frozenset[int]

    def of(self, *fates: Fate) -> list[Standing]:
        return [one for fate in fates for one in self.ill.get(fate, ())]

    @property
    def at_work(self) -> list[WorkerRow]:
        """Workers that did not say that they stopped."""
        return [worker for worker in self.workers if worker.stopped_at is None]

    @property
    def read(self) -> Counter[Fate]:
        """How many messages of each fate were read one by one."""
        return Counter(one.fate for found in (self.waiting, self.parked, *self.ill.values()) for one in found)

    @property
    def more(self) -> bool:
        """Whether there are more unsettled messages of a fate than are read one by one."""
        return any(count >= self.most for count in self.read.values())

    @property
    def complete(self) -> bool:
        """Whether the samples hold all there is."""
        return len(self.lines) < self.sample and self.operations < self.sample


def survey(
    connection: Connection, now: Micros, *, service: Service | None = None, part: Part | None = None,
    depth_of: Callable[[str], Contents | Depth | None] | None = lambda queue: None, recovery: float = RECOVERY,
    patience: Patience = PATIENCE, bounds: Bounds | None = None,
) -> Survey:  # fmt: skip
    """Read it, on a connection in no transaction.

    Args:
        part: only messages of this queue or type; the time it states is not looked at.
        depth_of: as of `take_stock`.
        recovery: seconds within which somebody has mended whatever breaks.
    """
    part, bounds = part or Part(), bounds or Bounds()
    sample, most = bounds.newest, bounds.of_each
    balance = take_stock(
        connection, now, part=Part(queue=part.queue, type=part.type), depth_of=depth_of, patience=patience
    )
    with connection.snapshot():
        ill, waiting, parked = _unsettled(connection, part, most)
        lines = tuple(last_lines(connection, sample, queue=part.queue, type=part.type))
        newest = lately.done(connection, sample)
        done = tuple(one for one in newest if part.queue in (None, one.queue) and part.type in (None, one.type))
        behind = overtaken(done)
        failed = [one.failed for one in (*waiting, *(one for of in ill.values() for one in of)) if one.failed]
        fingerprints = {one.cause for one in failed} | {line.cause for line in lines if line.cause}
        return Survey(
            as_of=now, of_type=part.type, balance=balance, patience=patience, recovery=recovery, sample=sample, most=most,
            operations=len(newest), service=service or Service(), ill=ill, waiting=waiting, parked=parked, lines=lines, done=done,
            outcomes=tuple(lately.recorded(connection, sample)), causes=queries.causes(connection, fingerprints),
            workers=tuple(latest_workers(connection)), born=_born(connection, (*ill[Fate.DEAD], *waiting)),
            overtaken=tuple(behind), trails=trails(connection, behind), partitions=partitions(connection, waiting),
            opened=lately.opened(connection),
            alike={} if service and service.veiled else compared(connection, alike(done)),
            unkept=frozenset(unkept(connection, [one.key for one in ill[Fate.DEAD]])),
        )  # fmt: skip


Standings = tuple[Standing, ...]


def _unsettled(connection: Connection, part: Part, most: int) -> tuple[dict[Fate, Standings], Standings, Standings]:
    """What is ill, the newest of each fate; what waits, and what is parked, the oldest."""

    def read(*fates: Fate, oldest: bool = False, limit: int = most) -> Standings:
        return tuple(standing(connection, fates, queue=part.queue, type=part.type, oldest=oldest, limit=limit))

    ill = {fate: read(fate) for fate in ILL}
    if len(ill[Fate.DEAD]) == most:  # those that are forgotten first are the oldest
        oldest = read(Fate.DEAD, oldest=True, limit=SHOWN)
        ill[Fate.DEAD] = tuple({one.key: one for one in (*ill[Fate.DEAD], *oldest)}.values())
    return ill, read(*WAITING, oldest=True), read(Fate.PARKED, oldest=True)


MOST_TYPES = 50
"""Types of which it is asked since when there are any."""


def _born(connection: Connection, failing: Iterable[Standing]) -> dict[str, Micros]:
    """From when the oldest message is, of each type that fails."""
    types = {one.type for one in failing if one.failed is not None}
    found = {type_: born(connection, type_) for type_ in sorted(types)[:MOST_TYPES]}
    return {type_: at for type_, at in found.items() if at is not None}
