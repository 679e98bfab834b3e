"""How many rows a handler really changed, on SQLite.

`total_changes` counts every change ever made, also those that a ROLLBACK TO undid: a handler that fails inside a
savepoint and swallows it would look as if it had worked. So the statements are watched for savepoints, and what a
rollback undid is taken off again. The same watch sees a transaction that ended under the handler: by its own COMMIT or
ROLLBACK, or because SQLite rolled it back (INSERT OR ROLLBACK, a full disk) and the handler went on as if it had not.

The watch is a trace callback, which costs more than a short statement. Where the statements pass through connections and
cursors of ours, it is installed when it is first needed, and then stays: before a statement that handles savepoints, and
after one that failed, since a transaction is only lost by a statement that raises.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from crossfoot.errors import TransactionMisuse

_CHANGES = (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE)
_TEMPORARY = (sqlite3.SQLITE_CREATE_TEMP_TABLE, sqlite3.SQLITE_CREATE_TEMP_VIEW)
"""What is found before the tables of the file, by whatever name it has."""

_SPACE = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?(?:\*/|$))*"
_LEAD = rf"(?:\ufeff|;|{_SPACE[3:-2]})*"
"""What SQLite passes over before a statement."""
_CONTROL = re.compile(rf"{_LEAD}(SAVEPOINT|RELEASE|ROLLBACK|COMMIT|END)\b(.*)", re.IGNORECASE | re.DOTALL)
_ENDING = re.compile(
    rf"{_LEAD}(COMMIT|END|ROLLBACK(?!{_SPACE}(?:TRANSACTION{_SPACE})?TO\b))\b", re.IGNORECASE | re.DOTALL
)
_WRITE = re.compile(rf"{_LEAD}(?:INSERT|UPDATE|DELETE|REPLACE|WITH)\b", re.IGNORECASE | re.DOTALL)
_TOKEN = re.compile(
    r"""(?P<quoted>"(?:[^"]|"")*"|'(?:[^']|'')*'|`(?:[^`]|``)*`|\[[^\]]*\])|(?P<bare>[^\s;"'`\[\]/-]+)"""
    r"|--[^\n]*|/\*.*?(?:\*/|$)",
    re.DOTALL,
)


def refuse_ending(statement: str) -> None:
    """Let no statement of the handler's end the transaction.

    Raises:
        TransactionMisuse: it would; it was not executed.
    """
    if found := _ENDING.match(statement):
        raise TransactionMisuse(
            f"the handler called for {found[1].upper()} on the transaction that crossfoot owns: leave commit and rollback to "
            "crossfoot, and use a savepoint for what may fail"
        )


@lru_cache(maxsize=256)
def needs_watch(statement: str) -> bool:
    """Whether a statement of the handler's handles savepoints.

    Raises:
        TransactionMisuse: it would end the transaction; it was not executed.
    """
    refuse_ending(statement)
    return _CONTROL.match(statement) is not None


REFUSED = (
    "the handler wanted to begin, commit or roll back the transaction that crossfoot owns (an ORM session rolls back when a "
    "flush fails), to change by PRAGMA how its connection works for everybody after it, or to make a temporary table by the name of one "
    "of crossfoot's, which was refused: let the error out, and use a savepoint for what may fail"
)

HARMLESS = frozenset((
    "analysis_limit", "application_id", "automatic_index", "cache_size", "case_sensitive_like", "cell_size_check",
    "defer_foreign_keys", "foreign_key_check", "foreign_key_list", "foreign_keys", "incremental_vacuum", "index_info", "index_list",
    "index_xinfo", "integrity_check", "mmap_size", "optimize", "quick_check", "recursive_triggers", "secure_delete", "table_info",
    "table_list", "table_xinfo", "threads", "user_version",
))  # fmt: skip
"""What a handler may give an argument to by PRAGMA: it is only read, rolled back with the rest, or felt by its own statements."""


def misuse_behind(error: BaseException | None) -> TransactionMisuse | None:
    """What to tell of an error that came of SQLite's refusal to end the transaction, in whatever wrapping."""
    if any(getattr(one, "sqlite_errorname", "") == "SQLITE_AUTH" for one in chain(error)):
        return TransactionMisuse(REFUSED)
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on; each once, since a chain may end in itself."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = getattr(error, "orig", None) or error.__cause__


LOST = (
    "the transaction was rolled back while the handler ran, and the handler caught the error that said so (INSERT OR ROLLBACK does "
    "that, and a full disk): let that error out, nothing was kept"
)


NOT_ITS_OWN = (
    "the handler rolled back to a savepoint, or released one, that it did not set: in a batch it may be that of another message, "
    "whose work would be undone with it"
)


class HasChanges(Protocol):
    """sqlite3's connection, or aiosqlite's."""

    @property
    def total_changes(self) -> int: ...

    @property
    def in_transaction(self) -> bool: ...


class _Savepoint(NamedTuple):
    name: bytes
    total: int
    undone: int


class ChangeCounter:
    """A trace callback that keeps the books of savepoints; one per connection."""

    def __init__(self, connection: HasChanges) -> None:
        self._connection = connection
        self._base = 0
        self._undone = 0
        self._stack: list[_Savepoint] = []
        self._ended = ""
        self._lost = False
        self._refused = False
        self._missed = False
        self._reached_out = False
        self.watching = False
        self.tracing = True
        """Whether this is called for every statement; what is not is told by `authorize` of savepoints it did not see."""

    def authorize(self, action: int, name: str | None, argument: str | None, *_: str | None) -> int:
        """For `set_authorizer`: while a handler is watched, SQLite refuses to prepare what would end the transaction, or would
        change the connection beyond it.

        Asked once per statement that is prepared, by whatever cursor it comes; savepoints are another action, and remain
        the handler's. A handler that catches the refusal believes to have rolled back what is still there.
        """
        if not self.watching:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_SAVEPOINT and not self.tracing:
            self._missed = True
        if action in _TEMPORARY and (name or "").lower().startswith("crossfoot_"):
            self._refused = True
            return sqlite3.SQLITE_DENY
        if action in _CHANGES and not self._connection.in_transaction:  # by a cursor made around the connection
            self._lost = True
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_PRAGMA:
            if argument is None or (name or "").lower() in HARMLESS:
                return sqlite3.SQLITE_OK
        elif action != sqlite3.SQLITE_TRANSACTION:
            return sqlite3.SQLITE_OK
        self._refused = True
        return sqlite3.SQLITE_DENY

    def look(self, statement: str) -> bool:
        """Whether a statement that the handler is about to execute must be traced.

        Raises:
            TransactionMisuse: it would end the transaction; it was not executed, and `changed` will say so again.
        """
        try:
            return needs_watch(statement)
        except TransactionMisuse:
            self._refused = True
            raise

    def watch(self) -> None:
        """Start to count."""
        self._base = self._connection.total_changes
        self._undone = 0
        self._stack.clear()
        self._ended = ""
        self._lost = False
        self._refused = False
        self._missed = False
        self._reached_out = False
        self.watching = True

    def changed(self) -> int:
        """Net rows changed since `watch`; stops the count.

        Raises:
            TransactionMisuse: the transaction is not the one that was begun.
        """
        self.watching = False
        if self._refused:
            raise TransactionMisuse(REFUSED)
        if self._ended:
            raise TransactionMisuse(
                f"the handler issued {self._ended} on the transaction that crossfoot owns: leave commit and rollback to "
                "crossfoot (executescript() and `with connection:` commit, too), and use a savepoint for what may fail"
            )
        if self._lost or not self._connection.in_transaction:
            raise TransactionMisuse(LOST)
        if self._reached_out:
            raise TransactionMisuse(NOT_ITS_OWN)
        if self._missed:
            raise TransactionMisuse(
                "the handler used savepoints by a cursor that it made around the connection, so nobody counted what they undid: "
                "use tx.execute(), connection.execute() or connection.cursor()"
            )
        return self._connection.total_changes - self._base - self._undone

    def __call__(self, statement: str) -> None:
        if not self.watching:
            return
        if not self._connection.in_transaction:  # the driver may begin another one by itself: it is not ours
            self._lost = True
            self._refuse(statement)
            return
        found = _CONTROL.match(statement)
        if found is None:
            return
        verb, (name, is_to) = found[1].upper(), _target(found[2])
        if verb == "SAVEPOINT":
            self._stack.append(_Savepoint(name, self._connection.total_changes, self._undone))
        elif verb == "RELEASE":
            self._forget(name, keep=False)
        elif verb == "ROLLBACK" and is_to:
            self._undo(name)
        else:
            self._ended = verb

    def _refuse(self, statement: str) -> None:
        """Stop a write outside any transaction: it would be durable at once, without its operation key."""
        if _WRITE.match(statement):
            raw: Any = getattr(self._connection, "_conn", self._connection)  # aiosqlite's own interrupt is a coroutine
            raw.interrupt()

    def _undo(self, name: bytes) -> None:
        mark = self._forget(name, keep=True)
        if mark is not None:
            self._undone += (self._connection.total_changes - mark.total) - (self._undone - mark.undone)

    def _forget(self, name: bytes, *, keep: bool) -> _Savepoint | None:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index].name == name:
                mark = self._stack[index]
                del self._stack[index + (1 if keep else 0) :]
                return mark
        self._reached_out = True
        return None


def _target(text: str) -> tuple[bytes, bool]:
    """The savepoint that is named, and whether it says TO, in any of SQLite's spellings."""
    tokens = [match for match in _TOKEN.finditer(text) if match.lastgroup]
    is_to = any(token["bare"] is not None and token["bare"].upper() == "TO" for token in tokens[:2])
    return (_plain(tokens[-1]) if tokens else b""), is_to


def _plain(token: re.Match[str]) -> bytes:
    """A name without its quotes. SQLite compares names without regard to case, in ASCII only, as `bytes.lower` does."""
    text = token[0]
    if token["quoted"] is not None:
        mark, text = text[0], text[1:-1]
        text = text.replace(mark * 2, mark)
    return text.encode(errors="surrogatepass").lower()
