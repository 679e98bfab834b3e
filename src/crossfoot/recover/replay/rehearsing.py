"""A dry run: the handlers of a replay's members are called, each in a transaction that is rolled back.

Nothing is moved, published or committed, and nothing is kept but what this returns. Only members that the plan says will settle are tried:
of the others it says already what will become of them. Each is tried by itself, on the business tables as they are: what an earlier
member would have changed is not there.

A handler's calls to the outside are really made, and what it does over a connection of its own is really done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
import anyio.to_thread
import msgspec

from crossfoot.books import replays
from crossfoot.books.cause import cause_of
from crossfoot.books.entry import RANKS, Kind
from crossfoot.books.membership import membership
from crossfoot.books.replays import ABORTED, FINISHED, PLANNING, Member
from crossfoot.books.store import Book
from crossfoot.effects.databases.session import AsyncSession, Database, Session
from crossfoot.effects.handler import Handler
from crossfoot.effects.hold import Hold
from crossfoot.effects.operation import of_itself
from crossfoot.effects.rehearse import arehearse, rehearse
from crossfoot.effects.work import Work
from crossfoot.errors import NoProof, ReplayRefused
from crossfoot.message import decode
from crossfoot.queues.queue import Delivery
from crossfoot.recover.replay.pacing import Budget
from crossfoot.recover.replay.planning import found
from crossfoot.worker.admission import aadmitted, admitted
from crossfoot.worker.held import Held
from crossfoot.worker.registry import Registry

PART = 100
"""Members that are read at once."""

SETTLES, NOTHING_TO_DO, FAILS, NO_PROOF, NO_HANDLER, GONE = (
    "would settle", "nothing to do", "fails", "no proof", "no handler", "payload gone",
)  # fmt: skip
_NOT_CALLED = {
    Kind.SUPPRESSED: "duplicate",
    Kind.SUPERSEDED: "superseded",
    Kind.PARKED: "not its turn",
}
"""Decided without the handler. It is not its turn where an earlier member, whose effect was rolled back, would go before it."""

WOULD = (SETTLES, NOTHING_TO_DO, *_NOT_CALLED.values(), FAILS, NO_PROOF, NO_HANDLER, GONE)
"""What a dry run says of a member."""

WELL = (SETTLES, NOTHING_TO_DO, *_NOT_CALLED.values())

Progress = Callable[[int, int], None]


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one member.

    Attributes:
        would: one of `WOULD`.
        cause, title, raised: why it fails: the fingerprint, in words, and the line.
        rows: business rows that its handler changed.
        outcomes, sent, receipts: what it named: outcomes, types of messages, references of external systems.
        took: seconds in the handler and around it.
    """

    id: str
    type: str
    subject: str | None
    would: str
    cause: str | None = None
    title: str | None = None
    raised: str | None = None
    rows: int = 0
    outcomes: tuple[str, ...] = ()
    sent: tuple[str, ...] = ()
    receipts: tuple[str, ...] = ()
    reason: str | None = None
    took: float = 0.0


class Rehearsal:
    """A dry run of one replay.

    Args:
        registry, database: the handlers, and where they work.
        most: members that are tried, the first of them; `None`: all.
        rate: members per second, at most.
    """

    def __init__(
        self, book: Book, queue: str, registry: Registry, database: Database, *, most: int | None = None, rate: float = 50.0
    ) -> None:  # fmt: skip
        self._book = book
        self._queue = queue
        self._registry = registry
        self._database = database
        self._most = most
        self._rate = rate
        self._session: Session | None = None
        self._asession: AsyncSession | None = None
        self._thread = anyio.CapacityLimiter(1)

    async def run(self, number: int, progress: Progress = lambda done, total: None) -> list[Rehearsed]:
        """Try the members that are still to be moved and are expected to settle, one after another.

        Raises:
            ReplayRefused: there is no such replay, it is of another queue, or nothing of it is left.
        """
        total = await anyio.to_thread.run_sync(self._to_try, number)
        told: list[Rehearsed] = []
        budget, after = Budget(self._rate), 0
        try:
            while len(told) < total:
                members = await anyio.to_thread.run_sync(self._next, number, after, min(PART, total - len(told)))
                if not members:
                    break
                for member in members:
                    await budget.wait()
                    told.append(await self._one(member))
                    progress(len(told), total)
                after = members[-1].message
        finally:
            with anyio.CancelScope(shield=True):
                await self._close()
        return told

    # ---- one of them -------------------------------------------------------------------------------------------------

    async def _one(self, member: Member) -> Rehearsed:
        body, handler = member.after or member.body, self._registry.find(member.type)
        if handler is None:
            return _told(member, NO_HANDLER)
        if body is None:
            return _told(member, GONE)
        began = self._book.clock.monotonic()
        held: Held | None = None
        try:
            held = self._held(member, body, handler)
            if handler.is_async:
                kind = await self._in_loop(held)
            else:
                kind = await anyio.to_thread.run_sync(self._in_thread, held, limiter=self._thread)
        except Exception as error:  # noqa: BLE001 - what a handler raises is what is asked for, and told with its cause
            cause = cause_of(error, handler.name)
            would = NO_PROOF if isinstance(error, NoProof) else FAILS
            why = {"cause": cause.fingerprint, "title": cause.title, "raised": cause.raised or None}
            told = msgspec.structs.replace(_told(member, would), **why)
        else:
            told = _closed(member, kind, held.work)
        finally:
            if held is not None:
                held.part()
        return msgspec.structs.replace(told, took=round(self._book.clock.monotonic() - began, 6))

    def _held(self, member: Member, body: bytes, handler: Handler) -> Held:
        """As a worker would hold it that received it now; nothing extends a lease, and none is over."""
        message = decode(body)
        clock = self._book.clock
        delivery = Delivery(body=body, receipt="", attempt=1, lease_until=clock.now())
        held = Held(delivery, clock, float("inf"), 1, False, handler=handler, message=handler.typed(message))
        timed = handler.deadline is not None
        held.hold = Hold(
            key=member.message, delivery=0, attempt=member.latest // RANKS + 1, worker=0, queue=self._queue, body=body,
            partition=message.partitionkey or message.subject, begin=held.begin if timed else None,
            rest=held.rest if timed else None, fence=held.fence, payloads=self._book.payloads,
        )  # fmt: skip
        work = held.prepare()
        if member.operation not in (None, work.operation) and work.operation == of_itself(message, self._queue):
            held.completed = str(member.operation)  # its publisher had stated one
            held.prepare()
        return held

    def _in_thread(self, held: Held) -> Kind:
        if self._session is None:
            self._session = self._database.connect()
        with admitted(held):
            return rehearse(held.start(), self._session, self._database)

    async def _in_loop(self, held: Held) -> Kind:
        if self._asession is None:
            self._asession = await self._database.aconnect()
        async with aadmitted(held):
            return await arehearse(held.start(), self._asession, self._database)

    async def _close(self) -> None:
        if self._session is not None:
            await anyio.to_thread.run_sync(self._session.close, limiter=self._thread)
        if self._asession is not None:
            await self._asession.close()

    # ---- reading -----------------------------------------------------------------------------------------------------

    def _to_try(self, number: int) -> int:
        self._book.open()
        with self._book.reading() as connection:
            replay = found(connection, number)
            (count,) = connection.execute(replays.COUNT_READY, (number,)).fetchone()
            members = membership(connection, number)
        if replay.queue != self._queue:
            raise ReplayRefused(
                f"replay {number} is of queue {replay.queue}, and this service works queue {self._queue}: name the service whose "
                "messages they are"
            )
        if replay.state in (PLANNING, ABORTED, FINISHED) or not count:
            raise ReplayRefused(
                f"replay {number} is {replay.state}, and none of its members is still to be moved and expected to settle: there is "
                "nothing to try; crossfoot replay show says what became of them"
            )
        if members != (replay.count, replay.d0, replay.d1):
            raise ReplayRefused(
                f"replay {number} was planned with {replay.count:,} members, and there are others now ({members[0]:,}): it is not run, so "
                "there is nothing to try; plan it again"
            )
        return int(count) if self._most is None else min(int(count), self._most)

    def _next(self, number: int, after: int, count: int) -> Sequence[Member]:
        with self._book.reading() as connection:
            rows = connection.execute(replays.NEXT_READY, (number, after, count)).fetchall()
        return [self._whole(Member(*row)) for row in rows]

    def _whole(self, member: Member) -> Member:
        body, after = (self._book.restored(member, stored) for stored in (member.body, member.after))
        return msgspec.structs.replace(member, body=body, after=after)


def _told(member: Member, would: str) -> Rehearsed:
    return Rehearsed(id=member.id, type=member.type, subject=member.subject, would=would)


def _closed(member: Member, kind: Kind, work: Work | None) -> Rehearsed:
    if kind in _NOT_CALLED or work is None:
        return _told(member, _NOT_CALLED.get(kind, SETTLES))
    evidence = work.evidence
    return Rehearsed(
        id=member.id, type=member.type, subject=member.subject, would=NOTHING_TO_DO if kind is Kind.NOOP else SETTLES,
        rows=evidence.rows, outcomes=evidence.outcomes, sent=evidence.sent, receipts=evidence.receipts,
        reason=evidence.reason or None,
    )  # fmt: skip
