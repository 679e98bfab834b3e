"""Evaluating expectations: what is new in the book is read once, by whoever comes first.

The definitions are in the book, so that a worker, a command and an exporter evaluate the same ones. Each step is one transaction that
reads a group of entries for all expectations that have come equally far, and says how far they are now. A process that is killed leaves
the step undone, and the next one does it; two at once take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from crossfoot.books import expected
from crossfoot.books.expected import Kept, OpenRow
from crossfoot.books.fate import Fate
from crossfoot.books.store import Book
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.errors import NotFound
from crossfoot.outcomes.expectation import (
    Answer,
    Expectation,
    Trigger,
    answer_all,
    expectation_of,
    open_all,
)

GROUP = 5_000
"""Entries that one step reads: a few milliseconds, in which no worker can write to a SQLite file."""


class Breach(msgspec.Struct, frozen=True, kw_only=True):
    """A message of which something was expected that has not come, or came late.

    Attributes:
        queue, source, subject: of the message, as long as the book has it.
        fate: as of the last posting.
        answered_at: when the outcome came, for a late one.
    """

    id: str
    queue: str | None
    source: str | None
    subject: str | None
    published_at: Micros
    due: Micros
    answered_at: Micros | None
    fate: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How one expectation stands.

    Attributes:
        opened: messages that were looked at, each once.
        met, waiting, late, missing, excused: what became of them; they add up to `opened`.
        missing_messages, late_messages: the first of these.
        is_unnamed: whether its name says no more than its text.
    """

    name: str
    text: str
    is_unnamed: bool
    opened: int
    met: int
    excused: int
    waiting: int
    late: int
    missing: int
    evaluated_at: Micros
    missing_messages: tuple[Breach, ...] = ()
    late_messages: tuple[Breach, ...] = ()

    @property
    def breached(self) -> bool:
        """Whether something that was expected did not come, or not in time, and nobody has accepted that."""
        return bool(self.missing or self.late)


def register(book: Book, expectations: Iterable[Expectation]) -> list[str]:
    """Have the book keep them. Returns the names of those that are new to it, or that say something else than before: they begin anew."""
    stated, now = sorted(expectations, key=lambda one: one.name), book.clock.now()
    return book.write(
        lambda connection: [one.name for one in stated if expected.keep(connection, one.name, one.definition, now)]
    )


def forget(book: Book, name: str) -> None:
    """Forget one, and what it found.

    Raises:
        NotFound: the book keeps none of that name.
    """
    if not book.write(lambda connection: expected.forget(connection, name)):
        raise NotFound(f"the book keeps no expectation {name!r}: crossfoot outcomes names those that it keeps")


def accept(book: Book, ids: Iterable[str], *, by: str, reason: str) -> None:
    """Accept that messages are missing or late: they count as excused from now on, and the book keeps who decided that, and why.

    Raises:
        NotFound: one of them is neither, and none is accepted.
    """
    now = book.clock.now()
    told = msgspec.json.encode({"by": by, "reason": reason, "at": now}).decode()

    def accept_all(connection: Connection) -> None:
        for id_ in ids:
            if not expected.accept(connection, id_, now, told):
                raise NotFound(
                    f"nothing that is expected of {id_} is missing or late: crossfoot outcomes names those of which it is"
                )

    book.write(accept_all)


def evaluate(book: Book, *, group: int = GROUP, progress: Callable[[int], None] | None = None) -> int:
    """Read all that is new. Returns how many steps that took.

    Args:
        group: entries of a step.
        progress: told the number of steps so far.
    """
    steps = 0
    while book.write(lambda connection: _step(connection, book.clock.now(), group)):
        steps += 1
        if progress is not None:
            progress(steps)
    return steps


def reports(connection: Connection, now: Micros, *, limit: int = 100) -> list[Report]:
    """How all expectations stand, as of the last evaluation.

    Args:
        limit: messages that are named of each kind.
    """
    found = []
    for one in expected.kept(connection):
        waiting, missing, late, accepted = expected.standing(connection, one.name, now)
        named = {
            which: tuple(_breach(row) for row in expected.open_rows(connection, one.name, which, now, limit))
            for which, count in (("missing", missing), ("late", late))
            if count
        }
        stated = expectation_of(one.definition)
        found.append(
            Report(
                name=one.name, text=stated.text, is_unnamed=stated.is_unnamed, opened=one.opened, met=one.met,
                excused=one.excused + accepted,
                waiting=waiting, late=late, missing=missing, evaluated_at=one.evaluated_at,
                missing_messages=named.get("missing", ()), late_messages=named.get("late", ()),
            )
        )  # fmt: skip
    return found


def _breach(row: OpenRow) -> Breach:
    fate = "no longer in the book" if row.fate is None else Fate(row.fate).label if row.fate else "not posted"
    return Breach(
        id=row.id, queue=row.queue, source=row.source, subject=row.subject, published_at=row.at, due=row.due,
        answered_at=row.answered, fate=fate,
    )  # fmt: skip


def _step(connection: Connection, now: Micros, size: int) -> bool:
    """One group for those that are least far. Returns whether there may be more."""
    connection.alone(expected.TURN)
    all_of_them = expected.kept(connection)
    if not all_of_them:
        return False
    end = expected.end_of_book(connection)
    furthest = expected.order(end)
    # One that was registered later catches up by itself, and goes on together with the others.
    begin = min((one.place for one in all_of_them), key=expected.order)
    together = [one for one in all_of_them if one.place == begin]
    further = [one.place for one in all_of_them if expected.order(one.place) > expected.order(begin)]
    if expected.order(begin) >= furthest:
        for one in all_of_them:
            _excuse(connection, one, now)
        return False
    bound = min([end, *further], key=expected.order)
    group = expected.group_after(connection, begin, bound, size)
    for one in together:
        _read(connection, expectation_of(one.definition), group, now)
    if expected.order(group.upto) >= furthest:
        for one in all_of_them:
            _excuse(connection, one, now)
        return False
    return True


def _read(connection: Connection, expectation: Expectation, group: expected.Group, now: Micros) -> None:
    by = expectation.by.value
    parameters = {
        "name": expectation.name, "outcome": expectation.outcome, "after": expectation.after,
        "skew": expectation.skew, "since": expectation.since,
    }  # fmt: skip
    opened = open_all(expectation, [Trigger(*row) for row in expected.opening(connection, by, group, parameters)])
    expected.add(connection, expectation.name, opened.rows)
    answered = answer_all(Answer(*row) for row in expected.answering(connection, by, group, parameters))
    expected.take_off(connection, answered.met)
    expected.note_later(connection, answered.later)
    counts = (opened.opened, opened.met + len(answered.met))
    expected.move(connection, expectation.name, group.upto, counts, now)


def _excuse(connection: Connection, one: Kept, now: Micros) -> None:
    """Take off those whose fate says that nothing more is to come of them."""
    excused = expectation_of(one.definition).excused
    found = [number for number, fate in expected.over(connection, one.name, now) if fate.label in excused]
    if found:
        expected.take_off(connection, found)
        expected.count_excused(connection, one.name, len(found), now)
