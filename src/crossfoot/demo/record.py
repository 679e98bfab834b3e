"""The injector's own record of what it did: a file of its own, beside the books and never read from them.

Every process of the demo writes it. A line is on disk before the process goes on, so that a kill loses none.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

from crossfoot.clock import SystemClock
from crossfoot.demo.plan import Fault

TABLES = (
    "CREATE TABLE IF NOT EXISTS injected (fault TEXT, id TEXT, at INTEGER, pid INTEGER, PRIMARY KEY (fault, id))",
    "CREATE TABLE IF NOT EXISTS signals (name TEXT PRIMARY KEY)",
)


class Record:
    """What was injected, shared by the processes of one demo.

    Any thread may use it.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
        self._lock = threading.Lock()
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        for statement in TABLES:
            self._connection.execute(statement)

    def note(self, fault: Fault, id_: str) -> bool:
        """Write that a fault happened to `id_`. False when that is written already."""
        row = (fault.value, id_, SystemClock().now(), os.getpid())
        with self._lock:
            return self._connection.execute("INSERT OR IGNORE INTO injected VALUES (?, ?, ?, ?)", row).rowcount == 1

    def has(self, fault: Fault, id_: str) -> bool:
        """Whether it happened before, in whichever process."""
        with self._lock:
            found = self._connection.execute("SELECT 1 FROM injected WHERE fault = ? AND id = ?", (fault.value, id_))
            return found.fetchone() is not None

    def all(self) -> dict[Fault, set[str]]:
        """Every fault with the ids it happened to."""
        result: dict[Fault, set[str]] = {fault: set() for fault in Fault}
        with self._lock:
            for fault, id_ in self._connection.execute("SELECT fault, id FROM injected"):
                result[Fault(fault)].add(id_)
        return result

    def signal(self, name: str) -> bool:
        """Tell the other processes something, once. False when somebody has."""
        with self._lock:
            return self._connection.execute("INSERT OR IGNORE INTO signals VALUES (?)", (name,)).rowcount == 1

    def withdraw(self, name: str) -> None:
        """Nothing came of that signal."""
        with self._lock:
            self._connection.execute("DELETE FROM signals WHERE name = ?", (name,))

    def signalled(self, name: str) -> bool:
        with self._lock:
            return self._connection.execute("SELECT 1 FROM signals WHERE name = ?", (name,)).fetchone() is not None

    def close(self) -> None:
        with self._lock:
            self._connection.close()
