"""`crossfoot why`: one page about a message, or the messages of a subject, flow or operation."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
import typer

from crossfoot import settings
from crossfoot.books.archive.erase import when
from crossfoot.books.archive.past import past_of
from crossfoot.cli.options import Archive, Color, Database, Json, QueueName
from crossfoot.cli.output import Output, When, jsonable, note, print_json
from crossfoot.cli.pages import payload, payload_lines, show_listed, show_page
from crossfoot.cli.reading import reading
from crossfoot.connection import shown
from crossfoot.errors import NotFound
from crossfoot.recover.advice import beyond_looking
from crossfoot.recover.lookup import Found, look_up
from crossfoot.recover.records import Records
from crossfoot.recover.why import NEEDS_SOMEBODY


def why(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="a message id, subject, correlation id, operation key or source|id")
    ],
    db: Database = None,
    archive: Archive = None,
    queue: QueueName = None,
    with_payload: Annotated[bool, typer.Option("--payload", help="print what the message carried, too")] = False,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """What happened to a message, when and by whom; what is still open, and what to do.

        crossfoot why case-4711           a subject: its page, or a list
        crossfoot why bill:case-4711:3    an operation key
        crossfoot why 01981f0e-5c1e-7000-8000-4c8b1f2d3e4f --json

    The name is tried as message id, subject, correlation id, operation key and source|id, in this order. What was closed is found in the
    archive.

    Exits with 0 when nothing is wrong with what it found, 1 when somebody should do something (the message is dead,
    expired, refused, vanished, stranded, stalled, in doubt; or an outcome that the program promises after it is missing or came late, and
    nobody has accepted that) or when nothing of that name is there.
    """
    now = time.time_ns() // 1000
    with reading(db) as (connection, path):
        past = past_of(path, archive or settings.load(database=db).archive)
        found = look_up(connection, name, now, queue=queue, past=past)
        body, erased_at = None, None
        if found.page and with_payload:
            with connection.snapshot():
                past.renew(connection)
                body = Records(connection, past).body_of(found.page.message)
                erased_at = when(connection, found.page.message.subject)
    if past.unread:
        note(past.unread)
    if with_payload:
        found = without_looking(found)
    if as_json:
        print_json(as_document(found) | ({"payload": payload(body)} if with_payload else {}))
    elif not found.count:
        where = f" on queue {queue}" if queue else ""
        raise NotFound(
            f"nothing is called {name!r} in {shown(path)}{where}: no message id, subject, correlation id, operation key or source|id; "
            "is it the right book (--db), and is it spelled in full?"
        )
    elif found.page is not None:
        show_page(
            Output(color, db=db), found.page, payload=payload_lines(body, erased_at=erased_at) if with_payload else ()
        )
    else:
        show_listed(Output(color, db=db), found, now)
    if not well(found):
        raise typer.Exit(1)


def without_looking(found: Found) -> Found:
    """The same for somebody who need not be told how to see what the message carried."""
    if found.page is None:
        return found
    page = msgspec.structs.replace(found.page, next=beyond_looking(found.page.next))
    return msgspec.structs.replace(found, page=page)


def as_document(found: Found) -> dict[str, Any]:
    """The answer as `schemas/why.json` describes it."""
    document: dict[str, Any] = {"name": found.name, "found_as": found.kind or None, "count": found.count}
    nothing: dict[str, Any] = {"fate": None, "reason": None, "entries": [], "next": [], "matches": []}
    if found.page is not None:
        page: dict[str, Any] = jsonable(found.page)
        return document | nothing | page
    nothing["reason"] = (
        f"{found.count} messages have this {found.kind}" if found.count else "nothing of that name is in this book"
    )
    nothing["matches"] = jsonable(found.listed)
    nothing["fates"] = found.fates
    nothing["lacking"] = found.lacking
    return document | nothing


def well(found: Found) -> bool:
    """Whether nobody needs to do anything about it."""
    if found.page is not None:
        return not found.page.needs_somebody
    bad = {fate.label for fate in NEEDS_SOMEBODY} | {"unaccounted"}
    return bool(found.count) and not found.lacking and not bad & set(found.fates)
