"""Taking deliveries in: read the envelope, find the handler, and write that they were received.

The received entries of a whole batch are one transaction. It comes before any handler runs, so that a worker which is
killed leaves a delivery without an end in the book, and not nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial

from crossfoot.books import sql
from crossfoot.books.entry import RANKS, Kind
from crossfoot.books.identity import mend
from crossfoot.books.record import UNREADABLE, Record, is_plain, see_that_an_operation_fits, under_broker_id, unreadable
from crossfoot.books.store import Book, Known, completed, find_or_add, find_or_add_all, write_rows
from crossfoot.clock import SECOND, Micros
from crossfoot.connection import Connection, is_postgres
from crossfoot.effects.hold import Hold
from crossfoot.effects.operation import of_itself
from crossfoot.effects.outbox import base_of
from crossfoot.errors import EnvelopeInvalid, IdentityTaken, MessageExpired, UnknownType, WornOut
from crossfoot.message import Message, decode
from crossfoot.queues.queue import Delivery, LocalQueue, Queue, system_of
from crossfoot.tracing.delivering import Origin
from crossfoot.worker.held import Held
from crossfoot.worker.registry import Registry
from crossfoot.worker.retry import Retry

logger = logging.getLogger("crossfoot.worker")

MOST_UNKNOWN = 100
"""Unknown types that are told of: a publisher may make up a new one each time."""


class Intake:
    """Takes deliveries of one queue in.

    Args:
        worker: this worker's number in the book.
        name: and its name.
        local: the queue again, if it lives in the effect's own database.
    """

    def __init__(
        self, book: Book, queue: Queue, registry: Registry, retry: Retry, worker: int, local: LocalQueue | None,
        name: str = "",
    ) -> None:  # fmt: skip
        self._book = book
        self._name = queue.name
        self._counts = queue.capabilities.counts
        self._local = local
        self._indexed = is_postgres(book.path)
        self._one_clock = local is not None and not self._indexed
        self._registry = registry
        self._retry = retry
        self._clock = book.clock
        self._worker = worker
        self._count = 0
        self._unknown: set[str] = set()
        self._origin = Origin(queue.name, system_of(queue), name)

    @property
    def remote(self) -> bool:
        """Whether receiving waits for another machine. Where it does not, it takes turns with the handlers for the lock of the
        one file: in batches, which seldom wait for the disk, it is better done when they are through."""
        return self._local is None

    def take(self, deliveries: Sequence[Delivery], lease_over: float = float("inf")) -> list[Held]:
        """Read deliveries, and write that this worker holds them.

        Args:
            lease_over: when their leases end at the latest, by the monotonic clock: counted from before they were asked for,
                whatever a wall clock that was set meanwhile makes of it.
        """
        monotonic, now = self._clock.monotonic(), self._clock.now()
        strict = self._local is None
        helds = []
        records = []
        for delivery in deliveries:
            left = (delivery.lease_until - now) / 1_000_000
            held = Held(delivery, self._clock, min(monotonic + left, lease_over), delivery.attempt, strict)
            records.append(self._read(held, now))
            self._prepare(held)
            helds.append(held)
        self._write(helds, records, now)
        return helds

    def _read(self, held: Held, now: Micros) -> Record:
        delivery, name = held.delivery, self._name
        try:
            message = decode(delivery.body)
            record = self._book.record_of(message, name, now=delivery.enqueued_at or now, body=delivery.body)
        except EnvelopeInvalid as error:
            held.problem = error
            kept = self._book.kept(delivery.body, type=UNREADABLE)
            return unreadable(delivery.body, name, delivery.broker_id, now=delivery.enqueued_at or now, kept=kept)
        handler = self._registry.find(message.type)
        if handler is None:
            self._tell_unknown(message.type)
            held.problem = UnknownType(
                f"{message.key}: no handler takes {message.type!r}: register one, or start the version that has it"
            )
        elif message.expirytime is not None and (left := self._left(message, now)) <= 0:
            held.problem = MessageExpired(f"{message.key}: its expirytime has passed")
        else:
            held.handler = handler
            if message.expirytime is not None:
                held.until = self._clock.monotonic() + left
        held.message = message
        return record

    def _left(self, message: Message, now: Micros) -> float:
        """Seconds for which it is still of use, as far as clocks can be believed."""
        from crossfoot.flow.wire import SKEW, still_wanted  # most messages are of use for ever, and need none of it

        assert message.expirytime is not None
        sent = None if message.time is None else message.time / SECOND
        skew = 0.0 if self._one_clock else SKEW
        return still_wanted(message.expirytime / SECOND, now / SECOND, sent=sent, skew=skew)

    def _tell_unknown(self, type_: str) -> None:
        """Say once of each type that nobody here takes it."""
        if type_ not in self._unknown and len(self._unknown) < MOST_UNKNOWN:
            self._unknown.add(type_)
            wait = self._retry.unknown_for
            logger.warning(
                "no handler takes %r: its messages %s",
                type_[:200],
                f"are handed back for {wait:g} s in case a newer version does, and then they die" if wait else "die",
            )

    def _write(self, helds: Sequence[Held], records: Sequence[Record], now: Micros) -> None:
        done = self._book.write(partial(self._write_received, helds, records, now))
        for held in helds:
            if held.work is not None:
                completed_before = held.work.operation in done
                held.eager = held.work.eager = completed_before  # then ask it before the handler
                if completed_before and isinstance(held.problem, WornOut):
                    held.problem = None  # its work is done: that it died afterwards is no reason to bury it

    def _write_received(
        self, helds: Sequence[Held], records: Sequence[Record], now: Micros, connection: Connection
    ) -> set[str]:
        """The operations among theirs that are completed. May be done again after a rollback."""
        keys, known = [], []
        for held, record, found in zip(helds, records, find_or_add_all(connection, records), strict=True):
            assert held.hold is not None
            other = found.is_other(record) or found.asks_other(record)
            known.append(_another(connection, held, record, found) if other else found)
            held.hold.key = known[-1].key
            if held.work is not None and not other:
                self._keep_stated(connection, held, known[-1])
            if not known[-1].is_new:
                keys.append(known[-1].key)
        done = completed(connection, [held.work.operation for held in helds if held.work is not None], keys)
        by = {message: operation for operation, message in done.items()}
        rows = []
        asked: dict[int, str] = {}
        for held, one in zip(helds, known, strict=True):
            hold = held.hold
            assert hold is not None
            key = one.key
            if not self._counts:  # what the queue told is one consumer's: the book has seen them all
                base = base_of(held.delivery.attributes)
                seen = connection.execute(sql.LAST_ATTEMPT, (key,)).fetchone()[0] or 0
                hold.attempt = max(seen, base) + 1
                held.attempt = held.delivery.attempt = hold.attempt - base
            # Sent anew, and counted anew by the broker: by its entries, of which the latest may not be posted yet.
            elif hold.attempt > 1 or one.latest >= RANKS or key in by:
                hold.attempt = max(hold.attempt, (connection.execute(sql.LAST_ATTEMPT, (key,)).fetchone()[0] or 0) + 1)
            if key in by and held.handler is not None:
                self._ask_for(held, by[key])
            elif held.work is not None:
                self._ask_for(held, asked.setdefault(key, held.work.operation))
            rows.append((key, hold.attempt, hold.delivery, now, held.delivery.lease_until, self._worker))
            if held.attempt > 1:
                base = hold.attempt - held.attempt
                released, held.failed, deaths = connection.execute(sql.COUNT_ENDS, (key, base)).fetchone()
                held.suspect = self._retry.suspects(held.attempt - 1 - released - held.failed)
                if self._retry.worn_out(deaths, held.failed):
                    held.problem = held.problem or _worn_out(held, deaths)
                if isinstance(held.problem, UnknownType):
                    (since,) = connection.execute(sql.FIRST_RECEIVED, (key, base)).fetchone()
                    held.waited = (now - (since or now)) / 1_000_000
        write_rows(connection, rows, each=sql.INSERT_RECEIVED, group=sql.INSERT_RECEIVED_GROUP)
        return set(done)

    def _ask_for(self, held: Held, operation: str) -> None:
        """A message that has completed an operation asks for that one again, and for no other: a new version of the program
        may call it otherwise, or take its payload no more, and its effect is there. So do two copies in one receive."""
        if held.work is None or held.work.operation != operation:
            held.completed, held.problem = operation, None
            held.prepare()

    def _keep_stated(self, connection: Connection, held: Held, known: Known) -> None:
        """A copy that names no operation, nor its handler for it, asks for the one that the message stated the first time; and what
        was suppressed asks for the one that it was suppressed for."""
        assert held.work is not None and held.message is not None and held.hold is not None
        if known.operation is not None and held.work.operation == of_itself(held.message, self._name):
            self._ask_for(held, known.operation)
        if held.hold.attempt > 1 or known.marks & 1 << Kind.SUPPRESSED:
            suppressed = connection.execute(sql.FIND_SUPPRESSED, (known.key,)).fetchall()
            if suppressed:
                self._ask_for(held, json.loads(max(suppressed)[1])["operation"])

    def _prepare(self, held: Held) -> None:
        """Give the delivery its number, and name its operation; what fails here fails like the handler would."""
        delivery, message = held.delivery, held.message
        self._count += 1
        held.hold = Hold(
            key=0,  # given by the book, see `_write`
            delivery=self._worker << 32 | self._count,
            attempt=delivery.attempt + (base_of(delivery.attributes) if delivery.attributes else 0),
            worker=self._worker,
            queue=self._name,
            body=delivery.body,
            partition=(message.partitionkey or message.subject) if message is not None else None,
            ack=self._local.ack_statement(delivery.receipt) if self._local is not None else None,
            begin=held.begin if held.handler is not None and held.handler.deadline is not None else None,
            rest=held.rest if held.handler is not None and held.handler.deadline is not None else None,
            fence=held.fence,
            until=held.until,
            payloads=self._book.payloads,
            trace=self._origin.delivery(
                message, id_=delivery.broker_id, size=len(delivery.body), attempt=delivery.attempt
            ),
        )
        if held.handler is None or message is None:
            return
        try:
            held.message = held.handler.typed(message)
            work = held.prepare()
            if self._indexed and not is_plain(work.operation) and work.operation != of_itself(message, self._name):
                see_that_an_operation_fits(work.operation)
        except Exception as error:  # noqa: BLE001 - the user's types may raise anything: this delivery failed, not the worker
            held.problem, held.work = error, None


def _worn_out(held: Held, deaths: int) -> WornOut:
    name = held.message.key if held.message is not None else held.delivery.broker_id
    if deaths:
        return WornOut(
            f"{name}: {deaths} workers died while they handled it and nothing else that is suspected: look for a handler that "
            "takes its process down with it"
        )
    return WornOut(
        f"{name}: {held.failed} deliveries failed in ways that settle nothing, such as a lease that was lost or a commit without "
        "an answer: look at what its handler takes so long for"
    )


def _another(connection: Connection, held: Held, record: Record, known: Known) -> Known:
    """What a delivery is booked under whose name is another message's: its fate must not be mixed up with that one's."""
    try:
        mend(connection, known, record)
    except IdentityTaken as error:
        held.problem, held.work = error, None
    else:
        return known
    delivery = held.delivery
    return find_or_add(connection, under_broker_id(record, body=delivery.body, broker_id=delivery.broker_id))
