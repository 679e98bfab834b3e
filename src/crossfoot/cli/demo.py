"""`crossfoot demo`: a real event log through the whole machine, faults at every boundary, and the books after it."""

from __future__ import annotations

import os
import signal
import sqlite3
import tempfile
from contextlib import AbstractContextManager, closing, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import anyio
import typer

from crossfoot.cli.demo_pages import document, show
from crossfoot.cli.demo_progress import progress
from crossfoot.cli.options import Color, Json
from crossfoot.cli.output import Output, When, note, print_json
from crossfoot.cli.reading import reading
from crossfoot.demo.database import fresh_database
from crossfoot.demo.run import Options, Result, run
from crossfoot.demo.scene import Watcher
from crossfoot.errors import UsageError

DEFAULT_MESSAGES = 20_000


class Queues(StrEnum):
    """Queues that the demo can run on."""

    embedded = "embedded"
    sqs = "sqs"
    redis = "redis"
    nats = "nats"
    postgres = "postgres"
    rabbitmq = "rabbitmq"
    kafka = "kafka"


DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="keep the book on this PostgreSQL server, in a database of its own, which is dropped at the end",
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(metavar="URL", help="the broker, where the demo is to start none; it makes queues of its own there"),
]


def demo(
    messages: Annotated[
        int, typer.Option(help="events of the log to publish, as whole cases; all of it is 49951", min=1)
    ] = DEFAULT_MESSAGES,
    seed: Annotated[int, typer.Option(help="chooses which events suffer which fault, and when workers are killed")] = 7,
    db: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="keep the book in this new file; otherwise it is thrown away after a demo that went well",
        ),
    ] = None,
    database: DatabaseUrl = None,
    queue: Annotated[
        Queues,
        typer.Option(
            metavar="QUEUE",
            help="where messages travel: embedded, in the book's database; or sqs, redis, nats or kafka, which are started, or "
            "postgres or rabbitmq",
        ),
    ] = Queues.embedded,
    endpoint: Endpoint = None,
    workers: Annotated[int, typer.Option(help="worker processes", min=1, max=32)] = 2,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """A hospital's billing log through the whole machine, with faults at every boundary, and the books after it.

        crossfoot demo
        crossfoot demo --messages 49951 --seed 11
        crossfoot demo --db demo.db
        crossfoot demo --queue sqs
        crossfoot demo --database postgresql://postgres@127.0.0.1/postgres
        crossfoot demo --queue kafka --endpoint kafka://127.0.0.1:9092

    Publishes real events through several worker processes, while an injector refuses and duplicates publications, loses
    answers and acks, damages payloads, kills workers and deletes messages, and keeps a record of its own. What became
    of every message is then read from the books alone; what the books name as lost is published again, corrected.

    Exits with 0 when the books found exactly what was injected, nothing is unaccounted, and every case ended as the log
    says; with 1 when not. On SQS it takes over a minute: that is the shortest retention there is. What can be done to no
    message of a kind of queue is left out, and named at the end.
    """
    if endpoint is not None and queue in (Queues.embedded, Queues.sqs):
        raise UsageError(f"--queue {queue.value} takes no --endpoint: what it needs is started for the demo")
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # leave nothing behind then, either
    with tempfile.TemporaryDirectory(prefix="crossfoot-demo-") as folder, _book(Path(folder), db, database) as path:
        options = Options(
            messages=messages, seed=seed, db=path, folder=Path(folder), queue=queue.value, endpoint=endpoint, workers=workers
        )  # fmt: skip
        with progress(options) as watcher:
            result = _run(options, watcher)
        db = _saved(path) if result.problems and database is None and db is None else db
        with reading(str(db or path)) as (connection, _):
            if as_json:
                print_json(document(result, connection, kept=db))
            else:
                show(Output(color), result, connection, kept=db)
    if result.problems:
        raise typer.Exit(1)


def _saved(path: str) -> Path:
    """The book of a demo that did not go well, where whoever wants to know why finds it: with all that was written, and with what
    the other commands are asked."""
    kept = Path(tempfile.mkdtemp(prefix="crossfoot-demo-failed-")) / "demo.db"
    with closing(sqlite3.connect(path)) as book, closing(sqlite3.connect(kept)) as copy:
        book.backup(copy)
    note(f"the book is kept, because the demo did not go well: {kept}")
    return kept


def _book(folder: Path, db: Path | None, database: str | None) -> AbstractContextManager[str]:
    """Where the book is for as long as the demo runs.

    Raises:
        UsageError: there is something in the file, or both are named.
    """
    if database is None:
        return nullcontext(str(folder / "demo.db" if db is None else _new(db)))
    if db is not None:
        raise UsageError("--db and --database: name one of them, a new file or a server")
    return fresh_database(database)


def _new(db: Path) -> Path:
    """The file for the book, absolute.

    Raises:
        UsageError: there is something in it.
    """
    if db.is_dir():
        raise UsageError(f"{db} is a folder: name a new file in it, as in {db / 'demo.db'}")
    if db.exists() and os.path.getsize(db):
        raise UsageError(f"{db} exists, and the demo does not write into other people's files: name a new one")
    return db.absolute()


def _run(options: Options, watcher: Watcher) -> Result:
    try:
        return anyio.run(run, options, watcher)
    except KeyboardInterrupt:
        note("interrupted; the worker processes are gone")
        raise
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group
