"""What was decided on and can never be sent ends in the book: refused where that is known at once, discarded by hand where not."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
from boto3.session import Session

from crossfoot import Crossfoot
from crossfoot.books import queries
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate, fold, posted_fate
from crossfoot.boundaries import Boundary, install
from crossfoot.clock import ManualClock
from crossfoot.effects.outbox import CLAIM_SECONDS, Outbox
from crossfoot.errors import NotDiscarded, PublishRefused, QueueMissing, QueueUnavailable, UsageError
from crossfoot.message import Message
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Doubtful, Outgoing, PublishAnswer, Refused
from crossfoot.queues.sqs import SqsQueue, ensure
from crossfoot.recover.discarding import discard
from tests.acceptance.service_rig import eventually
from tests.acceptance.shell import crossfoot, rows
from tests.servers.processes import Server

pytest_plugins = ["tests.servers.fixtures", "tests.servers.postgres_fixtures"]

pytestmark = pytest.mark.anyio

SCHEMA = Path(__file__).parents[2] / "src/crossfoot/cli/schemas/discard.json"

Turn = Callable[[], Exception | None]
"""What happens when the queue is opened; an error that it returns is raised."""


class Killed(Exception):
    """The process is gone."""


class Line(EmbeddedQueue):
    """A queue in another file, whose opening and whose answers can be scripted."""

    opening: list[Turn]
    silent = False
    refuses = False

    async def open(self) -> None:
        error = self.opening.pop(0)() if self.opening else None
        if error is not None:
            raise error
        await super().open()

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        if self.refuses:
            return [Refused(message.key, "too large", permanent=True) for message in messages]
        answers = await super().publish(messages)
        return [Doubtful(message.key, "no answer") for message in messages] if self.silent else answers


class Scene:
    """A service, and the queue it publishes to."""

    def __init__(self, app: Crossfoot, queue: Line, clock: ManualClock) -> None:
        self.app, self.queue, self.clock = app, queue, clock

    async def publish(self, id_: str = "m-1", *, fails: Exception | None = None) -> None:
        if fails is not None:
            self.queue.opening.append(lambda: fails)
        await self.app.publish(Message(type="case.released", source="billing", subject="case-1", id=id_))

    async def die_sending(self, id_: str = "m-1") -> None:
        """The intent is in the book, and nobody knows whether it was sent."""

        def hook(boundary: Boundary) -> None:
            if boundary is Boundary.BEFORE_SEND:
                raise Killed

        install(hook)
        try:
            with pytest.raises(Killed):
                await self.publish(id_)
        finally:
            install(None)

    async def drain(self) -> int:
        return await Outbox(self.app.book, {self.queue.name: self.queue}).drain(self.queue)

    def discard(self, id_: str = "m-1", reason: str = "a typo") -> bool:
        with self.app.book.reading() as connection:
            (row,) = queries.named(connection, "message id", id_, 2)
        return discard(self.app.book, row, reason=reason, by="anna")

    def kinds(self, id_: str = "m-1") -> list[Kind]:
        return [entry.kind for entry in self._entries(id_)]

    def fate(self, id_: str = "m-1") -> Fate | None:
        return posted_fate(fold(self._entries(id_)))

    def letters(self) -> int:
        with self.app.book.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM crossfoot_outbox").fetchone()[0])

    async def work(self) -> None:
        with anyio.fail_after(20):
            await self.app.worker(wait=0.05, concurrency=1).run(until_idle=True)

    def _entries(self, id_: str) -> Sequence[Any]:
        with self.app.book.reading() as connection:
            (row,) = queries.named(connection, "message id", id_, 2)
            return queries.entries_of(connection, row.key)


MISSPELT = UsageError("no region for queue letters")


def scene_in(folder: Path, book: Any) -> Scene:
    clock = ManualClock()
    Crossfoot("other", database=folder / "queue.db").book.open().close()
    queue = Line(folder / "queue.db", "letters", ordered=False, clock=clock)
    queue.opening = []
    app = Crossfoot("billing", database=book, queue=queue, clock=clock, synchronous="NORMAL")
    app.book.open()

    @app.handler("case.released")
    def bill(message: Message, tx: Any) -> None:
        tx.outcome("billed")

    return Scene(app, queue, clock)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = scene_in(tmp_path, tmp_path / "billing.db")
    yield made
    await made.app.aclose()


@pytest.fixture(
    params=["sqlite", pytest.param("postgres", marks=[pytest.mark.server, pytest.mark.xdist_group("postgres")])]
)
async def either(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    """With its book in a file, and in PostgreSQL."""
    book = request.getfixturevalue("postgres_url") if request.param == "postgres" else tmp_path / "billing.db"
    made = scene_in(tmp_path, book)
    yield made
    await made.app.aclose()


class TestAQueueThatCannotBeUsedAsItIsSet:
    """Nothing was sent, and trying again would not help: the publisher is told, and the book says refused."""

    async def test_its_messages_are_refused_and_nothing_is_left_to_send(self, either: Scene) -> None:
        with pytest.raises(PublishRefused, match=r"no region.*m-1 as refused") as raised:
            await either.publish(fails=MISSPELT)

        assert raised.value.refused == ("m-1",)
        assert either.kinds() == [Kind.INTENDED, Kind.REFUSED]
        assert either.letters() == 0

    async def test_a_name_that_the_book_never_knew_is_refused_and_one_that_it_did_is_waited_for(
        self, scene: Scene
    ) -> None:
        with pytest.raises(PublishRefused):
            await scene.publish("m-1", fails=QueueMissing("queue letters does not exist"))
        assert scene.fate("m-1") is Fate.REFUSED

        await scene.publish("m-2")
        await scene.work()
        with pytest.raises(QueueUnavailable) as raised:
            await scene.publish("m-3", fails=QueueMissing("queue letters does not exist"))
        assert raised.value.kept == ("m-3",)
        assert scene.kinds("m-3") == [Kind.INTENDED, Kind.PUT_OFF]
        assert scene.letters() == 1

    async def test_once_it_is_mended_the_same_id_is_published(self, scene: Scene) -> None:
        with pytest.raises(PublishRefused):
            await scene.publish(fails=MISSPELT)
        await scene.publish()
        await scene.work()
        assert scene.fate() is Fate.SETTLED

    async def test_what_was_sent_before_under_the_id_is_not_called_refused(self, scene: Scene) -> None:
        await scene.publish()
        with pytest.raises(PublishRefused, match="what it says of them stands") as raised:
            await scene.publish(fails=MISSPELT)

        assert raised.value.refused == ()
        assert Kind.REFUSED not in scene.kinds()
        assert scene.fate() is Fate.QUEUED
        assert scene.letters() == 0

    async def test_nor_is_what_may_have_been_sent_by_somebody_who_died(self, scene: Scene) -> None:
        await scene.die_sending()
        with pytest.raises(PublishRefused) as raised:
            await scene.publish(fails=MISSPELT)

        assert raised.value.refused == ()
        assert Kind.REFUSED not in scene.kinds()
        assert scene.letters() == 1, "the first one, whose sender was killed"
        scene.clock.advance(CLAIM_SECONDS)
        await scene.drain()
        assert scene.kinds()[-2:] == [Kind.PUBLISH_IN_DOUBT, Kind.PUBLISHED]

    async def test_a_letter_that_a_relay_has_taken_meanwhile_is_its_to_send(self, scene: Scene) -> None:
        def overtaken() -> Exception:
            scene.clock.advance(CLAIM_SECONDS)
            with scene.app.book.writing() as connection:
                connection.execute("UPDATE crossfoot_outbox SET claim = 'a relay', due = due + 60000000")
            return MISSPELT

        scene.queue.opening.append(overtaken)
        with pytest.raises(PublishRefused) as raised:
            await scene.publish()

        assert raised.value.refused == ()
        assert scene.kinds() == [Kind.INTENDED]
        assert scene.letters() == 1

    async def test_a_relay_keeps_its_letters_and_tries_again(self, scene: Scene) -> None:
        with closing(sqlite3.connect(scene.app.book.path)) as connection, scene.app.transaction(connection) as tx:
            tx.send(Message(type="case.released", source="billing", subject="case-1", id="m-1"))
        scene.queue.opening.append(lambda: MISSPELT)
        with pytest.raises(UsageError, match="no region"):
            await scene.drain()
        assert scene.kinds() == [Kind.INTENDED, Kind.PUT_OFF]

        scene.clock.advance(1)
        assert await scene.drain() == 1
        assert scene.kinds()[-1] is Kind.PUBLISHED


class TestOneThatATransactionSendsAgain:
    """What was taken back, and is sent again by a transaction, is open again, as when it is published again."""

    async def send(self, scene: Scene) -> None:
        with closing(sqlite3.connect(scene.app.book.path)) as connection, scene.app.transaction(connection) as tx:
            tx.send(Message(type="case.released", source="billing", subject="case-1", id="m-1"))

    async def test_it_is_intended_and_handled(self, scene: Scene) -> None:
        await self.send(scene)
        assert scene.discard()
        await self.send(scene)
        assert (scene.fate(), scene.letters()) == (Fate.INTENDED, 1)

        await scene.work()
        assert scene.fate() is Fate.SETTLED

    async def test_it_can_be_taken_back_again_and_the_book_says_so(self, scene: Scene) -> None:
        await self.send(scene)
        assert scene.discard()
        await self.send(scene)

        assert scene.discard()
        assert (scene.fate(), scene.letters()) == (Fate.DISCARDED, 0)
        assert scene.kinds() == [Kind.INTENDED, Kind.DISCARDED, Kind.INTENDED, Kind.DISCARDED]
        assert not scene.discard()

    async def test_an_intent_that_an_older_version_hid_behind_the_decision_is_taken_back_in_the_book_too(
        self, scene: Scene
    ) -> None:
        await self.send(scene)
        with scene.app.book.reading() as connection:
            letter = connection.execute("SELECT * FROM crossfoot_outbox").fetchone()
        assert scene.discard()
        with scene.app.book.writing() as connection:
            connection.execute(f"INSERT INTO crossfoot_outbox VALUES ({','.join('?' * len(letter))})", tuple(letter))

        assert scene.discard()
        assert (scene.kinds().count(Kind.DISCARDED), scene.letters()) == (2, 0)

    async def test_what_its_queue_refuses_is_refused(self, scene: Scene) -> None:
        await self.send(scene)
        assert scene.discard()
        await self.send(scene)
        scene.queue.refuses = True
        await scene.drain()

        assert scene.fate() is Fate.REFUSED


async def test_a_worker_goes_on_while_it_cannot_send_to_another_queue(tmp_path: Path) -> None:
    """A NATS stream of several subjects opens, and only a publish finds out that none was named."""
    path = tmp_path / "billing.db"
    letters = Line(tmp_path / "queue.db", "letters", ordered=False)
    Crossfoot("other", database=tmp_path / "queue.db").book.open().close()
    app = Crossfoot("billing", database=path, synchronous="NORMAL", wait=0.05)
    app.queues["letters"] = letters

    @app.handler("case.released")
    def bill(message: Message, tx: Any) -> None:
        tx.send("letter.wanted", subject=message.subject, to="letters")

    def count(kind: Kind) -> int:
        return int(rows(path, f"SELECT count(*) FROM crossfoot_entries WHERE kind = {kind:d}")[0][0])

    worker = app.worker()
    async with anyio.create_task_group() as tasks:
        await app.publish("case.released", subject="case-1")
        letters.opening = [lambda: None, *[lambda: UsageError("which subject?")] * 2]
        tasks.start_soon(worker.run)
        await eventually(lambda: count(Kind.PUT_OFF) == 2, "the letter to be put off")
        await app.publish("case.released", subject="case-2")
        await eventually(lambda: count(Kind.PUBLISHED) == 4, "both letters to be sent")
        worker.stop()
    await app.aclose()
    assert count(Kind.COMMITTED) == 2
    assert count(Kind.PUBLISH_IN_DOUBT) == 0


class TestDiscarding:
    """A person takes back what no queue is known to have."""

    async def test_an_unsent_one_is_sent_by_nobody_and_the_book_says_who_decided_and_why(self, either: Scene) -> None:
        with pytest.raises(QueueUnavailable):
            await either.publish(fails=QueueUnavailable("no connection"))
        assert either.discard() is True
        either.clock.advance(60)

        assert await either.drain() == 0
        assert either.fate() is Fate.DISCARDED
        entry = either._entries("m-1")[-1]
        assert json.loads(entry.details) == {"reason": "a typo", "by": "anna"}
        assert either.discard() is False, "it was before"
        assert either.kinds().count(Kind.DISCARDED) == 1

    async def test_one_that_is_being_sent_is_not_and_after_its_claim_it_is(self, either: Scene) -> None:
        await either.die_sending()
        with pytest.raises(NotDiscarded, match="ask again in 60 s"):
            either.discard()
        assert either.letters() == 1
        either.clock.advance(CLAIM_SECONDS)

        assert either.discard() is True
        assert either.letters() == 0
        assert either.kinds() == [Kind.INTENDED, Kind.DISCARDED]

    @pytest.mark.parametrize(
        ("steps", "why"),
        [
            (("publish",), "queued: its queue has it"),
            (("publish", "work"), "settled: that is its end"),
            (("refuse",), "refused: that is its end"),
            (("publish", "kill"), "dead: it lies in the dead letters"),
        ],
    )
    async def test_what_has_ended_or_lies_in_a_queue_stays_as_it_is(
        self, scene: Scene, steps: tuple[str, ...], why: str
    ) -> None:
        for step in steps:
            if step == "publish":
                await scene.publish()
            elif step == "work":
                await scene.work()
            elif step == "refuse":
                with pytest.raises(PublishRefused):
                    await scene.publish(fails=MISSPELT)
            else:
                deliveries = await scene.queue.receive(1, lease=30)
                await scene.queue.dead_letter(deliveries, reason="by hand")
                await scene.work()
        before = scene.kinds()
        with pytest.raises(NotDiscarded, match=why) as told:
            scene.discard()
        assert scene.kinds() == before
        assert ("`crossfoot dead show m-1`" in str(told.value)) is ("kill" in steps), (
            "where that is told, it is told what to do"
        )

    async def test_one_that_was_on_its_queue_after_all_ends_as_what_becomes_of_it(
        self, scene: Scene, tmp_path: Path
    ) -> None:
        scene.queue.silent = True
        await scene.publish()
        assert scene.kinds() == [Kind.INTENDED, Kind.PUBLISH_IN_DOUBT]
        scene.discard()
        assert balance_of(tmp_path)["fates"]["discarded"] == 1

        scene.queue.silent = False
        await scene.work()
        assert scene.fate() is Fate.SETTLED
        drawn = balance_of(tmp_path)
        assert drawn["fates"]["settled"] == 1
        assert drawn["fates"]["discarded"] == 0

    async def test_one_that_is_published_again_is_open_again(self, scene: Scene, tmp_path: Path) -> None:
        with pytest.raises(QueueUnavailable):
            await scene.publish(fails=QueueUnavailable("no connection"))
        scene.discard()
        await scene.publish()
        assert scene.fate() is Fate.QUEUED
        assert balance_of(tmp_path)["fates"]["discarded"] == 0
        await scene.work()
        assert scene.fate() is Fate.SETTLED
        assert balance_of(tmp_path)["boundaries"]["committed"] == 1


def balance_of(folder: Path) -> Any:
    """The books, which balance whatever was discarded; the clock of these messages is not the machine's, so only the identities count."""
    drawn = json.loads(crossfoot(folder, "balance", "--db", "billing.db", "--no-queue", "--json", code=None).stdout)
    assert [name for name, one in drawn["identities"].items() if one["holds"] is False] == []
    assert drawn["unaccounted"] == 0
    assert crossfoot(folder, "verify", "--db", "billing.db").returncode == 0
    return drawn


SERVICE = """
from crossfoot import Crossfoot
app = Crossfoot("billing")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "billing.py").write_text(SERVICE)
    return tmp_path


NO_REGION = {"AWS_CONFIG_FILE": "/nowhere", "AWS_EC2_METADATA_DISABLED": "true"}
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "CROSSFOOT_REGION": "eu-central-1"}


def test_a_publish_without_a_region_ends_with_2_and_in_the_books(folder: Path) -> None:
    done = crossfoot(
        folder,
        "publish",
        "billing:app",
        "case.released",
        "--id",
        "m-1",
        code=2,
        CROSSFOOT_QUEUE="sqs:billing",
        **NO_REGION,
    )

    assert "no region for queue billing" in done.stderr
    assert "message m-1 as refused" in done.stderr
    assert json.loads(crossfoot(folder, "balance", "--no-queue", "--json").stdout)["fates"]["refused"] == 1
    assert crossfoot(folder, "why", "m-1", code=1).stdout.startswith("REFUSED: ")


@pytest.mark.server
@pytest.mark.xdist_group("ministack")
def test_a_publish_to_a_queue_that_there_never_was_ends_with_2_and_in_the_books(
    folder: Path, ministack: Server
) -> None:
    done = crossfoot(
        folder, "publish", "billing:app", "case.released", "--id", "m-1", code=2,
        CROSSFOOT_QUEUE="sqs:bililng", CROSSFOOT_ENDPOINT=ministack.url, **KEYS,
    )  # fmt: skip

    assert "queue bililng does not exist" in done.stderr
    assert rows(folder / "crossfoot.db", "SELECT count(*) FROM crossfoot_outbox") == [(0,)]
    assert json.loads(crossfoot(folder, "balance", "--no-queue", "--json").stdout)["fates"]["refused"] == 1


@pytest.mark.server
@pytest.mark.xdist_group("ministack")
async def test_what_is_meant_for_a_queue_that_was_removed_waits_for_it(
    tmp_path: Path, ministack: Server, aws: Session
) -> None:
    def app() -> Crossfoot:
        queue = SqsQueue("removed", endpoint_url=ministack.url, session=aws)
        return Crossfoot("billing", database=tmp_path / "billing.db", queue=queue, wait=0.1)

    await ensure("removed", endpoint_url=ministack.url, session=aws)
    before = app()
    before.handler("case.released")(lambda message, tx: tx.outcome("billed"))
    await before.publish("case.released", subject="case-1")
    await before.worker().run(until_idle=True)
    await before.aclose()
    sqs = aws.client("sqs", endpoint_url=ministack.url)
    sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName="removed")["QueueUrl"])

    after = app()
    with pytest.raises(QueueUnavailable, match="does not exist") as raised:
        await after.publish("case.released", subject="case-2", id="m-2")
    await after.aclose()
    assert raised.value.kept == ("m-2",)


def test_discard_by_hand(folder: Path) -> None:
    nobody = {"CROSSFOOT_QUEUE": "redis://127.0.0.1:9/0/billing"}
    for id_ in ("m-1", "m-2"):
        done = crossfoot(folder, "publish", "billing:app", "case.released", "--id", id_, code=1, **nobody)
        assert f"crossfoot discard {id_} --reason" in done.stderr
    crossfoot(folder, "publish", "billing:app", "case.released", "--id", "m-3")

    done = crossfoot(folder, "discard", "m-1", "--reason", "its queue was misspelt", "--by", "anna")
    assert done.stdout == "discarded  m-1\n"
    assert "anna decided that it need not happen: its queue was misspelt" in crossfoot(folder, "why", "m-1").stdout

    done = crossfoot(folder, "discard", "m-1", "billing|m-2", "m-3", "m-4", "-r", "no use", "--json", code=1)
    told = json.loads(done.stdout)
    jsonschema.validate(told, json.loads(SCHEMA.read_text()))
    assert [(one["message"], one["discarded"]) for one in told] == [
        ("m-1", True), ("m-2", True), ("m-3", False), ("m-4", False),
    ]  # fmt: skip
    assert "queued: its queue has it" in told[2]["reason"]
    drawn = json.loads(crossfoot(folder, "balance", "--no-queue", "--json").stdout)
    assert (drawn["fates"]["discarded"], drawn["fates"]["queued"]) == (2, 1)


def test_discard_wants_a_reason_and_one_message_a_name(folder: Path) -> None:
    for queue in ("a", "b"):
        crossfoot(
            folder, "publish", "billing:app", "case.released", "--id", "m-1", code=1,
            CROSSFOOT_QUEUE=f"redis://127.0.0.1:9/0/{queue}",
        )  # fmt: skip
    assert "--reason" in crossfoot(folder, "discard", "m-1", code=2).stderr
    assert "--reason is empty" in crossfoot(folder, "discard", "m-1", "--reason", " ", code=2).stderr
    assert "2 messages are called m-1" in crossfoot(folder, "discard", "m-1", "--reason", "x", code=1).stderr
    assert crossfoot(folder, "discard", "m-1", "--queue", "b", "--reason", "x").stdout == "discarded  m-1\n"
