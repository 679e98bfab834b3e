"""`crossfoot causes`: what failed, grouped by cause."""

from __future__ import annotations

import shlex
import time
from typing import Annotated, Any

import typer

from crossfoot.books import queries
from crossfoot.books.failures import born, latest_workers, standing
from crossfoot.books.fate import Fate
from crossfoot.cli.options import Color, Database, Json, QueueName, TypeName
from crossfoot.cli.output import Cell, Output, When, jsonable, note, print_json
from crossfoot.cli.reading import catch_up, reading
from crossfoot.connection import Connection
from crossfoot.errors import NotFound
from crossfoot.recover.advice import bring_back
from crossfoot.recover.checklist.grouped import Background, CauseGroup, grouped
from crossfoot.recover.checklist.survey import MOST_TYPES, WAITING
from crossfoot.recover.phrases import clock_time, plural, span

IDS_SHOWN = 5


def causes(
    fingerprint: Annotated[
        str | None,
        typer.Argument(metavar="[FINGERPRINT]", help="one cause, with all that is known of it", show_default=False),
    ] = None,
    db: Database = None,
    queue: QueueName = None,
    type_: TypeName = None,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """What is dead or failing, grouped by cause: since when, how fast, where, and what was new when it began.

        crossfoot causes
        crossfoot causes 3f9c01d2a4b7
        crossfoot causes --type case.billed --json

    A cause is what failures have in common: the exception's type, its place and the frames that led there. Each message
    counts for its latest failure. Exits with 1 when there is any.
    """
    now = time.time_ns() // 1000
    with reading(db) as (connection, path):
        if behind := catch_up(path, connection):
            note(f"not everything could be posted, so newer ones may be missing: {behind}")
        queries.check_names(connection, queue=queue, type_=type_)
        found = _read(connection, queue, type_)
    if fingerprint is not None:
        found = [group for group in found if (group.fingerprint or "none").startswith(fingerprint)]
        if not found:
            raise NotFound(
                f"no message is dead or failing of cause {fingerprint!r}: crossfoot causes lists those there are"
            )
    if as_json:
        print_json(document(found))
    else:
        _show(Output(color, db=db), found, now, whole=fingerprint is not None)
    if found:
        raise typer.Exit(1)


def _read(connection: Connection, queue: str | None, type_: str | None) -> list[CauseGroup]:
    with connection.snapshot():
        failing = standing(connection, (Fate.DEAD, *WAITING, Fate.IN_DOUBT), queue=queue, type=type_)
        failed = [one for one in failing if one.failed is not None]
        known = queries.causes(connection, {one.failed.cause for one in failed if one.failed})
        types = sorted({one.type for one in failed})[:MOST_TYPES]
        since = {name: at for name in types if (at := born(connection, name)) is not None}
        return grouped(failing, Background(known, latest_workers(connection), since))


def document(found: list[CauseGroup]) -> dict[str, Any]:
    """The answer as `schemas/causes.json` describes it."""
    return {"messages": sum(group.messages for group in found), "causes": jsonable(found)}


def _show(out: Output, found: list[CauseGroup], now: int, *, whole: bool) -> None:
    count = sum(group.messages for group in found)
    out.heading(
        plural(len(found), "CAUSE", "CAUSES") if found else "NO CAUSES",
        f"of {plural(count, 'message')} that {'is' if count == 1 else 'are'} dead or failing" if found else "nothing is dead or failing",
        style="red" if found else "green",
    )  # fmt: skip
    for group in found:
        out.gap()
        _show_group(out, group, now, whole=whole)


def _show_group(out: Output, group: CauseGroup, now: int, *, whole: bool) -> None:
    out.labelled(group.fingerprint or "none", [(f"{plural(group.messages, 'message')}: {group.title}", "red")])
    lines: list[Cell] = [
        f"{group.dead:,} dead, {group.failing:,} tried again; first {clock_time(group.first_at, now)} "
        f"({span(now - group.first_at)} ago), last {clock_time(group.last_at, now)}; {group.per_minute:g} a minute"
    ]
    if group.known_at is not None:
        lines.append(
            f"known since {clock_time(group.known_at, now)}, by messages that are well since: it was over, and came back"
        )
    lines += [f"raised in {group.raised}"] if group.raised else []
    out.labelled("when", lines)
    spread = {"types": group.types, "queues": group.queues, "workers": group.workers, "crossfoot": group.versions}
    told = [
        f"{name}: {', '.join(f'{key} {count:,}' for key, count in of.items())}" for name, of in spread.items() if of
    ]
    out.labelled("where", [*told, f"subjects: {group.subjects:,}"])
    out.labelled("began with", list(group.changes))
    shown = group.ids if whole else group.ids[:IDS_SHOWN]
    more = group.messages - len(shown)
    out.labelled("messages", [f"{', '.join(shown)}{f' and {more:,} more' if more > 0 else ''}"])
    if whole:
        out.labelled("frames", list(group.frames.splitlines()))
    step = bring_back(group.fingerprint)
    steps: list[tuple[str, str | None]] = [
        ("read the whole story of the first", f"crossfoot why {shlex.quote(group.ids[0])}")
    ]
    out.commands([*steps, *([(step.do, step.command)] if group.dead else [])])
