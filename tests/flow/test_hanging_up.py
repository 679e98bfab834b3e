"""What comes from the caller is the application's, each part once and in order; that the caller left ends its work, however it listens."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from crossfoot import flow
from crossfoot.flow import Fate, virtual
from crossfoot.flow.asgi import Bounded, Receive, Scope, Send
from tests.flow.test_asgi import Caller, fates


@pytest.fixture
def ledger() -> flow.Ledger:
    return flow.Ledger()


class Slow(Caller):
    """Sends a part every second, and then hangs up."""

    def __init__(self, *parts: bytes, hangs_up: bool = False) -> None:
        super().__init__(method="POST")
        self._slow = list(parts)
        self._hangs_up = hangs_up
        self.asking = 0

    async def receive(self) -> Any:
        assert not self.asking, "one asks at a time"
        self.asking += 1
        try:
            if self._slow:
                await anyio.sleep(1)
                part = self._slow.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(self._slow) or self._hangs_up}
            if self._hangs_up:
                await anyio.sleep(1)
            else:
                await self.hung_up.wait()
            return {"type": "http.disconnect"}
        finally:
            self.asking -= 1


async def answer(send: Send, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})


async def read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    return body


@pytest.mark.parametrize("pause", [0, 0.5, 3])
async def test_parts_that_come_while_nobody_asks_are_kept(pause: float, ledger: flow.Ledger) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(pause)
        await answer(send, await read(receive))

    caller = await Slow(b"one ", b"two ", b"three").ask(Bounded(application, ledger=ledger))

    assert caller.body == b"one two three"
    assert fates(ledger) == {Fate.FULL: 1}


async def test_who_hangs_up_within_its_body_ends_the_work_that_reads_it(ledger: flow.Ledger) -> None:
    ended = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while True:
                await receive()
                await anyio.lowlevel.checkpoint()
        finally:
            ended.append(True)

    caller = await Slow(b"one ", hangs_up=True).ask(Bounded(application, ledger=ledger))

    assert (ended, caller.sent) == ([True], [])
    assert fates(ledger) == {Fate.CANCELLED: 1}
    assert ledger.wasted[flow.Waste.LEFT][1] == pytest.approx(2)


async def test_an_application_that_listens_itself_is_told_and_others_of_its_tasks_may_ask(ledger: flow.Ledger) -> None:
    told: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            told.append((await receive())["type"])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            tasks.start_soon(listen)
            await anyio.sleep(9)

    caller = Slow(b"one ")
    async with anyio.create_task_group() as group:
        group.start_soon(caller.ask, Bounded(application, ledger=ledger))
        await anyio.sleep(3)
        caller.hung_up.set()
        await anyio.wait_all_tasks_blocked()

    assert told[0] == "http.request"
    assert fates(ledger) == {Fate.CANCELLED: 1}


async def test_who_leaves_after_the_answer_has_had_it(ledger: flow.Ledger) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"answer")
        await anyio.sleep(1)
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"

    caller = Caller()
    caller.hung_up.set()
    await caller.ask(Bounded(application, ledger=ledger))

    assert fates(ledger) == {Fate.FULL: 1}
    assert not ledger.wasted


async def test_who_hangs_up_on_an_application_that_reads_nothing_has_its_work_cancelled(ledger: flow.Ledger) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(9)
        await answer(send, b"answer")

    caller = Caller()
    async with anyio.create_task_group() as group:
        group.start_soon(caller.ask, Bounded(application, ledger=ledger))
        await anyio.sleep(1)
        caller.hung_up.set()

    assert caller.sent == []
    assert fates(ledger) == {Fate.CANCELLED: 1}


async def test_a_server_that_never_has_enough_to_say_is_not_listened_to_for_ever(ledger: flow.Ledger) -> None:
    class Talkative(Caller):
        async def receive(self) -> Any:
            return {"type": "http.request", "body": b"more", "more_body": False}

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(1)
        await answer(send, await read(receive))

    assert (await Talkative().ask(Bounded(application, ledger=ledger))).body == b"more"


async def test_who_hangs_up_in_line_leaves_it_and_nothing_is_wasted(ledger: flow.Ledger) -> None:
    limit, begun = flow.Limit(1, waiting=1, wait=60), []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append(scope["path"])
        await answer(send, b"answer")

    caller = Caller()
    async with limit.permit(), anyio.create_task_group() as group:
        group.start_soon(caller.ask, Bounded(application, limit=limit, ledger=ledger))
        await anyio.sleep(3)
        assert limit.waiting == 1
        caller.hung_up.set()
        await anyio.sleep(1)
        assert limit.waiting == 0

    assert (begun, caller.sent, limit.in_use) == ([], [], 0)
    assert fates(ledger) == {Fate.CANCELLED: 1}
    assert not ledger.wasted


async def test_an_error_of_the_server_s_is_raised(ledger: flow.Ledger) -> None:
    class Broken(Caller):
        async def receive(self) -> Any:
            await anyio.sleep(1)
            raise ConnectionError("the server's own")

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(9)

    with pytest.raises(ConnectionError, match="the server's own"):
        await Broken().ask(Bounded(application, ledger=ledger))

    assert fates(ledger) == {Fate.FAILED: 1}


@pytest.mark.parametrize("fails", [False, True])
def test_a_request_of_a_moment_begins_no_task_and_leaves_nothing_behind(fails: bool) -> None:
    tasks: list[int] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await asyncio.sleep(0.005)
        tasks.append(len(asyncio.all_tasks()))
        if fails:
            raise ValueError
        await answer(send, b"answer")

    async def main() -> None:
        bounded = Bounded(application, limit=flow.Limit(1), ledger=flow.Ledger())
        for _ in range(2):
            with contextlib.suppress(ValueError):
                await Caller().ask(bounded)
            await asyncio.sleep(1)
            tasks.append(len(asyncio.all_tasks()))
        if fails:
            return  # an error refers to the frames it came through
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await Caller().ask(bounded)
            gc.collect()
            assert [one for one in gc.garbage if type(one).__module__.startswith(("crossfoot.", "anyio."))] == []
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    virtual.run(main)
    assert set(tasks) == {1}
