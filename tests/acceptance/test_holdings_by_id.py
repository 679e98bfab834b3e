"""`balance` compares what the book believes in a queue with what lies there, message by message, on real servers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import anyio.to_thread
import psycopg
import pytest

from crossfoot import Crossfoot
from crossfoot.books.posting import post_all
from crossfoot.books.stock import take_stock
from crossfoot.cli import depths
from crossfoot.clock import SECOND, Micros, SystemClock
from crossfoot.message import Message
from crossfoot.queues.postgres import ensure as make_table
from crossfoot.queues.queue import KeepsExpired
from crossfoot.queues.redis import ensure as make_stream
from tests.acceptance.service_rig import eventually
from tests.acceptance.shell import crossfoot
from tests.servers.postgres import Postgres
from tests.servers.valkey import Valkey

pytest_plugins = ["tests.servers.postgres_fixtures", "tests.servers.valkey_fixtures"]

pytestmark = [pytest.mark.anyio, pytest.mark.server, pytest.mark.xdist_group("postgres")]


class Behind(SystemClock):
    """A clock that is a minute behind: to the tolerance, whatever is written by it happened long ago."""

    def now(self) -> Micros:
        return super().now() - 60 * SECOND


class Place:
    """A queue on a server, as settings name it, and a hand that takes messages out of it behind everybody's back."""

    def __init__(self, name: str, variables: dict[str, str], take: Callable[[str], Awaitable[None]]) -> None:
        self.name, self.variables, self.take = name, variables, take

    def app(self, book: Path, service: str = "billing") -> Crossfoot:
        return Crossfoot(
            service, database=book, queue=self.variables["CROSSFOOT_QUEUE"], clock=Behind(), synchronous="NORMAL", wait=0.05,
            endpoint=self.variables["CROSSFOOT_ENDPOINT"],
        )  # fmt: skip


@pytest.fixture(params=["postgres", "valkey"])
async def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    name = f"billing-{uuid4().hex[:12]}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        await make_table(name, url=url)

        async def take(id_: str) -> None:
            async with await psycopg.AsyncConnection.connect(url) as connection:
                done = await connection.execute("DELETE FROM crossfoot_queue WHERE message LIKE %s", (f"%|{id_}",))
                assert done.rowcount == 1

    else:
        server: Valkey = request.getfixturevalue("valkey")
        url = server.url
        await make_stream(name, url=url)

        async def take(id_: str) -> None:
            with server.admin() as client:
                found = [entry for entry, fields in client.xrange(name) if id_.encode() in b" ".join(fields.values())]
                assert client.xdel(name, *found) == 1

    kind = "postgres" if request.param == "postgres" else "redis"
    variables = {"CROSSFOOT_QUEUE": f"{kind}:{name}", "CROSSFOOT_ENDPOINT": url}
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)  # for commands that are run in this process
    return Place(name, variables, take)


async def publish(app: Crossfoot, *ids: str) -> None:
    await app.publish(*(app.message("case.released", subject=f"case-{id_}", id=id_) for id_ in ids))


async def told(folder: Path, place: Place, code: int, book: str = "book.db") -> Any:
    """What `crossfoot balance` says of the queue's holdings."""

    def ask() -> Any:
        return json.loads(crossfoot(folder, "balance", "--db", book, "--json", code=code, **place.variables).stdout)

    return (await anyio.to_thread.run_sync(ask))["identities"]["holdings"]


async def test_one_message_lost_and_one_too_many_are_named_each(place: Place, tmp_path: Path) -> None:
    app, other = place.app(tmp_path / "book.db"), place.app(tmp_path / "other.db", "orders")
    await publish(app, "kept-1", "lost-1", "kept-2")
    assert (await told(tmp_path, place, 0))["notes"] == [f"{place.name}: 3 open and 0 dead, compared by id"]

    await place.take("lost-1")
    await publish(other, "strange-1")
    found = await told(tmp_path, place, 1)

    assert (found["holds"], found["ids"], found["count"]) == (False, ["lost-1"], 1), "by count nothing is missing"
    assert found["unknown"] == ["orders|strange-1"]
    assert "taken by a worker with another book" in found["notes"][0]
    assert "1 in the queue that this book does not know (1 of orders): published by others" in found["notes"][0]
    page = await anyio.to_thread.run_sync(
        lambda: crossfoot(tmp_path, "balance", "--db", "book.db", code=1, **place.variables).stdout
    )
    assert "not in this book: orders|strange-1" in page
    for one in (app, other):
        await one.aclose()


async def test_dead_letters_are_compared_by_id(place: Place, tmp_path: Path) -> None:
    app = place.app(tmp_path / "book.db")

    @app.handler("case.released")
    def fail(message: Message) -> None:
        raise ValueError("no")

    await publish(app, "dead-1")
    await app.worker(retry=one_try()).run(until_idle=True)
    assert (await told(tmp_path, place, 0))["notes"] == [f"{place.name}: 0 open and 1 dead, compared by id"]
    await app.aclose()


def one_try() -> Any:
    from crossfoot.worker.retry import Retry

    return Retry(attempts=1, base=0.01)


async def test_nobody_is_accused_while_workers_and_publishers_go_on(place: Place, tmp_path: Path) -> None:
    """With clocks that are a minute behind, no tolerance helps: only what is read again does."""
    path = tmp_path / "book.db"
    app = place.app(path)
    app.handler("case.released", name="bill")(lambda message, tx: tx.outcome("billed"))
    handled = 0

    def count(held: Any) -> None:
        nonlocal handled
        handled += 1

    def balance() -> Sequence[str]:
        reader = app.book.another()
        try:
            post_all(reader.open())
            ask = lambda queue: depths.contents_of(queue, str(path))  # noqa: E731 - it is what `balance` does
            with reader.reading() as connection:
                drawn = take_stock(connection, SystemClock().now(), depth_of=ask)
        finally:
            reader.close()
        found = drawn.identities["holdings"]
        assert found.holds, found
        return found.notes

    worker = app.worker(concurrency=2)
    worker.on_settled = count
    rounds = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        number = 0
        while rounds < 25 or handled < 200:
            await publish(app, *(f"m-{number + more}" for more in range(40)))
            number += 40
            await anyio.to_thread.run_sync(balance)
            rounds += 1
            assert rounds < 1_000
        worker.stop()
    await app.aclose()


async def test_a_queue_over_the_limit_is_compared_by_its_own_count(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = place.app(tmp_path / "book.db")
    await publish(app, "one", "two", "three")

    async def ask() -> Any:
        return await anyio.to_thread.run_sync(depths.contents_of, place.name, str(tmp_path / "book.db"))

    assert len((await ask()).held) == 3
    monkeypatch.setattr(depths, "MOST_COMPARED", 2)

    numbers = await ask()

    assert (numbers.held, numbers.why) == (3, "more than 2 messages are not compared by id")
    await app.aclose()


async def test_looking_sets_nothing_aside_and_what_is_set_aside_is_not_missed(place: Place, tmp_path: Path) -> None:
    app = place.app(tmp_path / "book.db")
    await publish(app, "old-1")
    short = Crossfoot(
        "billing", database=tmp_path / "other.db", queue=place.variables["CROSSFOOT_QUEUE"],
        endpoint=place.variables["CROSSFOOT_ENDPOINT"], retention=0.001,
    ).queue  # fmt: skip
    assert isinstance(short, KeepsExpired)
    assert (await told(tmp_path, place, 0))["holds"]
    await short.open()
    await eventually(short.expired, "it to be set aside")
    await short.close()

    assert (await told(tmp_path, place, 0))["holds"], "it was set aside, and no worker has booked it yet"
    await app.aclose()


@pytest.mark.parametrize("queue", ["embedded", "postgres:billing"])
async def test_looking_sets_nothing_aside_that_workers_keep_for_longer_than_queues_do_by_themselves(
    postgres_url: str, tmp_path: Path, queue: str
) -> None:
    await make_table("billing", url=postgres_url)
    month = str(30 * 86_400)
    app = Crossfoot("billing", database=postgres_url, queue=queue, retention=float(month), wait=0.05)
    handled: list[str] = []

    @app.handler("case.released")
    def bill(message: Message, tx: Any) -> None:
        handled.append(message.id)
        tx.outcome("invoice.issued")

    await publish(app, "old-1")
    async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
        done = await connection.execute("UPDATE crossfoot_queue SET enqueued_at = enqueued_at - interval '20 days'")
        assert done.rowcount == 1
    variables = {"CROSSFOOT_DATABASE": postgres_url, "CROSSFOOT_QUEUE": queue, "CROSSFOOT_RETENTION": month}
    await anyio.to_thread.run_sync(lambda: crossfoot(tmp_path, "balance", code=0, **variables))

    await app.worker().run(until_idle=True)
    await app.aclose()
    assert handled == ["old-1"]


async def test_who_may_only_read_can_compare_them(postgres_url: str, postgres: Postgres, tmp_path: Path) -> None:
    app = Crossfoot("billing", database=postgres_url, wait=0.05)
    await publish(app, "kept-1")
    await anyio.to_thread.run_sync(post_all, app.book)
    await app.aclose()
    reader = f"reader_{uuid4().hex[:12]}"
    name = postgres_url.rpartition("/")[2]
    postgres.run(f"CREATE ROLE {reader} LOGIN")
    try:
        postgres.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}", database=name)
        beside_the_book = Place("billing", {}, lambda _: anyio.lowlevel.checkpoint())
        found = await told(tmp_path, beside_the_book, 0, postgres.url(name, user=reader))
    finally:
        postgres.run(f"DROP OWNED BY {reader}", database=name)
        postgres.run(f"DROP ROLE {reader}")
    assert found["notes"] == ["billing: 1 open and 0 dead, compared by id"]
