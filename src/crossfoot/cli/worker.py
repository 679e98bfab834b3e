"""`crossfoot worker`: run a service's handlers."""

from __future__ import annotations

import logging
import signal
from typing import Annotated

import typer

from crossfoot import settings
from crossfoot.cli.loading import load_app
from crossfoot.cli.worker_logs import Log
from crossfoot.cli.worker_loops import options_of
from crossfoot.cli.worker_probes import probes
from crossfoot.cli.worker_running import run_alone, run_for_supervisor, run_several
from crossfoot.settings import LogFormat, Loop
from crossfoot.worker.supervisor import Line

Optimistic = Annotated[
    bool | None,
    typer.Option(
        "--optimistic/--careful", help="begin batches without savepoints; one failure, and all its handlers run again",
        show_default=False,
    ),
]  # fmt: skip
Processes = Annotated[
    int | None,
    typer.Option(help="worker processes, each with its own handlers; SIGHUP replaces them one by one", min=1),
]
Listen = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="answer probes there: /livez and /readyz", show_default=False)
]


def worker(
    target: Annotated[
        str, typer.Argument(help="where the service is: MODULE:NAME, as in billing:app", metavar="MODULE:NAME")
    ],
    concurrency: Annotated[int | None, typer.Option(help="handlers that run at once", min=1)] = None,
    batch: Annotated[int | None, typer.Option(help="messages per transaction; 1 is the plain mode", min=1)] = None,
    optimistic: Optimistic = None,
    lease: Annotated[
        float | None, typer.Option(help="seconds a received message is ours before it is extended")
    ] = None,
    processes: Processes = None,
    listen: Listen = None,
    log_format: Annotated[LogFormat | None, typer.Option(help="lines for people, or JSON objects for machines")] = None,
    loop: Annotated[Loop | None, typer.Option(help="event loop; auto is uvloop where it is installed")] = None,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="stop when the queue is empty")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log every failed delivery")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print what was done as JSON at the end")] = False,
    line: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> int:
    """Run the handlers of a service until interrupted (Ctrl-C or SIGTERM).

    The worker then finishes the handlers that run, hands back what it had not begun, and leaves.

        crossfoot worker billing:app
        crossfoot worker billing:app --batch 100 --until-idle
        crossfoot worker billing:app --batch 100 --optimistic
        crossfoot worker billing:app --processes 4
    """
    if processes is not None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # asked to replace what has not begun, it must not end
    log = Log(logging.INFO if verbose else logging.WARNING)
    log.use(log_format or LogFormat(settings.load().log_format))
    app = load_app(target, keeps_stdout=as_json)
    log_format, loop = log_format or LogFormat(app.settings.log_format), loop or Loop(app.settings.loop)
    log.use(log_format)
    on = options_of(loop)
    stated = {"concurrency": concurrency, "batch": batch, "optimistic": optimistic, "lease": lease}
    chosen: dict[str, object] = {name: value for name, value in stated.items() if value is not None}
    if line is not None:
        made = app.worker(**chosen)
        log.name(made.name)
        return run_for_supervisor(app, made, until_idle, Line(line), on)
    with probes(listen) as pulse:
        if processes is None:
            made = app.worker(**chosen)
            log.name(made.name)
            return run_alone(app, made, until_idle, pulse, on, as_json)
        chosen.pop("optimistic", None)
        chosen |= {"log-format": log_format.value, "loop": loop.value}
        options = [word for name, value in chosen.items() for word in (f"--{name}", str(value))]
        flags = {
            "--optimistic": optimistic is True,
            "--careful": optimistic is False,
            "--until-idle": until_idle,
            "--verbose": verbose,
        }
        command = [target, *options, *(flag for flag, wanted in flags.items() if wanted)]
        return run_several(app, command, processes, until_idle, pulse, as_json)
