"""`crossfoot outcomes`: whether the business got what it was promised, and who did not."""

from __future__ import annotations

import shlex
import sys
import time
from difflib import get_close_matches
from typing import Annotated, Any

import typer

from crossfoot.books.fate import Fate
from crossfoot.books.store import Book
from crossfoot.cli.loading import load_app
from crossfoot.cli.options import Color, Database, Json
from crossfoot.cli.outcomes_up_to_date import bring_up_to_date
from crossfoot.cli.output import Cell, Output, When, jsonable, note, print_json
from crossfoot.cli.reading import reading
from crossfoot.cli.who import typist
from crossfoot.errors import NotFound, UsageError
from crossfoot.outcomes import evaluating
from crossfoot.outcomes import invariant as invariants
from crossfoot.outcomes.evaluating import Breach, Report
from crossfoot.outcomes.invariant import Statement
from crossfoot.outcomes.summary import Summary, summarize
from crossfoot.recover.phrases import moment, plural, span

NAMED = 5
"""Ids of accepted messages that are said."""

NARROW = 110
"""Columns below which an expectation stands above its figures."""

Target = Annotated[
    str | None,
    typer.Argument(
        metavar="MODULE:NAME",
        help="a service whose expectations and invariants the book is to keep first",
        show_default=False,
    ),
]
Limit = Annotated[int, typer.Option(min=1, help="messages that are named of each expectation")]
Stored = Annotated[bool, typer.Option("--stored", help="only show what was found last; evaluate and ask nothing")]
Forget = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="forget that expectation or invariant, and what it found", show_default=False),
]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ID",
        help="accept that this message, or those of this subject, are missing or late; may be repeated; - reads ids from standard input",
        show_default=False,
    ),
]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="why it is accepted; the book keeps it", show_default=False)]
By = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="who accepts it; the user of this machine unless given", show_default=False),
]


OfFate = Annotated[
    str | None,
    typer.Option(metavar="FATE", help="name only messages of this fate, as settled or dead", show_default=False),
]


def outcomes(
    target: Target = None,
    db: Database = None,
    limit: Limit = 100,
    fate: OfFate = None,
    stored: Stored = False,
    forget: Forget = None,
    accept: Accept = None,
    reason: Reason = "",
    by: By = None,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """Whether every outcome that is expected has come, and every invariant holds; with the ids of those without.

        crossfoot outcomes
        crossfoot outcomes billing:app
        crossfoot outcomes --db billing.db --json
        crossfoot outcomes --fate settled
        crossfoot outcomes --accept $ID --reason "sent by hand"

    A worker has the book keep what its program states, and evaluates it. This command reads what is new as well, and asks the
    invariants, over a connection that can only read. What a program no longer states is kept until it is forgotten. What is accepted
    counts as excused.

    Exits with 1 when something is missing or came late, or an invariant does not hold or could not be told.
    """
    if target is not None:
        app = load_app(target)
        if db is not None:
            raise UsageError(f"{target} says itself where its book is: leave --db out")
        db = app.book.path
        try:
            app.promises.register(app.book)
        finally:
            app.book.close()
    if forget is not None:
        _forget(db, forget)
    named = _fate(fate)
    if accept and not reason.strip():
        raise UsageError("--accept wants a --reason: write why, for whoever asks the book later")
    with reading(db) as (connection, path):
        # Before anything is accepted: what is missing by now may not be known to be.
        if not stored and (behind := bring_up_to_date(path, connection, ask_all=True)):
            note(f"not everything could be posted and evaluated: {behind}")
        if accept:
            _accept(path, _names(accept), reason.strip(), by or typist())
        found = summarize(connection, time.time_ns() // 1000, limit=limit, fate=named)
    if as_json:
        print_json(document(found))
    else:
        show(Output(color), found, limit, fate=fate)
    if not found.kept:
        raise typer.Exit(1)


def _fate(name: str | None) -> Fate | None:
    """The fate of that name."""
    labels = {fate.label: fate for fate in Fate}
    if name is not None and name not in labels:
        near = get_close_matches(name, labels, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it is one of {', '.join(labels)}"
        raise UsageError(f"--fate {name}: there is no such fate: {hint}")
    return labels[name] if name is not None else None


def _names(given: list[str]) -> list[str]:
    """What is to be accepted, with the lines of standard input where `-` stands for them."""
    return [name for one in given for name in (sys.stdin.read().split("\n") if one == "-" else [one]) if name.strip()]


def _accept(path: str, names: list[str], reason: str, by: str) -> None:
    if not names:
        raise UsageError("--accept -: standard input names no message: write an id a line")
    book = Book(path)
    try:
        ids = evaluating.accept(book.open(), names, by=by, reason=reason)
    finally:
        book.close()
    shown = ", ".join(ids[:NAMED]) + (", ..." if len(ids) > NAMED else "")
    note(f"accepted for {plural(len(ids), 'message')}, by {by}: {shown}")


def _forget(db: str | None, name: str) -> None:
    with reading(db) as (_, path):
        book = Book(path)
        try:
            evaluating.forget(book, name)
        except NotFound:
            invariants.forget(book, name)
        finally:
            book.close()
    note(f"{name} is forgotten; a worker whose program states it has the book keep it again")


def document(found: Summary) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "kept": found.kept,
        "breached": found.breached,
        **jsonable(found),
    }


def show(out: Output, found: Summary, limit: int, *, fate: str | None = None) -> None:
    """The page; `fate` is the only one whose messages are named."""
    if not found.expectations and not found.invariants:
        out.heading("NOTHING IS STATED", "the book keeps neither expectations nor invariants", style="yellow")
        out.gap()
        out.commands(
            [("have it keep what a program states with app.expect and app.invariant", "crossfoot outcomes MODULE:NAME")]
        )
        return
    if found.kept:
        told = f"{plural(len(found.expectations), 'expectation')} and {plural(len(found.invariants), 'invariant')}"
        excused = sum(one.excused for one in found.expectations)
        well = "has come, has time, or is excused" if excused else "has come, or has time"
        out.heading("KEPT", f"{told}: everything that was promised {well}", style="green")
    else:
        out.heading("BREACHED", f"{_breached(found)}: {', '.join(found.breached)}", style="red")
    out.gap()
    _show_expectations(out, found)
    for one in found.expectations:
        _show_breaches(out, "missing", one, one.missing_messages, one.missing, found.as_of, limit, fate)
        _show_breaches(out, "late", one, one.late_messages, one.late, found.as_of, limit, fate)
        _show_accepted(out, one)
    for statement in found.invariants:
        _show_invariant(out, statement)
    named = [breach for one in found.expectations for breach in (*one.missing_messages, *one.late_messages)]
    if named:
        # One that took effect without it is told by no other command; a dead one is.
        first = next((breach for breach in named if breach.fate == Fate.SETTLED.label), named[0])
        which = "the first" if first is named[0] else "the first that is settled"
        out.gap()
        out.commands([(f"see what happened to {which}", f"crossfoot why {shlex.quote(first.id)}")])


def _breached(found: Summary) -> str:
    """How many of each."""
    names = set(found.breached)
    parts = []
    for what, all_of_them in (("expectation", found.expectations), ("invariant", found.invariants)):
        if all_of_them:
            broken = sum(one.name in names for one in all_of_them)
            parts.append(f"{broken:,} of {plural(len(all_of_them), what)}")
    return " and ".join(parts)


def _show_accepted(out: Output, one: Report) -> None:
    """Who accepted what, and why."""
    if not one.acceptances:
        return
    out.gap()
    out.line(f"accepted: {one.name}")
    for each in one.acceptances:
        which = f"{each.example} and {each.count - 1:,} more" if each.count > 1 else each.example
        out.labelled("accepted", [f"{which}, by {each.by}, {moment(each.at)}: {each.reason}"])


def _show_expectations(out: Output, found: Summary) -> None:
    if 0 < out.width < NARROW:
        for one in found.expectations:
            out.line(one.text if one.is_unnamed else f"{one.name}: {one.text}", "bold")
            figures = ("met", "waiting", "excused", "late", "missing")
            told = ", ".join(f"{getattr(one, name):,} {name}" for name in figures if getattr(one, name))
            out.line(
                f"  {plural(one.opened, 'message')}: {told}" if told else "  no message yet",
                "red" if one.breached else "",
            )
        return
    rows: list[list[Cell]] = [
        [
            f"{one.opened:,}", f"{one.met:,}", f"{one.waiting:,}", f"{one.excused:,}",
            (f"{one.late:,}", "red" if one.late else ""), (f"{one.missing:,}", "red" if one.missing else ""),
            one.text if one.is_unnamed else f"{one.name}: {one.text}",
        ]
        for one in found.expectations
    ]  # fmt: skip
    out.table((">messages", ">met", ">waiting", ">excused", ">late", ">missing", "expectation"), rows)


def _show_breaches(
    out: Output, what: str, one: Report, breaches: tuple[Breach, ...], count: int, now: int, limit: int,
    fate: str | None,
) -> None:  # fmt: skip
    if not count:
        return
    out.gap()
    narrow = 0 < out.width < NARROW
    rows: list[list[Cell]] = [
        [breach.id, breach.subject or "", breach.fate, (_since(breach, now, narrow=narrow), "red")]
        for breach in breaches
    ]
    out.table(("message", "subject", "fate", what), rows, title=f"{what}: {one.name}")
    if count > len(breaches):
        others = f", of other fates than {fate} or beyond --limit {limit}" if fate else f" (--limit {limit})"
        out.line(f"... and {count - len(breaches):,} more{others}")


def _since(breach: Breach, now: int, *, narrow: bool) -> str:
    if breach.answered_at is not None:
        return f"came {span(breach.answered_at - breach.due)} late"
    return f"due {span(now - breach.due)} ago" + ("" if narrow else f", at {moment(breach.due)}")


def _show_invariant(out: Output, one: Statement) -> None:
    out.gap()
    if one.result is None:
        out.line(f"invariant {one.name}: not asked yet")
    elif one.result.holds is None:
        out.line(f"invariant {one.name}: cannot be told: {one.result.error}", "yellow")
    elif one.result.holds:
        out.line(f"invariant {one.name}: holds", "green")
    else:
        more = "at least " if one.result.at_least else ""
        out.line(f"invariant {one.name}: broken by {more}{one.result.count:,}", "red")
        out.labelled("ids", [", ".join(one.result.ids) + (", ..." if one.result.count > len(one.result.ids) else "")])
