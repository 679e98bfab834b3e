"""What the tests of reading share: a book with an embedded queue beside it, and the steps a message takes through both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from crossfoot.books import sql
from crossfoot.books.balance import Balance
from crossfoot.books.cause import Cause
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.posting import post_all
from crossfoot.books.record import Record
from crossfoot.books.stock import Part, take_stock
from crossfoot.books.store import Book
from crossfoot.clock import ManualClock, Micros
from crossfoot.queues.embedded.sql import Statements
from crossfoot.queues.embedded.store import EmbeddedStore
from crossfoot.queues.queue import Delivery, Outgoing

QUEUE, SOURCE = "billing", "tests"
LEASE = 30.0

CAUSE = Cause("0badc0ffee00", "ValueError", "ValueError at billing:bill", "billing:bill", "amount is negative")

Step = tuple[Kind, int] | tuple[Kind, int, dict[str, Any]]
"""A kind, the attempt it speaks of, and other fields of the entry."""


class Lectern:
    """One book, in a file or a PostgreSQL database, on a clock that stands still."""

    def __init__(self, place: Path | str) -> None:
        self.clock = ManualClock()
        self.book = Book(place, clock=self.clock, synchronous="OFF").open()
        self.keys: dict[str, int] = {}

    def close(self) -> None:
        self.book.close()

    @property
    def now(self) -> Micros:
        return self.clock.now()

    # ---- the book alone ------------------------------------------------------------------------------------------

    def register(self, id_: str, **attributes: Any) -> int:
        """A message's row, without any entry."""
        fields: dict[str, Any] = {
            "queue": QUEUE, "source": SOURCE, "id": id_, "type": "case.released", "subject": None, "operation": None,
            "correlation": None, "causation": None, "sequence": None, "at": self.now, "body": b'{"data":{"amount":7}}',
        }  # fmt: skip
        (key,) = self.book.keys_of([Record(**(fields | attributes))])
        self.keys[id_] = key
        return key

    def write(self, id_: str, *steps: Step) -> None:
        """Entries about a message, at the clock's time."""
        entries = []
        for kind, attempt, *more in steps:
            fields: dict[str, Any] = {"at": self.now, "delivery": attempt} | (more[0] if more else {})
            fields["details"] = json.dumps(fields["details"]) if "details" in fields else None
            entries.append(Entry(message=self.keys[id_], kind=kind, attempt=attempt, **fields))
        self.book.append(entries, [CAUSE])

    def story(self, id_: str, *steps: Step, **attributes: Any) -> int:
        """A message and its entries, that no queue knows of."""
        key = self.register(id_, **attributes)
        self.write(id_, *steps)
        return key

    def complete(self, operation: str, id_: str, kind: Kind = Kind.COMMITTED) -> None:
        """Write that a message completed an operation."""
        with self.book.writing() as connection:
            connection.execute(sql.INSERT_OPERATION, (operation, self.keys[id_], int(kind), self.now))

    def execute(self, statement: str, *parameters: Any) -> None:
        """What nobody should do to a book."""
        with self.book.writing() as connection:
            connection.execute(statement, parameters)

    # ---- what it comes to ---------------------------------------------------------------------------------------------

    def balance(self, part: Part | None = None, *, post: bool = True, **options: Any) -> Balance:
        if post:
            post_all(self.book)
        with self.book.reading() as connection:
            return take_stock(connection, self.now, part=part or Part(), **options)


class Desk(Lectern):
    """A book and a queue in one file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path
        statements = Statements(queue=QUEUE, retention=3600.0, max_bytes=1_000_000, ordered=False)
        self.queue = EmbeddedStore(path, statements, clock=self.clock, synchronous="OFF")
        self.queue.open()

    def close(self) -> None:
        self.queue.close()
        super().close()

    # ---- the book and the queue -------------------------------------------------------------------------------------

    def publish(self, *ids: str, **attributes: Any) -> None:
        """Publish, and book what the queue answered."""
        for id_ in ids:
            self.register(id_, **attributes)
        self.send(*ids)
        for id_ in ids:
            self.write(id_, (Kind.INTENDED, 0, {"due": self.now}), (Kind.PUBLISHED, 0, {"due": self.now}))

    def send(self, *ids: str) -> None:
        """Into the queue, without a word in the book."""
        self.queue.publish([Outgoing(key=f"{SOURCE}|{id_}", body=b"{}") for id_ in ids])

    def receive(self, limit: int = 1, worker: int = 0) -> list[Delivery]:
        """Receive, and book it; the messages' ids are found by the order in which they were published."""
        deliveries = self.queue.claim(limit, LEASE)
        for delivery in deliveries:
            self.write(
                self.id_of(delivery), (Kind.RECEIVED, delivery.attempt, {"due": delivery.lease_until, "worker": worker})
            )
        return deliveries

    def settle(self, *ids: str) -> None:
        """Publish, receive, commit and ack."""
        self.publish(*ids)
        for delivery in self.receive(len(ids)):
            id_ = self.id_of(delivery)
            self.complete(f"bill:{id_}", id_)
            self.write(id_, (Kind.COMMITTED, delivery.attempt, {"details": {"rows": 1}}))
            self.queue.ack([delivery.receipt])
            self.write(id_, (Kind.ACKED, delivery.attempt))

    def bury(self, *ids: str) -> None:
        """Publish, receive, fail, and move to the dead letters."""
        self.publish(*ids)
        for delivery in self.receive(len(ids)):
            id_, attempt = self.id_of(delivery), delivery.attempt
            failure = {"cause": CAUSE.fingerprint, "details": {"error": CAUSE.kind, "text": CAUSE.text}}
            self.write(id_, (Kind.FAILED, attempt, {**failure, "due": self.now}))
            self.queue.dead_letter([delivery.receipt], "test")
            self.write(id_, (Kind.DEAD_LETTERED, attempt, failure))

    def id_of(self, delivery: Delivery) -> str:
        """The message of a delivery, by the queue's own row."""
        with self.book.reading() as connection:
            row = connection.execute(
                "SELECT message FROM crossfoot_queue WHERE key = ?", (delivery.broker_id,)
            ).fetchone()
        return str(row[0]).partition("|")[2]


def counted(counts: dict[str, int]) -> dict[str, int]:
    """Without the zeros."""
    return {name: count for name, count in counts.items() if count}


def broken(balance: Balance) -> dict[str, tuple[str, ...]]:
    """The identities that do not hold, and the ids that break them."""
    return {name: one.ids for name, one in balance.identities.items() if one.holds is False}


def ids(prefix: str, count: int) -> list[str]:
    return [f"{prefix}-{number}" for number in range(1, count + 1)]
