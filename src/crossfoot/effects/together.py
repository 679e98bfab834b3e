"""Performing a batch: many deliveries in one transaction.

Synchronous and asynchronous twins. Up to three ways are tried, each undoing what the one before did:

1. *unmarked*, where that was asked for: no savepoints, which cost as much as a short handler; where the session can, writes of all
   handlers are sent together. A failure spoils the batch. A handler that takes a list is called once, with all that are its.
2. *marked*: each delivery in a savepoint, so that a failure undoes its own work only.
3. marked, and each acked by itself, when some deliveries of the group turned out to be with somebody else.

Whatever fails then fails the transaction as a whole, and the deliveries are performed one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from crossfoot.books.entry import Kind
from crossfoot.boundaries import Boundary, reach
from crossfoot.effects.batch import ack, claim, disclaim, write
from crossfoot.effects.databases.session import AsyncSession, LateSession, Session, adrive, drive
from crossfoot.effects.later import handle_later, may_wait
from crossfoot.effects.many import aperform_many, perform_many
from crossfoot.effects.optimism import Optimism
from crossfoot.effects.perform import ainside, inside
from crossfoot.effects.several import atransaction_of, transaction_of
from crossfoot.effects.work import Work
from crossfoot.errors import LeaseLost

Results = list[Kind | Exception]


class Spoilt(Exception):
    """A delivery of an unmarked batch failed, and all of it was rolled back."""


def perform_batch(works: Sequence[Work], session: Session, optimism: Optimism | None = None) -> Results:
    """Handle many deliveries in one transaction: a failure undoes its own work only.

    Args:
        optimism: whether to try it without savepoints first; then the handlers of those beside a failure run again.

    Returns:
        For each work how it was closed, or the exception that undid it. All of it is durable.

    Raises:
        Exception: the transaction as a whole failed; do the works one by one, which finds out what was kept.
    """
    performed, spoilt = works, False
    if optimism is not None and optimism.holds:
        try:
            results = _batch(works, session, marked=False)
        except (Spoilt, LeaseLost):
            performed, spoilt = _again(works), True
        else:
            optimism.learn(failed=False)
            return results
    try:
        results = _batch(performed, session)
    except LeaseLost:
        performed = _again(works)
        results = _batch(performed, session, grouped=False)
    if optimism is not None:  # what failed among others and not by itself would fail among others again
        optimism.learn(failed=spoilt or any(isinstance(result, Exception) for result in results))
    _tell(works, performed)
    return results


def _batch(works: Sequence[Work], session: Session, *, marked: bool = True, grouped: bool = True) -> Results:
    proven: set[int] = set()
    session.begin()
    try:
        if grouped:
            drive(claim(works, by_columns=session.by_columns), session)
        results: dict[Work, Kind | Exception] = {} if marked else _later(works, session)
        for work in works:
            if work in results:
                continue
            if marked:
                session.mark()
            unit = _unit(work, works) if not marked else [work]
            for each in unit:
                each.proven, each.acks_later = proven, grouped
            try:
                if len(unit) > 1:
                    results.update(zip(unit, perform_many(unit, session), strict=True))
                else:
                    results[work] = inside(work, transaction_of(work, session, begun=True), session, eager=True)
                proven.update(each.hold.key for each in unit)
                reach(Boundary.INSIDE_BATCH)
            except Exception as error:
                if session.asks_again(error):  # for the whole transaction: one by one
                    raise
                if not marked:
                    raise Spoilt from error
                work.forget()
                session.undo()
                drive(disclaim(work), session)
                results[work] = error
            if marked:
                session.keep()
        drive(ack(works, by_columns=session.by_columns), session)
        drive(write(works, by_columns=session.by_columns), session)
        reach(Boundary.BEFORE_COMMIT)
        session.commit()
    except BaseException:
        session.rollback()
        raise
    reach(Boundary.AFTER_COMMIT)
    return [results[work] for work in works]


def _later(works: Sequence[Work], session: Session) -> dict[Work, Kind | Exception]:
    """Handle all whose writes may be sent together: either the whole batch, or none of it."""
    if not isinstance(session, LateSession) or not may_wait(works):
        return {}
    try:
        return handle_later(works, session)
    except Exception as error:
        if session.asks_again(error):
            raise
        raise Spoilt from error


async def aperform_batch(works: Sequence[Work], session: AsyncSession, optimism: Optimism | None = None) -> Results:
    """The asynchronous twin of `perform_batch`: handlers run one after another."""
    performed, spoilt = works, False
    if optimism is not None and optimism.holds:
        try:
            results = await _abatch(works, session, marked=False)
        except (Spoilt, LeaseLost):
            performed, spoilt = _again(works), True
        else:
            optimism.learn(failed=False)
            return results
    try:
        results = await _abatch(performed, session)
    except LeaseLost:
        performed = _again(works)
        results = await _abatch(performed, session, grouped=False)
    if optimism is not None:  # what failed among others and not by itself would fail among others again
        optimism.learn(failed=spoilt or any(isinstance(result, Exception) for result in results))
    _tell(works, performed)
    return results


async def _abatch(
    works: Sequence[Work], session: AsyncSession, *, marked: bool = True, grouped: bool = True
) -> Results:
    results: dict[Work, Kind | Exception] = {}
    proven: set[int] = set()
    try:
        await session.begin()
        if grouped:
            await adrive(claim(works, by_columns=session.by_columns), session)
        for work in works:
            if work in results:
                continue
            if marked:
                await session.mark()
            unit = _unit(work, works) if not marked else [work]
            for each in unit:
                each.proven, each.acks_later = proven, grouped
            try:
                if len(unit) > 1:
                    results.update(zip(unit, await aperform_many(unit, session), strict=True))
                else:
                    results[work] = await ainside(work, atransaction_of(work, session, begun=True), session, eager=True)
                proven.update(each.hold.key for each in unit)
                reach(Boundary.INSIDE_BATCH)
            except Exception as error:
                if session.asks_again(error):  # for the whole transaction: one by one
                    raise
                if not marked:
                    raise Spoilt from error
                work.forget()
                await session.undo()
                await adrive(disclaim(work), session)
                results[work] = error
            if marked:
                await session.keep()
        await adrive(ack(works, by_columns=session.by_columns), session)
        await adrive(write(works, by_columns=session.by_columns), session)
        reach(Boundary.BEFORE_COMMIT)
        with anyio.CancelScope(shield=True):
            await session.commit()
    except BaseException:
        with anyio.CancelScope(shield=True):
            await session.rollback()
        raise
    reach(Boundary.AFTER_COMMIT)
    return [results[work] for work in works]


def _again(works: Sequence[Work]) -> list[Work]:
    return [work.again() for work in works]


def _tell(works: Sequence[Work], performed: Sequence[Work]) -> None:
    """Whoever holds the works reads in them what the outbox and the fate need, though others were performed in their stead."""
    for work, other in zip(works, performed, strict=True):
        work.sends, work.before = other.sends, other.before


def _unit(first: Work, works: Sequence[Work]) -> list[Work]:
    """All that its handler takes together with this one."""
    return [work for work in works if work.handler is first.handler] if first.handler.many else [first]
