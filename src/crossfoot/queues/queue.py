"""The port every broker fits: what a queue does, what it promises, and the words for its answers.

A queue moves bytes it does not understand: an encoded envelope with the few facts a broker may need
(message id, partition key, delay). It never decides a message's fate; it reports, entry by entry, what
the broker said, and says *in doubt* when the broker said nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import msgspec

from crossfoot.clock import Micros


class Order(StrEnum):
    """What order a queue keeps among deliveries."""

    NONE = "none"
    KEY = "key"
    """Messages of one partition key are delivered one after the other, in publish order."""


class DepthIs(StrEnum):
    """How far `depth()` can be trusted."""

    EXACT = "exact"
    APPROXIMATE = "approximate"


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What one queue can do. The conformance suite tests exactly what is declared here.

    Sizes are bytes, times are seconds; `None` means without limit.
    """

    order: Order = Order.NONE
    depth: DepthIs = DepthIs.APPROXIMATE
    browsing: bool = False
    """`browse()` lists every message the queue holds, without taking it."""
    hides: float = 0.0
    """For how long it may hold a message that `depth()` counts nowhere: on its way between two of its places, or because
    its numbers are behind. Where nothing can be browsed, only a queue that looks empty for longer has lost something."""
    redrive: bool = True
    """It can be told to give a message up by itself, to the dead letters, after so many deliveries (`max_attempts`)."""
    counts: bool = True
    """`Delivery.attempt` counts the deliveries of all consumers. Where it counts those of one that lives, the book knows better."""
    transactional_ack: bool = False
    """An ack can ride in the effect's own transaction."""
    receipts_fenced: bool = False
    """Once a message was delivered again, the earlier receipt can no longer ack it."""
    publish_dedup: float = 0.0
    """How long the queue drops a second publish of the same message id."""
    priorities: int = 1
    """How many levels of `Outgoing.priority` it tells apart; 1: it knows none."""
    max_delay: float | None = None
    """The longest `Outgoing.delay` (0: this queue cannot delay a publish)."""
    max_release_delay: float | None = None
    """The longest delay of a release."""
    max_lease: float | None = None
    max_receive: int = 10
    """The most deliveries one `receive` returns."""
    max_publish: int = 10
    """The most messages one round trip carries; `publish` splits longer lists itself."""
    max_bytes: int | None = None
    """The largest encoded message, attributes included; `None` also while the queue was not opened and asked."""


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """One message to publish: the encoded envelope, and what the broker may need to know about it."""

    key: str
    """The message's identity, `source|id`: what answers are matched by."""
    body: bytes
    deduplication: str = ""
    """What a queue that drops second publishes tells them by; the key unless given."""
    partition: str | None = None
    """Messages of one partition keep their order where the queue keeps one."""
    delay: float = 0.0
    priority: int = 0
    """Higher ones are delivered first where the queue knows priorities, see `Capabilities`; a wish, elsewhere without effect."""
    attributes: dict[str, str] = {}
    """Broker headers beside the body (a handful: SQS allows ten)."""


class Accepted(msgspec.Struct, frozen=True):
    """The broker has the message."""

    key: str
    broker_id: str = ""


class Refused(msgspec.Struct, frozen=True):
    """The broker said no to this one entry."""

    key: str
    reason: str
    permanent: bool
    """Whether sending the same bytes again can never succeed (too large, invalid characters)."""


class Doubtful(msgspec.Struct, frozen=True):
    """No answer: the broker may or may not have the message."""

    key: str
    reason: str


PublishAnswer = Accepted | Refused | Doubtful


class Delivery(msgspec.Struct, kw_only=True, gc=False):
    """One hand-over of a message to a consumer."""

    body: bytes
    receipt: str
    """Opaque: names this hand-over, for ack, release, extend and dead_letter."""
    attempt: int
    """How often the broker has delivered this message, this time included (1 is the first)."""
    lease_until: Micros
    """Until when nobody else receives it, by this machine's clock."""
    enqueued_at: Micros | None = None
    broker_id: str = ""
    """The broker's own id; names messages whose envelope cannot be read."""
    attributes: dict[str, str] = {}


class Done(msgspec.Struct, frozen=True, gc=False):
    """The broker confirmed the ack, release, extension or dead-lettering."""

    receipt: str


class NotDone(msgspec.Struct, frozen=True):
    """It did not happen, or nobody knows whether it did."""

    receipt: str
    reason: str
    lost: bool
    """True when the broker says the receipt is void (lease over, message gone); False when there was no answer."""


ReceiptAnswer = Done | NotDone


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """How many messages the queue holds, by its own count."""

    ready: int
    in_flight: int
    delayed: int
    dead: int
    as_of: Micros

    @property
    def held(self) -> int:
        """Everything not dead."""
        return self.ready + self.in_flight + self.delayed


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """One message seen by browsing the queue or its dead letters, untouched."""

    body: bytes
    attempt: int
    enqueued_at: Micros | None
    broker_id: str = ""
    attributes: dict[str, str] = {}
    """What it was published with, as its deliveries have it."""
    dead: bool = False
    reason: str = ""
    """Why it died, in the words of whoever buried it; empty where that is not told."""


OWN_SYSTEM = "crossfoot"


def system_of(queue: object) -> str:
    """What kind of broker a queue is on, as traces name it (OpenTelemetry's `messaging.system`): its `system`, if it has one."""
    return str(getattr(queue, "system", OWN_SYSTEM))


SqlStatement = tuple[str, tuple[Any, ...]]
"""SQL with `?` and its parameters."""


class Queue(Protocol):
    """A queue as the worker and the publisher see it.

    Every method that takes a sequence answers entry by entry, in the order given, and never raises for one
    entry's sake. `QueueUnavailable` is raised when the queue cannot be used at all and it is certain that
    nothing was done (no connection, no such queue, no permission). A request that was sent and got no answer
    is `Doubtful` (publish) or `NotDone(lost=False)` (receipts), never an exception. `QueueMissing` is a `QueueUnavailable` of a server
    that answers, and has no such queue; `UsageError` is raised before anything was done, too.
    """

    @property
    def name(self) -> str:
        """The subscription's name, as books and balances show it."""
        ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def retention(self) -> float | None:
        """Seconds after which the queue forgets an unacked message, `None` for never."""
        ...

    @property
    def max_attempts(self) -> int | None:
        """Deliveries after which the queue itself moves a message to the dead letters, `None` for never."""
        ...

    async def open(self) -> None:
        """Connect, check that the queue exists and read its settings. Idempotent."""
        ...

    async def close(self) -> None: ...

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]: ...

    async def receive(self, limit: int, *, lease: float, wait: float = 0.0) -> list[Delivery]:
        """Up to `limit` deliveries, each leased for `lease` seconds; waits up to `wait` seconds for the first."""
        ...

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]: ...

    async def release(self, receipts: Sequence[str], *, delay: float = 0.0) -> list[ReceiptAnswer]:
        """Hand back: deliver again after `delay` seconds. Counts as a delivery all the same."""
        ...

    async def extend(self, receipts: Sequence[str], *, lease: float) -> list[ReceiptAnswer]:
        """Lease for `lease` seconds from now."""
        ...

    async def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> list[ReceiptAnswer]:
        """Move to the dead letters: they hold the message before the queue forgets it."""
        ...

    async def depth(self) -> Depth: ...

    def browse(self) -> AsyncIterator[Held]:
        """Every message held, in no order, not dead. Only where `capabilities.browsing`."""
        ...

    def dead_letters(self) -> AsyncIterator[Held]:
        """Every dead letter, left where it is."""
        ...


@runtime_checkable
class TellsOldest(Protocol):
    """A queue that delivers what has been ready longest, and says since when that is."""

    async def oldest(self) -> Micros | None:
        """Since when the message that is delivered next has been ready, `None` when none is."""
        ...


@runtime_checkable
class LosesAtOnce(Protocol):
    """A queue whose deliveries are held by the connection they came by: with it, all of them are lost in one moment."""

    def on_lost(self, tell: Callable[[Sequence[str]], None]) -> None:
        """Have `tell` called, in the event loop, with the receipts that have just become void."""
        ...


@runtime_checkable
class TellsForgotten(Protocol):
    """A queue that notices when messages are gone that it has never delivered, without knowing which."""

    @property
    def forgot_at(self) -> Micros | None:
        """When it last noticed that, `None` for never."""
        ...


@runtime_checkable
class KeepsExpired(Protocol):
    """A queue whose retention sets messages aside instead of dropping them, so that the book can have them first."""

    async def expired(self, limit: int = 100) -> list[Held]:
        """Messages past the queue's retention, which it no longer delivers."""
        ...

    async def purge(self, messages: Sequence[Held]) -> int:
        """Forget expired messages, once the book has them."""
        ...


@runtime_checkable
class ForgetsDead(Queue, Protocol):
    """A queue whose dead letters can be taken away one by one, when their messages have been sent again."""

    async def forget_dead(self, broker_ids: Sequence[str]) -> int:
        """Forget dead letters, by the ids that `dead_letters` told. How many were still there; others are left alone."""
        ...


@runtime_checkable
class LocalQueue(Queue, TellsOldest, KeepsExpired, Protocol):
    """A queue that is a table: it can be written inside the transaction of whoever uses the same database."""

    def is_in(self, path: str) -> bool:
        """Whether it lives in that database file."""
        ...

    def ack_statement(self, receipt: str) -> SqlStatement:
        """The ack: changes one row, or none when the receipt is void."""
        ...

    def release_statement(self, receipt: str, now: Micros, delay: float = 0.0) -> SqlStatement: ...

    def dead_letter_statement(self, receipt: str, now: Micros, reason: str) -> SqlStatement: ...

    def publish_statements(self, messages: Sequence[Outgoing], now: Micros) -> Sequence[SqlStatement]: ...

    def wake(self) -> None:
        """After a commit with `publish_statements`: there is something to receive."""
        ...
