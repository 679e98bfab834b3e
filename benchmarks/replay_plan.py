"""How long the plan of a replay takes: 100,000 dead letters among a million settled messages, in SQLite.

    python benchmarks/replay_plan.py                   make the book in build/, unless it is there, and time the plan
    python benchmarks/replay_plan.py --dead 20000 --messages 100000

Every member is judged by its envelope, its payload's type and its operation key, as `crossfoot replay plan` does it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import msgspec

from benchmarks.large_book import make
from crossfoot.books.digest import lanes
from crossfoot.books.entry import Kind
from crossfoot.books.posting import post_all
from crossfoot.books.record import bucket_of
from crossfoot.books.store import Book
from crossfoot.clock import SECOND
from crossfoot.effects.handler import Handler
from crossfoot.effects.operation import operation_key
from crossfoot.message import Message, encode
from crossfoot.payload import Payload
from crossfoot.recover.replay.planning import Asked, Planner
from crossfoot.recover.replay.selection import Selection, select
from crossfoot.worker.registry import Registry

QUEUE, SOURCE, TYPE = "billing", "benchmark", "case.died"
BEGIN = 1_770_000_000 * SECOND
ROUNDS = 3
DIED = ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.FAILED, 1), (Kind.DEAD_LETTERED, 1))


class Case(msgspec.Struct):
    """What the handler takes."""

    amount: int


def kill(book: Book, count: int) -> None:
    """Add so many dead letters, of one cause in three."""
    rows, entries = [], []
    with book.writing() as connection:
        (first,) = connection.execute("SELECT coalesce(max(key), 0) + 1 FROM crossfoot_messages").fetchone()
        for number in range(count):
            id_, at, key = f"dead-{number}", BEGIN + number, first + number
            body = encode(Message(type=TYPE, source=SOURCE, id=id_, subject=f"case-{number}", data={"amount": number}))
            rows.append(
                (
                    key,
                    QUEUE,
                    SOURCE,
                    id_,
                    TYPE,
                    f"case-{number}",
                    f"bill:case-{number}",
                    at,
                    bucket_of(at),
                    *lanes(f"{SOURCE}|{id_}"),
                    body,
                )
            )
            cause = f"cause-{number % 3}"
            entries += [(key, int(kind), attempt, at, cause if kind >= Kind.FAILED else None) for kind, attempt in DIED]
        connection.executemany(
            "INSERT INTO crossfoot_messages (key, queue, source, id, type, subject, operation, at, bucket, d0, d1, body) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        connection.executemany(
            "INSERT INTO crossfoot_entries (message, kind, attempt, delivery, at, worker, cause) VALUES (?, ?, ?, 1, ?, 0, ?)",
            entries,
        )
    post_all(book)


def measure(path: Path) -> tuple[int, float]:
    """Members and seconds of one plan."""
    registry = Registry()
    registry.add(
        Handler(
            name="bill", service=SOURCE, type="case.*", function=lambda message, tx: None, payload=Payload(Case),
            operation=operation_key("bill:{subject}", handler="bill"),
        )
    )  # fmt: skip
    book = Book(path).open()
    told = 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        told += 1

    began = time.perf_counter()
    with book.reading() as connection, connection.snapshot():
        keys, _ = select(connection, QUEUE, Selection(types=(TYPE,)))
    asked = Asked(selection=Selection(types=(TYPE,)), by="benchmark", why="to know how long it takes")
    number = Planner(book, QUEUE, registry).plan(keys, asked, progress)
    took = time.perf_counter() - began
    with book.reading() as connection:
        classes = connection.execute(
            "SELECT class, count(*) FROM crossfoot_replay_members WHERE replay = ? GROUP BY class", (number,)
        ).fetchall()
    book.close()
    sys.stdout.write(f"{len(keys):,} members {dict(classes)}: {took:.2f} s, told {told} times how far it is\n")
    return len(keys), took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, default=Path("build/replay_plan.db"))
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--dead", type=int, default=100_000)
    asked = parser.parse_args()
    if not asked.path.exists():
        asked.path.parent.mkdir(parents=True, exist_ok=True)
        make(asked.path, asked.messages)
        kill(Book(asked.path, synchronous="OFF").open(), asked.dead)
    seconds = [measure(asked.path)[1] for _ in range(ROUNDS)]
    sys.stdout.write(f"median {statistics.median(seconds):.2f} s\n")


if __name__ == "__main__":
    main()
