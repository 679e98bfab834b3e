"""`crossfoot verify`: rebuild everything from the entries, and compare."""

from __future__ import annotations

import time

import typer

from crossfoot.books.verify import TWICE, Verification
from crossfoot.books.verify import verify as rebuild
from crossfoot.cli.options import Color, Database, Json
from crossfoot.cli.output import Cell, Output, When, print_json
from crossfoot.cli.reading import Progress, catch_up, reading
from crossfoot.recover.phrases import plural

SHOWN = 20
"""Differences of one kind that are shown; the JSON has the first hundred."""


def verify(db: Database = None, as_json: Json = False, color: Color = When.auto) -> None:
    """Rebuild fates, tallies and operations from the entries alone, and compare them with what is stored.

        crossfoot verify

    Finds entries and messages that were removed, fates and tallies that were changed, operations without their
    message. It reads the whole book, about 100,000 messages in two seconds. Exits with 1 when there is a difference.
    """
    progress = Progress("verifying", "messages")
    with reading(db) as (connection, path):
        catch_up(path, connection)
        try:
            result = rebuild(connection, time.time_ns() // 1000, progress)
        finally:
            progress.close()
    if as_json:
        print_json({"clean": result.clean, **{name: getattr(result, name) for name in result.__struct_fields__}})
    else:
        show(Output(color, db=db), result)
    if not result.clean:
        raise typer.Exit(1)


def show(out: Output, result: Verification) -> None:
    """What was looked at, and what differs."""
    looked = (
        f"{result.messages:,} messages, {result.entries:,} entries, {result.operations:,} operations (those of noops, too) and "
        f"{result.tallies:,} tallies, up to entry {result.posted:,}"
    )
    notes = [looked] + ([f"{result.waiting:,} newer entries are not posted yet"] if result.waiting else [])
    if result.clean:
        what = "everything that is posted" if result.waiting else "everything stored"
        out.heading("VERIFIED", f"{what} is what the entries say", notes, style="green")
        return
    total = sum(result.counts.values())
    told = ", ".join(f"{count:,} {what}" for what, count in result.counts.items())
    out.heading(
        "DIFFERENT",
        f"{plural(total, 'difference')} between what is stored and what the entries say: {told}",
        notes,
        style="red",
    )
    out.gap()
    for what, count in result.counts.items():
        found = [difference for difference in result.differences if difference.what == what][:SHOWN]
        rows: list[list[Cell]] = [[(what, "red"), difference.id or "", difference.text] for difference in found]
        out.table(("what", "message", "difference"), rows)
        if count > len(found):
            out.line(f"... and {count - len(found):,} more of this kind")
        out.gap()
    advice = []
    if result.counts.keys() - {TWICE}:
        advice.append("somebody changed the book's tables: keep a copy of the file, and compare it with a backup")
    if TWICE in result.counts:
        advice.append(
            "two versions of the program named an operation differently, which crossfoot allowed before schema 9: look at what the "
            "message took effect on, twice (`crossfoot why`)"
        )
    out.labelled("next", advice)
