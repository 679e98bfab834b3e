"""What must always be true of the business tables: a question in SQL that must have no answer.

The statement is the user's, in their database's own words. It is asked over a connection that can only read, with a bound in time. What
it finds are rows; the columns named `ids` are the names by which people know what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from crossfoot.books import held
from crossfoot.books.asking import MOST_ROWS, Found, NotAnswered
from crossfoot.books.store import Book
from crossfoot.clock import SECOND, Micros
from crossfoot.connection import Connection
from crossfoot.errors import NotFound, UsageError
from crossfoot.outcomes.durations import duration

SHOWN = 100
"""Ids that are kept of each check."""


class Invariant(msgspec.Struct, frozen=True, kw_only=True):
    """A statement that must find no row.

    Attributes:
        sql: the statement.
        ids: columns that name what is wrong; all of them unless given.
        timeout: microseconds that it may take.
        every: microseconds between two checks of a worker.
    """

    name: str
    sql: str
    ids: tuple[str, ...] = ()
    timeout: Micros = 5 * SECOND
    every: Micros = 60 * SECOND

    @property
    def definition(self) -> str:
        """As the book keeps it."""
        return msgspec.json.encode(self, order="deterministic").decode()


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one check.

    Attributes:
        holds: `None` when it could not be told; `error` then says why.
        count: rows found; `at_least` when there are more than are counted.
        ids: of the first of them.
        took: microseconds.
    """

    holds: bool | None
    count: int = 0
    at_least: bool = False
    ids: tuple[str, ...] = ()
    error: str = ""
    took: Micros = 0


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """An invariant and what came of its last check; `checked_at` is `None` before the first."""

    name: str
    sql: str
    checked_at: Micros | None
    result: Result | None


def invariant(
    name: str, sql: str, *, ids: str | Sequence[str] = (), timeout: Any = "5s", every: Any = "1m"
) -> Invariant:
    """An invariant as a program states it; see `crossfoot.Crossfoot.invariant`.

    Raises:
        UsageError: there is no name or no statement, or a span cannot be read.
    """
    told: object = name
    if not isinstance(told, str) or not told.strip():
        raise UsageError("an invariant needs a name: invariant('no case is billed twice', 'select case_id from ...')")
    statement = str(sql or "").strip().rstrip(";").strip()
    if not statement:
        raise UsageError(f"invariant {name!r} has no statement: write a SELECT that finds what is wrong")
    columns = (ids,) if isinstance(ids, str) else tuple(ids)
    made = Invariant(
        name=name, sql=statement, ids=columns, timeout=duration(timeout, what="timeout"), every=duration(every, what="every")
    )  # fmt: skip
    if not made.timeout:
        raise UsageError(f"invariant {name!r}: timeout is 0: no statement is as quick as that; write '5s'")
    return made


def invariant_of(definition: str) -> Invariant:
    """What the book keeps."""
    return msgspec.json.decode(definition, type=Invariant)


def register(book: Book, invariants: Iterable[Invariant]) -> None:
    """Have the book keep them; what one found that says something else than before is forgotten."""
    stated = sorted(invariants, key=lambda one: one.name)

    def keep(connection: Connection) -> None:
        for one in stated:
            held.keep(connection, one.name, one.definition)

    book.write(keep)


def forget(book: Book, name: str) -> None:
    """Forget one.

    Raises:
        NotFound: the book keeps none of that name.
    """
    if not book.write(lambda connection: held.forget(connection, name)):
        raise NotFound(f"the book keeps no invariant {name!r}: crossfoot outcomes names those that it keeps")


def check(book: Book, *, only_due: bool = False) -> None:
    """Ask all of them, or those whose time has come, and note what came of it.

    A statement that fails is noted and ends nothing: that it cannot be told is told.
    """
    with book.reading() as connection:
        known = held.kept(connection)
    for one in known:
        stated = invariant_of(one.definition)
        if only_due and one.checked_at is not None and book.clock.now() - one.checked_at < stated.every:
            continue
        result = _ask(book, stated)
        text, holds = msgspec.json.encode(result).decode(), None if result.holds is None else int(result.holds)

        def note(connection: Connection, name: str = one.name, holds: int | None = holds, text: str = text) -> None:
            held.note(connection, name, book.clock.now(), holds, text)

        book.write(note)


def statements(connection: Connection) -> list[Statement]:
    """All invariants, and what came of their last check."""
    return [
        Statement(
            name=one.name, sql=invariant_of(one.definition).sql, checked_at=one.checked_at,
            result=msgspec.json.decode(one.result, type=Result) if one.result else None,
        )
        for one in held.kept(connection)
    ]  # fmt: skip


def _ask(book: Book, stated: Invariant) -> Result:
    begun = book.clock.monotonic()
    try:
        found = book.place.ask(stated.sql, stated.timeout / SECOND)
        ids = _ids(found, stated)
    except NotAnswered as error:
        return Result(holds=None, error=str(error), took=_since(book, begun))
    return Result(
        holds=found.count == 0, count=found.count, at_least=found.count >= MOST_ROWS, ids=ids, took=_since(book, begun)
    )  # fmt: skip


def _since(book: Book, begun: float) -> Micros:
    return round((book.clock.monotonic() - begun) * SECOND)


def _ids(found: Found, stated: Invariant) -> tuple[str, ...]:
    """The first rows by the columns that name them."""
    missing = [name for name in stated.ids if name not in found.columns]
    if missing:
        raise NotAnswered(f"it has no column {', '.join(missing)}, but {', '.join(found.columns)}: see ids=")
    places = [found.columns.index(name) for name in stated.ids or found.columns]
    return tuple(" ".join(str(row[place]) for place in places) for row in found.rows[:SHOWN])
