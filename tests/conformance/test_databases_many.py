"""A handler that takes a list: one call for a batch, and an end of its own for each message."""

from __future__ import annotations

import typing
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest

from crossfoot.books.entry import Kind
from crossfoot.effects.proof import Noop
from crossfoot.effects.work import Work
from crossfoot.errors import UsageError
from crossfoot.message import Message
from tests.conformance.database_rig import Scene, Sql, a_message, bill, insert
from tests.conformance.test_databases_batch import fail, kinds_of

pytest_plugins = ["tests.conformance.database_fixtures", "tests.servers.postgres_fixtures"]
pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def optimistic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scene, "optimistic", True)


class Calls(list[int]):
    """A story that inserts a row for each message, and notes of how many it was called with."""

    def __init__(self, *, but: Sequence[str] = (), fails: Sequence[str] = ()) -> None:
        self._but = but
        self._fails = fails

    def __call__(self, messages: Any, tx: Any) -> Generator[Sql, Any, None]:
        self.append(len(messages))
        for message in messages:
            if message.subject in self._fails:
                raise RuntimeError("the printer is on fire")
            if message.subject not in self._but:
                yield insert(message)


def works_of(scene: Scene, story: Callable[..., Any], subjects: Sequence[str], **options: Any) -> list[Work]:
    handler = scene.handler(story, many=True, **options)
    return [scene.work(handler, a_message(subject=subject)) for subject in subjects]


async def test_it_is_called_once_and_each_message_has_its_own_end(scene: Scene) -> None:
    calls = Calls()
    works = works_of(scene, calls, [f"case-{number}" for number in range(60)])
    assert await scene.perform_batch(works) == [Kind.COMMITTED] * 60
    assert calls == [60]
    assert sorted(scene.effects) == sorted(work.message.id for work in works)
    assert [scene.kinds(work) for work in works] == [[Kind.COMMITTED]] * 60
    assert scene.rows("SELECT DISTINCT details FROM crossfoot_entries") == ['{"rows":60,"of":60}']


async def test_others_of_the_batch_are_handled_by_themselves_and_in_their_places(scene: Scene) -> None:
    calls = Calls()
    first, last = works_of(scene, calls, ["a", "b"])
    other = scene.work(scene.handler(bill, name="other"))
    assert await scene.perform_batch([first, other, last]) == [Kind.COMMITTED] * 3
    assert calls == [2]
    assert sorted(scene.effects) == sorted(work.message.id for work in (first, other, last))


async def test_a_failure_is_found_by_calling_it_one_by_one_and_undoes_its_own_work_only(scene: Scene) -> None:
    calls = Calls(fails=["bad"])
    works = works_of(scene, calls, ["a", "bad", "b"])
    assert kinds_of(await scene.perform_batch(works)) == [Kind.COMMITTED, "RuntimeError", Kind.COMMITTED]
    assert calls == [3, 1, 1, 1]
    assert scene.effects == [works[0].message.id, works[2].message.id]
    scene.assert_nothing_was_kept(of=works[1])


async def test_fewer_rows_than_messages_prove_nothing_and_who_was_left_out_is_found(scene: Scene) -> None:
    works = works_of(scene, Calls(but=["left out"]), ["a", "left out", "b"])
    assert kinds_of(await scene.perform_batch(works)) == [Kind.COMMITTED, "NoProof", Kind.COMMITTED]
    scene.assert_nothing_was_kept(of=works[1])


async def test_what_fails_as_a_list_only_is_not_tried_as_a_list_again_and_again(scene: Scene) -> None:
    calls: list[int] = []

    def change_one_row_for_all(messages: Any, tx: Any) -> Generator[Sql, Any, None]:
        calls.append(len(messages))
        yield Sql("UPDATE taken SET number = number")

    for _ in range(2):
        works = works_of(scene, change_one_row_for_all, ["a", "b"])
        assert await scene.perform_batch(works) == [Kind.COMMITTED] * 2
    assert calls == [2, 1, 1, 1, 1]


async def test_it_is_not_given_what_was_done_before_nor_anything_twice(scene: Scene) -> None:
    calls = Calls()
    works = works_of(scene, calls, ["a", "b", "a"], operation="bill:{subject}")
    assert await scene.perform_batch(works) == [Kind.COMMITTED, Kind.COMMITTED, Kind.SUPPRESSED]
    again = works_of(scene, calls, ["b", "c"], operation="bill:{subject}")
    assert await scene.perform_batch(again) == [Kind.SUPPRESSED, Kind.COMMITTED]
    assert calls == [2, 1]
    assert len(scene.effects) == 3


async def test_the_same_message_twice_is_settled_once_and_nobody_is_accused(scene: Scene) -> None:
    calls, message = Calls(), a_message()
    handler = scene.handler(calls, many=True)
    works = [scene.work(handler, message) for _ in range(2)]
    assert await scene.perform_batch(works) == [Kind.COMMITTED, Kind.SUPPRESSED]
    assert scene.effects == [message.id]


async def test_what_it_tells_it_tells_of_one_message(scene: Scene) -> None:
    def tell(messages: Any, tx: Any) -> Generator[Sql, Any, None]:
        for message in messages:
            tx.of(message).outcome("invoice.issued", operation=tx.of(message).operation)
            tx.of(message).send("invoice.issued", subject=message.subject)
        yield Sql("SELECT 1")

    works = works_of(scene, tell, ["a", "b"], operation="bill:{subject}", proves=["invoice.issued"])
    assert await scene.perform_batch(works) == [Kind.COMMITTED] * 2
    assert scene.rows("SELECT subject FROM crossfoot_outcomes ORDER BY 1") == ["a", "b"]
    causes = scene.rows("SELECT causation FROM crossfoot_messages WHERE causation IS NOT NULL")
    assert sorted(causes) == sorted(work.message.id for work in works)


async def test_an_outcome_that_is_missing_of_one_message_fails_that_one(scene: Scene) -> None:
    def tell(messages: Any, tx: Any) -> Generator[Sql, Any, None]:
        for message in messages:
            yield insert(message)
            if message.subject != "b":
                tx.of(message).outcome("invoice.issued")

    works = works_of(scene, tell, ["a", "b", "c"], proves=["invoice.issued"])
    assert kinds_of(await scene.perform_batch(works)) == [Kind.COMMITTED, "NoProof", Kind.COMMITTED]
    assert scene.effects == [works[0].message.id, works[2].message.id]


async def test_nothing_to_do_is_said_for_all(scene: Scene) -> None:
    def decline(messages: Any, tx: Any) -> Generator[Sql, Any, Noop]:
        yield Sql("SELECT 1")
        return Noop("closed for the day")

    assert await scene.perform_batch(works_of(scene, decline, ["a", "b"])) == [Kind.NOOP] * 2


@pytest.mark.parametrize(
    "say",
    [lambda tx: tx.message, lambda tx: tx.operation, lambda tx: tx.outcome("x"), lambda tx: tx.send("x"), lambda tx: tx.receipt("x", "y")],
    ids=["message", "operation", "outcome", "send", "receipt"],
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 2])
async def test_what_does_not_say_of_which_message_is_refused_of_one_too(
    driver_scene: Scene, say: Callable[[Any], Any], count: int
) -> None:
    def story(messages: Any, tx: Any) -> Generator[Sql, Any, None]:
        for message in messages:
            yield insert(message)
        say(tx)

    works = works_of(driver_scene, story, ["a", "b"][:count])
    if count == 1:
        with pytest.raises(UsageError, match=r"tx\.of\(message\)"):
            await driver_scene.perform(works[0])
    else:
        assert kinds_of(await driver_scene.perform_batch(works)) == ["UsageError"] * 2
    for work in works:
        driver_scene.assert_nothing_was_kept(of=work)


async def test_a_message_it_was_not_given_is_refused(scene: Scene) -> None:
    def story(messages: Any, tx: Any) -> Generator[Sql, Any, None]:
        yield from (insert(message) for message in messages)
        tx.of(a_message(id="somebody else's")).outcome("x")

    assert kinds_of(await scene.perform_batch(works_of(scene, story, ["a", "b"]))) == ["UsageError"] * 2


async def test_a_lost_lease_among_them_undoes_its_own_work_only(file_scene: Scene) -> None:
    scene, calls = file_scene, Calls()
    messages = [a_message() for _ in range(3)]
    deliveries = [await scene.delivered(message) for message in messages]
    await scene.queue.release([deliveries[1].receipt])
    handler = scene.handler(calls, many=True)
    works = [
        scene.work(handler, message, ack=scene.queue.ack_statement(delivery.receipt))
        for message, delivery in zip(messages, deliveries, strict=True)
    ]
    assert kinds_of(await scene.perform_batch(works)) == [Kind.COMMITTED, "LeaseLost", Kind.COMMITTED]
    assert scene.effects == [messages[0].id, messages[2].id]
    assert calls[0] == 3


async def test_a_failure_of_a_neighbour_does_not_spoil_it(scene: Scene) -> None:
    works = works_of(scene, Calls(), ["a", "b"])
    works.insert(1, scene.work(scene.handler(fail, name="bad")))
    assert kinds_of(await scene.perform_batch(works)) == [Kind.COMMITTED, "RuntimeError", Kind.COMMITTED]


def test_a_handler_says_how_many_it_takes_and_its_annotation_agrees() -> None:
    from crossfoot import Crossfoot

    app = Crossfoot("billing")

    def one(message: Message, tx: Any) -> None: ...

    def several(messages: list[Message], tx: Any) -> None: ...

    with pytest.raises(UsageError, match="is handed a list"):
        app.handler("a", many=True)(one)
    with pytest.raises(UsageError, match="many=True"):
        app.handler("a")(several)
    with pytest.raises(UsageError, match="one message at a time"):
        app.handler("a", many=True, in_order=True)(several)
    app.handler("a", many=True)(several)

    def bare(messages: typing.List, tx: Any) -> None: ...  # type: ignore[type-arg]  # noqa: UP006

    app.handler("b", many=True)(bare)
