"""What a program promises the business, and the worker's chore of looking after it."""

from __future__ import annotations

import logging

from crossfoot.books.store import Book
from crossfoot.errors import Conflict, UsageError
from crossfoot.outcomes import evaluating
from crossfoot.outcomes import invariant as invariants
from crossfoot.outcomes.expectation import Expectation
from crossfoot.outcomes.invariant import Invariant

logger = logging.getLogger("crossfoot.outcomes")


class Promises:
    """The expectations and invariants that a program has stated, by name."""

    def __init__(self) -> None:
        self.expectations: dict[str, Expectation] = {}
        self.invariants: dict[str, Invariant] = {}

    def add(self, stated: Expectation | Invariant) -> None:
        """State one.

        Raises:
            UsageError: another one has its name.
        """
        if stated.name in self.expectations or stated.name in self.invariants:
            raise UsageError(f"there is an expectation or invariant {stated.name!r} already: give this one a name=")
        if isinstance(stated, Expectation):
            self.expectations[stated.name] = stated
        else:
            self.invariants[stated.name] = stated

    def __len__(self) -> int:
        return len(self.expectations) + len(self.invariants)

    def register(self, book: Book) -> list[str]:
        """Have the book keep them. Returns the names of the expectations that begin anew."""
        if not len(self):
            return []
        if self.invariants:
            invariants.register(book, self.invariants.values())
        return evaluating.register(book, self.expectations.values())


class Keeping:
    """A worker's chore: what the program has stated is in the book, and the book is evaluated every few seconds.

    Over a connection of its own: a question of an invariant's may take seconds, and nothing of the worker's waits for it.
    """

    every = 5.0
    """Seconds between two turns."""

    def __init__(self, book: Book, promises: Promises) -> None:
        self._book = book.another()
        self._promises = promises

    def begin(self) -> None:
        """Have the book keep what was stated."""
        if len(self._promises):
            self._book.open()
            self._promises.register(self._book)

    def turn(self, *, last: bool = False) -> None:
        """Evaluate what is new, and ask the invariants whose time has come; the last time these are left to somebody else."""
        if len(self._promises):
            try:
                evaluating.evaluate(self._book)
                if not last:
                    invariants.check(self._book, only_due=True)
            except Conflict as error:  # somebody else is at it for long: nothing is lost, and the next turn goes on
                logger.info("expectations: %s", error)

    def close(self) -> None:
        """Close the connection."""
        self._book.close()
