"""Performing one delivery: begin, handler, proof, commit; and what the commit's answer means.

Synchronous and asynchronous twins. A commit that raised is neither believed nor
disbelieved: the operation key is read again, over a new connection, and says which message completed it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from contextlib import nullcontext, suppress
from random import uniform
from typing import Any, NoReturn

import anyio

from crossfoot.books import sql
from crossfoot.books.entry import Kind
from crossfoot.boundaries import Boundary, reach
from crossfoot.effects.batch import write
from crossfoot.effects.bounds import deadline_of, told
from crossfoot.effects.databases.session import AsyncSession, Database, Run, Session, Steps, adrive, drive
from crossfoot.effects.in_order import out_of_turn
from crossfoot.effects.several import atransaction_of, transaction_of
from crossfoot.effects.transaction import AsyncTransaction, Transaction
from crossfoot.effects.work import Decided, Work, enter, leave
from crossfoot.errors import CommitInDoubt, HandlerQuit, LeaseLost, TransactionMisuse
from crossfoot.message import Message

logger = logging.getLogger("crossfoot.effects")

AGAIN = 5
"""How often a delivery is begun anew because the database asks for that, before it counts as failed."""


def perform(work: Work, session: Session, database: Database, following: Work | None = None) -> Kind:
    """Handle one delivery in one transaction, and in another one if the database asks for that.

    Args:
        following: what this session performs next: its transaction may be begun with this one's commit. Who does not perform it
            after all calls `forgo`.

    Returns:
        How it was closed: committed, noop, suppressed, superseded or parked. All of it is durable.

    Raises:
        Exception: whatever the handler raised, `NoProof`, `LeaseLost`: nothing was kept.
        CommitInDoubt: nobody could tell whether the commit happened.
    """
    for tries in range(AGAIN):
        try:
            return _perform(work, session, database, following)
        except Exception as error:
            if not session.asks_again(error):
                raise
            work.restart()
        time.sleep(_apart(tries))
    return _perform(work, session, database, following)


def _apart(tries: int) -> float:
    """Seconds until a delivery is begun anew: none the first time, and then at random, so that those who stood in each other's way
    do not meet again."""
    return uniform(0, 0.005 * 2**tries) if tries else 0.0


def forgo(work: Work | None, session: Session) -> None:
    """End the transaction that was begun for a work which was not performed."""
    if work is not None and work.begun:
        work.begun = work.claimed = False
        session.rollback()


def _perform(work: Work, session: Session, database: Database, following: Work | None) -> Kind:
    begun, work.begun = work.begun, False
    try:
        eager = work.eager or begun or not database.lazy
        kind = inside(work, transaction_of(work, session, begun=begun), session, eager=eager)
        drive(write([work]), session)
        reach(Boundary.BEFORE_COMMIT)
    except BaseException:
        session.rollback()
        raise
    try:
        _commit(session, following)
    except LeaseLost as error:
        session.rollback()
        raise LeaseLost(work.lost) from error
    except Exception as error:
        session.rollback()
        if session.asks_again(error) or not committed_after_all(work, database, error):
            raise
        _tell_found(work, error)
    reach(Boundary.AFTER_COMMIT)
    return kind


def _commit(session: Session, following: Work | None) -> None:
    if following is None:
        session.commit()
        return
    claimed = session.commit_and_begin(following.claim())
    following.begun, following.claimed = claimed is not None, bool(claimed)


async def aperform(work: Work, session: AsyncSession, database: Database) -> Kind:
    """The asynchronous twin of `perform`. Rollback and commit are shielded from cancellation."""
    for tries in range(AGAIN):
        try:
            return await _aperform(work, session, database)
        except Exception as error:
            if not session.asks_again(error):
                raise
            work.restart()
        await anyio.sleep(_apart(tries))
    return await _aperform(work, session, database)


async def _aperform(work: Work, session: AsyncSession, database: Database) -> Kind:
    try:
        kind = await ainside(work, atransaction_of(work, session), session, eager=work.eager or not database.lazy)
        await adrive(write([work]), session)
        reach(Boundary.BEFORE_COMMIT)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await session.rollback()
        raise
    with anyio.CancelScope(shield=True):
        try:
            await session.commit()
        except LeaseLost as error:
            await session.rollback()
            raise LeaseLost(work.lost) from error
        except Exception as error:
            await session.rollback()
            if session.asks_again(error) or not await acommitted_after_all(work, database, error):
                raise
            _tell_found(work, error)
    reach(Boundary.AFTER_COMMIT)
    return kind


def committed_after_all(work: Work, database: Database, error: Exception) -> bool:
    """Ask the operation key, over a new connection, whether a commit without an answer happened.

    Raises:
        CommitInDoubt: the key could not be read either.
    """
    try:
        session = database.connect()
        try:
            session.begin()  # waits until the transaction in doubt is over, one way or the other
            return drive(_owner(work), session) == work.hold.key
        finally:
            session.rollback()
            session.close()
    except Exception as second:  # noqa: BLE001 - whatever it was, the key was not read, and nobody knows
        _doubt(work, error, second)


async def acommitted_after_all(work: Work, database: Database, error: Exception) -> bool:
    """The asynchronous twin."""
    try:
        session = await database.aconnect()
        try:
            await session.begin()  # as above
            return await adrive(_owner(work), session) == work.hold.key
        finally:
            await session.rollback()
            await session.close()
    except Exception as second:  # noqa: BLE001 - as above
        _doubt(work, error, second)


def inside(work: Work, tx: Transaction, session: Session, *, eager: bool) -> Kind:
    """One delivery inside a transaction that somebody else ends: its handler, its proof, and what is written with it."""
    entered = enter(work)
    try:
        if eager or drive(out_of_turn(work), session):
            tx.open()
        begin(work)
        result = called(work, work.given, tx)
        tx.open()
        kind = work.judge(result, session.changed())
        if work.asks_no_more(kind):
            work.note_proof(kind)
        else:
            drive(work.close(kind), session)
        return kind
    except Decided:
        pass
    except Exception as error:
        if (told := work.explained(error)) is not error:
            raise told from told.__cause__
        raise
    finally:
        leave(work, entered)
    return drive(work.settle(decision(work)), session)


async def ainside(work: Work, tx: AsyncTransaction, session: AsyncSession, *, eager: bool) -> Kind:
    """The asynchronous twin."""
    entered = enter(work)
    try:
        if eager or await adrive(out_of_turn(work), session):
            await tx.open()
        begin(work)
        result = await acalled(work, work.given, tx)
        tx.check()
        await tx.open()
        kind = work.judge(result, await session.changed())
        if work.asks_no_more(kind):
            work.note_proof(kind)
        else:
            await adrive(work.close(kind), session)
        return kind
    except Decided:
        pass
    except Exception as error:
        if (told := work.explained(error)) is not error:
            raise told from told.__cause__
        raise
    finally:
        leave(work, entered)
    return await adrive(work.settle(decision(work)), session)


def begin(work: Work) -> None:
    """The handler begins, and its deadline with it: what it waited for before was not its own doing."""
    if work.hold.begin is not None:
        work.hold.begin()
    reach(Boundary.INSIDE_HANDLER)


def called(work: Work, given: Message | list[Message], tx: Transaction) -> Any:
    """What the handler returned.

    Args:
        work: the delivery it is called for, or the first of several.
        given: what it is called with.

    Raises:
        HandlerQuit: it raised what is not for one delivery to raise.
    """
    process = os.getpid()
    deadline = deadline_of(work, given)
    try:
        with deadline or nullcontext():
            return work.handler.function(*work.handler.arguments(given, tx))
    except (Exception, Decided) as error:
        if (late := told(work, deadline, error)) is not None:
            raise late from error
        raise
    except BaseException as error:
        if _only_decided(error):
            raise Decided(decision(work)) from error
        raise _quit(work, error) from error
    finally:
        tx.end()
        _only_here(process)


async def acalled(work: Work, given: Message | list[Message], tx: AsyncTransaction) -> Any:
    """The asynchronous twin.

    Raises:
        DeadlineExceeded: it was cancelled at its deadline.
        MessageExpired: it was cancelled when its message was of no use any more.
        LeaseLost: it was cancelled because somebody else may hold the message by now.
    """
    deadline, process = deadline_of(work, given), os.getpid()
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        with anyio.CancelScope() as work.hold.running, deadline or nullcontext():
            try:
                result = await work.handler.function(*work.handler.arguments(given, tx))
            finally:
                _only_here(process)
            if task.cancelling() > before and not is_cancelled():
                await _take_back(task, before)
                raise _quit(work, asyncio.CancelledError("by its own task.cancel()"))
            return result
    except (Exception, Decided) as error:
        if (late := told(work, deadline, error)) is not None:
            raise late from error
        raise
    except BaseException as error:
        if _only_decided(error):
            raise Decided(decision(work)) from error
        if isinstance(error, anyio.get_cancelled_exc_class()):
            if is_cancelled():
                raise
            await _take_back(task, before)
        raise _quit(work, error) from error
    finally:
        work.hold.running = None
        tx.end()
    raise LeaseLost(work.lost)  # which is what ends one handler and not its lane


def _only_here(process: int) -> None:
    """End a child that a handler forked and did not end: it has the connections and the event loop of this process, and only one of
    us may go on with them."""
    if os.getpid() != process:
        os._exit(70)


def is_cancelled() -> bool:
    """Whether a scope around this task was cancelled, which is the one way crossfoot ends a handler. It may also have cancelled
    its own task, or have waited for another one that was cancelled."""
    return anyio.current_effective_deadline() == -math.inf


async def _take_back(task: asyncio.Task[Any], before: int) -> None:
    """Undo that a handler cancelled the task it was lent: the lane has more to do."""
    while task.cancelling() > before:
        task.uncancel()
    with suppress(asyncio.CancelledError):  # one that was not delivered yet, which Python before 3.13 does not forget
        await asyncio.sleep(0)


def _only_decided(error: BaseException) -> bool:
    """Whether a task group passes on that the book has decided without the handler."""
    return isinstance(error, BaseExceptionGroup) and error.split(Decided)[1] is None


def _quit(work: Work, error: BaseException) -> HandlerQuit:
    return HandlerQuit(
        f"{work.what}: handler {work.handler.name} raised {type(error).__name__}({error}), which is not for one delivery to "
        "raise: raise an exception, or return"
    )


def decision(work: Work) -> Kind:
    """What the book decided about it, instead of its handler.

    Raises:
        TransactionMisuse: nothing.
    """
    if work.decided is None:
        raise TransactionMisuse(f"{work.what}: the transaction was left before anything was decided")
    return work.decided


def _owner(work: Work) -> Steps[int | None]:
    """Which message completed the operation. Who tries to claim it waits for the transaction in doubt, if that is still open;
    what is claimed here is rolled back."""
    for _ in range(2):
        row = yield from work.owner()
        if row is not None:
            return row[0]
        if (yield Run(sql.INSERT_OPERATION, (work.operation, work.hold.key, int(Kind.COMMITTED), work.clock.now()))):
            return None
    raise CommitInDoubt(f"{work.what}: operation {work.operation!r} is claimed, and cannot be seen")


def _tell_found(work: Work, error: Exception) -> None:
    """The delivery goes on as committed; that something is wrong with the line would else be known to nobody."""
    what = work.what if work.what.isprintable() else ascii(work.what)  # a publisher may write what it likes
    logger.warning(
        "%s: its commit gave no answer (%s), and its operation is complete: it was committed",
        what,
        type(error).__name__,
    )


def _doubt(work: Work, error: Exception, second: Exception) -> NoReturn:
    raise CommitInDoubt(
        f"{work.what}: the commit gave no answer ({error}) and operation {work.operation!r} cannot be read ({second}): it is "
        "not acked, and its next delivery will find out"
    ) from error
