"""`crossfoot worker`: run a service's handlers."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import anyio
import msgspec
import typer

from crossfoot.app import Crossfoot
from crossfoot.cli.loading import load_app
from crossfoot.cli.output import note
from crossfoot.recover.phrases import plural
from crossfoot.worker.supervisor import Line, Ready, Report, Supervisor
from crossfoot.worker.worker import Worker


def worker(
    target: Annotated[
        str, typer.Argument(help="where the service is: MODULE:NAME, as in billing:app", metavar="MODULE:NAME")
    ],
    concurrency: Annotated[int | None, typer.Option(help="handlers that run at once", min=1)] = None,
    batch: Annotated[int | None, typer.Option(help="messages per transaction; 1 is the plain mode", min=1)] = None,
    lease: Annotated[
        float | None, typer.Option(help="seconds a received message is ours before it is extended")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(help="worker processes, each with its own handlers; SIGHUP replaces them one by one", min=1),
    ] = None,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="stop when the queue is empty")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log every failed delivery")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print what was done as JSON at the end")] = False,
    line: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> int:
    """Run the handlers of a service until interrupted (Ctrl-C or SIGTERM).

    The worker then finishes the handlers that run, hands back what it had not begun, and leaves.

        crossfoot worker billing:app
        crossfoot worker billing:app --batch 100 --until-idle
        crossfoot worker billing:app --processes 4
    """
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    app = load_app(target)
    if processes is not None:
        stated = {"--concurrency": concurrency, "--batch": batch, "--lease": lease}
        flags = {"--until-idle": until_idle, "--verbose": verbose}
        options = [word for name, value in stated.items() if value is not None for word in (name, str(value))]
        options += [name for name, set_ in flags.items() if set_]
        return _supervise([target, *options], processes, until_idle=until_idle, as_json=as_json)
    return _work_alone(app, {"concurrency": concurrency, "batch": batch, "lease": lease}, until_idle, as_json, line)


def _work_alone(
    app: Crossfoot, stated: dict[str, float | None], until_idle: bool, as_json: bool, line: int | None
) -> int:
    worker = app.worker(**{name: value for name, value in stated.items() if value is not None})
    if not until_idle and sys.stderr.isatty() and line is None:
        note(f"{worker.name} works queue {app.queue.name}; Ctrl-C stops it in order")
    supervisor = Line(line) if line is not None else None
    anyio.run(_work, app, worker, until_idle, supervisor)
    report = Report(worker.name, worker.ends.total(), dict(worker.ends))
    if supervisor is not None:
        supervisor.say(report)
    elif as_json:
        told = {"worker": report.worker, "deliveries": report.deliveries, "ends": report.ends}
        typer.echo(msgspec.json.encode(told).decode())
    else:
        typer.echo(_told(report))
    return 0


def _told(report: Report) -> str:
    ends = ", ".join(f"{count:,} {end}" for end, count in Counter(report.ends).most_common())
    return f"{report.worker}: {plural(report.deliveries, 'delivery', 'deliveries')}{': ' + ends if ends else ''}"


async def _work(app: Crossfoot, worker: Worker, until_idle: bool, supervisor: Line | None) -> None:
    async with _closing(app), anyio.create_task_group() as tasks:
        tasks.start_soon(_heed_signals, worker)
        if supervisor is not None:
            worker.on_ready = lambda: supervisor.say(Ready())
            tasks.start_soon(_stop_with, supervisor, worker)
        try:
            await worker.run(until_idle=until_idle)
        finally:
            tasks.cancel_scope.cancel()


async def _stop_with(supervisor: Line, worker: Worker) -> None:
    await supervisor.closed()
    worker.stop()


def _supervise(arguments: list[str], processes: int, *, until_idle: bool, as_json: bool) -> int:
    """Run several worker processes, each this very command for one."""

    def command(line: int) -> list[str]:
        return [sys.executable, "-m", "crossfoot", "worker", *arguments, "--line", str(line)]

    async def run() -> bool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_heed_signals, supervisor)
            tasks.start_soon(_replace_on_request, supervisor)
            could_work = await supervisor.run()
            tasks.cancel_scope.cancel()
        return could_work

    supervisor = Supervisor(command, processes, until_idle=until_idle)
    if not until_idle and sys.stderr.isatty():
        note(f"{plural(processes, 'worker process', 'worker processes')}; Ctrl-C stops them in order")
    if not anyio.run(run):
        return 2
    if as_json:
        told = {
            "workers": [
                {"worker": one.worker, "deliveries": one.deliveries, "ends": one.ends} for one in supervisor.reports
            ],
            "deliveries": sum(one.deliveries for one in supervisor.reports),
        }
        typer.echo(msgspec.json.encode(told).decode())
    else:
        for report in supervisor.reports:
            typer.echo(_told(report))
    return 0


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
