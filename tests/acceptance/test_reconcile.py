"""What happens to messages without anybody telling the book is found, and nothing is found that did not happen."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import anyio.to_thread
import msgspec
import pytest
from boto3.session import Session

from crossfoot import Crossfoot
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.posting import post_all
from crossfoot.clock import ManualClock
from crossfoot.message import Message
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Capabilities
from crossfoot.queues.sqs import SqsQueue, ensure
from crossfoot.worker.reconcile import Reconciliation
from tests.servers.processes import Server

pytest_plugins = ["tests.servers.fixtures"]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_blocking_calls")]


def fate(app: Crossfoot, message: Message) -> Fate:
    with closing(sqlite3.connect(app.book.path)) as connection:
        (found,) = connection.execute("SELECT fate FROM crossfoot_messages WHERE id = ?", (message.id,)).fetchone()
    return Fate(found)


class TestEmbedded:
    """A queue that can be browsed."""

    @pytest.fixture
    async def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def app(self, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Crossfoot]:
        app = Crossfoot("billing", database=tmp_path / "billing.db", clock=clock, retention=3_600.0)
        yield app
        await app.aclose()

    async def test_a_message_deleted_behind_our_back_is_vanished_once_the_queue_has_passed_it(
        self, app: Crossfoot, clock: ManualClock
    ) -> None:
        gone, there = app.message("case.released", subject="gone"), app.message("case.released", subject="there")
        await app.publish(gone, there)
        with closing(sqlite3.connect(app.book.path)) as connection:
            connection.execute("DELETE FROM crossfoot_queue WHERE instr(CAST(body AS TEXT), ?)", (gone.id,))
            connection.commit()
        reconciliation = Reconciliation(app.book, app.queue)
        clock.advance(60)
        await reconciliation.run()
        assert (fate(app, gone), fate(app, there)) == (Fate.QUEUED, Fate.QUEUED), "a long queue is not searched"

        (delivery,) = await app.queue.receive(1, lease=30.0)
        await reconciliation.run()
        await anyio.to_thread.run_sync(post_all, app.book)
        assert (fate(app, gone), fate(app, there)) == (Fate.VANISHED, Fate.QUEUED)
        await app.queue.release([delivery.receipt])

    async def test_a_long_queue_is_not_read_to_find_what_may_be_missing(
        self, app: Crossfoot, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await app.publish(*[app.message("case.released", subject=f"case-{number}") for number in range(1_000)])
        clock.advance(600)
        monkeypatch.setattr(app.queue, "browse", lambda: pytest.fail("the queue was browsed"))
        assert await Reconciliation(app.book, app.queue).run() == {
            Kind.EXPIRED: 0, Kind.DEAD_LETTERED: 0, Kind.VANISHED: 0,
        }  # fmt: skip

    async def test_a_message_older_than_the_retention_is_expired(self, app: Crossfoot, clock: ManualClock) -> None:
        message = app.message("case.released", subject="old")
        await app.publish(message)
        clock.advance(3_601)
        await Reconciliation(app.book, app.queue).run()
        await Reconciliation(app.book, app.queue).run()
        assert fate(app, message) is Fate.EXPIRED


class Blind(EmbeddedQueue):
    """A queue that can only be counted."""

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(super().capabilities, browsing=False)


async def test_more_missing_than_are_looked_for_at_once_are_all_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossfoot.worker.reconcile.MOST_CANDIDATES", 2)
    clock = ManualClock()
    with closing(Crossfoot("other", database=tmp_path / "queue.db").book) as other:
        await anyio.to_thread.run_sync(other.open)
    queue = Blind(tmp_path / "queue.db", "billing", clock=clock)
    app = Crossfoot("billing", database=tmp_path / "billing.db", queue=queue, clock=clock)
    messages = [app.message("case.released", subject=f"case-{number}") for number in range(5)]
    await app.publish(*messages)
    with closing(sqlite3.connect(tmp_path / "queue.db")) as connection:
        connection.execute("DELETE FROM crossfoot_queue")
        connection.commit()
    clock.advance(60)
    reconciliation = Reconciliation(app.book, queue)
    await reconciliation.run()
    await anyio.to_thread.run_sync(post_all, app.book)
    assert {fate(app, message) for message in messages} == {Fate.QUEUED}, "one look at an empty queue proves nothing"
    for _ in range(8):
        await reconciliation.run()
    assert {fate(app, message) for message in messages} == {Fate.VANISHED}
    await app.aclose()


@pytest.mark.server
@pytest.mark.xdist_group("ministack")
class TestSqs:
    """A queue that cannot be browsed, and whose dead letters hide from one look while another one is on."""

    @pytest.fixture
    async def app(self, tmp_path: Path, ministack: Server, aws: Session) -> AsyncIterator[Crossfoot]:
        name = await ensure(f"orders-{uuid4().hex[:12]}", endpoint_url=ministack.url, session=aws)
        queue = SqsQueue(name, endpoint_url=ministack.url, clock=ministack.clock, session=aws)
        app = Crossfoot("billing", database=tmp_path / "billing.db", queue=queue, clock=ministack.clock)
        yield app
        await app.aclose()

    async def test_what_may_lie_among_hidden_dead_letters_is_not_called_vanished(
        self, app: Crossfoot, ministack: Server
    ) -> None:
        message = app.message("case.released", subject="case-1")
        await app.publish(message)
        (delivery,) = await app.queue.receive(1, lease=30.0, wait=1.0)
        await app.queue.dead_letter([delivery], reason="its worker died before it could say so")
        ministack.clock.advance(20)
        look = app.queue.dead_letters()
        assert (await anext(look)).dead, "somebody looks at the dead letters, which hides them from everybody else"

        reconciliation = Reconciliation(app.book, app.queue)
        for _ in range(3):
            await reconciliation.run()
        assert fate(app, message) is Fate.QUEUED

        await look.aclose()  # type: ignore[attr-defined] # a generator, whatever the protocol promises
        for _ in range(3):
            await reconciliation.run()
        assert fate(app, message) is Fate.DEAD

    async def test_a_message_deleted_behind_our_back_is_vanished(self, app: Crossfoot, ministack: Server) -> None:
        message = app.message("case.released", subject="case-1")
        await app.publish(message)
        (delivery,) = await app.queue.receive(1, lease=30.0, wait=1.0)
        await app.queue.ack([delivery.receipt])
        ministack.clock.advance(60)
        reconciliation = Reconciliation(app.book, app.queue)
        for _ in range(3):
            await reconciliation.run()
        assert fate(app, message) is Fate.VANISHED
