"""What the queues hold, against what the book says they hold: by identity where a queue lies in the book's own file.

The embedded queue and the book are read in one snapshot, so the comparison is exact. What differs is folded again from
its entries before it is believed, because the ledger may lag; and what changed a moment ago is not judged, because a
message may be between two transactions (handed to the dead letters, and not booked yet).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

import msgspec

from crossfoot.books import queries
from crossfoot.books.balance import Finding
from crossfoot.books.entry import Kind
from crossfoot.books.fate import NOTHING, Fate, fold, posted_fate
from crossfoot.clock import SECOND, Micros
from crossfoot.sqlite import Connection

TOLERANCE: Micros = 10 * SECOND
"""A difference younger than this may be a message between two transactions, and is not judged yet."""

MOST_IDS = 1_000
"""Ids a finding carries; `count` tells how many there are."""

IN_CUSTODY = (
    Kind.PUBLISHED, Kind.RELEASED, Kind.RECEIVED, Kind.EXTENDED, Kind.FAILED, Kind.COMMIT_IN_DOUBT, Kind.ACK_FAILED,
    Kind.RESUMED, Kind.REPLAYED,
)  # fmt: skip
"""Latest facts of messages that the queue must hold, unless they still wait in the outbox."""


class Depth(msgspec.Struct, frozen=True):
    """What a queue that can only be counted said of itself."""

    held: int
    in_flight: int
    dead: int
    as_of: Micros


class Gaps(msgspec.Struct, frozen=True):
    """Where the book and a queue say different things, by identity.

    Attributes:
        missing: the book says that the queue has it, and it has not.
        buried: open in the book, and among the dead letters.
        exhumed: dead in the book, and not among the dead letters.
    """

    missing: Set[str]
    buried: Set[str]
    exhumed: Set[str]


def gaps(*, opened: Set[str], dead: Set[str], held: Set[str], aside: Set[str], buried: Set[str]) -> Gaps:
    """Compare what should be in a queue with what is.

    Args:
        opened: identities of messages that the queue must hold.
        dead: those that the book calls dead.
        held: what the queue will deliver; `aside` what it set aside for its age, `buried` its dead letters.
    """
    gone = opened - held - aside
    return Gaps(missing=gone - buried, buried=gone & buried, exhumed=dead - buried - held)


def depth_agrees(expected: int, held: int, in_flight: int) -> tuple[bool, int]:
    """Whether a queue that only tells numbers holds about what it should, and the tolerance that was granted.

    Between the two looks messages come and go: as many as are in flight, or one in a hundred, or ten.
    """
    tolerance = max(10, in_flight, expected // 100)
    return abs(expected - held) <= tolerance, tolerance


def browse(connection: Connection, queue: str, now: Micros) -> Finding:
    """Compare an embedded queue with the book, message by message. Within the caller's read transaction."""
    opened, dead = _believed(connection, queue)
    held, aside, buried = _found(connection, queue)
    found = gaps(opened=opened.keys(), dead=dead.keys(), held=held, aside=aside, buried=buried)
    texts, ids, fresh = [], [], 0
    for what, identities, still in (
        ("the queue does not have: gone without proof", found.missing, _is_in_custody),
        ("lie among the dead letters, and are open in the book", found.buried, _is_in_custody),
        ("are dead in the book, and not among the dead letters", found.exhumed, _is_dead),
    ):
        sure, young = _judge(connection, {i: opened.get(i) or dead[i] for i in identities}, still, now)
        fresh += young
        ids += sure
        if sure:
            texts.append(f"{len(sure):,} {what}")
    text = "; ".join(texts) or f"{len(opened):,} open and {len(dead):,} dead, compared by id"
    if fresh:
        text += f"; {fresh:,} differences younger than {TOLERANCE // SECOND} s are not judged"
    if others := len(held - opened.keys()):
        text += f"; it also holds {others:,} this book has not received yet, or closed already (second copies)"
    return Finding(
        identity="holdings", queue=queue, holds=not ids, text=text, ids=tuple(ids[:MOST_IDS]), count=len(ids)
    )  # fmt: skip


def compare_depth(connection: Connection, queue: str, depth: Depth) -> Finding:
    """Compare a queue that only tells numbers with the book."""
    opened, dead = _believed(connection, queue)
    fits, tolerance = depth_agrees(len(opened), depth.held, depth.in_flight)
    dead_fit, _ = depth_agrees(len(dead), depth.dead, 0)
    text = (
        f"book {len(opened):,} open and {len(dead):,} dead, queue {depth.held:,} and {depth.dead:,} by its own count, "
        f"tolerance {tolerance:,}"
    )
    return Finding(identity="holdings", queue=queue, holds=fits and dead_fit, text=text)


def _believed(connection: Connection, queue: str) -> tuple[dict[str, int], dict[str, int]]:
    """Messages that the book believes in the queue, and in its dead letters: identity to key."""
    opened: dict[str, int] = {}
    dead: dict[str, int] = {}
    for key, identity, kind in connection.execute(queries.IN_CUSTODY, {"queue": queue}):
        if kind == Kind.DEAD_LETTERED:
            dead[identity] = key
        elif kind in IN_CUSTODY:
            opened[identity] = key
    return opened, dead


def _found(connection: Connection, queue: str) -> tuple[set[str], set[str], set[str]]:
    """What the embedded queue will deliver, has set aside, and has buried. Unreadable ones go by the queue's own key."""
    held: set[str] = set()
    aside: set[str] = set()
    buried: set[str] = set()
    where = (held, held, buried, aside)
    for key, state, identity in connection.execute(queries.HELD_BY_QUEUE, (queue,)):
        where[state].update((identity, f"queue:{queue}|{key}"))
    return held, aside, buried


def _judge(
    connection: Connection, differing: Mapping[str, int], still: _Test, now: Micros
) -> tuple[list[str], int]:
    """Ids of those that differ by their entries too, and the number of those too young to be judged."""
    sure, young = [], 0
    for identity, key in differing.items():
        entries = queries.entries_of(connection, key)
        if not still(Stand(fold(entries).kind, posted_fate(fold(entries)))):
            continue
        if max(entry.at for entry in entries) > now - TOLERANCE:
            young += 1
        else:
            sure.append(identity.partition("|")[2])
    return sure, young
