"""`crossfoot tail`: entries as they are written."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from crossfoot.books import queries
from crossfoot.books.entry import Kind
from crossfoot.books.queries import Line
from crossfoot.cli.options import Color, Database, Json, QueueName, TypeName
from crossfoot.cli.output import Output, When, clean, jsonable
from crossfoot.cli.reading import reading
from crossfoot.errors import UsageError
from crossfoot.recover.phrases import moment
from crossfoot.recover.timeline import MARKS, Mark

PAUSE_SECONDS = 0.25
"""Between two looks; each is one short read, so that the write-ahead log can shrink in between."""

STYLES = {Mark.FAILED: "red", Mark.DOUBT: "yellow"}
"""Of the marks; what is done has none."""

CLOSING = frozenset((Kind.COMMITTED, Kind.NOOP, Kind.SUPERSEDED, Kind.SUPPRESSED))


def tail(
    db: Database = None,
    last: Annotated[int, typer.Option("-n", "--last", min=0, help="Entries to begin with.")] = 10,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", "-f/-F", help="Wait for more.")] = True,
    type_: TypeName = None,
    subject: Annotated[
        str | None, typer.Option(metavar="SUBJECT", help="Only messages of this subject.", show_default=False)
    ] = None,
    queue: QueueName = None,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help="Only entries of this kind, as in failed.", show_default=False)
    ] = None,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """Entries as they are written, one a line, until Ctrl-C.

        crossfoot tail
        crossfoot tail --kind failed --type 'case.billed'
        crossfoot tail -n 1000 --no-follow --json | jq -r .id
    """
    filters = {"type": type_, "subject": subject, "queue": queue, "kind": _kind(kind)}
    with reading(db) as (connection, path):
        number = queries.last_number(connection)
        lines = queries.last_lines(connection, last, **filters) if last else []
        number = max([number, *(line.number for line in lines)])
        out = Output(color)
        _print(out, lines, as_json)
        birth = _file(path)
        try:
            while follow:
                lines = queries.lines_after(connection, number, **filters)
                _print(out, lines, as_json)
                newest = queries.last_number(connection)
                number = lines[-1].number if lines else max(number, newest)
                if not lines:
                    time.sleep(PAUSE_SECONDS)
                    if _file(path) != birth:
                        raise UsageError(f"{path} was replaced by another file: start `crossfoot tail` again")
        except KeyboardInterrupt:
            return  # the way to leave


def _file(path: str) -> int:
    """Which file it is, by its number on the disk; 0 when it is gone."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0
