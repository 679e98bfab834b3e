"""The hospital's billing log: events, whole cases of them, and what the log says the cases end as."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from crossfoot.errors import NotFound, UsageError

FILE = "hospital_billing.csv.gz"


class Event(msgspec.Struct, frozen=True):
    """One row of the log.

    Attributes:
        sequence: its place in the log, rising within a case.
        predecessor: the sequence of the case's event before it, 0 for the first.
        state: the state the case is in from now on; empty when the event does not change it.
    """

    sequence: int
    case: str
    activity: str
    timestamp: str
    state: str
    closecode: str
    speciality: str
    predecessor: int

    @property
    def operation(self) -> str:
        """The business action that it asks for."""
        return f"case:{self.case}:{self.sequence}"


class CaseEnd(msgspec.Struct, frozen=True):
    """How a case ends.

    Attributes:
        state: its last state.
        events: how many events it had.
        issued: invoices issued.
        reversed: invoices taken back.
    """

    state: str = ""
    events: int = 0
    issued: int = 0
    reversed: int = 0


def folder() -> Path:
    """Where the example is: inside the installed package, or in the clone it is run from.

    Raises:
        NotFound: in neither.
    """
    here = Path(__file__).resolve().parent
    for place in (here / "hospital", here.parents[2] / "examples" / "hospital"):
        if (place / FILE).exists():
            return place
    raise NotFound(f"the demo's log, {FILE}, is not in this installation: install crossfoot from its wheel or a clone")


def read(path: Path) -> list[Event]:
    """Every event, in the order of the file: case after case."""
    last: dict[str, int] = {}
    events = []
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            case, sequence = row["case_id"], int(row["sequence"])
            events.append(
                Event(
                    sequence, case, row["activity"], row["timestamp"], row["state"], row["closecode"],
                    row["speciality"], last.get(case, 0),
                )
            )  # fmt: skip
            last[case] = sequence
    return events


def choose(events: Sequence[Event], count: int) -> list[Event]:
    """The first whole cases, `count` events of them at most, in the order in which the hospital saw them.

    Raises:
        UsageError: there is no whole case among so few.
    """
    chosen: list[Event] = []
    for case in _cases(events):
        if len(chosen) + len(case) > count:
            break
        chosen += case
    if not chosen:
        raise UsageError(f"--messages {count}: the first case alone has more events; ask for {MINIMUM} or more")
    return _by_time(chosen)


MINIMUM = 300
"""The fewest events in which every fault finds a place."""


def ends(events: Iterable[Event]) -> dict[str, CaseEnd]:
    """How each case ends, by the log alone."""
    result: dict[str, CaseEnd] = {}
    for event in sorted(events, key=lambda one: one.sequence):
        before = result.get(event.case, CaseEnd())
        result[event.case] = CaseEnd(
            state=event.state or before.state,
            events=before.events + 1,
            issued=before.issued + (event.activity == "BILLED"),
            reversed=before.reversed + (event.activity == "STORNO"),
        )
    return result


def _cases(events: Iterable[Event]) -> list[list[Event]]:
    cases: dict[str, list[Event]] = {}
    for event in events:
        cases.setdefault(event.case, []).append(event)
    return list(cases.values())


def _by_time(events: Sequence[Event]) -> list[Event]:
    """Cases side by side, by time; within a case by sequence, where the log's clock once disagrees."""
    latest: dict[str, str] = {}
    keyed = []
    for event in events:
        latest[event.case] = max(event.timestamp, latest.get(event.case, ""))
        keyed.append((latest[event.case], event.sequence, event))
    keyed.sort(key=lambda one: one[:2])
    return [event for _, _, event in keyed]
