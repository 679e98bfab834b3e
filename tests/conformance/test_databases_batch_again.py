"""Batches that are done again, or undone in part: what reaches from one message to another, and what is told of it afterwards."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from crossfoot.books.entry import Kind
from crossfoot.effects.proof import Noop
from crossfoot.effects.work import Work
from crossfoot.errors import LeaseLost
from crossfoot.message import Message
from tests.conformance.database_rig import Scene, Sql, a_message, bill, insert
from tests.conformance.test_databases_batch import fail, kinds_of, tell

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]
pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True, params=[False, True], ids=["careful", "optimistic"])
def optimistic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scene, "optimistic", request.param)


@pytest.mark.parametrize("verb", ["ROLLBACK TO", "RELEASE"])
async def test_a_handler_reaches_no_savepoint_that_another_one_left(scene: Scene, verb: str) -> None:
    def leave_open(message: Message, tx: Any) -> Generator[Sql, Any, None]:
        yield Sql("SAVEPOINT attempt")
        yield insert(message)

    def reach_out(message: Message, tx: Any) -> Generator[Sql, Any, Noop]:
        yield Sql(f"{verb} attempt")
        return Noop("it failed before it set a savepoint of its own")

    works = [scene.work(scene.handler(story)) for story in (leave_open, reach_out, bill)]
    results = await scene.perform_batch(works)
    assert [isinstance(result, Exception) for result in results] == [False, True, False]
    assert scene.effects == [works[0].message.id, works[2].message.id]


async def test_a_lost_lease_is_told_as_such_of_one_that_sends(scene: Scene) -> None:
    def send(message: Message, tx: Any) -> Generator[Sql, Any, None]:
        yield insert(message)
        tx.send("invoice.issued", subject=message.subject)

    def works(*numbers: int) -> list[Work]:
        handler = scene.handler(send)
        return [scene.work(handler, ack=("DELETE FROM scratch WHERE number = ?", (number,))) for number in numbers]

    scene.write("INSERT INTO scratch VALUES (1), (2)")
    assert kinds_of(await scene.perform_batch(works(1, 3, 2))) == [Kind.COMMITTED, "LeaseLost", Kind.COMMITTED]
    (alone,) = works(3)
    with pytest.raises(LeaseLost, match="somebody else holds it"):
        await scene.perform(alone)
    scene.assert_nothing_was_kept(of=alone)


async def test_who_holds_a_work_that_was_done_again_is_told_what_came_of_it(scene: Scene) -> None:
    message = a_message()
    assert await scene.perform(scene.work(scene.handler(bill), message)) is Kind.COMMITTED
    works = [scene.work(scene.handler(story, name=story.__name__)) for story in (fail, tell)]
    works.append(scene.work(scene.handler(bill), message))
    assert kinds_of(await scene.perform_batch(works)) == ["RuntimeError", Kind.COMMITTED, Kind.SUPPRESSED]
    assert works[1].sends, "the outbox is looked at"
    assert works[2].before is Kind.COMMITTED, "a delivery too many is told as the fate it had"
