"""Deleting and changing visibility in batches, each receipt answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Done, NotDone, ReceiptAnswer
from crossfoot.queues.sqs.batching import each_alone, joined, side_by_side
from crossfoot.queues.sqs.client import Client, NoAnswer, Rejected
from crossfoot.queues.sqs.messages import BATCH, not_done, numbered

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

Request = Callable[["SQSClient", list[Any]], Mapping[str, Any]]
"""One request about a batch of entries."""


class Settler:
    """Settles deliveries of one queue. Nothing is retried here: whoever holds the receipt decides that.

    Raises:
        QueueUnavailable: not one request left. If some did, the other receipts are not done, and not lost.
    """

    def __init__(self, client: Client, url: str) -> None:
        self._client = client
        self._url = url

    async def delete(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        """Forget the messages."""

        def request(sqs: SQSClient, entries: list[Any]) -> Mapping[str, Any]:
            return sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)

        return await self._settle(receipts, {}, request)

    async def hide(self, receipts: Sequence[str], seconds: int) -> list[ReceiptAnswer]:
        """Deliver the messages again in `seconds` from now; 0 is at once."""

        def request(sqs: SQSClient, entries: list[Any]) -> Mapping[str, Any]:
            return sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)

        return await self._settle(receipts, {"VisibilityTimeout": seconds}, request)

    async def _settle(self, receipts: Sequence[str], more: Mapping[str, Any], request: Request) -> list[ReceiptAnswer]:
        async def send(batch: Sequence[str]) -> list[ReceiptAnswer] | QueueUnavailable:
            entries = numbered([{"ReceiptHandle": receipt, **more} for receipt in batch])
            try:
                response = await self._client.change(lambda sqs: request(sqs, entries))
            except QueueUnavailable as error:
                return error
            except NoAnswer as error:
                return unanswered(batch, str(error))
            except Rejected as error:
                if len(batch) == 1:
                    return [not_done(batch[0], error.code, error.text)]
                return await each_alone(batch, send, unanswered)
            return _settled(batch, response)

        cut = [list(receipts[start : start + BATCH]) for start in range(0, len(receipts), BATCH)]
        return joined(cut, await side_by_side(cut, send), unanswered)


def unanswered(receipts: Sequence[str], reason: str) -> list[ReceiptAnswer]:
    """Nobody knows, or it was not tried: another attempt may succeed."""
    return [NotDone(receipt, reason, lost=False) for receipt in receipts]


def _settled(batch: Sequence[str], response: Mapping[str, Any]) -> list[ReceiptAnswer]:
    """One answer per receipt. A receipt the response does not speak of is not known to be done."""
    done = {one["Id"] for one in response.get("Successful", ())}
    failed = {one["Id"]: one for one in response.get("Failed", ())}
    answers: list[ReceiptAnswer] = []
    for number, receipt in enumerate(batch):
        if str(number) in done:
            answers.append(Done(receipt))
        elif (one := failed.get(str(number))) is not None:
            answers.append(not_done(receipt, one.get("Code", ""), one.get("Message", "")))
        else:
            answers += unanswered([receipt], "the answer named this receipt neither as done nor as failed")
    return answers
