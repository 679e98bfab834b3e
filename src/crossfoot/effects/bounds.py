"""How long a handler may take: a deadline of `crossfoot.flow`, so that whatever it calls inherits it.

It is the handler's own, or the moment from which on its message is of no use, whichever comes first. Who has neither pays nothing
for it, not even the import.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from crossfoot.errors import DeadlineExceeded, Expired, MessageExpired
from crossfoot.message import Message

if TYPE_CHECKING:
    from crossfoot.effects.work import Work
    from crossfoot.flow.deadlines import Deadline


def deadline_of(work: Work, given: Message | list[Message]) -> Deadline | None:
    """The deadline of the handler that is about to be called; nothing where there is none.

    A list is called within the handler's own only: one of several that is of no use any more must not end the others' work.
    """
    seconds, until = work.handler.deadline, work.hold.until
    if until is not None and not isinstance(given, list):
        left = max(0.0, until - work.clock.monotonic())
        seconds = left if seconds is None else min(left, seconds)
    if seconds is None:
        return None
    from crossfoot.flow.deadlines import Deadline

    return Deadline(seconds, _place(work.handler.function))


def told(work: Work, deadline: Deadline | None, error: BaseException) -> Exception | None:
    """What to say where an error means that the deadline has passed; nothing where it means something else.

    Raises:
        LeaseLost: somebody else may hold the message by now, and that is the matter.
    """
    if deadline is None or deadline.remaining() > 0 or not _is_expiry(error):
        return None
    if work.hold.fence is not None:
        with suppress(DeadlineExceeded):  # told below, by what the handler was given
            work.hold.fence()
    seconds, until = work.handler.deadline, work.hold.until
    if until is not None and work.clock.monotonic() >= until:
        return MessageExpired(f"{work.what}: its expirytime passed while it was handled; nothing was kept")
    return DeadlineExceeded(
        f"{work.what}: handler {work.handler.name} was stopped at its deadline of {seconds} s; nothing was kept"
    )


def _is_expiry(error: BaseException) -> bool:
    from crossfoot.flow.fates import leaves

    return all(isinstance(one, Expired) for one in leaves(error))


def _place(function: Any) -> tuple[Any, int, str] | None:
    """The handler, as reports name places; nothing for what has no lines of its own."""
    called = inspect.unwrap(function)
    code = getattr(called, "__code__", None)
    return None if code is None else (code, code.co_firstlineno, called.__module__)
