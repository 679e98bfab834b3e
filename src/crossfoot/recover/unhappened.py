"""What would have happened: what a message that came to nothing would have done, as far as the book knows. Pure.

Nobody knows what a handler would have done. What the book does know: which operation was asked for, what the program promises after such
a message, and what those of its kind came to that took effect last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.habits import Habit
from crossfoot.recover.facts import Facts
from crossfoot.recover.phrases import listed

CAME_TO_NOTHING = frozenset(
    {
        Fate.DEAD, Fate.VANISHED, Fate.REFUSED, Fate.EXPIRED, Fate.SUPERSEDED, Fate.DISCARDED, Fate.IN_DOUBT, Fate.STRANDED,
        Fate.STALLED, Fate.RETRYING,
    }
)  # fmt: skip
"""Fates of messages of which it is asked."""


def unhappened(facts: Facts, fate: Fate | None) -> tuple[str, ...]:
    """The sentences; none about a message that took effect, or may still do so in time."""
    if fate not in CAME_TO_NOTHING or facts.habit is None:
        return ()
    operation = facts.operation
    if operation is not None and operation.message != facts.row.key and operation.kind == Kind.COMMITTED:
        by = facts.owner.row.id if facts.owner is not None else "another message"
        return (f"Nothing is missing: its operation {operation.key} was completed by {by}.",)
    return tuple(_sentences(facts, facts.habit, fate))


def _sentences(facts: Facts, habit: Habit, fate: Fate | None) -> Iterator[str]:
    row = facts.row
    named = operation.key if (operation := facts.operation) is not None else row.operation
    if fate is Fate.SUPERSEDED:
        yield f"It would have taken effect after a later event of {row.subject or 'its subject'}, and written over it."
    elif named is not None:
        yield f"Its operation {named} would have been completed; nobody has completed it."
    kind = f"{row.type} on queue {row.queue}"
    if not habit.of:
        yield f"None of the newest messages that took effect was {kind}, so the book does not know what it comes to."
    else:
        yield f"{_ends(habit, kind)}."
        if habit.caused and habit.of == 1:
            yield f"It caused {listed(list(habit.caused))}."
        elif habit.caused:
            yield f"Of these, {listed([f'{how_many} caused {name}' for how_many, name in _shares(habit.caused, habit.of)])}."
    if facts.promised:
        yield f"The program promises {listed(list(facts.promised))} after every {row.type}."


def _ends(habit: Habit, kind: str) -> str:
    """With which outcomes the last ones ended."""
    if habit.of == 1:
        ended = f"ended with {listed(list(habit.outcomes))}" if habit.outcomes else "recorded no outcome"
        return f"The only {kind} among the newest messages that took effect {ended}"
    those = f"Of the last {habit.of:,} {kind} that took effect"
    ends = [f"{how_many} ended with {name}" for how_many, name in _shares(habit.outcomes, habit.of)]
    return f"{those}, {listed(ends)}" if ends else f"{those}, none recorded an outcome"


def _shares(counts: Mapping[str, int], of: int) -> Iterator[tuple[str, str]]:
    for name, count in counts.items():
        yield ("all" if count == of else f"{count:,}"), name
