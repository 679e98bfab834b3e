"""`crossfoot discard`: take back what was not sent, and need not be."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from crossfoot.books import queries
from crossfoot.books.queries import Row
from crossfoot.books.store import Book
from crossfoot.cli.options import Database, Json, QueueName
from crossfoot.cli.output import clean, complain, print_json
from crossfoot.cli.reading import reading
from crossfoot.cli.who import typist
from crossfoot.connection import Connection, shown
from crossfoot.errors import NotDiscarded, UsageError
from crossfoot.recover.discarding import discard as discard_one


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one of the messages named."""

    message: str
    queue: str | None
    discarded: bool
    reason: str | None = None
    """Why it was not, or that it was before."""


def discard(
    messages: Annotated[list[str], typer.Argument(metavar="ID", help="the messages, by id or by source|id")],
    reason: Annotated[
        str, typer.Option("--reason", "-r", metavar="TEXT", help="why they need not happen; the book keeps it")
    ],
    by: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="who decided it; the user of this machine unless given", show_default=False),
    ] = None,
    db: Database = None,
    queue: QueueName = None,
    as_json: Json = False,
) -> None:
    """Take back messages that were not sent, or of which nobody knows whether they were: they need not happen.

        crossfoot discard 01981f0e-5c1e-7000-8000-4c8b1f2d3e4f --reason "a typo"
        crossfoot discard $IDS --reason "test data" --by anna --json

    Nothing sends them any more, and the book says who decided that, and why. What has ended is left as it is, and so is what its
    queue is known to have, or what is being sent just now.

    Nothing is called back from a queue. One that is in doubt may be there after all: a worker that receives it handles it, and its
    fate is then what became of it. crossfoot why tells how one stands.

    Exits with 1 when one of them could not be discarded, or is not in the book.
    """
    if not reason.strip():
        raise UsageError("--reason is empty: write why they need not happen, for whoever asks the book later")
    with reading(db) as (connection, path):
        found = [_find(connection, name, queue, path) for name in dict.fromkeys(messages)]
    book = Book(path)
    try:
        answers = [
            _discard(book, one, reason=reason.strip(), by=by or typist()) if isinstance(one, Row) else one
            for one in found
        ]
    finally:
        book.close()
    if as_json:
        print_json(answers)
    else:
        for answer in answers:
            _show(answer)
    if not all(answer.discarded for answer in answers):
        raise typer.Exit(1)


def _find(connection: Connection, name: str, queue: str | None, path: str) -> Row | Answer:
    """The one message of that name; or why there is none."""
    rows = queries.named(connection, "message id", name, 10, queue) or queries.named(
        connection, "message key", name, 10, queue
    )
    if len(rows) == 1:
        return rows[0]
    if rows:
        names = ", ".join(f"{row.source}|{row.id} on {row.queue}" for row in rows)
        why = f"{len(rows):,} messages are called {name}: name one of them by its source|id and --queue ({names})"
    else:
        why = f"no message has the id {name} in {shown(path)}" + (f" on queue {queue}" if queue else "")
    return Answer(message=name, queue=queue, discarded=False, reason=why)


def _discard(book: Book, row: Row, *, reason: str, by: str) -> Answer:
    try:
        new = discard_one(book, row, reason=reason, by=by)
    except NotDiscarded as error:
        return Answer(message=row.id, queue=row.queue, discarded=False, reason=str(error))
    return Answer(message=row.id, queue=row.queue, discarded=True, reason=None if new else "it was discarded before")


def _show(answer: Answer) -> None:
    if answer.discarded:
        typer.echo(clean(f"discarded  {answer.message}" + (f"  ({answer.reason})" if answer.reason else "")))
    else:
        complain(f"not discarded: {answer.reason}", code=1)
