"""Everything the checklist asks, read once: the balance, what is not settled, and bounded samples of what was done last."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b

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
from crossfoot.message import decode
from crossfoot.queues.telling import Counted, Told
from crossfoot.recover.checklist.findings import SHOWN

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


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What was read. `sampled` entries and operations were looked at, where there are more; then older ones were not."""

    as_of: Micros
    of_type: str | None
    balance: Balance
    patience: Patience
    recovery: float
    sample: int
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
    unkept: frozenset[int]

    def of(self, *fates: Fate) -> list[Standing]:
        return [one for fate in fates for one in self.ill.get(fate, ())]

    @property
    def at_work(self) -> list[WorkerRow]:
        """Workers that did not say that they stopped."""
        return [worker for worker in self.workers if worker.stopped_at is None]

    @property
    def more(self) -> bool:
        """Whether there are more unsettled messages of a fate than are read one by one."""
        read = Counter(one.fate for found in (self.waiting, self.parked, *self.ill.values()) for one in found)
        return any(count >= MOST for count in read.values())

    @property
    def complete(self) -> bool:
        """Whether the samples hold all there is."""
        return len(self.lines) < self.sample and len(self.done) < self.sample


def survey(
    connection: Connection, now: Micros, *, service: Service | None = None, part: Part | None = None,
    depth_of: Callable[[str], Contents | Depth | None] | None = lambda queue: None, recovery: float = RECOVERY,
    patience: Patience = PATIENCE, sample: int = SAMPLE,
) -> Survey:  # fmt: skip
    """Read it, on a connection in no transaction.

    Args:
        part: only messages of this queue or type; the time it states is not looked at.
        depth_of: as of `take_stock`.
        recovery: seconds within which somebody has mended whatever breaks.
        sample: how many of the newest entries, operations and outcomes are looked at.
    """
    part = part or Part()
    balance = take_stock(
        connection, now, part=Part(queue=part.queue, type=part.type), depth_of=depth_of, patience=patience
    )
    with connection.snapshot():
        ill = {fate: tuple(standing(connection, [fate], queue=part.queue, type=part.type)) for fate in ILL}
        waiting = tuple(standing(connection, WAITING, oldest=True, queue=part.queue, type=part.type))
        parked = tuple(standing(connection, [Fate.PARKED], oldest=True, queue=part.queue, type=part.type))
        if len(ill[Fate.DEAD]) == MOST:  # those that are forgotten first are the oldest
            oldest = standing(connection, [Fate.DEAD], oldest=True, limit=SHOWN, queue=part.queue, type=part.type)
            ill[Fate.DEAD] = tuple({one.key: one for one in (*ill[Fate.DEAD], *oldest)}.values())
        lines = tuple(last_lines(connection, sample, queue=part.queue, type=part.type))
        done = [
            one for one in lately.done(connection, sample)
            if part.queue in (None, one.queue) and part.type in (None, one.type)
        ]  # fmt: skip
        outcomes = tuple(lately.recorded(connection, sample))
        failed = [one.failed for one in (*waiting, *(one for of in ill.values() for one in of)) if one.failed]
        fingerprints = {one.cause for one in failed} | {line.cause for line in lines if line.cause}
        return Survey(
            as_of=now, of_type=part.type, balance=balance, patience=patience, recovery=recovery, sample=sample,
            service=service or Service(), ill=ill,
            waiting=waiting, parked=parked, lines=lines, done=tuple(done), outcomes=outcomes,
            causes=queries.causes(connection, fingerprints),
            workers=tuple(latest_workers(connection)), born=_born(connection, (*ill[Fate.DEAD], *waiting)),
            opened=lately.opened(connection), alike={} if service and service.veiled else _alike(connection, alike(done)),
            unkept=frozenset(unkept(connection, [one.key for one in ill[Fate.DEAD][:SHOWN]])),
        )  # fmt: skip


HOUR = 3_600 * SECOND


def alike(done: list[Done] | tuple[Done, ...]) -> list[list[Done]]:
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
        body = queries.body_of(connection, one.key)
        if body is None:
            continue
        try:
            message = decode(body)
        except EnvelopeInvalid:
            continue
        carried = msgspec.json.encode((message.data, message.sequence), enc_hook=str, order="sorted")
        found[one.key] = blake2b(carried, digest_size=16).digest()
    return found


def _born(connection: Connection, failing: Iterable[Standing]) -> dict[str, Micros]:
    """From when the oldest message is, of each type that fails."""
    types = {one.type for one in failing if one.failed is not None}
    found = {type_: born(connection, type_) for type_ in sorted(types)[:MOST_TYPES]}
    return {type_: at for type_, at in found.items() if at is not None}
