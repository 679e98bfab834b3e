"""What a look at the book finds of each alert: its value or its counters, the ids concerned, and how many they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
from msgspec import UnsetType

from crossfoot.books import counted, queries, signs
from crossfoot.books.balance import Balance
from crossfoot.books.fate import OVERDUE, Fate
from crossfoot.books.losing import Memory
from crossfoot.books.receiving import taken_here, untaken
from crossfoot.clock import SECOND, Micros
from crossfoot.connection import Connection
from crossfoot.outcomes.alerts.losing import Losing, losing, words
from crossfoot.outcomes.alerts.machine import Seen
from crossfoot.outcomes.summary import Summary

QUIET = 60 * SECOND
"""A worker that gave no sign of life for so long is not counted as one that works."""

UNKNOWN = Memory()

WITHIN: Micros = 3_600 * SECOND
"""What share of a queue's messages drains is measured over the last hour."""


class Sign(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one alert, about one queue, expectation or invariant.

    Attributes:
        about: empty for the whole book.
        seen: `None` where there is nothing of it any more.
    """

    alert: str
    about: str = ""
    seen: Seen | None
    count: int = 0
    ids: tuple[str, ...] = ()
    known: bool = True
    """Whether it can be told; what cannot neither fires nor is over."""
    words: Mapping[str, str] = {}
    """What the alert's text says besides."""


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to look at.

    Attributes:
        balance: the books; only its fates, overdue messages and unaccounted ones are used.
        memory: what queues keep, of those of which it is known.
        losing: dead letters that their queue forgets, by queue; `None` where nobody knows when it does.
        waits: messages that could be delivered.
        passed: deliveries, failures and dead letters, as far as they are counted.
        rate: messages that each queue finished a second, lately.
        at_work: workers that gave a sign of life lately.
    """

    as_of: Micros
    balance: Balance
    summary: Summary
    memory: Mapping[str, Memory]
    losing: Mapping[str, Losing | None]
    waits: Mapping[str, signs.Waiting]
    dead: Mapping[str, signs.Lying]
    passed: Mapping[str, counted.Passed]
    rate: Mapping[str, float]
    unposted: tuple[int, Micros | None]
    at_work: int
    ids: Mapping[tuple[Fate, str], tuple[str, ...]]


def read(
    connection: Connection, balance: Balance, summary: Summary, now: Micros, *, memory: Mapping[str, Memory], rate: Mapping[str, float]
) -> Looked:  # fmt: skip
    """Look at the book, in one snapshot.

    Args:
        balance, summary: drawn up just before.
    """
    with connection.snapshot():
        waits = {one.queue: one for one in signs.waiting(connection, Fate.QUEUED, now)}
        for one in signs.waiting(connection, Fate.RETRYING, now):
            first = waits.get(one.queue, one)
            count = one.number + (first.number if first is not one else 0)
            waits[one.queue] = signs.Waiting(one.queue, count, min(one.due, first.due), min(one.at, first.at))
        dead = {one.queue: one for one in signs.lying(connection)}
        queues = sorted({*balance.queues, *waits, *dead})
        orders = {Fate.DEAD: "oldest", Fate.VANISHED: "newest", Fate.QUEUED: "oldest", Fate.RETRYING: "most tries"}
        ids = {
            (fate, queue): signs.ids_of(connection, fate, queue, order)
            for fate, order in orders.items()
            for queue in queues
        }
        return Looked(
            as_of=now, balance=balance, summary=summary, memory=memory, waits=waits, dead=dead,
            losing={queue: losing(connection, queue, memory.get(queue, UNKNOWN), now) for queue in dead},
            passed=_passed(connection), rate=rate, unposted=signs.unposted(connection),
            at_work=sum(now - worker.seen_at < QUIET for worker in queries.at_work(connection)), ids=ids,
        )  # fmt: skip


def _passed(connection: Connection) -> Mapping[str, counted.Passed]:
    found = counted.counts(connection)
    return found.queues if found is not None else {}


def signs_of(looked: Looked) -> Iterator[Sign]:
    """Everything that alerts look at, calm or not."""
    balance = looked.balance
    yield Sign(
        alert="unaccounted", seen=Seen(value=balance.unaccounted), count=balance.unaccounted, ids=balance.unaccounted_ids
    )  # fmt: skip
    yield from _overdue(looked)
    yield from _dead(looked)
    yield from _waiting(looked)
    yield from _promised(looked.summary)
    for queue in sorted({*looked.passed, *balance.queues}):  # one that begins at 0 is seen to rise, by Prometheus, too
        counts = looked.passed.get(queue, counted.Passed())
        failing = looked.ids.get((Fate.RETRYING, queue), ())
        yield Sign(
            alert="retry explosion", about=queue, seen=Seen(bad=counts.failed, all=counts.received),
            count=balance.queues[queue].fates[Fate.RETRYING.label] if queue in balance.queues else 0,
            ids=failing or looked.ids.get((Fate.DEAD, queue), ()),
        )  # fmt: skip
    count, since = looked.unposted
    yield Sign(
        alert="balance lag", seen=Seen(value=_age(since, looked.as_of)), count=count
    )  # fmt: skip


def _overdue(looked: Looked) -> Iterator[Sign]:
    """Overdue messages, and those that vanished, by queue."""
    for queue, of_queue in looked.balance.queues.items():
        for fate in (Fate.STRANDED, Fate.STALLED):
            count = of_queue.fates[fate.label]
            if fate is Fate.STRANDED and count:
                there = _still_there(looked, queue)
                if there is None:  # whoever receives there may have a book of its own
                    yield Sign(alert=fate.label, about=queue, seen=None, known=False)
                    continue
                count = count if there else 0
            late = {posted for posted, overdue in OVERDUE.items() if overdue is fate}
            found = looked.balance.attention.get(fate.label)
            ids = tuple(i for one in late for i in looked.ids.get((one, queue), ()))[: signs.SHOWN]
            told = found.ids if found is not None else ()
            yield Sign(
                alert=fate.label, about=queue, seen=Seen(value=count), count=count, ids=(told or ids) if count else ()
            )
        gone = of_queue.fates[Fate.VANISHED.label]
        ids = looked.ids.get((Fate.VANISHED, queue), ())
        yield Sign(alert="vanished", about=queue, seen=Seen(bad=gone), count=gone, ids=ids)


def _dead(looked: Looked) -> Iterator[Sign]:
    for queue in sorted({*looked.passed, *looked.dead, *looked.balance.queues}):
        counts, lying = looked.passed.get(queue, counted.Passed()), looked.dead.get(queue)
        count, ids = (lying.number if lying else 0), looked.ids.get((Fate.DEAD, queue), ())
        yield Sign(
            alert="dead letters", about=queue, seen=Seen(bad=counts.dead, all=counts.received), count=count, ids=ids
        )
        age = _age(lying.since, looked.as_of) if lying else 0.0
        yield Sign(alert="dead letter age", about=queue, seen=Seen(value=age), count=count, ids=ids)
    for queue in looked.dead:
        near = looked.losing.get(queue)
        yield Sign(
            alert="dead letter loss", about=queue, seen=Seen(value=near.share if near is not None else None),
            count=near.count if near is not None else 0, ids=near.ids if near is not None else (),
            known=near is not None, words=words(near),
        )  # fmt: skip


def _waiting(looked: Looked) -> Iterator[Sign]:
    """What waits: whether it is lost before its turn comes, and whether workers are too few."""
    for queue, one in looked.waits.items():
        there = _still_there(looked, queue)
        if there is None:
            yield Sign(alert="worker saturation", about=queue, seen=None, known=False)
            yield Sign(alert="time to loss", about=queue, seen=None, known=False)
        if not there:
            continue  # others have taken it up, or may have
        ids = (looked.ids.get((Fate.QUEUED, queue), ()) + looked.ids.get((Fate.RETRYING, queue), ()))[: signs.SHOWN]
        waited = _age(one.due, looked.as_of) if looked.at_work else 0.0
        yield Sign(alert="worker saturation", about=queue, seen=Seen(value=waited), count=one.number, ids=ids)
        retention = looked.memory.get(queue, UNKNOWN).messages
        if isinstance(retention, UnsetType):
            yield Sign(alert="time to loss", about=queue, seen=None, known=False)
        elif retention is not None:
            left = life_left(_age(one.at, looked.as_of), one.number, looked.rate.get(queue, 0.0), retention)
            yield Sign(alert="time to loss", about=queue, seen=Seen(value=left), count=one.number, ids=ids)


def _still_there(looked: Looked, queue: str) -> bool | None:
    """Whether what the book believes to wait in a queue does, as `untaken`."""
    of_queue = looked.balance.queues.get(queue)
    if of_queue is None:  # nothing of it is posted yet
        return None
    return untaken(of_queue, here=taken_here(of_queue), held=looked.memory.get(queue, UNKNOWN).held)


def _promised(summary: Summary) -> Iterator[Sign]:
    for one in summary.expectations:
        named = tuple(breach.id for breach in one.missing_messages)[: signs.SHOWN]
        yield Sign(
            alert="expectation breach", about=one.name, seen=Seen(value=one.missing), count=one.missing, ids=named
        )
        late = tuple(breach.id for breach in one.late_messages)[-signs.SHOWN :]
        ended = one.met + one.late + one.missing
        yield Sign(
            alert="expectation late", about=one.name, seen=Seen(bad=one.late, all=ended), count=one.late, ids=late
        )
    for statement in summary.invariants:
        result = statement.result
        if result is None:
            continue
        known = result.holds is not None
        yield Sign(
            alert="invariant broken", about=statement.name, seen=Seen(value=result.count), count=result.count,
            ids=result.ids[: signs.SHOWN], known=known,
        )  # fmt: skip
        yield Sign(
            alert="invariant not known", about=statement.name, seen=Seen(value=float(not known)), count=int(not known)
        )


def life_left(age: float, count: int, rate: float, retention: float) -> float:
    """What share of its retention the oldest message that waits has left; 1 when all that waits is handled before that is over.

    Args:
        age: seconds since it was published.
        count: messages that wait.
        rate: messages that are finished a second.
    """
    left = max(0.0, retention - age)
    if rate > 0 and count / rate <= left:
        return 1.0
    return left / retention


def _age(since: Micros | None, now: Micros) -> float:
    """Seconds; nothing is younger than now."""
    return max(0, now - since) / SECOND if since is not None else 0.0
