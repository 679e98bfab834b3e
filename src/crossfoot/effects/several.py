"""What a handler works with that takes several messages: one connection or session, and facts about each message."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from crossfoot.effects.databases.session import AsyncSession, Session
from crossfoot.effects.transaction import AsyncTransaction, Facts, Transaction
from crossfoot.effects.work import Work
from crossfoot.errors import UsageError
from crossfoot.message import Message


class _One(Facts):
    """What can be said of one of several messages."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._process = os.getpid()


class _Several(Facts):
    """The transaction of a handler that takes several messages at once: what it tells, it tells of one of them."""

    _each: dict[str, _One]

    def end(self) -> None:
        super().end()
        for one in self._each.values():
            one.end()

    def of(self, message: Message) -> _One:
        """What concerns that message: `tx.of(message).outcome(...)`, `.send(...)`, `.receipt(...)`, `.operation`.

        Raises:
            UsageError: it is none of those that the handler was given.
        """
        self._usable()
        one = self._each.get(message.key)
        if one is None:
            raise UsageError(f"tx.of({message.key}): that is none of the messages that this handler was given")
        return one

    @property
    def message(self) -> Message:
        raise _which("message")

    @property
    def operation(self) -> str:
        raise _which("operation")

    def outcome(self, name: str, *, subject: str | None = None, **facts: Any) -> None:
        raise _which("outcome(...)")

    def send(self, message: str | Message, *, to: str | None = None, **attributes: Any) -> Message:
        raise _which("send(...)")

    def receipt(self, system: str, reference: str) -> None:
        raise _which("receipt(...)")


def _which(what: str) -> UsageError:
    return UsageError(f"tx.{what}: this handler takes several messages, so say of which: tx.of(message).{what}")


class ManyTransaction(_Several, Transaction):
    """The transaction of a synchronous handler that takes several messages."""

    def __init__(self, works: Sequence[Work], session: Session, *, begun: bool = False) -> None:
        super().__init__(works[0], session, begun=begun)
        self._each = {work.message.key: _One(work) for work in works}


class AsyncManyTransaction(_Several, AsyncTransaction):
    """The transaction of an asynchronous handler that takes several messages."""

    def __init__(self, works: Sequence[Work], session: AsyncSession, *, begun: bool = False) -> None:
        super().__init__(works[0], session, begun=begun)
        self._each = {work.message.key: _One(work) for work in works}


def transaction_of(work: Work, session: Session, *, begun: bool = False) -> Transaction:
    """The transaction for one delivery."""
    return (
        ManyTransaction([work], session, begun=begun) if work.handler.many else Transaction(work, session, begun=begun)
    )


def atransaction_of(work: Work, session: AsyncSession, *, begun: bool = False) -> AsyncTransaction:
    """The asynchronous twin."""
    return (
        AsyncManyTransaction([work], session, begun=begun)
        if work.handler.many
        else AsyncTransaction(work, session, begun=begun)
    )
