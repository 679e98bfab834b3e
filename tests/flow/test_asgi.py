"""The edge towards callers, by the ASGI protocol itself. Time is virtual, on asyncio and on trio."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest

from crossfoot import flow
from crossfoot.flow import Fate
from crossfoot.flow.asgi import App, Bounded, Receive, Scope, Send


class Caller:
    """One request, and what comes back."""

    def __init__(
        self, path: str = "/page", method: str = "GET", body: tuple[bytes, ...] = (b"",), **headers: str
    ) -> None:
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.scope: Scope = {"type": "http", "path": path, "method": method, "headers": named}
        self._parts = list(body)
        self.hung_up = anyio.Event()
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        if self._parts:
            part = self._parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def ask(self, app: App) -> Caller:
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])


class Application:
    """Takes its time, and answers with what it was sent."""

    def __init__(self, seconds: float = 0.1) -> None:
        self.seconds = seconds
        self.left: list[float] = []
        self.ended: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.left.append(flow.remaining())
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        try:
            await anyio.sleep(self.seconds)
            self.ended.append("answered")
        except BaseException:
            self.ended.append("cancelled")
            raise
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": body or b"answer"})


@pytest.fixture
def ledger() -> flow.Ledger:
    return flow.Ledger()


def fates(ledger: flow.Ledger) -> dict[Fate, int]:
    assert all(account.balances and not account.under_way for account in ledger.accounts)
    return ledger.accounts[0].fates if ledger.accounts else {}


async def test_the_caller_s_deadline_holds_and_the_answer_says_what_was_left(ledger: flow.Ledger) -> None:
    app = Application(0.1)

    caller = await Caller(x_deadline_ms="250").ask(Bounded(app, ledger=ledger))

    assert app.left == [pytest.approx(0.25)]
    assert (caller.status, caller.body, caller.headers[b"x"]) == (200, b"answer", b"y")
    assert caller.headers[b"x-deadline-ms"] in (b"149", b"150")
    assert fates(ledger) == {Fate.FULL: 1}


async def test_a_caller_cannot_ask_for_more_than_the_application_gives(ledger: flow.Ledger) -> None:
    app = Application()

    await Caller(x_deadline_ms="60000").ask(Bounded(app, deadline=2, ledger=ledger))
    await Caller(grpc_timeout="1S").ask(Bounded(app, deadline=2, ledger=ledger))

    assert app.left == pytest.approx([2, 1])


@pytest.mark.parametrize("text", ["", "soon", "-5", "1e99", "9" * 40])
async def test_a_header_that_cannot_be_read_is_no_deadline(text: str, ledger: flow.Ledger) -> None:
    app = Application()

    caller = await Caller(x_deadline_ms=text, x_unknown="1").ask(Bounded(app, deadline=2, ledger=ledger))

    assert caller.status == 200
    assert app.left == pytest.approx([2])


async def test_too_late_is_504_and_the_work_has_stopped(ledger: flow.Ledger) -> None:
    app = Application(10)

    caller = await Caller(x_deadline_ms="100").ask(Bounded(app, ledger=ledger))

    assert (caller.status, caller.body, app.ended) == (504, b"out of time\n", ["cancelled"])
    assert fates(ledger) == {Fate.EXPIRED: 1}


async def test_a_deadline_that_has_passed_on_the_way_makes_no_call(ledger: flow.Ledger) -> None:
    app = Application()

    caller = await Caller(x_deadline_ms="0").ask(Bounded(app, ledger=ledger))

    assert (caller.status, app.left) == (504, [])


@pytest.mark.parametrize("status", [429, 503])
async def test_who_finds_no_room_is_refused_and_told_when_to_come_again(status: int, ledger: flow.Ledger) -> None:
    app = Bounded(Application(1), limit=flow.Limit(1, waiting=0, wait=2.5, status=status), ledger=ledger)
    callers = [Caller(), Caller()]

    async with anyio.create_task_group() as group:
        group.start_soon(callers[0].ask, app)
        await anyio.wait_all_tasks_blocked()
        await callers[1].ask(app)

    assert [caller.status for caller in callers] == [200, status]
    assert callers[1].headers[b"retry-after"] == b"3"
    assert fates(ledger) == {Fate.FULL: 1, Fate.SHED: 1}


async def test_probes_and_preflight_are_answered_in_any_case(ledger: flow.Ledger) -> None:
    limit, application = flow.Limit(1, waiting=0), Application()
    app = Bounded(application, limit=limit, ledger=ledger)

    async with limit.permit():
        asked = [
            await Caller(path="/readyz").ask(app),
            await Caller(method="OPTIONS", access_control_request_method="PUT").ask(app),
            await Caller().ask(app),
            await Caller(method="OPTIONS").ask(app),
        ]

    assert [caller.status for caller in asked] == [200, 200, 429, 429]
    assert application.left == [math.inf, math.inf]


async def test_higher_priorities_go_first(ledger: flow.Ledger) -> None:
    order: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        order.append(scope["path"])
        await Application(20)(scope, receive, send)

    limit = flow.Limit(1, waiting=5, wait=60)
    app = Bounded(
        application,
        deadline=300,
        limit=limit,
        priority=lambda scope: 9 if scope["path"] == "/pay" else 1,
        ledger=ledger,
    )

    async with anyio.create_task_group() as group:
        for path in ("/first", "/browse", "/pay"):
            group.start_soon(Caller(path=path).ask, app)
            await anyio.wait_all_tasks_blocked()

    assert order == ["/first", "/pay", "/browse"]


async def test_who_hangs_up_has_the_work_cancelled(ledger: flow.Ledger) -> None:
    application = Application(10)
    app, caller = Bounded(application, ledger=ledger), Caller()

    async with anyio.create_task_group() as group:
        group.start_soon(caller.ask, app)
        await anyio.sleep(0.5)
        caller.hung_up.set()
        await anyio.wait_all_tasks_blocked()

    assert (application.ended, caller.sent) == (["cancelled"], [])
    assert fates(ledger) == {Fate.CANCELLED: 1}
    assert ledger.wasted[flow.Waste.LEFT][1] == pytest.approx(0.5)


async def test_a_body_in_many_parts_arrives_whole(ledger: flow.Ledger) -> None:
    caller = await Caller(method="POST", body=(b"one ", b"two ", b"three")).ask(Bounded(Application(), ledger=ledger))

    assert caller.body == b"one two three"


async def test_a_refusal_in_a_group_keeps_its_meaning(ledger: flow.Ledger) -> None:
    limit = flow.Limit(1, waiting=0, name="pricing")

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        async with flow.fan_out(ledger=ledger) as group:
            group.branch("price", anyio.sleep, 1, required=True, limit=limit)

    async with limit.permit():
        caller = await Caller().ask(Bounded(application, ledger=ledger))

    assert (caller.status, caller.headers[b"retry-after"]) == (429, b"1")


async def test_an_error_of_the_application_s_own_is_the_server_s_to_answer(ledger: flow.Ledger) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Caller().ask(Bounded(application, ledger=ledger))

    assert fates(ledger) == {Fate.FAILED: 1}


async def test_an_answer_that_was_begun_is_not_answered_twice(ledger: flow.Ledger) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await anyio.sleep(10)

    caller = Caller()
    with pytest.raises(flow.Expired):
        await caller.ask(Bounded(application, deadline=1, ledger=ledger))

    assert len(caller.sent) == 1


async def test_other_protocols_pass(ledger: flow.Ledger) -> None:
    seen: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    caller = Caller()
    caller.scope["type"] = "lifespan"
    await caller.ask(Bounded(application, ledger=ledger))

    assert (seen, ledger.accounts) == (["lifespan"], [])
