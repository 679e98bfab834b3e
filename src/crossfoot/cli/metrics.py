"""`crossfoot metrics`: the books as figures for Prometheus."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from crossfoot.books import episodes, queries
from crossfoot.books.stock import take_stock
from crossfoot.cli.alerts_memories import Memories
from crossfoot.cli.depths import depth_of
from crossfoot.cli.options import Database, Json
from crossfoot.cli.outcomes_up_to_date import evaluate_new
from crossfoot.cli.output import note, print_json
from crossfoot.cli.reading import catch_up, reading
from crossfoot.cli.serving import Pages, probe, say
from crossfoot.errors import CrossfootError, QueueUnavailable, missing_extra
from crossfoot.outcomes.alerts.watching import observe
from crossfoot.outcomes.summary import summarize

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from crossfoot.cli.exposition import Drawn

ENDINGS = {signal.SIGINT, signal.SIGTERM}

AT_LEAST = 1.0
"""Seconds between two readings of the book, however often it is asked."""


def metrics(
    db: Database = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="serve /metrics, /livez and /readyz there until interrupted", show_default=False
        ),
    ] = None,
    no_queue: Annotated[
        bool, typer.Option("--no-queue", help="do not ask queues outside the book's file what they hold")
    ] = False,
    as_json: Json = False,
) -> None:
    """The books as metrics for Prometheus: messages by fate, what passed each boundary, which identities hold, who works.

        crossfoot metrics
        crossfoot metrics --listen 127.0.0.1:9464

    All figures are read from the book, so one exporter beside it serves all workers of a service. Entries that are not
    posted yet are posted first. `/readyz` answers 503 while the book cannot be read.
    """
    draw = partial(_draw, db, no_queue, Memories(ask=not no_queue, tell=lambda unknown: None))
    if listen is not None:
        _serve(listen, _Lately(draw))
        return
    registry = _registry(draw)
    if as_json:
        found = [sample for metric in registry.collect() for sample in metric.samples]
        print_json({"metrics": [{"name": one.name, "labels": one.labels, "value": one.value} for one in found]})
        return
    from prometheus_client import generate_latest

    sys.stdout.write(generate_latest(registry).decode())


class _Lately:
    """Draws a balance, and gives the last one again to those who ask at the same time."""

    def __init__(self, draw: Callable[[], Drawn]) -> None:
        self._draw = draw
        self._lock = Lock()
        self._last: Drawn | None = None
        self._at = 0.0

    def __call__(self) -> Drawn:
        with self._lock:
            if self._last is None or time.monotonic() - self._at > AT_LEAST:
                self._last = self._draw()
                self._at = time.monotonic()
            return self._last

    def matter(self) -> str:
        """Why it cannot be read; nothing when it can."""
        try:
            self()
        except CrossfootError as error:
            return str(error)
        return ""


def _draw(db: str | None, no_queue: bool, memories: Memories) -> Drawn:
    from crossfoot.cli.exposition import Drawn

    with reading(db) as (connection, path):
        behind = catch_up(path, connection)
        if not behind and (matter := evaluate_new(path, connection, counting=True)):
            note(f"what is new could not be evaluated: {matter}")  # which says nothing of the balance
        ask = None if no_queue else partial(depth_of, path=path)
        try:
            balance = take_stock(connection, time.time_ns() // 1000, depth_of=ask)
        except QueueUnavailable as error:  # the books are most wanted when the queue is not there
            note(str(error))
            balance = take_stock(connection, time.time_ns() // 1000, depth_of=None)
        if behind:
            balance = msgspec.structs.replace(balance, problems=(*balance.problems, behind))
        summary = summarize(connection, balance.as_of)
        found, _ = observe(connection, balance, summary, memory=memories.of(path, connection))
        workers, open_now = queries.at_work(connection), episodes.episodes(connection, limit=1_000, only_open=True)
        return Drawn(balance, workers, summary, found, open_now, episodes.unheard(connection, balance.as_of))


def _registry(draw: Callable[[], Drawn]) -> CollectorRegistry:
    try:
        from prometheus_client import CollectorRegistry

        from crossfoot.cli.exposition import Books
    except ModuleNotFoundError as error:
        raise missing_extra("crossfoot metrics", "metrics") from error
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Books(draw))
    return registry


def _serve(listen: str, lately: _Lately) -> None:
    registry = _registry(lately)
    from prometheus_client import make_wsgi_app

    exposed = make_wsgi_app(registry)

    def page(environ: Mapping[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if matter := lately.matter():
            return say("503 Service Unavailable", f"{matter}\n", start)
        answer: Iterable[bytes] = exposed(dict(environ), start)
        return answer

    signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)  # before the server's thread, which inherits it
    pages = Pages(listen, {"/metrics": page, "/livez": probe(lambda: ""), "/readyz": probe(lately.matter)})
    note(f"serving {pages.url}/metrics; Ctrl-C ends it")
    try:
        signal.sigwait(ENDINGS)
    finally:
        pages.close()
