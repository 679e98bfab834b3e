"""The database file an embedded queue is in: one connection, its transactions, and what their failures mean.

A statement that fails has changed nothing, and says so as `QueueUnavailable`. A COMMIT that is answered with an error
is another matter: the pages may have reached the disk, so that is `CommitUnanswered`, and its messages are in doubt.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from crossfoot.clock import Clock, Micros
from crossfoot.errors import DatabaseUnavailable, DiskFull, QueueUnavailable, UsageError
from crossfoot.sqlite import Connection, connect, explain


class QueueFileUnavailable(QueueUnavailable, DatabaseUnavailable):
    """The file the queue is in cannot be used; nothing was done."""


class QueueDiskFull(QueueUnavailable, DiskFull):
    """The disk that holds the queue is full; nothing was done."""


class CommitUnanswered(QueueFileUnavailable):
    """The commit was answered with an error: whether it happened is not known."""


class QueueFile:
    """One queue's connection to its file, for one thread at a time; others wait."""

    def __init__(self, path: str | os.PathLike[str], queue: str, clock: Clock, synchronous: str) -> None:
        if str(path) == ":memory:":
            raise UsageError(f"queue {queue} needs a file: a database in memory is seen by its own connection only")
        self.path = os.fspath(path)
        self._queue = queue
        self._clock = clock
        self._synchronous = synchronous
        self._connection: Connection | None = None
        self._pid = 0
        self._lock = threading.Lock()

    def open(self) -> None:
        """Connect, and see that the tables are there. Idempotent."""
        with self._lock:
            if self._connection is not None:
                return
            self.path = os.path.realpath(self.path)  # looks at the disk, which a constructor should not
            if not os.path.exists(self.path):
                raise QueueFileUnavailable(
                    f"queue {self._queue}: there is no file {self.path}; opening the book creates it"
                )
            connection = self._connect()
            self._connection, self._pid = connection, os.getpid()

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def writing(self) -> Iterator[tuple[Connection, Micros]]:
        """One write transaction, and the time at which it got its turn (waiting for it must not shorten a lease).

        Raises:
            QueueDiskFull, QueueFileUnavailable: nothing was done.
            CommitUnanswered: perhaps it was.
        """
        committing = False
        with self._lock:
            try:
                with self._usable().writing() as connection:
                    yield connection, self._clock.now()
                    committing = True
            except (sqlite3.Error, DatabaseUnavailable) as error:
                raise self._meaning_of(error, committing) from error

    @contextmanager
    def reading(self) -> Iterator[tuple[Connection, Micros]]:
        """For single statements fetched to the end, so that no snapshot outlives them and holds the log."""
        with self._lock:
            try:
                yield self._usable(), self._clock.now()
            except sqlite3.Error as error:
                raise self._meaning_of(error, committing=False) from error

    def _usable(self) -> Connection:
        if self._connection is None:
            raise UsageError(f"queue {self._queue} is not open: call open() first")
        if self._pid != os.getpid():
            raise UsageError(f"queue {self._queue} was opened before this process was forked: open it in the child")
        return self._connection

    def _connect(self) -> Connection:
        try:
            connection: Connection = connect(self.path, synchronous=self._synchronous)
        except DatabaseUnavailable as error:
            raise self._meaning_of(error, committing=False) from error
        try:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'crossfoot_queue_counts'").fetchall()
        except sqlite3.Error as error:
            connection.close()
            raise self._meaning_of(error, committing=False) from error
        if not found:
            connection.close()
            raise QueueFileUnavailable(
                f"queue {self._queue}: {self.path} has no tables for a queue; opening the book creates them"
            )
        return connection

    def _meaning_of(self, error: sqlite3.Error | DatabaseUnavailable, committing: bool) -> QueueUnavailable:
        known = error if isinstance(error, DatabaseUnavailable) else explain(error, self.path)
        text = f"queue {self._queue}: {known}"
        if isinstance(known, DiskFull):
            return QueueDiskFull(text)
        return CommitUnanswered(text) if committing else QueueFileUnavailable(text)
