"""The chain of causes through a message: what caused it, back to the first, and what it caused, to the last.

A message names the one that caused it (`causationid`); whoever sends from a handler need not say so. The chain is followed through book
and archive, and it ends where a cause is not in this book: another service has that, with a book of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from crossfoot.books.fate import Fate
from crossfoot.books.queries import Row
from crossfoot.recover.records import Records

DEEPEST = 50
"""Causes of causes that are followed: what goes on for longer is a ring, or worth a look by itself."""

MOST = 200
"""Messages that are followed downwards."""


class Link(msgspec.Struct, frozen=True):
    """One message of the chain.

    Attributes:
        depth: 0 is the message that was asked for; its cause is -1, what it caused is 1.
        row: nothing where the cause is named and not in this book; `id` is known all the same.
    """

    depth: int
    id: str
    row: Row | None
    fate: Fate | None = None


class Chain(msgspec.Struct, frozen=True):
    """Everything that hangs together with one message.

    Attributes:
        links: the first cause first; what each message caused follows it, one deeper.
        more: whether there is more than was followed.
    """

    links: tuple[Link, ...] = ()
    more: bool = False


def follow(records: Records, row: Row, stand: Callable[[Row], Fate | None]) -> Chain:
    """The chain through a message. Within the caller's read transaction."""
    above, cut = _causes(records, row)
    seen = {row.id, *(link.id for link in above)}
    below: list[Link] = []
    for link in _caused(records, row, 1, seen):
        if len(below) == MOST:
            cut = True
            break
        below.append(link)
    links = [*reversed(above), Link(0, row.id, row), *below]
    return Chain(
        tuple(link if link.row is None else msgspec.structs.replace(link, fate=stand(link.row)) for link in links), cut
    )


def _causes(records: Records, row: Row) -> tuple[list[Link], bool]:
    """Its cause, that one's cause, and so on; and whether there are more."""
    found: list[Link] = []
    seen = {row.id}
    at: Row | None = row
    while at is not None and at.causation is not None and at.causation not in seen:
        if len(found) == DEEPEST:
            return found, True
        seen.add(at.causation)
        parents = records.parents_of(at, 1)
        found.append(Link(-len(found) - 1, at.causation, parents[0] if parents else None))
        at = parents[0] if parents else None
    return found, False


def _caused(records: Records, row: Row, depth: int, seen: set[str]) -> Iterator[Link]:
    """What it caused, each followed by what that one caused."""
    for child in records.children_of(row):
        known = child.id in seen
        yield Link(depth, child.id, child)
        if not known and depth < DEEPEST:
            seen.add(child.id)
            yield from _caused(records, child, depth + 1, seen)
