"""What follows a piece of work: the ack and its entry, or the failure, its cause and the next try.

Every entry is durable before the step it justifies: a failure is booked before the message is handed back, and its
cause before it goes to the dead letters. Where the queue lives in the book's database, both are one transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import anyio.to_thread

from crossfoot.books import sql
from crossfoot.books.entry import Kind
from crossfoot.books.store import Book, write_causes, write_entries
from crossfoot.boundaries import Boundary, reach
from crossfoot.clock import Micros
from crossfoot.connection import Connection
from crossfoot.effects.databases.sqlite import disk_full
from crossfoot.errors import DatabaseUnavailable, QueueUnavailable
from crossfoot.queues.queue import Done, LocalQueue, NotDone, Order, Queue, ReceiptAnswer
from crossfoot.tracing.delivering import settling
from crossfoot.tracing.words import Span
from crossfoot.worker.failing import Failure, Step, entry_of, judge
from crossfoot.worker.held import Held
from crossfoot.worker.lanes import Result
from crossfoot.worker.logs import about
from crossfoot.worker.retry import Retry
from crossfoot.worker.traces import tell_end, tell_failure

logger = logging.getLogger("crossfoot.worker")

LONGEST_NAME = 200
"""Characters of a message's id, type or subject in a log."""

BURIED = "moved to the dead letters"


class Settling:
    """Settles deliveries of one queue.

    Args:
        local: the queue again, if it lives in the effect's own database.
        forget: called with deliveries that are no longer in this worker's hands.
        sent: called when a transaction may have put messages into the outbox.
        explain: says a failure as what it was, see `standstill`.
    """

    def __init__(
        self, book: Book, queue: Queue, retry: Retry, *, local: LocalQueue | None, forget: Callable[[Sequence[Held]], None],
        sent: Callable[[], None], explain: Callable[[Held, Exception], Exception] = lambda held, error: error,
    ) -> None:  # fmt: skip
        self._book = book
        self._queue = queue
        self._retry = retry
        self._local = local
        self._forget = forget
        self._sent = sent
        self._explain = explain

    async def settle(self, results: Sequence[Result]) -> None:
        """Take the results of a chunk to their end.

        Raises:
            DiskFull, DatabaseUnavailable: the book cannot be written: the worker must stop, and nothing was acked.
        """
        closed: list[Held] = []
        unbegun: list[Held] = []
        failed: list[tuple[Held, Exception]] = []
        sends = False
        for held, end in results:
            if held.work is not None and held.work.sends:
                sends = True
            if isinstance(end, Kind):
                closed.append(held)
            elif end is None:
                unbegun.append(held)
            else:
                failed.append((held, end))
        for held, end in results:
            tell_end(held, end)
        if sends:
            self._sent()
        try:
            if self._local is None:
                await self._ack(closed)
            await self._hand_back(unbegun)
            await self._fail(failed)
        finally:
            self._forget([held for held, _ in results])
        if self._local is not None and self._queue.capabilities.order is Order.KEY:
            self._local.wake()  # the next of a partition may be received now

    # ---- success -------------------------------------------------------------------------------------------------

    async def _ack(self, helds: Sequence[Held]) -> None:
        if not helds:
            return
        answers = await self._ask_again(Span.ACK, self._queue.ack, helds)
        reach(Boundary.AFTER_ACK)
        now = self._now()
        entries = []
        for held, answer in zip(helds, answers, strict=True):
            if isinstance(answer, Done):
                entries.append(entry_of(held, Kind.ACKED, now))
            else:
                entries.append(
                    entry_of(held, Kind.ACK_FAILED, now, details={"reason": answer.reason, "lost": answer.lost})
                )
        await anyio.to_thread.run_sync(self._book.append, entries)

    async def _hand_back(self, helds: Sequence[Held]) -> None:
        """Not begun, because the worker stops: the next one need not wait for the lease to run out."""
        if not helds:
            return
        now = self._now()
        entries = [entry_of(held, Kind.RELEASED, now, due=now) for held in helds]
        await anyio.to_thread.run_sync(self._book.append, entries)
        await self._ask(Span.RELEASE, self._queue.release, helds)

    # ---- failure -------------------------------------------------------------------------------------------------

    async def _fail(self, failed: Sequence[tuple[Held, Exception]]) -> None:
        for _, error in failed:
            self._stop_for(error)
        if not failed:
            return
        now = self._now()
        failures = [judge(held, self._explain(held, error), self._retry, now) for held, error in failed]
        buried = await anyio.to_thread.run_sync(self._book_failures, failures)
        if self._local is None:
            await self._carry_out(failures, buried)
        for failure in failures:
            is_dead = failure.held in buried
            log(failure, is_dead=is_dead)
            if self._local is not None and failure.step is Step.BURY and not is_dead:
                heed(NotDone("", "its lease is over, and it was delivered again", lost=True), failure, BURIED)
            tell_failure(failure, is_dead=is_dead)

    def _stop_for(self, error: Exception) -> None:
        """Raise what the worker must stop for. A queue or a database of its own that a handler could not use is that
        delivery's failure only."""
        full = disk_full(error)
        if full is not None:
            raise full from error
        if isinstance(error, DatabaseUnavailable) and not isinstance(error, QueueUnavailable):
            raise error

    def _book_failures(self, failures: Sequence[Failure]) -> list[Held]:
        """Those that lie in the dead letters now, where that is the same transaction."""

        def book(connection: Connection) -> list[Held]:
            buried: list[Held] = []
            write_entries(connection, [failure.entry for failure in failures])
            write_causes(connection, [f.cause for f in failures if f.cause is not None], self._now())
            named = [(f.operation, f.entry.message) for f in failures if f.operation is not None]
            connection.executemany(sql.NAME_OPERATION, named)
            if self._local is not None:
                for failure in failures:
                    self._carry_out_locally(self._local, connection, failure, buried)
            return buried

        return self._book.write(book)

    def _carry_out_locally(
        self, queue: LocalQueue, connection: Connection, failure: Failure, buried: list[Held]
    ) -> None:
        """In the transaction that books the failure; a void receipt changes no row, and whoever holds it goes on."""
        receipt, now = failure.held.delivery.receipt, self._now()
        if failure.step is Step.RELEASE:
            connection.execute(*queue.release_statement(receipt, now, failure.pause))
        elif failure.step is Step.ACK:
            if connection.execute(*queue.ack_statement(receipt)).rowcount:
                reach(Boundary.AFTER_ACK)
                write_entries(connection, [entry_of(failure.held, Kind.ACKED, now)])
        elif failure.step is Step.BURY:
            reach(Boundary.BEFORE_DEAD_LETTER)
            if connection.execute(*queue.dead_letter_statement(receipt, now, failure.reason)).rowcount:
                write_entries(connection, [failure.dead(now)])
                buried.append(failure.held)
            reach(Boundary.AFTER_DEAD_LETTER)

    async def _carry_out(self, failures: Sequence[Failure], buried: list[Held]) -> None:
        async with anyio.create_task_group() as tasks:
            for failure in failures:
                if failure.step is Step.RELEASE:
                    tasks.start_soon(self._release, failure)
                elif failure.step is Step.BURY:
                    tasks.start_soon(self._bury, failure, buried)
        await self._ack([failure.held for failure in failures if failure.step is Step.ACK])

    async def _release(self, failure: Failure) -> None:
        async def release(receipts: Sequence[str]) -> list[ReceiptAnswer]:
            return await self._queue.release(receipts, delay=self._most(failure.pause))

        for answer in await self._ask(Span.RELEASE, release, [failure.held]):
            heed(answer, failure, "handed back")

    async def _bury(self, failure: Failure, buried: list[Held]) -> None:
        reach(Boundary.BEFORE_DEAD_LETTER)

        async def bury(receipts: Sequence[str]) -> list[ReceiptAnswer]:
            return await self._queue.dead_letter([failure.held.delivery], reason=failure.reason)

        (answer,) = await self._ask(Span.DEAD_LETTER, bury, [failure.held])
        reach(Boundary.AFTER_DEAD_LETTER)
        if isinstance(answer, Done):
            await anyio.to_thread.run_sync(self._book.append, [failure.dead(self._now())])
            buried.append(failure.held)
        heed(answer, failure, BURIED)

    # ---- parts ---------------------------------------------------------------------------------------------------

    async def _ask(self, what: Span, call: Callable[..., Any], helds: Sequence[Held]) -> list[ReceiptAnswer]:
        receipts = [held.delivery.receipt for held in helds]
        with settling(what, [held.trace for held in helds]) as settlement:
            try:
                answers = list(await call(receipts))
            except QueueUnavailable as error:
                answers = [NotDone(receipt, str(error), lost=False) for receipt in receipts]
            settlement.answered([answer.lost for answer in answers if isinstance(answer, NotDone)])
        return answers

    async def _ask_again(self, what: Span, call: Callable[..., Any], helds: Sequence[Held]) -> list[ReceiptAnswer]:
        """Ask, and ask once more about those without an answer: an ack may be repeated."""
        answers = await self._ask(what, call, helds)
        unanswered = [index for index, one in enumerate(answers) if isinstance(one, NotDone) and not one.lost]
        if unanswered:
            again = await self._ask(what, call, [helds[index] for index in unanswered])
            for index, answer in zip(unanswered, again, strict=True):
                answers[index] = answer
        return answers

    def _most(self, pause: float) -> float:
        longest = self._queue.capabilities.max_release_delay
        return pause if longest is None else min(pause, longest)

    def _now(self) -> Micros:
        return self._book.clock.now()


def log(failure: Failure, *, is_dead: bool) -> None:
    """One line a failure: which message, which delivery, which cause; never its payload or the exception's text."""
    title = failure.cause.title if failure.cause is not None else failure.entry.kind.label
    if is_dead:
        logger.warning(
            "message %s goes to the dead letters after delivery %d: %s",
            name_of(failure.held),
            failure.held.attempt,
            title,
            extra=about(failure.held),
        )
    else:
        logger.info(
            "delivery %d of message %s failed: %s", failure.held.attempt, name_of(failure.held), title,
            extra=about(failure.held),
        )  # fmt: skip


def heed(answer: ReceiptAnswer, failure: Failure, wanted: str) -> None:
    """Say that the queue did not do as it was asked."""
    if isinstance(answer, NotDone):
        logger.warning(
            "message %s could not be %s (%s): %s", name_of(failure.held), wanted, answer.reason,
            "it comes again by itself" if answer.lost else "its lease will run out", extra=about(failure.held),
        )  # fmt: skip


def name_of(held: Held) -> str:
    message = held.message
    if message is None:
        return held.delivery.broker_id
    return f"{_shown(message.key)} ({_shown(message.type)}{', ' + _shown(message.subject) if message.subject else ''})"


def _shown(text: str) -> str:
    """Fit for a log: a publisher may write what it likes, line breaks and turns of direction included."""
    text = text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."
    return text if text.isprintable() else ascii(text)
