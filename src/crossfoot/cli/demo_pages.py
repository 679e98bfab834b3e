"""What the demo shows at its end, for people and as JSON."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crossfoot.cli import balance
from crossfoot.cli.output import Cell, Output, jsonable
from crossfoot.cli.pages import fate_style, show_page
from crossfoot.connection import Connection
from crossfoot.demo.plan import LEFT_OUT, Fault
from crossfoot.demo.run import Count, Result
from crossfoot.recover.lookup import look_up
from crossfoot.recover.phrases import plural
from crossfoot.recover.why import Page

IDS_SHOWN = 3
WORTH_READING = (
    (Fault.REDELIVERED, "Delivered again while it was being handled; took effect once"),
    (Fault.REBALANCED, "Its partition was taken away while it was in hand; took effect once"),
    (Fault.ANSWER_LOST, "Published, or not? Nobody knew; sent again; took effect once"),
    (Fault.SWALLOWED, "Its handler swallowed an exception, and all seemed well"),
)
"""Faults of which one message's page is shown, and what it is about."""


def document(result: Result, connection: Connection, *, kept: Path | None) -> dict[str, Any]:
    """The result as `schemas/demo.json` describes it."""
    options, played, drawn = result.options, result.played, result.balance
    return {
        "well": not result.problems,
        "problems": result.problems,
        "seed": options.seed,
        "queue": options.queue,
        "workers": options.workers,
        "db": str(kept.absolute()) if kept is not None else None,
        "messages": result.events,
        "seconds": round(played.seconds, 3),
        "messages_per_second": round(played.messages_per_second, 1),
        "published": drawn.published,
        "fates": drawn.fates,
        "unaccounted": drawn.unaccounted,
        "identities": jsonable(drawn.identities),
        "faults": {fault.value: _fault(count) for fault, count in result.faults.items()},
        "left_out": {fault.value: why for fault, why in LEFT_OUT.get(options.queue, {}).items()},
        "after_faults": played.after_faults.fates,
        "recovered": jsonable(played.recovered),
        "final_states": jsonable(result.states),
        "why": [_only(page) for _, page in _worth_reading(result, connection)],
    }


def show(out: Output, result: Result, connection: Connection, *, kept: Path | None) -> None:
    """The result as a person reads it."""
    options = result.options
    _prose(
        out,
        f"{result.events:,} events of {result.cases:,} cases of a hospital's billing, seed {options.seed}, queue "
        f"{options.queue}, {plural(options.workers, 'worker process', 'worker processes')}.",
    )
    _after_faults(out, result)
    _repaired(out, result)
    _title(out, "3", "The books at the end")
    balance.show(_Excerpt(out, steps=False), result.balance, str(kept or "a book that is gone when this ends"))
    out.labelled("repaired", ["what these asked for was done by the messages published in their place"])
    _faults(out, result)
    _states(out, result)
    for number, (about, page) in enumerate(_worth_reading(result, connection), 6):
        _title(out, str(number), about)
        out.line(f"$ crossfoot why {page.message.id}" + (f" --db {kept}" if kept is not None else ""), "bold")
        out.gap()
        show_page(_Excerpt(out), page)
    out.gap()
    _verdict(out, result, kept)


def _after_faults(out: Output, result: Result) -> None:
    _title(out, "1", "The books when every fault had happened")
    rows: list[list[Cell]] = [
        [(fate, fate_style(fate)), (f"{count:,}", fate_style(fate))]
        for fate, count in result.played.after_faults.fates.items()
        if count
    ]
    out.table(("fate", ">messages"), rows)


def _repaired(out: Output, result: Result) -> None:
    recovered = result.played.recovered
    _title(out, "2", "Repaired by the books")
    _prose(
        out,
        f"By the books alone, {plural(len(recovered), 'message')} had no effect. The sender published each of these "
        "events again, corrected, for the same operation, and whoever was parked behind them went on.",
    )
    out.gap()
    by_fate: dict[str, list[str]] = {}
    for lost in sorted(recovered, key=lambda one: one.sequence):
        by_fate.setdefault(lost.fate, []).append(lost.id)
    rows: list[list[Cell]] = [[fate, f"{len(ids):,}", (_ids(ids), "dim")] for fate, ids in by_fate.items()]
    out.table(("fate", ">again", "ids"), rows)


def _faults(out: Output, result: Result) -> None:
    _title(out, "4", "Injected, by the injector's record, and found, by the books")
    rows: list[list[Cell]] = []
    for fault, count in result.faults.items():
        exact = not count.problems(fault)
        mark, style = (out.marks["done"], "green") if exact else (out.marks["failed"], "red")
        rows.append(
            [(mark, style), fault.value, f"{len(count.injected):,}", f"{len(count.found):,}", _told(count, exact)]
        )
    out.table(("", "fault", ">injected", ">found", "ids"), rows)
    left_out = LEFT_OUT.get(result.options.queue, {})
    out.labelled("left out", [f"{fault.value}: {why}" for fault, why in left_out.items()])


def _told(count: Count, exact: bool) -> Cell:
    if exact:
        return _ids(sorted(count.found, key=_by_number)), "dim"
    parts = [f"not found: {_ids(count.missing)}"] if count.missing else []
    parts += [f"not injected: {_ids(count.unexpected)}"] if count.unexpected else []
    return "; ".join(parts) or "never happened", "red"


def _states(out: Output, result: Result) -> None:
    states = result.states
    _title(out, "5", "How the cases ended, by the business tables and by the log")
    out.table(
        ("final state", ">cases"), [[state or "(none)", f"{count:,}"] for state, count in states.by_state.items()]
    )  # fmt: skip
    out.gap()
    style = "green" if states.equal == states.cases else "red"
    out.labelled("equal", [(f"{states.equal:,} of {states.cases:,} cases: state, events, invoices", style)])
    out.labelled("invoices", [f"{states.invoices['issued']:,} issued, {states.invoices['reversed']:,} reversed"])
    out.labelled("different", [(text, "red") for text in states.different[:10]])


def _verdict(out: Output, result: Result, kept: Path | None) -> None:
    injected = sum(len(count.injected) for count in result.faults.values())
    played = result.played
    if result.problems:
        out.heading("Not as it should be", "; ".join(result.problems), style="red")
    else:
        out.heading(
            f"{injected:,} faults injected, {injected:,} found, none invented",
            f"Every message has a fate, the books balance, and all {result.cases:,} cases ended as the hospital's log says.",
            [f"{played.seconds:.0f} s, {played.messages_per_second:,.0f} messages per second while there was work"],
            style="green",
        )  # fmt: skip
    if kept is None:
        out.commands([("keep the book and look around in it", "crossfoot demo --db demo.db")])
    else:
        out.commands(
            [
                ("see what the dead letters died of", f"crossfoot dead list --by-cause --db {kept}"),
                ("rebuild the book from its entries and compare", f"crossfoot verify --db {kept}"),
            ]
        )


def _worth_reading(result: Result, connection: Connection) -> Iterator[tuple[str, Page]]:
    for fault, about in WORTH_READING:
        count = result.faults.get(fault)
        for id_ in sorted(count.found if count is not None else (), key=_by_number)[:1]:
            page = look_up(connection, id_, time.time_ns() // 1000).page
            if page is not None:
                yield about, page


class _Excerpt(Output):
    """The same place, without the commands of a page that stands on its own; `steps` are told in words, or not at all."""

    def __init__(self, out: Output, *, steps: bool = True) -> None:
        self.__dict__.update(out.__dict__)
        self._steps = steps

    def commands(self, steps: Sequence[tuple[str, str | None]]) -> None:
        if self._steps:
            self.labelled("next", [do for do, _ in steps])


def _fault(count: Count) -> dict[str, Any]:
    return {
        "injected": len(count.injected),
        "found": len(count.found),
        "missing": count.missing,
        "unexpected": count.unexpected,
        "ids": sorted(count.found, key=_by_number),
    }


def _only(page: Page) -> dict[str, Any]:
    return {"id": page.message.id, "fate": page.fate, "reason": page.reason}


def _title(out: Output, number: str, title: str) -> None:
    out.line()
    out.line(f"{number}. {title}", "bold cyan")
    out.gap()


def _prose(out: Output, text: str) -> None:
    for line in textwrap.wrap(text, out.width, break_on_hyphens=False) if out.fancy else [text]:
        out.line(line)


def _ids(ids: Sequence[str]) -> str:
    more = len(ids) - IDS_SHOWN
    return ", ".join(ids[:IDS_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _by_number(id_: str) -> tuple[str, int, str]:
    """`event-9` before `event-10`."""
    head, _, tail = id_.partition("-")
    digits = tail.partition("-")[0]
    return head, int(digits) if digits.isdigit() else 0, id_
