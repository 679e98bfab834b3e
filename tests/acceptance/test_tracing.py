"""Spans of a whole service: one trace from the publish to the last effect, one span for each delivery, and the same books
whatever the tracer does."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode

from crossfoot import Crossfoot, Noop
from crossfoot.books.fate import Fate
from crossfoot.effects.sequence import InOrder
from crossfoot.errors import DatabaseUnavailable, EnvelopeInvalid, QueueUnavailable
from crossfoot.message import Message, encode
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import Delivery, NotDone, Outgoing, ReceiptAnswer
from crossfoot.tracing import provider as tracing
from tests.acceptance.service_rig import FORMS, Service, a_service, eventually
from tests.acceptance.test_worker_in_doubt import Shaky
from tests.acceptance.tracing_rig import (
    Spans,
    events_of,
    id_of,
    links_of,
    parent_of,
    provided,
    said,
    trace_of,
    traced,
    traceparent_of,
)
from tests.conformance.database_rig import Call, Form, Lossy, Sql, bill, insert

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_blocking_calls")]

SYNC, ASYNC = FORMS[:2]
BATCHES = pytest.mark.parametrize("batch", [1, 8], ids=["plain", "batch"])
THEIRS = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

Story = Generator[Sql | Call, Any, Any]


@pytest.fixture
def spans() -> Iterator[Spans]:
    with traced() as found:
        yield found


@pytest.fixture(params=[(SYNC, True), (ASYNC, True), (SYNC, False)], ids=["sync", "async", "another file"])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    """One whose queue lies beside its book, or elsewhere, where it is asked to settle."""
    form, local = request.param
    settings: dict[str, Any] = {} if local else {"queue": await anyio.to_thread.run_sync(elsewhere, tmp_path)}
    async with a_service(form, tmp_path, **settings) as made:
        yield made


def elsewhere(folder: Path) -> Full:
    """A queue in a file of its own."""
    path = folder / "queue.db"
    Crossfoot("other", database=path).book.open().close()
    return Full(path, "billing")


class Full(EmbeddedQueue):
    """Its dead letters may take nothing, and its acks may get no answer."""

    is_full = False
    is_mute = False

    async def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> list[ReceiptAnswer]:
        if self.is_full:
            return [NotDone(one.receipt, "the dead letters are full", lost=False) for one in deliveries]
        return await super().dead_letter(deliveries, reason=reason)

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        if self.is_mute:
            raise QueueUnavailable("nobody answers")
        return await super().ack(receipts)


def issue(message: Message, tx: Any) -> Story:
    yield insert(message)
    tx.send("invoice.issued", subject=message.subject)


def letter(message: Message, tx: Any) -> Story:
    yield insert(message)


def fail(message: Message, tx: Any) -> Story:
    yield insert(message)
    raise ValueError("the amount is confidential: 4711")


def nothing(message: Message, tx: Any) -> Story:
    yield from ()
    return Noop("nothing to bill")


# ---- one trace -------------------------------------------------------------------------------------------------------


@BATCHES
async def test_a_trace_goes_from_the_publish_to_the_last_effect(spans: Spans, service: Service, batch: int) -> None:
    service.handle("case.released", issue)
    service.handle("invoice.issued", letter)
    (message,) = await service.publish("case.released", "case-1")
    await service.work(batch=batch)

    send = spans.one(message, "send")
    first = spans.one(message)
    (create,) = spans.all("create")
    second = spans.one(said(create, "messaging.message.id"))
    assert [parent_of(one) for one in (send, first, create, second)] == [None, id_of(send), id_of(first), id_of(create)]
    assert {trace_of(one) for one in (send, first, create, second)} == {trace_of(send)}
    assert (links_of(first), links_of(second)) == ({id_of(send)}, {id_of(create)})
    assert [one.kind for one in (send, first, create)] == [SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.PRODUCER]


async def test_what_a_handler_traces_itself_belongs_to_its_delivery(spans: Spans, service: Service) -> None:
    def look(message: Message, tx: Any) -> Story:
        with trace.get_tracer("theirs").start_as_current_span("look up the tariff"):
            tx.send("invoice.issued", subject=message.subject)
        yield insert(message)

    service.handle("case.released", look)
    service.handle("invoice.issued", letter)
    (message,) = await service.publish("case.released", "case-1")
    await service.work()

    (theirs,) = [span for span in spans.all() if span.name == "look up the tariff"]
    (create,) = spans.all("create")
    assert parent_of(theirs) == id_of(spans.one(message))
    assert parent_of(create) == id_of(theirs)
    assert not trace.get_current_span().get_span_context().is_valid


async def test_a_publish_belongs_to_the_span_it_is_made_in(spans: Spans, service: Service) -> None:
    with trace.get_tracer("theirs").start_as_current_span("POST /cases") as request:
        (alone,) = await service.publish("case.released", "case-1")
        several = await service.publish("case.released", "case-2", "case-3")
    here = request.get_span_context().span_id

    assert parent_of(spans.one(alone, "send")) == here
    assert [parent_of(spans.one(message, "create")) for message in several] == [here, here]


async def test_several_that_are_published_together_have_a_context_each(spans: Spans, service: Service) -> None:
    service.handle("case.released", bill)
    messages = await service.publish("case.released", "case-1", "case-2")
    await service.work()

    created = [spans.one(message, "create") for message in messages]
    (send,) = spans.all("send")
    assert links_of(send) == {id_of(one) for one in created}
    assert (send.kind, said(send, "messaging.batch.message_count")) == (SpanKind.CLIENT, 2)
    assert [parent_of(spans.one(message)) for message in messages] == [id_of(one) for one in created]


@pytest.mark.parametrize("count", [1, 2])
async def test_a_context_that_a_message_brings_is_kept(spans: Spans, service: Service, count: int) -> None:
    service.handle("case.released", bill)
    subjects = [f"case-{number}" for number in range(count)]
    messages = await service.publish("case.released", *subjects, traceparent=THEIRS, tracestate="a=1")
    await service.work()

    for message in messages:
        process = spans.one(message)
        assert process.parent is not None
        assert (parent_of(process), trace_of(process)) == (0x00F067AA0BA902B7, 0x4BF92F3577B34DA6A3CE929D0E0E4736)
        assert process.parent.trace_state.to_header() == "a=1"
    (send,) = spans.all("send")
    assert (send.kind, links_of(send)) == (SpanKind.CLIENT, {0x00F067AA0BA902B7})
    assert spans.all("create") == []


async def test_a_message_with_a_context_of_its_own_is_sent_with_it_by_a_handler(spans: Spans, service: Service) -> None:
    def forward(message: Message, tx: Any) -> Story:
        yield insert(message)
        tx.send("invoice.issued", subject="case-1", traceparent=THEIRS)
        tx.send(Message(type="invoice.issued", source="elsewhere", traceparent=THEIRS))

    service.handle("case.released", forward)
    service.handle("invoice.issued", letter)
    await service.publish("case.released", "case-1")
    await service.work()

    assert [parent_of(span) for span in spans.all("process")[1:]] == [0x00F067AA0BA902B7] * 2


async def test_what_a_web_request_sends_carries_its_context(spans: Spans, tmp_path: Path) -> None:
    async with a_service(SYNC, tmp_path) as service:
        service.handle("case.released", bill)

        def request() -> Message:
            connection = sqlite3.connect(service.path)
            with (
                trace.get_tracer("theirs").start_as_current_span("POST /cases"),
                service.app.transaction(connection) as tx,
            ):
                sent = tx.send("case.released", subject="case-1")
            connection.close()
            return sent

        message = await anyio.to_thread.run_sync(request)
        await service.work()

        create = spans.one(message, "create")
        assert message.traceparent == traceparent_of(create)
        assert parent_of(spans.one(message)) == id_of(create)
        (relayed,) = spans.of(message, "send")
        assert (parent_of(relayed), said(relayed, "crossfoot.fate")) == (id_of(create), "queued")


async def test_where_nobody_traces_the_context_is_handed_on_as_it_came(tmp_path: Path) -> None:
    async with a_service(SYNC, tmp_path) as service:
        seen: list[str | None] = []

        def look(message: Message, tx: Any) -> Story:
            seen.append(message.traceparent)
            yield insert(message)

        service.handle("case.released", issue)
        service.handle("invoice.issued", look)
        await service.publish("case.released", "case-1", traceparent=THEIRS)
        await service.publish("case.released", "case-2")
        await service.work()

        assert sorted(seen, key=str) == sorted([THEIRS, None], key=str)


# ---- one span for each delivery, and it tells the fate that the book tells -------------------------------------------


@BATCHES
async def test_every_delivery_has_one_span_and_the_last_one_tells_the_fate_that_the_book_tells(
    spans: Spans, service: Service, batch: int
) -> None:
    service.handle("case.released", bill, operation="bill:{subject}")
    service.handle("case.empty", nothing)
    service.handle("case.broken", fail)
    service.handle("case.changed", bill, in_order=InOrder(contiguous=True, wait=3600.0), name="change")
    now = service.app.clock.now()
    messages = [
        *await service.publish("case.released", "case-1", "case-1"),
        *await service.publish("case.empty", "case-2"),
        *await service.publish("case.broken", "case-3"),
        *await service.publish("case.unknown", "case-4"),
        *await service.publish("case.released", "case-5", expirytime=now),
        *await service.publish("case.changed", "case-6", sequence=2),
    ]
    await service.work(batch=batch)
    messages += await service.publish("case.changed", "case-6", sequence=1)
    await service.work(batch=batch)
    messages += await service.publish("case.changed", "case-6", sequence=1)
    await service.work(batch=batch)

    told = {message.id: said(spans.of(message)[-1], "crossfoot.fate") for message in messages}
    assert told == {message.id: service.fate(message).label for message in messages}
    assert set(told.values()) >= {"settled", "duplicate", "noop", "dead", "expired", "superseded"}
    deliveries = dict(
        service.rows(
            "SELECT m.id, count(DISTINCT e.delivery) FROM crossfoot_entries e JOIN crossfoot_messages m ON m.key = e.message"
            " WHERE e.delivery > 0 GROUP BY m.id"
        )
    )
    assert {message.id: len(spans.of(message)) for message in messages} == deliveries
    assert events_of(spans.of(messages[3])) == ["crossfoot.retry", "crossfoot.dead_letter"]
    assert events_of(spans.of(messages[6])) == ["crossfoot.parked"]
    assert [said(span, "crossfoot.attempt") for span in spans.of(messages[3])] == [1, 2]


async def test_an_envelope_that_cannot_be_read_has_a_span_without_a_trace_of_its_own(
    spans: Spans, service: Service
) -> None:
    service.handle("case.released", bill)
    await anyio.to_thread.run_sync(service.app.book.open)
    await service.app.queue.open()
    await service.app.queue.publish([Outgoing(key="stray|1", body=b"nobody's envelope")])
    await service.work()

    told = spans.all("process")
    assert [said(span, "crossfoot.fate") for span in told][-1] == "dead"
    assert {said(span, "error.type") for span in told} == {"crossfoot.errors.EnvelopeInvalid"}
    assert all(span.parent is None and not span.links for span in told)


async def test_a_failure_is_an_error_with_its_class_and_its_place(spans: Spans, service: Service) -> None:
    service.handle("case.broken", fail)
    (message,) = await service.publish("case.broken", "case-1")
    await service.work()

    for span in spans.of(message):
        assert span.status.status_code is StatusCode.ERROR
        assert (said(span, "error.type"), span.status.description) == (
            "ValueError",
            f"ValueError at {__name__}:fail",
        )
    (fingerprint,) = service.causes()
    causes = [(event.attributes or {})["crossfoot.cause"] for span in spans.of(message) for event in span.events]
    assert causes == [fingerprint] * 2


async def test_a_batch_has_a_span_that_links_to_where_its_messages_come_from(spans: Spans, tmp_path: Path) -> None:
    async with a_service(SYNC, tmp_path) as service:
        service.handle("case.released", bill)
        messages = await service.publish("case.released", *[f"case-{number}" for number in range(8)])
        await service.work(batch=8, concurrency=1)

        (batch,) = spans.all("process_batch")
        assert (batch.name, batch.kind) == ("process_batch billing", SpanKind.CONSUMER)
        assert said(batch, "messaging.operation.type") == "process"
        assert said(batch, "messaging.batch.message_count") == 8
        assert links_of(batch) == {id_of(spans.one(message, "create")) for message in messages}
        for message in messages:
            assert links_of(spans.one(message)) == {id_of(spans.one(message, "create")), id_of(batch)}


async def test_a_batch_that_is_undone_and_done_again_has_one_span_for_each_message_still(
    spans: Spans, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "crossfoot.worker")
    service.handle("case.released", bill)
    messages = await service.publish("case.released", *[f"case-{number}" for number in range(4)])
    lose_a_commit(service)
    await service.work(batch=4, concurrency=1)

    assert [len(spans.of(message)) for message in messages] == [1] * 4
    assert "crossfoot.begun_again" in events_of([spans.one(messages[0])])
    assert {said(spans.one(message), "crossfoot.fate") for message in messages} == {"settled"}
    undone, *_ = spans.all("process_batch")
    assert (undone.status.status_code, said(undone, "error.type")) == (StatusCode.ERROR, "ConnectionResetError")
    assert "a transaction of 4 messages failed as a whole (ConnectionResetError)" in caplog.text


async def test_what_a_stopping_worker_hands_back_says_so(spans: Spans, tmp_path: Path) -> None:
    async with a_service(ASYNC, tmp_path) as service:

        def wait(message: Message, tx: Any) -> Story:
            yield insert(message)
            begun.append(message)
            yield Call(lambda connection: anyio.sleep_forever())

        begun: list[Message] = []
        service.handle("case.released", wait)
        (message,) = await service.publish("case.released", "case-1")
        async with service.working(grace=0.1):
            await eventually(lambda: begun, "the handler to begin")

        span = spans.one(message)
        assert (said(span, "crossfoot.fate"), events_of([span])) == ("queued", ["crossfoot.handed_back"])


# ---- what the queue is asked ---------------------------------------------------------------------------------------


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncIterator[Service]:
    async with a_service(SYNC, tmp_path, queue=await anyio.to_thread.run_sync(elsewhere, tmp_path)) as made:
        yield made


async def test_what_settles_a_delivery_has_a_span_that_begins_when_the_delivery_has_ended(
    spans: Spans, remote: Service
) -> None:
    remote.handle("case.released", bill)
    remote.handle("case.broken", fail)
    (settled,) = await remote.publish("case.released", "case-1")
    (dead,) = await remote.publish("case.broken", "case-2")
    await remote.work()

    for message, operations in ((settled, ["ack"]), (dead, ["release", "dead_letter"])):
        for operation, process in zip(operations, spans.of(message), strict=True):
            span = spans.one(message, operation)
            assert (span.name, span.kind) == (f"{operation} billing", SpanKind.CLIENT)
            assert said(span, "messaging.operation.type") == "settle"
            assert links_of(span) == {id_of(spans.one(message, "send"))}
            assert span.start_time is not None
            assert process.end_time is not None
            assert process.end_time <= span.start_time
            assert span.status.status_code is StatusCode.UNSET


async def test_a_message_that_the_dead_letters_did_not_take_is_not_said_to_be_dead(
    spans: Spans, remote: Service
) -> None:
    assert isinstance(remote.app.queue, Full)
    remote.app.queue.is_full = True
    remote.handle("case.broken", fail)
    (message,) = await remote.publish("case.broken", "case-1")
    async with remote.working(attempts=1, lease=30.0):
        await eventually(lambda: spans.of(message, "dead_letter") and spans.of(message), "it to be given up")

    assert said(spans.one(message, "dead_letter"), "error.type") == "no_answer"
    assert said(spans.one(message), "crossfoot.fate") == "retrying"
    assert events_of(spans.of(message)) == []


async def test_an_ack_without_an_answer_is_an_error_of_the_ack_and_not_of_the_delivery(
    spans: Spans, remote: Service
) -> None:
    assert isinstance(remote.app.queue, Full)
    remote.app.queue.is_mute = True
    remote.handle("case.released", bill)
    (message,) = await remote.publish("case.released", "case-1")
    async with remote.working(lease=30.0):
        await eventually(lambda: len(spans.of(message, "ack")) == 2, "it to be acked, and once more")

    assert {said(span, "error.type") for span in spans.of(message, "ack")} == {"no_answer"}
    assert said(spans.one(message), "crossfoot.fate") == "settled"
    assert spans.one(message).status.status_code is StatusCode.UNSET


async def test_a_delivery_too_many_tells_the_fate_that_the_message_has_by_an_earlier_one(
    spans: Spans, tmp_path: Path
) -> None:
    queue = await anyio.to_thread.run_sync(elsewhere, tmp_path)
    queue.is_mute = True
    async with a_service(SYNC, tmp_path, queue=queue) as remote:
        remote.handle("case.released", bill)
        remote.handle("case.empty", nothing)
        messages = [*await remote.publish("case.released", "case-1"), *await remote.publish("case.empty", "case-2")]
        async with remote.working(lease=0.5):
            await eventually(lambda: all(spans.of(message) for message in messages), "both to be handled")
            queue.is_mute = False
            await eventually(lambda: all(len(spans.of(message)) > 1 for message in messages), "both to come again")

        last = [spans.of(message)[-1] for message in messages]
        assert [said(span, "crossfoot.fate") for span in last] == [remote.fate(message).label for message in messages]
        assert [remote.fate(message) for message in messages] == [Fate.SETTLED, Fate.NOOP]
        assert events_of(last) == ["crossfoot.duplicate"] * 2


@pytest.mark.parametrize("form", [SYNC, ASYNC], ids=repr)
@pytest.mark.parametrize("local", [True, False], ids=["same file", "another file"])
@pytest.mark.parametrize("done", [True, False], ids=["committed", "not committed"])
async def test_a_commit_in_doubt_says_so_and_the_next_delivery_tells_how_it_was(
    spans: Spans, tmp_path: Path, form: Form, local: bool, done: bool
) -> None:
    queue: dict[str, Any] = {} if local else {"queue": await anyio.to_thread.run_sync(elsewhere, tmp_path)}
    async with a_service(form, tmp_path, **queue) as service:
        service.handle("case.released", bill)
        (message,) = await service.publish("case.released", "case-1")
        service.app.database = Shaky(service.app.database, done=done)
        await service.work(attempts=1, concurrency=1)
        first, *later = spans.of(message)

        assert (said(first, "crossfoot.fate"), first.status.status_code) == ("in doubt", StatusCode.ERROR)
        assert said(first, "error.type") == "crossfoot.errors.CommitInDoubt"
        assert events_of([first]) == ["crossfoot.retry"]
        assert len(later) == (0 if local and done else 1), (
            "an ack that was committed is no less so for want of an answer"
        )
        for second in later:
            assert (said(second, "crossfoot.fate"), second.status.status_code) == ("settled", StatusCode.UNSET)
            assert events_of([second]) == (["crossfoot.duplicate"] if done else [])
            assert trace_of(first) == trace_of(second) == trace_of(spans.one(message, "send"))
        assert service.fate(message) is Fate.SETTLED


async def test_a_publish_that_is_refused_or_gets_no_answer_is_an_error(spans: Spans, tmp_path: Path) -> None:
    async with a_service(SYNC, tmp_path, max_bytes=1000) as service:
        large = service.app.message("case.released", data="x" * 2000)
        await service.publish("case.released", "case-1")
        await service.app.publish(large)
        await service.app.publish(service.app.message("case.released"), large)

    alone, refused, several = spans.all("send")
    assert (said(alone, "crossfoot.fate"), said(alone, "error.type")) == ("queued", None)
    assert (said(refused, "crossfoot.fate"), said(refused, "error.type")) == ("refused", "refused")
    assert said(several, "error.type") == "refused"
    assert events_of([several]) == ["crossfoot.not_accepted"]


@pytest.mark.parametrize("count", [1, 2])
async def test_a_message_that_cannot_be_written_leaves_no_span_open(spans: Spans, service: Service, count: int) -> None:
    odd = service.app.message("case.released", data=float("nan"))
    with pytest.raises(EnvelopeInvalid):
        await service.app.publish(*[odd] * count)

    assert [said(span, "messaging.message.id") for span in spans.all()] == [odd.id]
    assert not trace.get_current_span().get_span_context().is_valid


async def test_when_a_handler_has_ended_its_span_is_current_no_more(spans: Spans, service: Service) -> None:
    """Else what its lane logs and traces next would be told of the wrong message."""
    current: list[bool] = []
    service.handle("case.released", bill)
    service.handle("case.broken", fail)
    await service.publish("case.released", "case-1")
    await service.publish("case.broken", "case-2")
    worker = service.worker(attempts=1)
    worker.on_settled = lambda _: current.append(trace.get_current_span().get_span_context().is_valid)
    await worker.run(until_idle=True)

    assert current == [False, False]


async def test_a_worker_that_stops_over_a_fault_leaves_no_span_open(spans: Spans, service: Service) -> None:
    def fault(message: Message, tx: Any) -> Story:
        yield insert(message)
        raise DatabaseUnavailable("the disk of the book is gone")

    service.handle("case.released", fault)
    (message,) = await service.publish("case.released", "case-1")
    with pytest.raises(DatabaseUnavailable):
        await service.work()

    assert said(spans.one(message), "crossfoot.fate") is None, "nobody knows"


# ---- nothing is hurt, and nothing is told ----------------------------------------------------------------------------


async def test_no_span_holds_a_word_of_a_payload_or_of_an_exception(spans: Spans, service: Service) -> None:
    service.handle("case.broken", fail)
    service.handle("case.released", issue, payload=dict[str, int])
    service.handle("invoice.issued", letter)
    await service.publish("case.broken", "case-1", data={"iban": "DE02 4711"})
    await service.publish("case.released", "case-2", data={"iban": "DE02 4711"})
    await service.work()

    assert len(spans.all("process")) == 3
    assert "4711" not in spans.text()
    assert "confidential" not in spans.text()


class Broken:
    """Raises at whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        def refuse(*args: object, **kwargs: object) -> Any:
            raise RuntimeError(f"{name} is out of order")

        return refuse


class BrokenTracer(Broken):
    """Whose spans are broken, and not itself."""

    def start_span(self, *args: object, **kwargs: object) -> Any:
        return Broken()


class BrokenSpans(Broken):
    def get_tracer(self, *args: object, **kwargs: object) -> Any:
        return BrokenTracer()


class BrokenExporter(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise RuntimeError("nobody answers")


class BrokenProcessor(SpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("nobody answers")


def sdk_with(processor: SpanProcessor) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(processor)
    return provider


PROVIDERS: dict[str, Callable[[], Any]] = {
    "provider": Broken,
    "spans": BrokenSpans,
    "exporter": lambda: sdk_with(SimpleSpanProcessor(BrokenExporter())),
    "processor": lambda: sdk_with(BrokenProcessor()),
}


@BATCHES
@pytest.mark.parametrize("broken", PROVIDERS)
async def test_whatever_a_tracer_raises_the_books_are_the_same(
    service: Service, broken: str, batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    service.handle("case.released", issue)
    service.handle("invoice.issued", letter)
    service.handle("case.broken", fail)
    with provided(PROVIDERS[broken]()):
        released = await service.publish("case.released", "case-1", "case-2")
        broke = await service.publish("case.broken", "case-3")
        await service.work(batch=batch)

    assert [service.fate(message) for message in released] == [Fate.SETTLED] * 2
    assert [service.fate(message) for message in broke] == [Fate.DEAD]
    assert len(service.effects) == len(set(service.effects)) == 4


async def test_a_fault_of_the_tracer_is_told_a_few_times_and_no_more(
    service: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "_told", 0)
    with provided(BrokenSpans()):
        await service.publish("case.released", *[f"case-{number}" for number in range(20)])

    told = [record.getMessage() for record in caplog.records if record.name == "crossfoot.tracing"]
    assert told == ["a span is lost, and nothing else: the tracer raised RuntimeError"] * tracing.MOST_TOLD


async def test_a_message_as_large_as_its_queue_takes_is_not_made_larger(spans: Spans, tmp_path: Path) -> None:
    async with a_service(SYNC, tmp_path, max_bytes=1000) as service:

        def forward(message: Message, tx: Any) -> Story:
            yield insert(message)
            tx.send(copied(message, "case.copied"))

        service.handle("case.released", forward)
        service.handle("case.copied", letter)
        bare = service.app.message("case.released", subject="case-1", data="", time=service.app.clock.now())
        message = copied(bare, bare.type, data="x" * (1000 - len(encode(bare))))
        await service.app.publish(message)
        await service.work()

        assert set(service.ids_by_fate()) == {Fate.SETTLED}
        assert len(service.effects) == 2


def copied(message: Message, type_: str, **changes: Any) -> Message:
    """A message of the same size; under an id of its own, if it is of another type."""
    other = {} if type_ == message.type else {"id": message.id[::-1], "traceparent": None, "tracestate": None}
    return msgspec.structs.replace(message, type=type_, **other, **changes)


def lose_a_commit(service: Service) -> None:
    """The first commit of each lane's session raises instead."""
    database: Any = service.app.database
    connect, aconnect = database.connect, database.aconnect

    async def lossy() -> Any:
        return Lossy(await aconnect(), done=False)

    database.connect, database.aconnect = lambda: Lossy(connect(), done=False), lossy


WITHOUT = """
import sys
{before}
from crossfoot import Crossfoot

app = Crossfoot("billing", database="billing.db")

@app.handler("case.released")
def bill(message, tx):
    tx.outcome("invoice.issued")
    tx.send("letter.wanted", subject=message.subject)

@app.handler("letter.wanted")
async def letter(message, tx):
    tx.outcome("letter.written")

import anyio
anyio.run(app.publish, app.message("case.released", subject="case-1"))
app.run(until_idle=True)
print(sorted(name for name, module in sys.modules.items() if name.startswith("opentelemetry") and module is not None))
"""


@pytest.mark.parametrize(
    "before", ["", "sys.modules['opentelemetry'] = None  # as if it were not installed"], ids=["unused", "missing"]
)
def test_where_nobody_traces_nothing_of_it_is_imported(tmp_path: Path, before: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(before=before)], cwd=tmp_path, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", "[]")
