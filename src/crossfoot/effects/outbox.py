"""The outbox and its relay: messages that were decided on durably, on their way to a queue.

A message is *intended* in the transaction that decided on it, then sent, then booked by what the broker answered:

    accepted   published, and out of the outbox
    refused    for good: refused, and out; for now: put off, and tried again later
    no answer  in doubt, and sent again under the same id: a second copy ends as a duplicate, a lost first one is healed

A claim is a lease on outbox rows. A sender that dies leaves rows whose claim runs out; nobody knows whether it had sent
them, so that is booked as doubt, and the next one sends them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import anyio.to_thread
import msgspec

from crossfoot.books import sql
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.fate import FATE_OF_LATEST, Fate, fold, posted_fate
from crossfoot.books.identity import find_or_publish
from crossfoot.books.queries import entries_of
from crossfoot.books.record import Record
from crossfoot.books.store import Book, flat, write_entries
from crossfoot.boundaries import Boundary, reach
from crossfoot.clock import Micros, micros
from crossfoot.connection import Connection
from crossfoot.effects.overlong import Overlong
from crossfoot.errors import IdentityTaken, PublishRefused, QueueMissing, QueueUnavailable, UsageError
from crossfoot.message.priority import priority_of
from crossfoot.queues.attempts import attempts_told
from crossfoot.queues.queue import Accepted, Order, Outgoing, PublishAnswer, Queue, Refused, system_of
from crossfoot.tracing.producing import Answer, Place, relaying

CLAIM_SECONDS = 60.0
"""How long a sender may take before another one sends the same rows; a worker takes its lease instead."""

BEHIND = "an earlier message of its partition is still to be sent: the relay sends both, in order"

BASE_ATTRIBUTE = "crossfoot-base"
"""Deliveries of a message sent again go on counting from here."""


def base_of(attributes: Mapping[str, str]) -> int:
    """Deliveries before the message was sent again; anything unreadable there counts as none."""
    return attempts_told(attributes.get(BASE_ATTRIBUTE), 0)


_json = msgspec.json.Encoder()


class Letter(msgspec.Struct, frozen=True):
    """A claimed row of the outbox."""

    number: int
    message: int
    identity: str
    body: bytes
    partition: str | None
    base: int
    tries: int
    claim: str

    @property
    def id(self) -> str:
        """The message's id, by which people know it."""
        return self.identity.partition("|")[2]

    def outgoing(self) -> Outgoing:
        """What the queue is given. A message sent again on purpose must not look like a repeated publish of the first."""
        priority = priority_of(self.body)
        if not self.base:
            return Outgoing(key=self.identity, body=self.body, partition=self.partition, priority=priority)
        attributes = {BASE_ATTRIBUTE: str(self.base)}
        return Outgoing(
            key=self.identity, body=self.body, partition=self.partition, priority=priority, attributes=attributes,
            deduplication=f"{self.identity}#{self.base}",
        )  # fmt: skip


class Outbox:
    """Sends what transactions decided on, to the queues it knows.

    Args:
        book: where the outbox is.
        queues: by name.
        worker: the number under which its entries are written, 0 for a publisher that is no worker.
        claim: seconds a sender may take before another one sends the same rows.
    """

    def __init__(
        self, book: Book, queues: Mapping[str, Queue], *, worker: int = 0, claim: float = CLAIM_SECONDS
    ) -> None:
        self._book = book
        self._queues = queues
        self._worker = worker
        self._claim_for = micros(claim)
        self._overlong = Overlong(book, claim_for=self._claim_for)

    async def publish(self, records: Sequence[tuple[Record, Outgoing]], queue: Queue) -> list[PublishAnswer]:
        """Write the intention, send, book the answers.

        Returns:
            What became of each, in order: accepted; refused (`permanent` or not: what is not is tried again by the
            relay); or doubtful, which the relay resolves by sending it again under the same id.

        Raises:
            QueueUnavailable: nothing was sent now; the intention is durable and the relay will send it.
            PublishRefused: nothing was sent, and nothing ever would be: the queue is not set as it must be, or there is none of
                that name, and this book never knew one. They are refused, and out of the outbox.
        """
        return await self.deliver(await anyio.to_thread.run_sync(self._intend, records), queue)

    async def deliver(self, intended: Sequence[Letter | Refused], queue: Queue) -> list[PublishAnswer]:
        """Send what this sender has claimed for itself, as `publish` does."""
        letters = [letter for letter in intended if isinstance(letter, Letter)]
        behind: set[int] = set()
        if letters and queue.capabilities.order is Order.KEY:
            behind = await anyio.to_thread.run_sync(self._behind, letters)
            waiting = [letter for letter in letters if letter.number in behind]
            if waiting:
                await anyio.to_thread.run_sync(self._put_off, waiting, BEHIND)
        reach(Boundary.BEFORE_SEND)
        ready = [letter for letter in letters if letter.number not in behind]
        try:
            answers = iter(await self._send(queue, ready))
        except (QueueUnavailable, UsageError) as error:
            await anyio.to_thread.run_sync(self._give_up, queue, ready, error)
            raise
        return [
            letter if isinstance(letter, Refused)
            else Refused(letter.identity, BEHIND, permanent=False) if letter.number in behind
            else next(answers)
            for letter in intended
        ]  # fmt: skip

    async def drain(self, queue: Queue, *, limit: int = 100) -> int:
        """Send what is due for one queue. Returns how many rows were taken up; 0 when there is nothing to send.

        Raises:
            QueueUnavailable, UsageError: nothing was sent; the rows are kept, and tried again after a pause.
        """
        in_order = queue.capabilities.order is Order.KEY
        letters = await anyio.to_thread.run_sync(self._claim, queue.name, limit, in_order)
        if not letters:
            return 0
        reach(Boundary.BEFORE_SEND)
        with relaying([letter.body for letter in letters], Place(queue.name, system_of(queue))) as relayed:
            try:
                answers = await self._send(queue, letters)
            except (QueueUnavailable, UsageError) as error:
                await anyio.to_thread.run_sync(self._put_off, letters, str(error))
                raise
            relayed.answered([fact_of(answer) for answer in answers])
        return len(letters)

    async def waits(self, queue: Queue) -> bool:
        """Whether anything for that queue is still to be sent, now or later."""
        return await anyio.to_thread.run_sync(self._waits, queue.name)

    # ---- parts -----------------------------------------------------------------------------------------------

    async def _send(self, queue: Queue, letters: Sequence[Letter]) -> list[PublishAnswer]:
        if not letters:
            return []
        await queue.open()  # not before the intention: a queue that cannot be reached is one more reason to remember
        answers = await queue.publish([letter.outgoing() for letter in letters])
        reach(Boundary.AFTER_SEND)
        await anyio.to_thread.run_sync(self._book_answers, letters, answers)
        return answers

    def _intend(self, records: Sequence[tuple[Record, Outgoing]]) -> list[Letter | Refused]:
        """Letters for the outbox; those whose name is another message's are refused."""
        now = self._book.clock.now()
        claim, until = token(), now + self._claim_for

        def intend(connection: Connection) -> list[Letter | Refused]:
            found = find_or_publish(connection, [record for record, _ in records])
            asked = list(zip(records, found, strict=True))
            rows = [
                (place[0], record.queue, outgoing.key, outgoing.body, outgoing.partition, place[1], until, claim)
                for (record, outgoing), place in asked
                if not isinstance(place, IdentityTaken)
            ]
            numbers = iter(numbered(connection, rows))
            letters: list[Letter | Refused] = []
            entries = []
            for (_, outgoing), place in asked:
                if isinstance(place, IdentityTaken):
                    letters.append(Refused(outgoing.key, str(place), permanent=True))
                    continue
                key, base = place
                letters.append(
                    Letter(next(numbers), key, outgoing.key, outgoing.body, outgoing.partition, base, 1, claim)
                )
                entries.append(
                    Entry(message=key, kind=Kind.INTENDED, at=now, attempt=base, due=now, worker=self._worker)
                )
            write_entries(connection, entries)
            return letters

        return self._book.write(intend)

    def _behind(self, letters: Sequence[Letter]) -> set[int]:
        """Numbers of letters whose partition has an earlier one, not of this call, that is still to be sent."""
        first = letters[0].number
        with self._book.reading() as connection:
            return {
                letter.number
                for letter in letters
                if letter.partition is not None
                and connection.execute(sql.OUTBOX_BEFORE, (letter.partition, first, letter.message)).fetchone()
                is not None
            }

    def _claim(self, queue: str, limit: int, in_order: bool) -> list[Letter]:
        due, take = (sql.OUTBOX_DUE, sql.CLAIM_OUTBOX)
        if in_order:
            due, take = (sql.OUTBOX_DUE_IN_ORDER, sql.CLAIM_OUTBOX_IN_ORDER)
        now = self._book.clock.now()
        self._overlong.end(queue, now)
        parameters: dict[str, Any] = {"queue": queue, "now": now, "limit": limit}
        with self._book.reading() as connection:  # no write lock is taken while there is nothing to send
            if connection.execute(due, parameters).fetchone() is None:
                return []
        claim = token()
        parameters |= {"claim": claim, "until": now + self._claim_for}

        def take_up(connection: Connection) -> list[Any]:
            connection.alone(f"claim of outbox {queue}")
            lapsed = connection.execute(sql.LAPSED_CLAIMS, parameters).fetchall()
            rows = connection.execute(take, parameters).fetchall()
            write_entries(connection, [self._doubt(message, base, now) for message, base in lapsed])
            return rows

        letters = [Letter(*(*row, claim)) for row in self._book.write(take_up)]
        return sorted(letters, key=lambda letter: letter.number)

    def _waits(self, queue: str) -> bool:
        with self._book.reading() as connection:
            return connection.execute(sql.OUTBOX_HOLDS, (queue,)).fetchone() is not None

    def _give_up(self, queue: Queue, letters: Sequence[Letter], error: QueueUnavailable | UsageError) -> None:
        """Nothing was sent. Keep them where the queue may come back; where there never was one, say so for good.

        Raises:
            PublishRefused: they are refused.
        """
        if isinstance(error, QueueUnavailable) and not (isinstance(error, QueueMissing) and self._never_there(queue)):
            self._put_off(letters, str(error))
            error.kept = tuple(letter.id for letter in letters)
            return
        refused = self._refuse(queue.name, letters, str(error))
        if refused:
            more = f" and {len(refused) - 1:,} more" if len(refused) > 1 else ""
            ended = f"the book ended message {refused[0]}{more} as refused: publish again once that is mended"
        else:
            ended = "the book knew of them before, and what it says of them stands"
        raised = PublishRefused(f"{str(error).rstrip('.')}. Nothing was sent, and {ended}")
        raised.refused = refused
        raise raised from error

    def _never_there(self, queue: Queue) -> bool:
        """A queue that is missed is not one whose name is wrong: it may come back, and what was meant for it with it."""
        with self._book.reading() as connection:
            return connection.execute(sql.EVER_THERE, (queue.name,)).fetchone() is None

    def _refuse(self, queue: str, letters: Sequence[Letter], reason: str) -> tuple[str, ...]:
        """Take letters that were not sent out of the outbox. Returns the ids of the messages that end with that.

        Others do not: who has published one before may have sent it, or may still do so.
        """
        now = self._book.clock.now()

        def refuse(connection: Connection) -> list[Letter]:
            refused: list[Letter] = []
            for letter in letters:
                if not connection.execute(sql.DROP_OUTBOX, (letter.number, letter.claim)).rowcount:
                    continue  # the claim was over, and somebody else sends it now
                if connection.execute(sql.OUTBOX_OF, (queue, letter.message)).fetchone() is not None:
                    continue
                if posted_fate(fold(entries_of(connection, letter.message))) in (Fate.INTENDED, Fate.REFUSED):
                    refused.append(letter)
            write_entries(connection, [self._entry(letter, Kind.REFUSED, now, now, reason) for letter in refused])
            return refused

        return tuple(letter.id for letter in self._book.write(refuse))

    def _put_off(self, letters: Sequence[Letter], reason: str) -> None:
        """Nothing was sent: try all of them later."""
        now = self._book.clock.now()

        dues = [now + pause(letter.tries) for letter in letters]

        def put_off(connection: Connection) -> None:
            later = [(due, letter.number, letter.claim) for letter, due in zip(letters, dues, strict=True)]
            connection.executemany(sql.RETRY_OUTBOX, later)
            entries = [
                self._entry(letter, Kind.PUT_OFF, now, due, reason) for letter, due in zip(letters, dues, strict=True)
            ]
            write_entries(connection, entries)

        self._book.write(put_off)

    def _book_answers(self, letters: Sequence[Letter], answers: Sequence[PublishAnswer]) -> None:
        now = self._book.clock.now()

        def book(connection: Connection) -> None:
            entries, over, later = [], [], []
            for letter, answer in zip(letters, answers, strict=True):
                kind = kind_of(answer)
                if kind is Kind.REFUSED and _was_parked(connection, letter):
                    kind = Kind.PUT_OFF  # the outbox holds its only copy, so no refusal is the last
                due = now if kind in (Kind.PUBLISHED, Kind.REFUSED) else now + pause(letter.tries)
                if kind in (Kind.PUBLISHED, Kind.REFUSED):
                    over.append((letter.number, letter.claim))
                else:
                    later.append((due, letter.number, letter.claim))
                entries.append(self._entry(letter, kind, now, due, getattr(answer, "reason", "")))
            connection.executemany(sql.DROP_OUTBOX, over)
            connection.executemany(sql.RETRY_OUTBOX, later)
            write_entries(connection, entries)

        self._book.write(book)

    def _doubt(self, message: int, base: int, now: Micros) -> Entry:
        """A sender took it up and was not heard of again: it may have been sent, and is sent once more."""
        details = _json.encode({"reason": "its sender was not heard of again", "lapsed": True}).decode()
        return Entry(
            message=message, kind=Kind.PUBLISH_IN_DOUBT, at=now, attempt=base, due=now + self._claim_for,
            worker=self._worker, details=details,
        )  # fmt: skip

    def _entry(self, letter: Letter, kind: Kind, now: Micros, due: Micros, reason: str) -> Entry:
        details = _json.encode({"reason": reason}).decode() if reason else None
        return Entry(
            message=letter.message, kind=kind, at=now, attempt=letter.base, due=due, worker=self._worker, details=details
        )  # fmt: skip


def numbered(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> list[int]:
    """Put rows into the outbox. Returns their numbers, which rise in the order of the rows."""
    whole = len(rows) - len(rows) % sql.GROUP
    numbers: list[int] = []
    for first in range(0, whole, sql.GROUP):
        added = connection.execute(sql.INSERT_NUMBERED_OUTBOX_GROUP, flat(rows[first : first + sql.GROUP])).fetchall()
        of: defaultdict[int, list[int]] = defaultdict(list)
        for number, message in sorted(added, reverse=True):
            of[message].append(number)
        numbers += [of[row[0]].pop() for row in rows[first : first + sql.GROUP]]
    return numbers + [connection.execute(sql.INSERT_NUMBERED_OUTBOX, row).fetchone()[0] for row in rows[whole:]]


def _was_parked(connection: Connection, letter: Letter) -> bool:
    """Whether it is sent on after it was parked, and not published."""
    if not letter.base:
        return False
    return connection.execute(sql.FIND_RESUMED, (letter.message, letter.base)).fetchone() is not None


def kind_of(answer: PublishAnswer) -> Kind:
    """The fact that a broker's answer states."""
    if isinstance(answer, Accepted):
        return Kind.PUBLISHED
    if isinstance(answer, Refused):
        return Kind.REFUSED if answer.permanent else Kind.PUT_OFF
    return Kind.PUBLISH_IN_DOUBT


def fact_of(answer: PublishAnswer) -> Answer:
    """What a trace says of an answer."""
    kind = kind_of(answer)
    error = {Kind.PUBLISHED: "", Kind.PUBLISH_IN_DOUBT: "in_doubt"}.get(kind, "refused")
    return Answer(answer.key.partition("|")[2], FATE_OF_LATEST[kind].label, error)


def pause(tries: int) -> Micros:
    """How long until the next try: doubles from a quarter of a second, up to a minute."""
    return micros(min(60.0, 0.25 * 2 ** min(tries - 1, 8)))


def token() -> str:
    """Names one sender's claim."""
    return os.urandom(8).hex()
