"""What the tests of the embedded queue share: a file with its tables, a store on it, clocks, and other processes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from crossfoot.clock import SECOND, Clock, ManualClock
from crossfoot.queues.embedded.sql import Statements
from crossfoot.queues.embedded.store import EmbeddedStore
from crossfoot.queues.embedded.tables import create_tables
from crossfoot.queues.queue import Outgoing
from crossfoot.sqlite import Connection, connect

DAY = 86_400.0


class SteppingClock(ManualClock):
    """Its wall can be set without time passing, as an administrator or NTP does."""

    def __init__(self) -> None:
        super().__init__()
        self._ahead = 0

    def now(self) -> int:
        return super().now() + self._ahead

    def step(self, seconds: float) -> None:
        self._ahead += round(seconds * SECOND)


def make_file(path: Path) -> Path:
    with closing(open_connection(path)) as connection:
        create_tables(connection)
    return path


def open_connection(path: Path) -> Connection:
    return connect(path, synchronous="OFF")


def make_store(
    path: Path,
    *,
    queue: str = "orders",
    retention: float | None = DAY,
    max_bytes: int = 1024 * 1024,
    max_attempts: int | None = None,
    ordered: bool = True,
    clock: Clock | None = None,
    synchronous: str = "OFF",
) -> EmbeddedStore:
    """An opened store. Not a power failure but only killed processes are tested, hence OFF."""
    statements = Statements(queue=queue, retention=retention, max_bytes=max_bytes, ordered=ordered)
    store = EmbeddedStore(
        path, statements, max_attempts=max_attempts, clock=clock or ManualClock(), synchronous=synchronous
    )
    store.open()
    return store


def messages(count: int, *, partition: str | None = None, delay: float = 0.0, size: int = 40) -> list[Outgoing]:
    return [
        Outgoing(key=f"test|{number}", body=f"{number}".ljust(size).encode(), partition=partition, delay=delay)
        for number in range(count)
    ]


def raw(store: EmbeddedStore) -> sqlite3.Connection:
    """The store's own connection, to spoil it."""
    connection = store._file._connection
    assert connection is not None
    return connection


def rows(path: Path, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
    with closing(open_connection(path)) as connection:
        return connection.execute(sql, tuple(parameters)).fetchall()


def consume(path: str, results: Pipe) -> None:
    """Another process: claim and ack until nothing is left, then send every receipt it was given."""
    from crossfoot.clock import SystemClock

    store = make_store(Path(path), clock=SystemClock())
    receipts: list[str] = []
    while deliveries := store.claim(7, lease=600):
        receipts += [delivery.receipt for delivery in deliveries]
        store.ack([delivery.receipt for delivery in deliveries])
    results.send(receipts)
    results.close()


def work_until_killed(path: str, results: Pipe) -> None:
    """Another process: publish, claim and ack without end, telling after each round that it is still at it."""
    from crossfoot.clock import SystemClock

    store = make_store(Path(path), clock=SystemClock())
    while True:
        store.publish([Outgoing(key=f"{os.getpid()}|{n}", body=b"x" * 2_000, partition=f"p{n % 3}") for n in range(20)])
        deliveries = store.claim(10, lease=600)
        store.ack([delivery.receipt for delivery in deliveries[::2]])
        results.send(len(deliveries))
