"""Everything the checklist asks, read once: the balance, what is not settled, and bounded samples of what was done last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b

import msgspec

from crossfoot.books import lately, queries
from crossfoot.books.balance import Balance
from crossfoot.books.contents import Contents
from crossfoot.books.custody import Depth
from crossfoot.books.failures import Standing, born, latest_workers, standing, unkept
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


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the service beside its book: from its settings, or from the program itself.

    Attributes:
        queue: from which its workers receive, where that is known.
        sends_to: queues that the program names to send to.
        lease: seconds for which they do.
        handlers: `None` where the program was not named.
    """

    queue: str | None = None
    sends_to: tuple[str, ...] = ()
    lease: float | None = None
    payloads: bool = True
    handlers: tuple[HandlerTold, ...] | None = None
    attached: Mapping[str, Attached] = {}
    unasked: tuple[str, ...] = ()


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What was read. `sampled` entries and operations were looked at, where there are more; then older ones were not."""

    as_of: Micros
    balance: Balance
    patience: Patience
    recovery: float
    sample: int
    service: Service
    ill: dict[Fate, tuple[Standing, ...]]
    waiting: tuple[Standing, ...]
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
        lines = tuple(last_lines(connection, sample, queue=part.queue, type=part.type))
        done = [
            one for one in lately.done(connection, sample)
            if part.queue in (None, one.queue) and part.type in (None, one.type)
        ]  # fmt: skip
        outcomes = tuple(lately.recorded(connection, sample))
        failed = [one.failed for one in (*waiting, *(one for of in ill.values() for one in of)) if one.failed]
        fingerprints = {one.cause for one in failed} | {line.cause for line in lines if line.cause}
        return Survey(
            as_of=now, balance=balance, patience=patience, recovery=recovery, sample=sample, service=service or Service(), ill=ill,
            waiting=waiting, lines=lines, done=tuple(done), outcomes=outcomes,
            causes=queries.causes(connection, fingerprints),
            workers=tuple(latest_workers(connection)), born=_born(connection, (*ill[Fate.DEAD], *waiting)),
            opened=lately.opened(connection), alike=_alike(connection, alike(done)),
            unkept=frozenset(unkept(connection, [one.key for one in ill[Fate.DEAD][:SHOWN]])),
        )  # fmt: skip


HOUR = 3_600 * SECOND


def alike(done: list[Done] | tuple[Done, ...]) -> list[list[Done]]:
    """Messages that may ask for the same business action under several ids: of one type and subject, each an operation of its own,
    within an hour of each other."""
    groups: dict[tuple[str, str, str], list[Done]] = {}
    for one in done:
        if one.of_itself and one.subject:
            groups.setdefault((one.queue, one.type, one.subject), []).append(one)
    return [
        near for group in groups.values() if len(group) > 1
        and len(near := [one for one in group if any(abs(one.at - other.at) <= HOUR for other in group if other is not one)]) > 1
    ]  # fmt: skip


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
