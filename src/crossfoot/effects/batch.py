"""What a batch does for all its messages at once: claim their operations before, ack them and write their entries after.

One statement for a group costs a fraction of one statement each, and inside a message's savepoint SQLite would copy
every page that it touches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from crossfoot.books import sql
from crossfoot.books.entry import Kind
from crossfoot.books.store import flat
from crossfoot.boundaries import Boundary, reach
from crossfoot.dialect import for_all
from crossfoot.effects.databases.session import Acks, All, Many, Run, Steps
from crossfoot.effects.work import Closing, Work
from crossfoot.errors import LeaseLost

COMMITTED = int(Kind.COMMITTED)
Row = tuple[Any, ...]


def claim(works: Sequence[Work], *, by_columns: bool) -> Steps[None]:
    """Claim the operations of a batch, in whole groups where that is not done by columns. Each of the others, taken or left over,
    is claimed in its turn; so is a second delivery of a message, which completes no other operation if the first one does."""
    if not works:
        return
    works = list(_at_once(works))
    size = len(works) if by_columns else sql.GROUP
    now = works[0].clock.now()
    for first in range(0, len(works) - size + 1, size):
        group = works[first : first + size]
        operations, keys = [work.operation for work in group], [work.hold.key for work in group]
        if by_columns:
            ask = All(sql.CLAIM_OPERATIONS, (operations, keys, [COMMITTED] * size, [now] * size))
        else:
            ask = All(
                sql.INSERT_OPERATIONS, flat((*name, COMMITTED, now) for name in zip(operations, keys, strict=True))
            )
        inserted = {tuple(row) for row in (yield ask)}
        for work in group:
            work.claimed = (work.operation, work.hold.key) in inserted


def _at_once(works: Sequence[Work]) -> Iterator[Work]:
    """Works that may claim before any of them is begun: each message's first, but for what one before it may still take."""
    messages: set[int] = set()
    open_: set[str] = set()
    for work in works:
        if work.hold.key in messages or work.operation in open_:
            open_.add(work.operation)
        else:
            yield work
        messages.add(work.hold.key)


def disclaim(work: Work) -> Steps[None]:
    """The work failed: its operation is open to whoever comes next, perhaps in this batch."""
    if work.claimed:
        work.claimed = False
        yield Run(sql.DROP_OPERATION, (work.operation, work.hold.key))


def ack(works: Sequence[Work], *, by_columns: bool) -> Steps[None]:
    """Ack those that ended well, where acks ride in the transaction.

    Raises:
        LeaseLost: not all of them are still ours. Whose are not is found by doing it again with each ack in its savepoint.
    """
    acks = [work.hold.ack for work in works if work.acks_later and work.ended and work.hold.ack is not None]
    if not acks:
        return
    acked = 0
    for statement in {statement for statement, _ in acks}:
        rows = [parameters for each, parameters in acks if each == statement]
        together = for_all(statement, rows) if by_columns else None
        changed = yield (Run(*together, must=len(rows)) if together is not None else Acks(statement, rows))
        acked += len(rows) if changed is None else changed
    if acked != len(acks):
        raise LeaseLost(f"{len(acks) - acked} of {len(acks)} deliveries of a batch are with somebody else by now")
    reach(Boundary.AFTER_ACK)


def write(works: Sequence[Work], *, by_columns: bool = False) -> Steps[None]:
    """Write the entries of all works: the last statements before the commit."""
    rows = [row for work in works for row in work.rows]
    if rows:
        yield Many(sql.INSERT_ENTRY, rows)
    acked = [work.closing for work in works if work.closing is not None and work.acked]
    others = [work.closing for work in works if work.closing is not None and not work.acked]
    if by_columns:
        for closings, statement in ((acked, sql.INSERT_CLOSINGS_AND_ACKS), (others, sql.INSERT_CLOSINGS)):
            if closings:
                yield Run(statement, [list(column) for column in zip(*closings, strict=True)])
        return
    yield from _closings(
        [_with_ack(closing) for closing in acked], sql.INSERT_CLOSING_AND_ACK, sql.INSERT_CLOSING_AND_ACK_GROUP
    )
    yield from _closings(others, sql.INSERT_CLOSING, sql.INSERT_CLOSING_GROUP)


def _with_ack(closing: Closing) -> Row:
    message, _, attempt, delivery, at, worker, _ = closing
    return (*closing, message, attempt, delivery, at, worker)


def _closings(rows: Sequence[Row], each: str, group: str) -> Steps[None]:
    whole = len(rows) - len(rows) % sql.GROUP
    for first in range(0, whole, sql.GROUP):
        yield Run(group, flat(rows[first : first + sql.GROUP]))
    rest = rows[whole:]
    if len(rest) == 1:
        yield Run(each, rest[0])
    elif rest:
        yield Many(each, rest)
