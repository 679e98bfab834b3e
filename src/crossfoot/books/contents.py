"""What a queue elsewhere holds, message by message, against what the book says it holds.

The queue and the book cannot be read in one moment: while the one is read, workers and publishers go on in the other. So nothing
is believed that was seen once. What differs is folded again from its entries, read after the queue was; what changed a moment ago is
not judged; and what still differs must differ at a second look at the queue.

What the queue has and this book does not know breaks nothing: another service may publish there, with a book of its own, and this one
learns of a message when it receives it. It is told, by id and by who sent it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from crossfoot.books import sql
from crossfoot.books.balance import Finding
from crossfoot.books.custody import MOST_IDS, TOLERANCE, Depth, Gaps, believed, compare_depth, gaps, judge
from crossfoot.books.store import flat
from crossfoot.clock import SECOND, Micros
from crossfoot.connection import Connection

MOST_COMPARED = 100_000
"""Messages that are compared by id: of each one name is kept in memory. Longer queues are compared by their own count."""


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A message that lies in a queue.

    Attributes:
        identity: `source|id`, as its envelope has it; where that cannot be read, the same as `named`.
        named: what the book calls one whose envelope cannot be read, or whose name is another's: `queue:NAME|the broker's id`.
    """

    identity: str
    named: str


class Contents(msgspec.Struct, frozen=True):
    """What a queue holds: what it will deliver, what it set aside for its age, and its dead letters."""

    held: Sequence[Seen]
    aside: Sequence[Seen]
    buried: Sequence[Seen]


Look = Callable[[], Contents | Depth | None]
"""Asks the queue. Numbers where it cannot be listed, or not now; `None` if nobody knows where it is."""


def compare(connection: Connection, queue: str, look: Look, now: Micros) -> Finding:
    """Compare a queue elsewhere with the book. In no transaction.

    Args:
        now: when the book was read, or earlier: what was written after `TOLERANCE` before that is too young to be judged.
    """
    with connection.snapshot():
        opened, dead = believed(connection, queue)
    seen = look()
    if not isinstance(seen, Contents):
        with connection.snapshot():
            return compare_depth(connection, queue, seen, lambda: _numbers(look()), now)
    keys = {**opened, **dead}
    found = _gaps(opened, dead, seen)
    sure, young = _judged(connection, found, keys, now)
    if any(sure.values()):
        again = look()
        if isinstance(again, Contents):
            sure, young = _judged(connection, _both(found, _gaps(opened, dead, again)), keys, now)
        else:
            sure = {}
    ids = [id_ for those in sure.values() for id_ in those]
    texts = [f"{len(those):,} {what}" for what, those in sure.items() if those]
    texts = texts or [f"{len(opened):,} open and {len(dead):,} dead, compared by id"]
    if young:
        texts.append(f"{young:,} differences younger than {TOLERANCE // SECOND} s are not judged yet")
    with connection.snapshot():
        others, strangers = _others(connection, queue, seen, keys)
        texts += _told_of(connection, strangers)
    if others:
        texts.append(f"{others:,} more in the queue are second copies, or of messages that have ended")
    return Finding(
        identity="holdings", queue=queue, holds=not ids, text="; ".join(texts), ids=tuple(ids[:MOST_IDS]), count=len(ids),
        unknown=tuple(strangers[:MOST_IDS]), unknown_count=len(strangers),
    )  # fmt: skip


def _numbers(seen: Contents | Depth | None) -> Depth | None:
    return seen if isinstance(seen, Depth) else None


def _gaps(opened: Collection[str], dead: Collection[str], seen: Contents) -> Gaps:
    own = {*opened, *dead}
    return gaps(
        opened=set(opened), dead=set(dead), held=_names(seen.held, own), aside=_names(seen.aside, own),
        buried=_names(seen.buried, own),
    )  # fmt: skip


def _names(seen: Iterable[Seen], own: Collection[str]) -> set[str]:
    """As the book calls them, if it believes them there."""
    return {one.named if one.named in own else one.identity for one in seen}


def _both(one: Gaps, other: Gaps) -> Gaps:
    return Gaps(one.missing & other.missing, one.buried & other.buried, one.exhumed & other.exhumed)


def _judged(connection: Connection, found: Gaps, keys: dict[str, int], now: Micros) -> tuple[dict[str, list[str]], int]:
    """By what is the matter: ids of messages that differ by their own entries, too; and how many are too young to tell."""
    sure: dict[str, list[str]] = {}
    young = 0
    with connection.snapshot():
        for what, names in (
            (
                "open in the book, and not in the queue (deleted there, or taken by a worker with another book)",
                found.missing,
            ),
            ("open in the book, and among the dead letters", found.buried),
            ("dead in the book, and not among the dead letters", found.exhumed),
        ):
            sure[what], fresh = judge(connection, [keys[name] for name in names], now - TOLERANCE)
            young += fresh
    return sure, young


def _others(connection: Connection, queue: str, seen: Contents, own: Collection[str]) -> tuple[int, list[str]]:
    """What lies there beside what is believed: how many are known all the same, and the names of those that are not."""
    lying = [*seen.held, *seen.buried]
    names = _names(lying, own)
    beside = sorted(names.difference(own))
    known: set[str] = set()
    for first in range(0, len(beside), sql.GROUP):
        group = beside[first : first + sql.GROUP]
        parts = [name.partition("|") for name in group]
        parameters: list[str | None] = [*flat((id_, source, queue) for source, _, id_ in parts)]
        parameters += [None] * (3 * sql.GROUP - len(parameters))
        known.update(group[row[0]] for row in connection.execute(sql.FIND_MESSAGES, parameters))
    strangers = [name for name in beside if name not in known]
    return len(lying) - len(names) + len(known), strangers


def _told_of(connection: Connection, strangers: Sequence[str]) -> Iterable[str]:
    """Why the book may not know them: by who sent them, which is all that a message says of that."""
    if not strangers:
        return
    ours = {str(row[0]) for row in connection.execute("SELECT DISTINCT service FROM crossfoot_workers")}
    sources = Counter(name.partition("|")[0] for name in strangers)
    for own, why in (
        (False, "published by others, with a book of their own or none, and not received here yet"),
        (True, "published past this book, or into another one of that name, or this one is an older copy"),
    ):
        mine = [(source, count) for source, count in sources.most_common() if (source in ours) is own]
        if mine:
            named = ", ".join(f"{count:,} of {source}" for source, count in mine[:3])
            more = f" and {len(mine) - 3:,} other sources" if len(mine) > 3 else ""
            yield f"{sum(count for _, count in mine):,} in the queue that this book does not know ({named}{more}): {why}"
