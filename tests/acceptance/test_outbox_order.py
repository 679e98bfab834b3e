"""A queue that keeps the order of a partition is sent to in that order, whatever befell the first of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from crossfoot import Crossfoot
from crossfoot.books.entry import Kind
from crossfoot.books.sql import GROUP
from crossfoot.books.store import Book
from crossfoot.clock import SystemClock
from crossfoot.effects.outbox import Outbox
from crossfoot.effects.overlong import FURTHEST
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Accepted, Doubtful, Outgoing, PublishAnswer, Refused
from tests.servers.postgres import Databases, Postgres

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = pytest.mark.anyio


class Throttled(EmbeddedQueue):
    """Refuses the first publish for now."""

    sent: list[str]
    refuse = True

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        if self.refuse:
            self.refuse = False
            return [Refused(one.key, "slow down", permanent=False) for one in messages]
        self.sent += [one.key.partition("|")[2] for one in messages]
        return await super().publish(messages)


@pytest.mark.parametrize("ordered", [True, False])
async def test_nothing_overtakes_what_was_put_off(tmp_path: Path, ordered: bool) -> None:
    Crossfoot("other", database=tmp_path / "queue.db").book.open().close()
    queue = Throttled(tmp_path / "queue.db", "billing", ordered=ordered)
    queue.sent = []
    app = Crossfoot("billing", database=tmp_path / "billing.db", queue=queue)
    for number in (1, 2):
        await app.publish(app.message("case.changed", id=f"m{number}", subject="case-1", sequence=number))
    assert waiting(app) == (["m1", "m2"] if ordered else ["m1"])
    with closing(sqlite3.connect(app.book.path)) as connection, app.transaction(connection) as tx:
        tx.send("case.changed", id="m3", subject="case-1", sequence=3)
        tx.send("case.changed", id="other", subject="case-2", sequence=1)

    outbox = Outbox(app.book, {"billing": queue})
    due(app, "m1", SystemClock().now() + FURTHEST)
    await outbox.drain(queue)
    assert queue.sent == (["other"] if ordered else ["m2", "m3", "other"])
    for id_ in ("m1", "m2"):
        due(app, id_, 0)
    while await outbox.drain(queue):
        pass
    assert queue.sent[-3:] == (["m1", "m2", "m3"] if ordered else ["m3", "other", "m1"])
    assert waiting(app) == []
    await app.aclose()


class Moody(EmbeddedQueue):
    """Takes some, refuses some for good and some for now, and of others says nothing."""

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        answers = (
            Accepted,
            lambda key: Refused(key, "never", permanent=True),
            lambda key: Refused(key, "slow down", permanent=False),
            lambda key: Doubtful(key, "no answer"),
        )
        return [answers[number % 4](one.key) for number, one in enumerate(messages)]


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where the book is."""
    if request.param == "file":
        yield str(tmp_path / "billing.db")
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    with Databases(postgres, lambda url: Book(url).open().close()).one() as url:
        yield url


@pytest.mark.server
async def test_of_many_at_once_each_is_booked_by_its_own_answer(tmp_path: Path, place: str) -> None:
    """They are numbered and taken out in groups: whose number is whose must not be mixed up."""
    Crossfoot("other", database=tmp_path / "queue.db").book.open().close()
    app = Crossfoot("billing", database=place, queue=Moody(tmp_path / "queue.db", "billing"))
    ids = [f"m{number:03}" for number in range(3 * GROUP + 7)]
    answers = await app.publish(*(app.message("case.changed", id=one, subject="case-1") for one in ids))

    assert [answer.key for answer in answers] == [f"billing|{one}" for one in ids]
    assert waiting(app) == [one for number, one in enumerate(ids) if number % 4 in {2, 3}]
    with app.book.reading() as connection:
        booked = connection.execute(
            "SELECT m.id, e.kind FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message ORDER BY m.id, e.id"
        ).fetchall()
    kinds = (Kind.PUBLISHED, Kind.REFUSED, Kind.PUT_OFF, Kind.PUBLISH_IN_DOUBT)
    assert [tuple(row) for row in booked] == [
        (one, int(kind)) for number, one in enumerate(ids) for kind in (Kind.INTENDED, kinds[number % 4])
    ]
    await app.aclose()


def waiting(app: Crossfoot) -> list[str]:
    """In the order of their numbers."""
    with app.book.reading() as connection:
        rows = connection.execute("SELECT identity FROM crossfoot_outbox ORDER BY number").fetchall()
    return [identity.partition("|")[2] for (identity,) in rows]


def due(app: Crossfoot, id_: str, at: int) -> None:
    with closing(sqlite3.connect(app.book.path)) as connection:
        connection.execute("UPDATE crossfoot_outbox SET due = ? WHERE identity = ?", (at, f"billing|{id_}"))
        connection.commit()
