"""Reconciling: what the book believes the queue holds, against what the queue holds.

Three things happen to messages without anybody telling us: the queue's retention drops them, its redrive policy moves
them to the dead letters, and somebody deletes them. Each is found by identity where the queue can be browsed, and
where it cannot, by the one moment at which its depth proves something: when it is empty, and at every look for as long as
it may hold a message without counting it.

A long queue is not searched. It delivers what is ready longest first, so only what should have been delivered before
the message at its head can be missing; what is behind the head waits, or is found missing when the head has passed it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial

import anyio.to_thread
import msgspec

from crossfoot.books import sql
from crossfoot.books.entry import PROOF_MARKS, RANKS, Entry, Kind
from crossfoot.books.fate import Fate, fold
from crossfoot.books.grouped import keys_text
from crossfoot.books.identity import was
from crossfoot.books.posting import post_all
from crossfoot.books.queries import entries_of
from crossfoot.books.record import UNREADABLE, Record, under_broker_id, unreadable
from crossfoot.books.store import Book, find_or_add, write_entries
from crossfoot.clock import Micros, micros
from crossfoot.connection import Connection
from crossfoot.dialect import differs
from crossfoot.effects.outbox import base_of
from crossfoot.errors import EnvelopeInvalid, QueueUnavailable
from crossfoot.message import decode
from crossfoot.queues.queue import Held, KeepsExpired, Queue, TellsForgotten, TellsOldest

IN_CUSTODY = (Fate.QUEUED, Fate.PROCESSING, Fate.RETRYING)
"""Open fates of messages that the queue should hold."""


_SENT = ", ".join(str(int(kind)) for kind in (Kind.PUBLISH_IN_DOUBT, Kind.PUBLISHED, Kind.RESUMED, Kind.REPLAYED))


_UNSENT = differs(
    "SELECT message FROM crossfoot_outbox INTERSECT SELECT value FROM json_each(:keys)",
    postgres="""
SELECT message FROM crossfoot_outbox
INTERSECT SELECT v::bigint FROM jsonb_array_elements_text(CAST(:keys AS jsonb)) AS v""",
)
"""Those that were not sent yet. A set of each is made: a search for one by one reads the whole outbox for each before PostgreSQL 16."""

_SENT_AGAIN = f"SELECT 1 FROM crossfoot_entries WHERE message = ? AND kind IN ({_SENT}) AND attempt >= ? LIMIT 1"

THOROUGH = 10
"""Every so many looks dead letters are compared by identity, although their count is what it should be."""

FOUND_DEAD = "found in the dead letters"

AT_ONCE = 100
"""Dead or expired messages that are looked up in one transaction: who wants to write to the same file waits for it."""

Letter = tuple[str, Micros | None, int]

MOST_CANDIDATES = 10_000
"""Messages looked for at once; the next round goes on behind them."""


def _died_before(connection: Connection, key: int, attempt: int, *, gone: bool) -> bool:
    """Whether a dead letter is one that was booked, whose message has been sent again since.

    A message that is gone from the queue must have been sent again by somebody we know. If it was not, the dead letter is where it
    went: a worker that was late buried an earlier delivery while a later one was in somebody else's hands.
    """
    (died,) = connection.execute(sql.LAST_DEATH, (key,)).fetchone()
    if died is None or attempt > died:
        return False
    return not gone or connection.execute(_SENT_AGAIN, (key, died)).fetchone() is not None


def _letter(row: Held) -> Letter:
    """What tells a dead letter from another one, of the same message, too."""
    return row.broker_id, row.enqueued_at, row.attempt + base_of(row.attributes)


class Missing(msgspec.Struct, frozen=True):
    """A message that should be in the queue and is not."""

    key: int
    identity: str
    at: Micros
    latest: int


class Reconciliation:
    """Compares one queue with the book, and books what it finds.

    Args:
        patience: seconds a message may be overdue before its absence means something.
    """

    def __init__(self, book: Book, queue: Queue, *, patience: float = 5.0, worker: int = 0) -> None:
        self._book = book
        self._queue = queue
        self._patience = patience
        self._worker = worker
        self._missed_since: dict[tuple[int, int], float] = {}
        """Since when a message, and what happened to it last, has been missing at every look at an empty queue."""
        self._after = 0
        self._looks = 0
        self._known_dead: set[Letter] = set()
        """Dead letters of which the book knows, by the look before."""
        self._surplus = 0
        """How many more letters there were then than messages that are dead: others of them have come to something since."""

    async def run(self) -> dict[Kind, int]:
        """Once. Returns how many messages were found expired, dead-lettered by the queue, or vanished.

        Raises:
            QueueUnavailable: it could not be looked at, which breaks the row of looks at which it was empty.
        """
        try:
            return await self._run()
        except QueueUnavailable:
            self._missed_since.clear()
            raise

    async def _run(self) -> dict[Kind, int]:
        await anyio.to_thread.run_sync(post_all, self._book)
        found = {
            Kind.EXPIRED: await self._book_expired(),
            Kind.DEAD_LETTERED: await self._book_dead_letters(),
            Kind.VANISHED: 0,
        }
        for kind, count in (await self._book_missing()).items():
            found[kind] += count
        return found

    # ---- retention, where the queue tells --------------------------------------------------------------------

    async def _book_expired(self) -> int:
        if not isinstance(self._queue, KeepsExpired):
            return 0
        total = 0
        while rows := await self._queue.expired():
            await anyio.to_thread.run_sync(self._write_seen, rows, Kind.EXPIRED, "the queue's retention is over")
            await self._queue.purge(rows)
            total += len(rows)
        return total

    # ---- dead letters the queue made by itself -----------------------------------------------------------------

    async def _book_dead_letters(self) -> int:
        depth = await self._queue.depth()
        self._looks += 1
        booked = await anyio.to_thread.run_sync(self._count, Fate.DEAD)
        same = depth.dead - booked == self._surplus
        if same and (not depth.dead or self._looks % THOROUGH):  # one gone and one come make the same count
            return 0
        if self._looks % THOROUGH == 0:
            self._known_dead.clear()
        letters: set[Letter] = set()
        seen = found = 0
        async for rows in self._dead_letters():
            fresh = [row for row in rows if _letter(row) not in self._known_dead]
            found += await anyio.to_thread.run_sync(self._write_seen, fresh, Kind.DEAD_LETTERED, FOUND_DEAD)
            letters.update(map(_letter, rows))
            seen += len(rows)
        self._known_dead = letters
        self._surplus = seen - booked - found
        return found

    async def _dead_letters(self) -> AsyncIterator[list[Held]]:
        """A few at a time: what they carry may be more than memory holds."""
        rows: list[Held] = []
        async for held in self._queue.dead_letters():
            rows.append(held)
            if len(rows) == AT_ONCE:
                yield rows
                rows = []
        if rows:
            yield rows

    # ---- gone without a word -------------------------------------------------------------------------------------

    async def _book_missing(self) -> dict[Kind, int]:
        browsing = self._queue.capabilities.browsing
        if not browsing and (await self._queue.depth()).held:
            self._missed_since.clear()
            return {}
        head = await self._queue.oldest() if browsing and isinstance(self._queue, TellsOldest) else None
        candidates = await anyio.to_thread.run_sync(self._overdue, head)
        if not candidates:
            self._missed_since.clear()
            return {}
        gone = await self._not_seen(candidates) if browsing else await self._gone_from_empty(candidates)
        how = "browsed" if browsing else "empty at every look"
        if gone and (buried := (await self._queue.depth()).dead):
            missing = frozenset(message.key for message in gone)
            seen = 0
            async for rows in self._dead_letters():
                await anyio.to_thread.run_sync(self._write_seen, rows, Kind.DEAD_LETTERED, FOUND_DEAD, missing)
                seen += len(rows)
            if seen < buried:  # some hide, from somebody else's look for instance: the missing may be among them
                return {}
        aside = await self._book_expired() if gone else 0  # or it was set aside for its age meanwhile
        counts = await anyio.to_thread.run_sync(self._write_gone, gone, how)
        return {**counts, Kind.EXPIRED: counts[Kind.EXPIRED] + aside}

    async def _not_seen(self, candidates: Sequence[Missing]) -> list[Missing]:
        """Those that the queue does not show."""
        missing = {message.identity: message for message in candidates}
        async for row in self._queue.browse():
            missing.pop(self._identity(row), None)
            if not missing:
                break
        return list(missing.values())

    async def _gone_from_empty(self, candidates: Sequence[Missing]) -> list[Missing]:
        """Those that were missed at two looks at least, at an empty queue, between which nothing happened to them, and which
        are further apart than the queue may hide a message."""
        if (await self._queue.depth()).held:
            self._missed_since.clear()
            return []
        now, hides = self._book.clock.monotonic(), self._queue.capabilities.hides
        since = self._missed_since
        gone = [
            message for message in candidates
            if (fact := (message.key, message.latest)) in since and now - since[fact] >= hides
        ]  # fmt: skip
        for message in candidates:  # those of other pages stay
            since.setdefault((message.key, message.latest), now)
        return gone

    def _overdue(self, head: Micros | None) -> list[Missing]:
        """Messages that the queue should have delivered before the one at its head."""
        now = self._book.clock.now()
        before = (now if head is None else min(now, head)) - micros(self._patience)
        marks = ", ".join("?" * len(IN_CUSTODY))
        with self._book.reading() as connection:
            rows = connection.execute(
                f"""SELECT key, source || '|' || id, at, latest FROM crossfoot_messages INDEXED BY crossfoot_messages_unsettled
                WHERE fate IN ({marks}) AND fate <> {Fate.SETTLED.value} AND due < ? AND queue = ? AND key > ?
                ORDER BY key LIMIT {MOST_CANDIDATES}""",
                (*map(int, IN_CUSTODY), before, self._queue.name, self._after),
            ).fetchall()
            unsent = connection.execute(_UNSENT, {"keys": keys_text(row[0] for row in rows)}).fetchall() if rows else []
        self._after = rows[-1][0] if len(rows) == MOST_CANDIDATES else 0
        waiting = {key for (key,) in unsent}
        return [missing for row in rows if (missing := Missing(*row)).key not in waiting]

    def _write_gone(self, gone: Sequence[Missing], how: str) -> dict[Kind, int]:
        """Book the missing, unless something happened to them since they were listed."""
        post_all(self._book)
        now, retention = self._book.clock.now(), self._queue.retention
        forgot = self._queue.forgot_at if isinstance(self._queue, TellsForgotten) else None
        details = msgspec.json.encode({"reason": "not in the queue any more", "seen": how}).decode()

        def write(connection: Connection) -> dict[Kind, int]:
            counts = {Kind.EXPIRED: 0, Kind.VANISHED: 0}
            for message in gone:
                latest, sent = connection.execute(
                    f"""SELECT max(attempt * {RANKS} + kind), max(CASE WHEN kind IN ({_SENT}) THEN at END)
                    FROM crossfoot_entries WHERE message = ?""",
                    (message.key,),
                ).fetchone()
                if latest != message.latest:
                    continue
                # By when it was sent, not by when it happened: an old event may have been published a moment ago.
                old = sent is not None and (
                    (retention is not None and sent + micros(retention) <= now)
                    or (forgot is not None and sent <= forgot)
                )
                kind = Kind.EXPIRED if old else Kind.VANISHED
                counts[kind] += 1
                write_entries(connection, [Entry(
                    message=message.key, kind=kind, at=now, attempt=message.latest // RANKS, worker=self._worker, details=details,
                )])  # fmt: skip
            return counts

        return self._book.write(write)

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _count(self, fate: Fate) -> int:
        with self._book.reading() as connection:
            row = connection.execute(
                f"""SELECT count(*) FROM crossfoot_messages INDEXED BY crossfoot_messages_unsettled
                WHERE fate = ? AND fate <> {Fate.SETTLED.value} AND queue = ?""",
                (int(fate), self._queue.name),
            ).fetchone()
        return int(row[0])

    def _write_seen(self, rows: Sequence[Held], kind: Kind, reason: str, gone: frozenset[int] = frozenset()) -> int:
        """Book what the queue showed, for messages whose book does not say so yet; `gone` are keys of those it does not hold."""
        post_all(self._book)
        now = self._book.clock.now()

        def write(some: Sequence[Held], connection: Connection) -> int:
            written = 0
            for row in some:
                attempts = base_of(row.attributes) + row.attempt  # a queue counts those of each copy anew
                why = f"{reason}; {row.reason}" if row.reason else reason
                details = msgspec.json.encode({"reason": why}).decode()
                record = self._record(row, now)
                known = find_or_add(connection, record)
                other = known.is_other(record) or known.asks_other(record)
                if other and not was(connection, known, record):  # booked under the broker's id, see `intake`
                    known = find_or_add(connection, under_broker_id(record, body=row.body, broker_id=row.broker_id))
                if kind is Kind.DEAD_LETTERED and _died_before(connection, known.key, attempts, gone=known.key in gone):
                    continue
                summary = fold(entries_of(connection, known.key))  # its row may lag
                if summary.marks & PROOF_MARKS or summary.latest % RANKS == kind:
                    continue
                # The queue may have counted its deliveries anew; what is seen now comes after all that is known.
                attempt = max(attempts, summary.latest // RANKS)
                entry = Entry(
                    message=known.key, kind=kind, at=now, attempt=attempt, worker=self._worker, details=details
                )
                write_entries(connection, [entry])
                written += 1
            return written

        return self._book.write(partial(write, rows)) if rows else 0

    def _record(self, row: Held, now: Micros) -> Record:
        try:
            return self._book.record_of(decode(row.body), self._queue.name, now=row.enqueued_at or now, body=row.body)
        except EnvelopeInvalid:
            kept = self._book.kept(row.body, type=UNREADABLE)
            return unreadable(row.body, self._queue.name, row.broker_id, now=row.enqueued_at or now, kept=kept)

    def _identity(self, row: Held) -> str:
        return self._record(row, 0).identity
