"""The dead-letter queue that a queue's redrive policy names: put there, look there, count.

SQS has no move. A message is sent to the dead-letter queue and, once that is certain, deleted from its own; a doubtful
send deletes nothing, so the worst case is a second copy, never a loss. Nor has SQS a way to look: browsing receives
each message, hides it for a while and puts it back, which counts as a delivery on the dead-letter queue.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Mapping
from typing import TYPE_CHECKING, Any

from anyio import CancelScope

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.attempts import attempts_told
from crossfoot.queues.queue import Delivery, Done, Held
from crossfoot.queues.sqs.client import Client, NoAnswer, Rejected, field
from crossfoot.queues.sqs.messages import (
    BATCH,
    MAX_ATTRIBUTES,
    Attributes,
    Entry,
    Rules,
    SqsDelivery,
    group_of,
    legal,
    request_of,
    size_of,
)
from crossfoot.queues.sqs.receiving import sent_at
from crossfoot.queues.sqs.sending import Sender
from crossfoot.queues.sqs.settling import Settler

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

REASON = "crossfoot-reason"
ATTEMPT = "crossfoot-attempt"
ORIGIN = "crossfoot-id"
"""The id that the message had in its own queue: in the dead-letter queue it has another one."""
_REASON_CHARACTERS = 500

BROWSE_SECONDS, BROWSE_SECONDS_EACH, BROWSE_SECONDS_AT_MOST = 10, 0.05, 600
"""For how long dead letters that are looked at stay hidden, should this process die before it puts them back: long enough
to see them all, ten a request, and no longer, because nobody else sees them meanwhile."""

_log = logging.getLogger("crossfoot.queues.sqs")


class DeadLetters:
    """One dead-letter queue.

    Args:
        most: deliveries after which the service moves a message there by itself; `None` where that is not known.
    """

    def __init__(self, client: Client, url: str, rules: Rules, most: int | None = None) -> None:
        self.name = rules.queue
        self._most = most
        self._client = client
        self._url = url
        self._rules = rules
        self.sender = Sender(client, url, rules)
        self._settler = Settler(client, url)

    def entry_of(self, delivery: Delivery, reason: str) -> Entry:
        """The delivered message as it was, and, where there is room, what id it had, why it died and after how many attempts."""
        text = delivery.body.decode()
        native = dict(delivery.native) if isinstance(delivery, SqsDelivery) else _strings(delivery.attributes)
        size = len(delivery.body) + size_of(native)
        told = _strings({
            ORIGIN: delivery.broker_id or "unknown", REASON: legal(reason)[:_REASON_CHARACTERS] or "unknown",
            ATTEMPT: str(delivery.attempt),
        })  # fmt: skip
        for name, attribute in told.items():
            extra = size_of({name: attribute})
            if len(native) < MAX_ATTRIBUTES and size + extra <= self._rules.max_bytes:
                native[name] = attribute
                size += extra
        identity = delivery.broker_id or delivery.receipt
        group = ""
        if self._rules.fifo:
            group = (delivery.group if isinstance(delivery, SqsDelivery) else "") or group_of(identity)
        request = request_of(text, native, group=group, deduplication=f"dead|{identity}")
        return Entry(key=delivery.receipt, request=request, size=size, group=group)

    async def count(self) -> int:
        """How many messages it holds, by its own approximate count.

        Raises:
            QueueUnavailable: it cannot be asked.
        """
        url = self._url
        names: list[Any] = [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        ]
        try:
            response = await self._client.read(lambda sqs: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names))
            counts = field(response, "Attributes")
        except (NoAnswer, Rejected) as error:
            raise QueueUnavailable(f"dead-letter queue {self.name} could not be counted: {error}. Try again") from error
        return sum(int(value) for value in counts.values())

    async def retention(self) -> float | None:
        """Seconds after which it forgets.

        Raises:
            QueueUnavailable: it could not be asked.
        """
        url = self._url
        try:
            response = await self._client.read(
                lambda sqs: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["MessageRetentionPeriod"])
            )
            period = field(response, "Attributes").get("MessageRetentionPeriod")
        except (NoAnswer, Rejected) as error:
            raise QueueUnavailable(f"dead-letter queue {self.name} could not be asked: {error}. Try again") from error
        return float(period) if period else None

    async def browse(self) -> AsyncIterator[Held]:
        """Every dead letter once. Of one FIFO group the service shows ten at a time; what was not seen is logged."""
        seen: set[str] = set()
        taken: list[str] = []
        hidden = min(BROWSE_SECONDS_AT_MOST, round(BROWSE_SECONDS + BROWSE_SECONDS_EACH * await self.count()))
        try:
            while fresh := [one for one in await self._look(hidden) if one["MessageId"] not in seen]:
                for one in fresh:
                    seen.add(one["MessageId"])
                    taken.append(one["ReceiptHandle"])
                for one in fresh:
                    yield held_of(one, self._most)
        finally:
            with CancelScope(shield=True):
                await self._put_back(taken, hidden)
        if self._rules.fifo:
            await self._say_what_is_missing(len(seen))

    async def forget(self, broker_ids: Collection[str]) -> int:
        """Delete those that are called so. All have to be received for that, and the others are put back."""
        seen: set[str] = set()
        others: list[str] = []
        gone = 0
        hidden = min(BROWSE_SECONDS_AT_MOST, round(BROWSE_SECONDS + BROWSE_SECONDS_EACH * await self.count()))
        try:
            while fresh := [one for one in await self._look(hidden) if one["MessageId"] not in seen]:
                seen.update(one["MessageId"] for one in fresh)
                named = [one["ReceiptHandle"] for one in fresh if held_of(one).broker_id in broker_ids]
                others += [one["ReceiptHandle"] for one in fresh if held_of(one).broker_id not in broker_ids]
                gone += sum(isinstance(answer, Done) for answer in await self._settler.delete(named))
        finally:
            with CancelScope(shield=True):
                await self._put_back(others, hidden)
        return gone

    async def _look(self, hidden: int) -> list[Mapping[str, Any]]:
        def receive(sqs: SQSClient) -> list[Any]:
            response = sqs.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=BATCH,
                VisibilityTimeout=hidden,
                WaitTimeSeconds=1,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
                MessageAttributeNames=["All"],
            )
            return list(response.get("Messages", ()))

        try:
            return await self._client.read(receive)
        except (NoAnswer, Rejected) as error:
            raise QueueUnavailable(f"dead-letter queue {self.name} could not be read: {error}. Try again") from error

    async def _put_back(self, receipts: list[str], hidden: int) -> None:
        if not receipts:
            return
        try:
            await self._settler.hide(receipts, 0)
        except QueueUnavailable as error:
            _log.warning("%d dead letters stay hidden for up to %d s: %s", len(receipts), hidden, error)

    async def _say_what_is_missing(self, seen: int) -> None:
        if (count := await self.count()) > seen:
            _log.warning(
                "dead-letter queue %s holds %d messages and showed %d: of a FIFO group only the first ten are seen",
                self.name,
                count,
                seen,
            )


def held_of(message: Mapping[str, Any], most: int | None = None) -> Held:
    """A dead letter as it is seen. One that the service moved bears the count of its deliveries, to which each look adds one: they were
    `most`, and not more."""
    system = message.get("Attributes", {})
    native = message.get("MessageAttributes", {})
    told = {name: one["StringValue"] for name, one in native.items() if "StringValue" in one}
    received = int(system.get("ApproximateReceiveCount", 1)) - 1
    return Held(
        body=message["Body"].encode(),
        attempt=attempts_told(told.get(ATTEMPT, ""), received if most is None else min(received, most)),
        enqueued_at=sent_at(system),
        broker_id=told.get(ORIGIN) or message["MessageId"],
        attributes={name: value for name, value in told.items() if name not in (ATTEMPT, ORIGIN, REASON)},
        dead=True,
    )


def _strings(attributes: Mapping[str, str]) -> dict[str, Any]:
    typed: Attributes = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
    return dict(typed)
