"""The embedded queue without async: one connection, one thread at a time, every call one short transaction.

**Leases.** A claim gives each message a new token and hides it until the lease is over; the receipt is key and token.
The token stays until the next claim, so a consumer that overran its lease may still ack if nobody took the message in
the meantime, and never after somebody did.

**Retention.** A message past it is set aside, not deleted: it is no longer delivered and makes way for its successors,
but it is there until `purge`, so that the books can have it first. A message under a running lease is left alone.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from itertools import count, islice

import msgspec

from crossfoot.clock import Clock, Micros, SystemClock, micros
from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.embedded import sql
from crossfoot.queues.embedded.file import CommitUnanswered, QueueFile
from crossfoot.queues.embedded.sql import Statement, Statements, receipt_of, seconds
from crossfoot.queues.embedded.steps import StepWatch
from crossfoot.queues.queue import (
    Accepted,
    Delivery,
    Depth,
    Done,
    Doubtful,
    Held,
    NotDone,
    Outgoing,
    PublishAnswer,
    ReceiptAnswer,
    Refused,
)
from crossfoot.sqlite import Connection

MAX_PUBLISH = 1_000
"""Messages per transaction: longer lists are split, so that other writers get their turn."""

FORGOTTEN_AT_ONCE = 100
"""Dead letters that are deleted in one transaction, so that no worker waits long for the file."""

SWEEP = 1_000
"""Messages past retention that one transaction sets aside."""

Page = list[tuple[int, Held]]
"""Messages with their keys; the last key is where the next page begins."""


class Counts(msgspec.Struct, frozen=True):
    """What the queue has counted since it exists, independently of any book. See `tables.counts`."""

    accepted: int = 0
    acked: int = 0
    removed: int = 0
    dead: int = 0
    expired: int = 0


class EmbeddedStore:
    """One queue in one SQLite file.

    Args:
        path: the database file; it must hold the queue's tables when the store is opened.
        statements: the queue's name and limits.
        max_attempts: deliveries after which the queue itself moves a message to the dead letters; `None` for never.
        synchronous: SQLite's setting; anything but FULL may lose the last commits with the machine's power.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        statements: Statements,
        *,
        max_attempts: int | None = None,
        clock: Clock | None = None,
        synchronous: str = "FULL",
    ) -> None:
        if max_attempts is not None and max_attempts < 1:
            raise UsageError(f"max_attempts of queue {statements.queue} must be 1 or more, not {max_attempts}")
        self.name = statements.queue
        self.statements = statements
        clock = clock or SystemClock()
        self._file = QueueFile(path, self.name, clock, synchronous)
        self.max_attempts = max_attempts
        self._consumer = secrets.token_hex(6)
        self._claims = count(1)
        self._steps = StepWatch(self.name, clock)

    @property
    def path(self) -> str:
        """The database file; once opened, absolute and without symbolic links."""
        return self._file.path

    def open(self) -> None:
        """Connect, and see that the tables are there. Writes nothing. Idempotent.

        Raises:
            QueueUnavailable: there is no such file, or it has no tables for a queue.
        """
        self._file.open()

    def close(self) -> None:
        self._file.close()

    def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        """Store `messages`, a thousand per transaction.

        Raises:
            QueueUnavailable: nothing at all was stored. A later part that fails is answered entry by entry.
        """
        answers: list[PublishAnswer] = []
        rest = iter(messages)
        while part := list(islice(rest, MAX_PUBLISH)):
            try:
                answers += self._publish(part)
            except CommitUnanswered as error:
                answers += [self.statements.refusal(one) or Doubtful(one.key, str(error)) for one in part]
            except QueueUnavailable as error:
                if not answers:
                    raise
                answers += [Refused(one.key, str(error), permanent=False) for one in part]
        return answers

    def _publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        refusals = [self.statements.refusal(message) for message in messages]
        taken = [message for message, refusal in zip(messages, refusals, strict=True) if refusal is None]
        last = 0
        if taken:
            with self._file.writing() as (connection, now):
                connection.executemany(sql.INSERT, [self.statements.row(message, now) for message in taken])
                ((last,),) = connection.execute("SELECT last_insert_rowid()").fetchall()
                connection.execute(sql.COUNT_ACCEPTED, (self.name, len(taken)))
        keys = count(last - len(taken) + 1)  # one transaction's keys follow each other
        return [
            refusal or Accepted(message.key, str(next(keys)))
            for message, refusal in zip(messages, refusals, strict=True)
        ]

    def look(self) -> bool:
        """Whether a claim could find something. Reads only."""
        with self._file.reading() as (connection, now):
            if self._steps.suspects(connection, now):
                return True
            return bool(
                connection.execute(sql.LOOK, (self.name, now)).fetchall()
                or connection.execute(sql.LOOK_FOR_EXPIRED, (self.name, now, now)).fetchall()
            )

    def claim(self, limit: int, lease: float) -> list[Delivery]:
        """Up to `limit` messages, oldest first, hidden from others for `lease` seconds.

        What is past retention, or was delivered `max_attempts` times, is set aside on the way.
        """
        length = micros(seconds(lease, f"a lease in queue {self.name}"))
        while True:
            with self._file.writing() as (connection, now):
                connection.execute(sql.START_COUNTING, (self.name,))
                if self._steps.suspects(connection, now):
                    self._steps.mend(connection, now)
                more_expired = self._expire(connection, now)
                leased = [] if more_expired else self._lease(connection, limit, now, now + length)
                fresh = [one for one in leased if one.attempt <= (self.max_attempts or one.attempt)]
                if len(fresh) < len(leased):
                    self._bury(connection, leased, now)
            self._steps.rest()
            if fresh or not (leased or more_expired):
                return fresh

    def _lease(self, connection: Connection, limit: int, now: Micros, until: Micros) -> list[Delivery]:
        token = f"{self._consumer}{next(self._claims) & 0xFFFFFFFF:08x}"
        rows = connection.execute(sql.CLAIM, (token, until, now, self.name, now, limit)).fetchall()
        rows.sort()  # RETURNING keeps no order; keys are unique, so nothing else is compared
        return [
            Delivery(
                body=body,
                receipt=receipt_of(key, token),
                attempt=attempts,
                lease_until=until,
                enqueued_at=enqueued_at,
                broker_id=str(key),
                attributes=_decode(attributes) if attributes else {},
            )
            for key, attempts, enqueued_at, attributes, body in rows
        ]

    def _expire(self, connection: Connection, now: Micros) -> bool:
        """Set aside what is past retention. True when there may be more of it."""
        return connection.execute(sql.EXPIRE, (now, self.name, now, now, SWEEP)).rowcount == SWEEP

    def _bury(self, connection: Connection, leased: Sequence[Delivery], now: Micros) -> None:
        """Of those just leased, dead-letter the worn out: they were not delivered, so they are not counted as such."""
        most = self.max_attempts or 0
        reason = f"delivered {most} times, the most that queue {self.name} allows"
        worn_out = [(now, reason, int(one.broker_id)) for one in leased if one.attempt > most]
        connection.executemany(sql.BURY_WORN_OUT, worn_out)

    def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        return self._settle(receipts, lambda receipt, now: self.statements.ack(receipt))

    def release(self, receipts: Sequence[str], delay: float = 0.0) -> list[ReceiptAnswer]:
        return self._settle(receipts, lambda receipt, now: self.statements.release(receipt, now, delay))

    def extend(self, receipts: Sequence[str], lease: float) -> list[ReceiptAnswer]:
        return self._settle(receipts, lambda receipt, now: self.statements.extend(receipt, now, lease))

    def dead_letter(self, receipts: Sequence[str], reason: str) -> list[ReceiptAnswer]:
        return self._settle(receipts, lambda receipt, now: self.statements.dead_letter(receipt, now, reason))

    def _settle(self, receipts: Sequence[str], how: Callable[[str, Micros], Statement]) -> list[ReceiptAnswer]:
        """One transaction for all; the row count says of each whether the receipt was still good."""
        if not receipts:
            return []
        answers: list[ReceiptAnswer] = []
        try:
            with self._file.writing() as (connection, now):
                for receipt in receipts:
                    done = connection.execute(*how(receipt, now)).rowcount == 1
                    answers.append(Done(receipt) if done else NotDone(receipt, self._void(receipt), lost=True))
        except CommitUnanswered as error:
            return [NotDone(receipt, str(error), lost=False) for receipt in receipts]
        return answers

    def _void(self, receipt: str) -> str:
        return (
            f"receipt {receipt} of queue {self.name} is void: its message was delivered again, settled, "
            "set aside for its age, or removed by somebody else"
        )

    def depth(self) -> Depth:
        """Exact, as of one moment. A message behind another of its partition counts as ready."""
        with self._file.reading() as (connection, now):
            ((visible, behind, hidden, in_flight, dead, overdue, overdue_hidden),) = connection.execute(
                sql.DEPTH, {"queue": self.name, "now": now}
            ).fetchall()
        return Depth(
            ready=visible + behind - (overdue - overdue_hidden),
            in_flight=in_flight,
            delayed=hidden - in_flight - overdue_hidden,
            dead=dead,
            as_of=now,
        )

    def oldest(self) -> Micros | None:
        """Since when the message that is delivered next has been ready."""
        with self._file.reading() as (connection, now):
            rows = connection.execute(sql.OLDEST, (self.name, now)).fetchall()
        return int(rows[0][0]) if rows else None

    def held(self, after: int = 0, limit: int = 100) -> Page:
        """The next messages held, by key; every page is a read of its own, so that the log can be emptied between."""
        with self._file.reading() as (connection, now):
            rows = connection.execute(sql.PAGE_OF_HELD, (self.name, after, now, now, limit)).fetchall()
        return [_seen(row, dead=False) for row in rows]

    def dead(self, after: int = 0, limit: int = 100) -> Page:
        """The next dead letters, by key."""
        with self._file.reading() as (connection, _):
            rows = connection.execute(sql.PAGE_OF_DEAD, (self.name, after, limit)).fetchall()
        return [_seen(row, dead=True) for row in rows]

    def expired(self, limit: int) -> list[Held]:
        """Messages past retention, set aside, oldest first; no receipt can ack them any more.

        They stay until `purge`: write down first what became of them. Several callers may be told of the same ones.
        """
        with self._file.writing() as (connection, now):
            connection.execute(sql.START_COUNTING, (self.name,))
            self._expire(connection, now)
            rows = connection.execute(sql.PAGE_OF_EXPIRED, (self.name, limit)).fetchall()
        return [_seen(row, dead=False)[1] for row in rows]

    def purge(self, messages: Sequence[Held]) -> int:
        """Delete messages that `expired` gave; the number that were still there. Others are left alone."""
        keys = [(int(one.broker_id),) for one in messages]
        with self._file.writing() as (connection, _):
            return connection.executemany(sql.PURGE, keys).rowcount if keys else 0

    def forget_dead(self, broker_ids: Sequence[str]) -> int:
        """Delete dead letters by their keys, a group at a time; the number that were still there."""
        keys = [(int(one), self.name) for one in broker_ids if one.isascii() and one.isdecimal()]
        gone = 0
        for first in range(0, len(keys), FORGOTTEN_AT_ONCE):
            with self._file.writing() as (connection, _):
                gone += connection.executemany(sql.FORGET_DEAD, keys[first : first + FORGOTTEN_AT_ONCE]).rowcount
        return gone

    def counts(self) -> Counts:
        with self._file.reading() as (connection, _):
            rows = connection.execute(sql.READ_COUNTS, (self.name,)).fetchall()
        return Counts(*rows[0]) if rows else Counts()


def _seen(row: tuple[int, int, Micros, str | None, bytes], *, dead: bool) -> tuple[int, Held]:
    key, attempts, enqueued_at, attributes, body = row
    return key, Held(
        body=body, attempt=attempts, enqueued_at=enqueued_at, broker_id=str(key), dead=dead,
        attributes=_decode(attributes) if attributes else {},
    )  # fmt: skip


def _decode(attributes: str) -> dict[str, str]:
    return msgspec.json.decode(attributes, type=dict[str, str])
