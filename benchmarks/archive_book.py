"""Whether the hot book stays as large as it is when what has ended is closed, and what the archive takes.

    python benchmarks/archive_book.py                              ten days of 100,000 messages, in build/
    python benchmarks/archive_book.py --days 100 --messages 100000     ten million

Each day's messages are written as the ordinary path writes them (see `large_book`) and posted, and those of the days before are closed,
as a nightly `crossfoot close --days 1` would. The horizon, for which operation keys and tallies by the minute are kept, is three days:
from the fourth day on the book should not grow, but for its dead letters, a seal a day, and the tallies of a day.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.large_book import CAUSE, COLUMNS, names_in, rows_of
from crossfoot.books.archive.check import check
from crossfoot.books.archive.close import close
from crossfoot.books.archive.folder import Folder
from crossfoot.books.archive.past import past_of
from crossfoot.books.posting import GROUP, post
from crossfoot.books.sql import INSERT_CAUSE
from crossfoot.books.stock import take_stock
from crossfoot.books.store import Book
from crossfoot.clock import SECOND
from crossfoot.recover.lookup import look_up

DAY = 86_400 * SECOND
CHUNK = 20_000


def main(path: Path, days: int, messages: int) -> None:
    """Write, close and measure, day by day."""
    folder = Folder(Path(f"{path}.archive"))
    for old in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        old.unlink(missing_ok=True)
    shutil.rmtree(folder.path, ignore_errors=True)
    book = Book(path, synchronous="OFF").open()
    with book.writing() as connection:
        connection.execute(INSERT_CAUSE, CAUSE)
    worker = book.start_worker("billing-worker-1", "billing")
    begin = book.clock.now() - days * DAY
    print("day    messages   in the book   used pages MB   file MB   archive MB   closed in s   messages/s")
    for day in range(days):
        write(book, range(day * messages + 1, (day + 1) * messages + 1), begin, DAY // messages, worker)
        while post(book, group=20 * GROUP):
            pass
        now, begun = begin + (day + 1) * DAY, time.perf_counter()
        done = close(book, folder, now - DAY, horizon=now - 3 * DAY)
        took = time.perf_counter() - begun
        with book.reading() as connection:
            pages, free, size = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
            here = connection.execute("SELECT count(*) FROM crossfoot_messages").fetchone()[0]
        archived = sum(file.stat().st_size for file in folder.path.iterdir())
        print(
            f"{day + 1:3} {(day + 1) * messages:11,} {here:13,} {(pages - free) * size / 1e6:15.1f} {path.stat().st_size / 1e6:9.1f} "
            f"{archived / 1e6:12.1f} {took:13.1f} {done.pruned / took if done.pruned else 0:12,.0f}",
            flush=True,
        )
    sizes(book)
    ask(book, folder, days * messages)
    book.close()


def sizes(book: Book) -> None:
    """What the book's tables and indexes take: so whatever grows has a name."""
    with book.reading() as connection:
        rows = connection.execute(
            "SELECT name, sum(pgsize), sum(ncell) FROM dbstat WHERE pagetype = 'leaf' GROUP BY name ORDER BY 2 DESC LIMIT 12"
        ).fetchall()
    for name, size, cells in rows:
        print(f"{name:45} {size / 1e6:9.1f} MB {cells:12,} rows")


def write(book: Book, numbers: range, begin: int, step: int, worker: int) -> None:
    """Messages of one day."""
    for first in range(numbers.start, numbers.stop, CHUNK):
        part = range(first, min(first + CHUNK, numbers.stop))
        with book.writing() as connection:
            for table, rows in rows_of(part, begin, step, 500, worker).items():
                marks = ", ".join("?" * (COLUMNS[table].count(",") + 1))
                connection.executemany(f"INSERT INTO crossfoot_{table} ({COLUMNS[table]}) VALUES ({marks})", rows)


def ask(book: Book, folder: Folder, messages: int) -> None:
    """How long the questions take, of a message that is archived; each opens the archive anew."""

    def why(name: str) -> Callable[[], object]:
        def look() -> object:
            with book.reading() as connection:
                return look_up(connection, name, book.clock.now(), past=past_of(str(book.path), str(folder.path)))

        return look

    def balance() -> object:
        with book.reading() as connection:
            return take_stock(connection, book.clock.now(), depth_of=None)

    def verify() -> object:
        with book.reading() as connection:
            return check(connection, folder)

    asked = {f"why <{what}>": why(name) for what, name in names_in(messages).items()} | {
        "why <nothing>": why("nothing-of-that-name")
    }
    for name, call, repeats in (
        *((name, call, 9) for name, call in asked.items()),
        ("balance", balance, 9),
        ("archive verify", verify, 1),
    ):
        times = []
        for _ in range(repeats):
            begun = time.perf_counter()
            call()
            times.append((time.perf_counter() - begun) * 1000)
        print(f"{name:18} median {statistics.median(times):9.2f} ms   worst {max(times):9.2f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, nargs="?", default=Path("build/archive-book.db"))
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--messages", type=int, default=100_000, help="of one day")
    given = parser.parse_args()
    given.path.parent.mkdir(parents=True, exist_ok=True)
    main(given.path, given.days, given.messages)
