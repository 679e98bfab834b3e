"""How crossfoot opens SQLite: one policy for the book, the embedded queue and the user's own transaction.

SQLite has one writer at a time, and every writer of crossfoot passes a `turnstile` first. It is a courtesy, not a guard:
correctness rests on BEGIN IMMEDIATE alone, so a program that knows nothing of the turnstile may write to the same file.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from crossfoot.errors import DatabaseUnavailable, DiskFull, not_all_there
from crossfoot.turnstile import TURN, Turnstile

BUSY_TIMEOUT_MS = 30_000
"""How long a statement waits for a writer that does not use the turnstile."""

WAL_LIMIT_BYTES = 64 * 1024 * 1024
"""A write-ahead log over this size is truncated as soon as no reader holds it."""

CHECKPOINT_TRIES, CHECKPOINT_WAIT_MS = 50, 20
"""How often, and for how long each time, a checkpoint waits for readers: a second in all, then the next one tries."""

OUTSIDE = tuple(
    f"SQLITE_{name}"
    for name in ("FULL", "IOERR", "READONLY", "PERM", "CANTOPEN", "NOTADB", "CORRUPT", "BUSY", "LOCKED")
)
"""Errors that no other statement would avoid."""

BEGIN, COMMIT, ROLLBACK = (f"{verb} /* crossfoot */" for verb in ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"))
"""Marked, so that a handler's own COMMIT is another statement, which its connection refuses to prepare."""

_MISSING = re.compile(r"no such (?:table|index): (?:main\.)?crossfoot_")

MINIMUM_VERSION = (3, 35, 0)
"""RETURNING needs SQLite 3.35 (2021-03-12)."""


class Connection(sqlite3.Connection):
    """A connection with its turnstile. `writing()` is the one way crossfoot writes."""

    dialect: Literal["sqlite"] = "sqlite"
    broken: Literal[False] = False
    turnstile: Turnstile
    file: int
    """Which file it is connected to, see `file_number`."""

    def stream(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """The rows of a large result: SQLite never holds all of them."""
        return self.execute(sql, parameters)

    def alone(self, what: str) -> None:
        """Nobody else does `what` until the end of the transaction: a file has one writer."""

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One write transaction: committed at the end, rolled back on any exception.

        Raises:
            DiskFull: the disk is full; nothing of the transaction was kept.
            DatabaseUnavailable: the file is read-only, locked for too long, damaged or gone.
        """
        self.begin()
        try:
            yield self
        except BaseException as error:
            self.abandon()
            if isinstance(error, sqlite3.Error) and is_outside(error):
                raise explain(error, self) from error
            raise
        self.finish()

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Everything read inside is of one moment. Writers do not wait for it, nor it for them.

        Raises:
            DatabaseUnavailable: the file is locked, damaged or gone.
        """
        try:
            sqlite3.Connection.execute(self, "BEGIN")
            try:
                yield self
            finally:
                # A commit, because temporary tables must keep what was put into them. SQLite may have ended it by itself.
                if self.in_transaction:
                    sqlite3.Connection.execute(self, "COMMIT")
        except sqlite3.Error as error:
            if is_outside(error):
                raise explain(error, self) from error
            raise

    def begin(self) -> None:
        """Take the write lock."""
        try:
            self.turnstile.enter()
        except OSError as error:
            raise explain(error, self) from error
        try:
            sqlite3.Connection.execute(self, BEGIN)
        except sqlite3.Error as error:
            self.turnstile.leave()
            raise explain(error, self) from error

    def finish(self) -> None:
        """Commit and let the next writer in. After an exception the outcome is unknown until it is read again."""
        try:
            sqlite3.Connection.execute(self, COMMIT)
        except sqlite3.Error as error:
            self.abandon()
            raise explain(error, self) from error
        self.turnstile.leave()

    def abandon(self) -> None:
        """Roll back, whatever state the transaction is in."""
        try:
            if self.in_transaction:
                with suppress(sqlite3.Error):  # a rollback that SQLite did by itself leaves nothing to do
                    sqlite3.Connection.execute(self, ROLLBACK)
        finally:
            self.turnstile.leave()

    def close(self) -> None:
        super().close()
        self.turnstile.close()


C = TypeVar("C", bound=Connection)


def connect(path: str | Path, *, synchronous: str = "FULL", read_only: bool = False) -> Connection:
    """`connect_as` with the ordinary kind of connection."""
    return connect_as(Connection, path, synchronous=synchronous, read_only=read_only)


def connect_as(kind: type[C], path: str | Path, *, synchronous: str = "FULL", read_only: bool = False) -> C:
    """Open `path` with write-ahead logging; a commit is on disk when it returns (unless `synchronous` says otherwise).

    The connection may be handed from thread to thread, but is for one thread at a time.

    Raises:
        DatabaseUnavailable: the file cannot be opened, is no SQLite database, or the folder is not there.
    """
    path = str(path)
    if sqlite3.sqlite_version_info < MINIMUM_VERSION:
        need, have = ".".join(map(str, MINIMUM_VERSION)), sqlite3.sqlite_version
        raise DatabaseUnavailable(f"this Python carries SQLite {have}; crossfoot needs {need} or newer: upgrade Python")
    target = f"file:{_quoted(path)}?mode=ro" if read_only else path
    try:
        connection = sqlite3.connect(
            target, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=False,
            factory=kind, cached_statements=256, uri=read_only,
        )  # fmt: skip
    except sqlite3.Error as error:
        raise explain(error, path) from error
    try:
        connection.file = file_number(path)
        connection.turnstile = Turnstile("" if read_only or path == ":memory:" else path + TURN)
        if not read_only:
            _log_ahead(connection)
            sqlite3.Connection.execute(connection, f"PRAGMA synchronous = {synchronous}")
            sqlite3.Connection.execute(connection, f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        sqlite3.Connection.execute(connection, "PRAGMA foreign_keys = OFF")
        sqlite3.Connection.execute(
            connection, "PRAGMA temp_store = MEMORY"
        )  # or the savepoints of a batch spill pages into a file
    except (sqlite3.Error, OSError) as error:
        sqlite3.Connection.close(connection)
        raise explain(error, path) from error
    return connection


def _log_ahead(connection: Connection) -> None:
    """Switch a file to write-ahead logging, once in its life. SQLite does not wait for a lock while it switches: we do."""
    if sqlite3.Connection.execute(connection, "PRAGMA journal_mode").fetchone()[0] == "wal":
        return
    connection.turnstile.enter()
    try:
        until = time.monotonic() + BUSY_TIMEOUT_MS / 1000
        while True:
            try:
                sqlite3.Connection.execute(connection, "PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if not getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY") or time.monotonic() > until:
                    raise
                time.sleep(CHECKPOINT_WAIT_MS / 1000)
    finally:
        connection.turnstile.leave()


def file_number(path: str | Path) -> int:
    """Which file it is, by its number on the disk; 0 when it is gone."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


def truncate_wal(connection: Connection, path: str | Path, *, over: int = WAL_LIMIT_BYTES) -> bool:
    """Shrink the write-ahead log when it is over `over` bytes. True when it was truncated.

    A reader that is never idle keeps SQLite from starting the log afresh, and the file grows without bound; a
    TRUNCATE checkpoint waits (up to the busy timeout) for a moment without readers of old pages.
    """
    try:
        size = os.stat(f"{path}-wal").st_size
    except FileNotFoundError:
        return False
    if size <= over:
        return False
    connection.turnstile.enter()
    try:
        # Many short waits: within one long wait, readers that overlap would keep it from ever starting afresh.
        sqlite3.Connection.execute(connection, f"PRAGMA busy_timeout = {CHECKPOINT_WAIT_MS}")
        return any(
            not sqlite3.Connection.execute(connection, "PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            for _ in range(CHECKPOINT_TRIES)
        )
    except sqlite3.Error as error:
        raise explain(error, connection) from error
    finally:
        sqlite3.Connection.execute(connection, f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.turnstile.leave()


def is_outside(error: sqlite3.Error) -> bool:
    """Whether the file, its disk, its other users or the lack of a table of the book's are the matter, and not the statement."""
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(OUTSIDE) or is_missing(error)


def is_missing(error: BaseException | None) -> bool:
    """Whether it is a table of the book's that is not there."""
    return isinstance(error, sqlite3.OperationalError) and _MISSING.match(str(error)) is not None


def explain(error: Exception, where: sqlite3.Connection | str) -> DatabaseUnavailable:
    """The error a person can act on, for one that SQLite raised."""
    path = where if isinstance(where, str) else _path_of(where)
    text = str(error)
    if is_missing(error):
        return not_all_there(path, text)
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL") or (isinstance(error, OSError) and error.errno == 28):
        return DiskFull(
            f"the disk that holds {path} is full ({text}): free some space, then start again; nothing more is acked"
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM")) or isinstance(error, PermissionError):
        return DatabaseUnavailable(
            f"{path} cannot be written ({text}): give this user write access to it and its folder"
        )
    if name.startswith("SQLITE_CANTOPEN") or isinstance(error, OSError):
        return DatabaseUnavailable(f"{path} cannot be opened ({text}): {_why_not_opened(path)}")
    if name.startswith("SQLITE_NOTADB"):
        return DatabaseUnavailable(f"{path} is not a SQLite database: name another file, or move this one away")
    if name.startswith("SQLITE_CORRUPT"):
        return DatabaseUnavailable(
            f"{path} is damaged ({text}): stop its workers, copy the file, then restore a backup, or save what can be read with "
            f"`sqlite3 {path} .recover`"
        )
    if name.startswith("SQLITE_IOERR"):
        return DatabaseUnavailable(f"{path} cannot be read or written ({text}): look at the disk, and at its backup")
    if name.startswith("SQLITE_BUSY"):
        return DatabaseUnavailable(
            f"{path} stayed locked by another connection for {BUSY_TIMEOUT_MS / 1000:.0f} s: find the long transaction and end it; it "
            "may be another program's, or one that this very program holds open on a connection of its own"
        )
    return DatabaseUnavailable(f"{path}: {text or type(error).__name__}")


def _why_not_opened(path: str) -> str:
    """What is to be done, as far as the disk tells."""
    if os.path.isdir(path):
        return "it is a folder: name a file in it"
    if os.path.exists(path):
        return "the file is there: give this user access to it, and to its folder"
    return "check that its folder exists and may be written"


def _path_of(connection: sqlite3.Connection) -> str:
    try:
        return str(sqlite3.Connection.execute(connection, "PRAGMA database_list").fetchone()[2]) or ":memory:"
    except sqlite3.Error:
        return "the database"


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
