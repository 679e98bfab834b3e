"""What a person is told: which book, which command to copy, and why something is not as it looks."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from crossfoot import Crossfoot, Noop
from crossfoot.books.entry import Kind
from crossfoot.cli import run
from crossfoot.cli.output import folded
from crossfoot.clock import SECOND, SystemClock
from crossfoot.message import Message
from tests.unit.book_rig import Desk

PROGRAM = [sys.executable, "-c", "from crossfoot.cli import main; main()"]

SHOP = """
from crossfoot import Crossfoot
app = Crossfoot("shop", database="shop.db")

@app.handler("order.placed")
def place(message, tx):
    tx.outcome("placed")
"""

FAR = SHOP.replace('database="shop.db"', 'database="far.db", queue="redis://127.0.0.1:9/0/orders"')


class Told:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


class Typist:
    """Types commands in a folder of its own."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: str) -> Told:
        self._capture.readouterr()
        code = run(list(arguments))
        out, err = self._capture.readouterr()
        assert "Traceback" not in err, err
        return Told(code, out, err)


@pytest.fixture
def type_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Typist:
    for name in [name for name in os.environ if name.startswith("CROSSFOOT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return Typist(capfd)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with closing(Desk(tmp_path / "book.db")) as desk:
        desk.clock.advance((SystemClock().now() - desk.now) / SECOND)
        yield desk


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A book with one order that was placed, one that rightly was not, and one that is dead."""
    path = tmp_path / "shop.db"
    app = Crossfoot("shop", database=path, attempts=1, synchronous="NORMAL")

    @app.handler("order.*")
    def place(message: Message, tx: object) -> Noop | None:
        if message.id == "nothing":
            return Noop("no items")
        if message.id == "dead":
            raise ValueError("no such item")
        tx.outcome("placed")  # type: ignore[attr-defined] # a transaction
        return None

    async def publish() -> None:
        for id_ in ("placed", "nothing", "dead"):
            await app.publish("order.placed", id=id_, subject="order-1")

    anyio.run(publish)
    app.run(until_idle=True)
    return path


# ---- which book ------------------------------------------------------------------------------------------------------


def worker(folder: Path, *options: str, **environment: str) -> str:
    """What a worker says before it is told to stop."""
    (folder / "shop.py").write_text(SHOP)
    process = subprocess.Popen(
        [*PROGRAM, "worker", "shop:app", *options], cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("CROSSFOOT_")} | environment,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        return process.stderr.readline()
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.parametrize("options", [[], ["--processes", "2"]], ids=["one", "several"])
def test_a_worker_says_where_its_book_is(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "crossfoot.toml").write_text('database = "shop.db"')
    told = worker(tmp_path, *options)
    assert "book in shop.db;" in told


def test_a_worker_says_that_commands_look_into_another_book_and_keeps_its_password(tmp_path: Path) -> None:
    told = worker(tmp_path, CROSSFOOT_DATABASE="postgresql://anna:secret@db.example/shop")
    assert "book in shop.db (the program says so; commands look into postgresql://db.example/shop unless --db" in told
    assert "secret" not in told


def test_an_empty_name_of_a_book_is_told_as_that(type_: Typist) -> None:
    told = type_("balance", "--db", "")
    assert told.code == 2
    assert "--db is empty: name the SQLite file or the PostgreSQL URL" in told.err


# ---- which command ---------------------------------------------------------------------------------------------------


def test_commands_to_copy_name_the_book_that_was_asked(type_: Typist, shop: Path) -> None:
    assert "see crossfoot why --db shop.db placed" in type_("dead", "show", "placed", "--db", "shop.db").err
    assert "crossfoot dead list --db shop.db shows" in type_("dead", "show", "nobody", "--db", "shop.db").err


def test_what_is_kept_is_taken_back_from_the_services_own_book(type_: Typist, tmp_path: Path) -> None:
    (tmp_path / "far.py").write_text(FAR)
    told = type_("publish", "far:app", "order.placed", "--id", "o-1")
    assert told.code == 1
    command = re.search(r"take it back: (.*)$", told.err.strip())
    assert command is not None
    assert command[1] == "crossfoot discard --db far.db o-1 --reason '...'"
    assert type_(*shlex.split(command[1])[1:]).code == 0


def test_a_command_is_broken_between_words_and_can_be_copied() -> None:
    command = "crossfoot publish MODULE:NAME order.placed --source 'a shop' --id \"it's 7\" --data '{\"amount\": 120}' --db a.db"
    assert folded(command, 0) == [f"  $ {command}"]
    lines = folded(command, 40)
    assert len(lines) > 2
    assert all(len(line) <= 40 for line in lines)
    joined = "\n".join(lines).removeprefix("  $ ")
    assert shlex.split(joined.replace("\\\n", " ")) == shlex.split(command)


# ---- why -------------------------------------------------------------------------------------------------------------


def test_a_filter_that_nothing_fits_is_named(type_: Typist, shop: Path) -> None:
    told = type_("balance", "--since", "2030-01-01", "--db", "shop.db")
    assert told.code == 0
    assert "no message fits --since 2030-01-01" in told.out
    assert "nothing was ever published" not in told.out


def test_an_empty_book_is_told_as_that(type_: Typist, desk: Desk) -> None:
    assert "nothing was ever published here" in type_("balance", "--db", "book.db").out


def test_counts_that_differ_say_what_they_count(type_: Typist, shop: Path) -> None:
    told = type_("balance", "--db", "shop.db").out
    assert re.search(r"^operations +1$", told, re.MULTILINE)
    assert "by its own count of all copies that ever were: 3 accepted" in told
    assert "2 operations (those of noops, too)" in type_("verify", "--db", "shop.db").out


def test_operations_that_are_gone_break_the_identity_they_are_the_half_of(type_: Typist, shop: Path) -> None:
    with closing(sqlite3.connect(shop)) as connection, connection:
        connection.execute("DROP TABLE crossfoot_operations")
    told = type_("balance", "--db", "shop.db")
    assert told.code == 1
    assert "the table crossfoot_operations is missing, and 1 operations were counted in it" in told.out
    assert "books balance" not in told.out


def test_what_was_not_compared_stands_in_the_answer(type_: Typist, desk: Desk) -> None:
    desk.story("o-1", (Kind.PUBLISHED, 0), queue="elsewhere")
    told = type_("balance", "--db", "book.db")
    first = told.out.splitlines()[0]
    assert "the books balance" in first
    assert first.endswith("not checked: held by the queue = open and dead fates.")


def test_a_lease_that_is_over_is_not_said_to_last(type_: Typist, desk: Desk) -> None:
    late = {"due": desk.now - 5 * SECOND}
    desk.story("o-1", (Kind.PUBLISHED, 0), (Kind.RECEIVED, 1, late))
    told = type_("why", "o-1", "--db", "book.db").out
    assert told.startswith("PROCESSING: ")
    assert "its lease has been over for " in told
    assert "lasts until" not in told


def test_a_file_that_may_not_be_opened_is_not_told_as_a_folder_that_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    told = str(explained(folder))
    assert "it is a folder: name a file in it" in told
    assert "the file is there: give this user access to it" in str(explained(tmp_path / "book.db", make=True))


def explained(path: Path, *, make: bool = False) -> Exception:
    """What is said of a file that SQLite could not open: root may open every one, so the error is SQLite's, and the path ours."""
    from crossfoot.sqlite import explain

    if make:
        path.touch()
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorname = "SQLITE_CANTOPEN"
    return explain(error, str(path))
