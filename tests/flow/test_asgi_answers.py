"""What an application's own answers mean to its limit and its books, and which deadline a caller has stated. Time is virtual."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest

from crossfoot import flow
from crossfoot.errors import UsageError
from crossfoot.flow import Fate
from crossfoot.flow.asgi import App, Bounded, Receive, Scope, Send
from crossfoot.flow.sizes import Outcome
from tests.flow.test_asgi import Application, Caller


class Told:
    """An algorithm that keeps what it is told."""

    size = 3

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def sample(self, outcome: Outcome, seconds: float, in_use: int) -> int:
        self.outcomes.append(outcome)
        return self.size


@pytest.mark.parametrize(
    ("status", "outcome", "fate"),
    [
        (200, Outcome.GOOD, Fate.FULL),
        (404, Outcome.GOOD, Fate.FULL),
        (429, Outcome.OVERLOADED, Fate.SHED),
        (500, Outcome.GOOD, Fate.FAILED),
        (503, Outcome.OVERLOADED, Fate.SHED),
        (504, Outcome.OVERLOADED, Fate.EXPIRED),
    ],
)
async def test_what_the_application_answers_itself_is_told_and_booked(
    status: int, outcome: Outcome, fate: Fate
) -> None:
    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"its own"})

    told, ledger = Told(), flow.Ledger()

    caller = await Caller().ask(Bounded(answers, limit=flow.Limit(told), ledger=ledger))

    assert (caller.status, caller.body) == (status, b"its own")
    assert told.outcomes == [outcome]
    assert ledger.accounts[0].fates == {fate: 1}


class AnswersErrors:
    """As the outermost middleware of web frameworks does: an error is answered with 500, and raised for the server's log."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"error"})
            raise


async def test_within_what_answers_errors_it_answers_504_before_that_does() -> None:
    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await flow.call(anyio.sleep, 10, deadline=0.1)

    caller = await Caller().ask(AnswersErrors(Bounded(late)))
    assert caller.status == 504

    around = Caller()
    with pytest.raises(flow.Expired):
        await around.ask(Bounded(AnswersErrors(late)))
    assert around.status == 500


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"x-deadline-ms", b"900"), (b"x-deadline-ms", b"300")], 0.3),
        ([(b"x-deadline-ms", b"soon"), (b"grpc-timeout", b"500m")], 0.5),
        ([(b"grpc-timeout", b"never"), (b"x-deadline-ms", b"700")], 0.7),
        ([(b"grpc-timeout", b"1S"), (b"x-deadline-ms", b"700")], 0.7),
    ],
)
async def test_of_several_deadlines_the_shortest_that_can_be_read_counts(
    headers: list[tuple[bytes, bytes]], seconds: float
) -> None:
    app, caller = Application(), Caller()
    caller.scope["headers"] = headers

    await caller.ask(Bounded(app, deadline=2))

    assert app.left == pytest.approx([seconds])


@pytest.mark.parametrize(
    ("pause", "hint"), [(math.inf, b"31622400"), (math.nan, None), (-1.0, None), (0.0, b"0"), (1.5, b"2")]
)
async def test_a_hint_that_is_no_time_is_not_passed_on(pause: float, hint: bytes | None) -> None:
    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
        raise flow.Rejected("too much", retry_after=pause)

    caller = await Caller().ask(Bounded(refuses))

    assert caller.status == 429
    assert caller.headers.get(b"retry-after") == hint


@pytest.mark.parametrize("deadline", [-1, math.nan, "3"])
def test_a_deadline_that_is_no_time_is_refused_when_it_is_made(deadline: Any) -> None:
    with pytest.raises(UsageError, match=r"Bounded\(deadline=...\) of .* give seconds"):
        Bounded(Application(), deadline=deadline)


async def test_a_request_that_cannot_be_read_is_not_under_way_for_ever() -> None:
    ledger, caller = flow.Ledger(), Caller()
    caller.scope["headers"] = None

    with pytest.raises(TypeError):
        await caller.ask(Bounded(Application(), ledger=ledger))

    assert [account.under_way for account in ledger.accounts] in ([], [0])
