"""Performing several deliveries by one call of a handler that takes a list, inside a transaction that somebody else ends.

Each delivery has an operation key and an end of its own, as if it had been handled by itself; what they share is the call. Its
proof is a row for each of them, or what it told of each. A failure is nobody's yet: they are then performed one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from crossfoot.books.entry import Kind
from crossfoot.effects.databases.session import AsyncSession, Session, Steps, adrive, drive
from crossfoot.effects.perform import acalled, begin, called
from crossfoot.effects.several import AsyncManyTransaction, ManyTransaction
from crossfoot.effects.work import Entered, Work, enter, leave

_KINDS = {int(kind): kind for kind in Kind}


def perform_many(works: Sequence[Work], session: Session) -> list[Kind]:
    """Call the handler once for all whose operation is theirs; the others were done before.

    Raises:
        Exception: whatever the handler raised, `NoProof`, `LeaseLost`.
    """
    entered = [enter(work) for work in works]
    try:
        ready = drive(_open(works), session)
        if ready:
            _say_how_many(ready)
            tx = ManyTransaction(ready, session, begun=True)
            session.watch()
            for work in ready:
                begin(work)
            result = called(ready[0], [work.message for work in ready], tx)
            rows = session.changed()
            drive(_close(ready, result, rows), session)
        return drive(_settle(works), session)
    except Exception as error:
        if (told := _teller(works).explained(error)) is not error:
            raise told from told.__cause__
        raise
    finally:
        _leave(works, entered)


async def aperform_many(works: Sequence[Work], session: AsyncSession) -> list[Kind]:
    """The asynchronous twin."""
    entered = [enter(work) for work in works]
    try:
        ready = await adrive(_open(works), session)
        if ready:
            _say_how_many(ready)
            tx = AsyncManyTransaction(ready, session, begun=True)
            await session.watch()
            for work in ready:
                begin(work)
            result = await acalled(ready[0], [work.message for work in ready], tx)
            tx.check()
            rows = await session.changed()
            await adrive(_close(ready, result, rows), session)
        return await adrive(_settle(works), session)
    except Exception as error:
        if (told := _teller(works).explained(error)) is not error:
            raise told from told.__cause__
        raise
    finally:
        _leave(works, entered)


def _teller(works: Sequence[Work]) -> Work:
    """The one that knows of an error that the handler caught."""
    return next((work for work in works if work.caught), works[0])


def _open(works: Iterable[Work]) -> Steps[list[Work]]:
    """Those that are to be handled."""
    ready = []
    for work in works:
        if work.begins_claimed() or (yield from work.open()) is None:
            work.opened = True
            ready.append(work)
    return ready


def _say_how_many(works: Sequence[Work]) -> None:
    for work in works:
        work.beside = len(works) - 1


def _close(works: Sequence[Work], result: Any, rows: int) -> Steps[None]:
    for work in works:
        kind = work.judge(result, rows)
        if work.asks_no_more(kind):
            work.note_proof(kind)
        else:
            yield from work.close(kind)


def _settle(works: Sequence[Work]) -> Steps[list[Kind]]:
    """How each ended. Those that were decided without the handler are settled last: another of these may have done their work."""
    proven = {work.hold.key for work in works if work.opened}
    for work in works:
        if work.decided is not None:
            work.proven = {*work.proven, *proven}
            yield from work.settle(work.decided)
    return [work.decided if work.decided is not None else _KINDS[work.closing[1]] for work in works if work.closing]


def _leave(works: Sequence[Work], entered: Sequence[Entered]) -> None:
    for work, one in zip(reversed(works), reversed(entered), strict=True):
        leave(work, one)
