"""The statements of the hot path find their rows through an index, in a book of a realistic size."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from crossfoot.books import custody, horizon, queries, sql
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.posting import post_all
from crossfoot.books.stock import take_stock
from crossfoot.books.store import Book
from crossfoot.dialect import translate
from tests.servers.postgres import Postgres, fresh_database

pytest_plugins = ["tests.servers.postgres_fixtures"]
pytestmark = [pytest.mark.server, pytest.mark.slow]

MESSAGES = 100_000

FILL = (
    f"""
INSERT INTO crossfoot_messages (queue, source, id, type, subject, operation, at, bucket, d0, d1, marks, latest, due, fate)
SELECT 'billing', 'tests', 'message-' || n, 'case.released', 'case-' || n, 'bill:' || n, n * 1000000::bigint, n / 60 * 60, n, n,
  {1 << Kind.PUBLISHED | 1 << Kind.RECEIVED | 1 << Kind.COMMITTED | 1 << Kind.ACKED}, 32 + {Kind.ACKED.value}, 0, {Fate.SETTLED.value}
FROM generate_series(1, {MESSAGES}) n
""",
    *(
        f"""
INSERT INTO crossfoot_entries (message, kind, attempt, delivery, at, worker)
SELECT n, {kind.value}, {attempt}, n, n * 1000000::bigint, 1 FROM generate_series(1, {MESSAGES}) n
"""
        for kind, attempt in ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.COMMITTED, 1), (Kind.ACKED, 1))
    ),
    f"""
INSERT INTO crossfoot_operations (key, message, kind, at)
SELECT 'bill:' || n, n, {Kind.COMMITTED.value}, n FROM generate_series(1, {MESSAGES}) n
""",
    """
INSERT INTO crossfoot_outbox (message, queue, identity, body, due)
SELECT n, 'billing', 'tests|message-' || n, '', n FROM generate_series(1, 20000) n
""",
)


@pytest.fixture(scope="module")
def book(postgres: Postgres) -> Iterator[Book]:
    with fresh_database(postgres) as url:
        made = Book(url).open()
        for statement in FILL:
            with made.writing() as connection:
                connection.execute(statement)
        made.connection.execute("VACUUM ANALYZE")
        yield made
        made.close()


def plan(book: Book, statement: str, parameters: Any) -> str:
    connection: Any = book.connection
    return "\n".join(row[0] for row in connection.raw.execute(b"EXPLAIN " + translate(statement), parameters))


NOBODY = [None] * (3 * sql.GROUP - 3)

HOT: Sequence[tuple[str, Any]] = (
    (sql.FIND_MESSAGE, ("message-1", "tests", "billing")),
    (sql.FIND_MESSAGES, ["message-1", "tests", "billing", *NOBODY]),
    (sql.FIND_OPERATIONS, ["bill:1", *[None] * (sql.GROUP - 1)]),
    (sql.FIND_OPERATION, ("bill:1",)),
    (sql.FIND_COMPLETED, (1,)),
    (sql.LAST_ATTEMPT, (1,)),
    (sql.COUNT_ENDS, (1, 0)),
    (sql.FIND_PROOF, (1,)),
    (sql.OUTBOX_DUE, {"now": 1, "queue": "billing"}),
    (queries._LATEST_CAUSE.strip().strip("()").replace("m.key", "1"), ()),
    (custody.OUTGOING + custody.BELIEVED, ("billing",)),
    (horizon._NEXT_ENTRIES, {"after": "999999999:1", "group": 5_000}),
    (horizon._NEXT_OPERATIONS, {"after": "999999999:1", "group": 5_000}),
    (horizon._WAITING, {"entries": "999999999:1", "operations": "999999999:1"}),
    (horizon._MOVED, {"entries": "3:1"}),
    (queries._NEWEST, ()),
    (
        queries._AFTER,
        {"number": 5, "upto": 10, "limit": 10, "type": None, "subject": None, "queue": None, "kind": None},
    ),
)


@pytest.mark.parametrize(("statement", "parameters"), HOT, ids=[" ".join(text.split())[:60] for text, _ in HOT])
def test_no_statement_reads_a_large_table_as_a_whole(book: Book, statement: str, parameters: Any) -> None:
    told = plan(book, statement, parameters)
    scanned = set(re.findall(r"Seq Scan on (crossfoot_(?:messages|entries|operations))", told))
    assert not scanned, told


@pytest.mark.parametrize("kind", queries.KINDS_OF_NAME)
def test_no_way_of_finding_reads_all_messages(book: Book, kind: str) -> None:
    connection: Any = book.connection
    begun = time.perf_counter()
    for _ in range(20):
        queries.named(connection, kind, "tests|message-5", 10)
    assert (time.perf_counter() - begun) / 20 < 0.05


def test_posting_a_backlog_takes_time_in_proportion_and_a_balance_takes_little(book: Book) -> None:
    begun = time.perf_counter()
    taken = post_all(book)
    posting = time.perf_counter() - begun
    assert taken == 4 * MESSAGES + MESSAGES
    assert posting < 60
    begun = time.perf_counter()
    balance = take_stock(book.connection, book.clock.now(), depth_of=None)
    assert time.perf_counter() - begun < 5
    assert balance.waiting == 0
