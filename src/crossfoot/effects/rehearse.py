"""Performing a delivery for the sake of seeing what comes of it: all of it is rolled back.

It goes the way of a real one up to the commit: the operation is claimed, the handler runs, its proof is judged, and outcomes, messages to
send and entries are written; so what would fail there fails here. Nothing of it lasts. What a handler does outside its transaction
nobody can take back.
"""

from __future__ import annotations

import time
from random import uniform

import anyio

from crossfoot.books.entry import Kind
from crossfoot.connection import is_postgres
from crossfoot.effects.batch import write
from crossfoot.effects.databases.session import AsyncSession, Database, Run, Session, Steps, adrive, drive
from crossfoot.effects.perform import AGAIN, ainside, inside
from crossfoot.effects.several import atransaction_of, transaction_of
from crossfoot.effects.work import Work

CHECK_NOW = "SET CONSTRAINTS ALL IMMEDIATE"
"""Has PostgreSQL check now what it would check at the commit."""


def rehearse(work: Work, session: Session, database: Database) -> Kind:
    """How the delivery would be closed, as `perform` does it; without the commit.

    Raises:
        Exception: whatever the handler raised, or `NoProof`.
    """
    for _ in range(AGAIN):
        try:
            return _rehearse(work, session, database)
        except Exception as error:
            if not session.asks_again(error):
                raise
            work.restart()
        time.sleep(uniform(0, 0.05))
    return _rehearse(work, session, database)


def _rehearse(work: Work, session: Session, database: Database) -> Kind:
    try:
        kind = inside(work, transaction_of(work, session), session, eager=work.eager or not database.lazy)
        drive(_written(work, database), session)
        return kind
    finally:
        session.rollback()


async def arehearse(work: Work, session: AsyncSession, database: Database) -> Kind:
    """The asynchronous twin."""
    for _ in range(AGAIN):
        try:
            return await _arehearse(work, session, database)
        except Exception as error:
            if not session.asks_again(error):
                raise
            work.restart()
        await anyio.sleep(uniform(0, 0.05))
    return await _arehearse(work, session, database)


async def _arehearse(work: Work, session: AsyncSession, database: Database) -> Kind:
    try:
        kind = await ainside(work, atransaction_of(work, session), session, eager=work.eager or not database.lazy)
        await adrive(_written(work, database), session)
        return kind
    finally:
        with anyio.CancelScope(shield=True):
            await session.rollback()


def _written(work: Work, database: Database) -> Steps[None]:
    yield from write([work])
    if is_postgres(database.path):
        yield Run(CHECK_NOW)
