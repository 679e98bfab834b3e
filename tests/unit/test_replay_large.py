"""A plan of a hundred thousand members: in parts, with progress, in seconds; in SQLite and in PostgreSQL.

The bound is several times what a quiet machine takes (see docs/benchmarks.md): what it catches is a plan that goes row by row, or that
reads a table as a whole for every part.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossfoot.books import replays
from crossfoot.books.digest import lanes
from crossfoot.books.entry import Kind
from crossfoot.books.posting import post_all
from crossfoot.books.record import bucket_of
from crossfoot.books.store import Book
from crossfoot.clock import SECOND
from crossfoot.effects.handler import Handler
from crossfoot.effects.operation import operation_key
from crossfoot.message import Message, encode
from crossfoot.recover.replay.planning import Asked, Planner, found
from crossfoot.recover.replay.report import report
from crossfoot.recover.replay.selection import Selection, select
from crossfoot.worker.registry import Registry

pytest_plugins = ["tests.servers.postgres_fixtures"]

MEMBERS = 100_000
BEGIN = 1_770_000_000 * SECOND
SECONDS = 60.0
DIED = ((Kind.PUBLISHED, 0), (Kind.RECEIVED, 1), (Kind.FAILED, 1), (Kind.DEAD_LETTERED, 1))


def fill(book: Book, count: int) -> None:
    """So many dead letters; one in a thousand asks for what another one has completed."""
    messages, entries = [], []
    for number in range(1, count + 1):
        id_, at, subject = f"dead-{number}", BEGIN + number, f"case-{number}"
        body = encode(Message(type="case.died", source="tests", id=id_, subject=subject, data={"amount": number}))
        names = ("billing", "tests", id_, "case.died", subject, f"bill:{subject}")
        messages.append((number, *names, at, bucket_of(at), *lanes(f"tests|{id_}"), body))
        entries += [
            (number, int(kind), attempt, 1, at, 0, f"cause-{number % 3}" if kind >= Kind.FAILED else None)
            for kind, attempt in DIED
        ]
    with book.writing() as connection:
        columns = "key, queue, source, id, type, subject, operation, at, bucket, d0, d1"
        if connection.dialect == "postgres":
            connection.executemany(
                f"INSERT INTO crossfoot_records ({columns}) VALUES ({', '.join('?' * 11)})",
                [row[:-1] for row in messages],
            )
            connection.executemany(
                "INSERT INTO crossfoot_payloads (key, body) VALUES (?, ?)", [(row[0], row[-1]) for row in messages]
            )
        else:
            connection.executemany(
                f"INSERT INTO crossfoot_messages ({columns}, body) VALUES ({', '.join('?' * 12)})", messages
            )
        connection.executemany(
            "INSERT INTO crossfoot_entries (message, kind, attempt, delivery, at, worker, cause) VALUES (?, ?, ?, ?, ?, ?, ?)",
            entries,
        )
        done = [
            (f"bill:case-{number}", -number, int(Kind.COMMITTED), BEGIN) for number in range(1_000, count + 1, 1_000)
        ]
        connection.executemany("INSERT INTO crossfoot_operations (key, message, kind, at) VALUES (?, ?, ?, ?)", done)
    post_all(book)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.server)])
def book(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Book]:
    place = request.getfixturevalue("postgres_url") if request.param == "postgres" else tmp_path / "book.db"
    made = Book(place, synchronous="OFF" if request.param == "sqlite" else "NORMAL").open()
    fill(made, MEMBERS)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_plan_of_a_hundred_thousand_takes_seconds_and_tells_how_far_it_is(book: Book) -> None:
    registry = Registry()
    key = operation_key("bill:{subject}", handler="bill")
    registry.add(Handler(name="bill", service="tests", type="case.*", function=lambda message, tx: None, operation=key))
    asked = Asked(selection=Selection(), by="tests", why="to know how long it takes")
    told: list[tuple[int, int]] = []
    began = time.monotonic()
    with book.reading() as connection, connection.snapshot():
        keys, _ = select(connection, "billing", asked.selection)
    number = Planner(book, "billing", registry).plan(keys, asked, lambda done, total: told.append((done, total)))
    took = time.monotonic() - began

    assert took < SECONDS
    assert told[-1] == (MEMBERS, MEMBERS)
    assert len(told) >= 20
    with book.reading() as connection, connection.snapshot():
        planned = report(connection, found(connection, number))
    assert (planned.members, planned.unchanged) == (MEMBERS, True)
    classes = {line.name: line.count for line in planned.classes}
    assert classes == {replays.READY: MEMBERS - MEMBERS // 1_000, replays.COMPLETED: MEMBERS // 1_000}
    by_cause = Selection(causes=("cause-1",))
    with book.reading() as connection, connection.snapshot():
        some, _ = select(connection, "billing", by_cause)
    assert len(some) == sum(number % 3 == 1 for number in range(1, MEMBERS + 1))
