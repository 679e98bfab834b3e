"""A large book in PostgreSQL: bytes a message of each table and its indexes, and how long `why` and `balance` take.

    python benchmarks/postgres_large_book.py                     on a server of its own, which is gone afterwards
    python benchmarks/postgres_large_book.py --messages 100000
    python benchmarks/postgres_large_book.py --url postgresql://me@host/empty

The rows are those of `large_book.py`, a million settled messages and a few of every other kind. They are copied into the tables; the
tallies are posted from them by the package's own code, so such a book passes `crossfoot verify`. Times are from connecting to
the answer.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.large_book import CAUSE, CHUNK, COLUMNS, measure, names_in, rows_of, say
from crossfoot.books.posting import GROUP, post
from crossfoot.books.sql import INSERT_CAUSE
from crossfoot.books.store import Book
from crossfoot.clock import SECOND
from crossfoot.postgres import connect
from tests.servers.postgres import postgres_running

SIZES = """
SELECT relname, pg_table_size(c.oid), pg_indexes_size(c.oid), pg_total_relation_size(c.oid)
  FROM pg_class c WHERE relname LIKE 'crossfoot%%' AND relkind = 'r' AND pg_total_relation_size(c.oid) > %s ORDER BY 4 DESC
"""

INDEXES = """
SELECT indexrelname, pg_relation_size(indexrelid) FROM pg_stat_user_indexes
 WHERE relname LIKE 'crossfoot%%' AND pg_relation_size(indexrelid) > %s ORDER BY 2 DESC
"""


def make(url: str, messages: int, *, others: float = 0.002, hours: float = 24.0) -> None:
    """Write a book of `messages` messages, spread evenly over `hours`; a share `others` of them not the plain way."""
    book = Book(url).open()
    step = round(hours * 3600 * SECOND / messages)
    begin, every = book.clock.now() - messages * step, round(1 / others) if others else 0
    with book.writing() as connection:
        connection.execute(INSERT_CAUSE, CAUSE)
    worker = book.start_worker("billing-worker-1", "billing")
    book.stop_worker(worker)
    for first in range(1, messages + 1, CHUNK):
        numbers = range(first, min(first + CHUNK, messages + 1))
        with psycopg.connect(url) as raw, raw.cursor() as cursor:
            rows = rows_of(numbers, begin, step, every, worker)
            messages_of = rows.pop("messages")
            tables = {name: (COLUMNS[name], some) for name, some in rows.items()} | {
                "records": (COLUMNS["messages"].removesuffix(", body"), [row[:-1] for row in messages_of]),
                "payloads": ("key, body", [(row[0], row[-1]) for row in messages_of]),
            }
            for table, (columns, some) in tables.items():
                with cursor.copy(f"COPY crossfoot_{table} ({columns}) FROM STDIN".encode()) as copy:
                    for row in some:
                        copy.write_row(row)
        say(f"written {numbers[-1]:,} of {messages:,}")
    total = 0
    while taken := post(book, group=4 * GROUP):
        total += taken
        say(f"posted {total:,} entries and operations")
    book.close()
    with psycopg.connect(url, autocommit=True) as raw:
        raw.execute("VACUUM ANALYZE")


def weigh(url: str, messages: int) -> None:
    """Print how many bytes of tables and indexes a message takes."""
    with psycopg.connect(url) as raw:
        sizes = raw.execute(SIZES, (messages,)).fetchall()
        indexes = raw.execute(INDEXES, (messages,)).fetchall()
        version = raw.execute("SHOW server_version").fetchone()
    print(f"\nPostgreSQL {version[0] if version else '?'}, {messages:,} messages; bytes a message:")
    for name, table, of_indexes, total in sizes:
        print(
            f"{name:32} table {table / messages:7.0f}   indexes {of_indexes / messages:7.0f}   {total / messages:7.0f}"
        )
    sums = [sum(size[column] for size in sizes) / messages for column in (1, 2, 3)]
    print(f"{'together':32} table {sums[0]:7.0f}   indexes {sums[1]:7.0f}   {sums[2]:7.0f}")
    for name, size in indexes:
        print(f"  {name:30} {size / messages:7.0f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="an empty database; otherwise a server is started for it")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--others", type=float, default=0.002, help="share of messages that did not go the plain way")
    parser.add_argument("--hours", type=float, default=24.0, help="time over which they are spread")
    return parser.parse_args()


if __name__ == "__main__":
    options = _options()
    with ExitStack() as stack:
        url = options.url or stack.enter_context(postgres_running(max_wal_size="4GB", shared_buffers="256MB")).url()
        begun = time.monotonic()
        make(url, options.messages, others=options.others, hours=options.hours)
        print(f"\nmade in {time.monotonic() - begun:.0f} s")
        weigh(url, options.messages)
        measure(lambda: connect(url), names_in(options.messages), balance_goal=100)
