"""Making the ranges of a book in PostgreSQL (see `ranges`), beside those who write it.

*Nobody who writes depends on it.* Keys that no range takes in lie in a table of their own, the rest, which is found by key like any other.
To attach a range locks the rest, and nothing that is written while all goes well. It is asked for with little patience, and given up
when it takes long, for there is time: a whole range is ahead. Only a row that is on its way into the rest while it becomes the new
range's would be refused; so no range is made near the keys that are given, and it is looked once more before the end. Each step is one
transaction, so a maker that is killed leaves nothing.

*A range becomes quiet* when two others have begun. Posting reads in the order of transactions, which is another one than that of
keys, and would have to look into every range, for a redelivery after a year. So an entry that is added to a quiet range leaves a note,
by a trigger, in its own transaction, and posting looks no further down than the lowest note. Whoever was writing there when the
trigger was made has ended, which its lock sees to; below the next transaction's number of that moment everything is posted before
the range is left out. A note goes when its transaction is posted. Keys below the bound that lie in the rest leave notes as well.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import closing

import msgspec
import psycopg

from crossfoot.books.ranges import LEAST, LOWEST, Cut, Range, Since, left_over, noted, quiet_below, wanted
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.errors import Conflict, DatabaseUnavailable

logger = logging.getLogger("crossfoot.book")

CUT = {"crossfoot_payloads": "key", "crossfoot_entries": "message"}
"""Tables, and the columns they are cut by."""

TURN = "cutting"

PATIENCE = """
SELECT set_config('lock_timeout', '100ms', true), set_config('statement_timeout', '2s', true),
  set_config('idle_in_transaction_session_timeout', '2s', true)
"""
"""How long a step waits for a lock, how long a statement of it may take, and how long the server waits for the next one from a
maker that was stopped: so long may somebody have to wait who reads or writes the rest."""

_LOOK = """
SELECT pg_has_role(e.relowner, 'USAGE') AND has_schema_privilege(e.relnamespace, 'CREATE'), e.relowner::regrole::text,
  (SELECT coalesce(max(key), 0) + 1 FROM crossfoot_records),
  (SELECT value FROM crossfoot_facts WHERE name = 'range'),
  (SELECT max(split_part(value, ':', 1)::bigint) FROM crossfoot_facts WHERE name IN ('quiet', 'quieting')),
  ARRAY(SELECT ARRAY[c.oid::regclass::text, pg_get_expr(c.relpartbound, c.oid),
      (SELECT count(*)::text FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'crossfoot_entry_late')]
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = e.oid)
FROM pg_class e WHERE e.oid = to_regclass('crossfoot_entries')
"""

_NEXT_KEY = "SELECT last_value + CASE WHEN is_called THEN 1 ELSE 0 END FROM crossfoot_messages_key_seq"

_SERVER_TIME = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"

_USED_UPTO = "SELECT coalesce(max(key), 0) FROM crossfoot_records WHERE key < ?"

_KEEP = """
INSERT INTO crossfoot_facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""

_USE_UP = "SELECT count(nextval('crossfoot_messages_key_seq')) FROM generate_series(1, ?)"
"""One by one, which no stop between two of them can make give a key twice, as `setval` would."""

_QUIETING = """
INSERT INTO crossfoot_facts (name, value)
VALUES ('quieting', CAST(? AS TEXT) || ':' || pg_snapshot_xmax(pg_current_snapshot())::text)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""

_QUIET = """
INSERT INTO crossfoot_facts (name, value) SELECT 'quiet', split_part(q.value, ':', 1) FROM crossfoot_facts q, crossfoot_facts p
WHERE q.name = 'quieting' AND p.name = 'posted entries'
  AND split_part(p.value, ':', 1)::xid8 >= split_part(q.value, ':', 2)::xid8
  AND NOT EXISTS (SELECT 1 FROM crossfoot_facts WHERE name = 'quiet' AND value = split_part(q.value, ':', 1))
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""

_FORGET = """
DELETE FROM crossfoot_late l USING crossfoot_facts p
WHERE p.name = 'posted entries' AND l.xid < split_part(p.value, ':', 1)::xid8
"""

_BOUNDS = re.compile(r"FOR VALUES FROM \('?(MINVALUE|-?\d+)'?\) TO \('?(-?\d+)'?\)")


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What a maker finds.

    Attributes:
        may: whether this role may make tables and attach them.
        loud: ranges without the trigger that leaves notes, and their tables of entries; `rest` is the rest's.
        hushed: the bound of the ranges that are quiet or about to be.
    """

    may: bool
    owner: str
    cut: Cut
    loud: dict[Range, str]
    rest: str
    hushed: int

    @property
    def to_hush(self) -> dict[Range, str] | None:
        """Ranges that need the trigger; `None` when all that should be quiet is."""
        bound = quiet_below(self.cut)
        return {r: table for r, table in self.loud.items() if r.upper <= bound} if bound > self.hushed else None

    def asks_for_something(self, now: Micros) -> bool:
        cut = self.cut
        return bool(cut.following is None or noted(cut, now) or left_over(cut, now) or self.to_hush is not None)


def server_time(connection: Connection) -> Micros:
    """The time of the database's server. Workers whose clocks differ by weeks would end each other's ranges for ever."""
    now: Micros = connection.execute(_SERVER_TIME).fetchone()[0]
    return now


def tend(
    connection: Connection,
    another: Callable[[], Connection],
    time: Callable[[Connection], Micros],
    complain: Callable[[str], None],
) -> bool:
    """Do what there is to be done. True when something was; what could not be is tried again when this is called again.

    Args:
        connection: the book's, in no transaction.
        another: makes one for what may take a moment.
        time: tells the time that is the same for all who look after this book.
        complain: called with what a person should know.

    Raises:
        DatabaseUnavailable: the book's connection does not answer.
    """
    try:
        connection.execute(_QUIET)
        connection.execute(_FORGET)
        found, now = look(connection), time(connection)
    except Conflict:  # somebody is moving the rest into a range: at the next turn
        return False
    if not found.may:
        if found.cut.following is None:
            complain(
                f"this role may not make the next range of the book's tables: have a worker run as {found.owner}, or GRANT "
                f"{found.owner} to it, and CREATE on the schema; until then new messages lie in the rest, which is dropped with nothing"
            )
        return False
    if not found.asks_for_something(now):
        return False
    try:
        with closing(another()) as own:
            return _step(own, now)
    except Conflict:  # somebody has been reading or writing what would be locked: at the next turn
        if found.cut.current is None:
            complain(
                "the next range of the book's tables is not made, for somebody always has the rest in use; see pg_locks"
            )
    except (DatabaseUnavailable, psycopg.Error) as error:
        slow = (
            "; if the rest is large, SELECT crossfoot_rest_to_range() in a quiet hour"
            if "timeout" in str(error)
            else ""
        )
        complain(f"the ranges of the book's tables could not be looked after: {error}{slow}")
    return False


def look(connection: Connection) -> Look:
    may, owner, next_key, since, hushed, tables = connection.execute(_LOOK).fetchone()
    if may:
        next_key = connection.execute(_NEXT_KEY).fetchone()[0]
    ranges, loud, rest = [], {}, ""
    for table, bounds, triggers in tables:
        found = _BOUNDS.fullmatch(bounds)
        if found is None:
            rest = table
        else:
            lower, upper = (LOWEST if bound == "MINVALUE" else int(bound) for bound in found.groups())
            ranges.append(Range(lower, upper))
            if triggers == "0":
                loud[ranges[-1]] = table
    cut = Cut(
        ranges=tuple(sorted(ranges)),
        next_key=int(next_key),
        since=Since(*map(int, since.split(":"))) if since else None,
    )
    return Look(may=may, owner=owner, cut=cut, loud=loud, rest=rest, hushed=LOWEST if hushed is None else hushed)


def _step(connection: Connection, now: Micros) -> bool:
    """Make, note, use up and hush, each in its turn and in a transaction of its own."""
    done = False
    for step in (_make, _use_up, _hush):
        with connection.writing():
            if step is not _use_up:  # which is in nobody's way
                connection.execute(PATIENCE)
            connection.alone(TURN)
            done = step(connection, look(connection), now) or done
    return done


def _make(connection: Connection, found: Look, now: Micros) -> bool:
    cut, current = found.cut, found.cut.current
    before = cut.next_key if current is None else current.lower
    made = wanted(cut, connection.execute(_USED_UPTO, (before,)).fetchone()[0], now)
    if made is not None:
        for table in CUT:
            for statement in statements(table, made):
                connection.execute(statement)
        if connection.execute(_NEXT_KEY).fetchone()[0] > made.lower - LEAST // 2:
            raise Conflict("keys were given so fast that a row of the range may be on its way into the rest")
        logger.info("the book has a range for keys from %d until before %d", made.lower, made.upper)
    if since := noted(cut, now):
        connection.execute(_KEEP, ("range", f"{since.lower}:{since.key}:{since.at}"))
    return bool(made or since)


def statements(table: str, made: Range) -> list[str]:
    """What makes one range of a table. The table of it is made beside, so that only its attaching locks anything."""
    name = f"{table}_{made.lower}"
    return [
        f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING STORAGE)",
        *([f"ALTER TABLE {name} ADD PRIMARY KEY (xid, id)"] if table == "crossfoot_entries" else []),
        f"CREATE TRIGGER {table}_not_emptied BEFORE TRUNCATE ON {name} "
        "FOR EACH STATEMENT EXECUTE FUNCTION crossfoot_not_emptied()",
        f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({made.lower}) TO ({made.upper})",
    ]


def _use_up(connection: Connection, found: Look, now: Micros) -> bool:
    keys = left_over(found.cut, now)
    if keys:
        connection.execute(_USE_UP, (keys,))
    return keys > 0


def _hush(connection: Connection, found: Look, now: Micros) -> bool:
    tables = found.to_hush
    if tables is None:
        return False
    bound = quiet_below(found.cut)
    leave = "CREATE TRIGGER crossfoot_entry_late AFTER INSERT ON {} FOR EACH ROW {} EXECUTE FUNCTION crossfoot_entry_late({})"
    for one, table in tables.items():
        connection.execute(leave.format(table, "", f"'{one.lower}'"))
    if found.rest:
        connection.execute(f"DROP TRIGGER IF EXISTS crossfoot_entry_late ON {found.rest}")
        connection.execute(leave.format(found.rest, f"WHEN (new.message < {bound})", ""))
    connection.execute(_QUIETING, (bound,))
    return True
