"""The pages of `crossfoot replay`: a plan, a report, a list."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence

from crossfoot.books.replays import ABORTED, FINISHED, PAUSED, PLANNED, RUNNING, Replay
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
    if not told.unchanged:
        notes.append("its members are not those that were planned: it will not be run; plan it again")
    head = f"{plural(told.members, 'member')} of queue {told.queue}, {told.waiting:,} waiting, {told.moved:,} moved"
    out.heading(f"REPLAY {told.number} {told.state.upper()}", head, notes, style=STYLES.get(told.state, ""))
    out.gap()
    rows: list[list[Cell]] = [
        [
            f"{line.count:,}",
            line.name if line.moves else (line.name, "yellow"),
            "moves" if line.moves else "stays",
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
        lacking: list[list[Cell]] = [[f"{count:,}", (name, "red")] for name, count in told.breached.items()]
        out.table((">members", "expectation"), lacking, title="took effect without what is expected")
    if told.awaited:
        out.labelled("awaited", [f"what is expected of {plural(told.awaited, 'member')} may still come in time"])
    for name, ids in told.ids.items():
        more = " ..." if len(ids) > 5 else ""
        out.labelled(name, [" ".join(ids[:5]) + more])
    if told.letters:
        out.labelled("letters", [f"{told.letters:,} dead letters are still to be forgotten by the queue"])
    out.gap()
    out.commands(_next(told, target or "MODULE:NAME", db))


def _next(told: Report, target: str, db: str | None) -> list[tuple[str, str | None]]:
    number, book = told.number, naming(db)
    service = target if target == "MODULE:NAME" else shlex.quote(target)
    if told.state == PLANNED and told.waiting:
        return [
            ("run it, while workers run", f"crossfoot replay run {service} {number}"),
            ("or see first what handlers would do", f"crossfoot replay dry-run {service} {number} --most 20"),
        ]
    if told.state == PAUSED:
        return [
            ("go on with it", f"crossfoot replay resume {service} {number}"),
            ("or end it", f"crossfoot replay abort {number} --reason '...'{book}"),
        ]
    if told.state == RUNNING:
        return [("stop it for now", f"crossfoot replay pause {number}{book}")]
    if told.breached:
        return [("see what is missing", f"crossfoot outcomes{book}")]
    if any(told.ended.get(fate.label) for fate in BAD) or told.state == ABORTED:
        return [("see what they failed of", f"crossfoot dead list --by-cause{book}")]
    return []


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
