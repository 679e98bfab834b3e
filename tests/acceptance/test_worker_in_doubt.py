"""Answers that a worker does not get: an ack's, which is asked for again, and a commit's, which the next delivery finds out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crossfoot import Crossfoot
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.effects.databases.session import Database
from crossfoot.errors import DatabaseUnavailable, QueueUnavailable
from crossfoot.message import Message
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import NotDone, ReceiptAnswer
from tests.acceptance.service_rig import FORMS, Service, a_service, eventually
from tests.conformance.database_rig import Lossy, Sql, bill, insert

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_blocking_calls")]


class Elsewhere(EmbeddedQueue):
    """A queue in a file of its own, so that its acks follow the commit; what becomes of the first ones is scripted."""

    def __init__(self, path: Path) -> None:
        Crossfoot("other", database=path).book.open().close()
        super().__init__(path, "billing", ordered=False)
        self.script: list[str] = []
        """For each of the first acks: `lost` (the first of its receipts never arrives), `unanswered` (done, without an answer for
        the first), `unreachable`, or `void` (nothing was done, for good)."""
        self.asked: list[list[str]] = []

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        self.asked.append(list(receipts))
        what = self.script.pop(0) if self.script else ""
        if what == "unreachable":
            raise QueueUnavailable("no connection")
        if what == "void":
            return [NotDone(receipt, "somebody else has it", lost=True) for receipt in receipts]
        answers = await super().ack(receipts[1:] if what == "lost" else receipts)
        if what == "lost":
            return [NotDone(receipts[0], "timed out", lost=False), *answers]
        if what == "unanswered":
            return [NotDone(receipts[0], "timed out", lost=False), *answers[1:]]
        return answers


class TestAnAck:
    """It may be repeated, so it is."""

    @pytest.fixture
    def queue(self, tmp_path: Path) -> Elsewhere:
        return Elsewhere(tmp_path / "queue.db")

    async def settled(self, queue: Elsewhere, folder: Path) -> list[list[Kind]]:
        """Two messages, acked in one request: what was written of each after its commit, sorted."""
        async with a_service(FORMS[0], folder, queue=queue) as service:
            service.handle("case.released", bill)
            messages = await service.publish("case.released", "case-1", "case-2")
            await service.work(batch=2, concurrency=1)
            assert len(service.effects) == 2
            assert {service.fate(message) for message in messages} == {Fate.SETTLED}
            kinds = [service.kinds(message) for message in messages]
            assert all(one[:4] == [Kind.INTENDED, Kind.PUBLISHED, Kind.RECEIVED, Kind.COMMITTED] for one in kinds)
            return sorted(one[4:] for one in kinds)

    async def test_whose_answer_is_lost_is_asked_again_for_that_message_only(
        self, queue: Elsewhere, tmp_path: Path
    ) -> None:
        queue.script = ["lost"]
        assert await self.settled(queue, tmp_path) == [[Kind.ACKED], [Kind.ACKED]]
        first, second = queue.asked
        assert second == first[:1]

    async def test_that_could_not_be_asked_is_asked_again(self, queue: Elsewhere, tmp_path: Path) -> None:
        queue.script = ["unreachable"]
        assert await self.settled(queue, tmp_path) == [[Kind.ACKED], [Kind.ACKED]]
        first, second = queue.asked
        assert second == first

    async def test_that_was_done_unheard_is_believed_at_the_second_answer(
        self, queue: Elsewhere, tmp_path: Path
    ) -> None:
        queue.script = ["unanswered"]
        assert await self.settled(queue, tmp_path) == [[Kind.ACK_FAILED], [Kind.ACKED]]
        assert len(queue.asked) == 2

    async def test_without_any_answer_is_booked_and_the_next_delivery_is_no_second_effect(
        self, queue: Elsewhere, tmp_path: Path
    ) -> None:
        queue.script = ["unreachable", "lost"]
        begun: list[str] = []

        def call_out_and_bill(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            begun.append(message.id)
            yield from bill(message, tx)

        async with a_service(FORMS[0], tmp_path, queue=queue) as service:
            service.handle("case.released", call_out_and_bill)
            (message,) = await service.publish("case.released", "case-1")
            await service.work(lease=0.3)
            assert service.kinds(message)[3:] == [
                Kind.COMMITTED, Kind.ACK_FAILED, Kind.RECEIVED, Kind.SUPPRESSED, Kind.ACKED,
            ]  # fmt: skip
            assert service.effects == [message.id]
            assert begun == [message.id], "what is known to be complete does not reach its handler"
            (details,) = service.rows("SELECT details FROM crossfoot_entries WHERE kind = ?", Kind.ACK_FAILED.value)
            assert msgspec.json.decode(details) == {"reason": "timed out", "lost": False}

    async def test_of_a_void_receipt_is_not_asked_again(self, queue: Elsewhere, tmp_path: Path) -> None:
        queue.script = ["void"]
        async with a_service(FORMS[0], tmp_path, queue=queue) as service:
            service.handle("case.released", bill)
            (message,) = await service.publish("case.released", "case-1")
            async with service.working():
                await eventually(lambda: Kind.ACK_FAILED in service.kinds(message), "the ack to fail")
            assert len(queue.asked) == 1


class Shaky:
    """A database whose line breaks at the first commit, and is still broken when the operation key is asked for."""

    def __init__(self, inner: Database, *, done: bool) -> None:
        self._inner = inner
        self._done = done
        self._connects = 0
        self.path, self.lazy = inner.path, inner.lazy

    def connect(self) -> Any:
        return self._given(self._inner.connect())

    async def aconnect(self) -> Any:
        session = await self._inner.aconnect()
        try:
            return self._given(session)
        except DatabaseUnavailable:
            await session.close()
            raise

    def _given(self, session: Any) -> Any:
        self._connects += 1
        if self._connects == 2:
            raise DatabaseUnavailable(f"{self.path} cannot be opened")
        return Lossy(session, done=self._done) if self._connects == 1 else session

    def close(self) -> None:
        self._inner.close()


class TestACommit:
    """In doubt, it is resolved by the operation key, and by nothing else."""

    @pytest.fixture(params=[False, True], ids=["same file", "another file"])
    def queue(self, request: pytest.FixtureRequest, tmp_path: Path) -> Elsewhere | None:
        return Elsewhere(tmp_path / "queue.db") if request.param else None

    @pytest.fixture(params=FORMS, ids=repr)
    async def service(
        self, request: pytest.FixtureRequest, tmp_path: Path, queue: Elsewhere | None
    ) -> AsyncIterator[Service]:
        async with a_service(request.param, tmp_path, queue=queue) as made:
            yield made

    async def in_doubt(self, service: Service, *, done: bool) -> Message:
        """Work one message, whose only attempt ends in doubt."""
        (message,) = await service.publish("case.released", "case-1")
        service.app.database = Shaky(service.app.database, done=done)
        await service.work(attempts=1, concurrency=1)
        assert service.kinds(message).count(Kind.COMMIT_IN_DOUBT) == 1
        return message

    @pytest.mark.parametrize("done", [True, False], ids=["committed", "not committed"])
    async def test_in_doubt_at_the_last_attempt_is_resolved_before_anything_is_buried(
        self, service: Service, done: bool
    ) -> None:
        service.handle("case.released", bill)
        message = await self.in_doubt(service, done=done)
        assert Kind.DEAD_LETTERED not in service.kinds(message)
        assert service.effects == [message.id]
        assert service.fate(message) is Fate.SETTLED
        assert (await service.app.queue.depth()).held == 0

    async def test_found_not_to_have_happened_leaves_one_more_attempt_and_no_second_one(self, service: Service) -> None:
        begun: list[str] = []

        def bill_once(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            begun.append(message.id)
            yield insert(message)
            if len(begun) > 1:
                raise RuntimeError("the printer is on fire")

        service.handle("case.released", bill_once)
        message = await self.in_doubt(service, done=False)
        assert service.effects == []
        assert service.fate(message) is Fate.DEAD
        assert begun == [message.id] * 2
