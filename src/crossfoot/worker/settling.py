"""What follows a piece of work: the ack and its entry, or the failure, its cause and the next try.

Every entry is durable before the step it justifies: a failure is booked before the message is handed back, and its
cause before it goes to the dead letters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import anyio.to_thread
import msgspec

from crossfoot.books import sql
from crossfoot.books.cause import Cause, cause_of
from crossfoot.books.entry import Entry, Kind
from crossfoot.books.store import Book, write_causes, write_entries
from crossfoot.boundaries import Boundary, reach
from crossfoot.clock import Micros, micros
from crossfoot.errors import CommitInDoubt, LeaseLost, QueueUnavailable, Unavailable
from crossfoot.queues.queue import Done, NotDone, Queue, ReceiptAnswer
from crossfoot.worker.held import Held
from crossfoot.worker.intake import Expired
from crossfoot.worker.lanes import Result
from crossfoot.worker.retry import Retry

logger = logging.getLogger("crossfoot.worker")
_json = msgspec.json.Encoder(enc_hook=str)


class Settling:
    """Settles deliveries of one queue.

    Args:
        forget: called with every delivery that is no longer in this worker's hands.
        sent: called when a transaction may have put messages into the outbox.
        local: whether the ack rode in the effect's own transaction.
    """

    def __init__(
        self,
        book: Book,
        queue: Queue,
        retry: Retry,
        *,
        forget: Callable[[Held], None],
        sent: Callable[[], None],
        local: bool,
    ) -> None:
        self._book = book
        self._queue = queue
        self._retry = retry
        self._forget = forget
        self._sent = sent
        self._local = local

    async def settle(self, results: Sequence[Result]) -> None:
        """Take the results of a chunk to their end.

        Raises:
            DiskFull, DatabaseUnavailable: the book cannot be written: the worker must stop, and nothing was acked.
        """
        try:
            await self._ack([held for held, end in results if isinstance(end, Kind)])
            await self._hand_back([held for held, end in results if end is None])
            for held, end in results:
                if isinstance(end, Exception):
                    await self.fail(held, end)
        finally:
            for held, _ in results:
                self._forget(held)
        if any(end is Kind.COMMITTED for _, end in results):
            self._sent()

    async def fail(self, held: Held, error: Exception) -> None:
        """Book a failure, then hand the message back, or bury it."""
        if isinstance(error, Unavailable):
            raise error
        if isinstance(error, Expired):
            await self._write(held, Kind.EXPIRED, due=None, details={"reason": str(error)})
            await self._ack([held], always=True)
        elif isinstance(error, LeaseLost):
            await self._write(held, Kind.FAILED, due=self._now(), cause=_cause(held, error))
        elif self._retry.gives_up(held.attempt, error) and not isinstance(error, CommitInDoubt):
            await self._bury(held, error)
        else:
            pause = self._retry.pause(held.attempt)
            kind = Kind.COMMIT_IN_DOUBT if isinstance(error, CommitInDoubt) else Kind.FAILED
            await self._write(held, kind, due=self._now() + micros(pause), cause=_cause(held, error))
            logger.info("delivery %d of message %s failed: %s", held.attempt, _name(held), type(error).__name__)
            self._heed(
                await self._ask(partial(self._queue.release, delay=self._most(pause)), [held]), held, "handed back"
            )

    # ---- parts -----------------------------------------------------------------------------------------------

    async def _ack(self, helds: Sequence[Held], *, always: bool = False) -> None:
        if not helds or (self._local and not always):
            return
        answers = await self._ask(self._queue.ack, helds)
        reach(Boundary.AFTER_ACK)
        now = self._now()
        entries = []
        for held, answer in zip(helds, answers, strict=True):
            if isinstance(answer, Done):
                entries.append(_entry(held, Kind.ACKED, now))
            else:
                details = {"reason": answer.reason, "lost": answer.lost}
                entries.append(_entry(held, Kind.ACK_FAILED, now, details=details))
        await anyio.to_thread.run_sync(self._book.append, entries)

    async def _hand_back(self, helds: Sequence[Held]) -> None:
        if not helds:
            return
        now = self._now()
        await anyio.to_thread.run_sync(self._book.append, [_entry(held, Kind.RELEASED, now, due=now) for held in helds])
        await self._ask(self._queue.release, helds)

    async def _bury(self, held: Held, error: Exception) -> None:
        now = self._now()
        cause = _cause(held, error)
        await self._write(held, Kind.FAILED, due=now, cause=cause)
        reach(Boundary.BEFORE_DEAD_LETTER)
        reason = f"{cause.title} [{cause.fingerprint}]"
        deliver = [held.delivery]
        try:
            answer = (await self._queue.dead_letter(deliver, reason=reason))[0]
        except QueueUnavailable as unavailable:
            answer = NotDone(held.delivery.receipt, str(unavailable), lost=False)
        reach(Boundary.AFTER_DEAD_LETTER)
        if isinstance(answer, Done):
            await self._write(held, Kind.DEAD_LETTERED, due=None, cause=cause)
            logger.warning("message %s is dead after %d deliveries: %s", _name(held), held.attempt, cause.title)
        else:
            self._heed([answer], held, "moved to the dead letters")

    async def _ask(self, call: Callable[..., Any], helds: Sequence[Held]) -> list[ReceiptAnswer]:
        receipts = [held.delivery.receipt for held in helds]
        try:
            return await call(receipts)  # type: ignore[no-any-return]
        except QueueUnavailable as error:
            return [NotDone(receipt, str(error), lost=False) for receipt in receipts]

    def _heed(self, answers: Iterable[ReceiptAnswer], held: Held, wanted: str) -> None:
        for answer in answers:
            if isinstance(answer, NotDone):
                logger.warning(
                    "message %s could not be %s (%s): its lease will run out", _name(held), wanted, answer.reason
                )

    async def _write(
        self,
        held: Held,
        kind: Kind,
        *,
        due: Micros | None,
        cause: Cause | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        if cause is not None:
            details = {"error": cause.kind, "text": cause.text, **(details or {})}
        entry = _entry(held, kind, self._now(), due=due, cause=cause, details=details)
        await anyio.to_thread.run_sync(self._write_now, entry, cause, held.work.operation if held.work else None)

    def _write_now(self, entry: Entry, cause: Cause | None, operation: str | None) -> None:
        with self._book.writing() as connection:
            write_entries(connection, [entry])
            if cause is not None:
                write_causes(connection, [cause], entry.at)
            if operation is not None:
                connection.execute(sql.NAME_OPERATION, (operation, entry.message))

    def _most(self, pause: float) -> float:
        longest = self._queue.capabilities.max_release_delay
        return pause if longest is None else min(pause, longest)

    def _now(self) -> Micros:
        return self._book.clock.now()


def _entry(
    held: Held, kind: Kind, now: Micros, *, due: Micros | None = None, cause: Cause | None = None,
    details: dict[str, Any] | None = None,
) -> Entry:  # fmt: skip
    hold = held.hold
    assert hold is not None
    return Entry(
        message=hold.key, kind=kind, at=now, attempt=hold.attempt, delivery=hold.delivery, due=due, worker=hold.worker,
        cause=cause.fingerprint if cause is not None else None,
        details=_json.encode(details).decode() if details else None,
    )  # fmt: skip


def _cause(held: Held, error: Exception) -> Cause:
    return cause_of(error, held.handler.name if held.handler is not None else "")


def _name(held: Held) -> str:
    return held.message.key if held.message is not None else held.delivery.broker_id
