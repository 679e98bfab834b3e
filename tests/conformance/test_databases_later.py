"""Writes of an optimistic batch that travel together over psycopg: sent later, they end as if each had been done in its place.

What batches promise in general is asked of this manner, too, by `test_databases_batch.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.types.json import Jsonb

from crossfoot.books.entry import Kind
from crossfoot.effects.databases import psycopg_later
from crossfoot.effects.proof import Noop
from crossfoot.effects.sequence import InOrder
from crossfoot.errors import DeadlineExceeded, NoProof, TransactionMisuse
from crossfoot.message import Message
from crossfoot.postgres import Trips
from tests.conformance.database_rig import Scene, a_message

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.server]

EFFECT = "INSERT INTO effects (id, note) VALUES (%s, %s)"


@pytest.fixture(autouse=True)
def optimistic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scene, "optimistic", True)


@pytest.fixture
def scene(psycopg_sync_scene: Scene) -> Scene:
    return psycopg_sync_scene


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many statements each trip to the server had; for handlers' own cursors, -1."""
    found: list[int] = []
    send = Trips.send
    execute: Any = psycopg.Cursor.execute

    def sent(self: Trips, must: int | None = None) -> Any:
        found.append(len(self.waiting))
        return send(self, must)

    def executed(self: Any, *arguments: Any, **options: Any) -> Any:
        found.append(-1)
        return execute(self, *arguments, **options)

    monkeypatch.setattr(Trips, "send", sent)
    monkeypatch.setattr(psycopg.Cursor, "execute", executed)
    return found


def said(act: Callable[[Message, Any], Any]) -> Any:
    """A handler as the rig wants it, that speaks to its transaction by itself."""

    def story(message: Message, tx: Any) -> Generator[Any, Any, Any]:
        yield from ()
        return act(message, tx)

    return story


def write(message: Message, tx: Any) -> Any:
    tx.execute(EFFECT, (message.id, ""))


class Watch:
    """How a worker watches over a handler's deadline."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: float | None = None

    def begin(self) -> None:
        self._until = time.monotonic() + self._seconds

    def rest(self) -> None:
        self._until = None

    def fence(self) -> None:
        if self._until is not None and time.monotonic() > self._until:
            raise DeadlineExceeded("it ran over its deadline")


async def performed(scene: Scene, *acts: Callable[[Message, Any], Any], names: Sequence[str] = ()) -> list[Any]:
    """How each ended that is handled in one batch."""
    named = names or ["bill"] * len(acts)
    works = [scene.work(scene.handler(said(act), name=name)) for act, name in zip(acts, named, strict=True)]
    return [end if isinstance(end, Kind) else type(end).__name__ for end in await scene.perform_batch(works)]


class TestTravellingTogether:
    async def test_the_writes_of_a_batch_take_one_trip(self, scene: Scene, trips: list[int]) -> None:
        works = [scene.work(scene.handler(said(write))) for _ in range(20)]
        await scene.open_session()
        trips.clear()
        assert await scene.perform_batch(works) == [Kind.COMMITTED] * 20
        assert trips[:2] == [2, 20], "begun and claimed; then every write; then the entries and the commit"
        assert len(trips) == 3
        assert scene.effects == [work.message.id for work in works]

    async def test_so_many_are_kept_and_no_more(
        self, scene: Scene, trips: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(psycopg_later, "MOST", 4)

        def ten(message: Message, tx: Any) -> None:
            for number in range(10):
                tx.execute(EFFECT, (message.id, str(number)))

        assert await performed(scene, ten, write) == [Kind.COMMITTED] * 2
        assert [trip for trip in trips if trip > 2][:2] == [4, 4]
        assert len(scene.effects) == 11

    async def test_large_parameters_are_not_kept_until_the_end(
        self, scene: Scene, trips: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(psycopg_later, "MOST_BYTES", 1_000)

        def large(message: Message, tx: Any) -> None:
            tx.execute(EFFECT, (message.id, "x" * 1_001))

        assert await performed(scene, large, large) == [Kind.COMMITTED] * 2
        assert trips.count(1) >= 2

    async def test_parameters_arrive_as_a_cursor_would_send_them(self, scene: Scene) -> None:
        noon = datetime(2026, 5, 3, 12, tzinfo=UTC)
        scene.write(
            "CREATE TABLE kinds (a bigint, b boolean, c numeric, d timestamptz, e jsonb, f bytea, g text, h integer[])"
        )
        values = (2**40, True, 1.5, noon, Jsonb({"fee": 3}), b"\x00\xff", None, [1, 2])

        def each(message: Message, tx: Any) -> None:
            tx.execute("INSERT INTO kinds VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", values)
            named = dict(zip("abcdefgh", values, strict=True))
            tx.execute(f"INSERT INTO kinds VALUES ({', '.join(f'%({name})s' for name in named)})", named)
            tx.execute("INSERT INTO kinds (g) VALUES ('100%')")

        assert await performed(scene, *[each] * 4) == [Kind.COMMITTED] * 4  # prepared from the third use on
        told = (2**40, True, 1.5, noon, {"fee": 3}, b"\x00\xff", None, [1, 2])
        rows = scene.rows("SELECT a, b, c::float, d, e, f, g, h FROM kinds ORDER BY ctid")
        assert rows == [told, told, (None,) * 6 + ("100%", None)] * 4

    async def test_more_different_statements_than_a_server_should_keep_prepared_are_sent_as_they_are(
        self, scene: Scene
    ) -> None:
        def many(message: Message, tx: Any) -> None:
            for number in range(300):
                tx.execute(f"INSERT INTO effects (id, note) VALUES (%s, 'note {number}')", (message.id,))

        for _ in range(4):
            assert await performed(scene, many, many) == [Kind.COMMITTED] * 2
        handle = await scene.handle()
        assert len(handle.trips._uses) < 300
        assert len(scene.effects) == 4 * 2 * 300


class TestWhatAHandlerSees:
    async def test_who_asks_how_many_rows_it_changed_is_told(self, scene: Scene) -> None:
        seen: list[Any] = []

        def ask(message: Message, tx: Any) -> None:
            tx.execute(EFFECT, (message.id, "a"))
            written = tx.execute("UPDATE effects SET note = 'b' WHERE id = %s", (message.id,))
            seen.append((written.rowcount, written.statusmessage))
            with tx.execute("DELETE FROM effects WHERE id = 'nobody'") as nothing:
                seen.append(nothing.rowcount)

        assert await performed(scene, write, ask, write) == [Kind.COMMITTED] * 3
        assert seen == [(1, "UPDATE 1"), 0]

    async def test_its_next_question_finds_what_it_wrote(self, scene: Scene) -> None:
        seen: list[Any] = []

        def look(message: Message, tx: Any) -> None:
            tx.execute(EFFECT, (message.id, "a"))
            seen.extend(tx.execute("SELECT note FROM effects WHERE id = %s", (message.id,)).fetchall())
            tx.execute(EFFECT, (message.id, "b"))
            seen.extend(tx.execute("INSERT INTO effects VALUES (%s, 'c') RETURNING note", (message.id,)).fetchall())
            tx.execute(EFFECT, (message.id, "d"))
            cursor = tx.connection.cursor()
            seen.append(cursor.execute("SELECT count(*) FROM effects WHERE id = %s", (message.id,)).fetchone())

        assert await performed(scene, look, write) == [Kind.COMMITTED] * 2
        assert seen == [("a",), ("c",), (4,)]

    async def test_what_is_returned_is_a_cursor_for_all_else(self, scene: Scene) -> None:
        seen: list[Any] = []

        def go_on(message: Message, tx: Any) -> None:
            cursor = tx.execute(EFFECT, (message.id, "a"))
            with pytest.raises(psycopg.ProgrammingError):
                cursor.fetchone()
            with pytest.raises(psycopg.ProgrammingError):
                list(tx.execute(EFFECT, (message.id, "b")))
            seen.append(cursor.execute("SELECT count(*) FROM effects").fetchone())

        assert await performed(scene, go_on, write) == [Kind.COMMITTED] * 2
        assert seen == [(2,)]

    async def test_a_savepoint_of_its_own_undoes_what_is_behind_it(self, scene: Scene) -> None:
        def half(message: Message, tx: Any) -> None:
            tx.execute(EFFECT, (message.id, "kept"))
            tx.execute("SAVEPOINT attempt")
            tx.execute(EFFECT, (message.id, "undone"))
            tx.execute("ROLLBACK TO attempt")

        def by_the_driver(message: Message, tx: Any) -> None:
            tx.execute(EFFECT, (message.id, "kept"))
            with tx.connection.transaction(force_rollback=True):
                tx.execute(EFFECT, (message.id, "undone"))

        assert await performed(scene, half, by_the_driver) == [Kind.COMMITTED] * 2
        assert scene.rows("SELECT note FROM effects") == ["kept", "kept"]
        assert (
            scene.rows("SELECT details FROM crossfoot_entries WHERE kind = ?", int(Kind.COMMITTED))
            == ['{"rows":1}'] * 2
        )

    async def test_what_it_registered_for_conversion_holds(self, scene: Scene) -> None:
        class Money:
            pass

        class Dumper(psycopg.adapt.Dumper):
            def dump(self, obj: Any) -> bytes:
                return b"three"

        def register(message: Message, tx: Any) -> None:
            tx.execute(EFFECT, (message.id, "one"))
            tx.connection.adapters.register_dumper(Money, Dumper)
            tx.execute(EFFECT, (message.id, Money()))

        assert await performed(scene, write, register) == [Kind.COMMITTED] * 2
        assert scene.rows("SELECT note FROM effects ORDER BY ctid") == ["", "one", "three"]

    async def test_its_threads_may_write_with_it(self, scene: Scene) -> None:
        def spread(message: Message, tx: Any) -> None:
            def some() -> None:
                for number in range(20):
                    written = tx.execute(EFFECT, (message.id, str(number)))
                    assert number % 5 or written.rowcount == 1

            threads = [threading.Thread(target=some) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        assert await performed(scene, spread, write) == [Kind.COMMITTED] * 2
        assert len(scene.effects) == 81


class TestFailure:
    """Found late, a failure is its own message's all the same."""

    async def test_a_write_that_cannot_be_done_fails_its_own_message(self, scene: Scene) -> None:
        def break_a_key(message: Message, tx: Any) -> None:
            tx.execute("INSERT INTO taken VALUES (1)")

        assert await performed(scene, write, break_a_key, write) == [Kind.COMMITTED, "UniqueViolation", Kind.COMMITTED]
        assert len(scene.effects) == 2

    async def test_who_catches_the_error_of_its_write_catches_it(self, scene: Scene) -> None:
        """As in any other transaction: an error caught in a savepoint is none."""

        def with_a_way_out(message: Message, tx: Any) -> None:
            try:
                with tx.connection.transaction():
                    tx.execute("INSERT INTO taken VALUES (1)")
            except psycopg.errors.UniqueViolation:
                tx.execute(EFFECT, (message.id, "the way out"))

        assert await performed(scene, write, with_a_way_out, write) == [Kind.COMMITTED] * 3
        assert scene.rows("SELECT note FROM effects WHERE note <> ''") == ["the way out"]

    async def test_who_swallows_it_proves_nothing(self, scene: Scene) -> None:
        def swallow(message: Message, tx: Any) -> None:
            try:
                tx.execute("INSERT INTO taken VALUES (1)")
                tx.execute("SELECT 1")
            except psycopg.Error:
                return

        assert await performed(scene, write, swallow, write) == [Kind.COMMITTED, "NoProof", Kind.COMMITTED]

    async def test_who_swallows_the_error_of_another_one_commits_nothing_of_it(self, scene: Scene) -> None:
        """The write before is found impossible in the midst of the next handler, which catches everything."""
        calls: list[str] = []

        def break_a_key(message: Message, tx: Any) -> None:
            calls.append("break")
            tx.execute("INSERT INTO taken VALUES (1)")

        def catch_all(message: Message, tx: Any) -> None:
            calls.append("catch")
            try:
                tx.execute("SELECT 1")
            except psycopg.Error:
                calls.append("caught")
                return
            tx.execute(EFFECT, (message.id, "true"))

        assert await performed(scene, break_a_key, catch_all) == ["UniqueViolation", Kind.COMMITTED]
        assert calls == ["break", "catch", "caught", "break", "catch"]
        assert scene.rows("SELECT note FROM effects") == ["true"]

    async def test_a_write_without_rows_proves_nothing(self, scene: Scene) -> None:
        def nobody(message: Message, tx: Any) -> None:
            tx.execute("UPDATE effects SET note = 'late' WHERE id = 'nobody'")

        def nothing_new(message: Message, tx: Any) -> None:
            tx.execute("INSERT INTO taken VALUES (1) ON CONFLICT DO NOTHING")

        ends = await performed(scene, write, nobody, nothing_new, write)
        assert ends == [Kind.COMMITTED, NoProof.__name__, NoProof.__name__, Kind.COMMITTED]

    async def test_it_is_counted_to_the_handler_that_wrote_it(self, scene: Scene) -> None:
        def twice(message: Message, tx: Any) -> None:
            write(message, tx)
            write(message, tx)

        def nothing(message: Message, tx: Any) -> Noop:
            return Noop("nothing to bill")

        assert await performed(scene, twice, nothing, write) == [Kind.COMMITTED, Kind.NOOP, Kind.COMMITTED]
        counted = scene.rows(
            "SELECT details FROM crossfoot_entries WHERE kind IN (?, ?) ORDER BY id",
            int(Kind.COMMITTED),
            int(Kind.NOOP),
        )
        assert [text.count('"rows":2') for text in counted] == [1, 0, 0]
        assert '"rows":1' in counted[2]

    async def test_parameters_that_do_not_fit_are_told_at_once(self, scene: Scene) -> None:
        told: list[str] = []

        def too_few(message: Message, tx: Any) -> None:
            try:
                tx.execute(EFFECT, (message.id,))
            except psycopg.ProgrammingError as error:
                told.append(str(error))
            write(message, tx)

        assert await performed(scene, too_few, write) == [Kind.COMMITTED] * 2
        assert len(told) == 1

    @pytest.mark.parametrize(
        "statement", ["COMMIT", "INSERT INTO effects VALUES ('a', 'b'); COMMIT", "SET search_path = x"]
    )
    async def test_what_is_refused_is_refused_here_too(self, scene: Scene, statement: str) -> None:
        def refused(message: Message, tx: Any) -> None:
            tx.execute(statement)

        ends = await performed(scene, write, refused, write)
        assert ends == [Kind.COMMITTED, TransactionMisuse.__name__, Kind.COMMITTED]

    async def test_a_cursor_that_outlives_its_handler_reaches_nothing(self, scene: Scene) -> None:
        left: list[Any] = []

        def leave(message: Message, tx: Any) -> None:
            left.append(tx.execute(EFFECT, (message.id, "")))

        def use(message: Message, tx: Any) -> None:
            write(message, tx)
            with pytest.raises(TransactionMisuse):
                left[0].execute("DELETE FROM effects")
            with pytest.raises(TransactionMisuse):
                _ = left[0].rowcount

        assert await performed(scene, leave, use) == [Kind.COMMITTED] * 2
        assert left[0].rowcount == 1, "what the server said of it is known now"
        assert len(scene.effects) == 2


class TestOthersOfTheBatch:
    async def test_a_second_delivery_is_told_how_the_first_one_ended(self, scene: Scene) -> None:
        def nothing(message: Message, tx: Any) -> Noop:
            return Noop("nothing to bill")

        message = a_message()
        works = [scene.work(scene.handler(said(nothing)), message) for _ in range(2)]
        works.append(scene.work(scene.handler(said(write))))
        assert await scene.perform_batch(works) == [Kind.NOOP, Kind.SUPPRESSED, Kind.COMMITTED]
        assert works[1].before is Kind.NOOP

    async def test_what_the_others_take_is_not_of_its_time(self, scene: Scene) -> None:
        calls: list[str] = []

        def doze(message: Message, tx: Any) -> None:
            calls.append(message.id)
            write(message, tx)
            time.sleep(0.2)

        handler = msgspec.structs.replace(scene.handler(said(doze)), deadline=0.5)
        watches = [Watch(0.5) for _ in range(4)]
        works = [scene.work(handler, begin=one.begin, rest=one.rest, fence=one.fence) for one in watches]
        assert await scene.perform_batch(works) == [Kind.COMMITTED] * 4
        assert len(calls) == 4, "nothing was done again"

    async def test_who_takes_longer_than_it_was_given_is_not_committed(self, scene: Scene) -> None:
        def doze(message: Message, tx: Any) -> None:
            write(message, tx)
            time.sleep(0.1)

        watch = Watch(0.05)
        handler = msgspec.structs.replace(scene.handler(said(doze), name="doze"), deadline=0.05)
        late = scene.work(handler, begin=watch.begin, rest=watch.rest, fence=watch.fence)
        works = [scene.work(scene.handler(said(write))), late, scene.work(scene.handler(said(write)))]
        ends = await scene.perform_batch(works)
        assert [type(end) for end in ends] == [Kind, DeadlineExceeded, Kind]
        scene.assert_nothing_was_kept(of=late)

    async def test_facts_and_messages_are_kept_with_it(self, scene: Scene) -> None:
        def tell(message: Message, tx: Any) -> None:
            write(message, tx)
            tx.outcome("invoice.issued", amount=3)
            tx.send("invoice.issued", subject=message.subject)

        assert await performed(scene, tell, write, tell) == [Kind.COMMITTED] * 3
        assert len(scene.rows("SELECT 1 FROM crossfoot_outcomes")) == 2
        assert len(scene.rows("SELECT 1 FROM crossfoot_outbox")) == 2

    async def test_events_in_order_see_each_other(self, scene: Scene) -> None:
        handler = scene.handler(said(write), in_order=InOrder(contiguous=True))
        works = [scene.work(handler, a_message(id=str(n), subject="case-1", sequence=n)) for n in (1, 2, 2, 3)]
        assert await scene.perform_batch(works) == [Kind.COMMITTED, Kind.COMMITTED, Kind.SUPPRESSED, Kind.COMMITTED]
        assert scene.effects == ["1", "2", "3"]
