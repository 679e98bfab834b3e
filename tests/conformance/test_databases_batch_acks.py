"""In PostgreSQL the acks of a batch are one statement, and so are its entries: whose lease is lost is found all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from crossfoot.books.entry import Kind
from crossfoot.dialect import also_for_all
from crossfoot.effects.work import Work
from crossfoot.errors import LeaseLost
from tests.conformance.database_rig import Scene, a_message, bill

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.server]

ACK = also_for_all(
    "DELETE FROM scratch WHERE number = ?",
    "DELETE FROM scratch WHERE number = ANY(?::bigint[])",
    lambda rows: ([row[0] for row in rows],),
)


@pytest.fixture(autouse=True, params=[False, True], ids=["careful", "optimistic"])
def optimistic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scene, "optimistic", request.param)


def three(scene: Scene, numbers: Sequence[int]) -> list[Work]:
    """With odd names, which must come back as they went."""
    names = ['quoted "and" braced {,}', "back\\slash", "NULL"]
    return [
        scene.work(scene.handler(bill), a_message(id=name), ack=(ACK, (number,)))
        for name, number in zip(names, numbers, strict=True)
    ]


def kinds_of(results: Sequence[Any]) -> list[Any]:
    return [result if isinstance(result, Kind) else type(result) for result in results]


async def test_each_is_committed_acked_and_has_its_operation(postgres_scene: Scene) -> None:
    scene = postgres_scene
    scene.write("INSERT INTO scratch VALUES (1), (2), (3), (4)")
    works = three(scene, [1, 2, 3])

    assert await scene.perform_batch(works) == [Kind.COMMITTED] * 3

    assert scene.rows("SELECT number FROM scratch") == [4]
    assert [scene.kinds(work) for work in works] == [[Kind.COMMITTED, Kind.ACKED]] * 3
    claimed = set(scene.rows("SELECT key, message FROM crossfoot_operations"))
    assert claimed == {(work.operation, work.hold.key) for work in works}


async def test_a_lease_that_is_lost_undoes_its_own_work_only(postgres_scene: Scene) -> None:
    scene = postgres_scene
    scene.write("INSERT INTO scratch VALUES (1), (3)")
    works = three(scene, [1, 2, 3])

    assert kinds_of(await scene.perform_batch(works)) == [Kind.COMMITTED, LeaseLost, Kind.COMMITTED]

    assert scene.rows("SELECT number FROM scratch") == []
    assert len(scene.effects) == 2
    assert scene.kinds(works[1]) == []
    assert scene.rows("SELECT 1 FROM crossfoot_operations WHERE message = ?", works[1].hold.key) == []


async def test_one_delivered_twice_in_a_batch_has_one_effect(postgres_scene: Scene) -> None:
    scene = postgres_scene
    scene.write("INSERT INTO scratch VALUES (1), (2)")
    message = a_message()
    works = [scene.work(scene.handler(bill), message, ack=(ACK, (number,))) for number in (1, 2)]

    assert await scene.perform_batch(works) == [Kind.COMMITTED, Kind.SUPPRESSED]

    assert scene.effects == [message.id]
    assert scene.rows("SELECT number FROM scratch") == []
