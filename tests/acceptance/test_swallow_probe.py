"""The swallow probe: ten messages, three of whose handlers swallow their failure, so that seven effects exist.

Other libraries report ten successes. Here the three are found, by id, and none of the seven is accused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from crossfoot import Crossfoot
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.message import Message
from crossfoot.worker.retry import Retry
from tests.acceptance.service_rig import FORMS, Service, a_service
from tests.conformance.database_rig import Call, Sql, Story, insert
from tests.conformance.test_databases_misuse import Effect, Taken

pytestmark = pytest.mark.anyio

SWALLOWED = {2, 5, 9}
BATCHES = pytest.mark.parametrize("batch", [1, 10], ids=["plain", "batch"])


@pytest.fixture(params=FORMS, ids=repr)
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    async with a_service(request.param, tmp_path) as made:
        yield made


@pytest.fixture(params=[form for form in FORMS if form.orm], ids=repr)
async def orm_service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    async with a_service(request.param, tmp_path) as made:
        yield made


def will_fail(message: Message) -> bool:
    return message.data["number"] in SWALLOWED


def bill(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    """The bug of the scene: a failure, downgraded to a log line."""
    try:
        if will_fail(message):
            yield Sql("INSERT INTO taken VALUES (1)")
        yield insert(message)
    except Exception:  # noqa: BLE001 - the bug
        return


def bill_by_mail(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    """The failure is not the database's."""
    try:
        if will_fail(message):
            raise ConnectionError("the printing service does not answer")
    except ConnectionError:
        return
    yield insert(message)


def bill_with_audit(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    """The harder form: something was written before the part that matters failed."""
    yield Sql("INSERT INTO audit VALUES (:id)", {"id": message.id})
    try:
        if will_fail(message):
            yield Sql("INSERT INTO taken VALUES (1)")
        yield insert(message)
    except Exception:  # noqa: BLE001 - the bug
        return
    tx.outcome("invoice.issued", amount=120)


def bill_in_a_savepoint(message: Message, tx: Any) -> Generator[Sql, Any, None]:
    """The failure is rolled back properly, and then nobody is told."""
    yield Sql("SAVEPOINT attempt")
    try:
        yield insert(message)
        if will_fail(message):
            yield Sql("INSERT INTO taken VALUES (1)")
    except Exception:  # noqa: BLE001 - the bug
        yield Sql("ROLLBACK TO attempt")
    yield Sql("RELEASE attempt")


async def probe(service: Service, story: Story, batch: int, **options: Any) -> tuple[set[str], set[str]]:
    """Run the ten; the ids that failed, and the others."""
    service.handle("case.released", story, **options)
    messages = [service.app.message("case.released", subject=f"case-{n}", data={"number": n}) for n in range(10)]
    await service.app.publish(*messages)
    await service.work(batch=batch)
    failed = {message.id for message in messages if will_fail(message)}
    return failed, {message.id for message in messages} - failed


def assert_found(service: Service, failed: set[str], fine: set[str], cause: str = "NoProof") -> None:
    """Three detected, by id; none falsely accused; seven effects."""
    assert sorted(service.effects) == sorted(fine)
    assert service.ids_by_fate() == {Fate.SETTLED: fine, Fate.DEAD: failed}
    accused = service.rows(
        "SELECT DISTINCT m.id FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message WHERE e.kind = ?",
        Kind.FAILED.value,
    )
    assert set(accused) == failed
    assert all(title.startswith(cause) for title in service.causes().values()), service.causes()


@BATCHES
@pytest.mark.parametrize("story", [bill, bill_by_mail])
async def test_three_swallowed_failures_are_found_and_seven_effects_stand(
    service: Service, story: Story, batch: int
) -> None:
    failed, fine = await probe(service, story, batch)
    assert_found(service, failed, fine)


@BATCHES
async def test_behind_an_audit_row_they_are_found_when_the_handler_says_what_proves_it(
    service: Service, batch: int
) -> None:
    failed, fine = await probe(service, bill_with_audit, batch, proves="invoice.issued")
    assert_found(service, failed, fine)
    assert sorted(service.rows("SELECT id FROM audit")) == sorted(fine), (
        "the audit rows of the failed were undone with them"
    )


@BATCHES
async def test_behind_an_audit_row_and_without_proves_a_row_is_taken_for_proof(service: Service, batch: int) -> None:
    """Rows changed is the weakest proof; this is what `proves` is for."""
    failed, fine = await probe(service, bill_with_audit, batch)
    assert service.ids_by_fate() == {Fate.SETTLED: failed | fine}
    assert sorted(service.effects) == sorted(fine)


@BATCHES
async def test_a_failure_rolled_back_to_a_savepoint_and_then_swallowed_is_found(service: Service, batch: int) -> None:
    failed, fine = await probe(service, bill_in_a_savepoint, batch)
    assert_found(service, failed, fine)


@BATCHES
async def test_the_failed_flush_of_an_orm_session_is_found_even_behind_an_audit_row(
    orm_service: Service, batch: int
) -> None:
    def bill_by_objects(message: Message, tx: Any) -> Generator[Sql | Call, Any, None]:
        yield Sql("INSERT INTO audit VALUES (:id)", {"id": message.id})
        rows = [Effect(id=message.id, note="")]
        if will_fail(message):
            rows.append(Taken(number=1))  # type: ignore[arg-type] # a list of any mapped objects
        try:
            yield Call(lambda session: session.add_all(rows))
            yield Call(lambda session: session.flush())
        except Exception:  # noqa: BLE001 - the bug
            return

    failed, fine = await probe(orm_service, bill_by_objects, batch)
    assert_found(orm_service, failed, fine, cause="TransactionMisuse")


@BATCHES
async def test_the_nested_transaction_of_an_orm_session_is_found(orm_service: Service, batch: int) -> None:
    def nest(session: Any, message: Message) -> None:
        try:
            with session.begin_nested():
                session.add(Effect(id=message.id, note=""))
                session.flush()
                if will_fail(message):
                    raise ConnectionError("the printing service does not answer")
        except ConnectionError:
            return

    def bill_nested(message: Message, tx: Any) -> Generator[Call, Any, None]:
        if orm_service.form.is_async:
            yield Call(lambda session: session.run_sync(nest, message))
        else:
            yield Call(lambda session: nest(session, message))

    failed, fine = await probe(orm_service, bill_nested, batch)
    assert_found(orm_service, failed, fine)


async def test_once_the_bug_is_mended_the_three_need_only_be_sent_again(service: Service) -> None:
    """The failure used nothing up: the same messages, published again, are settled."""
    failed, fine = await probe(service, bill, 1)

    def mended(message: Message, tx: Any) -> Generator[Sql, Any, None]:
        yield insert(message)

    async with a_service_again(service) as again:
        again.handle("case.released", mended, name="bill")
        messages = [again.app.message("case.released", subject="again", id=id_) for id_ in failed]
        await again.app.publish(*messages)
        await again.work()
        assert sorted(again.effects) == sorted(failed | fine)
        assert again.ids_by_fate() == {Fate.SETTLED: failed | fine}


def a_service_again(service: Service) -> Any:
    """The next version of the service, on the same file."""
    from contextlib import asynccontextmanager

    from crossfoot import Crossfoot

    @asynccontextmanager
    async def made() -> AsyncIterator[Service]:
        app = Crossfoot("billing", database=service.app.database, synchronous="NORMAL")
        try:
            yield Service(app, service.form, service.path)
        finally:
            await app.aclose()

    return made()


@pytest.mark.parametrize("batch", [1, 10], ids=["plain", "batch"])
async def test_what_a_statement_raised_is_told_where_nothing_proves_the_work(tmp_path: Path, batch: int) -> None:
    app = Crossfoot("billing", database=tmp_path / "billing.db", synchronous="NORMAL")

    @app.handler("sync")
    def charge(message: Message, tx: Any) -> None:
        with suppress(sqlite3.Error):
            tx.execute("INSERT INTO nowhere VALUES (1)")

    @app.handler("async")
    async def acharge(message: Message, tx: Any) -> None:
        with suppress(sqlite3.Error):
            await tx.execute("INSERT INTO nowhere VALUES (1)")

    for type_ in ("sync", "async"):
        await app.publish(type_, id=type_)
    try:
        await app.worker(batch=batch, retry=Retry(attempts=1, base=0.01)).run(until_idle=True)
    finally:
        await app.aclose()
    with closing(sqlite3.connect(tmp_path / "billing.db")) as connection:
        told = dict(
            connection.execute(
                "SELECT m.id, e.details FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message WHERE e.kind = ?",
                (Kind.FAILED.value,),
            ).fetchall()
        )
    for type_ in ("sync", "async"):
        assert "A statement of it had raised, and it went on: OperationalError: no such table: nowhere" in told[type_]
    assert "test_swallow_probe.py:" in told["sync"]
