"""A handler: the user's function, and what it asked for when it was registered."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from fnmatch import translate
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from crossfoot.effects.operation import OperationKey
from crossfoot.effects.sequence import InOrder
from crossfoot.errors import UsageError
from crossfoot.message import Message
from crossfoot.payload import Payload
from crossfoot.queues.queue import Queue

if TYPE_CHECKING:  # only those who declare one need it
    from crossfoot.flow.limits import Limit


class Handler(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One function and its policy.

    Attributes:
        name: how books and pages call it.
        service: the source of the messages it sends.
        type: the message type it takes; `*` stands for any run of characters.
        operation: names the business action of a message.
        proves: outcomes without which its return proves nothing.
        in_order: the sequence guard, if it asked for one.
        payload: makes the typed payload.
        destinations: the queues it may send to, by name; any, where none are named.
        book: the file or the URL of its service's book.
        deadline: seconds it may run, its waits for the database included; `None`: as long as its lease can be extended.
        limit: what each call of it needs a permit of, before its transaction begins.
        many: whether it takes a list of messages, those of a batch at once.

    Raises:
        UsageError: what is asked for does not go together, or is none.
    """

    name: str
    service: str
    type: str
    function: Callable[..., Any]
    operation: OperationKey
    proves: tuple[str, ...] = ()
    in_order: InOrder | None = None
    payload: Payload | None = None
    deadline: float | None = None
    limit: Limit | None = None
    wants_transaction: bool = True
    many: bool = False
    destinations: Mapping[str, Queue] = {}
    book: str = ""

    def __post_init__(self) -> None:
        if self.many and self.in_order is not None:
            raise UsageError("a handler with in_order takes one message at a time: leave out many=True")
        if self.deadline is not None and not self.deadline > 0:
            raise UsageError(f"handler {self.name} has a deadline of {self.deadline} s: more than 0, or none at all")
        if self.limit is not None and not hasattr(self.limit, "permit"):
            raise UsageError(
                f"handler {self.name} has the limit {self.limit!r}: give a flow.Limit, as in limit=flow.Limit(10)"
            )

    @cached_property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(inspect.unwrap(self.function))

    def typed(self, message: Message) -> Message:
        """The message with its payload converted to the declared type.

        Raises:
            PayloadInvalid: it does not fit.
        """
        if self.payload is None:
            return message
        return msgspec.structs.replace(message, data=self.payload.convert(message.data))

    def arguments(self, given: Message | list[Message], tx: Any) -> tuple[Any, ...]:
        return (given, tx) if self.wants_transaction else (given,)


def matcher(pattern: str) -> str:
    """The pattern of a message type as a regular expression."""
    return translate(pattern)
