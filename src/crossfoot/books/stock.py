"""Taking stock: everything a balance needs, read in one snapshot of the book.

The cost is that of the tallies and of whatever is not settled; settled messages are not looked at. Only where totals
differ is a bucket opened, and the ids are found by looking at its messages one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from crossfoot.books import opening, queries
from crossfoot.books.balance import JUSTIFIED, RULES, Balance, Finding, Overdue, Reading, draw_up
from crossfoot.books.contents import Contents, compare
from crossfoot.books.custody import MOST_IDS, Depth, browse, compare_parked
from crossfoot.books.digest import EMPTY, Tally
from crossfoot.books.entry import Kind
from crossfoot.books.fate import OVERDUE, PATIENCE, Fate, Patience, grace
from crossfoot.books.measures import OPERATION, fate_measure
from crossfoot.books.posting import backlog, posted
from crossfoot.books.receiving import from_afar
from crossfoot.books.record import bucket_of
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.dialect import differs

SHOWN = 5
"""Ids shown of messages that somebody should look at."""

SAMPLED = (Fate.VANISHED, Fate.DEAD, Fate.EXPIRED, Fate.REFUSED)

_UNSETTLED = f"""
FROM crossfoot_messages m INDEXED BY crossfoot_messages_unsettled WHERE m.fate <> {Fate.SETTLED.value}
"""
_CLOSED = """
(SELECT coalesce(max(split_part(value, ':', {part})::bigint), 0) FROM crossfoot_facts WHERE name = 'closed' AND CAST(:closed AS BOOLEAN))
"""
"""In PostgreSQL: key and number of the messages that posting has counted, see `closing`. 0 where nothing is taken on trust."""

_BEHIND = f"WHERE m.key > {_CLOSED.format(part=1)}"

# One by one, and by an array, which the planner takes for few: beside a third of all keys it would read all states and entries.
_STATELESS = f"""
FROM crossfoot_records m LEFT JOIN LATERAL (SELECT 1 AS known FROM crossfoot_states s WHERE s.key = m.key LIMIT 1) AS s ON true
WHERE m.key = ANY(ARRAY(SELECT m.key FROM crossfoot_records m {_BEHIND})) AND s.known IS NULL
"""

_BY_FATE = differs(
    f"SELECT m.fate, count(*) {_UNSETTLED} GROUP BY 1",
    postgres=f"""
SELECT m.fate, count(*) FROM crossfoot_states m WHERE m.fate <> {Fate.SETTLED.value} GROUP BY 1
UNION ALL SELECT 0, count(*) {_STATELESS}
""",
)
_OPEN = ", ".join(str(fate.value) for fate in Fate if not fate.closed)

_NO_ENTRY = "NOT EXISTS (SELECT 1 FROM crossfoot_entries e WHERE e.message = m.key)"

_TABLE_OF_OPERATIONS = differs(
    "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'crossfoot_operations')",
    postgres="SELECT to_regclass('crossfoot_operations') IS NOT NULL",
)

_REMOVED = "SELECT DISTINCT id FROM crossfoot_removed"

_REGISTERED = differs(
    """
SELECT coalesce((SELECT max(key) FROM crossfoot_messages)
  - (SELECT min(key) FROM (SELECT min(key) AS key FROM crossfoot_messages UNION SELECT min(lowest) FROM crossfoot_closed)) + 1, 0)
""",
    postgres=f"""
SELECT {_CLOSED.format(part=2)} + (SELECT count(*) FROM crossfoot_records m {_BEHIND})
  + (SELECT coalesce(sum(pruned), 0)::bigint FROM crossfoot_closed)
""",
)
"""SQLite gives keys without gaps, so this is the number of messages without reading them (a million take seconds, cold). Those in
the archive are among them."""

_ARCHIVED_FATES = "SELECT measure, sum(count) FROM crossfoot_archived WHERE measure LIKE 'fate %' GROUP BY measure"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of the book: one queue, one type, messages published from `since` until before `until`.

    Times are cut to whole buckets, which are a minute long.
    """

    queue: str | None = None
    type: str | None = None
    since: Micros | None = None
    until: Micros | None = None

    def where(self, table: str) -> str:
        """The condition on a table with bucket, queue and type."""
        tests = {"queue": "queue =", "type": "type =", "since": "bucket >=", "until": "bucket <"}
        stated = [f"{table}.{test} :{name}" for name, test in tests.items() if getattr(self, name) is not None]
        return " AND ".join(stated) or "TRUE"

    @property
    def parameters(self) -> dict[str, Any]:
        cut = {"since": self.since, "until": self.until}
        buckets = {name: None if at is None else bucket_of(at) for name, at in cut.items()}
        return {"queue": self.queue, "type": self.type, **buckets}


EVERYTHING = Part()


def take_stock(
    connection: Connection,
    now: Micros,
    *,
    part: Part = EVERYTHING,
    depth_of: Callable[[str], Contents | Depth | None] | None = lambda queue: None,
    patience: Patience = PATIENCE,
) -> Balance:
    """Draw up the balance as of the last posting.

    Args:
        connection: on the book, in no transaction.
        part: which part of the book is wanted. The identities `acks`, `holdings`, `parked` and `ledger` are about whole queues.
        depth_of: asks a queue that is not in this file what it holds, in numbers where it cannot be listed (`None`: nobody knows
            where it is); without it no queue is compared with what it holds.
        patience: when open messages are called overdue.
    """
    with connection.snapshot():
        sums = _sums(connection, part)
        own = {
            row[0]: dict(zip(("accepted", "acked", "removed", "dead", "expired"), row[1:], strict=True))
            for row in connection.execute(
                "SELECT queue, accepted, acked, removed, dead, expired FROM crossfoot_queue_counts"
            )
            if part.queue in (None, row[0])
        }
        queues = sorted({*sums, *own})
        waiting = backlog(connection)
        findings = [
            found for queue in queues for found in _compare(connection, queue, sums.get(queue, {}), part, waiting)
        ]
        findings += [*_operations(connection, sums), _acks(connection, part.queue)]
        if depth_of is not None:
            findings += [browse(connection, queue, now) for queue in own]
        findings += [compare_parked(connection, queue) for queue in queues]
        rows, ledger = _ledger(connection, sums, part)
        reading = Reading(
            as_of=now, posted=posted(connection), waiting=waiting, sums=sums, own=own,
            overdue=_overdue(connection, part, now, patience, OVERDUE), rows=rows, blank=_blank(connection, part),
            late_doubts=_overdue(connection, part, now, patience, (Fate.IN_DOUBT,)), sampled=_sampled(connection, part),
        )  # fmt: skip
    # Not in the snapshot: what a queue elsewhere told is compared with what was written since, too.
    findings += [
        _holdings(connection, queue, now, depth_of) for queue in queues if depth_of is None or queue not in own
    ]
    drawn = draw_up(msgspec.structs.replace(reading, findings=(*findings, ledger)))
    return msgspec.structs.replace(drawn, warnings=(*drawn.warnings, *from_afar(drawn.queues)))


def _sums(connection: Connection, part: Part) -> dict[str, dict[str, Tally]]:
    sql = f"""
    SELECT queue, measure, sum(count), sum(d0), sum(d1) FROM crossfoot_tallies t WHERE {part.where("t")} GROUP BY 1, 2
    """
    sums: dict[str, dict[str, Tally]] = defaultdict(dict)
    for queue, measure, count, d0, d1 in connection.execute(sql, part.parameters):
        sums[queue][measure] = Tally(count, d0, d1)
    return dict(sums)


def _compare(
    connection: Connection, queue: str, sums: Mapping[str, Tally], part: Part, waiting: int
) -> Iterator[Finding]:
    """The identities between tallies: by totals, then by buckets, then by ids."""
    one = msgspec.structs.replace(part, queue=queue)
    for rule in RULES:
        if rule.holds(sums):
            yield Finding(identity=rule.name, queue=queue)
        else:
            yield opening.bisect(
                connection, rule, queue, where=one.where("t"), parameters=one.parameters, waiting=waiting
            )


def _operations(connection: Connection, sums: Mapping[str, Mapping[str, Tally]]) -> Iterator[Finding]:
    """What the tallies cannot tell. Triggers take an operation that is removed off them, and go with the table itself."""
    counted = sum(one.get(OPERATION, EMPTY).count for one in sums.values())
    if counted and not connection.execute(_TABLE_OF_OPERATIONS).fetchone()[0]:
        text = (
            f"the table crossfoot_operations is missing, and {counted:,} operations were counted in it: stop the workers, which would do "
            "again what was done, and restore it from a backup"
        )
        yield Finding(identity="operations", holds=False, text=text)


def _acks(connection: Connection, queue: str | None) -> Finding:
    """Acked messages that nothing justifies. One with a proof is justified, so only the open and vanished are read."""
    sql = f"""
    SELECT m.id {_UNSETTLED} AND m.fate IN ({_OPEN}, {Fate.VANISHED.value})
      AND (m.marks & {1 << Kind.ACKED}) <> 0 AND (m.marks & {JUSTIFIED}) = 0
      AND (CAST(:queue AS TEXT) IS NULL OR m.queue = :queue)
    """
    ids = [row[0] for row in connection.execute(sql, {"queue": queue})]
    text = f"{len(ids):,} acked, and nothing in the book justifies it" if ids else ""
    return Finding(identity="acks", holds=not ids, text=text, ids=tuple(ids[:MOST_IDS]), count=len(ids))


def _holdings(
    connection: Connection, queue: str, now: Micros, depth_of: Callable[[str], Contents | Depth | None] | None
) -> Finding:
    if depth_of is None:
        return Finding(identity="holdings", queue=queue, holds=None, text="not asked")
    return compare(connection, queue, lambda: depth_of(queue), now)


def _overdue(
    connection: Connection, part: Part, now: Micros, patience: Patience, fates: Iterable[Fate]
) -> tuple[Overdue, ...]:
    """Open messages past their due time and the patience with it, by queue and posted fate."""
    found: list[Overdue] = []
    for fate in fates:
        late = f"{_UNSETTLED} AND m.fate = {fate.value} AND m.due > 0 AND m.due < :before AND {part.where('m')}"
        parameters = {"before": now - grace(fate, patience), **part.parameters}
        counts = connection.execute(f"SELECT m.queue, count(*) {late} GROUP BY 1", parameters).fetchall()
        for queue, count in counts:
            ids = connection.execute(
                f"SELECT m.id {late} AND m.queue = :of ORDER BY m.due LIMIT {SHOWN}", {**parameters, "of": queue}
            )
            found.append(Overdue(queue, fate, count, tuple(row[0] for row in ids)))
    return tuple(found)


def _sampled(connection: Connection, part: Part) -> dict[str, tuple[str, ...]]:
    """The newest ids of fates somebody should look at."""
    sql = f"SELECT m.id {_UNSETTLED} AND m.fate = :fate AND {part.where('m')} ORDER BY m.due DESC, m.key DESC LIMIT {SHOWN}"
    found = {}
    for fate in SAMPLED:
        rows = connection.execute(sql, {"fate": fate.value, **part.parameters})
        found[fate.label] = tuple(row[0] for row in rows)
    return found


def _blank(connection: Connection, part: Part) -> dict[str, tuple[str, ...]]:
    """Messages that have a row, and no entry: some boundary knew them, and nothing tells their fate."""
    found: dict[str, list[str]] = defaultdict(list)
    for queue, id_ in connection.execute(
        _blanks("m.queue, m.id", part.where("m")), {**part.parameters, "closed": True}
    ):
        found[queue].append(id_)
    return {queue: tuple(ids) for queue, ids in found.items()}


def _blanks(columns: str, where: str = "TRUE") -> str:
    return differs(
        f"SELECT {columns} {_UNSETTLED} AND m.fate = 0 AND {_NO_ENTRY} AND {where}",
        postgres=f"SELECT {columns} {_STATELESS} AND {_NO_ENTRY} AND {where}",
    )


def _ledger(connection: Connection, sums: Mapping[str, Mapping[str, Tally]], part: Part) -> tuple[int | None, Finding]:
    """Whether the tallies still speak of the rows there are; `verify` is the thorough form.

    Returns:
        The number of messages registered whose entries are posted, where the whole book is looked at.
    """
    last, posted_upto = queries.last_number(connection), posted(connection)
    if posted_upto > last:
        text = f"posted up to entry {posted_upto:,}, but the last entry is {last:,}: entries were removed; run crossfoot verify"
        return None, Finding(identity="ledger", holds=False, text=text)
    gone = connection.execute(_REMOVED).fetchall()
    if gone:
        ids = tuple(id_ for (id_,) in gone if id_ is not None)
        text = "messages or entries were removed from the book: run crossfoot verify"
        return None, Finding(identity="ledger", holds=False, text=text, ids=ids[:MOST_IDS], count=len(ids))
    if part != EVERYTHING:
        return None, Finding(identity="ledger")
    registered, wrong = _compare_messages(connection, sums, {"closed": True})
    if wrong and connection.dialect == "postgres":  # nobody is accused before all are counted again
        registered, wrong = _compare_messages(connection, sums, {"closed": False})
    text = f"{'; '.join(wrong)}: run crossfoot verify" if wrong else ""
    return registered, Finding(identity="ledger", holds=not wrong, text=text)


def _compare_messages(
    connection: Connection, sums: Mapping[str, Mapping[str, Tally]], trusted: Mapping[str, bool]
) -> tuple[int, list[str]]:
    """How many messages are registered whose entries are posted, and of which fates there are others than the tallies tell."""
    by_fate: dict[int, int] = defaultdict(int)
    for number, count in connection.execute(_BY_FATE, trusted):
        by_fate[number] += count
    numbers = {fate_measure(fate): fate.value for fate in Fate}
    for measure, count in connection.execute(_ARCHIVED_FATES):
        by_fate[numbers[measure]] += int(count)
    by_fate.pop(Fate.SETTLED.value, None)
    registered, blank = connection.execute(_REGISTERED, trusted).fetchone()[0], by_fate.pop(0, 0)
    counted = by_fate | {Fate.SETTLED.value: registered - blank - sum(by_fate.values())}
    wrong = [
        f"{tallied:,} {fate.label} by the tallies and {counted.get(fate.value, 0):,} by the messages"
        for fate in Fate
        if (tallied := sum(of.get(fate_measure(fate), EMPTY).count for of in sums.values()))
        != counted.get(fate.value, 0)
    ]
    unposted = blank - connection.execute(_blanks("count(*)"), trusted).fetchone()[0]
    return registered - unposted, wrong
