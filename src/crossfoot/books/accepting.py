"""What a person has decided about outcomes that are missing or late: the statements."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from crossfoot.books import expected, queries
from crossfoot.books.promised import Accepted, accepted_of
from crossfoot.clock import Micros
from crossfoot.connection import Connection

OF_A_SUBJECT = 10_000
"""Messages of one subject that are looked at."""

_OPEN = "accepted IS NULL AND (answered IS NOT NULL OR due < ?)"
_BY_ID = f"UPDATE crossfoot_expected SET accepted = ? WHERE id = ? AND {_OPEN} RETURNING id"
_BY_KEY = f"UPDATE crossfoot_expected SET accepted = ? WHERE expectation = ? AND message = ? AND {_OPEN} RETURNING id"
_BY_NAME = f"UPDATE crossfoot_expected SET accepted = ? WHERE expectation = ? AND name = ? AND {_OPEN} RETURNING id"

_ACCEPTED = """
SELECT accepted, count(*), min(id) FROM crossfoot_expected WHERE expectation = ? AND accepted IS NOT NULL
GROUP BY accepted ORDER BY max(number) DESC LIMIT ?
"""


class Decision(NamedTuple):
    """One decision about messages of one expectation: how many they were, and the id of one."""

    accepted: Accepted
    messages: int
    example: str


def accept(connection: Connection, name: str, by_subject: Iterable[str], now: Micros, told: str) -> list[str]:
    """Note that somebody accepts that a message, or those of a subject, are missing or late. In the caller's transaction.

    Args:
        name: a message's id, or else a subject.
        by_subject: the expectations that look for outcomes by subject: they know it of messages that lie in the archive, too.

    Returns:
        Ids of the messages.
    """
    connection.alone(expected.TURN)
    found = _changed(connection, _BY_ID, (told, name, now))
    if found:
        return found
    for expectation in by_subject:
        found += _changed(connection, _BY_NAME, (told, expectation, name, now))
    rows = queries.named(connection, "subject", name, OF_A_SUBJECT)
    for one in expected.kept(connection):
        for row in rows:
            found += _changed(connection, _BY_KEY, (told, one.name, row.key, now))
    return sorted(set(found))


def known(connection: Connection, name: str) -> bool:
    """Whether the book has a message or a subject of that name."""
    return any(queries.named(connection, kind, name, 1) for kind in ("message id", "subject"))


def decisions(connection: Connection, name: str, limit: int) -> list[Decision]:
    """What was accepted of an expectation, the last first."""
    found = []
    for text, count, example in connection.execute(_ACCEPTED, (name, limit)):
        accepted = accepted_of(text)
        assert accepted is not None, "asked for"
        found.append(Decision(accepted, int(count), example))
    return found


def _changed(connection: Connection, statement: str, parameters: tuple[object, ...]) -> list[str]:
    return [str(row[0]) for row in connection.execute(statement, parameters).fetchall()]
