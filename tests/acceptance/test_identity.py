"""One source and id name one message: what bears the name of another is refused or set aside, and never taken for a copy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from crossfoot import Crossfoot
from crossfoot.books.balance import Balance
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.fate import Fate
from crossfoot.books.posting import post_all
from crossfoot.books.record import record_of
from crossfoot.books.stock import take_stock
from crossfoot.effects.sequence import InOrder
from crossfoot.message import Message, encode
from crossfoot.queues.queue import Accepted, Capabilities, Outgoing, PublishAnswer, Queue, Refused
from tests.acceptance.service_rig import FORMS, Service, a_service, eventually
from tests.conformance.database_rig import Sql, bill, insert

pytestmark = pytest.mark.anyio


@pytest.fixture(params=FORMS, ids=repr)
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    async with a_service(request.param, tmp_path) as made:
        yield made


def message(service: Service, subject: str = "case-1", **attributes: Any) -> Message:
    return service.app.message("case.released", **{"id": "twin", "subject": subject, "data": {"fee": 1}} | attributes)


async def by_hand(service: Service, sent: Message) -> None:
    """Into the queue, past the book, as a publisher does that knows nothing of it."""
    service.app.book.open()
    await service.app.queue.open()
    (answer,) = await service.app.queue.publish([Outgoing(key=sent.key, body=encode(sent))])
    assert isinstance(answer, Accepted)


def balance(service: Service) -> Balance:
    post_all(service.app.book)
    with service.app.book.reading() as connection:
        return take_stock(connection, service.app.clock.now())


def only_with_number(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    if not isinstance(message.data["fee"], int):
        raise TypeError("a fee is a number")
    yield insert(message)


@pytest.mark.parametrize(
    "other",
    [
        *(
            {"subject": "case-2"},
            {"type": "case.closed"},
            {"data": {"fee": 2}},
            {"data": {"fee": True}},
            {"sequence": 7},
        ),
        {"operation": "bill:another"},
    ],
)
@pytest.mark.parametrize("worked", [False, True])
async def test_another_message_of_the_same_name_is_refused(
    service: Service, other: dict[str, Any], worked: bool
) -> None:
    service.handle("case.*", bill, operation="bill:{subject}")
    await service.app.publish(message(service))
    if worked:
        await service.work()
    twin = message(service, **{name: value for name, value in other.items() if name != "type"})
    if "type" in other:
        twin = service.app.message(other["type"], id="twin", subject="case-1", data={"fee": 1})
    (answer,) = await service.app.publish(twin)

    assert isinstance(answer, Refused)
    assert answer.permanent
    assert "give this one an id of its own" in answer.reason
    await service.work()
    assert len(service.effects) == 1
    assert balance(service).balanced


@pytest.mark.parametrize("stated", ["bill:another", None])
async def test_two_copies_in_one_receive_take_effect_once_whatever_operations_they_state(
    service: Service, stated: str | None
) -> None:
    asked: set[str] = set()

    def ask(message: Message, tx: Any) -> Generator[Sql, Any, None]:
        asked.add(tx.operation)
        yield insert(message)

    service.handle("case.released", ask, operation="bill:{subject}")
    await by_hand(service, message(service, operation=stated))
    await by_hand(service, message(service, operation="bill:one"))
    await service.work(concurrency=1)

    assert len(service.effects) == 1
    assert len(asked) == 1, "what calls another system sends one key along"
    assert balance(service).balanced


async def test_a_new_version_asks_for_what_the_former_one_completed_even_before_that_is_posted(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may do more than write rows before its transaction begins, and must not begin."""
    for posting in ("upkeep.post", "worker.post", "reconcile.post_all"):
        monkeypatch.setattr(f"crossfoot.worker.{posting}", lambda *_, **__: 0)
    entered: list[str] = []

    def enter(message: Message, tx: Any) -> Generator[Sql, Any, None]:
        entered.append(message.id)
        yield insert(message)

    service.handle("case.released", enter, operation="bill:{subject}")
    await by_hand(service, message(service))
    await service.work()
    monkeypatch.setattr(service.app, "registry", type(service.app.registry)())
    service.handle("case.released", enter, operation="charge:{subject}")
    await by_hand(service, message(service))
    await service.work()

    assert (entered, service.effects) == (["twin"], ["twin"])
    attempts = service.rows(f"SELECT attempt FROM crossfoot_entries WHERE kind = {Kind.RECEIVED} ORDER BY id")
    assert attempts == [1, 2], "and its number is the next one"
    assert balance(service).balanced


def fail(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    yield insert(message)
    raise RuntimeError("a mistake of the former version")


async def failed_in_a_former_version(service: Service, *ids: str, operation: str | None) -> None:
    """Taken in once at least, and still open."""
    service.handle("case.released", fail, operation=operation, name="bill")
    for id_ in ids:
        await by_hand(service, message(service, id=id_))
    async with service.working(attempts=9, base=1.0):
        sent = [message(service, id=id_) for id_ in ids]
        await eventually(lambda: all(Kind.FAILED in service.kinds(one) for one in sent), "them to fail")
    service.app.registry = type(service.app.registry)()


@pytest.mark.parametrize("former", [None, "charge:{subject}"])
async def test_what_failed_under_another_name_asks_for_the_one_that_the_new_version_gives_it(
    service: Service, former: str | None
) -> None:
    """Else it would not be known for a duplicate."""
    await failed_in_a_former_version(service, "first", operation=former)
    service.handle("case.released", bill, operation="bill:{subject}")
    await by_hand(service, message(service, id="second"))
    await service.work()

    assert len(service.effects) == 1
    assert balance(service).balanced


async def test_what_failed_under_a_name_too_wide_takes_effect_under_one_that_is_right(service: Service) -> None:
    await failed_in_a_former_version(service, "first", "second", operation="bill:{subject}")
    service.handle("case.released", bill, operation="bill:{subject}:{id}")
    await service.work()

    assert sorted(service.effects) == ["first", "second"]
    assert balance(service).balanced


async def test_a_copy_of_what_is_done_is_a_copy_also_for_a_version_that_cannot_name_its_operation(
    service: Service,
) -> None:
    service.handle("case.released", bill)
    await by_hand(service, message(service))
    await service.work()
    service.app.registry = type(service.app.registry)()
    service.handle("case.released", bill, operation="bill:{data.tariff}")
    await by_hand(service, message(service))
    await service.work()

    assert service.effects == ["twin"]
    assert service.fate(message(service)) is Fate.SETTLED
    assert Kind.FAILED not in service.kinds(message(service))


async def test_a_duplicate_is_one_of_the_same_operation_for_a_new_version_too(service: Service) -> None:
    """It completed nothing itself, and would take effect under the other name."""
    service.handle("case.released", bill, operation="bill:{subject}")
    for id_ in ("first", "second"):
        await by_hand(service, message(service, id=id_))
    await service.work()
    service.app.registry = type(service.app.registry)()
    service.handle("case.released", bill, operation="charge:{subject}")
    await by_hand(service, message(service, id="second"))
    await service.work()

    assert len(service.effects) == 1
    assert balance(service).balanced


async def test_the_same_message_published_again_is_a_copy(service: Service) -> None:
    service.handle("case.released", bill)
    for _ in range(3):
        (answer,) = await service.app.publish(message(service))
        assert isinstance(answer, Accepted)
        await service.work()

    assert len(service.effects) == 1
    assert service.fate(message(service)) is Fate.SETTLED
    assert balance(service).balanced
    received = service.rows(f"SELECT attempt FROM crossfoot_entries WHERE kind = {Kind.RECEIVED} ORDER BY id")
    assert received == [1, 2, 3], "a copy that comes later is told as a later one"


async def test_one_that_died_is_mended_under_its_own_name(service: Service) -> None:
    service.handle("case.released", only_with_number)
    await service.app.publish(message(service, data={"fee": "x"}))
    await service.work(attempts=2)
    assert service.fate(message(service)) is Fate.DEAD
    mended = message(service, "case-9", data={"fee": 42}, sequence=3)
    (answer,) = await service.app.publish(mended)
    assert isinstance(answer, Accepted)
    await service.work(attempts=2)

    assert service.fate(mended) is Fate.SETTLED
    ((subject, sequence, body),) = service.rows("SELECT subject, sequence, body FROM crossfoot_messages")
    assert (subject, sequence) == ("case-9", 3)
    assert b'"fee":42' in body


async def test_one_that_is_mended_is_not_mended_again_while_its_copy_is_on_its_way(service: Service) -> None:
    service.handle("case.released", only_with_number)
    await service.app.publish(message(service, data={"fee": "two"}))
    await service.work(attempts=1)

    first, second, same = [
        (await service.app.publish(message(service, data={"fee": fee})))[0] for fee in ("three", 4, "three")
    ]
    assert isinstance(first, Accepted)
    assert isinstance(second, Refused)
    assert isinstance(same, Accepted)

    await service.work(attempts=1)
    (again,) = await service.app.publish(message(service, data={"fee": 4}))
    assert isinstance(again, Accepted)
    await service.work(attempts=1)
    assert len(service.effects) == 1
    assert balance(service).balanced


async def test_one_that_is_sent_again_may_not_forget_the_operation_it_stated(service: Service) -> None:
    """What took effect under that key, by whichever message, must not happen again under another."""
    service.handle("case.released", only_with_number)
    stated = {"operation": "charge:order-1", "correlationid": "flow-9", "causationid": "order-1"}
    await service.app.publish(message(service, data={"fee": "x"}, **stated))
    await service.work(attempts=1)
    assert service.fate(message(service)) is Fate.DEAD
    (answer,) = await service.app.publish(message(service, data={"fee": 1}))
    assert isinstance(answer, Refused)
    assert "stated the operation 'charge:order-1', and this one states none" in answer.reason
    assert service.fate(message(service)) is Fate.DEAD, "and nothing has changed"

    (answer,) = await service.app.publish(message(service, data={"fee": 1}, operation="charge:order-1"))
    assert isinstance(answer, Accepted)
    await service.app.publish(message(service, id="second", operation="charge:order-1"))
    await service.work(attempts=1)

    assert len(service.effects) == 1
    told = service.rows("SELECT operation, correlation, causation FROM crossfoot_messages WHERE id = 'twin'")
    assert told == [("charge:order-1", "flow-9", "order-1")], "it is still of the flow it belongs to"
    assert balance(service).balanced


async def test_a_copy_that_states_no_operation_is_carried_out_under_the_one_that_was_stated(service: Service) -> None:
    """Where the book keeps no payloads nobody can tell that it is another one; and a stranger asks no book."""
    failed: list[str] = []

    def fails_once(message: Message, tx: Any) -> Generator[Sql, Any, None]:
        if not failed:
            failed.append(message.id)
            raise RuntimeError("the bank is down")
        yield insert(message)

    service.handle("case.released", fails_once)
    await service.app.publish(message(service, operation="charge:order-1"))
    await service.work(attempts=1)
    assert service.fate(message(service)) is Fate.DEAD
    service.form.outside(str(service.path), "UPDATE crossfoot_messages SET body = NULL", ())
    (answer,) = await service.app.publish(message(service))
    assert isinstance(answer, Accepted)
    await service.app.publish(message(service, id="second", operation="charge:order-1"))
    await service.work(attempts=1)

    assert len(service.effects) == 1
    assert balance(service).balanced


async def test_what_happens_to_one_that_is_sent_again_comes_after_its_death(service: Service) -> None:
    service.handle("case.released", bill, in_order=InOrder(contiguous=True, wait=60.0))
    await service.app.publish(message(service))
    await service.work(attempts=1)  # without a sequence
    assert service.fate(message(service)) is Fate.DEAD
    await service.app.publish(message(service, sequence=5), message(service, id="first", sequence=3))
    await service.work(attempts=1)

    assert service.fate(message(service)) is Fate.PARKED
    attempts = service.rows(
        "SELECT DISTINCT e.attempt FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message "
        f"WHERE m.id = 'twin' AND e.kind = {Kind.RECEIVED}"
    )
    assert attempts == [1, 2]
    assert balance(service).balanced


@pytest.mark.parametrize("batch", [1, 10])
@pytest.mark.parametrize("worked", [False, True])
async def test_another_one_that_came_past_the_book_dies_under_the_brokers_id(
    service: Service, batch: int, worked: bool
) -> None:
    service.handle("case.released", bill, operation="bill:{subject}")
    await by_hand(service, message(service))
    if worked:
        await service.work(batch=batch)
    await by_hand(service, message(service, "case-2"))
    await service.work(batch=batch)

    assert service.fate(message(service)) is Fate.SETTLED
    assert len(service.effects) == 1
    ((fate, subject),) = service.rows("SELECT fate, subject FROM crossfoot_messages WHERE source LIKE 'queue:%'")
    assert (Fate(fate), subject) == (Fate.DEAD, "case-2")
    assert next(iter(service.causes().values())).startswith("IdentityTaken")
    drawn = balance(service)
    assert drawn.balanced
    assert drawn.unaccounted == 0


async def test_a_handler_cannot_send_it_either(service: Service) -> None:
    def send(message: Message, tx: Any) -> Generator[Sql, Any, None]:
        yield insert(message)
        tx.send("case.released", id="twin", subject="case-2", source=service.app.name)

    service.handle("case.closed", send)
    service.handle("case.released", bill)
    await service.app.publish(message(service))
    (closed,) = await service.publish("case.closed", "case-1")
    await service.work(attempts=1)

    assert service.fate(closed) is Fate.DEAD
    assert next(iter(service.causes().values())).startswith("IdentityTaken")
    assert len(service.effects) == 1


async def test_a_version_that_calls_an_operation_otherwise_does_not_do_it_again(
    service: Service,
) -> None:
    service.handle("case.released", bill, operation="bill:{subject}")
    await service.app.publish(message(service))
    await service.work()
    service.app.registry = service.app.registry.__class__()
    service.handle("case.released", bill, name="charge", operation="charge:{subject}:{id}")
    await by_hand(service, message(service))
    await service.work()

    assert len(service.effects) == 1
    assert service.fate(message(service)) is Fate.SETTLED
    assert balance(service).balanced


class Spy:
    """A queue that only remembers what it was asked to take."""

    name = "spy"
    capabilities = Capabilities()

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def open(self) -> None: ...

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        self.asked += [message.deduplication for message in messages]
        return [Accepted(message.key) for message in messages]


async def test_a_queue_that_drops_second_publications_takes_one_that_died_once_more(tmp_path: Path) -> None:
    """Within five minutes on a FIFO queue, two on NATS: otherwise it would be dropped, and end as vanished."""
    spy = Spy()
    app = Crossfoot("billing", database=tmp_path / "billing.db", queue=cast("Queue", spy), synchronous="NORMAL")
    event = app.message("case.released", id="twin", subject="case-1")
    try:
        await app.publish(event)
        await app.publish(event)
        key = app.book.keys_of([record_of(event, "spy", now=0, body=None)])[0]
        app.book.append([
            Entry(message=key, kind=kind, at=1, attempt=3) for kind in (Kind.RECEIVED, Kind.FAILED, Kind.DEAD_LETTERED)
        ])  # fmt: skip
        await app.publish(event)
    finally:
        app.book.close()

    assert spy.asked == ["", "", "billing|twin#3"]  # by its identity, and then as a further publication of it


@pytest.mark.parametrize("other", [{"data": {"fee": 2}}, {"sequence": 7}])
async def test_a_handler_cannot_send_other_contents_under_its_name(service: Service, other: dict[str, Any]) -> None:
    twin = message(service, **other)

    def send(message: Message, tx: Any) -> Generator[Sql, Any, None]:
        yield insert(message)
        tx.send(twin)

    service.handle("case.closed", send)
    service.handle("case.released", bill)
    await service.app.publish(message(service))
    await service.work(attempts=1)
    (closed,) = await service.publish("case.closed", "case-1")
    await service.work(attempts=1)

    assert service.fate(closed) is Fate.DEAD
    assert service.effects == ["twin"]


async def test_a_stranger_that_the_queue_buried_under_a_dead_ones_name_is_booked_as_itself(service: Service) -> None:
    service.handle("case.released", only_with_number)
    await service.app.publish(message(service, data={"fee": "x"}))
    await service.work(attempts=1)
    assert service.fate(message(service)) is Fate.DEAD
    await by_hand(service, message(service, "case-2"))
    (delivery,) = await service.app.queue.receive(1, lease=30.0)
    await service.app.queue.dead_letter([delivery], reason="by somebody else's rule")
    await service.work()

    dead = service.rows("SELECT subject FROM crossfoot_messages WHERE fate = 24 ORDER BY key")
    assert dead == ["case-1", "case-2"]
    assert balance(service).unaccounted == 0
