"""A queue that refuses some messages of a batch, and answers others with silence. For the publisher."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from crossfoot.demo.plan import Act, Fault
from crossfoot.demo.record import Record
from crossfoot.queues.queue import (
    Accepted,
    Capabilities,
    Delivery,
    Depth,
    Doubtful,
    Held,
    Outgoing,
    PublishAnswer,
    Queue,
    ReceiptAnswer,
    Refused,
)

THROTTLED = "RequestThrottled: the queue takes no more for now"
SILENCE = "ReadTimeoutError: the request was sent, and no answer came"


class Delegate:
    """A queue that does what another one does."""

    def __init__(self, inner: Queue) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    @property
    def retention(self) -> float | None:
        return self.inner.retention

    @property
    def max_attempts(self) -> int | None:
        return self.inner.max_attempts

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        return await self.inner.publish(messages)

    async def receive(self, limit: int, *, lease: float, wait: float = 0.0) -> list[Delivery]:
        return await self.inner.receive(limit, lease=lease, wait=wait)

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        return await self.inner.ack(receipts)

    async def release(self, receipts: Sequence[str], *, delay: float = 0.0) -> list[ReceiptAnswer]:
        return await self.inner.release(receipts, delay=delay)

    async def extend(self, receipts: Sequence[str], *, lease: float) -> list[ReceiptAnswer]:
        return await self.inner.extend(receipts, lease=lease)

    async def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> list[ReceiptAnswer]:
        return await self.inner.dead_letter(deliveries, reason=reason)

    async def depth(self) -> Depth:
        return await self.inner.depth()

    def browse(self) -> AsyncIterator[Held]:
        return self.inner.browse()

    def dead_letters(self) -> AsyncIterator[Held]:
        return self.inner.dead_letters()


class FaultyPublish(Delegate):
    """Refuses and loses answers as the plan says; each planned message suffers once.

    It hides that the embedded queue is a table in the book's own file, so that publishing crosses a boundary there, too.

    Args:
        acts: by message key.
    """

    def __init__(self, inner: Queue, acts: Mapping[str, Act], record: Record) -> None:
        super().__init__(inner)
        self._acts = acts
        self._record = record

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        refused = {one.key for one in messages if self._is_first(one, Act.REFUSE_FOR_NOW, Fault.REFUSED)}
        passed = iter(await self.inner.publish([one for one in messages if one.key not in refused]))
        return [
            Refused(one.key, THROTTLED, permanent=False) if one.key in refused else self._answer(one, next(passed))
            for one in messages
        ]

    def _answer(self, message: Outgoing, answer: PublishAnswer) -> PublishAnswer:
        if isinstance(answer, Accepted) and self._is_first(message, Act.LOSE_ANSWER, Fault.ANSWER_LOST):
            return Doubtful(message.key, SILENCE)
        if isinstance(answer, Refused) and self._acts.get(message.key) is Act.REFUSE_FOR_GOOD:
            self._record.note(Fault.REFUSED, _id(message))
        return answer

    def _is_first(self, message: Outgoing, act: Act, fault: Fault) -> bool:
        return self._acts.get(message.key) is act and self._record.note(fault, _id(message))


def _id(message: Outgoing) -> str:
    return message.key.partition("|")[2]
