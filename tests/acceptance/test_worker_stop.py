"""Stopping: what runs is finished, what has not begun is handed back at once, and nothing is lost either way."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.effects.batch import write
from crossfoot.effects.work import Work
from crossfoot.message import Message
from tests.acceptance.service_rig import FORMS, Service, a_service, eventually

pytestmark = pytest.mark.anyio

INSERT = "INSERT INTO effects (id, note) VALUES (:id, '')"


@pytest.fixture(params=FORMS, ids=repr)
async def service(request: pytest.FixtureRequest, tmp_path: Path, no_blocking_calls: None) -> AsyncIterator[Service]:
    async with a_service(request.param, tmp_path) as made:
        yield made


class Gate:
    """Holds handlers of either kind until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def wait(self) -> None:
        self.reached.set()
        self.open.wait(20)

    async def wait_async(self) -> None:
        self.reached.set()
        while not self.open.is_set():  # noqa: ASYNC110 - shared with threads, and to be left at once when cancelled
            await anyio.sleep(0.01)


def register(service: Service, gate: Gate) -> None:
    async def awork(message: Message, tx: Any) -> None:
        await gate.wait_async()
        await tx.execute(INSERT, {"id": message.id})

    def work(message: Message, tx: Any) -> None:
        gate.wait()
        tx.execute(INSERT, {"id": message.id})

    service.app.handler("case.released")(awork if service.form.is_async else work)


@pytest.mark.parametrize("batch", [1, 2], ids=["plain", "batch"])
async def test_a_worker_that_is_told_to_stop_finishes_what_runs_and_hands_the_rest_back(
    service: Service, batch: int
) -> None:
    gate = Gate()
    register(service, gate)
    messages = await service.publish("case.released", *[f"case-{number}" for number in range(8)])
    async with service.working(concurrency=1, batch=batch, lease=600.0) as worker:
        await eventually(gate.reached.is_set, "the first handler to run")
        worker.stop()
        gate.open.set()

    done = service.rows("SELECT count(*) FROM effects")[0]
    assert done == batch, "those that ran when it was told"
    released = [message for message in messages if Kind.RELEASED in service.kinds(message)]
    assert len(released) == len(messages) - done
    depth = await service.app.queue.depth()
    assert (depth.ready, depth.in_flight) == (len(released), 0), "handed back at once, not when their leases run out"
    assert service.rows("SELECT 1 FROM crossfoot_workers WHERE stopped_at IS NULL") == []

    await service.work()
    assert sorted(service.effects) == sorted(message.id for message in messages)


async def test_when_its_grace_is_over_a_running_asynchronous_handler_is_cancelled_and_handed_back(
    tmp_path: Path, no_blocking_calls: None
) -> None:
    for form in (form for form in FORMS if form.is_async):
        folder = tmp_path / form.name
        folder.mkdir()
        async with a_service(form, folder) as service:
            gate = Gate()
            register(service, gate)
            messages = await service.publish("case.released", *[f"case-{number}" for number in range(4)])
            started = time.monotonic()
            async with service.working(concurrency=1, lease=600.0, grace=0.3):
                await eventually(gate.reached.is_set, "the first handler to run")
            assert time.monotonic() - started < 10
            assert service.effects == []
            depth = await service.app.queue.depth()
            assert (depth.ready, depth.in_flight) == (4, 0)
            assert all(service.kinds(message)[-1] is Kind.RELEASED for message in messages)

            gate.open.set()
            await service.work()
            assert len(service.effects) == 4


async def test_of_a_batch_that_is_handled_one_by_one_when_the_grace_is_over_what_was_committed_has_its_end(
    tmp_path: Path, no_blocking_calls: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not said to be handed back."""

    def spoil(works: Sequence[Work], **how: Any) -> Any:
        if len(works) > 1:
            raise RuntimeError("the transaction as a whole")
        return write(works, **how)

    monkeypatch.setattr("crossfoot.effects.together.write", spoil)
    for form in (form for form in FORMS if form.is_async):
        folder = tmp_path / form.name
        folder.mkdir()
        async with a_service(form, folder) as service:
            gate, begun = Gate(), list[str]()

            async def work(message: Message, tx: Any, gate: Gate = gate, begun: list[str] = begun) -> None:
                begun.append(message.id)
                await tx.execute(INSERT, {"id": message.id})
                if begun.count(message.id) > 1 and message.subject == "case-1":  # alone, and after the first one
                    await gate.wait_async()

            service.app.handler("case.released")(work)
            messages = await service.publish("case.released", *[f"case-{number}" for number in range(3)])
            async with service.working(concurrency=1, batch=3, lease=600.0, grace=0.3):
                await eventually(gate.reached.is_set, "the second handler to run alone")
            assert service.effects == [messages[0].id]
            kinds = [service.kinds(message)[2:] for message in messages]
            assert kinds == [[Kind.COMMITTED, Kind.ACKED], [Kind.RELEASED], [Kind.RELEASED]]


async def test_a_stop_does_not_wait_for_a_long_poll(service: Service) -> None:
    register(service, Gate())
    with anyio.fail_after(30):
        async with service.working(wait=60.0):
            await eventually(lambda: has_begun(service), "the worker to begin")


def has_begun(service: Service) -> bool:
    return bool(service.rows("SELECT 1 FROM sqlite_master WHERE name = 'crossfoot_workers'")) and bool(
        service.rows("SELECT 1 FROM crossfoot_workers")
    )


PROGRAM = """
import time
from crossfoot import Crossfoot

app = Crossfoot("billing", database="billing.db", concurrency=1, prefetch=8, lease=600.0, wait=0.1)

@app.handler("case.released")
def bill(message, tx):
    open("reached", "w").close()
    time.sleep(0.3)
    tx.execute("INSERT INTO effects (id, note) VALUES (?, '')", (message.id,))
"""


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_drains_on_a_signal_and_exits_with_0(tmp_path: Path, told: signal.Signals) -> None:
    (tmp_path / "billing.py").write_text(PROGRAM)
    async with a_service(FORMS[0], tmp_path) as service:
        register(service, Gate())
        messages = await service.publish("case.released", *[f"case-{number}" for number in range(5)])
        command = [str(Path(sys.executable).with_name("crossfoot")), "worker", "billing:app"]
        process = await anyio.to_thread.run_sync(
            lambda: subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        )
        try:
            await eventually((tmp_path / "reached").exists, "the first handler to run")
            process.send_signal(told)
            _, said = await anyio.to_thread.run_sync(lambda: process.communicate(timeout=20))
        finally:
            process.kill()
        assert process.returncode == 0, said
        assert "Traceback" not in said

        done = service.rows("SELECT id FROM effects")
        assert 1 <= len(done) < 5
        depth = await service.app.queue.depth()
        assert (depth.ready, depth.in_flight) == (5 - len(done), 0)
        settled = [message.id for message in messages if service.fate(message) is Fate.SETTLED]
        assert sorted(settled) == sorted(done)


UNWILLING = """
import asyncio
from crossfoot import Crossfoot
from crossfoot.cli import worker_leaving

worker_leaving.AFTER = 0.5
app = Crossfoot("billing", database="billing.db", concurrency=1, lease=600.0, wait=0.1, grace=0.5)

@app.handler("case.released")
async def bill(message, tx):
    open("reached", "w").close()
    while True:
        try:
            await asyncio.sleep(600)
        except BaseException:
            pass
"""


async def test_a_handler_that_swallows_its_cancellation_for_ever_does_not_keep_the_command_from_leaving(
    tmp_path: Path,
) -> None:
    (tmp_path / "billing.py").write_text(UNWILLING)
    async with a_service(FORMS[0], tmp_path) as service:
        register(service, Gate())
        (message,) = await service.publish("case.released", "case-1")
        command = [str(Path(sys.executable).with_name("crossfoot")), "worker", "billing:app"]
        process = await anyio.to_thread.run_sync(
            lambda: subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        )
        try:
            await eventually((tmp_path / "reached").exists, "the handler to run")
            process.send_signal(signal.SIGTERM)
            _, said = await anyio.to_thread.run_sync(lambda: process.communicate(timeout=120))
        finally:
            process.kill()
        assert process.returncode == 1, said
        assert f"handlers go on although they were cancelled: case.released {message.id} (case-1)" in said
        assert service.effects == []
        assert service.kinds(message)[-1] is Kind.RECEIVED, "a delivery without an end, which comes again"


FAILING = UNWILLING.replace("lease=600.0", "lease=6.0").replace(
    "    open(",
    """\
    await tx.execute("INSERT INTO effects (id, note) VALUES (?, '')", (message.id,))
    import crossfoot.turnstile
    crossfoot.turnstile.PATIENCE = 0.5  # of those who wait for this transaction
    open(""",
)


async def test_nor_does_one_that_holds_the_book_which_the_worker_fails_for(tmp_path: Path) -> None:
    (tmp_path / "billing.py").write_text(FAILING)
    async with a_service(FORMS[0], tmp_path) as service:
        register(service, Gate())
        (message,) = await service.publish("case.released", "case-1")
        command = [str(Path(sys.executable).with_name("crossfoot")), "worker", "billing:app"]
        done = await anyio.to_thread.run_sync(
            lambda: subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
        )
        assert done.returncode == 1, done.stderr
        assert "s by a transaction of this very process, as of a handler" in done.stderr
        assert f"handlers go on although they were cancelled: case.released {message.id} (case-1)" in done.stderr
        assert service.effects == []
