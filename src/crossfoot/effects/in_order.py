"""The steps of a delivery whose handler takes the events of a subject in order: whose turn it is, what waits, and what moves on.

Whose turn has come is decided in the transaction, behind the last sequence applied, which nobody else moves until it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crossfoot.books import sql
from crossfoot.books.entry import Kind
from crossfoot.clock import micros
from crossfoot.effects.databases.session import All, Alone, One, Run, Steps
from crossfoot.effects.letters import Waiting, details_of, resume
from crossfoot.effects.sequence import Turn, awaited, turn_of
from crossfoot.errors import EnvelopeInvalid, LeaseLost

if TYPE_CHECKING:
    from crossfoot.effects.work import Work


def out_of_turn(work: Work) -> Steps[bool]:
    """Whether it is out of order as far as can be seen before the transaction, so that its handler need not start.

    A turn that has come stays or is taken by a later event, which `open` sees; it is never early again.
    """
    message, order = work.message, work.handler.in_order
    if order is None:
        return False
    if message.sequence is None or message.subject is None:
        return True
    found = yield One(sql.FIND_SEQUENCE, (_line(work), message.subject))
    last = found[0] if found else None
    return turn_of(last, message.sequence, message.predecessor, order) is not Turn.APPLY


def turn(work: Work) -> Steps[Kind | None]:
    """What becomes of it instead of its handler, `None` if its turn has come.

    Raises:
        EnvelopeInvalid: it has no sequence, or no subject.
    """
    message, order = work.message, work.handler.in_order
    assert order is not None
    if message.sequence is None or message.subject is None:
        raise EnvelopeInvalid(
            f"{work.what}: handler {work.handler.name} takes events in order and needs a subject and a sequence; the "
            "publisher must set both"
        )
    last = yield from _last(work)
    found = turn_of(last, message.sequence, message.predecessor, order)
    if found is Turn.PARK and (yield One(sql.GAP_ACCEPTED, _place(work))):
        work.gap = awaited(message.sequence, message.predecessor, order)
        yield Run(sql.UNPARK, _place(work))
        found = Turn.APPLY
    return {Turn.APPLY: None, Turn.SUPERSEDE: Kind.SUPERSEDED, Turn.PARK: Kind.PARKED}[found]


def advance_if_next(work: Work) -> Steps[None]:
    """Another message completed this one's operation: if its turn has come, those behind it need not wait for it."""
    message, order = work.message, work.handler.in_order
    if order is None or message.sequence is None or message.subject is None:
        return
    last = yield from _last(work)
    if turn_of(last, message.sequence, message.predecessor, order) is Turn.APPLY:
        yield from advance(work)


def advance(work: Work) -> Steps[None]:
    """Note the sequence, and send on whoever waited for it: in this transaction, so that none is forgotten."""
    name, subject, sequence, now = _line(work), work.message.subject, work.message.sequence, work.clock.now()
    yield Run(sql.ADVANCE_SEQUENCE, (name, subject, sequence, now))
    for row in (yield All(sql.FOLLOWERS, (name, subject, sequence))):
        message, follower, attempt, body, partition, until, queue, source, id_ = row
        yield Run(sql.UNPARK, (name, subject, follower, message))
        if until:  # else it was sent on already, when its patience was over
            parked = Waiting(message, attempt, body, partition, queue, f"{source}|{id_}")
            work.sends = True
            yield from resume(work.rows, parked, work.hold.worker, now)


def park(work: Work) -> Steps[None]:
    """Keep the early message in the book; the queue need not hold it any longer."""
    message, order, hold, now = work.message, work.handler.in_order, work.hold, work.clock.now()
    assert order is not None and message.sequence is not None
    before = awaited(message.sequence, message.predecessor, order)
    until = now + micros(order.wait)
    yield Run(sql.DROP_OPERATION, (work.operation, hold.key))
    yield Run(sql.PARK, (*_place(work), before, hold.attempt, until, hold.body, hold.partition))
    details = details_of(predecessor=before, sequence=message.sequence)
    work.rows.append(work.entry(Kind.PARKED, details, until))
    if hold.ack is not None:
        if not work.acks_later and not (yield Run(*hold.ack)):
            raise LeaseLost(f"{work.what}: somebody else holds it by now; nothing was kept")
        work.rows.append(work.entry(Kind.ACKED))


def _last(work: Work) -> Steps[int | None]:
    """The last sequence applied, which nobody but this transaction moves from now on."""
    yield Alone(f"{_line(work)}/{work.message.subject}")
    found = yield One(sql.TAKE_SEQUENCE, (_line(work), work.message.subject))
    return found[0] if found else None


def line_of(queue: str, handler: str) -> str:
    """Whose sequences these are: one handler may serve several queues, and several services share a file."""
    return f"{queue}/{handler}"


def _line(work: Work) -> str:
    return line_of(work.hold.queue, work.handler.name)


def _place(work: Work) -> tuple[Any, ...]:
    return (_line(work), work.message.subject, work.message.sequence, work.hold.key)
