"""The queue port over a table of a PostgreSQL database.

Delivers at least once; in no order but that of priorities, or, with `ordered`, the messages of one partition one after the
other. A lease is a deadline by the server's clock, which is the only one all machines share; a receipt is void from the
moment the message is delivered again or handed back. What is acked is deleted: the table holds what is open.

Where the effects are in the same database, an ack rides in their transaction (`ack_statement`): then there is no moment at
which one is done and the other is not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Self

from anyio import Lock

from crossfoot.clock import Clock, Micros, SystemClock
from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.postgres import local, sql
from crossfoot.queues.postgres.address import address_of
from crossfoot.queues.postgres.answers import NoAnswer, Rejected, no_tables
from crossfoot.queues.postgres.bell import Bell
from crossfoot.queues.postgres.client import GROUP, Client
from crossfoot.queues.postgres.messages import Limits, duration, told
from crossfoot.queues.postgres.publishing import Publisher
from crossfoot.queues.postgres.receiving import MAX_RECEIVE, Receiver
from crossfoot.queues.postgres.settling import Settler
from crossfoot.queues.postgres.tables import PRIORITIES, VERSION
from crossfoot.queues.postgres.watching import Watcher
from crossfoot.queues.queue import (
    Capabilities,
    Delivery,
    Depth,
    DepthIs,
    Held,
    Order,
    Outgoing,
    PublishAnswer,
    ReceiptAnswer,
    SqlStatement,
)

FORTNIGHT = 14 * 86_400.0
MEBIBYTE = 1024 * 1024
LARGEST = 256 * MEBIBYTE
"""PostgreSQL moves a value in one piece, and takes no message over a gigabyte, in hexadecimal digits for some of its clients."""


class PostgresQueue:
    """One queue in a database.

    Args:
        queue: its name; or a URL with it, as `postgresql://host/database?queue=billing`.
        url: the database, if `queue` does not say. A queue that it names goes before `queue`.
        retention: seconds after which a message that nobody handled is set aside for the book; `None` for never.
        max_attempts: deliveries after which the queue itself buries a message; `None` for never, the worker decides.
        max_bytes: the largest message, attributes included.
        ordered: keep messages of one partition in line. Producers and consumers must agree.
        clock: reads the time for what is compared on this machine; leases and delays are by the server's.
        timeout: seconds until the server gives a request up. A second later it is in doubt.

    Raises:
        UsageError: an argument is out of range, or the address is none.
    """

    system = "postgresql"

    def __init__(
        self,
        queue: str,
        *,
        url: str | None = None,
        retention: float | None = FORTNIGHT,
        max_attempts: int | None = None,
        max_bytes: int = MEBIBYTE,
        ordered: bool = False,
        clock: Clock | None = None,
        timeout: float = 10.0,
    ) -> None:
        self._address = address_of(queue, url)
        name = self._address.name
        if timeout <= 0 or not 1 <= max_bytes <= LARGEST:
            raise UsageError(f"queue {name}: `timeout` must be more than 0, and `max_bytes` 1 to {LARGEST}")
        if retention is not None:
            duration(retention, f"retention of queue {name}", least=0.001)
        if max_attempts is not None and max_attempts < 1:
            raise UsageError(f"max_attempts of queue {name} must be 1 or more, not {max_attempts}")
        self._limits = Limits(queue=name, retention=retention, max_bytes=max_bytes, ordered=ordered)
        self._max_attempts = max_attempts
        self._opening = Lock()
        self._open = False
        clock = clock or SystemClock()
        self._client = Client(self._address, timeout=timeout)
        self._bell = Bell(self._client)
        self._publisher = Publisher(self._client, self._bell, self._limits)
        self._receiver = Receiver(self._client, self._bell, clock, retention=retention, max_attempts=max_attempts)
        self._settler = Settler(self._client, self._bell, ordered=ordered)
        self._watcher = Watcher(self._client, clock, self._receiver, retention=retention)

    @property
    def name(self) -> str:
        return self._limits.queue

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            order=Order.KEY if self._limits.ordered else Order.NONE,
            depth=DepthIs.EXACT,
            browsing=True,
            transactional_ack=True,
            receipts_fenced=True,
            priorities=PRIORITIES,
            max_delay=self.retention,
            max_receive=MAX_RECEIVE,
            max_publish=GROUP,
            max_bytes=self._limits.max_bytes,
        )

    @property
    def retention(self) -> float | None:
        return self._limits.retention

    @property
    def max_attempts(self) -> int | None:
        return self._max_attempts

    async def open(self) -> None:
        """See that the database has the tables.

        Raises:
            QueueUnavailable: it has not, or cannot be reached, refuses us, or is too old.
        """
        async with self._opening:
            if self._open:
                return
            try:
                ((there, version),) = await self._client.ask(sql.OPENED)
            except (NoAnswer, Rejected) as error:
                raise QueueUnavailable(f"queue {self.name} could not be opened: {error}. Try again") from error
            if not there or version != VERSION:
                raise no_tables(self.name, self._address.url)
            self._open = True

    async def close(self) -> None:
        """Close the connections of this event loop; those of another one are closed when it ends."""
        self._open = False
        self._receiver.forget_places()
        await self._client.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        """See `Queue.publish`. A second publish is a second message; its delivery finds the operation complete."""
        self._must_be_open()
        return await self._publisher.publish(messages)

    async def receive(self, limit: int, *, lease: float, wait: float = 0.0) -> list[Delivery]:
        """See `Queue.receive`. What was handed back, or has waited, comes first; then by priority; then what was ready first.
        A high priority that never ceases starves the lower ones."""
        self._must_be_open()
        if limit < 1:
            raise UsageError(f"queue {self.name}: a receive must ask for at least one message, not {limit}")
        duration(lease, f"a lease in queue {self.name}", least=0.001)
        return await self._receiver.receive(limit, lease=lease, wait=wait)

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        self._must_be_open()
        return await self._settler.ack(receipts)

    async def release(self, receipts: Sequence[str], *, delay: float = 0.0) -> list[ReceiptAnswer]:
        """See `Queue.release`. Without a delay a message is the next to be delivered, whatever its priority."""
        self._must_be_open()
        return await self._settler.release(receipts, duration(delay, f"a delay in queue {self.name}"))

    async def extend(self, receipts: Sequence[str], *, lease: float) -> list[ReceiptAnswer]:
        self._must_be_open()
        return await self._settler.extend(receipts, duration(lease, f"a lease in queue {self.name}", least=0.001))

    async def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> list[ReceiptAnswer]:
        """See `Queue.dead_letter`: one step, after which the message is a dead letter and nothing else."""
        self._must_be_open()
        return await self._settler.bury([delivery.receipt for delivery in deliveries], reason)

    async def depth(self) -> Depth:
        self._must_be_open()
        return await self._watcher.depth()

    async def oldest(self) -> Micros | None:
        """Since when what has been ready longest is."""
        self._must_be_open()
        return await self._watcher.oldest()

    async def browse(self) -> AsyncIterator[Held]:
        self._must_be_open()
        async for held in self._watcher.browse():
            yield held

    async def dead_letters(self) -> AsyncIterator[Held]:
        self._must_be_open()
        async for held in self._watcher.dead_letters():
            yield held

    async def expired(self, limit: int = 100) -> list[Held]:
        """Messages past the retention, set aside until `purge`."""
        self._must_be_open()
        return await self._watcher.expired(limit)

    async def purge(self, messages: Sequence[Held]) -> int:
        """Forget expired messages, once the book has them."""
        self._must_be_open()
        return await self._watcher.purge(messages)

    async def forget_dead(self, broker_ids: Sequence[str]) -> int:
        """See `ForgetsDead.forget_dead`."""
        self._must_be_open()
        return await self._watcher.forget_dead(broker_ids)

    def is_in(self, path: str) -> bool:
        """Whether `path` is the URL of the queue's database."""
        return self._address.is_in(path)

    def publish_statements(self, messages: Sequence[Outgoing], now: Micros) -> list[SqlStatement]:
        """To execute in a transaction of the caller's on this database, all of them; afterwards call `wake`.

        Args:
            now: not asked, see `local`.

        Raises:
            MessageTooLarge, UsageError: one of the messages can never be stored.
        """
        rows = [self._limits.row(message) for message in messages]
        return [local.publish(self.name, row) for row in rows]

    def ack_statement(self, receipt: str) -> SqlStatement:
        """To execute in the effect's transaction: row count 1 is acked, 0 means that the receipt is void."""
        return local.ack(self.name, receipt)

    def release_statement(self, receipt: str, now: Micros, delay: float = 0.0) -> SqlStatement:
        return local.release(self.name, receipt, duration(delay, f"a delay in queue {self.name}"))

    def dead_letter_statement(self, receipt: str, now: Micros, reason: str) -> SqlStatement:
        return local.bury(self.name, receipt, told(reason))

    def wake(self) -> None:
        """Have receives that wait look now: after a commit with the queue's statements in it. Where the queue is not open,
        those in other processes find out by polling. From any thread."""
        self._bell.ring_soon()

    def _must_be_open(self) -> None:
        if not self._open:
            raise UsageError(f"queue {self.name} is not open: await its open() first, or use it in `async with`")
