"""The final states of the cases and their invoices, in the business tables, against what the log says they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from crossfoot.books.store import Book
from crossfoot.demo.log import CaseEnd


class FinalStates(msgspec.Struct, frozen=True):
    """How the cases ended.

    Attributes:
        cases: in the log.
        equal: cases with the log's state, as many effects as events, and its invoices.
        different: the others, and what differs.
        by_state: cases by final state, by the business tables.
        invoices: issued and reversed, by the business tables.
    """

    cases: int
    equal: int
    different: list[str]
    by_state: dict[str, int]
    invoices: dict[str, int]


def compare(book: Book, expected: Mapping[str, CaseEnd]) -> FinalStates:
    """Read the business tables, which have no unique keys: what happened twice is there twice."""
    actual, doubled = _actual(book)
    different = []
    for case in sorted({*expected, *actual}):
        ought, found = expected.get(case), actual.get(case)
        if ought != found or case in doubled:
            different.append(f"{case}: {_differences(ought, found, case in doubled)}")
    return FinalStates(
        cases=len(expected),
        equal=len(expected) - len(different),
        different=different,
        by_state=dict(Counter(end.state for end in actual.values()).most_common()),
        invoices={
            "issued": sum(end.issued for end in actual.values()),
            "reversed": sum(end.reversed for end in actual.values()),
        },
    )


def _actual(book: Book) -> tuple[dict[str, CaseEnd], set[str]]:
    with book.reading() as connection:
        invoices = {
            (case, what): count
            for case, what, count in connection.execute("SELECT case_id, what, count(*) FROM invoices GROUP BY 1, 2")
        }
        rows = connection.execute(
            "SELECT case_id, max(state), sum(events), count(*) FROM cases GROUP BY case_id"
        ).fetchall()
    ends = {
        case: CaseEnd(
            state=state, events=events,
            issued=invoices.get((case, "issued"), 0), reversed=invoices.get((case, "reversed"), 0),
        )
        for case, state, events, _ in rows
    }  # fmt: skip
    return ends, {case for case, _, _, count in rows if count > 1}


def _differences(ought: CaseEnd | None, found: CaseEnd | None, doubled: bool) -> str:
    if ought is None or found is None:
        return "not in the log" if ought is None else "never handled"
    parts = [
        f"{name} is {getattr(found, name)!r}, by the log {getattr(ought, name)!r}"
        for name in CaseEnd.__struct_fields__
        if getattr(ought, name) != getattr(found, name)
    ]
    return ", ".join(parts + ["two rows for one case"] * doubled)
