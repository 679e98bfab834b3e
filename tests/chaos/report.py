"""The table at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tests.chaos.run import Report

LEFT_OUT = "is left out, its server cannot be had"

SHOWN = 10
"""Lines of a kind; the rest is in the JSON."""


def show(console: Console, reports: Sequence[Report]) -> None:
    console.print(_table(reports))
    for report in reports:
        console.print(f"[bold]{report.pair}[/bold], seed {report.seed}", highlight=False)
        for title, counts in (
            ("faults", report.faults),
            ("in the book", report.verdict.evidence),
            ("processes", report.endings),
        ):
            told = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
            console.print(f"  {title}: {told}", soft_wrap=True, highlight=False)
        if report.verdict.forgotten:
            ids = ", ".join(report.verdict.forgotten[:SHOWN])
            console.print(
                f"  confirmed by the broker, not in its log, and named as vanished: {len(report.verdict.forgotten)} ({ids})",
                soft_wrap=True, highlight=False,
            )  # fmt: skip
        if report.spared:
            console.print(f"  spared: {report.spared}", soft_wrap=True, highlight=False)
        for line in _complaints(report):
            console.print(f"  {line}", soft_wrap=True, highlight=False, style="red", markup=False)
        if report.folder:
            console.print(f"  logs, notes and the record of faults: {report.folder}", soft_wrap=True, highlight=False)


def _table(reports: Sequence[Report]) -> Table:
    made = Table(title="chaos")
    made.add_column("pair", no_wrap=True)
    for title in (
        "minutes", "messages", "faults", "lost", "doubled", "unaccounted", "in doubt, there / not", "unseen", "other",
        "recovery s", "closing s",
    ):  # fmt: skip
        made.add_column(title, justify="right")
    for report in reports:
        verdict = report.verdict
        doubt = f"{verdict.doubtful_there} / {verdict.doubtful - verdict.doubtful_there}"
        counts = (len(verdict.lost), len(verdict.doubled), len(verdict.unaccounted))
        made.add_row(
            report.pair, f"{report.seconds / 60:.1f}", f"{report.messages:,}", str(sum(report.faults.values())),
            *map(str, counts), doubt, str(len(verdict.unseen)), str(len(verdict.problems)), _seconds(report.recovery),
            _seconds(report.closing), style=None if report.clean else "bold red",
        )  # fmt: skip
    return made


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"


def _complaints(report: Report) -> list[str]:
    verdict = report.verdict
    lines: list[str] = []
    for title, found in (
        ("lost", verdict.lost), ("doubled", verdict.doubled), ("unaccounted", verdict.unaccounted),
        ("unseen", verdict.unseen), ("problem", verdict.problems),
    ):  # fmt: skip
        lines += [f"{title}: {one}" for one in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"{title}: and {len(found) - SHOWN} more")
    return lines
