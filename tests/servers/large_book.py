"""A book and a queue of a million messages in PostgreSQL, as a service leaves them: made in one go, and analysed.

Most messages are settled; a few are of every other fate. Rows are written before the indexes are made, and the tallies are added
up here. Digests are no digests of the identities, so this is a book for plans and times and not for `verify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg

from crossfoot.books import cutting
from crossfoot.books.entry import RANKS, Kind
from crossfoot.books.fate import Fate
from crossfoot.books.measures import MEASURED_KINDS, entry_measure, fate_measure
from crossfoot.books.ranges import LEAST, LOWEST, Cut, Range, quiet_below

HOUR = 3_600 * 1_000_000
NOW = 1_790_000_000 * 1_000_000
"""When it is looked at; the last message was published a second before."""

Fact = tuple[Kind, int]

HAPPY: tuple[Fact, ...] = ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.COMMITTED, 1), (Kind.ACKED, 1))

OTHERS: tuple[tuple[Fate, tuple[Fact, ...]], ...] = (
    (Fate.QUEUED, ((Kind.PUBLISHED, 0),)),
    (Fate.PROCESSING, ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1))),
    (Fate.RETRYING, ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.FAILED, 1))),
    (Fate.DEAD, ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.FAILED, 1), (Kind.DEAD_LETTERED, 1))),
    (Fate.PARKED, ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.PARKED, 1))),
    (Fate.NOOP, ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.NOOP, 1), (Kind.ACKED, 1))),
    (Fate.VANISHED, ((Kind.PUBLISHED, 0), (Kind.VANISHED, 0))),
)
"""What the few went through."""

EVERY = 250
"""One message in so many is one of the others."""

WAITING = 50_000
"""Messages that still lie in the outbox, as after an hour without the broker; half of them due."""


RANGES = 8
"""How many ranges their keys lie in, about."""


def fill(url: str, messages: int) -> None:
    """Fill the empty tables of a book, and of its queue, with `messages` each. Half a minute for a million, on two cores."""
    _cut(url, messages)
    first, *others, last = _statements(messages)
    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(_write, url, some) for some in ([first], others)]:
            done.result()
    _write(url, [last])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        # A server does not analyze the whole by itself, which is in ranges; it knows of each range only.
        connection.execute(
            "DELETE FROM pg_statistic WHERE stainherit AND starelid::regclass::text ~ '^crossfoot_(entries|payloads)$'"
        )


def ranges(messages: int) -> list[Range]:
    """Those that such a book has beside the first one; the last is still ahead."""
    found = [Range(LEAST + 1, 2 * LEAST + 1)]  # there from the beginning
    while found[-1].lower <= messages:
        found.append(Range(found[-1].upper, found[-1].upper + max(messages // RANGES, LEAST)))
    return found


def _cut(url: str, messages: int) -> None:
    """All but the last two ranges that have begun are quiet."""
    made = ranges(messages)
    quiet = quiet_below(Cut(ranges=(Range(LOWEST, made[0].lower), *made), next_key=messages + 1))
    with psycopg.connect(url) as connection:
        for one in made[1:]:
            for table in cutting.CUT:
                for statement in cutting.statements(table, one):
                    connection.execute(statement.encode())
        connection.execute(
            "INSERT INTO crossfoot_facts (name, value) VALUES ('quiet', %s), ('quieting', %s)", (quiet, f"{quiet}:3")
        )


def _write(url: str, statements: Sequence[str]) -> None:
    tables = {statement.split()[2] for statement in statements if statement.startswith("INSERT")}
    with psycopg.connect(url) as connection:
        for setting in ("session_replication_role = replica", "maintenance_work_mem = '256MB'", "work_mem = '64MB'"):
            connection.execute(f"SET {setting}".encode())
        indexes = connection.execute(
            """SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
            WHERE c.relname = ANY(%s) AND NOT EXISTS (SELECT 1 FROM pg_constraint o WHERE o.conindid = i.indexrelid)""",
            (list(tables),),
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}".encode())
        for statement in statements:
            connection.execute(statement.encode())
        for _, definition in indexes:
            connection.execute(definition.replace(" ON ONLY ", " ON ").encode())


def identity(number: int) -> str:
    """The id of a message."""
    return f"{number:08x}-0000-7000-8000-{number:012x}"


def _statements(messages: int) -> list[str]:
    numbers = f"FROM generate_series(1, {messages}) AS n"
    at = f"({NOW} - ({messages} - n + 1) * {24 * HOUR // messages}::bigint)"
    other = f"(CASE WHEN mod(n, {EVERY}) = 0 THEN 1 + mod(n / {EVERY}, {len(OTHERS)}) ELSE 0 END)"
    ways = ((Fate.SETTLED, HAPPY), *OTHERS)
    entries = ", ".join(
        f"({way}, {turn}, {kind.value}, {attempt})"
        for way, (_, facts) in enumerate(ways)
        for turn, (kind, attempt) in enumerate(facts)
    )
    standing = ", ".join(
        f"({way}, {fate.value}, {sum({1 << kind for kind, _ in facts})}, {max(a * RANKS + k for k, a in facts)})"
        for way, (fate, facts) in enumerate(ways)
    )
    fates = " ".join(f"WHEN {fate.value} THEN '{fate_measure(fate)}'" for fate in Fate)
    kinds = ", ".join(f"({kind.value}, '{entry_measure(kind)}')" for kind in MEASURED_KINDS)
    parked = 1 + [fate for fate, _ in OTHERS].index(Fate.PARKED)
    xid = f"(100 + n::bigint * 300 / {messages})::text::xid8"  # in the order of transactions of long ago; a new server begins at 480
    return [
        f"""INSERT INTO crossfoot_entries (message, kind, attempt, delivery, at, due, worker, cause, details, xid)
        SELECT n, w.kind, w.attempt, CASE WHEN w.attempt > 0 THEN 4294967296 + n ELSE 0 END, {at} + w.turn * 2000,
          CASE WHEN w.kind < 9 THEN {at} + 30000000 END, 1, CASE WHEN w.kind = {Kind.FAILED.value} THEN '0badc0ffee00' END,
          CASE WHEN w.kind = {Kind.COMMITTED.value} THEN '{{"rows":1}}' END, {xid}
        {numbers} JOIN (VALUES {entries}) AS w (way, turn, kind, attempt) ON w.way = {other} ORDER BY n, w.turn""",
        f"""INSERT INTO crossfoot_records (key, queue, source, id, type, subject, operation, correlation, causation, sequence, at, bucket,
          d0, d1)
        SELECT n, CASE WHEN mod(n, 11) = 0 THEN 'letters' ELSE 'billing' END, 'tests', lpad(to_hex(n), 8, '0') || '-0000-7000-8000-' ||
          lpad(to_hex(n), 12, '0'), (ARRAY['case.opened', 'case.changed', 'case.billed'])[1 + mod(n, 3)],
          'case-' || CASE WHEN mod(n, 100) = 0 THEN 0 ELSE n / 5 END, 'bill:' || n, 'flow-' || n / 10, CASE WHEN mod(n, 10) > 0 THEN
          lpad(to_hex(n - 1), 8, '0') || '-0000-7000-8000-' || lpad(to_hex(n - 1), 12, '0') END, n, {at},
          {at} / 1000000 / 60 * 60, n, n * 7 {numbers}""",
        f"INSERT INTO crossfoot_payloads (key, body) SELECT n, repeat('x', 200)::bytea {numbers}",
        f"""INSERT INTO crossfoot_states (key, marks, latest, due, fate)
        SELECT n, w.marks, w.latest, {at} + 30000000, w.fate
        {numbers} JOIN (VALUES {standing}) AS w (way, fate, marks, latest) ON w.way = {other} ORDER BY n""",
        f"""INSERT INTO crossfoot_operations (key, message, kind, at, xid) SELECT 'bill:' || n, n, {Kind.COMMITTED.value}, {at}, {xid}
        {numbers} WHERE {other} = 0""",
        f"""INSERT INTO crossfoot_outcomes (message, name, subject, at) SELECT n, 'invoice.issued', 'case-' || n / 5, {at}
        {numbers} WHERE {other} = 0""",
        "INSERT INTO crossfoot_causes VALUES ('0badc0ffee00', 'ValueError', 'ValueError at billing:bill', 'billing:bill', 1)",
        "INSERT INTO crossfoot_workers VALUES (1, 'billing-1', 'billing', 'host', 1, '0', 1, 1, NULL)",
        f"""INSERT INTO crossfoot_outbox (message, queue, identity, body, partition, due, claim)
        SELECT n, CASE WHEN mod(n, 11) = 0 THEN 'letters' ELSE 'billing' END, 'tests|' || n, repeat('x', 200)::bytea, 'case-' || n / 5,
          {NOW} + (mod(n, 2) * 2 - 1) * {HOUR}::bigint, CASE WHEN mod(n, 500) = 0 THEN 'claimed' END
        FROM generate_series(1, {WAITING}) AS n""",
        f"""INSERT INTO crossfoot_parked SELECT 'bill', 'case-' || n / 3, n, n * {EVERY}, n - 1, 1, {NOW} + n, ''::bytea, NULL
        FROM generate_series(1, {messages // EVERY}) AS n WHERE 1 + mod(n, {len(OTHERS)}) = {parked}""",
        """INSERT INTO crossfoot_parked SELECT 'letter', 'case-' || n / 3, n, n, n - 1, 1, 0, ''::bytea, NULL
        FROM generate_series(1, 20000) AS n""",
        f"INSERT INTO crossfoot_sequences SELECT 'bill', 'case-' || n, 5, 1 FROM generate_series(1, {messages // 5}) AS n",
        f"""INSERT INTO crossfoot_tallies (bucket, queue, type, measure, count, d0, d1)
        SELECT bucket, queue, type, CASE fate {fates} END, count(*), sum(d0), sum(d1) FROM crossfoot_messages GROUP BY 1, 2, 3, 4
        UNION ALL SELECT bucket, queue, type, 'operation', count(*), sum(d0), sum(d1) FROM crossfoot_messages
        WHERE fate = {Fate.SETTLED.value} GROUP BY 1, 2, 3
        UNION ALL SELECT bucket, queue, type, k.measure, count(*), sum(d0), sum(d1) FROM crossfoot_messages
        JOIN (VALUES {kinds}) AS k (kind, measure) ON (marks & (1::bigint << k.kind)) <> 0 GROUP BY 1, 2, 3, 4""",
        f"SELECT setval(pg_get_serial_sequence('crossfoot_records', 'key'), {messages})",
        f"""INSERT INTO crossfoot_queue (key, place, enqueued_at, due_at, attempts, state, rank, priority, queue, message, line, body)
        SELECT n, 100 + n::bigint * 500 / {messages}, now(), now(), 0,
          CASE WHEN mod(n, 50) = 0 THEN 1 WHEN mod(n, 51) = 0 THEN 3 WHEN mod(n, 1000) = 1 THEN 4 ELSE 0 END, 10, 0, 'orders',
          'tests|' || n, CASE WHEN mod(n, 2) = 0 THEN 'case-' || n END, repeat('x', 200)::bytea {numbers}""",
        f"SELECT setval('crossfoot_queue_key', {messages})",
        """INSERT INTO crossfoot_facts (name, value) SELECT 'posted entries', max(xid::text) || ':' || max(id) FROM crossfoot_entries
        UNION ALL SELECT 'posted operations', max(xid::text) || ':' || max(number) FROM crossfoot_operations
        UNION ALL SELECT 'closed', max(key) || ':' || count(*) FROM crossfoot_records""",
    ]  # fmt: skip
