"""Receiving: long polls that a stop need not wait for, and leases that are never believed longer than they are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio

from crossfoot.clock import SECOND, Clock, Micros
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Delivery
from crossfoot.queues.sqs.client import Client, NoAnswer, Rejected
from crossfoot.queues.sqs.messages import BATCH, Rules, SqsDelivery, numbered

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

SHORT_POLL = 0.2
"""Seconds between receives that may not wait."""


class Receiver:
    """Receives from one queue."""

    def __init__(self, client: Client, url: str, rules: Rules, *, clock: Clock, poll: float) -> None:
        self._client = client
        self._url = url
        self._rules = rules
        self._clock = clock
        self._poll = poll

    async def receive(self, limit: int, *, lease: int, wait: float) -> list[Delivery]:
        """Up to ten deliveries, leased for `lease` whole seconds.

        The service leases when it answers, not when it is asked, and nobody here knows the moment: `lease_until` counts
        from the asking. So a receive is held open for a quarter of the lease at most, and with a lease under four
        seconds it is repeated instead.

        Raises:
            QueueUnavailable: no answer, or a refusal. Should messages have been leased, they come again.
        """
        until = anyio.current_time() + wait
        while True:
            left = until - anyio.current_time()
            hold = max(0, int(min(self._poll, math.ceil(left), lease / 4)))
            got = await self._once(min(limit, BATCH), lease, hold)
            if got or left <= 0:
                return got
            if not hold:
                await anyio.sleep(min(SHORT_POLL, left))

    async def _once(self, limit: int, lease: int, hold: int) -> list[Delivery]:
        request: dict[str, Any] = {
            "QueueUrl": self._url,
            "MaxNumberOfMessages": limit,
            "VisibilityTimeout": lease,
            "WaitTimeSeconds": hold,
            "MessageSystemAttributeNames": ["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId"],
            "MessageAttributeNames": ["All"],
        }
        if self._rules.fifo:  # should the client repeat an unanswered receive, it gets the same messages
            request["ReceiveRequestAttemptId"] = str(uuid4())
        lease_until = self._clock.now() + lease * SECOND
        try:
            response = await self._client.poll(lambda sqs: sqs.receive_message(**request), self._give_back)
        except (NoAnswer, Rejected) as error:
            raise QueueUnavailable(f"queue {self._rules.queue} did not deliver: {error}. Try again") from error
        return [_delivery(message, lease_until) for message in response.get("Messages", ())]

    def _give_back(self, sqs: SQSClient, response: Any) -> None:
        """Put back what came after the receive was cancelled. Runs in the thread that received it."""
        handles = [message["ReceiptHandle"] for message in response.get("Messages", ())]
        if handles:
            entries = numbered([{"ReceiptHandle": handle, "VisibilityTimeout": 0} for handle in handles])
            sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)


def _delivery(message: Any, lease_until: Micros) -> Delivery:
    system = message.get("Attributes", {})
    native = message.get("MessageAttributes", {})
    return SqsDelivery(
        body=message["Body"].encode(),
        receipt=message["ReceiptHandle"],
        attempt=int(system.get("ApproximateReceiveCount", 1)),
        lease_until=lease_until,
        enqueued_at=sent_at(system),
        broker_id=message["MessageId"],
        attributes={name: one["StringValue"] for name, one in native.items() if "StringValue" in one},
        native=native,
        group=system.get("MessageGroupId", ""),
    )


def sent_at(system: dict[str, str]) -> Micros | None:
    """When the service took the message."""
    sent = system.get("SentTimestamp")
    return int(sent) * 1_000 if sent else None
