"""Everything the checklist asks, read once: the balance, what is not settled, and bounded samples of what was done last."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

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
from crossfoot.clock import SECOND, Micros
from crossfoot.connection import Connection
from crossfoot.errors import EnvelopeInvalid
from crossfoot.message import Message, decode
from crossfoot.message.priority import priority_of
from crossfoot.queues.telling import Counted, Told
from crossfoot.recover.checklist.findings import SHOWN
from crossfoot.recover.checklist.overtaken import Overtaken, Trail, overtaken, trail

WAITING = (Fate.QUEUED, Fate.RETRYING, Fate.PROCESSING)
ILL = (Fate.DEAD, Fate.VANISHED, Fate.EXPIRED, Fate.REFUSED, Fate.IN_DOUBT, Fate.INTENDED)

RECOVERY = 3 * 86_400.0
"""Seconds within which somebody has mended whatever breaks, unless it is said otherwise: from Friday evening to Monday."""


TRIED = 3
"""Failed deliveries after which a message is said to fail again and again, and to hold up those behind it: one or two are what retries
are for."""


class HandlerTold(msgspec.Struct, frozen=True):
    """A handler as the service declares it."""

    name: str
    type: str
    proves: tuple[str, ...]
    in_order: bool


class Attached(msgspec.Struct, frozen=True, kw_only=True):
    """A queue that was asked. Times in seconds; `dead` is its own count of dead letters.

    Attributes:
        local: whether it is a table in the book's own file.
        counted: what its broker counted lately, where it does.
    """

    name: str
    told: Told = Told()
    retention: float | None = None
    max_attempts: int | None = None
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
            overtaken=tuple(behind), trails=_trails(connection, behind), partitions=_partitions(connection, waiting),
            opened=lately.opened(connection),
            alike={} if service and service.veiled else _alike(connection, alike(done)),
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


HOUR = 3_600 * SECOND


def alike(done: Sequence[Done]) -> list[list[Done]]:
    """Messages that may ask for the same business action under several ids: of one type and subject, each an operation of its own or
    one that is named after the message, within an hour of each other."""
    groups: dict[tuple[str, str, str], list[Done]] = {}
    for one in done:
        if one.subject and (one.of_itself or one.id in one.operation):
            groups.setdefault((one.queue, one.type, one.subject), []).append(one)
    near = [_near(group) for group in groups.values() if len(group) > 1]
    return [group for group in near if len(group) > 1]


def _near(group: list[Done]) -> list[Done]:
    """Those that have another one within an hour."""
    times = sorted(one.at for one in group)

    def has_another(at: Micros) -> bool:
        place = bisect_left(times, at)
        others = times[max(place - 1, 0) : place + 2]
        return sum(abs(at - other) <= HOUR for other in others) > 1

    return [one for one in group if has_another(one.at)]


MOST_COMPARED = 2_000
"""Payloads that are compared with each other."""

MOST_TYPES = 50
"""Types of which it is asked since when there are any."""


def _alike(connection: Connection, groups: list[list[Done]]) -> dict[int, bytes]:
    """A digest of what those carried: by key; not of those whose payload the book does not keep."""
    found: dict[int, bytes] = {}
    for one in [one for group in groups for one in group][-MOST_COMPARED:]:
        message, _ = _message(connection, one.key)
        if message is None:
            continue
        carried = msgspec.json.encode((message.data, message.sequence), enc_hook=str, order="sorted")
        found[one.key] = blake2b(carried, digest_size=16).digest()
    return found


MOST_FOLLOWED = 600
"""Messages whose way is looked at, of those that took effect after later ones or before earlier ones."""


def _trails(connection: Connection, behind: list[Overtaken]) -> dict[int, Trail]:
    """The ways of events that took effect after later ones, and of these, by key: of the newest."""
    keys = dict.fromkeys(one.key for pair in reversed(behind) for one in (pair.event, *pair.by))
    found: dict[int, Trail] = {}
    for key in list(keys)[:MOST_FOLLOWED]:
        message, body = _message(connection, key)
        found[key] = trail(
            queries.entries_of(connection, key),
            priority=priority_of(body) if body is not None else 0,
            predecessor=message.predecessor if message is not None else None,
        )
    return found


MOST_IN_LINE = 1_000
"""Messages of which it is asked whether they stand behind one that fails, by a partition key."""


def _partitions(connection: Connection, waiting: Standings) -> dict[int, str]:
    """Nothing of most books: partition keys are seldom, and matter where one of them fails again and again."""
    found: dict[int, str] = {}
    failing = [one for one in waiting if one.failed is not None and one.attempts >= TRIED][:SHOWN]
    for one in failing:
        message, _ = _message(connection, one.key)
        if message is not None and message.partitionkey:
            found[one.key] = message.partitionkey
    first = {one.queue: one.key for one in reversed(failing) if one.key in found}
    behind = [one for one in waiting if one.key > first.get(one.queue, one.key) and one.key not in found]
    for one in behind[:MOST_IN_LINE]:
        message, _ = _message(connection, one.key)
        if message is not None and message.partitionkey:
            found[one.key] = message.partitionkey
    return found


def _message(connection: Connection, key: int) -> tuple[Message[Any] | None, bytes | None]:
    """What the book keeps of it: `None` for the message where it keeps nothing, or the program has it stored in another form."""
    body = queries.body_of(connection, key)
    try:
        return (decode(body) if body is not None else None), body
    except EnvelopeInvalid:
        return None, body


def _born(connection: Connection, failing: Iterable[Standing]) -> dict[str, Micros]:
    """From when the oldest message is, of each type that fails."""
    types = {one.type for one in failing if one.failed is not None}
    found = {type_: born(connection, type_) for type_ in sorted(types)[:MOST_TYPES]}
    return {type_: at for type_, at in found.items() if at is not None}
