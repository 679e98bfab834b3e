"""What is expected of messages, and the outcomes that answer them: the statements, and one step of following the book.

Both are found by following the entries, each once, in the order in which they were committed (see `lines`): a message by its first
entry, and an outcome by the entry that was committed with it. So one place in the entries says how far both are read, and nothing
that is committed late is stepped over: in SQLite there is one writer, and in PostgreSQL nothing is read beyond the oldest
transaction that is still open (see `horizon`).

Whichever of a message and its outcome is read later finds the other one: a new message looks for outcomes that are there already,
a new outcome for messages that wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.grouped import grouped, keys_text
from crossfoot.books.horizon import START
from crossfoot.books.lines import newest
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.dialect import differs

TURN = "expectations"
"""What evaluators do one after the other."""

_PROVEN = f"({Kind.COMMITTED.value}, {Kind.NOOP.value})"
"""Entries with which outcomes are committed."""


def behind(name: str) -> str:
    """The place in a parameter, as PostgreSQL compares places."""
    return f"(split_part(:{name}, ':', 1)::xid8, split_part(:{name}, ':', 2)::bigint)"


AFTER_POSTGRES = f"(xid, id) > {behind('begin')} AND (xid, id) <= {behind('upto')}"
AFTER = "id > CAST(:begin AS INTEGER) AND id <= CAST(:upto AS INTEGER)"
"""Entries of a group: after one place, up to another one."""

_UPTO = differs(
    "SELECT max(id) FROM (SELECT id FROM crossfoot_entries WHERE " + AFTER + " ORDER BY id LIMIT :size) /* a group */",
    postgres=f"""
SELECT xid::text || ':' || id FROM (
  SELECT xid, id FROM crossfoot_entries WHERE {AFTER_POSTGRES} ORDER BY xid, id LIMIT :size) AS taken
ORDER BY xid DESC, id DESC LIMIT 1
""",
)

_FLOW = "coalesce({0}.correlation, {0}.id)"

_ABOUT = {"subject": "m.subject", "correlation": _FLOW.format("m"), "message": "CAST(m.key AS TEXT)"}
"""What a message is looked for by."""

_IN_TIME = "(o.at >= m.at - :skew OR o.message = m.key)"
FOUND = {
    "subject": f"""
SELECT min(o.at) FROM crossfoot_outcomes o WHERE o.name = :outcome AND o.subject = m.subject AND {_IN_TIME}
""",
    "correlation": f"""
SELECT min(f.at) FROM (
  SELECT o.at FROM crossfoot_messages c CROSS JOIN crossfoot_outcomes o ON o.message = c.key
  WHERE c.correlation = {_FLOW.format("m")} AND o.name = :outcome AND {_IN_TIME}
  UNION ALL
  SELECT o.at FROM crossfoot_messages c CROSS JOIN crossfoot_outcomes o ON o.message = c.key
  WHERE c.id = {_FLOW.format("m")} AND c.correlation IS NULL AND o.name = :outcome AND {_IN_TIME}) AS f
""",
    "message": "SELECT min(o.at) FROM crossfoot_outcomes o WHERE o.message = m.key AND o.name = :outcome",
}
"""The earliest outcome that answers the message `m`."""


def _opening(by: str) -> str:
    """Messages whose first entry is in the group: a message is opened once, however often it is delivered."""
    taken = """
SELECT m.key, m.id, {about}, m.at, ({found}) FROM ({first}) AS g
CROSS JOIN crossfoot_messages m ON m.key = g.message
WHERE m.type = :after AND m.at >= :since AND NOT EXISTS (SELECT 1 FROM crossfoot_entries f WHERE f.message = g.message AND {before})
"""
    common = {"about": _ABOUT[by], "found": FOUND[by]}
    return differs(
        taken.format(
            first=f"SELECT message, min(id) AS id FROM crossfoot_entries WHERE {AFTER} GROUP BY message",
            before="f.id < g.id",
            **common,
        ),
        postgres=taken.format(
            first=f"""
SELECT DISTINCT ON (message) message, xid, id FROM (SELECT message, xid, id FROM crossfoot_entries WHERE {AFTER_POSTGRES}) AS taken
ORDER BY message, xid, id""",
            before="(f.xid, f.id) < (g.xid, g.id)",
            **common,
        ),
    )


_JOINED = {
    "subject": "CROSS JOIN crossfoot_expected e ON e.expectation = :name AND e.name = o.subject",
    "correlation": f"""CROSS JOIN crossfoot_messages c ON c.key = o.message
CROSS JOIN crossfoot_expected e ON e.expectation = :name AND e.name = {_FLOW.format("c")}""",
    "message": "CROSS JOIN crossfoot_expected e ON e.expectation = :name AND e.message = o.message",
}


def _answering(by: str) -> str:
    """Open messages for which an outcome was committed in the group."""
    taken = """
SELECT e.number, e.due, min(e.answered), min(o.at) FROM (
  SELECT DISTINCT message FROM crossfoot_entries WHERE {within} AND kind IN {proven}) AS g
CROSS JOIN crossfoot_outcomes o ON o.message = g.message AND o.name = :outcome
{joined}
WHERE o.at >= e.at - :skew OR o.message = e.message
GROUP BY e.number, e.due
"""
    common = {"proven": _PROVEN, "joined": _JOINED[by]}
    return differs(taken.format(within=AFTER, **common), postgres=taken.format(within=AFTER_POSTGRES, **common))


OPENING = {by: _opening(by) for by in _ABOUT}
ANSWERING = {by: _answering(by) for by in _ABOUT}

ANSWERED = {
    by: grouped(
        f"SELECT m.key, ({FOUND[by]}) FROM {{messages}} m WHERE m.key IN {{keys}} AND m.type = :after AND m.at >= :since"
    )
    for by in _ABOUT
}
"""Of a group, the messages of a type, and the earliest outcome that answers each."""

_NOT_IN_TIME = "SELECT message, answered FROM crossfoot_expected WHERE expectation = ?"

_ADD = """
INSERT INTO crossfoot_expected (expectation, message, id, name, at, due, answered) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (expectation, message) DO NOTHING
"""
_MET = "DELETE FROM crossfoot_expected WHERE number = ?"
_LATER = "UPDATE crossfoot_expected SET answered = ? WHERE number = ?"
_COUNT = """
UPDATE crossfoot_expectations SET place = ?, opened = opened + ?, met = met + ?, evaluated_at = ? WHERE name = ?
"""
_EXCUSED = "UPDATE crossfoot_expectations SET excused = excused + ?, evaluated_at = ? WHERE name = ?"

_OVER = """
SELECT e.number, m.fate FROM crossfoot_expected e CROSS JOIN crossfoot_messages m ON m.key = e.message
WHERE e.expectation = ? AND e.answered IS NULL AND e.accepted IS NULL AND e.due < ? AND m.fate > 0
"""


class Kept(NamedTuple):
    """An expectation as the book keeps it."""

    name: str
    definition: str
    place: str
    opened: int
    met: int
    excused: int
    evaluated_at: Micros


class Proven(NamedTuple):
    """A message that a replay has brought back, and how and when that ended.

    Attributes:
        archived: its type and when it was published, of one that lies in the archive; of the others the book knows them.
    """

    message: int
    moved_at: Micros
    fate: Fate
    ended_at: Micros = 0
    archived: tuple[str, Micros] | None = None


class Outlook(NamedTuple):
    """How such messages stand: those of which something may still come in time, and by expectation those of which it did not; and of
    the latter those for which it came later."""

    waiting: frozenset[int]
    breached: Mapping[str, Sequence[int]]
    late: Mapping[str, Sequence[int]]


class Group(NamedTuple):
    """Entries after one place, up to another one."""

    begin: str
    upto: str


def kept(connection: Connection) -> list[Kept]:
    """All expectations of the book, by name."""
    columns = ", ".join(Kept._fields)
    return [Kept(*row) for row in connection.execute(f"SELECT {columns} FROM crossfoot_expectations ORDER BY name")]


def keep(connection: Connection, name: str, definition: str, now: Micros) -> bool:
    """Keep an expectation; one that says something else than before begins anew. In the caller's transaction.

    Returns:
        Whether it did.
    """
    connection.alone(TURN)
    row = connection.execute("SELECT definition FROM crossfoot_expectations WHERE name = ?", (name,)).fetchone()
    if row is not None and row[0] == definition:
        return False
    forget(connection, name)
    connection.execute(
        "INSERT INTO crossfoot_expectations (name, definition, place, opened, met, excused, evaluated_at) VALUES (?, ?, ?, 0, 0, 0, ?)",
        (name, definition, beginning(connection), now),
    )
    return True


def forget(connection: Connection, name: str) -> bool:
    """Forget an expectation and all that it found. In the caller's transaction."""
    connection.execute("DELETE FROM crossfoot_expected WHERE expectation = ?", (name,))
    return connection.execute("DELETE FROM crossfoot_expectations WHERE name = ?", (name,)).rowcount > 0


def beginning(connection: Connection) -> str:
    """Before all entries."""
    return START if connection.dialect == "postgres" else "0"


def end_of_book(connection: Connection) -> str:
    """The place of the last entry that may be read; none that comes later will be before it."""
    return str(newest(connection) or beginning(connection))


def order(place: str) -> tuple[int, ...]:
    """Places in their order."""
    return tuple(int(part) for part in place.split(":"))


def group_after(connection: Connection, begin: str, end: str, size: int) -> Group:
    """The next entries, `size` of them at most, none behind `end`."""
    parameters = {"begin": begin, "upto": end, "size": size}
    row = connection.execute(_UPTO, parameters).fetchone()
    return Group(begin, str(row[0]) if row and row[0] is not None else end)


def opening(connection: Connection, by: str, group: Group, parameters: Mapping[str, Any]) -> list[Any]:
    """Messages that came in the group: key, id, what they are looked for by, when, and the earliest outcome that answers them."""
    return connection.execute(OPENING[by], {**parameters, **group._asdict()}).fetchall()


def answering(connection: Connection, by: str, group: Group, parameters: Mapping[str, Any]) -> list[Any]:
    """Open messages that were answered in the group: number, due, answered before, answered now."""
    return connection.execute(ANSWERING[by], {**parameters, **group._asdict()}).fetchall()


def answered(
    connection: Connection, by: str, keys: Iterable[int], parameters: Mapping[str, Any]
) -> list[tuple[int, Micros | None]]:
    """Those of the messages of which something is expected: key, and the earliest outcome that answers it so far."""
    rows = connection.execute(ANSWERED[by], {**parameters, "keys": keys_text(keys)})
    return [(int(key), at) for key, at in rows]


def over(connection: Connection, name: str, now: Micros) -> list[tuple[int, Fate]]:
    """Open messages whose time is over, and their fates as of the last posting."""
    return [(number, Fate(fate)) for number, fate in connection.execute(_OVER, (name, now))]


def not_in_time(connection: Connection, name: str) -> dict[int, Micros | None]:
    """Messages of which an expectation was not met in its time, with when it was answered: also those that lie in the archive."""
    return {int(key): at for key, at in connection.execute(_NOT_IN_TIME, (name,))}


def add(connection: Connection, name: str, rows: Iterable[Sequence[Any]]) -> None:
    connection.executemany(_ADD, [(name, *row) for row in rows])


def take_off(connection: Connection, numbers: Iterable[int]) -> None:
    connection.executemany(_MET, [(number,) for number in numbers])


def note_later(connection: Connection, rows: Iterable[tuple[Micros, int]]) -> None:
    connection.executemany(_LATER, list(rows))


def move(connection: Connection, name: str, place: str, counts: tuple[int, int], now: Micros) -> None:
    """How far it is read, and how many were opened and met by that."""
    connection.execute(_COUNT, (place, *counts, now, name))


def count_excused(connection: Connection, name: str, count: int, now: Micros) -> None:
    connection.execute(_EXCUSED, (count, now, name))


# ---- what is told of it -----------------------------------------------------------------------------------------------


class OpenRow(NamedTuple):
    """A message that is not met, with what it is and how it stands in the book: nothing where the book has it no more.

    `about` is what it is looked for by."""

    id: str
    at: Micros
    due: Micros
    answered: Micros | None
    queue: str | None
    source: str | None
    subject: str | None
    fate: int | None
    message: int
    about: str | None


_OPEN = """
SELECT e.id, e.at, e.due, e.answered, m.queue, m.source, m.subject, m.fate, e.message, e.name
FROM crossfoot_expected e LEFT JOIN crossfoot_messages m ON m.key = e.message
WHERE e.expectation = :name AND e.accepted IS NULL AND {which} AND (CAST(:fate AS INTEGER) IS NULL OR m.fate = :fate)
ORDER BY e.due, e.number LIMIT :limit
"""

_WHICH = {
    "waiting": "e.answered IS NULL AND e.due >= :now",
    "missing": "e.answered IS NULL AND e.due < :now",
    "late": "e.answered IS NOT NULL",
}

_STANDING = """
SELECT sum(CASE WHEN accepted IS NULL AND answered IS NULL AND due >= :now THEN 1 ELSE 0 END),
  sum(CASE WHEN accepted IS NULL AND answered IS NULL AND due < :now THEN 1 ELSE 0 END),
  sum(CASE WHEN accepted IS NULL AND answered IS NOT NULL THEN 1 ELSE 0 END), sum(CASE WHEN accepted IS NULL THEN 0 ELSE 1 END)
FROM crossfoot_expected WHERE expectation = :name
"""


def open_rows(
    connection: Connection, name: str, which: str, now: Micros, limit: int, fate: Fate | None = None
) -> list[OpenRow]:
    """Messages that are `waiting`, `missing` or `late`, the first that were due first; those of one fate where it is named."""
    parameters = {"name": name, "now": now, "limit": limit, "fate": None if fate is None else fate.value}
    sql = _OPEN.format(which=_WHICH[which])
    return [OpenRow(*row) for row in connection.execute(sql, parameters)]


def standing(connection: Connection, name: str, now: Micros) -> tuple[int, int, int, int]:
    """How many are waiting, missing, late, and accepted."""
    row = connection.execute(_STANDING, {"name": name, "now": now}).fetchone()
    return int(row[0] or 0), int(row[1] or 0), int(row[2] or 0), int(row[3] or 0)
