"""The edge towards callers: an ASGI middleware that bounds every request of an application.

    app = flow.asgi.Bounded(app, deadline=2.0, limit=flow.Limit(flow.Aimd(50), status=503))

The caller's deadline comes in a header and can only shorten the application's own; who cannot be served in time is refused with 429 or
503 and `Retry-After`; who hangs up has the work cancelled; and each request ends in one fate.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import anyio

from crossfoot.errors import FlowError, WireInvalid
from crossfoot.flow import places, wire
from crossfoot.flow.branches import Request
from crossfoot.flow.deadlines import Deadline, seconds_of
from crossfoot.flow.fates import Fate, fate_of, http_meaning, leaves
from crossfoot.flow.hanging_up import Line, Message, Receive
from crossfoot.flow.ledgers import LEDGER, Ledger, Waste
from crossfoot.flow.limits import ORDINARY, Limit, Permit
from crossfoot.flow.runtime import running

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["PROBES", "App", "Bounded", "Message", "Receive", "Scope", "Send"]

PROBES = ("/livez", "/readyz", "/healthz", "/metrics")
"""Paths that are always answered: what refuses them is taken for dead, and restarted under its load."""

OVERLOADED = frozenset({429, 503, 504})
"""Statuses by which an application says that it, or what it calls, has too much to do."""

_GRPC = wire.GRPC.encode()


class Bounded:
    """An application whose requests are bounded.

    An answer of 429, 503 or 504 by the application itself tells the limit of an overload. A request so answered is *shed* or *expired*,
    and one that was answered with another 5xx has *failed*.

    Args:
        deadline: seconds for a request whose caller states none, and at most.
        limit: what a request needs a permit of.
        priority: of a request, 0 to 9.
        probes: paths that are exempt, as preflight requests are.
        header: where the caller's deadline is; `grpc-timeout` is understood, too. Of several the shortest counts; one that cannot be
            read is no deadline.
        name: as the ledger calls a request; all have one account unless given.

    Raises:
        UsageError: a deadline that is no number of seconds.
    """

    def __init__(
        self,
        app: App,
        *,
        deadline: float = 30.0,
        limit: Limit | None = None,
        priority: Callable[[Scope], int] = lambda scope: ORDINARY,
        probes: Iterable[str] = PROBES,
        header: str = wire.HEADER,
        name: Callable[[Scope], str] = lambda scope: "request",
        ledger: Ledger = LEDGER,
    ) -> None:
        self._app, self._limit, self._priority = app, limit, priority
        self._most = seconds_of(deadline, "Bounded(deadline=...)")
        self._probes, self._header, self._name, self._ledger = frozenset(probes), header.lower().encode(), name, ledger
        self._taken = places.caller()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._probes or _is_preflight(scope):
            await self._app(scope, receive, send)
            return
        within = Deadline(min(self._most, self._asked(scope)), self._taken)
        request = Request(self._ledger, self._name(scope))
        answer = _Answer(send, self._header, within)
        line = Line(receive, answer, within)
        try:
            loop = running()
            if loop is not None and loop.native is None:
                await self._serve_on_trio(within, line, scope, answer, request)
            else:
                try:
                    await self._serve(within, line, scope, answer, request)
                finally:
                    if line.listener is not None:
                        await line.hush(line.listener)
        except BaseException as error:
            request.end(fate_of(error), error)
            if answer.begun or not all(isinstance(one, FlowError) for one in leaves(error)):
                raise
            await answer.refuse(*http_meaning(error))
        else:
            request.end(fate_of_status(answer.status))

    def _asked(self, scope: Scope) -> float:
        """Seconds the caller gives it: the least of what it says."""
        return min(
            (
                _seconds(wire.of_grpc if name == _GRPC else wire.of_millis, value)
                for name, value in scope["headers"]
                if name in (self._header, _GRPC)
            ),
            default=math.inf,
        )

    async def _serve(self, within: Deadline, line: Line, scope: Scope, answer: _Answer, request: Request) -> None:
        """Serve it, unless the caller hangs up first."""
        began = math.nan
        try:
            within.begin()
            try:
                permit = None if self._limit is None else await _had(self._limit.permit(self._priority(scope)))
                began = within.clock()
                try:
                    await self._app(scope, line.receive, answer.send)
                except BaseException as error:
                    if permit is not None:
                        permit.give_back(error)
                    raise
                if permit is not None:
                    if answer.status in OVERLOADED:
                        permit.overloaded()
                    permit.give_back()
            except BaseException as error:
                if not within.finish(type(error), error, error.__traceback__):
                    raise
            else:
                within.finish(None, None, None)
        finally:
            line.end()
            if line.hung_up is not None and request.end(Fate.CANCELLED) and not math.isnan(began):
                self._ledger.waste(Waste.LEFT, line.hung_up - began)

    async def _serve_on_trio(
        self, within: Deadline, line: Line, scope: Scope, answer: _Answer, request: Request
    ) -> None:
        """The same, where a task that listens needs a group around it."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(line.listen)
                try:
                    await self._serve(within, line, scope, answer, request)
                finally:
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            found = list(leaves(errors))
            if len(found) == 1:
                raise found[0] from found[0].__cause__
            raise


def _seconds(read: Callable[[str], float], value: bytes) -> float:
    try:
        return read(value.decode("latin-1"))
    except WireInvalid:  # anybody may send anything; the application's own deadline holds
        return math.inf


def _is_preflight(scope: Scope) -> bool:
    """A browser's question whether it may ask (WHATWG, *Fetch*, "CORS-preflight request")."""
    return scope["method"] == "OPTIONS" and any(
        name == b"access-control-request-method" for name, _ in scope["headers"]
    )


def fate_of_status(status: int) -> Fate:
    """The fate of a request that the application has answered so; 0 for no answer."""
    if status < 500:
        return Fate.SHED if status == 429 else Fate.FULL
    return {503: Fate.SHED, 504: Fate.EXPIRED}.get(status, Fate.FAILED)


async def _had(permit: Permit) -> Permit:
    return permit if permit.take() else await permit.__aenter__()


class _Answer:
    """What is sent to the caller."""

    status = 0
    over = False

    def __init__(self, send: Send, header: bytes, within: Deadline) -> None:
        self._send, self._header, self._within = send, header, within

    @property
    def begun(self) -> bool:
        return self.status > 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if (left := self._within.remaining()) < math.inf:
                message = {
                    **message,
                    "headers": [*message.get("headers", ()), (self._header, b"%d" % max(0, int(left * 1000)))],
                }
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            self.over = True
        await self._send(message)

    async def refuse(self, status: int, retry_after: float | None) -> None:
        """Answer in place of the application."""
        body = {429: b"too many requests\n", 503: b"overloaded\n", 504: b"out of time\n"}.get(status, b"not done\n")
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        if retry_after is not None and retry_after >= 0:  # which is not so of what is no number
            headers.append((b"retry-after", b"%d" % math.ceil(min(retry_after, wire.LONGEST))))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
