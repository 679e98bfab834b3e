"""How long `why` and `balance` take on a large book: a million settled messages and a few of every other kind.

    python benchmarks/large_book.py                      make it in build/, unless it is there, and time both
    python benchmarks/large_book.py PATH --no-measure    make it only; also --messages, --others, --hours

The entries are those of the ordinary path (published, received, committed, acked). What posting makes of them is written by a few
statements over all of them, folded by the package's own rules, so a book made here passes `crossfoot verify`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from crossfoot.books.digest import lanes
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.fate import Fate, fold, posted_fate
from crossfoot.books.measures import MEASURED_KINDS, OPERATION, added_to, entry_measure, fate_measure
from crossfoot.books.record import bucket_of
from crossfoot.books.sql import INSERT_CAUSE
from crossfoot.books.store import Book
from crossfoot.clock import SECOND
from crossfoot.connection import Connection

QUEUE, SOURCE = "billing", "benchmark"
TYPES = ("case.opened", "case.changed", "case.billed")
BEGIN = 1_760_000_000 * SECOND
CHUNK = 20_000
CAUSE = ("0badc0ffee00", "ValueError", "ValueError at billing:bill", "billing:bill", BEGIN)

COLUMNS = {
    "messages": "key, queue, source, id, type, subject, correlation, sequence, at, bucket, d0, d1, body",
    "entries": "message, kind, attempt, delivery, at, due, worker, cause, details",
    "operations": "key, message, kind, at",
}

Rows = dict[str, list[tuple[object, ...]]]

Step = tuple[Kind, int]
"""A kind, and the attempt it speaks of."""

HAPPY: tuple[Step, ...] = ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.COMMITTED, 1), (Kind.ACKED, 1))
OTHERS: tuple[tuple[Step, ...], ...] = (
    ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.FAILED, 1), (Kind.RECEIVED, 2), (Kind.COMMITTED, 2), (Kind.ACKED, 2)),
    ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.NOOP, 1), (Kind.ACKED, 1)),
    ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.SUPERSEDED, 1), (Kind.ACKED, 1)),
    ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.SUPPRESSED, 1), (Kind.ACKED, 1)),
    ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.FAILED, 1), (Kind.DEAD_LETTERED, 1)),
)  # fmt: skip
"""What the few others went through. All of it is closed, because no queue stands behind this book."""


def make(path: Path, messages: int, *, others: float = 0.002, hours: float = 24.0) -> None:
    """Write a book of `messages` messages, spread evenly over `hours`; a share `others` of them not the plain way."""
    book = Book(path, synchronous="OFF").open()
    every = round(1 / others) if others else 0
    step = round(hours * 3600 * SECOND / messages)
    now = book.clock.now() - messages * step
    with book.writing() as connection:
        connection.execute(INSERT_CAUSE, CAUSE)
    worker = book.start_worker("billing-worker-1", "billing")
    book.stop_worker(worker)
    for first in range(1, messages + 1, CHUNK):
        numbers = range(first, min(first + CHUNK, messages + 1))
        with book.writing() as connection:
            for table, rows in rows_of(numbers, now, step, every, worker).items():
                marks = ", ".join("?" * (COLUMNS[table].count(",") + 1))
                connection.executemany(f"INSERT INTO crossfoot_{table} ({COLUMNS[table]}) VALUES ({marks})", rows)
        say(f"written {numbers[-1]:,} of {messages:,}")
    post_at_once(book, messages, every)
    book.close()
    print(f"\n{path}: {messages:,} messages, {path.stat().st_size / 1e6:,.0f} MB")


def post_at_once(book: Book, messages: int, every: int) -> None:
    """What posting comes to for such messages, by a few statements over all of them: ten million would be posted for an hour.

    `crossfoot verify` finds no difference in a book that is made so; try it with a small one.
    """
    paths = [_folded(path) for path in (HAPPY, *OTHERS)]
    share = max(1, every)

    def of_each(values: tuple[int, ...]) -> str:
        others = " ".join(f"WHEN {number} THEN {value}" for number, value in enumerate(values[1:]))
        plain = f"key % {share} <> 0" if every else "true"
        return f"CASE WHEN {plain} THEN {values[0]} ELSE CASE key / {share} % {len(OTHERS)} {others} END END"

    columns = zip(("marks", "latest", "due", "fate"), zip(*paths, strict=True), strict=True)
    update = f"UPDATE crossfoot_messages SET {', '.join(f'{name} = {of_each(values)}' for name, values in columns)}"
    with book.writing() as connection:  # or each row would go out of this index, one by one
        (index,) = connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'crossfoot_messages_unsettled'"
        ).fetchone()
        connection.execute("DROP INDEX crossfoot_messages_unsettled")
    for first in range(1, messages + 1, 10 * CHUNK):
        with book.writing() as connection:
            connection.execute(f"{update} WHERE key BETWEEN ? AND ?", (first, first + 10 * CHUNK - 1))
        say(f"posted {min(messages, first + 10 * CHUNK - 1):,} of {messages:,}")
    with book.writing() as connection:
        connection.execute(index)
        sums = connection.execute(
            "SELECT bucket, queue, type, marks, fate, count(*), sum(d0), sum(d1) FROM crossfoot_messages GROUP BY 1, 2, 3, 4, 5"
        ).fetchall()
        add = "INSERT INTO crossfoot_tallies (bucket, queue, type, measure, count, d0, d1) VALUES (?, ?, ?, ?, ?, ?, ?)"
        connection.executemany(
            add + added_to("tallies"),
            [
                (bucket, queue, type_, measure, *three)
                for bucket, queue, type_, marks, fate, *three in sums
                for measure in _measures(marks, fate)
            ],
        )
        for name, column, table in (("posted entries", "id", "entries"), ("posted operations", "number", "operations")):
            last = f"SELECT '{name}', CAST(max({column}) AS TEXT) FROM crossfoot_{table} WHERE true"
            connection.execute(
                f"INSERT INTO crossfoot_facts (name, value) {last} ON CONFLICT (name) DO UPDATE SET value = excluded.value"
            )


def _folded(path: tuple[Step, ...]) -> tuple[int, int, int, int]:
    """Marks, latest, due and fate of a message that went this way; nothing is due at the end of any."""
    summary = fold(Entry(message=1, kind=kind, attempt=attempt, at=0) for kind, attempt in path)
    fate = posted_fate(summary)
    assert fate is not None
    return summary.marks, summary.latest, summary.due, int(fate)


def _measures(marks: int, fate: int) -> list[str]:
    found = [entry_measure(kind) for kind in MEASURED_KINDS if marks & (1 << kind)]
    return [*found, fate_measure(Fate(fate)), *([OPERATION] if marks & (1 << Kind.COMMITTED) else [])]


def rows_of(numbers: range, begin: int, step: int, every: int, worker: int) -> Rows:
    """Messages, entries and operations, as rows of the columns in `COLUMNS`.

    Args:
        begin: microseconds since the epoch; `step` between two messages. One of `every` did not go the plain way.
    """
    rows: list[tuple[object, ...]] = []
    entries: list[tuple[object, ...]] = []
    operations: list[tuple[object, ...]] = []
    for n in numbers:
        at = begin + n * step
        identity = f"{n:08x}-0000-7000-8000-{n:012x}"
        rows.append((
            n, QUEUE, SOURCE, identity, TYPES[n % len(TYPES)], f"case-{n // 5}", f"flow-{n // 10}", n, at, bucket_of(at),
            *lanes(f"{SOURCE}|{identity}"), b'{"specversion":"1.0","data":{"amount":' + b"1" * 150 + b"}}",
        ))  # fmt: skip
        path = OTHERS[n // every % len(OTHERS)] if every and n % every == 0 else HAPPY
        entries += _entries(n, path, at, worker)
        operations += [(f"bill:{n}", n, int(kind), at) for kind, _ in path if kind in (Kind.COMMITTED, Kind.NOOP)]
    return {"messages": rows, "entries": entries, "operations": operations}


def _entries(message: int, path: tuple[Step, ...], at: int, worker: int) -> Iterator[tuple[object, ...]]:
    for number, (kind, attempt) in enumerate(path):
        due = {Kind.PUBLISHED: at, Kind.RECEIVED: at + 30 * SECOND, Kind.FAILED: at + SECOND}.get(kind)
        cause = CAUSE[0] if kind in (Kind.FAILED, Kind.DEAD_LETTERED) else None
        details = '{"rows":1}' if kind is Kind.COMMITTED else None
        delivery = worker << 32 | message if attempt else 0
        yield message, int(kind), attempt, delivery, at + number * 2_000, due, worker if attempt else 0, cause, details


def names_in(messages: int) -> dict[str, str]:
    """What such a book may be asked for, by what it is."""
    middle = messages // 2
    return {
        "id": f"{middle:08x}-0000-7000-8000-{middle:012x}", "subject": f"case-{messages // 10}", "operation": f"bill:{middle}",
    }  # fmt: skip


def measure(
    connect: Callable[[], Connection], names: dict[str, str], *, balance_goal: int = 50, repeats: int = 15
) -> None:
    """Time what a person waits for, in this process, from connecting on: medians and worst of `repeats`.

    Args:
        names: what `why` is asked for.
    """
    from crossfoot.books.stock import take_stock
    from crossfoot.recover.lookup import look_up

    now = time.time_ns() // 1000

    def balance() -> None:
        with_connection(lambda c: take_stock(c, now))

    def why(name: str) -> Callable[[], None]:
        return lambda: with_connection(lambda c: look_up(c, name, now))

    def with_connection(what: Callable[[Connection], object]) -> None:
        connection = connect()
        try:
            what(connection)
        finally:
            connection.close()

    for name, call, goal in (
        ("balance", balance, balance_goal), *((f"why <{what}>", why(name), 30) for what, name in names.items()),
        ("why <nothing>", why("nothing-of-that-name"), 30),
    ):  # fmt: skip
        times = []
        for _ in range(repeats):
            begun = time.perf_counter()
            call()
            times.append((time.perf_counter() - begun) * 1000)
        print(f"{name:18} median {statistics.median(times):7.2f} ms   worst {max(times):7.2f} ms   goal {goal} ms")


def say(text: str) -> None:
    if sys.stdout.isatty():
        print(f"\r{text:70}", end="", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, nargs="?", default=Path("build/large-book.db"))
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--others", type=float, default=0.002, help="share of messages that did not go the plain way")
    parser.add_argument("--hours", type=float, default=24.0, help="time over which they are spread")
    parser.add_argument("--no-measure", action="store_true", help="make it only")
    return parser.parse_args()


if __name__ == "__main__":
    options = _options()
    if not options.path.exists():
        options.path.parent.mkdir(parents=True, exist_ok=True)
        make(options.path, options.messages, others=options.others, hours=options.hours)
    Book(options.path).open().close()  # brings one that was made by an earlier version to this one's tables
    if not options.no_measure:
        from crossfoot.sqlite import connect

        measure(lambda: connect(options.path, read_only=True), names_in(options.messages))
