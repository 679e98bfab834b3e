"""What a reconciliation finds, and what it must not: one queue, one book, and somebody who tells the book nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crossfoot import Crossfoot
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.fate import Fate
from crossfoot.books.posting import post_all
from crossfoot.books.store import find_or_add
from crossfoot.clock import SECOND, ManualClock
from crossfoot.effects.outbox import BASE_ATTRIBUTE
from crossfoot.errors import QueueUnavailable
from crossfoot.message import Message, encode
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Accepted, Capabilities, Depth, Held, Outgoing
from crossfoot.worker import reconcile
from crossfoot.worker.reconcile import THOROUGH, Reconciliation

pytestmark = pytest.mark.anyio

NOTHING = {Kind.EXPIRED: 0, Kind.DEAD_LETTERED: 0, Kind.VANISHED: 0}
RETENTION = 3_600.0


class Watched(EmbeddedQueue):
    """A queue in a file of its own, that may be blind, and that lets things happen while it is looked at."""

    def __init__(self, path: Path, clock: ManualClock) -> None:
        Crossfoot("other", database=path).book.open().close()
        super().__init__(path, "billing", ordered=False, clock=clock, retention=RETENTION)
        self.file = path
        self.browsing = True
        self.during_browse: Callable[[], object] = lambda: None
        self.during_depth: Callable[[], object] = lambda: None
        self.before_purge: Callable[[], object] = lambda: None
        self.said: list[int] = []
        """How many it says it holds, when asked the next times."""
        self.hides_dead = False
        self.hides = 0.0
        self.fails = False
        self.looks_at_dead = 0

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(super().capabilities, browsing=self.browsing, hides=self.hides)

    async def depth(self) -> Depth:
        self.during_depth()
        if self.fails:
            raise QueueUnavailable("it does not answer")
        depth = await super().depth()
        return msgspec.structs.replace(depth, ready=self.said.pop(0), in_flight=0, delayed=0) if self.said else depth

    async def browse(self) -> AsyncIterator[Held]:
        self.during_browse()
        async for held in super().browse():
            yield held

    async def dead_letters(self) -> AsyncIterator[Held]:
        self.looks_at_dead += 1
        async for held in super().dead_letters():
            if not self.hides_dead:
                yield held

    async def purge(self, messages: Sequence[Held]) -> int:
        self.before_purge()
        return await super().purge(messages)

    def execute(self, statement: str, *parameters: Any) -> list[Any]:
        """What nobody tells the book."""
        with closing(sqlite3.connect(self.file)) as connection, connection:
            return connection.execute(statement, parameters).fetchall()

    def lose(self, *messages: Message) -> None:
        for message in messages:
            self.execute("DELETE FROM crossfoot_queue WHERE message = ?", message.key)

    def bury(self, *messages: Message) -> None:
        """As its own limit of deliveries does."""
        for message in messages:
            self.execute("UPDATE crossfoot_queue SET state = 2, expires_at = NULL WHERE message = ?", message.key)


class Scene:
    def __init__(self, app: Crossfoot, clock: ManualClock, queue: Watched) -> None:
        self.app, self.clock, self.queue = app, clock, queue
        self.reconciliation = Reconciliation(app.book, queue, patience=5.0)

    async def published(self, count: int = 1, **attributes: Any) -> list[Message]:
        messages = [self.app.message("case.released", subject=f"case-{n}", **attributes) for n in range(count)]
        await self.app.publish(*messages)
        return messages

    async def look(self) -> dict[Kind, int]:
        """What it found, without the zeros."""
        return {kind: count for kind, count in (await self.reconciliation.run()).items() if count}

    def write(self, message: Message, *kinds: Kind, attempt: int = 1, lasts: float = 0.0) -> None:
        """Entries, by another process."""
        key = self.one("SELECT key FROM crossfoot_messages WHERE id = ?", message.id)
        now = self.clock.now()
        due = now + round(lasts * SECOND)
        self.app.book.append([Entry(message=key, kind=kind, attempt=attempt, at=now, due=due) for kind in kinds])

    def one(self, sql: str, *parameters: Any) -> Any:
        with closing(sqlite3.connect(self.app.book.path)) as connection:
            (value,) = connection.execute(sql, parameters).fetchone()
        return value

    def fate(self, message: Message) -> Fate:
        post_all(self.app.book)
        return Fate(self.one("SELECT fate FROM crossfoot_messages WHERE id = ?", message.id))

    def count(self, kind: Kind) -> int:
        found: int = self.one("SELECT count(*) FROM crossfoot_entries WHERE kind = ?", kind.value)
        return found


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    clock = ManualClock()
    queue = Watched(tmp_path / "queue.db", clock)
    app = Crossfoot("billing", database=tmp_path / "billing.db", queue=queue, clock=clock, synchronous="NORMAL")
    yield Scene(app, clock, queue)
    await app.aclose()


@pytest.fixture
def blind(scene: Scene) -> Scene:
    """Its queue can only be counted."""
    scene.queue.browsing = False
    return scene


class TestExpired:
    async def test_they_are_booked_before_the_queue_forgets_them_however_many(self, scene: Scene) -> None:
        booked: list[int] = []
        scene.queue.before_purge = lambda: booked.append(scene.count(Kind.EXPIRED))
        messages = await scene.published(101)
        scene.clock.advance(RETENTION)
        assert await scene.look() == {Kind.EXPIRED: 101}
        assert booked == [100, 101]
        assert {scene.fate(message) for message in messages} == {Fate.EXPIRED}
        assert scene.queue.execute("SELECT count(*) FROM crossfoot_queue") == [(0,)]
        assert await scene.look() == {}

    async def test_what_is_gone_is_expired_by_when_it_was_sent_and_not_by_when_it_happened(self, blind: Scene) -> None:
        (young,) = await blind.published(time=SECOND)
        blind.queue.lose(young)
        blind.clock.advance(RETENTION - 1)
        (old,) = await blind.published()
        for _ in range(2):
            await blind.look()
        assert blind.fate(young) is Fate.QUEUED, "the queue is not empty"
        blind.queue.lose(old)
        blind.clock.advance(6)
        assert [await blind.look(), await blind.look()] == [{}, {Kind.EXPIRED: 1, Kind.VANISHED: 1}]
        assert (blind.fate(young), blind.fate(old)) == (Fate.EXPIRED, Fate.VANISHED)


class TestDeadLetters:
    async def test_what_the_queue_buried_by_itself_is_found_and_booked_once(self, scene: Scene) -> None:
        first, second = await scene.published(2)
        scene.queue.bury(first)
        assert await scene.look() == {Kind.DEAD_LETTERED: 1}
        scene.queue.bury(second)
        assert await scene.look() == {Kind.DEAD_LETTERED: 1}
        assert (scene.fate(first), scene.fate(second)) == (Fate.DEAD, Fate.DEAD)
        assert scene.count(Kind.DEAD_LETTERED) == 2

    async def test_one_gone_and_one_come_make_the_same_count_and_are_told_apart_in_time(self, scene: Scene) -> None:
        first, second = await scene.published(2)
        scene.queue.bury(first)
        await scene.look()
        scene.queue.lose(first)
        scene.queue.bury(second)
        seen = scene.queue.looks_at_dead
        assert await scene.look() == {}
        for _ in range(THOROUGH):
            if await scene.look():
                break
        assert scene.fate(second) is Fate.DEAD
        assert scene.queue.looks_at_dead == seen + 1, "their ids are not read at every look"

    async def test_letters_of_messages_that_came_to_something_are_not_read_at_every_look(self, scene: Scene) -> None:
        """Nobody takes them away, and their count is not that of the dead."""
        left, first, second = await scene.published(3)
        scene.write(left, Kind.COMMITTED)
        scene.queue.bury(left, first)
        assert await scene.look() == {Kind.DEAD_LETTERED: 1}
        seen = scene.queue.looks_at_dead
        assert await scene.look() == {}
        assert scene.queue.looks_at_dead == seen

        scene.queue.bury(second)
        assert await scene.look() == {Kind.DEAD_LETTERED: 1}, "one more is seen at once"
        assert [scene.fate(one) for one in (left, first, second)] == [Fate.SETTLED, Fate.DEAD, Fate.DEAD]

    async def test_those_that_the_book_knows_are_looked_up_once_and_from_time_to_time(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A replay of thousands has their count differ at every look."""
        looked_up: list[str] = []

        def found(connection: Any, record: Any, real: Any = find_or_add) -> Any:
            looked_up.append(record.id)
            return real(connection, record)

        monkeypatch.setattr(reconcile, "find_or_add", found)
        messages = await scene.published(4)
        scene.queue.bury(*messages[:3])
        assert await scene.look() == {Kind.DEAD_LETTERED: 3}
        scene.queue.bury(messages[3])
        assert await scene.look() == {Kind.DEAD_LETTERED: 1}
        assert sorted(looked_up) == sorted(message.id for message in messages)
        looked_up.clear()
        for _ in range(THOROUGH):
            await scene.look()
        assert sorted(looked_up) == sorted(message.id for message in messages)

    async def test_however_many_they_are_nobody_waits_until_all_are_booked(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reconcile, "AT_ONCE", 2)
        messages = await scene.published(5)
        scene.queue.bury(*messages)
        written: list[Any] = []
        real = scene.app.book.write

        def write(function: Any) -> Any:
            written.append(function)
            return real(function)

        monkeypatch.setattr(scene.app.book, "write", write)
        assert await scene.look() == {Kind.DEAD_LETTERED: 5}
        assert [len(one.args[0]) for one in written if hasattr(one, "args")] == [2, 2, 1]
        assert [scene.fate(message) for message in messages] == [Fate.DEAD] * 5

    async def test_a_settled_message_among_them_stays_settled(self, scene: Scene) -> None:
        (message,) = await scene.published()
        scene.write(message, Kind.RECEIVED, Kind.COMMITTED)
        scene.queue.bury(message)
        assert await scene.look() == {}
        assert scene.fate(message) is Fate.SETTLED
        assert scene.count(Kind.DEAD_LETTERED) == 0

    async def test_what_was_sent_again_and_is_counted_anew_is_dead_all_the_same(self, scene: Scene) -> None:
        (message,) = await scene.published()
        scene.write(message, Kind.RECEIVED, Kind.RELEASED, attempt=3)
        scene.queue.bury(message)
        await scene.look()
        assert scene.fate(message) is Fate.DEAD

    @pytest.mark.parametrize("browsing", [True, False])
    async def test_what_a_late_worker_buried_behind_a_later_delivery_is_dead_and_not_vanished(
        self, scene: Scene, browsing: bool
    ) -> None:
        scene.queue.browsing = browsing
        (message,) = await scene.published()
        scene.write(message, Kind.RECEIVED, Kind.FAILED, attempt=2)  # whose worker died before it could bury it
        scene.queue.bury(message)
        scene.write(message, Kind.DEAD_LETTERED, attempt=1)
        assert scene.fate(message) is Fate.RETRYING
        scene.clock.advance(60)
        for _ in range(3):
            await scene.look()
        assert scene.fate(message) is Fate.DEAD

    @pytest.mark.parametrize("browsing", [True, False])
    async def test_what_was_sent_again_and_is_lost_has_vanished_although_its_dead_letter_is_still_there(
        self, scene: Scene, browsing: bool
    ) -> None:
        scene.queue.browsing = browsing
        (message,) = await scene.published()
        scene.queue.bury(message)
        scene.write(message, Kind.DEAD_LETTERED, Kind.PUBLISHED, attempt=1)
        scene.write(message, Kind.RECEIVED, Kind.FAILED, attempt=2)
        scene.clock.advance(60)
        for _ in range(3):
            await scene.look()
        assert scene.fate(message) is Fate.VANISHED

    @pytest.mark.parametrize("browsing", [True, False])
    @pytest.mark.parametrize("first_is_there", [True, False])
    async def test_what_was_sent_again_and_died_again_is_dead_although_nobody_could_say_so(
        self, scene: Scene, browsing: bool, first_is_there: bool
    ) -> None:
        """Its queue counts the deliveries of the second copy anew: it must not be taken for the first one's dead letter."""
        scene.queue.browsing = browsing
        (message,) = await scene.published()
        scene.queue.bury(message)
        scene.write(message, Kind.DEAD_LETTERED, Kind.REPLAYED, attempt=2)
        if not first_is_there:
            scene.queue.lose(message)
        again = Outgoing(key=message.key, body=encode(message), attributes={BASE_ATTRIBUTE: "3"})
        assert isinstance((await scene.queue.publish([again]))[0], Accepted)
        scene.write(message, Kind.PUBLISHED, attempt=3)
        scene.write(message, Kind.RECEIVED, Kind.FAILED, attempt=4)
        (second,) = await scene.queue.receive(1, lease=60.0)
        await scene.queue.dead_letter([second], reason="poison")  # and its worker dies before it can book that
        scene.clock.advance(60)
        for _ in range(3):
            await scene.look()
        assert scene.fate(message) is Fate.DEAD

    @pytest.mark.parametrize("browsing", [True, False])
    async def test_what_may_lie_among_those_that_hide_is_not_called_vanished(
        self, scene: Scene, browsing: bool
    ) -> None:
        scene.queue.browsing = browsing
        hidden, gone = await scene.published(2)
        scene.queue.bury(hidden)
        scene.queue.lose(gone)
        scene.queue.hides_dead = True
        scene.clock.advance(60)
        assert [await scene.look() for _ in range(3)] == [{}] * 3
        scene.queue.hides_dead = False
        found = [await scene.look() for _ in range(3)]
        assert (scene.fate(hidden), scene.fate(gone)) == (Fate.DEAD, Fate.VANISHED)
        assert sum(one.get(Kind.VANISHED, 0) for one in found) == 1


class TestMissing:
    async def test_only_what_is_overdue_for_longer_than_the_patience(self, scene: Scene) -> None:
        (message,) = await scene.published()
        scene.queue.lose(message)
        scene.clock.advance(5)
        assert await scene.look() == {}
        scene.clock.advance(0.001)
        assert await scene.look() == {Kind.VANISHED: 1}
        assert scene.fate(message) is Fate.VANISHED

    async def test_what_is_set_aside_for_its_age_meanwhile_is_expired_whatever_the_clocks_say(
        self, scene: Scene
    ) -> None:
        (message,) = await scene.published()
        scene.clock.advance(RETENTION - 60)

        def set_aside() -> None:
            """By another worker, or the queue itself, whose clock is a minute ahead."""
            scene.queue.execute("UPDATE crossfoot_queue SET state = 3, expires_at = NULL")

        scene.queue.during_depth = set_aside  # between the look for what is too old, and the one for what is missing
        assert await scene.look() == {Kind.EXPIRED: 1}
        assert scene.fate(message) is Fate.EXPIRED

    async def test_what_still_waits_in_the_outbox_is_not_missing(self, scene: Scene) -> None:
        (message,) = await scene.published()
        scene.queue.lose(message)
        with scene.app.book.writing() as connection:
            connection.execute(
                """INSERT INTO crossfoot_outbox (message, queue, identity, body, base, due)
                SELECT key, queue, source || '|' || id, body, 1, 0 FROM crossfoot_messages"""
            )
        scene.clock.advance(60)
        assert await scene.look() == {}
        with scene.app.book.writing() as connection:
            connection.execute("DELETE FROM crossfoot_outbox")
        assert await scene.look() == {Kind.VANISHED: 1}

    async def test_what_another_queue_holds_is_not_missing_in_this_one(self, scene: Scene) -> None:
        (message,) = await scene.published()
        with scene.app.book.writing() as connection:
            connection.execute("UPDATE crossfoot_messages SET queue = 'letters'")
        scene.queue.lose(message)
        scene.clock.advance(60)
        assert await scene.look() == {}

    @pytest.mark.parametrize("what", [(Kind.RECEIVED,), (Kind.RECEIVED, Kind.COMMITTED, Kind.ACKED)])
    async def test_what_something_happened_to_during_the_look_is_left_alone(
        self, scene: Scene, what: tuple[Kind, ...]
    ) -> None:
        (message,) = await scene.published()
        scene.queue.lose(message)
        scene.clock.advance(60)
        scene.queue.during_browse = lambda: scene.write(message, *what, lasts=30.0)
        assert await scene.look() == {}
        assert scene.count(Kind.VANISHED) == 0

    async def test_more_present_ones_than_one_look_takes_do_not_hide_a_missing_one_behind_them(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("crossfoot.worker.reconcile.MOST_CANDIDATES", 2)
        *_, third = await scene.published(3)
        scene.queue.lose(third)
        await scene.queue.receive(2, lease=600.0)
        scene.clock.advance(60)
        assert [await scene.look(), await scene.look()] == [{}, {Kind.VANISHED: 1}]
        assert scene.fate(third) is Fate.VANISHED


class TestByCountAlone:
    """An empty queue proves something at the second look, if nothing happened in between."""

    async def test_two_looks_at_an_empty_queue(self, blind: Scene) -> None:
        (message,) = await blind.published()
        blind.queue.lose(message)
        blind.clock.advance(60)
        assert [await blind.look(), await blind.look()] == [{}, {Kind.VANISHED: 1}]
        assert blind.fate(message) is Fate.VANISHED

    @pytest.mark.parametrize("said", [[0, 1], [0, 0, 1]])
    async def test_a_queue_that_holds_anything_at_any_look_proves_nothing(self, blind: Scene, said: list[int]) -> None:
        (message,) = await blind.published()
        blind.queue.lose(message)
        blind.clock.advance(60)
        await blind.look()
        blind.queue.said = said  # each look counts the dead letters, the rest, and the rest once more
        assert [await blind.look(), await blind.look(), await blind.look()] == [{}, {}, {Kind.VANISHED: 1}]

    async def test_a_queue_that_may_hide_a_message_must_look_empty_for_longer(self, blind: Scene) -> None:
        (message,) = await blind.published()
        blind.queue.lose(message)
        blind.queue.hides = 180.0
        blind.clock.advance(60)
        for _ in range(4):
            assert await blind.look() == {}
            blind.clock.advance(44)
        blind.queue.said = [0, 1]  # here it comes out
        assert await blind.look() == {}
        for _ in range(5):
            assert await blind.look() == {}
            blind.clock.advance(44)
        assert await blind.look() == {Kind.VANISHED: 1}

    async def test_a_look_that_failed_begins_it_anew(self, blind: Scene) -> None:
        (message,) = await blind.published()
        blind.queue.lose(message)
        blind.clock.advance(60)
        assert await blind.look() == {}
        blind.queue.fails = True
        with pytest.raises(QueueUnavailable):
            await blind.look()
        blind.queue.fails = False
        assert [await blind.look(), await blind.look()] == [{}, {Kind.VANISHED: 1}]
        assert blind.fate(message) is Fate.VANISHED

    async def test_something_that_happened_in_between_begins_it_anew(self, blind: Scene) -> None:
        (message,) = await blind.published()
        blind.queue.lose(message)
        blind.clock.advance(60)
        assert await blind.look() == {}
        blind.write(message, Kind.RECEIVED, Kind.RELEASED)
        blind.clock.advance(60)
        assert [await blind.look(), await blind.look()] == [{}, {Kind.VANISHED: 1}]

    async def test_so_does_a_lease_that_was_extended_meanwhile(self, blind: Scene) -> None:
        (message,) = await blind.published()
        blind.queue.lose(message)
        blind.write(message, Kind.RECEIVED, Kind.EXTENDED)
        blind.clock.advance(60)
        assert await blind.look() == {}
        blind.write(message, Kind.EXTENDED, lasts=30.0)
        assert await blind.look() == {}
        blind.clock.advance(60)
        assert [await blind.look(), await blind.look()] == [{}, {Kind.VANISHED: 1}]
