"""A book whose tables were never made, or were removed: commands and workers say so in a sentence, with what to do, and no traceback."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from crossfoot import Crossfoot
from crossfoot.books.store import Book
from crossfoot.cli import run
from crossfoot.connection import Connection, is_postgres
from crossfoot.errors import SchemaMismatch
from tests.acceptance.shell import crossfoot

pytest_plugins = ["tests.servers.postgres_fixtures"]
pytestmark = pytest.mark.server

SECRET = "let-me-in"

BILLING = """\
from crossfoot import Crossfoot
app = Crossfoot("billing")

@app.handler("case.released")
def bill(message, tx):
    tx.outcome("invoice.issued")
"""

READERS = {
    "balance": ["balance"], "balance without queues": ["balance", "--no-queue"], "why": ["why", "case-1"], "verify": ["verify"],
    "tail": ["tail", "-F"], "dead": ["dead", "list"], "metrics": ["metrics"], "discard": ["discard", "one", "--reason", "a typo"],
}  # fmt: skip
PROGRAMS = {
    "worker": ["worker", "billing:app", "--until-idle"],
    "publish": ["publish", "billing:app", "case.released"],
    "processes": ["worker", "billing:app", "--until-idle", "--processes", "2"],
}


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "billing.db")
    url: str = request.getfixturevalue("postgres_url")
    user, _, place = url.removeprefix("postgresql://").partition("@")
    return f"postgresql://{user.partition(':')[0]}:{SECRET}@{place}"


def remove(connection: Connection) -> None:
    """All that the book knows by, but the word which version it is of."""
    tables = "entries outbox operations tallies facts workers causes "
    tables += "records payloads states" if connection.dialect == "postgres" else "messages"
    for table in tables.split():
        more = " CASCADE" if connection.dialect == "postgres" else ""
        connection.execute(f"DROP TABLE IF EXISTS crossfoot_{table}{more}")


@pytest.fixture
def removed(address: str) -> str:
    """A book of which nothing but its version is left."""
    book = Book(address).open()
    with book.writing() as connection:
        remove(connection)
    book.close()
    return address


def check(told: str, address: str) -> None:
    assert "Traceback" not in told, told
    assert SECRET not in told, told
    where = address.rpartition("/")[2].partition("?")[0]
    assert where in told, told
    assert "crossfoot worker MODULE:NAME" in told, told


@pytest.mark.parametrize("arguments", READERS.values(), ids=READERS)
def test_a_command_names_the_book_whose_tables_are_gone(
    removed: str, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    code = run([*arguments, "--db", removed])
    out, err = capfd.readouterr()
    assert (code, out) == (2, ""), (out, err)
    assert err.count("\n") == 1, err
    check(err, removed)


@pytest.mark.parametrize("arguments", READERS.values(), ids=READERS)
def test_a_command_says_who_makes_a_book_that_was_never_made(
    address: str, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    if not is_postgres(address):
        sqlite3.connect(address).execute("CREATE TABLE invoices (number INTEGER)").connection.close()
    capfd.readouterr()
    code = run([*arguments, "--db", address])
    out, err = capfd.readouterr()
    assert (code, out) == (2, ""), (out, err)
    assert "holds no book yet" in err
    check(err, address)


@pytest.mark.parametrize("arguments", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_that_writes_names_it_too(removed: str, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "billing.py").write_text(BILLING, encoding="utf-8")
    done = crossfoot(tmp_path, *arguments, code=2, CROSSFOOT_DATABASE=removed)
    check(done.stderr, removed)


def test_a_worker_whose_tables_are_removed_while_it_runs_stops_and_says_so(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Crossfoot("billing", database=address)

    @app.handler("case.released")
    def bill(message: Any, tx: Any) -> None:
        tx.outcome("invoice.issued")

    ready = threading.Event()

    def remove_them() -> None:
        assert ready.wait(60)
        with closing(Book(address).open()) as book, book.writing() as connection:
            remove(connection)

    ledgers: list[Book] = []

    def another() -> Book:
        ledgers.append(Book(address).open())
        return ledgers[-1]

    async def work() -> None:
        monkeypatch.setattr(app.book, "another", another)
        worker = app.worker(wait=0.05)
        worker.on_ready = ready.set
        with anyio.fail_after(60):
            await worker.run()

    remover = threading.Thread(target=remove_them)
    remover.start()
    try:
        with pytest.raises(SchemaMismatch) as told:
            anyio.run(work)
    finally:
        remover.join()
        anyio.run(app.aclose)
    check(str(told.value), address)
    assert ledgers
    assert not any(ledger.is_open for ledger in ledgers), "a connection of its own to the book was left open"
