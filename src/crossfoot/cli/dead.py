"""`crossfoot dead`: the dead letters, as the book knows them."""

from __future__ import annotations

import shlex
import time
from typing import Annotated, Any

import typer

from crossfoot.books import queries
from crossfoot.books.fate import Fate
from crossfoot.books.queries import DeadLetter
from crossfoot.cli.options import Color, Database, Json, QueueName, TypeName
from crossfoot.cli.output import Cell, Output, When, jsonable, note, print_json
from crossfoot.cli.pages import NARROW, payload, payload_lines, show_page
from crossfoot.cli.reading import catch_up, reading
from crossfoot.cli.why import as_document, without_looking
from crossfoot.connection import shown
from crossfoot.errors import NotFound
from crossfoot.recover.facts import told_in
from crossfoot.recover.lookup import look_up
from crossfoot.recover.phrases import plural, span

app = typer.Typer(help="The dead letters: which, since when, and why.", add_completion=False)


@app.command("list")
def list_dead(
    db: Database = None,
    queue: QueueName = None,
    type_: TypeName = None,
    by_cause: Annotated[bool, typer.Option("--by-cause", help="one line for each cause instead")] = False,
    limit: Annotated[int, typer.Option(min=1, help="the newest that many")] = 100,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """List the dead letters, the newest message first.

        crossfoot dead list --by-cause
        crossfoot dead list --type case.billed --limit 1000 --json

    Exits with 1 when there are any.
    """
    now = time.time_ns() // 1000
    with reading(db) as (connection, path):
        if behind := catch_up(path, connection):
            note(f"not everything could be posted, so newer ones may be missing: {behind}")
        queries.check_names(connection, queue=queue, type_=type_)
        causes = queries.dead_causes(connection, queue=queue, type=type_)
        letters = (
            [] if by_cause and not as_json else queries.dead_letters(connection, queue=queue, type=type_, limit=limit)
        )
    count = sum(cause[2] for cause in causes)
    if as_json:
        print_json(_document(count, causes, letters))
    else:
        out = Output(color, db=db)
        out.heading(
            "DEAD LETTERS" if count else "NO DEAD LETTERS", plural(count, "message"), style="red" if count else "green"
        )
        _show_causes(out, causes) if by_cause else _show_letters(out, letters, count, now)
    if count:
        raise typer.Exit(1)


@app.command("show")
def show_dead(
    message: Annotated[str, typer.Argument(metavar="ID", help="the message's id")],
    db: Database = None,
    queue: QueueName = None,
    with_payload: Annotated[bool, typer.Option("--payload", help="print what it carried, too")] = False,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """Everything about one dead letter, as `crossfoot why` tells it.

        crossfoot dead show 01981f0e-5c1e-7000-8000-4c8b1f2d3e4f --payload

    What it carried may hold personal data, and is printed on request only. Exits with 1 when it is not a dead letter.
    """
    now = time.time_ns() // 1000
    with reading(db) as (connection, path):
        found = without_looking(look_up(connection, message, now, queue=queue))
        page = found.page
        if page is None and found.count:
            raise NotFound(
                f"{found.count:,} messages are called {message!r}: name one of them by its id, or its --queue"
            )
        if page is None:
            raise NotFound(
                f"no message is called {message!r} in {shown(path)}: crossfoot dead list shows the dead ones"
            )
        if page.fate != Fate.DEAD.label:
            why = f"crossfoot why {shlex.quote(message)}"
            raise NotFound(f"message {page.message.id} is not dead but {page.fate}: see {why}")
        body = queries.body_of(connection, page.message.key) if with_payload else None
    if as_json:
        print_json(as_document(found) | ({"payload": payload(body)} if with_payload else {}))
    else:
        told = payload_lines(body) if with_payload else ["not shown: --payload prints it"]
        show_page(Output(color, db=db), page, payload=told)


def _document(
    count: int, causes: list[tuple[str | None, str | None, int, str]], letters: list[DeadLetter]
) -> dict[str, Any]:
    return {
        "count": count,
        "causes": [
            {"fingerprint": fingerprint, "title": title, "count": number, "example": example}
            for fingerprint, title, number, example in causes
        ],
        "messages": [{**jsonable(letter), "details": told_in(letter.details)} for letter in letters],
    }


def _show_letters(out: Output, letters: list[DeadLetter], count: int, now: int) -> None:
    narrow = 0 < out.width < NARROW
    rows: list[list[Cell]] = []
    for letter in letters:
        died = f"{span(now - (letter.dead_at or letter.published_at))} ago"
        what = " · ".join(part for part in (letter.type, letter.subject, _why(letter)) if part)
        if narrow:
            rows.append([died, str(letter.attempts), f"{letter.id}\n{what}"])
        else:
            rows.append(
                [died, str(letter.attempts), letter.id, letter.type, letter.subject or "", (_why(letter), "red")]
            )
    out.gap()
    out.table((">died", ">tries", "message", *(() if narrow else ("type", "subject", "cause"))), rows)
    if count > len(letters):
        out.line(f"... and {count - len(letters):,} older ones (--limit)")
    if letters:
        out.gap()
        out.commands([("see what happened to the newest", f"crossfoot dead show {shlex.quote(letters[0].id)}")])


def _show_causes(out: Output, causes: list[tuple[str | None, str | None, int, str]]) -> None:
    narrow = 0 < out.width < NARROW
    rows: list[list[Cell]] = []
    for fingerprint, title, count, example in causes:
        what = title or "no cause is booked"
        if narrow:
            rows.append([f"{count:,}", (what, "red")])
            rows.append(["", " · ".join(part for part in (fingerprint, example) if part)])
        else:
            rows.append([f"{count:,}", (what, "red"), fingerprint or "", example])
    out.gap()
    out.table((">messages", "cause") if narrow else (">messages", "cause", "fingerprint", "for example"), rows)


def _why(letter: DeadLetter) -> str:
    return letter.title or str(told_in(letter.details).get("reason") or "no cause is booked")
