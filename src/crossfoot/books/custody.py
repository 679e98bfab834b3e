"""What the queues hold, against what the book says they hold: by identity where a queue lies in the book's own file.
Those that lie elsewhere and can be listed are compared in `contents`.

The embedded queue and the book are read in one snapshot, so the comparison is exact. What differs is folded again from
its entries before it is believed, because the ledger may lag; and what changed a moment ago is not judged, because a
message may be between two transactions (handed to the dead letters, and not booked yet).

A queue that only tells numbers is believed within a tolerance, because messages come and go between the two looks, and
because SQS brings its numbers up to date within about a minute. One number is exact all the same: zero. A queue that says at
two looks that it holds nothing has lost what the book believes there, if nothing has happened to it for so long that no
number can be that old.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from collections.abc import Set as AbstractSet

import msgspec

from crossfoot.books import queries
from crossfoot.books.balance import Finding
from crossfoot.books.entry import RANKS, Kind
from crossfoot.books.fate import Fate, fold, posted_fate
from crossfoot.clock import SECOND, Micros
from crossfoot.connection import Connection

TOLERANCE: Micros = 10 * SECOND
"""A difference younger than this may be a message between two transactions, and is not judged yet."""

QUIET: Micros = 5 * 60 * SECOND
"""How long nothing may have happened to a message before an empty queue means that it is gone: several times as long as a
queue's own numbers, or two machines' clocks, are behind."""

MOST_IDS = 1_000
"""Ids a finding carries; `count` tells how many there are."""

IN_CUSTODY = (
    Kind.PUBLISHED, Kind.RELEASED, Kind.RECEIVED, Kind.EXTENDED, Kind.FAILED, Kind.COMMIT_IN_DOUBT, Kind.ACK_FAILED,
    Kind.RESUMED, Kind.REPLAYED,
)  # fmt: skip
"""Latest facts of messages that the queue must hold, unless they still wait in the outbox."""

BELIEVABLE = (Fate.IN_DOUBT, Fate.QUEUED, Fate.PROCESSING, Fate.RETRYING, Fate.DEAD)
"""Fates that those facts and a dead letter lead to."""


Identities = AbstractSet[str]


class Depth(msgspec.Struct, frozen=True):
    """What a queue that can only be counted said of itself."""

    held: int
    in_flight: int
    dead: int
    as_of: Micros
    why: str = ""
    """Why it was counted only, where it could be listed."""
    letters: Callable[[], Collection[str] | None] | None = None
    """Lists its dead letters, each by the names that its message may have in the book: asked where their number does not fit, because
    one message may have left several. `None`: they cannot be listed."""


class Gaps(msgspec.Struct, frozen=True):
    """Where the book and a queue say different things, by identity.

    Attributes:
        missing: the book says that the queue has it, and it has not.
        buried: open in the book, and among the dead letters.
        exhumed: dead in the book, and not among the dead letters.
    """

    missing: Identities
    buried: Identities
    exhumed: Identities


def gaps(
    *,
    opened: AbstractSet[str],
    dead: AbstractSet[str],
    held: AbstractSet[str],
    aside: AbstractSet[str],
    buried: AbstractSet[str],
) -> Gaps:
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


BELIEVED = f"""
SELECT m.key, m.source || '|' || m.id, m.latest % {RANKS}
FROM crossfoot_messages m INDEXED BY crossfoot_messages_unsettled
WHERE m.fate <> {Fate.SETTLED.value} AND m.fate IN ({", ".join(str(fate.value) for fate in BELIEVABLE)}) AND m.queue = ?
  AND NOT EXISTS (SELECT 1 FROM outgoing o WHERE o.message = m.key)
"""

IN_HAND = f"""
SELECT count(*) FROM crossfoot_messages m INDEXED BY crossfoot_messages_unsettled
WHERE m.fate <> {Fate.SETTLED.value} AND m.fate = {Fate.PROCESSING.value} AND m.queue = ? AND m.due > ?
"""
"""Messages that a worker holds by the book, and whose lease goes on."""

OUTGOING = "WITH outgoing(message) AS MATERIALIZED (SELECT message FROM crossfoot_outbox) "

LYING_THERE = "SELECT key, state, message FROM crossfoot_queue NOT INDEXED WHERE queue = ?"


def browse(connection: Connection, queue: str, now: Micros) -> Finding:
    """Compare an embedded queue with the book, message by message. Within the caller's read transaction."""
    opened, dead = believed(connection, queue)
    held, aside, buried, others = _lying_there(connection, queue, {**opened, **dead})
    found = gaps(opened=opened.keys(), dead=dead.keys(), held=held, aside=aside, buried=buried)
    texts: list[str] = []
    ids: list[str] = []
    young = 0
    for what, keys in (
        ("open in the book, and not in the queue", [opened[name] for name in found.missing]),
        ("open in the book, and among the dead letters", [opened[name] for name in found.buried]),
        ("dead in the book, and not among the dead letters", [dead[name] for name in found.exhumed]),
    ):
        sure, fresh = judge(connection, keys, now - TOLERANCE)
        young += fresh
        ids += sure
        if sure:
            texts.append(f"{len(sure):,} {what}")
    texts = texts or [f"{len(opened):,} open and {len(dead):,} dead, compared by id"]
    if young:
        texts.append(f"{young:,} differences younger than {TOLERANCE // SECOND} s are not judged yet")
    if others:
        texts.append(f"{others:,} more in the queue are second copies, or not received by this book yet")
    return Finding(
        identity="holdings",
        queue=queue,
        holds=not ids,
        text="; ".join(texts),
        ids=tuple(ids[:MOST_IDS]),
        count=len(ids),
    )


def compare_depth(
    connection: Connection, queue: str, depth: Depth | None, look: Callable[[], Depth | None], now: Micros
) -> Finding:
    """Compare a queue that only tells numbers with the book. Within the caller's read transaction.

    Args:
        depth: what it told; `None` if nobody knows where it is.
        look: asks it a second time, where the first answer was that it is empty.
    """
    if depth is None:
        text = "no setting leads to it: set `queue` in crossfoot.toml, or CROSSFOOT_QUEUE"
        return Finding(identity="holdings", queue=queue, holds=None, text=text)
    opened, dead = believed(connection, queue)
    (in_hand,) = connection.execute(IN_HAND, (queue, now)).fetchone()  # not every queue sees what others hold
    fits, tolerance = depth_agrees(len(opened), depth.held, max(depth.in_flight, in_hand))
    dead_fit, dead_tolerance = depth_agrees(len(dead), depth.dead, 0)
    gone: list[str] = []
    if fits and not dead_fit and depth.letters is not None and (lying := depth.letters()) is not None:
        return _compare_dead(connection, queue, depth, opened, dead, frozenset(lying), now)
    holds = fits and dead_fit
    if holds and (keys := _nowhere(opened, dead, depth)):
        gone, _ = judge(connection, keys, now - QUIET, until_due=True)
        again = look() if gone else None
        if again is None or (again.held, again.dead) != (0, depth.dead):
            gone = []
    text = (
        f"{len(opened):,} open and {len(dead):,} dead in the book, {depth.held:,} and {depth.dead:,} in the queue by its "
        f"own count, {'within' if holds else 'not within'} the tolerance of {tolerance:,} and {dead_tolerance:,}"
    )
    text += f" ({depth.why})" if depth.why else ""
    if gone:
        text += (
            f"; it says twice that it is empty, and of {len(gone):,} nothing was heard for {QUIET // SECOND // 60} min"
        )
    return Finding(
        identity="holdings", queue=queue, holds=holds and not gone, text=text, ids=tuple(gone), count=len(gone)
    )  # fmt: skip


def _compare_dead(
    connection: Connection, queue: str, depth: Depth, opened: dict[str, int], dead: dict[str, int], lying: Collection[str],
    now: Micros,
) -> Finding:  # fmt: skip
    """Compare the dead letters by id, where their number does not fit: a message whose burial got no answer is buried twice."""
    texts: list[str] = []
    ids: list[str] = []
    for what, keys in (
        ("open in the book, and among the dead letters", [key for name, key in opened.items() if name in lying]),
        ("dead in the book, and not among the dead letters", [key for name, key in dead.items() if name not in lying]),
    ):
        sure, young = judge(connection, keys, now - TOLERANCE)
        ids += sure
        texts += [f"{len(sure):,} {what}"] if sure else []
        texts += [f"{young:,} differences younger than {TOLERANCE // SECOND} s are not judged yet"] if young else []
    text = (
        f"{len(opened):,} open in the book, and {depth.held:,} in the queue by its own count; {len(dead):,} dead in the book, and "
        f"{depth.dead:,} dead letters, compared by id: "
    )
    text += "; ".join(texts) or "those beside are second copies, or of messages that have ended"
    return Finding(
        identity="holdings", queue=queue, holds=not ids, text=text, ids=tuple(ids[:MOST_IDS]), count=len(ids)
    )


def _nowhere(opened: dict[str, int], dead: dict[str, int], depth: Depth) -> list[int]:
    """Messages that an empty queue has no place for: the open ones, unless they may be among more dead letters than the book
    knows; and the dead ones, if there are no dead letters and none was sent back to the queue."""
    if depth.held:
        return []
    return [*(opened.values() if depth.dead <= len(dead) else ()), *(() if depth.dead else dead.values())]


PARKED = f"""
SELECT m.key FROM crossfoot_messages m INDEXED BY crossfoot_messages_unsettled
WHERE m.fate <> {Fate.SETTLED.value} AND m.fate = {Fate.PARKED.value} AND m.queue = ?
"""

KEPT = """
SELECT p.message FROM crossfoot_parked p JOIN crossfoot_messages m ON m.key = p.message WHERE p.until > 0 AND m.queue = ?
"""


def compare_parked(connection: Connection, queue: str) -> Finding:
    """Compare the messages whose fate is parked with those that the book keeps for their predecessors, by id.

    Both are written in one transaction, so there is no moment at which they differ; only the ledger may lag.
    """
    parked = {key for (key,) in connection.execute(PARKED, (queue,))}
    kept = {key for (key,) in connection.execute(KEPT, (queue,))}
    found: dict[str, list[str]] = {"parked, and not kept: nothing will send them on": [], "kept, and not parked": []}
    for key, row in queries.rows_of(connection, parked ^ kept).items():
        if (posted_fate(fold(queries.entries_of(connection, key))) is Fate.PARKED) is (key not in kept):
            found["kept, and not parked" if key in kept else "parked, and not kept: nothing will send them on"].append(
                row.id
            )
    ids = sorted(id_ for those in found.values() for id_ in those)
    return Finding(
        identity="parked",
        queue=queue,
        holds=not ids,
        text="; ".join(f"{len(those):,} {what}" for what, those in found.items() if those),
        ids=tuple(ids[:MOST_IDS]),
        count=len(ids),
    )


def believed(connection: Connection, queue: str) -> tuple[dict[str, int], dict[str, int]]:
    """Messages that the book believes in the queue, and among its dead letters: key by identity."""
    opened: dict[str, int] = {}
    dead: dict[str, int] = {}
    for key, identity, kind in connection.execute(OUTGOING + BELIEVED, (queue,)):
        if kind == Kind.DEAD_LETTERED:
            dead[identity] = key
        elif kind in IN_CUSTODY:
            opened[identity] = key
    return opened, dead


def _lying_there(
    connection: Connection, queue: str, believed: Collection[str]
) -> tuple[set[str], set[str], set[str], int]:
    """What the embedded queue will deliver, has set aside, and has buried; and how many of the first are not `believed`.

    A message that cannot be read has two names: the publisher's, and the one the book gives it by the queue's own key.
    """
    own = f"queue:{queue}|"
    unreadable = {name for name in believed if name.startswith(own)}
    held: set[str] = set()
    aside: set[str] = set()
    buried: set[str] = set()
    copies = 0
    places = (held, held, buried, aside)
    for key, state, identity in connection.execute(LYING_THERE, (queue,)):
        name = f"{own}{key}" if unreadable and f"{own}{key}" in unreadable else identity
        copies += state < 2 and name in held
        if 0 <= state < len(places):  # a state that no queue has: then its message is missing everywhere
            places[state].add(name)
    return held, aside, buried, copies + len(held.difference(believed))


def judge(
    connection: Connection, keys: Collection[int], before: Micros, *, until_due: bool = False
) -> tuple[list[str], int]:
    """Ids of those that differ by their own entries too, and the number of those too young to be judged.

    Args:
        before: something happened after that to those that are too young; with `until_due` also, when they were due after it.
    """
    sure: list[str] = []
    young = 0
    for key, row in queries.rows_of(connection, keys).items():
        entries = queries.entries_of(connection, key)
        summary = fold(entries)
        if posted_fate(summary) not in BELIEVABLE or summary.kind not in (*IN_CUSTODY, Kind.DEAD_LETTERED):
            continue
        if max(max(entry.at, (entry.due or 0) if until_due else 0) for entry in entries) > before:
            young += 1
        else:
            sure.append(row.id)
    return sorted(sure), young
