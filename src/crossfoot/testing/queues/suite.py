"""What a conformance run must be told about a queue, and the few verbs every test of the suite uses."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, TypedDict, TypeVar, Unpack
from uuid import uuid4

import anyio

from crossfoot.errors import CrossfootError, QueueMissing
from crossfoot.queues.queue import (
    Accepted,
    Capabilities,
    Delivery,
    Done,
    Held,
    NotDone,
    Outgoing,
    PublishAnswer,
    Queue,
    ReceiptAnswer,
    Refused,
)

LONG_LEASE = 30.0
"""Seconds; longer than any test."""

SHORT_LEASE = 1.0
"""Seconds; whole, because some brokers count leases in seconds."""

_numbers = itertools.count(1)

_Test = TypeVar("_Test", bound=Callable[..., object])


def proves(*capabilities: str) -> Callable[[_Test], _Test]:
    """Says of a test that it shows these fields of `Capabilities` to hold as declared, or to be honestly absent.

    The test has them as its attribute `proves`, for whoever makes a table of what was proved.
    """
    unknown = set(capabilities) - set(Capabilities.__struct_fields__)
    assert not unknown, f"no such capability: {unknown}"

    def mark(test: _Test) -> _Test:
        vars(test)["proves"] = capabilities
        return test

    return mark


class QueueSettings(TypedDict, total=False):
    """What a test may ask of the queue it is given. Each has a place for dead letters."""

    retention: float
    """Seconds after which the queue forgets an unacked message."""
    max_attempts: int
    """After so many deliveries the queue itself moves the message to the dead letters. Default: not in this test."""


class QueueSuite(ABC):
    """The base of every part of the suite."""

    patience: ClassVar[float] = 0.0
    """Seconds a receive of the suite waits before it believes that nothing is there; a broker may need some."""

    shortest_retention: ClassVar[float] = 1.0
    """The least `retention` the queue accepts, in seconds; the suite waits that long."""

    lateness: ClassVar[float] = 0.2
    """Seconds by which the broker may be late to forget."""

    missing: ClassVar[type[CrossfootError]] = QueueMissing
    """What opening a queue raises that is not there; another `QueueUnavailable` where any name is a queue, and what may be
    missing is the table."""

    @abstractmethod
    def make_queue(self, **settings: Unpack[QueueSettings]) -> AbstractAsyncContextManager[Queue]:
        """A fresh, empty, opened queue, closed on leaving."""

    @abstractmethod
    def twin(self, queue: Queue) -> Queue:
        """Another client of the same queue, as another process would have it, not yet opened."""

    @abstractmethod
    def missing_queue(self) -> Queue:
        """A queue that is not there, not yet opened; its name ends in `nowhere`."""

    async def pass_time(self, seconds: float) -> None:
        """Let `seconds` pass for the queue. Really wait, unless the queue's clock can be moved."""
        await anyio.sleep(seconds)

    async def take(self, queue: Queue, count: int, *, lease: float = LONG_LEASE) -> list[Delivery]:
        """Up to `count` deliveries in as many receives as it takes; ends at the first receive without any."""
        taken: list[Delivery] = []
        while len(taken) < count:
            got = await queue.receive(count - len(taken), lease=lease, wait=self.patience)
            if not got:
                break
            taken += got
        return taken

    async def take_one(self, queue: Queue, *, lease: float = LONG_LEASE) -> Delivery:
        """The one delivery that must be there."""
        taken = await self.take(queue, 1, lease=lease)
        assert taken, "a message should be ready, but the queue delivered nothing"
        return taken[0]

    async def put(self, queue: Queue, count: int = 1, *, partition: str | None = None) -> list[Outgoing]:
        """Publish `count` messages that are all accepted."""
        messages = [outgoing(partition=partition) for _ in range(count)]
        answers = await queue.publish(messages)
        assert [type(answer) for answer in answers] == [Accepted] * count, f"not all accepted: {answers}"
        return messages


def outgoing(
    body: bytes | None = None,
    *,
    partition: str | None = None,
    delay: float = 0.0,
    priority: int = 0,
    attributes: dict[str, str] | None = None,
) -> Outgoing:
    """A message nobody has published before."""
    number = next(_numbers)
    return Outgoing(
        key=f"conformance|{uuid4()}",
        body=body if body is not None else f'{{"number": {number}}}'.encode(),
        partition=partition,
        delay=delay,
        priority=priority,
        attributes=attributes or {},
    )


def bodies(things: Sequence[Outgoing | Delivery | Held]) -> list[bytes]:
    """What was in them, in their order."""
    return [thing.body for thing in things]


def receipts(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.receipt for delivery in deliveries]


def all_done(answers: Sequence[ReceiptAnswer], deliveries: Sequence[Delivery]) -> bool:
    """Whether each was confirmed, under its own receipt, in the order given."""
    return list(answers) == [Done(delivery.receipt) for delivery in deliveries]


def is_lost(answer: ReceiptAnswer) -> bool:
    """Whether the broker says that the receipt is void."""
    return isinstance(answer, NotDone) and answer.lost


def is_refused_for_good(answer: PublishAnswer) -> bool:
    """Whether the message can never be published as it is."""
    return isinstance(answer, Refused) and answer.permanent


async def error_of(call: Awaitable[object], *kinds: type[CrossfootError]) -> str:
    """What the call says when it raises one of `kinds`, as it must."""
    try:
        await call
    except kinds as error:
        return str(error)
    names = " or ".join(kind.__name__ for kind in kinds)
    raise AssertionError(f"this should have raised {names}, but it went through")
