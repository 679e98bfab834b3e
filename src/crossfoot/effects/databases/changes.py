"""How many rows a handler really changed, on SQLite.

`total_changes` counts every change ever made, also those that a ROLLBACK TO undid: a handler that fails inside a
savepoint and swallows it would look as if it had worked. So the statements are watched for savepoints, and what a
rollback undid is taken off again. The same watch sees a handler that ends the transaction itself.
"""

from __future__ import annotations


from typing import NamedTuple, Protocol

from crossfoot.errors import TransactionMisuse


class HasChanges(Protocol):
    """sqlite3's connection, or aiosqlite's."""

    @property
    def total_changes(self) -> int: ...


class _Savepoint(NamedTuple):
    name: str
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
        self.watching = False

    def watch(self) -> None:
        """Start to count."""
        self._base = self._connection.total_changes
        self._undone = 0
        self._stack.clear()
        self._ended = ""
        self.watching = True

    def changed(self) -> int:
        """Net rows changed since `watch`; stops the count."""
        self.watching = False
        if self._ended:
            raise TransactionMisuse(
                f"the handler issued {self._ended} on the transaction that crossfoot owns: leave commit and rollback to "
                "crossfoot, and use a savepoint for what may fail"
            )
        return self._connection.total_changes - self._base - self._undone

    def __call__(self, statement: str) -> None:
        if not self.watching:
            return
        words = statement[:120].split()
        verb = words[0].upper() if words else ""
        if verb == "SAVEPOINT":
            self._stack.append(_Savepoint(_name(words), self._connection.total_changes, self._undone))
        elif verb == "RELEASE":
            self._forget(_name(words), keep=False)
        elif verb == "ROLLBACK" and any(word.upper() == "TO" for word in words[1:]):
            self._undo(_name(words))
        elif verb in ("COMMIT", "END", "ROLLBACK"):
            self._ended = verb

    def _undo(self, name: str) -> None:
        mark = self._forget(name, keep=True)
        if mark is not None:
            self._undone += (self._connection.total_changes - mark.total) - (self._undone - mark.undone)

    def _forget(self, name: str, *, keep: bool) -> _Savepoint | None:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index].name == name:
                mark = self._stack[index]
                del self._stack[index + (1 if keep else 0) :]
                return mark
        return None


def _name(words: list[str]) -> str:
    """The savepoint's name is the last word, in any of SQLite's spellings."""
    return words[-1].strip(";\"'`[]").lower()
