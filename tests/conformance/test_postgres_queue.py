"""What a queue in PostgreSQL promises beyond the port: whose clock counts, who comes first, what rides in a transaction."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import psycopg
import pytest

from crossfoot.clock import SECOND, Micros, SystemClock, micros
from crossfoot.dialect import translate
from crossfoot.errors import MessageTooLarge, QueueUnavailable, UsageError
from crossfoot.postgres import connect
from crossfoot.queues.postgres import PostgresQueue, ensure, sql
from crossfoot.queues.queue import Accepted, Done, LocalQueue, NotDone, Order, Outgoing, PublishAnswer, SqlStatement
from crossfoot.testing.queues import outgoing
from crossfoot.testing.queues.suite import bodies, receipts
from tests.servers.postgres import Postgres

pytest_plugins = ["tests.servers.postgres_fixtures"]

pytestmark = [
    pytest.mark.server,
    pytest.mark.usefixtures("no_blocking_calls"),
    pytest.mark.xdist_group("postgres"),
]


class SkewedClock(SystemClock):
    """A machine whose clock is wrong."""

    def __init__(self, seconds: float) -> None:
        self._ahead = micros(seconds)

    def now(self) -> Micros:
        return super().now() + self._ahead


class Place:
    """One database, and whatever queues a test wants in it."""

    def __init__(self, url: str, server: Postgres) -> None:
        self.url = url
        self.server = server

    @asynccontextmanager
    async def queue(self, name: str = "orders", **options: Any) -> AsyncIterator[PostgresQueue]:
        async with PostgresQueue(name, url=self.url, **options) as queue:
            yield queue

    def run(self, sql: str, *parameters: Any) -> list[Any]:
        return self.server.run(sql, *parameters, database=self.url.rpartition("/")[2])

    @contextmanager
    def transaction(self, isolation: str = "READ COMMITTED") -> Iterator[psycopg.Connection[Any]]:
        """One of somebody else's."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"BEGIN ISOLATION LEVEL {isolation}".encode())
            yield connection


@pytest.fixture
async def place(postgres: Postgres, postgres_url: str) -> Place:
    await ensure("orders", url=postgres_url)
    return Place(postgres_url, postgres)


def execute(connection: psycopg.Connection[Any], *statements: SqlStatement) -> list[int]:
    """As the effect's transaction does; the row counts."""
    return [connection.execute(translate(sql), parameters).rowcount for sql, parameters in statements]


def numbered(count: int, **more: Any) -> list[Outgoing]:
    return [Outgoing(key=f"a|{number}", body=str(number).encode(), **more) for number in range(count)]


class TestWhoComesFirst:
    async def test_the_higher_priority_is_delivered_first_and_within_one_what_was_published_first(
        self, place: Place
    ) -> None:
        async with place.queue() as queue:
            for number, priority in enumerate([0, 5, 9, 0, 9, 5]):
                await queue.publish([Outgoing(key=f"a|{number}", body=str(number).encode(), priority=priority)])
            assert bodies(await queue.receive(4, lease=30.0)) == [b"2", b"4", b"1", b"5"]
            await queue.publish([Outgoing(key="a|6", body=b"6", priority=1)])
            assert bodies(await queue.receive(10, lease=30.0)) == [b"6", b"0", b"3"]

    async def test_what_was_handed_back_comes_before_everything_and_what_has_waited_before_the_rest(
        self, place: Place
    ) -> None:
        async with place.queue() as queue:
            await queue.publish(numbered(2))
            one, two = await queue.receive(2, lease=30.0)
            await queue.publish([Outgoing(key="a|9", body=b"9", priority=9)])
            await queue.release([one.receipt])
            await queue.release([two.receipt], delay=0.2)
            assert bodies(await queue.receive(1, lease=30.0)) == [b"0"]
            await anyio.sleep(0.3)
            assert bodies(await queue.receive(10, lease=30.0)) == [b"1", b"9"]

    async def test_a_priority_that_never_ceases_starves_the_lower_ones_and_the_oldest_shows_it(
        self, place: Place
    ) -> None:
        async with place.queue() as queue:
            await queue.publish(numbered(1))
            await anyio.sleep(0.3)
            for _ in range(5):
                await queue.publish([outgoing(), Outgoing(key="a|9", body=b"9", priority=9)])
                assert bodies(await queue.receive(1, lease=30.0)) == [b"9"]
            oldest = await queue.oldest()
            assert oldest is not None
            assert SystemClock().now() - oldest > 0.3 * SECOND

    async def test_a_priority_nobody_knows_is_refused_for_good(self, place: Place) -> None:
        async with place.queue() as queue:
            (answer,) = await queue.publish([Outgoing(key="a|1", body=b"", priority=10)])
            assert "knows 0 to 9" in str(answer)
            assert await queue.receive(1, lease=1.0) == []


class TestWhatBecomesVisibleLate:
    """A receive begins where the last look ended; nothing is left behind it."""

    async def test_a_transaction_that_publishes_and_commits_long_after_others_is_delivered(self, place: Place) -> None:
        async with place.queue() as queue:
            with place.transaction() as slow, place.transaction() as slower:
                for connection in (slow, slower):
                    execute(connection, *queue.publish_statements([outgoing(b"late")], 0))
                for number in range(12):
                    await queue.publish([outgoing(str(number).encode())])
                    assert bodies(await queue.receive(10, lease=30.0)) == [str(number).encode()]
                slow.execute("COMMIT")
                assert bodies(await queue.receive(10, lease=30.0)) == [b"late"]
                for _ in range(6):
                    assert await queue.receive(10, lease=30.0) == []
                slower.execute("COMMIT")
                assert bodies(await queue.receive(10, lease=30.0)) == [b"late"]

    async def test_many_transactions_in_progress_hide_nothing(self, place: Place) -> None:
        async with place.queue() as queue:
            connections = [psycopg.connect(place.url) for _ in range(12)]
            try:
                for number, connection in enumerate(connections):
                    execute(connection, *queue.publish_statements([outgoing(str(number).encode())], 0))
                for _ in range(8):
                    assert await queue.receive(10, lease=30.0) == []
                for number in (5, 11, 0, 3, 1, 2, 4, 10, 9, 8, 7, 6):
                    connections[number].commit()
                    assert bodies(await queue.receive(10, lease=30.0)) == [str(number).encode()]
            finally:
                for connection in connections:
                    connection.close()

    async def test_what_was_locked_when_others_were_taken_is_delivered_when_it_is_let_go(self, place: Place) -> None:
        async with place.queue() as queue:
            await queue.publish(numbered(3))
            with place.transaction() as holder:
                holder.execute("SELECT FROM crossfoot_queue WHERE message = 'a|0' FOR UPDATE")
                for _ in range(6):
                    await queue.receive(10, lease=30.0)
                holder.execute("ROLLBACK")
            assert bodies(await queue.receive(10, lease=30.0)) == [b"0"]

    async def test_a_delay_that_is_over_before_its_transaction_is_found_by_the_look_at_everything(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("crossfoot.queues.postgres.receiving.WHOLE_LOOK", 1.0)
        monkeypatch.setattr("crossfoot.queues.postgres.receiving.SHARE", 1)  # a busy machine looks slowly
        async with place.queue() as queue:
            with place.transaction() as slow:
                execute(slow, *queue.publish_statements([outgoing(b"late", delay=0.05)], 0))
                await anyio.sleep(0.5)
                for _ in range(6):
                    assert await queue.receive(10, lease=30.0) == []
                slow.execute("COMMIT")
            with anyio.fail_after(5):
                assert bodies(await queue.receive(10, lease=30.0, wait=4.0)) == [b"late"]

    async def test_what_another_consumer_handed_back_is_found_behind_ones_own_place(self, place: Place) -> None:
        async with place.queue() as queue, place.queue() as other:
            await queue.publish(numbered(100))
            (first,) = await other.receive(1, lease=30.0)
            for _ in range(9):
                assert len(await queue.receive(10, lease=30.0)) == 10
            await other.release([first.receipt])
            assert bodies(await queue.receive(1, lease=30.0)) == [b"0"]

    async def test_a_look_at_everything_may_take_longer_than_other_requests(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sql, "LOOK", f"{sql.LOOK} FROM (SELECT pg_sleep(0.8) OFFSET 0) AS slow")
        async with place.queue(timeout=0.3) as queue:
            await queue.publish(numbered(1))
            assert bodies(await queue.receive(1, lease=30.0)) == [b"0"]


class TestTimes:
    @pytest.mark.parametrize("wrong", [-86_400.0, 86_400.0])
    async def test_a_client_whose_clock_is_wrong_neither_shortens_nor_lengthens_anything(
        self, place: Place, wrong: float
    ) -> None:
        async with (
            place.queue(clock=SkewedClock(wrong), retention=3_600.0) as queue,
            place.queue(retention=3_600.0) as other,
        ):
            await queue.publish([*numbered(1), outgoing(b"delayed", delay=1.0)])
            with place.transaction() as somebody:
                now = SkewedClock(wrong).now()
                execute(somebody, *queue.publish_statements([outgoing(b"local", delay=1.0)], now))
                somebody.execute("COMMIT")
            (delivery,) = await queue.receive(10, lease=1.0)
            assert delivery.body == b"0"
            assert await other.receive(10, lease=1.0) == []
            assert abs(delivery.lease_until - (now + SECOND)) < SECOND, "the holder reckons by its own clock"
            assert delivery.enqueued_at is not None
            assert abs(delivery.enqueued_at - SystemClock().now()) < 5 * SECOND, "by the server's clock"
            depth = await queue.depth()
            assert (depth.ready, depth.in_flight, depth.delayed) == (0, 1, 2)
            await anyio.sleep(1.2)
            assert sorted(bodies(await other.receive(10, lease=30.0))) == [b"0", b"delayed", b"local"]

    async def test_a_lease_that_ran_out_voids_the_receipt_once_somebody_else_has_the_message(
        self, place: Place
    ) -> None:
        async with place.queue() as queue, place.queue() as other:
            await queue.publish(numbered(2))
            one, two = await queue.receive(2, lease=0.3)
            await anyio.sleep(0.5)
            assert await queue.ack([one.receipt]) == [Done(one.receipt)], "late, and nobody else had it"
            (again,) = await other.receive(2, lease=30.0)
            assert (again.body, again.attempt) == (two.body, 2)
            with place.transaction() as effect:
                assert execute(effect, queue.ack_statement(two.receipt)) == [0], "the fence"
            (answer,) = await queue.extend([two.receipt], lease=30.0)
            assert isinstance(answer, NotDone)
            assert answer.lost
            assert await other.ack([again.receipt]) == [Done(again.receipt)]

    async def test_a_good_and_a_void_receipt_of_one_message_are_told_apart(self, place: Place) -> None:
        async with place.queue() as queue:
            await queue.publish(numbered(1))
            (first,) = await queue.receive(1, lease=30.0)
            await queue.release([first.receipt])
            (second,) = await queue.receive(1, lease=30.0)
            void, good = await queue.ack([first.receipt, second.receipt])
            assert isinstance(void, NotDone)
            assert void.lost
            assert good == Done(second.receipt)

    async def test_what_is_past_the_retention_is_kept_for_the_book_until_it_is_purged(self, place: Place) -> None:
        async with place.queue(retention=1.0) as queue:
            await queue.publish(numbered(3))
            held, *_ = await queue.receive(1, lease=30.0)
            await anyio.sleep(1.2)
            assert await queue.receive(10, lease=30.0) == []
            assert (await queue.depth()).held == 1, "what is in somebody's hands stays there"
            past = await queue.expired()
            assert sorted(bodies(past)) == [b"1", b"2"]
            assert bodies(await queue.expired(1)) == [b"1"]
            assert await queue.purge(past) == 2
            assert await queue.purge(past) == 0
            assert await queue.expired() == []
            assert await queue.ack([held.receipt]) == [Done(held.receipt)]

    async def test_the_retention_finds_what_priorities_starved_and_what_is_delayed(self, place: Place) -> None:
        async with place.queue(retention=1.0) as queue:
            await queue.publish(numbered(1))
            await queue.publish([Outgoing(key="a|9", body=b"9", priority=9)])
            (taken,) = await queue.receive(1, lease=30.0)
            await queue.release([taken.receipt], delay=60.0)
            await anyio.sleep(1.2)
            assert sorted(bodies(await queue.expired())) == [b"0", b"9"]


class TestLimits:
    async def test_a_receive_takes_no_more_than_some_megabytes(self, place: Place) -> None:
        async with place.queue(max_bytes=3 * 1024 * 1024) as queue:
            await queue.publish([outgoing(bytes([number]) * 3 * 1024 * 1024) for number in range(4)])
            assert [len(await queue.receive(10, lease=30.0)) for _ in range(3)] == [2, 2, 0]

    async def test_a_message_that_was_delivered_too_often_says_so_among_the_dead(self, place: Place) -> None:
        async with place.queue(max_attempts=2) as queue:
            await queue.publish(numbered(1))
            for _ in range(2):
                (delivery,) = await queue.receive(1, lease=30.0)
                await queue.release([delivery.receipt])
            assert await queue.receive(1, lease=30.0) == []
            ((reason,),) = place.run("SELECT dead_reason FROM crossfoot_queue WHERE state = 3")
            assert reason == "delivered 2 times, the most that queue orders allows"
            assert [held.attempt async for held in queue.dead_letters()] == [2]

    async def test_a_reason_with_whatever_in_it_is_stored(self, place: Place) -> None:
        async with place.queue() as queue:
            await queue.publish(numbered(1))
            (delivery,) = await queue.receive(1, lease=30.0)
            await queue.dead_letter([delivery], reason="poison \x00 \ud800 " + "x" * 10_000)
            ((reason,),) = place.run("SELECT dead_reason FROM crossfoot_queue")
            assert reason.startswith("poison   ? xxx")
            assert len(reason) == 500

    @pytest.mark.parametrize(
        "options",
        [{"retention": 0.0}, {"max_attempts": 0}, {"max_bytes": 0}, {"timeout": 0.0}, {"retention": float("inf")}],
    )
    async def test_settings_that_mean_nothing_are_wrong_use(self, options: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match="orders"):
            PostgresQueue("orders", **options)

    async def test_a_table_of_another_version_is_not_used(self, place: Place) -> None:
        place.run("COMMENT ON TABLE crossfoot_queue IS 'queues of crossfoot, 99'")
        with pytest.raises(QueueUnavailable, match="of this version"):
            await PostgresQueue("orders", url=place.url).open()

    async def test_making_the_tables_at_once_makes_them_once_and_again_changes_nothing(
        self, postgres: Postgres, postgres_url: str
    ) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(lambda: ensure("orders", url=postgres_url))
        place = Place(postgres_url, postgres)
        async with place.queue() as queue:
            await queue.publish(numbered(1))
            with place.transaction("REPEATABLE READ") as reader:
                reader.execute("SELECT FROM crossfoot_queue")
                with anyio.fail_after(5):
                    await ensure("orders", url=postgres_url)
            assert (await queue.depth()).ready == 1

    async def test_queues_of_one_table_know_nothing_of_each_other(self, place: Place) -> None:
        async with place.queue("one") as one, place.queue("two") as two:
            await one.publish(numbered(3))
            (delivery, *_) = await one.receive(1, lease=30.0)
            assert await two.receive(10, lease=30.0) == []
            (answer,) = await two.ack([delivery.receipt])
            assert isinstance(answer, NotDone)
            assert (await two.depth()).held == 0
            assert [held async for held in two.browse()] == []


class TestInTheCallersTransaction:
    """The queue in the database of the effect."""

    async def test_it_is_a_local_queue_of_its_own_database_only(self, place: Place) -> None:
        async with place.queue() as queue:
            assert isinstance(queue, LocalQueue)
            assert queue.is_in(place.url)
            assert not queue.is_in(place.server.url())
            assert not queue.is_in("/srv/billing.db")

    @pytest.mark.proves("transactional_ack", engine="PostgreSQL")
    async def test_an_ack_is_done_when_its_transaction_is_committed_and_not_when_it_is_rolled_back(
        self, place: Place
    ) -> None:
        async with place.queue() as queue:
            place.run("CREATE TABLE effects (number INTEGER)")
            await queue.publish(numbered(2))
            one, two = await queue.receive(2, lease=30.0)
            with place.transaction() as effect:
                effect.execute("INSERT INTO effects VALUES (1)")
                assert execute(effect, queue.ack_statement(one.receipt)) == [1]
                effect.execute("COMMIT")
            with place.transaction() as effect:
                effect.execute("INSERT INTO effects VALUES (2)")
                assert execute(effect, queue.ack_statement(two.receipt)) == [1]
                effect.execute("ROLLBACK")
            assert place.run("SELECT number FROM effects") == [(1,)]
            assert (await queue.depth()).held == 1
            assert await queue.ack([two.receipt]) == [Done(two.receipt)]

    async def test_every_statement_does_what_the_method_of_its_name_does(self, place: Place) -> None:
        async with place.queue() as queue:
            await queue.publish(numbered(3))
            one, two, three = await queue.receive(3, lease=30.0)
            statements = [
                queue.release_statement(one.receipt, 0),
                queue.release_statement(two.receipt, 0, 60.0),
                queue.dead_letter_statement(three.receipt, 0, "poison"),
                *queue.publish_statements([outgoing(b"new", attributes={"a": "ü"})], 0),
            ]
            with place.transaction() as effect:
                assert execute(effect, *statements) == [1, 1, 1, 1]
                effect.execute("COMMIT")
            depth = await queue.depth()
            assert (depth.ready, depth.in_flight, depth.delayed, depth.dead) == (2, 0, 1, 1)
            again, new = await queue.receive(10, lease=30.0)
            assert (again.body, again.attempt, new.body, new.attributes) == (b"0", 2, b"new", {"a": "ü"})
            with place.transaction() as effect:
                assert execute(effect, *statements[:3]) == [0, 0, 0], "the receipts are void"

    async def test_the_books_connection_takes_them_as_they_are(self, place: Place) -> None:
        async with place.queue() as queue:
            connection = connect(place.url)
            with connection.writing():
                for sql, parameters in queue.publish_statements(numbered(2, delay=0.0), 0):
                    assert connection.execute(sql, parameters).rowcount == 1
            one, two = await queue.receive(2, lease=30.0)
            with connection.writing():
                assert connection.execute(*queue.ack_statement(one.receipt)).rowcount == 1
                assert connection.execute(*queue.release_statement(two.receipt, 0, 1.5)).rowcount == 1
                assert connection.execute(*queue.ack_statement("no receipt")).rowcount == 0
            connection.close()
            assert (await queue.depth()).delayed == 1

    async def test_what_can_never_be_stored_is_said_before_anything_is_executed(self, place: Place) -> None:
        async with place.queue(max_bytes=10) as queue:
            with pytest.raises(MessageTooLarge):
                queue.publish_statements([outgoing(), outgoing(b"x" * 11)], 0)

    @pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another process"])
    async def test_whoever_waits_is_woken_after_the_commit(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
    ) -> None:
        monkeypatch.setattr("crossfoot.queues.postgres.receiving.FIRST_PAUSE", 30.0)
        async with place.queue() as queue, place.queue() as other:
            if elsewhere:
                monkeypatch.setattr(queue._bell, "_place", ("another process", "orders"))
            began = time.monotonic()
            got: list[bytes] = []

            async def consume() -> None:
                got.extend(bodies(await other.receive(1, lease=30.0, wait=10.0)))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume)
                await anyio.sleep(0.2)
                with place.transaction() as effect:
                    execute(effect, *queue.publish_statements([outgoing(b"x")], 0))
                    effect.execute("COMMIT")
                queue.wake()
            assert got == [b"x"]
            assert time.monotonic() - began < 1.0

    @pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
    async def test_a_transaction_that_sees_an_older_state_may_ack_and_publish_where_there_are_no_lines(
        self, place: Place, isolation: str
    ) -> None:
        async with place.queue() as queue:
            await queue.publish([outgoing(partition="a")])
            (delivery,) = await queue.receive(1, lease=30.0)
            with place.transaction(isolation) as effect:
                statements = queue.publish_statements([outgoing(b"next", partition="a")], 0)
                assert execute(effect, queue.ack_statement(delivery.receipt), *statements) == [1, 1]
                effect.execute("COMMIT")
            assert bodies(await queue.receive(10, lease=30.0)) == [b"next"]


class TestLines:
    """`ordered`: one after the other, whoever removes the head and however."""

    async def test_it_is_declared(self, place: Place) -> None:
        async with place.queue(ordered=True) as queue:
            assert queue.capabilities.order is Order.KEY

    async def test_the_next_is_delivered_once_the_transaction_that_acks_is_committed(self, place: Place) -> None:
        async with place.queue(ordered=True) as queue:
            await queue.publish(numbered(3, partition="a"))
            (head,) = await queue.receive(10, lease=30.0)
            with place.transaction() as effect:
                execute(effect, queue.ack_statement(head.receipt))
                assert await queue.receive(10, lease=30.0) == []
                effect.execute("COMMIT")
            assert bodies(await queue.receive(10, lease=30.0)) == [b"1"]

    async def test_one_that_is_published_while_the_head_is_being_acked_is_not_forgotten(self, place: Place) -> None:
        async with place.queue(ordered=True) as queue:
            await queue.publish(numbered(1, partition="a"))
            (head,) = await queue.receive(10, lease=30.0)
            answers: list[list[PublishAnswer]] = []

            async def publish() -> None:
                answers.append(await queue.publish([outgoing(b"next", partition="a")]))

            with place.transaction() as effect:
                execute(effect, queue.ack_statement(head.receipt))
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(publish)
                    await anyio.sleep(0.2)
                    assert answers == [], "it waits to see who is in line"
                    effect.execute("COMMIT")
            assert isinstance(answers[0][0], Accepted)
            assert bodies(await queue.receive(10, lease=30.0)) == [b"next"]

    async def test_the_order_is_that_of_the_commits(self, place: Place) -> None:
        async with place.queue(ordered=True) as queue:
            with place.transaction() as slow:
                execute(slow, *queue.publish_statements([outgoing(b"0", partition="a")], 0))
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(queue.publish, [outgoing(b"1", partition="a")])
                    await anyio.sleep(0.2)
                    execute(slow, *queue.publish_statements([outgoing(b"other", partition="b")], 0))
                    slow.execute("COMMIT")
            first = await queue.receive(10, lease=30.0)
            assert sorted(bodies(first)) == [b"0", b"other"]
            await queue.ack(receipts(first))
            assert bodies(await queue.receive(10, lease=30.0)) == [b"1"]

    @pytest.mark.parametrize("which", ["head", "behind"])
    async def test_a_row_that_somebody_deletes_leaves_the_line_whole(self, place: Place, which: str) -> None:
        async with place.queue(ordered=True) as queue:
            await queue.publish(numbered(3, partition="a"))
            place.run("DELETE FROM crossfoot_queue WHERE message = %s", {"head": "a|0", "behind": "a|1"}[which])
            seen = []
            while taken := await queue.receive(10, lease=30.0):
                assert len(taken) == 1
                seen += bodies(taken)
                await queue.ack(receipts(taken))
            assert seen == ([b"1", b"2"] if which == "head" else [b"0", b"2"])

    async def test_a_successor_with_a_delay_waits_for_both(self, place: Place) -> None:
        async with place.queue(ordered=True) as queue:
            await queue.publish([outgoing(b"0", partition="a"), outgoing(b"1", partition="a", delay=0.6)])
            await queue.ack(receipts(await queue.receive(10, lease=30.0)))
            assert await queue.receive(10, lease=30.0) == []
            assert bodies(await queue.receive(10, lease=30.0, wait=3.0)) == [b"1"]

    async def test_one_that_is_past_the_retention_makes_way(self, place: Place) -> None:
        async with place.queue(ordered=True, retention=1.0) as queue:
            await queue.publish(numbered(1, partition="a"))
            await anyio.sleep(1.2)
            await queue.publish([outgoing(b"young", partition="a")])
            assert bodies(await queue.receive(10, lease=30.0)) == [b"young"]
            assert bodies(await queue.expired()) == [b"0"]

    @pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
    async def test_a_transaction_that_sees_an_older_state_is_refused_with_the_remedy(
        self, place: Place, isolation: str
    ) -> None:
        async with place.queue(ordered=True) as queue:
            await queue.publish(numbered(1, partition="a"))
            (head,) = await queue.receive(10, lease=30.0)
            for statement in (
                queue.ack_statement(head.receipt),
                *queue.publish_statements([outgoing(partition="a")], 0),
            ):
                with (
                    place.transaction(isolation) as effect,
                    pytest.raises(psycopg.errors.FeatureNotSupported, match="use READ COMMITTED"),
                ):
                    execute(effect, statement)

    async def test_many_publishers_and_consumers_keep_every_line(self, place: Place) -> None:
        lines, length = 5, 30
        seen: dict[str, list[int]] = {f"line-{line}": [] for line in range(lines)}
        left = lines * length

        async def publish(queue: PostgresQueue, line: str) -> None:
            for number in range(length):
                await queue.publish([Outgoing(key=f"{line}|{number}", body=b"", partition=line)])

        async def consume(queue: PostgresQueue) -> None:
            nonlocal left
            while left > 0:
                for delivery in await queue.receive(3, lease=30.0, wait=0.2):
                    ((line, number),) = place.run(
                        "SELECT line, split_part(message, '|', 2)::int FROM crossfoot_queue WHERE key = %s",
                        int(delivery.broker_id),
                    )
                    seen[line].append(number)
                    assert await queue.ack([delivery.receipt]) == [Done(delivery.receipt)]
                    left -= 1

        with anyio.fail_after(60):
            async with place.queue(ordered=True) as one, place.queue(ordered=True) as two:
                async with anyio.create_task_group() as tasks:
                    for number in range(lines):
                        tasks.start_soon(publish, (one, two)[number % 2], f"line-{number}")
                    for queue in (one, two, one):
                        tasks.start_soon(consume, queue)
                assert (await one.depth()).held == 0
        assert seen == {line: list(range(length)) for line in seen}

    @pytest.mark.parametrize("end", ["ack", "bury"])
    async def test_publishers_and_settlers_of_many_lines_do_not_wait_for_each_other_in_a_circle(
        self, place: Place, end: str
    ) -> None:
        lines = [f"line-{number}" for number in range(40)]

        async def publish(queue: PostgresQueue, order: list[str]) -> None:
            for _ in range(6):
                answers = await queue.publish([outgoing(body=line.encode(), partition=line) for line in order])
                assert all(isinstance(answer, Accepted) for answer in answers), answers

        async def settle(queue: PostgresQueue) -> None:
            for _ in range(6):
                taken = sorted(await queue.receive(100, lease=30.0), key=lambda one: one.body, reverse=True)
                if end == "ack":
                    answers = await queue.ack(receipts(taken))
                else:
                    answers = await queue.dead_letter(taken, reason="tested")
                assert all(isinstance(answer, Done) for answer in answers), answers

        async with (
            place.queue(ordered=True) as one,
            place.queue(ordered=True) as two,
            place.queue(ordered=True) as three,
        ):
            answers = await one.publish([outgoing(body=line.encode(), partition=line) for line in reversed(lines)])
            keys = [int(answer.broker_id) for answer in answers if isinstance(answer, Accepted)]
            stored = dict(place.run("SELECT key, line FROM crossfoot_queue"))
            assert [stored[key] for key in keys] == lines[::-1], "answers are in the order of the messages"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish, one, lines)
                tasks.start_soon(publish, two, lines[::-1])
                tasks.start_soon(settle, three)
