"""An optimistic batch whose handlers' writes are sent together.

Each handler is called, and what it writes is kept by the session; then all is sent at once; and only then, with the rows that each of
them changed known, is each judged by its evidence and closed. Whatever fails on the way spoils the batch, which is done again from its
beginning, with savepoints and a trip for each write: there a failure is its own handler's, at its own place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crossfoot.books.entry import Kind
from crossfoot.boundaries import Boundary, reach
from crossfoot.effects.databases.session import LateSession, drive
from crossfoot.effects.perform import begin, called, decision
from crossfoot.effects.transaction import Transaction
from crossfoot.effects.work import Decided, Work, enter, leave


class LateTransaction(Transaction):
    """The transaction of a handler whose writes may be sent after it returned."""

    _session: LateSession
    _lent = False
    """Whether its handler has the connection: what it does by itself there, the end of a savepoint too, is to find all done."""

    @property
    def connection(self) -> Any:
        """The user's own connection, inside the transaction."""
        self._usable()
        self.open()
        self._lent = True
        return self._session.lend()

    session = connection

    def execute(self, sql: Any, parameters: Any = ()) -> Any:
        if self._lent:
            return super().execute(sql, parameters)
        self._usable()
        self.open()
        try:
            return self._session.execute_later(self, sql, parameters)
        except Exception as error:
            self._note(error)
            raise

    def settle(self) -> None:
        """Have sent what was kept, because the handler asks what it did."""
        self._usable()
        try:
            self._session.settle()
        except Exception as error:
            self._note(error)
            raise

    def _watch(self) -> None:
        self._session.watch_later()


def may_wait(works: Sequence[Work]) -> bool:
    """Whether what the handlers of a batch write may be sent when all have returned: those that take events in order read what the one
    before has written, and a list is one call already."""
    return all(work.handler.in_order is None and not work.handler.many for work in works)


def handle_later(works: Sequence[Work], session: LateSession) -> dict[Work, Kind | Exception]:
    """Handle them, whose operations are claimed, in the transaction that was begun. How each was closed."""
    proven: set[int] = set()
    returned, decided = [], []
    for work in works:
        work.proven, work.acks_later = proven, True
        entered = enter(work)
        try:
            tx = LateTransaction(work, session, begun=True)
            tx.open()
            begin(work)
            result = called(work, work.given, tx)
            tx.open()
            _stop_its_clock(work)
            returned.append((work, result, session.counted()))
            proven.add(work.hold.key)
        except Decided:
            decided.append(work)
        finally:
            leave(work, entered)
        reach(Boundary.INSIDE_BATCH)
    session.settle()
    results: dict[Work, Kind | Exception] = {}
    for work, result, count in returned:
        kind = work.judge(result, count.rows)
        results[work] = kind
        if work.asks_no_more(kind):
            work.note_proof(kind)
        else:
            drive(work.close(kind), session)
    for work in decided:  # last, for another one of these may have done their work
        results[work] = drive(work.settle(decision(work)), session)
    return results


def _stop_its_clock(work: Work) -> None:
    """Its handler has returned: what the others take is not of its time.

    Raises:
        DeadlineExceeded: it took longer than it was given.
    """
    if work.handler.deadline is not None and work.hold.fence is not None and work.hold.rest is not None:
        work.hold.fence()
        work.hold.rest()
