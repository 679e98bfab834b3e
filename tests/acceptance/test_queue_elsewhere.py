"""A book in PostgreSQL whose queue lies elsewhere, named by the program alone: commands that read know that it does."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from crossfoot import Crossfoot
from crossfoot.books.store import Book
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.postgres import ensure
from tests.acceptance.shell import BIN, ENVIRONMENT, SECONDS

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [pytest.mark.anyio, pytest.mark.server, pytest.mark.xdist_group("postgres")]


def asked(*words: str) -> subprocess.CompletedProcess[str]:
    """A command with no setting but the book's address."""
    return subprocess.run(
        [BIN / "crossfoot", *words], capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=SECONDS
    )


def letters(folder: Path) -> EmbeddedQueue:
    """A queue in a file of its own."""
    Book(folder / "queue.db").open().close()
    return EmbeddedQueue(folder / "queue.db", "letters")


async def elsewhere(url: str, tmp_path: Path) -> Crossfoot:
    """A service whose queue is no table of its database, with one message in it."""
    app = Crossfoot("billing", database=url, queue=letters(tmp_path))
    await app.publish("case.released", subject="case-1")
    await app.aclose()
    return app


class TestAQueueThatNoSettingLeadsTo:
    async def test_it_is_not_looked_for_beside_the_book(self, postgres_url: str, tmp_path: Path) -> None:
        await elsewhere(postgres_url, tmp_path)
        done = asked("balance", "--db", postgres_url, "--json")
        told = json.loads(done.stdout)["identities"]["holdings"]
        assert done.returncode == 0, done.stderr
        assert (told["holds"], "no setting leads to it" in str(told)) == (None, True)

    async def test_what_it_holds_is_not_missed_beside_the_queues_that_do_lie_there(
        self, postgres_url: str, tmp_path: Path
    ) -> None:
        await ensure("orders", url=postgres_url)
        await elsewhere(postgres_url, tmp_path)
        done = asked("balance", "--db", postgres_url, "--json")
        assert (done.returncode, json.loads(done.stdout)["identities"]["holdings"]["holds"]) == (0, None)
        found = asked("check", "--db", postgres_url)
        assert "books-differ" not in found.stdout
        assert "queue letters (no setting leads to it)" in found.stdout

    async def test_one_beside_the_book_is_compared_as_ever(self, postgres_url: str) -> None:
        app = Crossfoot("billing", database=postgres_url)
        await app.publish("case.released", subject="case-1")
        await app.aclose()
        holdings = json.loads(asked("balance", "--db", postgres_url, "--json").stdout)["identities"]["holdings"]
        assert holdings["holds"] is True


class TestAWorker:
    async def test_it_notes_where_its_queues_lie(self, postgres_url: str, tmp_path: Path) -> None:
        app = Crossfoot("billing", database=postgres_url, queue=letters(tmp_path))
        app.handler("case.released", name="bill")(lambda message, tx: tx.outcome("invoice.issued"))
        await app.worker().run(until_idle=True)
        with app.book.reading() as connection:
            rows = connection.execute("SELECT value FROM crossfoot_facts WHERE name = 'where queue letters lies'")
            assert rows.fetchall() == [("sqlite",)]
        await app.aclose()
