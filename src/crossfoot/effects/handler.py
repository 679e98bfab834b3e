"""A handler: the user's function, and what it asked for when it was registered."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from fnmatch import translate
from functools import cached_property
from typing import Any

import msgspec

from crossfoot.effects.operation import OperationKey
from crossfoot.effects.sequence import InOrder
from crossfoot.message import Message
from crossfoot.payload import Payload
from crossfoot.queues.queue import Queue


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
        many: whether it takes a list of messages, those of a batch at once.
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
    wants_transaction: bool = True
    many: bool = False
    destinations: Mapping[str, Queue] = {}
    book: str = ""

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
