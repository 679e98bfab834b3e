"""Opening buckets: from two totals that differ to the ids of the messages that make the difference.

Only the buckets, queues and types whose own sums differ are opened, and their messages are looked at one by one. A
message that looks odd is folded again from its entries before it is believed, because the ledger may lag.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from crossfoot.books import queries
from crossfoot.books.balance import (
    ACCEPTED,
    AT_THE_BROKER,
    LEDGER,
    NOT_ACCEPTED,
    OPERATIONS,
    Finding,
    Rule,
    Sums,
    total,
)
from crossfoot.books.custody import MOST_IDS
from crossfoot.books.digest import EMPTY, Tally
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate, fold, posted_fate
from crossfoot.connection import Connection

Cell = tuple[int, str, str]
"""Bucket, queue and type."""


class Standing(msgspec.Struct, frozen=True):
    """What the two sides of a rule see of one message."""

    key: int
    id: str
    fate: int
    marks: int
    d0: int
    d1: int
    operation: int


Test = Callable[[Standing], bool]

SIDES: dict[str, tuple[Test, Test, str]] = {
    ACCEPTED.name: (
        lambda m: m.fate != 0 and m.fate not in NOT_ACCEPTED,
        lambda m: m.marks & AT_THE_BROKER != 0,
        "with a fate that needs the broker's word and without it, or the other way round",
    ),
    OPERATIONS.name: (
        lambda m: m.fate == Fate.SETTLED,
        lambda m: m.operation == 1,
        "settled without an operation in the business database, or the other way round",
    ),
    LEDGER.name: (
        lambda m: m.fate == Fate.SETTLED,
        lambda m: m.marks & (1 << Kind.COMMITTED) != 0,
        "settled without a committed entry, or the other way round",
    ),
}
"""What the left and the right side of a rule count, and what it means to be counted on one side only."""

EITHER = {ACCEPTED.name: (Fate.DISCARDED, Fate.IN_DOUBT)}
"""Fates that are the same to both sides: what was discarded or is in doubt may or may not have been accepted."""

_CELLS = (
    "SELECT bucket, queue, type, measure, count, d0, d1 FROM crossfoot_tallies t WHERE {where} AND measure IN ({marks})"
)

_STANDINGS = f"""
SELECT m.key, m.id, m.fate, m.marks, m.d0, m.d1,
  EXISTS (SELECT 1 FROM crossfoot_operations o WHERE o.message = m.key AND o.kind = {Kind.COMMITTED.value})
FROM crossfoot_messages m INDEXED BY crossfoot_messages_bucket WHERE m.bucket = ? AND m.queue = ? AND m.type = ?
"""


_ARCHIVED = "SELECT measure, count, d0, d1 FROM crossfoot_archived WHERE bucket = ? AND queue = ? AND type = ?"


def bisect(
    connection: Connection, rule: Rule, queue: str, *, where: str, parameters: Mapping[str, Any], waiting: int
) -> Finding:
    """Find the messages for which `rule` does not hold. Within the caller's read transaction.

    Args:
        where: which tallies are meant, as a condition on table `t`, and its parameters.
        waiting: entries that are not posted; while there are any, a tally alone is not blamed.
    """
    ids: list[str] = []
    wrong: list[Cell] = []
    for cell, sums in _differing(connection, rule, where, parameters).items():
        standings = [Standing(*row) for row in connection.execute(_STANDINGS, cell)]
        ids += [m.id for m in odd(rule, standings) if odd(rule, [_again(connection, m)])]
        left, right, _ = SIDES[rule.name]
        kept = _without_archived(connection, cell, sums)
        differs = counted(left, standings) != total(rule.left[0], kept)
        if differs or (len(rule.right) == 1 and counted(right, standings) != total(rule.right[0], kept)):
            wrong.append(cell)
    if ids:
        text = f"{len(ids):,} {SIDES[rule.name][2]}"
        return Finding(
            identity=rule.name, queue=queue, holds=False, text=text, ids=tuple(ids[:MOST_IDS]), count=len(ids)
        )  # fmt: skip
    if not wrong:
        return Finding(identity=rule.name, queue=queue)
    bucket, _, type_ = wrong[0]
    text = f"the tallies of {len(wrong):,} buckets are not those of their messages, first {bucket} of {type_}"
    if waiting:
        return Finding(
            identity=rule.name, queue=queue, holds=None, text=f"{text}: {waiting:,} entries are not posted yet"
        )
    return Finding(identity=rule.name, queue=queue, holds=False, text=f"{text}: run crossfoot verify")


def odd(rule: Rule, standings: Iterable[Standing]) -> list[Standing]:
    """Messages that one side of the rule counts and the other does not."""
    left, right, _ = SIDES[rule.name]
    return [m for m in standings if left(m) != right(m) and m.fate not in EITHER.get(rule.name, ())]


def counted(side: Test, standings: Iterable[Standing]) -> Tally:
    """The tally of what one side counts."""
    result = EMPTY
    for m in standings:
        if side(m):
            result += Tally(1, m.d0, m.d1)
    return result


def _differing(connection: Connection, rule: Rule, where: str, parameters: Mapping[str, Any]) -> dict[Cell, Sums]:
    cells: dict[Cell, dict[str, Tally]] = defaultdict(dict)
    marks = ", ".join(f"'{measure}'" for measure in sorted(rule.measures))
    for bucket, queue, type_, measure, *tally in connection.execute(
        _CELLS.format(where=where, marks=marks), parameters
    ):
        cells[bucket, queue, type_][measure] = Tally(*tally)
    return {cell: sums for cell, sums in cells.items() if not rule.holds(sums)}


def _without_archived(connection: Connection, cell: Cell, sums: Sums) -> Sums:
    """What the tallies have of the messages that are in the book."""
    archived = {measure: Tally(*tally) for measure, *tally in connection.execute(_ARCHIVED, cell)}
    return {measure: tally - archived.get(measure, EMPTY) for measure, tally in sums.items()}


def _again(connection: Connection, standing: Standing) -> Standing:
    """The same message by its own entries."""
    summary = fold(queries.entries_of(connection, standing.key))
    fate = posted_fate(summary)
    return msgspec.structs.replace(standing, fate=fate or 0, marks=summary.marks)
