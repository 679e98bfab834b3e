"""Evaluating expectations: what is new in the book is read once, by whoever comes first.

The definitions are in the book, so that a worker, a command and an exporter evaluate the same ones. Each step is one transaction that
reads a group of entries for all expectations that have come equally far, and says how far they are now. A process that is killed leaves
the step undone, and the next one does it; two at once take turns.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence

import msgspec

from crossfoot.books import accepting, expected
from crossfoot.books.archive.prune import seals
from crossfoot.books.archive.seal import Seal
from crossfoot.books.expected import Kept, OpenRow
from crossfoot.books.fate import Fate
from crossfoot.books.store import Book
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.errors import NotFound
from crossfoot.outcomes.expectation import (
    Answer,
    By,
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
        queue, source, subject: of the message, as long as the book has it; the subject for longer, where it is what both have in common.
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


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """What a person accepted at one time: of how many messages, and one of them."""

    by: str
    reason: str
    at: Micros
    count: int
    example: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How one expectation stands.

    Attributes:
        opened: messages that were looked at, each once.
        met, waiting, late, missing, excused: what became of them; they add up to `opened`.
        missing_messages, late_messages: the first of these, of one fate where only that was asked for.
        accepted: how many of the excused a person accepted; `acceptances` says who, and why.
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
    accepted: int = 0
    acceptances: tuple[Acceptance, ...] = ()

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


def accept(book: Book, names: Iterable[str], *, by: str, reason: str) -> list[str]:
    """Accept that messages are missing or late: they count as excused from now on, and the book keeps who decided that, and why.

    Args:
        names: of messages, by id, or all of a subject.

    Returns:
        The ids of the messages.

    Raises:
        NotFound: one of them is neither, and none is accepted.
    """
    now = book.clock.now()
    told = msgspec.json.encode({"by": by, "reason": reason, "at": now}).decode()

    def accept_all(connection: Connection) -> list[str]:
        kept = [expectation_of(one.definition) for one in expected.kept(connection)]
        by_subject = [one.name for one in kept if one.by is By.subject]
        accepted: dict[str, None] = {}
        for name in names:
            found = accepting.accept(connection, name, by_subject, now, told)
            if not found:
                raise NotFound(_not_accepted(connection, name))
            accepted |= dict.fromkeys(found)
        return list(accepted)

    return book.write(accept_all)


def _not_accepted(connection: Connection, name: str) -> str:
    if accepting.known(connection, name):
        return (
            f"nothing that is expected of {name} is missing or late, or it is accepted already; nothing was accepted: "
            f"crossfoot why {shlex.quote(name)} says how it stands"
        )
    return f"no message id and no subject in this book is {name!r}; nothing was accepted: crossfoot outcomes names what is missing or late"


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


def reports(connection: Connection, now: Micros, *, limit: int = 100, fate: Fate | None = None) -> list[Report]:
    """How all expectations stand, as of the last evaluation.

    Args:
        limit: messages that are named of each kind.
        fate: only messages of this one are named; all are counted.
    """
    found, archived = [], seals(connection)
    for one in expected.kept(connection):
        stated = expectation_of(one.definition)
        waiting, missing, late, accepted = expected.standing(connection, one.name, now)
        named = {
            which: tuple(
                _breach(row, stated, archived)
                for row in expected.open_rows(connection, one.name, which, now, limit, fate)
            )
            for which, count in (("missing", missing), ("late", late))
            if count
        }
        decided = accepting.decisions(connection, one.name, limit) if accepted else []
        found.append(
            Report(
                name=one.name, text=stated.text, is_unnamed=stated.is_unnamed, opened=one.opened, met=one.met,
                excused=one.excused + accepted,
                waiting=waiting, late=late, missing=missing, evaluated_at=one.evaluated_at,
                missing_messages=named.get("missing", ()), late_messages=named.get("late", ()),
                accepted=accepted, acceptances=tuple(
                    Acceptance(by=who.by, reason=who.reason, at=who.at, count=count, example=example)
                    for who, count, example in decided
                ),
            )
        )  # fmt: skip
    return found


def _breach(row: OpenRow, stated: Expectation, archived: Sequence[Seal]) -> Breach:
    if row.fate is None:
        among = [str(one.number) for one in archived if one.lowest <= row.message <= one.highest]
        fate = f"archived, seal {' or '.join(among)}" if among else "no longer in the book"
    else:
        fate = Fate(row.fate).label if row.fate else "not posted"
    subject = row.subject or (row.about if stated.by is By.subject else None)
    return Breach(
        id=row.id, queue=row.queue, source=row.source, subject=subject, published_at=row.at, due=row.due,
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
