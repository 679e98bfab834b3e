"""Deliveries one after the other on one connection, each in a transaction of its own: where the next one begins with the commit of the
last, each ends as if it had begun by itself."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import zip_longest
from typing import Any

import anyio.to_thread
import pytest

from crossfoot.books.entry import Kind
from crossfoot.effects.perform import forgo, perform
from crossfoot.effects.work import Work
from crossfoot.errors import LeaseLost
from crossfoot.message import Message
from crossfoot.queues.queue import Delivery
from crossfoot.worker.alone import Alone
from crossfoot.worker.held import Held
from crossfoot.worker.lanes import Load, Result, ThreadLane
from tests.conformance.database_rig import Scene, Sql, bill, insert
from tests.conformance.test_databases_commit import break_commit

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.server]


def fail(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    yield insert(message)
    raise RuntimeError("the printer is on fire")


async def one_after_the_other(scene: Scene, works: Sequence[Work], *, performed: int | None = None) -> list[Any]:
    """What a lane does with a chunk of which it performs so many."""
    session = await scene.open_session()

    def all_of_them() -> list[Any]:
        results: list[Any] = []
        for work, following in zip_longest(works, works[1:]):
            try:
                if len(results) != performed:
                    results.append(perform(work, session, scene.database, following))
            except Exception as error:  # noqa: BLE001 - a failed delivery is a result
                results.append(type(error).__name__)
            finally:
                forgo(work, session)
        return results

    return await anyio.to_thread.run_sync(all_of_them)


async def test_each_commits_with_what_is_its_own(sync_scene: Scene) -> None:
    scene = sync_scene
    works = [scene.work(scene.handler(bill)) for _ in range(4)]
    assert await one_after_the_other(scene, works) == [Kind.COMMITTED] * 4
    assert scene.effects == [work.message.id for work in works]
    assert [scene.kinds(work) for work in works] == [[Kind.COMMITTED]] * 4


@pytest.mark.parametrize("place", range(3))
async def test_a_failure_undoes_its_own_work_only(sync_scene: Scene, place: int) -> None:
    scene = sync_scene
    works = [scene.work(scene.handler(fail if number == place else bill)) for number in range(3)]
    results = await one_after_the_other(scene, works)
    assert results == ["RuntimeError" if number == place else Kind.COMMITTED for number in range(3)]
    scene.assert_nothing_was_kept(of=works[place])


async def test_one_whose_operation_the_last_one_completed_does_not_start(sync_scene: Scene) -> None:
    scene, runs = sync_scene, []

    def counted(message: Message, tx: Any) -> Generator[Sql, Any, None]:
        runs.append(message.id)
        yield insert(message)

    handler = scene.handler(counted, operation="bill:{subject}")
    works = [scene.work(handler) for _ in range(3)]
    assert await one_after_the_other(scene, works) == [Kind.COMMITTED, Kind.SUPPRESSED, Kind.SUPPRESSED]
    assert scene.effects == [works[0].message.id]


async def test_a_lease_that_is_lost_at_the_commit_is_not_the_next_ones(sync_scene: Scene) -> None:
    scene = sync_scene
    scene.write("INSERT INTO scratch VALUES (1), (3)")
    ack = "DELETE FROM scratch WHERE number = ?"
    works = [scene.work(scene.handler(bill), ack=(ack, (number,))) for number in (1, 2, 3)]
    assert await one_after_the_other(scene, works) == [Kind.COMMITTED, LeaseLost.__name__, Kind.COMMITTED]
    scene.assert_nothing_was_kept(of=works[1])
    assert scene.rows("SELECT number FROM scratch WHERE number = 3") == []


async def test_one_that_is_not_performed_after_all_leaves_its_operation_to_others(sync_scene: Scene) -> None:
    scene = sync_scene
    works = [scene.work(scene.handler(bill)) for _ in range(2)]
    assert await one_after_the_other(scene, works, performed=1) == [Kind.COMMITTED]
    scene.assert_nothing_was_kept(of=works[1])
    other = await scene.another_session()
    assert await anyio.to_thread.run_sync(perform, works[1].again(), other, scene.database) is Kind.COMMITTED
    await scene.close_session(other)


class TestOnPsycopg:
    async def test_the_next_one_begins_with_the_commit_of_the_last(
        self, psycopg_sync_scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two trips a delivery: the handler's own, and one for all else."""
        scene = psycopg_sync_scene
        await one_after_the_other(scene, [scene.work(scene.handler(bill)) for _ in range(4)])  # until all is prepared
        trips = 0
        kind = type(scene.session.handle)
        wait = kind.wait

        def counted(self: Any, generator: Any, *arguments: Any, **options: Any) -> Any:
            nonlocal trips
            trips += 1
            return wait(self, generator, *arguments, **options)

        monkeypatch.setattr(kind, "wait", counted)
        works = [scene.work(scene.handler(bill)) for _ in range(5)]
        assert await one_after_the_other(scene, works) == [Kind.COMMITTED] * 5
        assert trips == 1 + 2 * 5

    async def test_what_keeps_the_next_one_from_beginning_is_told_of_that_one(
        self, psycopg_sync_scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scene = psycopg_sync_scene
        works = [scene.work(scene.handler(bill)) for _ in range(3)]
        signs = (chr(0x4E00 + number * 97 % 20_000) for number in range(5_000))
        works[1].operation = "".join(signs)  # too long for an index, however packed
        await scene.open_session()

        def connect() -> Any:
            raise AssertionError("nothing is in doubt that would have to be looked up")

        monkeypatch.setattr(scene.database, "connect", connect)
        results = await one_after_the_other(scene, works)
        assert results == [Kind.COMMITTED, "ProgramLimitExceeded", Kind.COMMITTED]
        assert scene.effects == [works[0].message.id, works[2].message.id]

    @pytest.mark.parametrize("done", [True, False])
    async def test_an_error_at_the_commit_is_resolved_by_the_key_and_the_next_one_begins_by_itself(
        self, psycopg_sync_scene: Scene, monkeypatch: pytest.MonkeyPatch, done: bool
    ) -> None:
        scene = psycopg_sync_scene
        await scene.open_session()
        first = scene.work(scene.handler(bill))
        break_commit(scene, monkeypatch, done=done)
        (found,) = await one_after_the_other(scene, [first, scene.work(scene.handler(bill))], performed=1)
        assert (found is Kind.COMMITTED) is done
        monkeypatch.undo()
        assert scene.effects == ([first.message.id] if done else [])

    @pytest.mark.parametrize("why", ["the worker stops", "its lease is lost"])
    async def test_a_lane_that_does_not_perform_the_next_one_leaves_its_operation_to_others(
        self, psycopg_sync_scene: Scene, why: str
    ) -> None:
        scene, over = psycopg_sync_scene, False

        def last_one(message: Message, tx: Any) -> Generator[Sql, Any, None]:
            nonlocal over
            yield insert(message)
            over = True

        works = [scene.work(scene.handler(last_one)), scene.work(scene.handler(bill)), scene.work(scene.handler(bill))]
        chunk = [in_hand(scene, work) for work in works]
        chunk[1].lease_over = chunk[0].lease_over if why == "the worker stops" else float("-inf")
        lane = ThreadLane(
            scene.database, scene.book.clock, settle, Load(), Alone(scene.book), batch=1, optimistic=False,
            stopping=lambda: over and why == "the worker stops",
        )  # fmt: skip
        results = [end for _, end in await anyio.to_thread.run_sync(lane._work, await scene.open_session(), chunk)]

        assert results[0] is Kind.COMMITTED
        assert results[1] is None if why == "the worker stops" else isinstance(results[1], LeaseLost)
        assert results[2] is (None if why == "the worker stops" else Kind.COMMITTED)
        scene.assert_nothing_was_kept(of=works[1])


async def settle(results: Sequence[Result]) -> None:
    raise AssertionError("nobody settles here")


def in_hand(scene: Scene, work: Work) -> Held:
    delivery = Delivery(body=work.hold.body, receipt="", attempt=1, lease_until=2**62)
    held = Held(delivery, scene.book.clock, float("inf"), 1, True)
    held.handler, held.message, held.hold, held.work = work.handler, work.message, work.hold, work
    return held
