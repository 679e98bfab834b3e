"""`crossfoot close`: what has ended goes from the book into the archive."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
import typer

from crossfoot import settings
from crossfoot.books.archive.close import Closed
from crossfoot.books.archive.close import close as archive_ended
from crossfoot.books.archive.folder import Folder, folder_of
from crossfoot.books.store import Book
from crossfoot.cli.options import Archive, Color, Database, Json
from crossfoot.cli.output import Output, When, print_json
from crossfoot.cli.reading import Progress, reading
from crossfoot.clock import SECOND
from crossfoot.errors import UsageError
from crossfoot.recover.phrases import moment, plural

DAY = 86_400 * SECOND

LONGEST = 36_500
"""Days that can be asked for: a hundred years."""


def close(
    db: Database = None,
    archive: Archive = None,
    days: Annotated[
        float | None,
        typer.Option(
            "--days",
            metavar="DAYS",
            help="close what ended so many days ago; otherwise the setting `keep`, 30 days",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """Move what ended long ago into the archive: files of Parquet, each sealed to the one before.

        crossfoot close
        crossfoot close --days 7 --archive /var/lib/crossfoot/archive

    Only buckets (minutes of publication) in which nothing is open are closed, and of them what ended for good: settled, with nothing to
    do, superseded, duplicate. Dead letters and the like stay in the book, for somebody may still want them.

    why, balance and verify answer for closed messages as before. Completed operations stay known for the deduplication horizon (the
    setting `horizon`, 90 days), so a copy that comes late takes no effect again. Past the horizon balance has archived messages by
    the day, and not by the minute.

    It may be run while workers work, from cron, and killed at any time: the book is then as it was or closed, and the next run goes on.
    """
    known = settings.load(database=db, archive=archive)
    now = time.time_ns() // 1000
    if days is not None and not 0 <= days <= LONGEST:
        raise UsageError(f"--days {days:g}: give 0 or more, and at most {LONGEST:,}")
    keep = int(days * DAY) if days is not None else int(known.keep * SECOND)
    with reading(db) as (_, path):
        pass  # a book that is not there is not made here
    folder = Folder(folder_of(path, known.archive))
    book, progress = Book(path, synchronous=known.synchronous), Progress("closing", "messages")
    try:
        done = archive_ended(
            book, folder, now - keep, horizon=now - int(max(known.horizon, known.retention) * SECOND), progress=progress
        )
    finally:
        progress.close()
        book.close()
    if as_json:
        print_json({"archive": str(folder.path), **msgspec.to_builtins(done)})
    else:
        show(Output(color, db=db), done, str(folder.path))


def show(out: Output, done: Closed, folder: str) -> None:
    """What was moved, and what was not."""
    notes = [f"archive {folder}", f"what ended before {moment(done.before)}"]
    if done.seals:
        seals = plural(len(done.seals), "seal")
        told = f"{plural(done.messages, 'message')} of {plural(done.buckets, 'bucket')}, with {done.entries:,} entries, under {seals}"
        out.heading("CLOSED", told, notes, style="green")
    else:
        out.heading("NOTHING TO CLOSE", "no message that ended before then is left in the book", notes, style="green")
    out.gap()
    out.labelled("pruned", [plural(done.pruned, "message")] if done.pruned else [])
    out.labelled("left", [f"{plural(done.open, 'older bucket')} with open messages"] if done.open else [])
    out.labelled("forgotten", [f"{plural(done.forgotten, 'operation key')} past the horizon"] if done.forgotten else [])
    out.labelled(
        "gathered", [f"{plural(done.gathered, 'tally', 'tallies')} into those of days"] if done.gathered else []
    )
    out.labelled("taken away", [f"{name}: a closing was killed before it was sealed" for name in done.removed])
