"""What the book writes by itself is begun anew where the server undoes it for the sake of another transaction: a sender, a
reconciliation or a person does not stop for it, and writes nothing twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread
import psycopg
import pytest

from crossfoot import Crossfoot
from crossfoot.books import queries
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.posting import post_all
from crossfoot.clock import ManualClock
from crossfoot.effects.outbox import CLAIM_SECONDS, Outbox
from crossfoot.errors import PublishRefused, QueueMissing, QueueUnavailable
from crossfoot.message import Message
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Doubtful, Outgoing, PublishAnswer, Refused
from crossfoot.recover.discarding import discard
from crossfoot.worker.reconcile import Reconciliation
from tests.servers.undone import undo, was_undone

pytest_plugins = ["tests.servers.postgres_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.server]

ENTRIES, OUTBOX = "INSERT ON crossfoot_entries", "UPDATE ON crossfoot_outbox"


class Killed(Exception):
    """The relay's process is gone."""


class Line(EmbeddedQueue):
    """A queue beside the book, whose next answer can be decided."""

    answer: type[Refused | Doubtful] | Exception | None = None

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is Refused:
            return [Refused(message.key, "not now", permanent=False) for message in messages]
        if self.answer is Doubtful:
            return [Doubtful(message.key, "no answer") for message in messages]
        return await super().publish(messages)


class Scene:
    def __init__(self, app: Crossfoot, queue: Line, clock: ManualClock) -> None:
        self.app, self.queue, self.clock = app, queue, clock
        self.url = app.book.path

    @property
    def relay(self) -> Outbox:
        return Outbox(self.app.book, {self.queue.name: self.queue})

    async def decide(self) -> Message:
        """Put a message into the outbox."""

        def send() -> Message:
            message = self.app.message("case.released", subject="case-1", time=self.clock.now())
            with psycopg.connect(self.url) as connection, self.app.transaction(connection) as tx:
                tx.send(message)
            return message

        return await anyio.to_thread.run_sync(send)

    async def undo(self, what: str, state: str = "deadlock_detected") -> None:
        await anyio.to_thread.run_sync(lambda: undo(self.url, what, state=state))

    def rows(self, sql: str) -> list[Any]:
        with psycopg.connect(self.url) as connection:
            return [row[0] for row in connection.execute(sql.encode()).fetchall()]

    @property
    def kinds(self) -> list[Kind]:
        assert was_undone(self.url)
        return [Kind(kind) for kind in self.rows("SELECT kind FROM crossfoot_entries ORDER BY kind, id")]


@pytest.fixture
async def scene(postgres_url: str, tmp_path: Path) -> AsyncIterator[Scene]:
    clock = ManualClock()
    Crossfoot("other", database=tmp_path / "queue.db").book.open().close()
    queue = Line(tmp_path / "queue.db", "letters", ordered=False, clock=clock)
    app = Crossfoot("billing", database=postgres_url, queue=queue, clock=clock)
    app.book.open()
    yield Scene(app, queue, clock)
    await app.aclose()


class TestSending:
    @pytest.mark.parametrize("state", ["deadlock_detected", "serialization_failure", "lock_not_available"])
    async def test_an_intention(self, scene: Scene, state: str) -> None:
        await scene.undo("INSERT ON crossfoot_outbox", state)
        await scene.app.publish("case.released", subject="case-1")
        assert scene.kinds == [Kind.INTENDED, Kind.PUBLISHED]
        assert scene.rows("SELECT count(*) FROM crossfoot_messages") == [1]
        assert (await scene.queue.depth()).held == 1

    async def test_an_answer(self, scene: Scene) -> None:
        await scene.decide()
        await scene.undo(ENTRIES)
        assert await scene.relay.drain(scene.queue) == 1
        assert scene.kinds == [Kind.INTENDED, Kind.PUBLISHED]
        assert (await scene.queue.depth()).held == 1

    @pytest.mark.parametrize(
        ("answer", "booked"), [(Refused, Kind.PUT_OFF), (Doubtful, Kind.PUBLISH_IN_DOUBT)], ids=["refused", "doubtful"]
    )
    async def test_an_answer_that_is_none(self, scene: Scene, answer: Any, booked: Kind) -> None:
        await scene.decide()
        await scene.undo(ENTRIES)
        scene.queue.answer = answer
        assert await scene.relay.drain(scene.queue) == 1
        assert scene.kinds == [Kind.INTENDED, booked]

    async def test_a_claim(self, scene: Scene) -> None:
        await scene.decide()
        await scene.undo(OUTBOX)
        assert await scene.relay.drain(scene.queue) == 1
        assert scene.kinds == [Kind.INTENDED, Kind.PUBLISHED]

    async def test_the_doubt_about_a_claim_that_lapsed(self, scene: Scene) -> None:
        await scene.decide()
        scene.queue.answer = Killed()
        with pytest.raises(Killed):
            await scene.relay.drain(scene.queue)
        scene.queue.answer = None
        scene.clock.advance(CLAIM_SECONDS)
        await scene.undo(ENTRIES)
        assert await scene.relay.drain(scene.queue) == 1
        assert scene.kinds == [Kind.INTENDED, Kind.PUBLISH_IN_DOUBT, Kind.PUBLISHED]

    async def test_what_is_put_off(self, scene: Scene) -> None:
        await scene.decide()
        await scene.undo(ENTRIES)
        scene.queue.answer = QueueUnavailable("it is away")
        with pytest.raises(QueueUnavailable, match="away"):
            await scene.relay.drain(scene.queue)
        assert scene.kinds == [Kind.INTENDED, Kind.PUT_OFF]

    async def test_what_is_refused_because_there_is_no_queue(self, scene: Scene) -> None:
        scene.queue.answer = QueueMissing("there is none")
        await scene.undo("DELETE ON crossfoot_outbox")
        with pytest.raises(PublishRefused):
            await scene.app.publish("case.released", subject="case-1")
        assert scene.kinds == [Kind.INTENDED, Kind.REFUSED]
        assert scene.rows("SELECT count(*) FROM crossfoot_outbox") == [0]


class TestReconciling:
    async def sent(self, scene: Scene) -> None:
        await scene.app.publish("case.released", subject="case-1")
        scene.clock.advance(60)

    async def test_what_vanished(self, scene: Scene) -> None:
        await self.sent(scene)
        (delivery,) = await scene.queue.receive(1, lease=30.0)
        await scene.queue.ack([delivery.receipt])
        await scene.undo(ENTRIES)
        assert (await Reconciliation(scene.app.book, scene.queue).run())[Kind.VANISHED] == 1
        assert scene.kinds == [Kind.INTENDED, Kind.PUBLISHED, Kind.VANISHED]

    async def test_what_lies_in_the_dead_letters(self, scene: Scene) -> None:
        await self.sent(scene)
        (delivery,) = await scene.queue.receive(1, lease=30.0)
        await scene.queue.dead_letter([delivery], reason="by hand")
        await scene.undo(ENTRIES)
        assert (await Reconciliation(scene.app.book, scene.queue).run())[Kind.DEAD_LETTERED] == 1
        assert scene.kinds == [Kind.INTENDED, Kind.PUBLISHED, Kind.DEAD_LETTERED]


class TestTheBookItself:
    async def test_entries(self, scene: Scene) -> None:
        await scene.decide()
        await scene.undo(ENTRIES)
        (key,) = scene.rows("SELECT key FROM crossfoot_messages")

        def append() -> None:
            entries = (
                Entry(message=key, kind=kind, at=scene.clock.now(), attempt=1)
                for kind in (Kind.RECEIVED, Kind.RELEASED)
            )
            scene.app.book.append(entries)

        await anyio.to_thread.run_sync(append)
        assert scene.kinds == [Kind.INTENDED, Kind.RECEIVED, Kind.RELEASED]

    async def test_a_worker_that_comes_and_goes(self, scene: Scene) -> None:
        await scene.undo("INSERT OR UPDATE ON crossfoot_workers")
        book = scene.app.book

        def come_and_go() -> None:
            number = book.start_worker("billing-1", "billing")
            book.see_worker(number)
            book.stop_worker(number)

        await anyio.to_thread.run_sync(come_and_go)
        assert was_undone(scene.url)
        assert scene.rows("SELECT count(*) FROM crossfoot_workers WHERE stopped_at IS NOT NULL") == [1]

    async def test_what_a_person_discards(self, scene: Scene) -> None:
        message = await scene.decide()
        await scene.undo(ENTRIES)

        def take_back() -> bool:
            with scene.app.book.reading() as connection:
                (row,) = queries.named(connection, "message id", message.id, 10, None)
            return discard(scene.app.book, row, reason="a typo", by="anna")

        assert await anyio.to_thread.run_sync(take_back)
        await anyio.to_thread.run_sync(post_all, scene.app.book)
        assert scene.kinds == [Kind.INTENDED, Kind.DISCARDED]
