"""What a transaction sends: where to, and in which form, decided when it is asked for.

A message that its queue will never take is refused there and then, so that whoever sends it fails with its transaction.
Found later, by the relay, the sender would be settled, and only its message refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches

import msgspec

from crossfoot.books.record import record_of, see_that_names_fit
from crossfoot.clock import Micros
from crossfoot.connection import is_postgres
from crossfoot.errors import MessageTooLarge, UsageError
from crossfoot.message import Message
from crossfoot.queues.queue import Queue, system_of
from crossfoot.tracing.producing import Place, creating


class Sending(msgspec.Struct, frozen=True):
    """A message to be sent, as it will travel, and the name of the queue it goes to."""

    message: Message
    queue: str
    body: bytes


def sending(
    message: Message,
    queue: str,
    destinations: Mapping[str, Queue],
    now: Micros,
    *,
    path: str = "",
    inherited: bool = False,
) -> Sending:
    """Make a message ready for the outbox.

    Args:
        destinations: the queues the service knows, by name; any name will do where there are none.
        path: the file or the URL of the service's book.
        inherited: whether its trace context is that of the message it comes from, and not its own.

    Raises:
        UsageError: nobody would ever drain its outbox.
        EnvelopeInvalid: it bears a name that the book cannot look up.
        MessageTooLarge: the queue would refuse it, however often it was sent.
    """
    name = destination(queue, destinations)
    if message.time is None:
        message = msgspec.structs.replace(message, time=now)
    to = destinations.get(name)
    limit = to.capabilities.max_bytes if to is not None else None
    message, body = creating(message, Place(name, system_of(to), limit), inherited=inherited)
    if limit is not None and len(body) > limit:
        raise MessageTooLarge(
            f"{message.type} {message.id} is {len(body):,} bytes, and queue {name} takes at most {limit:,}: store the data "
            "elsewhere and send where it is, or raise the queue's limit"
        )
    if is_postgres(path):
        see_that_names_fit(record_of(message, name, now=now, body=None))
    return Sending(message, name, body)


def destination(name: str, known: Collection[str]) -> str:
    """The name of a queue that a service sends to.

    Raises:
        UsageError: nobody would ever drain its outbox; with the nearest name that is known.
    """
    if known and name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else "name it in Crossfoot(queues=[...])"
        raise UsageError(f"nothing sends to queue {name!r} here (there are {', '.join(sorted(known))}): {hint}")
    return name
