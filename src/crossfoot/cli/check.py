"""`crossfoot check`: the incident checklist, with evidence and the next command."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Annotated, Any

import msgspec
import typer

from crossfoot.app import Crossfoot
from crossfoot.books import lately, queries
from crossfoot.books.contents import Contents
from crossfoot.books.custody import Depth
from crossfoot.books.stock import Part
from crossfoot.cli import suggesting
from crossfoot.cli.balance import seconds
from crossfoot.cli.check_promises import broken
from crossfoot.cli.check_queues import service_of
from crossfoot.cli.depths import contents_of
from crossfoot.cli.loading import book_to_name, load_app
from crossfoot.cli.options import Color, Database, Json, QueueName, TypeName
from crossfoot.cli.outcomes_up_to_date import evaluate_new
from crossfoot.cli.output import Output, When, jsonable, note, print_json
from crossfoot.cli.reading import catch_up, reading
from crossfoot.connection import shown
from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.recover.advice import Step
from crossfoot.recover.checklist.findings import CODES, Finding
from crossfoot.recover.checklist.survey import survey
from crossfoot.recover.checklist.walk import Report, walk
from crossfoot.recover.phrases import clock_time, listed, moment, plural, span

IDS_SHOWN = 5

_Ask = Callable[[str], Contents | Depth | None]
STYLES = {"well": "green", "found": "red", "not asked": "yellow"}


def check(
    service: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:NAME]",
            help="the service, whose handlers and queues are looked at, too",
            show_default=False,
        ),
    ] = None,
    db: Database = None,
    queue: QueueName = None,
    type_: TypeName = None,
    recovery: Annotated[
        str, typer.Option(metavar="TIME", help="how long it takes you to mend what breaks: 12h, 3d")
    ] = "3d",
    accept: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE[:QUEUE]", help="a finding that is known: told, and not counted; may be repeated"),
    ] = None,
    no_queue: Annotated[
        bool, typer.Option("--no-queue", help="do not ask queues outside the book's file anything")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="print nothing when nothing was found")] = False,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """The incident checklist: what is wrong, with evidence and the next command, the most telling first.

        crossfoot check
        crossfoot check billing:app --recovery 12h
        crossfoot check --quiet --accept setting:billing

    Eight questions: was everything accepted, were the same messages sent, received and deleted, what lies in the dead
    letters, does the handling fit into the lease, does anything take effect twice, what is forgotten and when, did the
    business happen, what would go wrong in a replay. Beside them, how the attached queues are set. Speed, repetition
    and order are judged by the newest entries and operations, so that a large book is checked as quickly as a small one.

    Exits with 0 when nothing was found that is not accepted, and with 1 when something was, or a queue could not be reached.
    """
    accepted, part, recovers = _accepted(accept or []), Part(queue=queue, type=type_), seconds(recovery, "--recovery")
    app = load_app(service) if service is not None else None
    db = book_to_name(app) if db is None and app is not None else db
    with reading(db) as (connection, path):
        behind = catch_up(path, connection)
        queries.check_names(connection, queue=queue, type_=type_)
        known = [name for name in lately.queues(connection) if queue in (None, name)]
        behind = behind or evaluate_new(path, connection)
        now = time.time_ns() // 1000
        told = service_of(path, known, app, ask=not no_queue, now=None if type_ else now)
        told = msgspec.structs.replace(told, promises=tuple(broken(connection, now, part)))
        ask, unreached = _forgiving(partial(contents_of, path=path), told.unreached)
        depth_of = None if no_queue else ask
        found = walk(survey(connection, now, part=part, service=told, depth_of=depth_of, recovery=recovers), accepted)
        found = _naming(found, service, app, known)
    if behind:
        note(f"not everything could be posted, so newer messages may be missing: {behind}")
    _tell(found, list(unreached), as_json, quiet, partial(show, Output(color, db=db), path=path))
    raise typer.Exit(int(not found.well or bool(behind or unreached)))


def _tell(found: Report, unreached: list[str], as_json: bool, quiet: bool, show: Callable[..., None]) -> None:
    if as_json:
        print_json(document(found, unreached))
    elif not (quiet and found.well and not unreached):
        show(found, unreached=unreached)


def _naming(found: Report, service: str | None, app: Crossfoot | None, known: list[str]) -> Report:
    """The same, with the service that was named where a command is for it: what is of another queue is of a service nobody named."""
    if service is None or app is None:
        return found
    queue, name = app.queue.name, shlex.quote(service)
    only = known == [queue]

    def named(step: Step) -> Step:
        command = step.command and step.command.replace("MODULE:NAME", name)
        return msgspec.structs.replace(step, command=command)

    findings = tuple(
        msgspec.structs.replace(one, next=tuple(map(named, one.next)))
        if one.queue == queue or (one.queue is None and only)
        else one
        for one in found.findings
    )
    return msgspec.structs.replace(found, findings=findings)


def _accepted(codes: list[str]) -> frozenset[str]:
    for one in codes:
        if one.partition(":")[0] not in CODES:
            raise UsageError(f"--accept {one}: there is no such finding; they are {', '.join(CODES)}")
    return frozenset(codes)


def _forgiving(ask: _Ask, unreached: Iterable[str]) -> tuple[_Ask, dict[str, None]]:
    """A queue that is down is what a checklist is most wanted for: the book is looked at all the same, and its name is noted."""
    noted = dict.fromkeys(unreached)

    def asked(name: str) -> Contents | Depth | None:
        try:
            return ask(name)
        except QueueUnavailable as error:
            note(str(error).removesuffix("; --no-queue balances the book alone"))
            noted[name] = None
            return None

    return asked, noted


def document(found: Report, unreached: list[str]) -> dict[str, Any]:
    """The answer as `schemas/check.json` describes it."""
    return {
        "well": found.well and not unreached,
        "unreached": unreached,
        **jsonable(found),
        "findings": [{"question": one.question, **jsonable(one)} for one in found.findings],
    }


def show(out: Output, found: Report, path: str, unreached: list[str]) -> None:
    """The findings, then the questions."""
    open_ = [one for one in found.findings if not one.accepted]
    codes = listed(list(dict.fromkeys(one.code for one in open_)))
    text = f"the most telling first: {codes}" if open_ else "eight questions were asked, and how the queues are set"
    title, style = ("NOTHING FOUND", "green") if not unreached else ("NOT EVERYTHING COULD BE ASKED", "yellow")
    notes = [f"nobody knows what {listed(unreached)} would have told: it could not be reached"] if unreached else []
    if unreached and not open_:
        text = "by the book alone nothing is wrong"
    known = len(found.findings) - len(open_)
    out.heading(
        plural(len(open_), "FINDING", "FINDINGS") if open_ else title,
        f"{text[0].upper()}{text[1:]}.",
        [*notes, f"{shown(path)}, as of {moment(found.as_of)}{f'; {known} accepted' if known else ''}"],
        style="red" if open_ else style,
    )
    for number, finding in enumerate(found.findings, 1):
        out.gap()
        _show_finding(out, number, finding, found.as_of)
    out.gap()
    out.table(
        ("question", "answer", "findings", ""),
        [
            [one.asks, (one.verdict, STYLES[one.verdict]), str(one.findings or ""), one.note]
            for one in found.answers
        ],
    )  # fmt: skip


def _show_finding(out: Output, number: int, finding: Finding, now: int) -> None:
    style = "dim" if finding.accepted else "red"
    known = " (accepted)" if finding.accepted else ""
    out.labelled(f"{number}. {finding.code}", [(f"{suggesting.told(finding.text)}{known}", style)])
    if finding.ids:
        shown_ids = ", ".join(finding.ids[:IDS_SHOWN])
        more = finding.count - min(finding.count, IDS_SHOWN)
        out.labelled(
            "messages" if finding.of_messages else "ids", [f"{shown_ids}{f' and {more:,} more' if more > 0 else ''}"]
        )
    out.labelled("evidence", list(_evidence(finding, now)))
    if not finding.accepted:
        out.commands([(step.do, step.command) for step in finding.next])


def _evidence(finding: Finding, now: int) -> Iterator[str]:
    if finding.first_at is not None:
        ago = f"from {clock_time(finding.first_at, now)} ({span(now - finding.first_at)} ago)"
        until = finding.last_at is not None and finding.last_at != finding.first_at
        yield f"{ago} to {clock_time(finding.last_at or 0, now)}" if until else ago
    if finding.figures:
        yield "; ".join(f"{name}: {value}" for name, value in finding.figures.items())
