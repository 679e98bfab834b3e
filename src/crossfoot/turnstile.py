"""A line for those who want to write to one SQLite file, threads and processes alike.

SQLite's own way to wait for a writer is to sleep and look again, which is unfair and, with several busy processes, starves
some of them for seconds. So every writer first passes a *turnstile*, an advisory lock on a file beside the database: the
kernel wakes the next in line at once, and a killed process leaves no lock behind.

The kernel's wait has no deadline, and a Python thread cannot be called back from it. So whoever does not get through at
once waits *for a thread* that waits in the kernel, and gives up when a writer that was frozen inside its transaction
holds everybody up for too long. That thread goes on waiting in line; should its turn come after nobody wants it any more,
it gives it away.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from queue import SimpleQueue

from crossfoot.errors import DatabaseUnavailable

PATIENCE = 30.0
"""Seconds in line before a writer is taken for frozen."""

TURN = "-turn"
"""Added to a database's name: the turnstile's file."""


_through: dict[str, tuple[Turnstile, float]] = {}
"""Which turnstile of a file a connection of this process has passed, and since when."""


class Turnstile:
    """A fair lock across threads and processes; every connection has its own, and uses it in one thread at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._line: _Line | None = None

    def enter(self) -> None:
        """Wait in line, for as long as a statement waits for a lock. Blocks the thread, not the interpreter.

        Raises:
            DatabaseUnavailable: a writer does not come to its end.
        """
        if self._fd < 0:
            if not self._path:
                return
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if self._line is None or not self._line.under_way:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._passed()
                return
            except BlockingIOError:
                self._line = self._line or _Line(self._fd)
        if not self._line.wait(PATIENCE):
            raise DatabaseUnavailable(self._why())
        self._passed()

    def _passed(self) -> None:
        _through[self._path] = self, time.monotonic()

    def leave(self) -> None:
        if self._fd >= 0:
            self._forget()
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _forget(self) -> None:
        if _through.get(self._path, (None, 0.0))[0] is self:
            del _through[self._path]

    def _why(self) -> str:
        file, (turnstile, since) = self._path.removesuffix(TURN), _through.get(self._path, (None, 0.0))
        if turnstile is None:
            return (
                f"{file} stayed locked by another writer for {PATIENCE:.0f} s: find the process that is frozen, or in a long "
                "transaction, and end it"
            )
        return (
            f"{file} has been locked for {time.monotonic() - since:.0f} s by a transaction of this very process, as of a handler "
            "that takes so long after its first statement: SQLite has one writer at a time, so do what is slow before that "
            "statement, or use PostgreSQL"
        )

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
        if self._fd >= 0:
            self._forget()
            os.close(self._fd)
            self._fd = -1


class _Line:
    """A thread that waits in line for somebody who may lose patience."""

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)  # the same lock; of its own, because it may still wait when the turnstile is closed
        self._asked: SimpleQueue[bool] = SimpleQueue()
        self._got = threading.Semaphore(0)
        self._guard = threading.Lock()
        self.under_way = False
        """Whether it stands in line now, perhaps for somebody who has gone."""
        self._wanted = False
        threading.Thread(target=self._stand, name="crossfoot turnstile", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Whether the turn came in time."""
        with self._guard:
            self._wanted = True
            if not self.under_way:
                self.under_way = True
                self._asked.put(True)
        if self._got.acquire(timeout=seconds):
            return True
        with self._guard:
            if self.under_way:
                self._wanted = False
                return False
        return self._got.acquire()  # it came at the last moment

    def close(self) -> None:
        self._asked.put(False)

    def _stand(self) -> None:
        while self._asked.get():
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            with self._guard:
                self.under_way = False
                if self._wanted:
                    self._got.release()
                else:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)
