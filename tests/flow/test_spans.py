"""Spans of requests, branches and calls: one each, within each other, with the fate that the books have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import StatusCode

from crossfoot import flow
from crossfoot.flow import asgi, spans
from tests.acceptance.pages import DOCS, table
from tests.acceptance.tracing_rig import Spans, id_of, provided, said, traced


@pytest.fixture
def seen() -> Iterator[Spans]:
    with traced() as found:
        yield found


@pytest.fixture
def ledger() -> flow.Ledger:
    return flow.Ledger()


def named(seen: Spans, name: str) -> ReadableSpan:
    (found,) = [span for span in seen.all() if span.name == name]
    return found


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


async def give_up() -> None:
    raise ConnectionError("with what it carries")


async def test_a_request_has_its_branches_within_it_each_with_its_fate(seen: Spans, ledger: flow.Ledger) -> None:
    within: list[int] = []

    async def look() -> None:
        within.append(trace.get_current_span().get_span_context().span_id)

    limit = flow.Limit(1)
    async with flow.fan_out(deadline=0.3, name="page", ledger=ledger) as group:
        group.branch("stock", look, limit=limit)
        group.branch("price", anyio.sleep, 5)
        group.branch("rating", give_up, fallback=lambda: 1)

    request = named(seen, "request page")
    branches = {name: named(seen, f"branch {name}") for name in ("stock", "price", "rating")}
    assert {parent(span) for span in branches.values()} == {id_of(request)}
    assert parent(request) is None
    assert within == [id_of(branches["stock"])]
    assert {name: said(span, spans.FATE) for name, span in branches.items()} == {
        "stock": "full",
        "price": "expired",
        "rating": "degraded",
    }
    assert said(request, spans.FATE) == "degraded"
    assert {name: span.status.status_code for name, span in branches.items()} == {
        "stock": StatusCode.UNSET,
        "price": StatusCode.ERROR,
        "rating": StatusCode.UNSET,
    }
    assert said(branches["rating"], spans.ERROR) == "ConnectionError"
    assert [event.name for event in branches["stock"].events] == [spans.BEGUN]
    assert said(branches["stock"], spans.LEFT) == pytest.approx(0.3)
    assert "with what it carries" not in seen.text()


async def test_a_call_is_within_what_is_current_and_leaves_it_so(seen: Spans, ledger: flow.Ledger) -> None:
    tracer = trace.get_tracer("of the program")
    with tracer.start_as_current_span("mine") as mine:
        await flow.call(anyio.sleep, 0, name="rest", ledger=ledger)
        with pytest.raises(flow.Rejected):
            async with (limit := flow.Limit(1, wait=0)).permit():
                await flow.call(anyio.sleep, 0, name="refused", limit=limit, ledger=ledger)
        assert trace.get_current_span() is mine

    assert parent(named(seen, "call rest")) == mine.get_span_context().span_id
    refused = named(seen, "call refused")
    assert (said(refused, spans.FATE), refused.status.status_code) == ("shed", StatusCode.ERROR)
    assert refused.events == ()


async def test_a_request_of_the_middleware_s_has_one(seen: Spans, ledger: flow.Ledger) -> None:
    async def application(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        await flow.call(anyio.sleep, 0, name="inside", ledger=ledger)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async def receive() -> asgi.Message:
        return {"type": "http.request"}

    async def send(message: asgi.Message) -> None:
        pass

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await asgi.Bounded(application, ledger=ledger)(scope, receive, send)

    request = named(seen, "request")
    assert said(request, spans.FATE) == "full"
    assert parent(named(seen, "call inside")) == id_of(request)


def test_branches_in_threads_have_them_too(seen: Spans, ledger: flow.Ledger) -> None:
    within: list[int] = []
    with flow.fan_out_threads(deadline=60, name="page", ledger=ledger) as group:
        group.branch("stock", lambda: within.append(trace.get_current_span().get_span_context().span_id))

    branch = named(seen, "branch stock")
    assert within == [id_of(branch)]
    assert parent(branch) == id_of(named(seen, "request page"))


async def test_there_are_as_many_as_the_books_have_ends(seen: Spans, ledger: flow.Ledger) -> None:
    with pytest.raises(ExceptionGroup):
        async with flow.fan_out(deadline=0.3, name="page", ledger=ledger) as group:
            group.branch("stock", give_up, required=True)
            group.branch("price", anyio.sleep, 5)
    with anyio.move_on_after(1):
        async with flow.fan_out(deadline=9, name="page", ledger=ledger) as group:
            group.branch("price", anyio.sleep, 5)

    told = Counter((said(span, spans.KIND), said(span, spans.NAME), said(span, spans.FATE)) for span in seen.all())
    ended = {(one.kind, one.name, str(fate)): count for one in ledger.accounts for fate, count in one.fates.items()}
    assert dict(told) == ended


async def test_a_tracer_that_raises_costs_a_span_and_nothing_else(ledger: flow.Ledger) -> None:
    class Broken(TracerProvider):
        def get_tracer(self, *args: Any, **options: Any) -> Any:
            raise RuntimeError("no")

    with provided(Broken()):
        async with flow.fan_out(deadline=0.3, name="page", ledger=ledger) as group:
            group.branch("stock", anyio.sleep, 0)
    assert group.fate is flow.Fate.FULL


def test_the_page_lists_what_they_say() -> None:
    listed = [re.sub("`", "", cells[0]) for cells in table(DOCS / "flow.md", "Spans")]

    assert listed == [spans.KIND, spans.NAME, spans.LEFT, spans.FATE, spans.ERROR, spans.BEGUN]
