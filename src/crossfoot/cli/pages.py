"""The page about one message, and the list of several, as people see them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import msgspec

from crossfoot.books.fate import Fate
from crossfoot.cli.output import Cell, Output
from crossfoot.errors import EnvelopeInvalid
from crossfoot.message import decode
from crossfoot.recover.expecting import lacks
from crossfoot.recover.lookup import Found, Listed
from crossfoot.recover.phrases import clock_time, moment, plural, span
from crossfoot.recover.timeline import Mark, Moment
from crossfoot.recover.why import NEEDS_SOMEBODY, Linked, Page, Related

FIRST, LAST = 15, 25
"""Lines of a long timeline that are shown, from its beginning and its end."""

NARROW = 110
"""Columns below which a message's id and what is said of it stand below each other."""

MARK_STYLES = {Mark.DONE: "green", Mark.FAILED: "red", Mark.DOUBT: "yellow", Mark.OPEN: "cyan"}

_BAD = {fate.label for fate in NEEDS_SOMEBODY} | {"unaccounted"}
_GOOD = {fate.label for fate in (Fate.SETTLED, Fate.NOOP, Fate.SUPERSEDED, Fate.DUPLICATE, Fate.DISCARDED)}


def fate_style(fate: str) -> str:
    """Green where all is well, red where somebody is needed, cyan for what is under way."""
    return "red" if fate in _BAD else "green" if fate in _GOOD else "cyan"


def show_page(out: Output, page: Page, *, payload: Sequence[str] = ()) -> None:
    """Everything about one message; `payload` is what there is to say of what it carried."""
    row = page.message
    what = [row.type, row.subject or "", f"sequence {row.sequence}" if row.sequence is not None else ""]
    without = lacks(page.expected)
    out.heading(
        ", ".join(filter(None, (page.fate, without))).upper(), page.reason,
        [" · ".join(part for part in (*what, f"queue {row.queue}") if part), f"{row.id} from {row.source}"],
        style="red" if without else fate_style(page.fate),
    )  # fmt: skip
    out.gap()
    out.labelled("story", list(page.story))
    out.labelled("would have", list(page.would_have))
    out.gap()
    _timeline(out, page)
    out.labelled("clocks", [(text, "yellow") for text in page.clocks])
    out.gap()
    _around(out, page)
    out.labelled("payload", list(payload))
    if page.next:
        out.commands([(step.do, step.command) for step in page.next])
    else:
        out.labelled("next", [("nothing to do", "dim")])


def show_listed(out: Output, found: Found, now: int) -> None:
    """Several messages of one name, newest first."""
    several = plural(found.count, "message")
    told = ", ".join(f"{count:,} {fate}" for fate, count in found.fates.items())
    newest = "" if found.folded == found.count else f" of the newest {found.folded:,}"
    if found.lacking:
        told += f"; {found.lacking:,} without what was promised, or late"
    bad = next((line for line in found.listed if line.fate in _BAD or line.lacks), None)
    out.heading(
        found.name, f"{several} of this {found.kind}: {told}{newest}.", style="red" if bad or found.lacking else "green"
    )  # fmt: skip
    out.gap()
    rows = [_listed(line, now, narrow=0 < out.width < NARROW) for line in found.listed]
    titled = any(line.title for line in found.listed)
    out.table(("fate", "last entry", ">seq", "message", "type", "cause" if titled else "")[: len(rows[0])], rows)
    if found.count > len(found.listed):
        out.line(f"... and {found.count - len(found.listed):,} older ones: ask by message id")
    out.gap()
    wanted = bad or found.listed[0]
    out.commands(
        [("see the first that needs somebody" if bad else "see one of them", f"crossfoot why {_name(found, wanted)}")]
    )


def _name(found: Found, wanted: Listed) -> str:
    """The message's id, with its source or its queue where the id alone means several."""
    alike = [line.message for line in found.listed if line.message.id == wanted.message.id]
    one = wanted.message
    name = one.id if len(alike) == 1 else f"{one.source}|{one.id}"
    queue = (
        f" --queue {shlex.quote(one.queue)}"
        if len({line.queue for line in alike if line.source == one.source}) > 1
        else ""
    )
    return shlex.quote(name) + queue


def _listed(line: Listed, now: int, *, narrow: bool) -> list[Cell]:
    row = line.message
    what = " · ".join(part for part in (row.type, line.title) if part)
    return [
        (", ".join(filter(None, (line.fate, lacks(line.lacks)))), "red" if line.lacks else fate_style(line.fate)),
        f"{span(now - line.last_at)} ago" if line.last_at is not None else "",
        "" if row.sequence is None else str(row.sequence),
        *([f"{row.id}\n{what}"] if narrow else [row.id, row.type, (line.title or "", "red")]),
    ]


def payload(body: bytes | None) -> object:
    """What a message carried, for JSON: the event, or its bytes as text where they are none."""
    if body is None:
        return None
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body.decode("utf-8", "backslashreplace")


def payload_lines(body: bytes | None, *, erased_at: int | None = None) -> list[str]:
    """What a message carried, for a person.

    Args:
        erased_at: when payloads of its subject were erased.
    """
    if body is None and erased_at is not None:
        return [f"not kept, or erased: what messages of this subject carried was erased at {moment(erased_at)}"]
    return ["the book does not keep payloads (payloads = false)"] if body is None else _text(body).splitlines()


def _text(body: bytes) -> str:
    """The data of the event, indented; the bytes as they are where they are no event."""
    try:
        data = decode(body).data
    except EnvelopeInvalid as error:
        return f"not an event ({error}):\n{body[:4096].decode('utf-8', 'backslashreplace')}"
    if isinstance(data, bytes):
        return f"{len(data):,} bytes: {data[:200]!r}"
    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode()


def _timeline(out: Output, page: Page) -> None:
    lines = page.timeline
    if not lines:
        return
    first = lines[0].at
    shown = list(lines) if len(lines) <= FIRST + LAST else [*lines[:FIRST], None, *lines[-LAST:]]
    rows: list[list[Cell]] = []
    holder: tuple[int | None, str] = (None, "")
    for line in shown:
        if line is None:
            rows.append(["", "", f"... {len(lines) - FIRST - LAST:,} entries between: --json shows them", "", ""])
            continue
        same = (line.delivery, line.who) == holder
        holder = (line.delivery, line.who)
        rows.append(_row(out, line, first, told_who=not same))
    out.table(("", ">", "", "", ""), rows, title=f"What happened, since {moment(first)}")


def _row(out: Output, line: Moment, first: int, *, told_who: bool) -> list[Cell]:
    style = MARK_STYLES[line.mark]
    who = line.who if told_who and line.who and line.who not in line.text else ""
    return [
        (out.marks[line.mark], style),
        f"+{span(line.at - first)}" if line.at >= first else f"-{span(line.at - first)}",
        (line.what, style if line.mark is not Mark.DONE else ""),
        f"#{line.delivery}" if line.delivery is not None else "",
        ": ".join(part for part in (who, line.text) if part),
    ]


def _around(out: Output, page: Page) -> None:
    """The operation, outcomes, causes and related messages."""
    operation = page.operation
    if operation is not None and operation.at is None:
        out.labelled("operation", [operation.key, "not completed by any message"])
    elif operation is not None and operation.at is not None:
        who = "this message" if operation.by_this else operation.completed_by
        out.labelled("operation", [operation.key, f"{operation.kind} by {who}, {clock_time(operation.at, page.as_of)}"])
    out.labelled("outcomes", [" ".join(filter(None, (one.name, one.subject, one.facts))) for one in page.outcomes])
    for cause in page.causes:
        times = plural(cause.deliveries, "delivery", "deliveries")
        raised = [f"raised in {cause.raised}"] if cause.raised else []
        told = [cause.text, *raised, f"fingerprint {cause.fingerprint}"]
        out.labelled("cause", [(f"{cause.title}, {times}", "red"), *told])
    if page.archived is not None:
        kept = page.archived
        lines: list[Cell] = [f"seal {kept.seal}, {moment(kept.at)}: {kept.file}"]
        if kept.late:
            lines.append((f"{plural(kept.late, 'entry', 'entries')} came after that, and lie in the book", "yellow"))
        out.labelled("archived", lines)
    if any(abs(one.depth) > 1 or one.message is None for one in page.chain):
        top = page.chain[0].depth
        out.labelled("chain", [_linked(one, one.depth - top) for one in page.chain])
        return
    out.labelled("caused by", [_related(one) for one in page.parents])
    out.labelled("it caused", [_related(one) for one in page.children])


def _linked(one: Linked, indent: int) -> Cell:
    """One line of the chain, as far in as it is deep."""
    here = "  <- this message" if one.depth == 0 else ""
    what = one.message.type if one.message is not None else "message"
    return f"{'  ' * indent}{what} {one.id}: {one.fate}{here}", "red" if one.fate in _BAD else "bold" if here else ""


def _related(one: Related) -> Cell:
    return f"{one.message.type} {one.message.id}: {one.fate}", "red" if one.fate in _BAD else ""
