"""What a batch does for all its messages at once: claim their operations before, ack them and write their entries after.

One statement for a group costs a fraction of one statement each, and inside a message's savepoint SQLite would copy
every page that it touches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crossfoot.books import sql
from crossfoot.books.entry import Kind
from crossfoot.books.store import flat
from crossfoot.boundaries import Boundary, reach
from crossfoot.effects.databases.session import Acks, All, Many, Run, Steps
from crossfoot.effects.work import Closing, Work
from crossfoot.errors import LeaseLost

COMMITTED = int(Kind.COMMITTED)
Row = tuple[Any, ...]


def claim(works: Sequence[Work]) -> Steps[None]:
    """Claim the operations of a batch, in whole groups. Each of the others, taken or left over, is claimed in its turn."""
    for first in range(0, len(works) - sql.GROUP + 1, sql.GROUP):
        group = works[first : first + sql.GROUP]
        now = group[0].clock.now()
        rows = [(work.operation, work.hold.key, COMMITTED, now) for work in group]
        inserted = {tuple(row) for row in (yield All(sql.INSERT_OPERATIONS, flat(rows)))}
        for work in group:
            name = (work.operation, work.hold.key)
            work.claimed = name in inserted
            inserted.discard(name)  # a second delivery of the same message did not claim it


def disclaim(work: Work) -> Steps[None]:
    """The work failed: its operation is open to whoever comes next, perhaps in this batch."""
    if work.claimed:
        work.claimed = False
        yield Run(sql.DROP_OPERATION, (work.operation, work.hold.key))


def ack(works: Sequence[Work]) -> Steps[None]:
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
        changed = yield Acks(statement, rows)
        acked += len(rows) if changed is None else changed
    if acked != len(acks):
        raise LeaseLost(f"{len(acks) - acked} of {len(acks)} deliveries of a batch are with somebody else by now")
    reach(Boundary.AFTER_ACK)


def write(works: Sequence[Work]) -> Steps[None]:
    """Write the entries of all works: the last statements before the commit."""
    rows = [row for work in works for row in work.rows]
    if rows:
        yield Many(sql.INSERT_ENTRY, rows)
    acked = [_with_ack(work.closing) for work in works if work.closing is not None and work.acked]
    yield from _closings(acked, sql.INSERT_CLOSING_AND_ACK, sql.INSERT_CLOSING_AND_ACK_GROUP)
    others = [work.closing for work in works if work.closing is not None and not work.acked]
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
