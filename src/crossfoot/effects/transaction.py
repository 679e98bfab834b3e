"""What a handler works with: the user's own connection or session, and the facts that commit with it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Coroutine
from typing import Any

import anyio
import msgspec

from crossfoot.books.cause import place_of, running
from crossfoot.effects.awaited import Calls
from crossfoot.effects.databases.session import AsyncSession, Session, adrive, drive
from crossfoot.effects.sending import sending
from crossfoot.effects.work import Decided, Work
from crossfoot.errors import TransactionMisuse, UsageError
from crossfoot.message import Message, child

MAX_CAUGHT = 200
"""Characters of an error that a handler may have caught."""

_json = msgspec.json.Encoder(enc_hook=str)


class Facts:
    """What synchronous and asynchronous transactions have in common: facts gathered, written at the commit. None of it is awaited,
    in asynchronous handlers either.
    """

    _work: Work
    _process: int
    _over = False
    _broken: Exception | None = None

    def end(self) -> None:
        """The handler has returned: whatever it left running must not reach the transaction any more."""
        self._over = True

    def _usable(self) -> None:
        """See that a handler may still use this.

        Raises:
            TransactionMisuse: it has returned, or this is a child that it forked.
        """
        if self._process != os.getpid():
            raise TransactionMisuse(
                f"{self._work.what}: a process that its handler forked uses its transaction: the connection is the parent's, and what both "
                "say on it happens twice or is mixed up; let the child connect by itself, or use subprocess"
            )
        if self._over:
            raise TransactionMisuse(
                f"{self._work.what}: its handler has returned, and something it left running uses its transaction still: wait for "
                "all threads and tasks before returning (asyncio.gather leaves the others running when one fails: use a task group)"
            )

    def _break(self, error: BaseException) -> None:
        """The transaction could not be opened; a handler that goes on all the same must not find it open."""
        self._broken = (
            error
            if isinstance(error, Exception)
            else TransactionMisuse(f"{self._work.what}: its transaction was left while it was being opened")
        )

    def _note(self, error: Exception) -> None:
        """Keep what a statement raised, in case the handler catches it and proves nothing. In words: the error itself would keep
        alive what its traceback leads to."""
        place = place_of(running("crossfoot.effects.perform"))
        self._work.caught = f"{type(error).__name__}: {str(error)[:MAX_CAUGHT]}" + (f" ({place})" if place else "")

    @property
    def message(self) -> Message:
        """The message being handled."""
        return self._work.message

    @property
    def operation(self) -> str:
        """The operation key: pass it to external systems as their idempotency key."""
        return self._work.operation

    def outcome(self, name: str, *, subject: str | None = None, **facts: Any) -> None:
        """Record a business fact, such as `invoice.issued`, with the effect.

        Args:
            name: what happened, in the past tense.
            subject: whom it concerns; the message's subject unless said otherwise.
            facts: figures worth keeping; anything JSON can express (bytes in base64, others as text).

        Raises:
            UsageError: there is no name, or one of the others cannot be written down.
        """
        self._usable()
        if not name:
            raise UsageError("an outcome needs a name, as in tx.outcome('invoice.issued')")
        _check_text(f"outcome {name!r}", name, subject or "")
        self._work.tell().outcomes.append(
            (name, subject or self._work.message.subject, _as_json(name, facts) if facts else None)
        )

    def send(self, message: str | Message, *, to: str | None = None, **attributes: Any) -> Message:
        """Send a message if, and only if, this transaction commits.

        Args:
            message: a message, or the type of one to make; it then belongs to the same flow (correlation, cause,
                trace) as the one being handled.
            to: the queue's name; the queue this message came from unless said otherwise.
            attributes: `data`, `subject` and other attributes of a message to make.

        Raises:
            EnvelopeInvalid: one of its attributes is none that a message, or the book, can have.
            MessageTooLarge: its queue takes no message of that size.
            UsageError: the service has no queue of that name.
        """
        self._usable()
        inherited = isinstance(message, str) and "traceparent" not in attributes
        if isinstance(message, str):
            attributes.setdefault("source", self._work.handler.service)
            message = child(self._work.message, type=message, **attributes)
        elif attributes:
            raise UsageError(f"tx.send() was given a message and also {', '.join(attributes)}: set them on the message")
        work = self._work
        ready = sending(
            message,
            to or work.hold.queue,
            work.handler.destinations,
            work.clock.now(),
            path=work.handler.book,
            inherited=inherited,
        )
        work.tell().sendings.append(ready)
        return ready.message

    def receipt(self, system: str, reference: str) -> None:
        """Name the receipt of an external system as evidence that it did its part."""
        self._usable()
        if not system or not reference:
            raise UsageError(
                "a receipt needs the system's name and its reference, as in tx.receipt('stripe', charge.id)"
            )
        _check_text("a receipt", system, reference)
        self._work.tell().receipts.append(f"{system}:{reference}")


def _check_text(what: str, *texts: str) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} holds half a character (a lone surrogate), which no database keeps") from None


def _as_json(name: str, facts: dict[str, Any]) -> str:
    try:
        text = _json.encode(facts).decode()
        if "null" in text:  # NaN and the infinities become null without a word
            json.dumps(msgspec.to_builtins(facts, str_keys=True, enc_hook=str), allow_nan=False)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UsageError(f"outcome {name!r} has facts that JSON cannot express: {error}") from None
    return text


class Transaction(Facts):
    """The transaction of a synchronous handler."""

    def __init__(self, work: Work, session: Session, *, begun: bool = False) -> None:
        self._work = work
        self._process = os.getpid()
        self._session = session
        self._begun = begun
        self._opening = threading.Lock()

    @property
    def connection(self) -> Any:
        """The user's own connection, inside the transaction."""
        self._usable()
        self.open()
        return self._session.handle

    session = connection
    """The user's own SQLAlchemy session, inside the transaction."""

    def execute(self, sql: Any, parameters: Any = ()) -> Any:
        """Execute a statement in the transaction; returns the driver's cursor or result."""
        self._usable()
        self.open()
        try:
            return self._session.execute(sql, parameters)
        except Exception as error:
            self._note(error)
            raise

    def open(self) -> None:
        """Begin, claim the operation, and start to count what the handler changes. Once."""
        work = self._work
        if work.opened and work.decided is None:
            return
        with self._opening:
            if self._broken is not None:
                raise self._broken
            if work.decided is None and not work.opened:
                try:
                    self._open(work)
                except BaseException as error:
                    self._break(error)
                    raise
        if work.decided is not None:
            raise Decided(work.decided)

    def _open(self, work: Work) -> None:
        if not self._begun:
            self._session.begin()
        if work.begins_claimed() or drive(work.open(), self._session) is None:
            self._watch()
            work.opened = True

    def _watch(self) -> None:
        self._session.watch()


class AsyncTransaction(Facts):
    """The transaction of an asynchronous handler."""

    def __init__(self, work: Work, session: AsyncSession, *, begun: bool = False) -> None:
        self._work = work
        self._process = os.getpid()
        self._session = session
        self._begun = begun
        self._calls = Calls()
        self._opening = anyio.Lock()

    @property
    def connection(self) -> Any:
        """The user's own connection; `await tx.begin()` first unless a statement ran already."""
        self._usable()
        if not self._work.opened:
            raise UsageError("the transaction has not begun: call `await tx.begin()` before using tx.connection")
        return self._session.handle

    session = connection
    """The user's own SQLAlchemy session, inside the transaction."""

    def begin(self) -> Coroutine[Any, Any, None]:
        """Begin now, so that `connection` can be used; `execute` does it by itself. To be awaited."""
        self._usable()
        return self._calls.note("tx.begin", self.open())

    def execute(self, sql: Any, parameters: Any = ()) -> Coroutine[Any, Any, Any]:
        """Execute a statement in the transaction; gives the driver's cursor or result. To be awaited."""
        self._usable()
        return self._calls.note("tx.execute", self._execute(sql, parameters))

    async def _execute(self, sql: Any, parameters: Any) -> Any:
        await self.open()
        self._usable()
        try:
            return await self._session.execute(sql, parameters)
        except Exception as error:
            self._note(error)
            raise

    def check(self) -> None:
        """See that the handler awaited what must be awaited.

        Raises:
            TransactionMisuse: it did not, and what it called for never happened.
        """
        self._calls.check(self._work)

    async def open(self) -> None:
        """Begin, claim the operation, and start to count what the handler changes. Once, whoever comes meanwhile."""
        work = self._work
        if work.opened and work.decided is None:
            return
        async with self._opening:
            if self._broken is not None:
                raise self._broken
            if work.decided is None and not work.opened:
                try:
                    await self._open(work)
                except BaseException as error:
                    self._break(error)
                    raise
        if work.decided is not None:
            raise Decided(work.decided)

    async def _open(self, work: Work) -> None:
        if not self._begun:
            await self._session.begin()
        if work.begins_claimed() or await adrive(work.open(), self._session) is None:
            await self._session.watch()
            work.opened = True
