"""Writes docs/lifecycle.md from the code: `python docs/lifecycle.py`, or `--check` to see whether it is up to date."""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
from pathlib import Path

from crossfoot.books import entry, fate
from crossfoot.books.entry import ACK_REASONS, PROOFS, Kind
from crossfoot.books.fate import FATE_OF_LATEST, FATE_OF_PROOF, OVERDUE, Fate

PAGE = Path(__file__).with_suffix(".md")

HEAD = """# The lifecycle of a message

*Written by `python docs/lifecycle.py` from `books/entry.py` and `books/fate.py`; a test fails when it is not up to date.*

A message's **entries** are facts; its **fate** is folded from the set of them. There are no transitions that have to be
taken in order: an entry that arrives late, twice, or from another process changes nothing about the answer.

1. If any entry is a **proof**, the strongest proof tells the fate, for good.
2. Otherwise the entry with the highest rank tells, where `rank = attempt * {ranks} + number of the kind`.
3. Open fates that are overdue have names of their own.
"""

MEANINGS = {
    Fate.INTENDED: "decided on, and not with the broker yet",
    Fate.IN_DOUBT: "the broker, or the database, was asked and gave no answer",
    Fate.QUEUED: "the queue has it, and nobody holds it",
    Fate.PROCESSING: "a worker holds it",
    Fate.RETRYING: "a delivery failed; it will be tried again",
    Fate.PARKED: "early; kept in the book until its predecessor was applied",
    Fate.STRANDED: "waiting, in the queue or parked, for longer than it should",
    Fate.STALLED: "a delivery without an end, and its lease is over",
    Fate.SETTLED: "the effect is committed, with this message's entry in the same transaction",
    Fate.NOOP: "the handler said that there was nothing to do, and why",
    Fate.SUPERSEDED: "a later event of its subject was applied before it",
    Fate.DUPLICATE: "its operation was completed by another message",
    Fate.DEAD: "it lies in the dead letters, with a cause",
    Fate.EXPIRED: "its own time, or the queue's retention, was over",
    Fate.REFUSED: "the broker did not take it, or could not be asked at all",
    Fate.DISCARDED: "a person decided that it need not happen",
    Fate.VANISHED: "the queue no longer has it, and nothing proves that it was handled",
}


def meanings_of_kinds() -> dict[str, str]:
    """The docstring below each member of `Kind`, which Python itself forgets."""
    (body,) = (
        node.body
        for node in ast.parse(inspect.getsource(entry)).body
        if isinstance(node, ast.ClassDef) and node.name == "Kind"
    )
    found = {}
    for member, text in itertools.pairwise(body):
        if isinstance(member, ast.Assign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(member.targets[0], ast.Name)
            found[member.targets[0].id] = " ".join(str(text.value.value).split())
    return found


def entries_table() -> str:
    meanings = meanings_of_kinds()
    rows = [
        "| no. | entry | what it states | fate, if nothing ranks higher | justifies an ack |",
        "|---:|---|---|---|---|",
    ]
    for kind in Kind:
        tells = FATE_OF_PROOF.get(kind) or FATE_OF_LATEST[kind]
        proof = " (**proof**)" if kind in PROOFS else ""
        rows.append(
            f"| {kind.value} | {kind.label} | {meanings[kind.name]} | {tells.label}{proof} | {'yes' if kind in ACK_REASONS else ''} |"
        )
    return "\n".join(rows)


def fates_table() -> str:
    rows = ["| fate | | what it means | told by |", "|---|---|---|---|"]
    told: dict[Fate, list[str]] = {}
    for kind, result in {**FATE_OF_LATEST, **FATE_OF_PROOF}.items():
        told.setdefault(result, []).append(kind.label)
    for before, after in OVERDUE.items():
        told.setdefault(after, []).append(f"{before.label}, overdue")
    rows.extend(
        f"| **{one.label}** | {'closed' if one.closed else 'open'} | {MEANINGS[one]} | {', '.join(told[one])} |"
        for one in Fate
    )
    return "\n".join(rows)


STEPS = [
    ("[*]", Fate.INTENDED, Kind.INTENDED), ("[*]", Fate.QUEUED, Kind.PUBLISHED),
    (Fate.INTENDED, Fate.QUEUED, Kind.PUBLISHED), (Fate.INTENDED, Fate.REFUSED, Kind.REFUSED),
    (Fate.INTENDED, Fate.IN_DOUBT, Kind.PUBLISH_IN_DOUBT), (Fate.IN_DOUBT, Fate.QUEUED, Kind.PUBLISHED),
    (Fate.IN_DOUBT, Fate.PROCESSING, Kind.RECEIVED),
    (Fate.QUEUED, Fate.PROCESSING, Kind.RECEIVED), (Fate.QUEUED, Fate.VANISHED, Kind.VANISHED),
    (Fate.QUEUED, Fate.EXPIRED, Kind.EXPIRED),
    (Fate.PROCESSING, Fate.SETTLED, Kind.COMMITTED), (Fate.PROCESSING, Fate.NOOP, Kind.NOOP),
    (Fate.PROCESSING, Fate.DUPLICATE, Kind.SUPPRESSED), (Fate.PROCESSING, Fate.SUPERSEDED, Kind.SUPERSEDED),
    (Fate.PROCESSING, Fate.RETRYING, Kind.FAILED), (Fate.PROCESSING, Fate.QUEUED, Kind.RELEASED),
    (Fate.PROCESSING, Fate.IN_DOUBT, Kind.COMMIT_IN_DOUBT), (Fate.PROCESSING, Fate.PARKED, Kind.PARKED),
    (Fate.PARKED, Fate.QUEUED, Kind.RESUMED), (Fate.RETRYING, Fate.PROCESSING, Kind.RECEIVED),
    (Fate.RETRYING, Fate.DEAD, Kind.DEAD_LETTERED), (Fate.DEAD, Fate.QUEUED, Kind.REPLAYED),
    (Fate.DEAD, Fate.PROCESSING, Kind.RECEIVED), (Fate.DEAD, Fate.DISCARDED, Kind.DISCARDED),
    (Fate.INTENDED, Fate.DISCARDED, Kind.DISCARDED), (Fate.IN_DOUBT, Fate.DISCARDED, Kind.DISCARDED),
    (Fate.DISCARDED, Fate.PROCESSING, Kind.RECEIVED), (Fate.DISCARDED, Fate.INTENDED, Kind.INTENDED),
]  # fmt: skip
"""The usual way of a message. Any entry may follow any other; these are the steps that crossfoot itself takes."""


def diagram() -> str:
    lines = ["```mermaid", "stateDiagram-v2"]
    for before, after, kind in STEPS:
        assert (FATE_OF_PROOF.get(kind) or FATE_OF_LATEST.get(kind)) is after, (kind, after)
        name = before if isinstance(before, str) else before.name.lower()
        lines.append(f"    {name} --> {after.name.lower()}: {kind.label}")
    drawn = {after for _, after, _ in STEPS}
    missing = [one for one in Fate if one not in drawn and one not in OVERDUE.values()]
    assert not missing, f"no step leads to {missing}"
    lines += [f"    {one.name.lower()} --> [*]" for one in Fate if one.closed and one is not Fate.DEAD]
    return "\n".join([*lines, "```"])


def page() -> str:
    patience = fate.PATIENCE
    overdue = "\n".join(
        f"- **{before.label}** becomes **{after.label}** {fate.grace(before, patience) // 1_000_000} s after it was due."
        for before, after in OVERDUE.items()
    )
    return "\n\n".join(
        (
            HEAD.format(ranks=entry.RANKS).strip(),
            "## The usual way", diagram(),
            "## Entries", entries_table(),
            "## Fates", fates_table(),
            "## Overdue", overdue,
            "An entry names when the state it leaves is overdue: the end of the lease, the next try, the time of the "
            "publish. Time alone never closes a fate.",
        )
    ) + "\n"  # fmt: skip


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(
            0
            if PAGE.exists() and PAGE.read_text() == page()
            else f"{PAGE.name} is not up to date: python docs/lifecycle.py"
        )
    PAGE.write_text(page())
