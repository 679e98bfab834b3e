"""`crossfoot archive`: whether the archive is what was sealed, and whose payloads are taken out of it."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from crossfoot import settings
from crossfoot.books.archive.check import Checked, check
from crossfoot.books.archive.erase import Erased
from crossfoot.books.archive.erase import erase as erase_payloads
from crossfoot.books.archive.folder import Folder
from crossfoot.books.archive.past import located
from crossfoot.books.store import Book
from crossfoot.cli.options import Archive, Color, Database, Json
from crossfoot.cli.output import Cell, Output, When, print_json
from crossfoot.cli.reading import Progress, reading
from crossfoot.cli.who import typist
from crossfoot.errors import UsageError
from crossfoot.recover.phrases import plural

SHOWN = 50
"""Faults that are shown; the JSON has all of them."""

app = typer.Typer(add_completion=False, help="The archive of closed buckets.")


@app.command()
def verify(db: Database = None, archive: Archive = None, as_json: Json = False, color: Color = When.auto) -> None:
    """See whether every file of the archive is what was sealed, and whether the book says the same.

        crossfoot archive verify

    Follows the chain of seals, compares the digest of each file, reads what is in it and adds it up again. A bit that was flipped
    anywhere is found, and so is a file or a seal that is missing. Note the head that it prints elsewhere, to see that none was taken off
    the end. Exits with 1 when something is not as it was sealed.
    """
    progress = Progress("verifying the archive", "messages")
    with reading(db) as (connection, path):
        folder = Folder(located(connection, path, archive or settings.load(database=db).archive))
        try:
            found = check(connection, folder, progress)
        finally:
            progress.close()
    if as_json:
        print_json({"clean": found.clean, "archive": str(folder.path), **msgspec.to_builtins(found)})
    else:
        show(Output(color, db=db), found, str(folder.path))
    if not found.clean:
        raise typer.Exit(1)


def show(out: Output, found: Checked, folder: str) -> None:
    """What was looked at, and what is wrong."""
    looked = f"{plural(found.seals, 'seal')}, {found.messages:,} messages, {found.entries:,} entries, {found.payloads:,} payloads"
    notes = [looked, f"archive {folder}", *([f"head {found.head}"] if found.head else [])]
    if found.clean:
        what = "every file is what was sealed" if found.seals else "nothing was closed yet"
        out.heading("VERIFIED", what, notes, style="green")
    else:
        out.heading(
            "BROKEN",
            f"{plural(len(found.faults), 'fault')} between the archive and what was sealed",
            notes,
            style="red",
        )
        out.gap()
        rows: list[list[Cell]] = [
            [(fault.what, "red"), str(fault.seal or ""), f"{fault.file}: {fault.text}" if fault.file else fault.text]
            for fault in found.faults[:SHOWN]
        ]
        out.table(("what", ">seal", "fault"), rows)
        if len(found.faults) > SHOWN:
            out.line(f"... and {len(found.faults) - SHOWN:,} more")
        out.gap()
        out.labelled(
            "next",
            ["restore these files, or the book, from a backup; nothing is pruned for a seal whose files are not sound"],
        )
    out.gap()
    out.labelled(
        "erased", [f"what a subject's messages carried, {plural(found.erased, 'time')}"] if found.erased else []
    )
    out.labelled(
        "left over", [f"{name}: of a closing that was killed; the next one takes it away" for name in found.left_over]
    )


@app.command()
def erase(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="the subject whose messages' payloads are erased")],
    reason: Annotated[str, typer.Option("--reason", "-r", metavar="TEXT", help="why; the book keeps it")],
    by: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="who decided it; the user of this machine unless given", show_default=False),
    ] = None,
    db: Database = None,
    archive: Archive = None,
    as_json: Json = False,
) -> None:
    """Erase what the messages of one subject carried, in the book and in the archive. It cannot be undone.

        crossfoot archive erase customer-4711 --reason "request of 3 May" --by anna

    That there was a message, and what became of it, stays known: no digest is over payloads, and the archive verifies as before. What is
    still open is left, for its handler needs it. Not erased: what queues, business tables, logs and backups hold.

    Exits with 1 when there is no message of that subject.
    """
    if not reason.strip():
        raise UsageError("--reason is empty: write why, for whoever asks the book later")
    with reading(db) as (connection, path):
        folder = Folder(located(connection, path, archive or settings.load(database=db).archive))
    book = Book(path)
    try:
        done = erase_payloads(book, folder, subject, who=by or typist(), reason=reason.strip())
    finally:
        book.close()
    if as_json:
        print_json(msgspec.to_builtins(done))
    else:
        _told(done)


def _told(done: Erased) -> None:
    erased = f"{plural(done.book, 'payload')} in the book, {done.archive:,} in {plural(len(done.seals), 'seal')} of the archive"
    typer.echo(f"erased  {erased}")
    if done.open:
        typer.echo(f"left    {plural(done.open, 'message')} that are still open: do it again when they have ended")
    if done.dead:
        typer.echo(f"beside  {plural(done.dead, 'dead letter')}: their queue still holds what they carried")
