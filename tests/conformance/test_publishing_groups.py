"""Many messages that are published at once are looked up and added in groups: each ends as if it had come by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossfoot.books.identity import find_or_publish
from crossfoot.books.record import Record, record_of
from crossfoot.books.sql import GROUP
from crossfoot.books.store import Book, find_or_add_all
from crossfoot.errors import IdentityTaken
from crossfoot.message import encode
from tests.conformance.database_rig import a_message
from tests.servers.postgres import Databases

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]


@pytest.fixture(params=["sqlite", "postgres"])
def book(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Book]:
    if request.param == "sqlite":
        with_file = Book(tmp_path / "book.db", synchronous="OFF").open()
        yield with_file
        with_file.close()
        return
    databases: Databases = request.getfixturevalue("furnished")
    with databases.one() as url:
        with_server = Book(url).open()
        yield with_server
        with_server.close()


def records(*ids: str, fee: int = 1) -> list[Record]:
    messages = [a_message(id=each, data={"fee": fee}) for each in ids]
    return [record_of(message, "billing", now=1, body=encode(message)) for message in messages]


def many(prefix: str, count: int = GROUP) -> list[str]:
    return [f"{prefix}{number:02}" for number in range(count)]


@pytest.mark.parametrize("others", [GROUP - 3, GROUP - 2, GROUP - 1, 2 * GROUP])
def test_a_copy_is_one_with_the_first_and_another_of_its_name_is_refused_alone(book: Book, others: int) -> None:
    first, copy, forged = records("same")[0], records("same")[0], records("same", fee=2)[0]
    with book.writing() as connection:
        found = find_or_publish(connection, [first, *records(*many("other", others)), copy, forged])
        rows = connection.execute("SELECT id FROM crossfoot_messages ORDER BY 1").fetchall()
    assert found[0] == found[-2]
    assert [place for place, each in enumerate(found) if isinstance(each, IdentityTaken)] == [len(found) - 1]
    assert [row[0] for row in rows] == [*many("other", others), "same"]


def test_two_who_add_the_same_in_opposite_orders_do_not_wait_for_each_other(furnished: Databases) -> None:
    errors: list[Exception] = []
    with furnished.one() as url:
        for number in range(5):
            early, late = many(f"{number}a"), many(f"{number}z")
            ready = threading.Barrier(2)

            def add(ids: list[str], ready: threading.Barrier = ready) -> None:
                book = Book(url).open()
                try:
                    with book.writing() as connection:
                        ready.wait(30)
                        find_or_add_all(connection, records(*ids))
                except Exception as error:  # noqa: BLE001 - what the test is about
                    errors.append(error)
                book.close()

            threads = [threading.Thread(target=add, args=(ids,)) for ids in (early + late, late + early)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert errors == []
