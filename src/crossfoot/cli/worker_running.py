"""Running one worker, or several under a supervisor, until they are told to stop."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec

from crossfoot import settings
from crossfoot.app import Crossfoot
from crossfoot.cli.answering import say
from crossfoot.cli.loading import book_of, book_to_name
from crossfoot.cli.output import note
from crossfoot.cli.worker_leaving import end_at_last
from crossfoot.cli.worker_probes import Pulse
from crossfoot.connection import shown
from crossfoot.recover.phrases import plural
from crossfoot.worker.supervisor import IDLE, Line, Ready, Report, Supervisor, Trouble
from crossfoot.worker.worker import Worker


def run_alone(app: Crossfoot, worker: Worker, until_idle: bool, pulse: Pulse, on: dict[str, Any], as_json: bool) -> int:
    """Run a worker in this process. Returns the exit code.

    Args:
        on: the event loop, see `loops.options_of`.
    """
    if not until_idle:
        note(f"{worker.name} works queue {app.queue.name}, with its book in {told_book(app)}; Ctrl-C stops it in order")
    worker.on_ready = lambda: pulse.follow(lambda: IDLE if worker.stopping else worker.trouble)
    anyio.run(_work, app, worker, until_idle, pulse, backend_options=on)
    report = _report(worker)
    say(msgspec.json.encode(_document(report)).decode() if as_json else _told(report))
    return 0


def run_for_supervisor(app: Crossfoot, worker: Worker, until_idle: bool, line: Line, on: dict[str, Any]) -> int:
    """Run a worker in this process, which a supervisor has started and listens to."""
    worker.on_ready = lambda: line.say(Ready())
    told = ""

    def beat() -> None:
        nonlocal told
        line.beat()
        if worker.trouble != told:
            told = worker.trouble
            line.say(Trouble(told) if told else Ready())

    anyio.run(_work, app, worker, until_idle, Pulse(beat), line, backend_options=on)
    line.say(_report(worker))
    return 0


def run_several(
    app: Crossfoot, arguments: Sequence[str], processes: int, until_idle: bool, pulse: Pulse, as_json: bool
) -> int:
    """Run several worker processes, each this very command for one."""

    def command(line: int) -> list[str]:  # -P: a module of the working folder must not take the place of a standard one
        return [sys.executable, "-P", "-m", "crossfoot", "worker", *arguments, "--line", str(line)]

    supervisor = Supervisor(command, processes, until_idle=until_idle)
    pulse.follow(supervisor.matter, supervisor.longest_silence)
    if not until_idle:
        several = plural(processes, "worker process", "worker processes")
        note(f"{several} on queue {app.queue.name}, with the book in {told_book(app)}; Ctrl-C stops them in order")
    if code := anyio.run(_supervise, supervisor, pulse):
        return code
    if as_json:
        told = [_document(report) for report in supervisor.reports]
        total = sum(report.deliveries for report in supervisor.reports)
        say(msgspec.json.encode({"workers": told, "deliveries": total}).decode())
    else:
        for report in supervisor.reports:
            say(_told(report))
    return 0


def told_book(app: Crossfoot) -> str:
    """Where the service's book is; and that commands look elsewhere, if they do."""
    place = shown(book_of(app))
    if book_to_name(app) is None:
        return place
    return f"{place} (the program says so; commands look into {shown(settings.load().database)} unless --db names this one)"


def _report(worker: Worker) -> Report:
    return Report(worker.name, worker.ends.total(), dict(worker.ends))


def _document(report: Report) -> dict[str, object]:
    return {"worker": report.worker, "deliveries": report.deliveries, "ends": report.ends}


def _told(report: Report) -> str:
    ends = ", ".join(f"{count:,} {end}" for end, count in Counter(report.ends).most_common())
    return f"{report.worker}: {plural(report.deliveries, 'delivery', 'deliveries')}{': ' + ends if ends else ''}"


async def _work(app: Crossfoot, worker: Worker, until_idle: bool, pulse: Pulse, line: Line | None = None) -> None:
    async with _closing(app), anyio.create_task_group() as tasks:
        tasks.start_soon(_heed_signals, worker)
        tasks.start_soon(pulse.beat)
        tasks.start_soon(end_at_last, worker)
        if line is not None:
            tasks.start_soon(_stop_with, line, worker)
        try:
            await worker.run(until_idle=until_idle)
        finally:
            tasks.cancel_scope.cancel()


async def _stop_with(line: Line, worker: Worker) -> None:
    await line.closed()
    note(f"{worker.name}: its supervisor is gone, so it stops")
    worker.stop()


async def _supervise(supervisor: Supervisor, pulse: Pulse) -> int:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_heed_signals, supervisor)
        tasks.start_soon(_replace_on_request, supervisor)
        tasks.start_soon(pulse.beat)
        code = await supervisor.run()
        tasks.cancel_scope.cancel()
    return code


async def _heed_signals(worker: Worker | Supervisor) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            if worker.stopping:  # told twice: at once, as if it were killed, which loses nothing
                if isinstance(worker, Supervisor):
                    worker.kill()
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            note("stopping: waits for the handlers that run; once more ends it at once")
            worker.stop()


async def _replace_on_request(supervisor: Supervisor) -> None:
    with anyio.open_signal_receiver(signal.SIGHUP) as signals:
        async for _ in signals:
            note("replacing the worker processes one by one")
            await supervisor.replace()


@asynccontextmanager
async def _closing(app: Crossfoot) -> AsyncIterator[None]:
    """Close the service at the end, and raise one exception where a group of them came out."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group
    finally:
        await app.aclose()
