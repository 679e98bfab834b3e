"""What is true at the end: by identity, and from the outside first.

Four accounts are compared that know nothing of each other: what the publisher noted, what the handlers noted, the rows in
the business tables, and the books. The first three are read here without any help of crossfoot's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import msgspec

from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate, fold, posted_fate
from crossfoot.books.place import place_of
from crossfoot.connection import Connection
from tests.chaos.broker_log import ids_in_log
from tests.chaos.crew import Ended
from tests.chaos.life import GOOD, INVOICE, MOVED, POISON, read_notes
from tests.chaos.service import TABLES
from tests.chaos.stage import Stage
from tests.crash.audit import acks_without_reason, entries_of
from tests.crash.nursery import CREDENTIALS

FIRM = ("accepted", "promised", "put off", "doubtful", "ordered")
"""Answers after which a message is in the book for certain: whatever the queue said, the relay sees to it."""

ANSWERS = {
    "accepted": Kind.PUBLISHED,
    "doubtful": Kind.PUBLISH_IN_DOUBT,
    "put off": Kind.PUT_OFF,
    "refused": Kind.REFUSED,
}

ENDS = frozenset(Kind) - {
    Kind.RECEIVED, Kind.EXTENDED, Kind.INTENDED, Kind.PUBLISHED, Kind.PUBLISH_IN_DOUBT, Kind.PUT_OFF, Kind.VANISHED,
}  # fmt: skip
"""What ends a delivery."""

OPEN = ", ".join(str(fate.value) for fate in Fate if not fate.closed)

IS_CLOSED = f"""
SELECT (SELECT count(*) FROM crossfoot_messages WHERE fate IN (0, {OPEN})) + (SELECT count(*) FROM crossfoot_outbox)
"""


class Verdict(msgspec.Struct, kw_only=True):
    """What was found.

    Attributes:
        asked, accepted: ids the publisher asked for, and those of them whose publish was answered.
        lost: effects of messages that were taken, as `table id`.
        doubled: effects that are there more than once, or that nobody asked for.
        unaccounted: messages without a closed fate, and taken ones that the book does not know.
        doubtful: ids whose publish had no answer, and how many of them the book says are there.
        forgotten: ids that the broker had confirmed and its log does not have, which the book calls vanished: they are the broker's loss.
            Elsewhere a message that vanished is a problem.
        unseen: faults that met a delivery and left no trace in the book, in words.
        evidence: what the book says of the faults, by kind of entry.
        problems: everything else, in words.
    """

    asked: int = 0
    accepted: int = 0
    lost: list[str] = []
    doubled: list[str] = []
    unaccounted: list[str] = []
    doubtful: int = 0
    doubtful_there: int = 0
    forgotten: list[str] = []
    unseen: list[str] = []
    evidence: dict[str, int] = {}
    problems: list[str] = []

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.unaccounted or self.unseen or self.problems)


def judge(stage: Stage, endings: Sequence[Ended]) -> Verdict:
    """Compare the accounts."""
    verdict = Verdict()
    with closing(place_of(stage.truth.database).look_in()) as book:
        known = {
            id_: (key, type_, subject, fate)
            for key, id_, type_, subject, fate in book.execute(
                "SELECT key, id, type, subject, fate FROM crossfoot_messages"
            )
        }
        types, firm = _published(stage, known, verdict)
        _answers(stage, book, known, verdict)
        _forgotten(stage, known, verdict)
        _effects(stage, known, types, firm, verdict)
        _moves(stage, known, verdict)
        _fates(book, known, types, verdict)
        verdict.problems += acks_without_reason(book)
        _deliveries(stage, book, known, endings, verdict)
    verdict.problems += _crossfoots_own(stage, len(verdict.forgotten))
    return verdict


def _published(stage: Stage, known: dict[str, Any], verdict: Verdict) -> tuple[dict[str, str], set[str]]:
    """Types of all that were asked for; and the ids that must have their effects: those with a firm answer, and those that
    the book has, whatever the publisher was told."""
    types: dict[str, str] = {}
    told: dict[str, set[str]] = {}
    ordered: set[str] = set()
    for note in read_notes(stage.notes, "publisher"):
        if note.what == "asked":
            types[note.id] = note.why
        elif note.what == "ordering":
            ordered.add(note.id)
        else:
            told.setdefault(note.id, set()).add(note.what)
    refused = {id_ for id_, answers in told.items() if "refused" in answers}
    firm = {id_ for id_, answers in told.items() if answers & set(FIRM)}
    doubtful = types.keys() - firm - refused
    verdict.asked, verdict.accepted = len(types), len(firm)
    verdict.doubtful, verdict.doubtful_there = len(doubtful), len(doubtful & known.keys())
    verdict.problems += [f"{id_} was refused: nothing here is to be refused" for id_ in sorted(refused)]
    verdict.unaccounted += [f"{id_} (not in the book)" for id_ in sorted(firm - known.keys())]
    asked_for = {id_ for id_, (_, type_, _, _) in known.items() if type_ != INVOICE}
    verdict.problems += [f"{id_} is in the book, and nobody asked for it" for id_ in sorted(asked_for - types.keys())]
    orders = {id_ for (id_,) in stage.rows("SELECT message FROM orders")}
    sent = ordered & known.keys()
    verdict.lost += [f"the message {id_} of an order" for id_ in sorted(orders - sent)]
    verdict.doubled += [f"message {id_} of no order" for id_ in sorted(sent - orders)]
    return types, firm | (doubtful & known.keys())


def _answers(stage: Stage, book: Connection, known: dict[str, Any], verdict: Verdict) -> None:
    """What a publisher was told stands in the book, too: also that nothing could be told."""
    there = {
        (message, Kind(kind)) for message, kind in book.execute("SELECT DISTINCT message, kind FROM crossfoot_entries")
    }
    for note in read_notes(stage.notes, "publisher"):
        kind = ANSWERS.get(note.what)
        if kind is not None and note.id in known and (known[note.id][0], kind) not in there:
            verdict.unseen.append(f"the publish of {note.id} was {note.what}, and the book has no entry {kind.label!r}")


def _forgotten(stage: Stage, known: dict[str, Any], verdict: Verdict) -> None:
    """Where the broker's log can be read from its beginning: what vanished by the book, and is not there."""
    vanished = {id_ for id_, (_, _, _, fate) in known.items() if fate == Fate.VANISHED}
    if vanished and stage.options.pair.endswith("/kafka"):
        logged = ids_in_log(stage.truth.queue, stage.truth.endpoint or "")
        verdict.forgotten = sorted(vanished - logged)


def _effects(stage: Stage, known: dict[str, Any], types: dict[str, str], taken: set[str], verdict: Verdict) -> None:
    gone = set(verdict.forgotten)
    wanted = {f"case-{id_}" for id_ in taken - gone if types[id_] == GOOD}
    unanswered = {known[id_][2] for id_ in gone if known[id_][1] == INVOICE}
    for table in TABLES:
        found = Counter(subject for (subject,) in stage.rows(f"SELECT subject FROM {table}"))
        here = wanted - unanswered if table == "receipts" else wanted
        verdict.lost += [f"{table} {subject}" for subject in sorted(here - found.keys())]
        verdict.doubled += [f"{table} {subject} (of nobody's)" for subject in sorted(found.keys() - wanted)]
        verdict.doubled += [f"{table} {subject}" for subject, count in sorted(found.items()) if count > 1]


def _moves(stage: Stage, known: dict[str, Any], verdict: Verdict) -> None:
    """Events that are taken in order: what was applied was applied once, and by rising sequence; what was not came too late."""
    applied: dict[str, list[int]] = {}
    for subject, sequence in stage.rows("SELECT subject, sequence FROM moves ORDER BY number"):
        applied.setdefault(subject, []).append(sequence)
    for subject, sequences in applied.items():
        if sequences != sorted(sequences):
            verdict.problems.append(f"the moves of {subject} were applied out of order: {sequences}")
        verdict.doubled += [f"moves {subject} {one}" for one, count in Counter(sequences).items() if count > 1]
    settled: set[tuple[str, int]] = set()
    for id_, (_, type_, subject, fate) in known.items():
        if type_ == MOVED:
            sequence = int(id_.rpartition("-")[2])
            if fate == Fate.SETTLED:
                settled.add((subject, sequence))
            elif fate == Fate.SUPERSEDED and max(applied.get(subject, [0])) < sequence:
                verdict.lost.append(f"moves {subject} {sequence} (superseded by nothing)")
    there = {(subject, sequence) for subject, sequences in applied.items() for sequence in sequences}
    verdict.lost += [f"moves {subject} {sequence}" for subject, sequence in sorted(settled - there)]
    verdict.doubled += [f"moves {subject} {sequence} (not settled)" for subject, sequence in sorted(there - settled)]


def _fates(book: Connection, known: dict[str, Any], types: dict[str, str], verdict: Verdict) -> None:
    """One closed fate for every message, by its entries and in the ledger, and the one that fits."""
    fitting = {
        GOOD: (Fate.SETTLED,), INVOICE: (Fate.SETTLED,), POISON: (Fate.DEAD,), MOVED: (Fate.SETTLED, Fate.SUPERSEDED),
    }  # fmt: skip
    for id_, (key, type_, _, stored) in known.items():
        fate = posted_fate(fold(entries_of(book, key)))
        if fate is None or not fate.closed:
            verdict.unaccounted.append(f"{id_} ({type_}, {fate.label if fate else 'no entries'})")
        elif fate != stored:
            ledger = Fate(stored).label if stored else "nothing"
            verdict.problems.append(f"{id_} is {fate.label} by its entries, and {ledger} in the ledger")
        elif fate not in fitting[types.get(id_, type_)] and id_ not in verdict.forgotten:
            verdict.problems.append(f"{id_} of type {type_} ended as {fate.label}")


def _deliveries(
    stage: Stage, book: Connection, known: dict[str, Any], endings: Sequence[Ended], verdict: Verdict
) -> None:
    """Every handler that ran is a delivery in the book; and one without an end is of a worker that came to a bad one."""
    pids = dict(book.execute("SELECT number, pid FROM crossfoot_workers"))
    kinds: dict[int, set[Kind]] = {}
    received: dict[int, tuple[int, int]] = {}
    evidence: Counter[str] = Counter()
    for message, kind, delivery, worker in book.execute(
        "SELECT message, kind, delivery, worker FROM crossfoot_entries ORDER BY id"
    ):
        if delivery:
            kinds.setdefault(delivery, set()).add(Kind(kind))
        if kind == Kind.RECEIVED:
            received[delivery] = (pids[worker], message)
        evidence[Kind(kind).label] += 1
    hands = set(received.values())
    for note in read_notes(stage.notes, "worker"):
        key = known[note.id][0] if note.id in known else None
        if note.what == "begun" and (note.pid, key) not in hands:
            verdict.unseen.append(f"process {note.pid} handled {note.id}, and the book has no delivery of it")
    bad = {ended.pid for ended in endings if ended.code != 0}
    endless = [delivery for delivery in received if not kinds[delivery] & ENDS]
    for delivery in endless:
        pid, message = received[delivery]
        if pid not in bad:
            verdict.unseen.append(f"a delivery of message {message} has no end, and its worker {pid} ended well")
    telling = (Kind.FAILED, Kind.RELEASED, Kind.PUBLISH_IN_DOUBT, Kind.PUT_OFF, Kind.COMMIT_IN_DOUBT, Kind.ACK_FAILED,
               Kind.SUPPRESSED)  # fmt: skip
    verdict.evidence = {"deliveries without an end": len(endless)} | {
        kind.label: evidence[kind.label] for kind in telling if evidence[kind.label]
    }


def _crossfoots_own(stage: Stage, forgotten: int) -> list[str]:
    """What `crossfoot balance` and `crossfoot verify` say; of what the broker has forgotten the first is to speak."""
    found: list[str] = []
    balance = ask(stage, "balance")
    told = [f"{forgotten:,} vanished: gone from the queue without proof"] if forgotten else []
    if balance.get("problems", []) != told or (not told and not balance.get("balanced")):
        found.append(f"balance: {balance.get('problems', balance)}")
    if balance.get("unaccounted"):
        found.append(f"balance: {balance['unaccounted']} unaccounted {balance['unaccounted_ids']}")
    for name, identity in balance.get("identities", {}).items():
        if identity["holds"] is False:
            found.append(f"balance: {name} does not hold: {'; '.join(identity['notes'])} {identity['ids']}")
    verified = ask(stage, "verify")
    if not verified.get("clean"):
        found.append(f"verify: {verified.get('differences', verified)}")
    return found


def ask(stage: Stage, command: str) -> dict[str, Any]:
    """The JSON that a command of crossfoot's prints; what it said instead, if it printed none."""
    life = stage.truth
    variables = {"CROSSFOOT_QUEUE": life.queue, "CROSSFOOT_ENDPOINT": life.endpoint or "", **CREDENTIALS}
    done = subprocess.run(
        [sys.executable, "-m", "crossfoot", command, "--db", life.database, "--json"], cwd=stage.folder,
        env={**os.environ, **variables}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"said": f"exit code {done.returncode}: {done.stderr[-2000:]}"}
    return answer
