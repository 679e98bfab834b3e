"""The pages of `crossfoot replay`: a plan, a report, a list."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence

from crossfoot.books.replays import ABORTED, FINISHED, PAUSED, PLANNED, PLANNING, RUNNING, Replay
from crossfoot.books.replays_reported import LEFT_ALONE
from crossfoot.cli.output import Cell, Output
from crossfoot.cli.suggesting import naming
from crossfoot.recover.phrases import clock_time, plural, span
from crossfoot.recover.replay.report import BAD, Report

STYLES = {PLANNED: "", RUNNING: "cyan", FINISHED: "green", PAUSED: "yellow", ABORTED: "red"}


def show_report(out: Output, told: Report, target: str | None, db: str | None) -> None:
    """A replay as it stands, and what to do next."""
    now = time.time_ns() // 1000
    notes = [f"why: {told.why} ({told.by}, {clock_time(told.planned_at, now)})"]
    notes += [f"{told.state}: {told.note}"] if told.note else []
    notes += _warnings(told, now)
    head = f"{plural(told.members, 'member')} of queue {told.queue}, {told.waiting:,} waiting, {told.moved:,} moved"
    out.heading(f"REPLAY {told.number} {told.state.upper()}", head, notes, style=STYLES.get(told.state, ""))
    out.gap()
    rows: list[list[Cell]] = [
        [
            f"{line.count:,}",
            line.name if line.moves else (line.name, "yellow"),
            "moves" if line.moves else "" if line.name == LEFT_ALONE else "stays",
            line.reason or "",
        ]
        for line in told.classes
    ]
    out.table((">members", "will be", "", "because"), rows, title="plan")
    if told.load:
        out.labelled(
            "load", [f"about {span(round(told.load * 1_000_000))} of handling, by what the latest of each type took"]
        )
    if told.moved:
        bad = {fate.label for fate in BAD}
        out.gap()
        ends: list[list[Cell]] = [
            [f"{count:,}", (fate, "red" if fate in bad else "")] for fate, count in told.ended.items()
        ]
        out.table((">members", "fate now"), ends, title="moved")
    if told.changed:
        out.labelled("left alone", [f"{plural(told.changed, 'member')}: something had happened to them since the plan"])
    if told.failing:
        out.gap()
        failing: list[list[Cell]] = [
            [f"{one.count:,}", one.fingerprint or "", (one.title or "", "red")] for one in told.failing
        ]
        out.table((">members", "cause", ""), failing, title="failed after they were moved")
    if told.breached:
        out.gap()
        late = {name: told.late.get(name, 0) for name in told.breached}
        lacking: list[list[Cell]] = [
            [f"{count - late[name]:,}", f"{late[name]:,}", (name, "red")] for name, count in told.breached.items()
        ]
        out.table(
            (">never came", ">came late", "expectation"), lacking, title="took effect without what is expected in time"
        )
    if told.awaited:
        out.labelled("awaited", [f"what is expected of {plural(told.awaited, 'member')} may still come in time"])
    named = {**told.ids, **{f"in replay {one.replay}": one.ids for one in told.shared}}
    for name, ids in named.items():
        more = " ..." if len(ids) > 5 else ""
        out.labelled(name, [" ".join(ids[:5]) + more])
    if told.letters:
        out.labelled("letters", [f"{told.letters:,} dead letters are still to be forgotten by the queue"])
    out.gap()
    out.commands(_next(told, target or "MODULE:NAME", db))


def _next(told: Report, target: str, db: str | None) -> list[tuple[str, str | None]]:
    number, book = told.number, naming(db)
    service = target if target == "MODULE:NAME" else shlex.quote(target)
    again = ("plan another one for what is left", f"crossfoot replay plan {service} --why '...'")
    end = ("end it", f"crossfoot replay abort {number} --reason '...'{book}")
    if told.state == PLANNING:
        return [("if nobody is planning it any more, end it", end[1]), ("and plan it again", again[1])]
    if told.state in (PLANNED, RUNNING, PAUSED) and not told.runs:
        return [end, again]
    if told.state == PLANNED and told.waiting:
        return [
            ("run it, while workers run", f"crossfoot replay run {service} {number}"),
            ("or see first what handlers would do", f"crossfoot replay dry-run {service} {number} --most 20"),
        ]
    if told.state == PAUSED:
        return [
            ("go on with it", f"crossfoot replay resume {service} {number}"),
            ("or end it", end[1]),
        ]
    if told.state == RUNNING and told.runner_gone:
        return [
            ("its runner has died: go on with it", f"crossfoot replay resume {service} {number}"),
            ("or end it", end[1]),
        ]
    if told.state == RUNNING:
        return [("stop it for now", f"crossfoot replay pause {number}{book}")]
    steps: list[tuple[str, str | None]] = []
    if told.breached:
        steps.append(("see what is missing", f"crossfoot outcomes{book}"))
    if told.failing or any(told.ended.get(fate.label) for fate in BAD):
        steps.append(("see what they failed of", f"crossfoot dead list --by-cause{book}"))
    if told.state == ABORTED and told.waiting:
        steps.append(again)
    return steps


def _warnings(told: Report, now: int) -> Iterator[str]:
    open_ = told.state in (PLANNED, RUNNING, PAUSED)
    if not told.unchanged:
        yield "its members are not those that were planned" + (": it will not be run; plan it again" if open_ else "")
    for one in told.shared:
        yield (
            f"{plural(one.count, 'member')} {'is' if one.count == 1 else 'are'} of replay {one.replay}, too, which is {one.state}: "
            "whichever moves a message first has it, and the other leaves it alone"
        )
    if told.selection.transform is not None:
        yield f"payloads are mended by {told.selection.transform}: {plural(told.mended, 'member')} would carry something else than before"
    if told.runner is not None and told.runner_seen_at is not None:
        seen = f"{told.runner}, whose last sign of life was {span(now - told.runner_seen_at)} ago"
        yield f"run by {seen}{': longer than it keeps a replay without one' if told.runner_gone else ''}"


def show_replays(out: Output, rows: Sequence[Replay]) -> None:
    """A line for each."""
    now = time.time_ns() // 1000
    out.heading("REPLAYS" if rows else "NO REPLAYS", plural(len(rows), "replay"))
    lines: list[list[Cell]] = [
        [
            str(row.number), (row.state, STYLES.get(row.state, "")), row.queue, f"{row.count:,}", f"{span(now - row.at)} ago", row.by,
            row.why,
        ]
        for row in rows
    ]  # fmt: skip
    out.gap()
    out.table((">replay", "state", "queue", ">members", ">planned", "by", "why"), lines)
