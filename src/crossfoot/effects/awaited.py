"""Calls that must be awaited, and are found out when they are not.

A coroutine that nobody awaits does nothing, and Python only warns of it: a handler that forgets the word would commit an
effect that never happened.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, TypeVar

from crossfoot.errors import TransactionMisuse

T = TypeVar("T")


class Awaited(Coroutine[Any, Any, T]):
    """A coroutine that remembers whether it was begun."""

    __slots__ = ("_inner", "begun", "call")

    def __init__(self, call: str, inner: Coroutine[Any, Any, T]) -> None:
        self.call = call
        self.begun = False
        self._inner = inner

    def __await__(self) -> Generator[Any, Any, T]:
        self.begun = True
        return self._inner.__await__()

    def send(self, value: Any) -> Any:
        self.begun = True
        return self._inner.send(value)

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None) -> Any:
        self.begun = True
        return self._inner.throw(kind if value is None else value)

    def close(self) -> None:
        self._inner.close()


class Calls:
    """The calls of one transaction."""

    def __init__(self) -> None:
        self._made: list[Awaited[Any]] = []

    def note(self, call: str, inner: Coroutine[Any, Any, T]) -> Awaited[T]:
        made = Awaited(call, inner)
        self._made.append(made)
        return made

    def check(self, what: object) -> None:
        """See that all were awaited.

        Raises:
            TransactionMisuse: one was not, so it never happened; with its name.
        """
        forgotten = [one for one in self._made if not one.begun]
        self._made.clear()
        for one in forgotten:
            one.close()
        if forgotten:
            raise TransactionMisuse(
                f"{what}: {forgotten[0].call}() was called and not awaited, so it never happened: write `await "
                f"{forgotten[0].call}(...)`"
            )
