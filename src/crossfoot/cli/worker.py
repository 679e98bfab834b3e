"""`crossfoot worker`: run a service's handlers."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Annotated

import anyio
import msgspec
import typer

from crossfoot.app import Crossfoot
from crossfoot.cli.loading import load_app
from crossfoot.cli.output import note
from crossfoot.recover.phrases import plural
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
    until_idle: Annotated[bool, typer.Option("--until-idle", help="stop when the queue is empty")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log every failed delivery")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print what was done as JSON at the end")] = False,
) -> None:
    """Run the handlers of a service until interrupted (Ctrl-C or SIGTERM).

    The worker then finishes the handlers that run, hands back what it had not begun, and leaves.

        crossfoot worker billing:app
        crossfoot worker billing:app --batch 100 --until-idle
    """
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    app = load_app(target)
    stated = {"concurrency": concurrency, "batch": batch, "lease": lease}
    pattern = {name: value for name, value in stated.items() if value is not None}
    worker = app.worker(**pattern)
    if not until_idle and sys.stderr.isatty():
        note(f"{worker.name} works queue {app.queue.name}; Ctrl-C stops it in order")
    anyio.run(_work, app, worker, until_idle)
    if as_json:
        told = {"worker": worker.name, "deliveries": worker.ends.total(), "ends": dict(worker.ends)}
        typer.echo(msgspec.json.encode(told).decode())
    else:
        ends = ", ".join(f"{count:,} {end}" for end, count in worker.ends.most_common())
        typer.echo(
            f"{worker.name}: {plural(worker.ends.total(), 'delivery', 'deliveries')}{': ' + ends if ends else ''}"
        )


async def _work(app: Crossfoot, worker: Worker, until_idle: bool) -> None:
    try:
        async with anyio.create_task_group() as tasks:

            async def heed_signals() -> None:
                with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    async for number in signals:
                        if worker.stopping:  # told twice: at once, as if it were killed, which loses nothing
                            signal.signal(number, signal.SIG_DFL)
                            os.kill(os.getpid(), number)
                        note("stopping: waits for the handlers that run; once more ends it at once")
                        worker.stop()

            tasks.start_soon(heed_signals)
            try:
                await worker.run(until_idle=until_idle)
            finally:
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group
    finally:
        await app.aclose()
