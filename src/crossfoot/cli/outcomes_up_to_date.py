"""What commands do before they tell of outcomes and alerts: post, evaluate, and ask the invariants."""

from __future__ import annotations

from crossfoot import settings
from crossfoot.books import expected, held
from crossfoot.books.queries import last_number
from crossfoot.books.store import Book
from crossfoot.cli.reading import Progress, catch_up
from crossfoot.connection import Connection
from crossfoot.errors import DatabaseUnavailable
from crossfoot.outcomes import evaluating
from crossfoot.outcomes import invariant as invariants
from crossfoot.outcomes.alerts.watching import count_new

FORGETFUL = ("embedded", "postgres", "redis")
"""Kinds of queues whose retention the settings say."""


def bring_up_to_date(path: str, connection: Connection, *, ask_all: bool = False) -> str:
    """Post what is new, evaluate the expectations, and ask the invariants.

    Args:
        ask_all: all of them, and not only those whose time has come.

    Returns:
        Why it was not possible; empty when it was.
    """
    return catch_up(path, connection) or evaluate_new(path, connection, ask_all=ask_all)


def evaluate_new(path: str, connection: Connection, *, ask_all: bool = False, counting: bool = False) -> str:
    """Evaluate the expectations, and ask the invariants.

    Args:
        ask_all: all of them, and not only those whose time has come.
        counting: count deliveries, too.

    Returns:
        Why it was not possible; empty when it was.
    """
    stated = expected.kept(connection) or held.kept(connection)
    if not stated and not counting:
        return ""
    book = Book(path)
    progress, most = Progress("evaluating", "groups of entries"), last_number(connection) // evaluating.GROUP + 1
    try:
        evaluating.evaluate(book.open(), progress=lambda steps: progress(steps, max(steps, most)))
        invariants.check(book, only_due=not ask_all)
        if counting:
            count_new(book)
    except DatabaseUnavailable as error:
        return str(error)
    finally:
        progress.close()
        book.close()
    return ""


def retention_known() -> float | None:
    """Seconds after which this service's queue forgets, as the settings say; `None` where they do not."""
    found = settings.load()
    kind = found.queue.partition(":")[0].partition("+")[0]
    return found.retention if kind in FORGETFUL or kind in ("postgresql", "rediss") else None
