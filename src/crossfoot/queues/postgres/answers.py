"""What an answer of the server proves, or that there was none.

Every request is one statement, a transaction by itself. So an error that the server reports means that nothing was done,
whatever it says; and when the connection breaks after something was sent, nobody knows.
"""

from __future__ import annotations

import psycopg

from crossfoot.connection import shown
from crossfoot.errors import QueueUnavailable
from crossfoot.postgres import explain, is_outside, is_transient


class NoAnswer(Exception):
    """The request was sent, or may have been, and nobody knows what became of it."""


class Rejected(Exception):
    """The server refused this one request: nothing was done.

    Attributes:
        for_good: whether the same request can never succeed.
    """

    def __init__(self, text: str, *, for_good: bool) -> None:
        self.for_good = for_good
        super().__init__(text)


_NO_TABLES = ("42P01", "42703", "3F000", "42883")
"""No such table, column, schema or function."""


def no_tables(name: str, url: str) -> QueueUnavailable:
    """What to say where there are no tables for queues."""
    return QueueUnavailable(
        f"queue {name}: {shown(url)} has no tables for queues of this version: make them with `ensure`, or let its user see them "
        "(search_path, GRANT)"
    )


def read_error(error: psycopg.Error, *, name: str, url: str) -> Rejected | QueueUnavailable:
    """The server's error as what it proves.

    Returns:
        `Rejected` for this request alone; `QueueUnavailable` where every request would meet the same.
    """
    state = error.sqlstate or ""
    if state in _NO_TABLES:
        return no_tables(name, url)
    if is_outside(error) or is_transient(error) or state.startswith("42"):
        return QueueUnavailable(f"queue {name}: {explain(error, shown(url))}")
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return Rejected(f"{text} ({state})", for_good=state.startswith("22"))
