"""A claim is a lease on rows of the outbox: whoever died with one is in doubt, and whoever lost one touches the rows no more."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crossfoot import Crossfoot
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.fate import Fate
from crossfoot.books.posting import post_all
from crossfoot.books.store import write_entries
from crossfoot.clock import SECOND
from crossfoot.effects.outbox import BASE_ATTRIBUTE, CLAIM_SECONDS, Outbox
from crossfoot.effects.overlong import CHECK_SECONDS, FURTHEST
from crossfoot.errors import QueueUnavailable
from crossfoot.message import Message
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Accepted, Doubtful, Outgoing, PublishAnswer, Refused
from tests.unit.embedded_rig import SteppingClock

pytestmark = pytest.mark.anyio

Turn = Callable[[Sequence[Outgoing]], Awaitable[list[PublishAnswer] | None]]
"""What happens to one publish instead of it, or before it where nothing is returned."""


class Killed(Exception):
    """The relay's process is gone: nothing that follows in it happens."""


class Line(EmbeddedQueue):
    """A queue in another file. Its publishes can be scripted, and each notes what the book knew by then."""

    def __init__(self, path: Path, book: Path, clock: SteppingClock) -> None:
        super().__init__(path, "letters", ordered=False, clock=clock)
        self._book = book
        self.turns: list[Turn] = []
        self.known: list[list[Kind]] = []

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        self.known.append(kinds(self._book))
        answers = await self.turns.pop(0)(messages) if self.turns else None
        return await super().publish(messages) if answers is None else answers


class Scene:
    """One message in the outbox, and relays that would send it."""

    def __init__(self, app: Crossfoot, clock: SteppingClock, queue: Line) -> None:
        self.app, self.clock, self.queue = app, clock, queue

    def relay(self, claim: float = CLAIM_SECONDS) -> Outbox:
        """In a process of its own, as it were."""
        return Outbox(self.app.book, {self.queue.name: self.queue}, claim=claim)

    async def drain(self) -> int:
        return await self.relay().drain(self.queue)

    async def die(self, _: Sequence[Outgoing]) -> None:
        raise Killed

    async def dead_relay(self, claim: float = CLAIM_SECONDS) -> None:
        """One that claimed the row and was never heard of again."""
        self.queue.turns.append(self.die)
        with pytest.raises(Killed):
            await self.relay(claim).drain(self.queue)

    async def put_off(self, relay: Outbox) -> None:
        """The queue could not be reached: it is sent after a pause."""

        async def unreachable(_: Sequence[Outgoing]) -> None:
            raise QueueUnavailable("no connection")

        self.queue.turns.append(unreachable)
        with pytest.raises(QueueUnavailable):
            await relay.drain(self.queue)

    @property
    def kinds(self) -> list[Kind]:
        return kinds(Path(self.app.book.path))

    def row(self) -> Any:
        """Claim, due time and tries of the message's row in the outbox, `None` when it has left."""
        return one(Path(self.app.book.path), "SELECT claim, due, tries FROM crossfoot_outbox")

    @property
    def fate(self) -> Fate:
        post_all(self.app.book)
        (fate,) = one(Path(self.app.book.path), "SELECT fate FROM crossfoot_messages")
        return Fate(fate)


def one(path: Path, sql: str) -> Any:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchone()


def kinds(path: Path) -> list[Kind]:
    with closing(sqlite3.connect(path)) as connection:
        return [Kind(kind) for (kind,) in connection.execute("SELECT kind FROM crossfoot_entries ORDER BY id")]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    clock = SteppingClock()
    Crossfoot("other", database=tmp_path / "queue.db").book.open().close()
    queue = Line(tmp_path / "queue.db", tmp_path / "billing.db", clock)
    app = Crossfoot("billing", database=tmp_path / "billing.db", queue=queue, clock=clock, synchronous="NORMAL")
    app.book.open()
    with closing(sqlite3.connect(app.book.path)) as connection, app.transaction(connection) as tx:
        tx.send(Message(type="case.released", source="billing", subject="case-1"))
    yield Scene(app, clock, queue)
    await app.aclose()


class TestARelayThatDied:
    """Between its claim and its answer: nobody knows whether it had sent."""

    async def test_its_message_is_booked_as_in_doubt_before_it_is_sent_again(self, scene: Scene) -> None:
        await scene.dead_relay()
        scene.clock.advance(CLAIM_SECONDS)
        assert await scene.drain() == 1

        assert scene.queue.known == [[Kind.INTENDED], [Kind.INTENDED, Kind.PUBLISH_IN_DOUBT]]
        assert scene.kinds == [Kind.INTENDED, Kind.PUBLISH_IN_DOUBT, Kind.PUBLISHED]
        assert scene.row() is None
        assert scene.fate is Fate.QUEUED

    async def test_the_doubt_lasts_when_the_next_one_dies_too(self, scene: Scene) -> None:
        await scene.dead_relay()
        scene.clock.advance(CLAIM_SECONDS)
        await scene.dead_relay()

        assert scene.kinds == [Kind.INTENDED, Kind.PUBLISH_IN_DOUBT]
        assert scene.fate is Fate.IN_DOUBT
        at, due, details = one(
            Path(scene.app.book.path),
            f"SELECT at, due, details FROM crossfoot_entries WHERE kind = {Kind.PUBLISH_IN_DOUBT:d}",
        )
        assert due - at == CLAIM_SECONDS * SECOND, "by then the one who has it now should have answered"
        assert msgspec.json.decode(details)["lapsed"] is True
        assert scene.row()[2] == 2, "tries"

    async def test_until_its_claim_is_over_nobody_else_sends(self, scene: Scene) -> None:
        await scene.dead_relay()
        scene.clock.advance(CLAIM_SECONDS - 0.001)

        assert await scene.drain() == 0
        assert scene.kinds == [Kind.INTENDED]
        assert await scene.relay().waits(scene.queue)

    async def test_what_was_never_claimed_or_was_put_off_is_not_in_doubt(self, scene: Scene) -> None:
        await scene.put_off(scene.relay())
        scene.clock.advance(3_600)
        await scene.drain()
        assert scene.kinds == [Kind.INTENDED, Kind.PUT_OFF, Kind.PUBLISHED]


class TestARelayThatWasTooSlow:
    """Somebody else took its rows over while it waited for the answer."""

    @pytest.mark.parametrize("late", ["accepted", "refused for good", "refused for now", "no answer", "unreachable"])
    async def test_its_late_answer_is_booked_and_leaves_the_row_to_the_new_holder(
        self, scene: Scene, late: str
    ) -> None:
        taken_over: list[Any] = []

        async def slowly(messages: Sequence[Outgoing]) -> list[PublishAnswer]:
            scene.clock.advance(CLAIM_SECONDS)
            await scene.dead_relay()  # it holds the row, and has not answered yet
            taken_over.append(scene.row())
            if late == "unreachable":
                raise QueueUnavailable("the line broke before anything was sent")
            return [answer_of(late, message.key) for message in messages]

        scene.queue.turns.append(slowly)
        if late == "unreachable":
            with pytest.raises(QueueUnavailable):
                await scene.drain()
        else:
            await scene.drain()

        assert [scene.row()] == taken_over
        assert scene.kinds[:2] == [Kind.INTENDED, Kind.PUBLISH_IN_DOUBT]
        assert len(scene.kinds) == 3

        scene.clock.advance(CLAIM_SECONDS)
        await scene.drain()
        assert scene.row() is None
        assert scene.kinds[-1] is Kind.PUBLISHED


def answer_of(what: str, key: str) -> PublishAnswer:
    if what == "accepted":
        return Accepted(key)
    if what == "no answer":
        return Doubtful(key, "timed out")
    return Refused(key, "no", permanent=what == "refused for good")


class TestAClockSetBack:
    """By an hour, say: nothing waits an hour longer for it, and no claim is cut short."""

    HOUR = 3_600.0

    @pytest.mark.parametrize("seconds", [FURTHEST / SECOND / 2, HOUR])
    async def test_what_waited_for_nothing_is_sent_at_once(self, scene: Scene, seconds: float) -> None:
        scene.clock.step(-seconds)
        assert await scene.drain() == 1
        assert scene.kinds == [Kind.INTENDED, Kind.PUBLISHED]

    @pytest.mark.parametrize("same", [True, False], ids=["the same relay", "another one"])
    async def test_nor_does_what_was_put_off_wait(self, scene: Scene, same: bool) -> None:
        relay = scene.relay()
        await scene.put_off(relay)
        scene.clock.step(-self.HOUR)
        assert await (relay if same else scene.relay()).drain(scene.queue) == 1
        assert scene.kinds == [Kind.INTENDED, Kind.PUT_OFF, Kind.PUBLISHED]

    async def test_a_relay_whose_own_clock_was_right_notices_within_a_minute(self, scene: Scene) -> None:
        relay = scene.relay()
        await scene.put_off(relay)
        with scene.app.book.writing() as connection:  # as one whose clock was not
            connection.execute("UPDATE crossfoot_outbox SET due = due + ?", (round(self.HOUR * SECOND),))
        assert await relay.drain(scene.queue) == 0
        scene.clock.advance(CHECK_SECONDS)
        assert await relay.drain(scene.queue) == 1

    @pytest.mark.parametrize("claim", [CLAIM_SECONDS, 2 * FURTHEST / SECOND])
    async def test_a_claim_begins_anew_and_is_no_shorter(self, scene: Scene, claim: float) -> None:
        relay = scene.relay(claim)
        await scene.dead_relay(claim)
        assert await relay.drain(scene.queue) == 0
        scene.clock.step(-self.HOUR)
        assert await relay.drain(scene.queue) == 0
        scene.clock.advance(claim - 0.001)
        assert await relay.drain(scene.queue) == 0
        assert scene.kinds == [Kind.INTENDED]
        scene.clock.advance(0.001)
        assert await relay.drain(scene.queue) == 1
        assert scene.kinds == [Kind.INTENDED, Kind.PUBLISH_IN_DOUBT, Kind.PUBLISHED]

    async def test_a_long_claim_of_a_clock_that_is_right_is_left_alone(self, scene: Scene) -> None:
        claim = 2 * FURTHEST / SECOND
        await scene.dead_relay(claim)
        row = scene.row()
        scene.clock.advance(1)
        assert await scene.relay(claim).drain(scene.queue) == 0
        assert scene.row() == row


class TestAnswers:
    """What each one makes of the row."""

    @pytest.mark.parametrize(
        ("what", "booked", "stays"),
        [
            ("accepted", Kind.PUBLISHED, False),
            ("refused for good", Kind.REFUSED, False),
            ("refused for now", Kind.PUT_OFF, True),
            ("no answer", Kind.PUBLISH_IN_DOUBT, True),
        ],
    )
    async def test_only_an_end_takes_it_out_of_the_outbox(
        self, scene: Scene, what: str, booked: Kind, stays: bool
    ) -> None:
        async def answer(messages: Sequence[Outgoing]) -> list[PublishAnswer]:
            return [answer_of(what, message.key) for message in messages]

        scene.queue.turns.append(answer)
        await scene.drain()
        assert scene.kinds == [Kind.INTENDED, booked]
        assert await scene.relay().waits(scene.queue) is stays
        if stays:
            claim, due, _ = scene.row()
            assert (claim, due) == (None, scene.clock.now() + SECOND // 4), "free again, after a pause"
            assert await scene.drain() == 0
            scene.clock.advance(0.25)
            assert await scene.drain() == 1
            assert scene.kinds == [Kind.INTENDED, booked, Kind.PUBLISHED]

    async def test_pauses_grow_from_try_to_try(self, scene: Scene) -> None:
        async def refuse(messages: Sequence[Outgoing]) -> list[PublishAnswer]:
            return [answer_of("refused for now", message.key) for message in messages]

        pauses = []
        for _ in range(12):
            scene.queue.turns.append(refuse)
            assert await scene.drain() == 1
            _, due, _ = scene.row()
            pauses.append((due - scene.clock.now()) / SECOND)
            scene.clock.advance(pauses[-1])
        assert pauses == [0.25, 0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


class TestAMessageThatWasParked:
    """The outbox holds its only copy, and it goes on where it was."""

    @pytest.fixture
    def parked(self, scene: Scene) -> Scene:
        """Sent on after its third delivery."""
        with scene.app.book.writing() as connection:
            connection.execute("UPDATE crossfoot_outbox SET base = 3")
            ((message,),) = connection.execute("SELECT message FROM crossfoot_outbox").fetchall()
            write_entries(connection, [Entry(message=message, kind=Kind.RESUMED, at=1, attempt=3)])
        return scene

    async def test_no_refusal_of_it_is_the_last(self, parked: Scene) -> None:
        async def refuse(messages: Sequence[Outgoing]) -> list[PublishAnswer]:
            return [answer_of("refused for good", message.key) for message in messages]

        parked.queue.turns.append(refuse)
        await parked.drain()
        assert parked.kinds == [Kind.INTENDED, Kind.RESUMED, Kind.PUT_OFF]
        assert parked.row() is not None

    async def test_it_is_no_repetition_of_the_first_and_its_deliveries_count_on(self, parked: Scene) -> None:
        sent: list[Outgoing] = []

        async def note(messages: Sequence[Outgoing]) -> None:
            sent.extend(messages)

        parked.queue.turns.append(note)
        await parked.drain()
        (message,) = sent
        assert message.deduplication == f"{message.key}#3"
        (delivery,) = await parked.queue.receive(1, lease=30.0)
        assert delivery.attributes == {BASE_ATTRIBUTE: "3"}
        assert one(
            Path(parked.app.book.path), f"SELECT attempt FROM crossfoot_entries WHERE kind = {Kind.PUBLISHED:d}"
        ) == (3,)
