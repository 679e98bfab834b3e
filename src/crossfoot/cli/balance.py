"""`crossfoot balance`: the books, crossfooted."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import typer
from msgspec import to_builtins

from crossfoot.books import queries
from crossfoot.books.balance import WARNINGS, Balance, Identity
from crossfoot.books.fate import Fate
from crossfoot.books.stock import Part, take_stock
from crossfoot.cli import suggesting
from crossfoot.cli.depths import contents_of
from crossfoot.cli.options import Color, Database, Json, QueueName, TypeName
from crossfoot.cli.output import Cell, Output, When, note, print_json
from crossfoot.cli.pages import fate_style
from crossfoot.cli.reading import catch_up, reading
from crossfoot.clock import SECOND, Micros
from crossfoot.connection import shown
from crossfoot.errors import UsageError
from crossfoot.recover.phrases import moment

IDS_SHOWN = 3
ACCOUNTED = frozenset(fate.label for fate in WARNINGS)

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)")
_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400}

COLUMNS = (
    "published",
    "refused",
    "received",
    "committed",
    "noop",
    "superseded",
    "suppressed",
    "operations",
    "parked",
    "acked",
)
"""Boundaries in the order in which a message passes them."""


def balance(
    db: Database = None,
    queue: QueueName = None,
    type_: TypeName = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="published from then on: 2h, 15min, 3d ago, or 2026-11-23T08:00Z"),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="published before then")] = None,
    no_queue: Annotated[
        bool, typer.Option("--no-queue", help="do not compare with what the queue itself holds")
    ] = False,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """Whether every message has a fate, and whether all boundaries count the same messages.

        crossfoot balance
        crossfoot balance --queue billing --since 2h
        crossfoot balance --json | jq .unaccounted

    Rows are messages by fate; columns are what each boundary counted by itself. Where two do not agree, by count or by
    the digest of the ids, the messages are named. Entries that are not posted yet are posted first.

    Exits with 1 when a message is unaccounted, an identity is broken, or something vanished, is stranded, stalled or
    has been in doubt for too long. Dead, expired and refused messages are accounted for: they are warnings.
    """
    now = time.time_ns() // 1000
    part = Part(queue=queue, type=type_, since=when(since, now), until=when(until, now))
    if part.since is not None and part.until is not None and part.since >= part.until:
        raise UsageError(f"--since {since} is not before --until {until}: no message was published in between")
    with reading(db) as (connection, path):
        behind = catch_up(path, connection)
        queries.check_names(connection, queue=queue, type_=type_)
        ask = None if no_queue else partial(contents_of, path=path)
        drawn = take_stock(connection, time.time_ns() // 1000, part=part, depth_of=ask)
    if behind:
        note(f"not everything could be posted, so this is the balance up to entry {drawn.posted:,}: {behind}")
    stated = {"--queue": queue, "--type": type_, "--since": since, "--until": until}
    narrowed = " ".join(f"{name} {value}" for name, value in stated.items() if value is not None)
    if as_json:
        print_json({"balanced": drawn.balanced and not behind, **to_builtins(drawn)})
    else:
        show(Output(color, db=db), drawn, path, narrowed=narrowed, behind=behind)
    if not drawn.balanced or behind:
        raise typer.Exit(1)


def show(out: Output, drawn: Balance, path: str, *, narrowed: str = "", behind: str = "") -> None:
    """The books as a person reads them.

    Args:
        narrowed: the options that leave only a part of them.
        behind: why newer entries are not in them.
    """
    name = shown(path)
    told = "; ".join(drawn.problems) if drawn.problems else "every message has a fate, and the books balance"
    if not drawn.problems and drawn.attention:
        told += f"; {', '.join(f'{found.count:,} {label}' for label, found in drawn.attention.items())}: somebody should look"
    if not drawn.published and not drawn.problems:
        told = f"no message fits {narrowed}" if narrowed else "nothing was ever published here"
    unchecked = [one.title for one in drawn.identities.values() if one.holds is None]
    if unchecked and drawn.published and not drawn.problems:
        told += f"; not checked: {'; '.join(unchecked)}"
    if behind:
        told = f"what came after entry {drawn.posted:,} is not counted, so nobody knows whether the books balance"
    out.heading(
        f"{drawn.published:,} published = {sum(drawn.fates.values()):,} with a fate + {drawn.unaccounted:,} unaccounted",
        f"{told}.", [f"{name}, as of {moment(drawn.as_of)}, entry {drawn.posted:,}"], style="red" if drawn.problems or behind else "green",
    )  # fmt: skip
    out.gap()
    names = list(drawn.queues)
    several = names if len(names) > 1 else []
    out.table(("fate", ">messages", *(f">{name}" for name in several)), list(_fates(drawn, several)))
    out.gap()
    out.table(("boundary", ">messages", *(f">{name}" for name in several)), list(_boundaries(drawn, several)))
    out.gap()
    for name, one in drawn.queues.items():
        if one.queue is not None:
            counts = ", ".join(f"{count:,} {what}" for what, count in one.queue.items())
            out.labelled("queue", [f"{name}, by its own count of all copies that ever were: {counts}"])
    out.gap()
    out.table(
        ("", "identity", ""), [row for name, one in drawn.identities.items() for row in _identity(out, name, one)]
    )
    out.gap()
    for label, found in drawn.attention.items():
        text = f"{found.count:,} {found.text}: {_ids(found.ids, found.count)}"
        out.labelled(label, [(text, "yellow" if label in ACCOUNTED else "red")])
    if drawn.unaccounted_ids:
        out.labelled("unaccounted", [(_ids(drawn.unaccounted_ids, drawn.unaccounted), "red")])
    for warning in drawn.warnings:
        out.labelled("note", [(suggesting.told(warning), "yellow")])
    out.commands(list(_next(drawn)))


def _next(drawn: Balance) -> Iterator[tuple[str, str | None]]:
    for label, found in drawn.attention.items():
        if label == Fate.DEAD.label:
            yield "see what the dead letters died of", "crossfoot dead list --by-cause"
        elif found.ids:
            yield f"see what became of the first {label} one", f"crossfoot why {shlex.quote(found.ids[0])}"
    if drawn.fates.get(Fate.DUPLICATE.label):
        yield (
            "see which were asked for twice, and took effect once",
            "crossfoot tail -n 1000 --no-follow --kind duplicate",
        )
    if any(identity.holds is False for identity in drawn.identities.values()):
        yield "rebuild the book from its entries and compare", "crossfoot verify"


def when(text: str | None, now: Micros) -> Micros | None:
    """A time as people write it: `2h` ago, or ISO 8601 (UTC unless it says otherwise).

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    ago = _AGO.fullmatch(text.strip().removesuffix("ago").strip())
    if ago:
        return now - round(float(ago[1]) * _SECONDS[ago[2]] * SECOND)
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(
            f"{text!r} is no time: write how long ago (90s, 15min, 2h, 3d) or a date and time (2026-11-23T08:00Z)"
        ) from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * SECOND)


def seconds(text: str, option: str) -> float:
    """A length of time as people write it: `90s`, `12h`, `3d`.

    Raises:
        UsageError: it is none.
    """
    found = _AGO.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise UsageError(f"{option} {text!r} is no length of time: write 90s, 15min, 12h or 3d")
    return float(found[1]) * _SECONDS[found[2]]


def _fates(drawn: Balance, queues: list[str]) -> Iterator[list[Cell]]:
    """Fates that occur; all of them are in the JSON."""
    for fate in Fate:
        count = drawn.fates.get(fate.label, 0)
        if count:
            style = fate_style(fate.label)
            per_queue = (f"{drawn.queues[name].fates[fate.label]:,}" for name in queues)
            yield [(fate.label, style), (f"{count:,}", style), *per_queue]
    yield ["unaccounted", (f"{drawn.unaccounted:,}", "red" if drawn.unaccounted else ""), *("" for _ in queues)]
    per_queue = (f"{drawn.queues[name].published:,}" for name in queues)
    yield [("published", "bold"), (f"{drawn.published:,}", "bold"), *per_queue]


def _boundaries(drawn: Balance, queues: list[str]) -> Iterator[list[Cell]]:
    for name in COLUMNS:
        if drawn.boundaries.get(name):
            per_queue = (f"{drawn.queues[queue].boundaries.get(name, 0):,}" for queue in queues)
            yield [name, f"{drawn.boundaries[name]:,}", *per_queue]


def _identity(out: Output, name: str, identity: Identity) -> Iterator[list[Cell]]:
    mark, style = {True: ("done", "green"), False: ("failed", "red"), None: ("open", "yellow")}[identity.holds]
    notes = [suggesting.told(note) for note in identity.notes]
    if identity.ids:
        notes.append(_ids(identity.ids, identity.count))
    if identity.unknown:
        notes.append(f"not in this book: {_ids(identity.unknown, identity.unknown_count)}")
    yield [(out.marks[mark], style), (identity.title, "" if identity.holds else style), notes[0] if notes else ""]
    for more in notes[1:]:
        yield ["", "", more]


def _ids(ids: tuple[str, ...], count: int) -> str:
    rest = count - min(len(ids), IDS_SHOWN)
    return ", ".join(ids[:IDS_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")
