"""`crossfoot tail`: entries as they are written."""

from __future__ import annotations

import sys
import time
from difflib import get_close_matches
from typing import Annotated, Any

import msgspec
import typer

from crossfoot.books import lines as following
from crossfoot.books import queries
from crossfoot.books.entry import Kind
from crossfoot.books.lines import Line
from crossfoot.cli.options import Color, Database, Json, QueueName, TypeName
from crossfoot.cli.output import Output, When, clean, jsonable
from crossfoot.cli.reading import catch_up, reading
from crossfoot.connection import Connection
from crossfoot.errors import DatabaseUnavailable, UsageError
from crossfoot.recover.facts import told_in
from crossfoot.recover.phrases import moment
from crossfoot.recover.timeline import MARKS, Mark
from crossfoot.sqlite import file_number

PAUSE_SECONDS = 0.25
"""Between two looks; each is one short read, so that the write-ahead log can shrink in between."""

STYLES = {Mark.FAILED: "red", Mark.DOUBT: "yellow"}
"""Of the marks; what is done has none."""

WIDEST = 200
"""Characters of a subject or an id that are printed; the JSON has all."""

PAGE = 1_000
"""Entries read at once."""

_KNOWN = frozenset(kind.value for kind in Kind)

CONTINUED = "    "
"""What a line that is continued begins with."""

CLOSING = frozenset((Kind.COMMITTED, Kind.NOOP, Kind.SUPERSEDED, Kind.SUPPRESSED))


def tail(
    db: Database = None,
    last: Annotated[int, typer.Option("-n", "--last", min=0, help="entries to begin with")] = 10,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", "-f/-F", help="wait for more")] = True,
    type_: TypeName = None,
    subject: Annotated[
        str | None, typer.Option(metavar="SUBJECT", help="only messages of this subject", show_default=False)
    ] = None,
    queue: QueueName = None,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help="only entries of this kind, as in failed", show_default=False)
    ] = None,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """Entries as they are written, one a line, until Ctrl-C.

        crossfoot tail
        crossfoot tail --kind failed --type 'case.billed'
        crossfoot tail -n 1000 --no-follow --json | jq .id

    Filters that are given together must all hold.
    """
    filters = {"type": type_, "subject": subject, "queue": queue, "kind": _kind(kind)}
    with reading(db) as (connection, path):
        if queue is not None:
            catch_up(path, connection)  # what a book knows by name is what has been posted
            queries.check_names(connection, queue=queue, type_=None)
        place = following.newest(connection)
        lines = following.last_lines(connection, last, upto=place, **filters) if last else []
        out = Output(color, db=db)
        _print(out, lines, as_json)
        try:
            if follow:
                if not sys.stdout.isatty():
                    typer.echo("waiting for more entries: Ctrl-C ends it, and --no-follow does not wait", err=True)
                _follow(connection, path, place, filters, out, as_json)
        except KeyboardInterrupt:
            return  # the way to leave


def _follow(
    connection: Connection, path: str, place: following.Place, filters: dict[str, Any], out: Output, as_json: bool
) -> None:
    """Print what is written from now on, for ever."""
    file = file_number(path)
    while True:
        newest = following.newest(connection)
        lines = following.lines_after(connection, place, PAGE, upto=newest, **filters)
        _print(out, lines, as_json)
        # What a filter left out need not be read again; a full page may have more behind it.
        place = lines[-1].place if len(lines) == PAGE else newest
        if not lines:
            time.sleep(PAUSE_SECONDS)
            if file_number(path) != file:
                raise DatabaseUnavailable(f"{path} was removed or replaced: start `crossfoot tail` again")


def _print(out: Output, lines: list[Line], as_json: bool) -> None:
    for line in lines:
        if as_json:
            out.line(msgspec.json.encode(as_document(line)).decode())
        else:
            out.line(*_worded(out, line))
    sys.stdout.flush()


def as_document(line: Line) -> dict[str, Any]:
    """An entry as `schemas/tail.json` describes it."""
    document: dict[str, Any] = jsonable(line)
    del document["place"]
    details = document.pop("details")
    return document | {"kind": _label(line.kind), "details": told_in(details)}


def _worded(out: Output, line: Line) -> tuple[str, str]:
    """One line and its style: the id stands last, because it is long. Where a terminal is narrow it is continued below, between
    two parts of it, so that none is cut.
    """
    kind = Kind(line.kind) if line.kind in _KNOWN else None
    mark = MARKS.get(kind, Mark.DONE) if kind is not None else Mark.DOUBT
    at = moment(line.at)[:-4]
    what = [
        f"{at[11:] if out.fancy else at}  {out.marks[mark]}  {_label(line.kind):13}  {f'#{line.attempt}' if line.attempt else '':3}",
        line.subject, line.type, line.title, line.id or "(its message has no row)",
    ]  # fmt: skip
    text = _joined([_short(clean(part)) for part in what if part], out.width)
    return text, STYLES.get(mark, "green" if kind in CLOSING else "")


def _joined(parts: list[str], width: int) -> str:
    """In one line; with a `width`, in as many as are needed."""
    lines = [parts[0]]
    for part in parts[1:]:
        if width and len(lines[-1]) + 2 + len(part) > width:
            lines.append(CONTINUED + part)
        else:
            lines[-1] += f"  {part}"
    return "\n".join(lines)


def _short(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[:WIDEST]}…"


def _label(kind: int) -> str:
    return Kind(kind).label if kind in _KNOWN else f"kind {kind}"


def _kind(name: str | None) -> int | None:
    """The number of a kind of entry.

    Raises:
        UsageError: there is no such kind; with the nearest.
    """
    if name is None:
        return None
    labels = {kind.label: kind.value for kind in Kind}
    labels["duplicate"] = Kind.SUPPRESSED.value  # the fate that it leads to
    wanted = name.strip().lower().replace("-", " ").replace("_", " ")
    if wanted in labels:
        return labels[wanted]
    near = get_close_matches(wanted, labels, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(labels)}"
    raise UsageError(f"{name!r} is no kind of entry: {hint}")
