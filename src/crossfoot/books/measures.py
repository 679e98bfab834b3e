"""What is tallied: messages by fate, and by the boundaries that they passed; and the fold's rules as SQL, from the same tables."""

from __future__ import annotations

from crossfoot.books.entry import PROOFS, RANKS, Kind
from crossfoot.books.fate import FATE_OF_LATEST, FATE_OF_PROOF, Fate

MEASURED_KINDS = (Kind.REFUSED, Kind.PUBLISHED, Kind.RECEIVED, Kind.ACKED, Kind.PARKED, *PROOFS)
"""Boundaries that are tallied on their own: each message counts once, however often it passed."""

OPERATION = "operation"
"""The measure of operations that the business database holds as committed: a message counts once per operation, so one
that was carried out under two keys is not hidden by whatever group they were posted in."""


def fate_measure(fate: Fate) -> str:
    return f"fate {fate.label}"


def entry_measure(kind: Kind) -> str:
    return f"entry {kind.label}"


_PROOF_CASES = " ".join(f"WHEN (marks & {1 << kind}) <> 0 THEN {FATE_OF_PROOF[kind].value}" for kind in PROOFS)
_LATEST_CASES = " ".join(f"WHEN {kind.value} THEN {fate.value}" for kind, fate in FATE_OF_LATEST.items())
FATE = f"CASE {_PROOF_CASES} ELSE CASE latest % {RANKS} {_LATEST_CASES} ELSE 0 END END"
"""The fate of a row with `marks` and `latest`."""

FATE_NAMES = " ".join(f"WHEN {fate.value} THEN '{fate_measure(fate)}'" for fate in Fate)
"""From a fate to its measure."""


def added_to(table: str) -> str:
    """The end of an INSERT that adds sums to those of `tallies` or `archived`, where there are some."""
    old = f"crossfoot_{table}"
    return f"""
ON CONFLICT (bucket, queue, type, measure)
DO UPDATE SET count = {old}.count + excluded.count, d0 = {old}.d0 + excluded.d0, d1 = {old}.d1 + excluded.d1
"""


KINDS = ", ".join(f"({kind.value}, '{entry_measure(kind)}')" for kind in MEASURED_KINDS)
"""Kinds and their measures, as rows."""
