"""Sending a list of entries: in batches, each entry answered, nothing sent twice.

In a FIFO queue the batches go one after the other, and once a partition's message was not accepted, its successors are
held back: accepted first, they would overtake it for good.
"""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.queue import Accepted, Doubtful, PublishAnswer, Refused
from crossfoot.queues.sqs.batching import each_alone, joined, side_by_side
from crossfoot.queues.sqs.client import Client, NoAnswer, Rejected
from crossfoot.queues.sqs.messages import Entry, Rules, batches, numbered, published, refused


class Sender:
    """Sends to one queue."""

    def __init__(self, client: Client, url: str, rules: Rules) -> None:
        self._client = client
        self._url = url
        self._rules = rules

    async def send(self, entries: Sequence[Entry]) -> list[PublishAnswer]:
        """One answer per entry, in order.

        Raises:
            QueueUnavailable: not one request left. If some did, the other entries are refused, not permanently.
        """
        cut = list(batches(entries, self._rules.request_bytes))
        got = await (self._in_order(cut) if self._rules.fifo else side_by_side(cut, self._batch))
        return joined(cut, got, _unsent)

    async def _in_order(self, cut: Sequence[list[Entry]]) -> list[list[PublishAnswer] | QueueUnavailable]:
        got: list[list[PublishAnswer] | QueueUnavailable] = []
        broken: set[str] = set()
        for batch in cut:
            if got and isinstance(got[-1], QueueUnavailable):
                got.append(got[-1])
                continue
            fit = [entry for entry in batch if entry.group not in broken]
            answers = await self._batch(fit) if fit else []
            if isinstance(answers, QueueUnavailable):
                got.append(answers)
                continue
            rest = iter(answers)
            got.append([_held_back(entry) if entry.group in broken else next(rest) for entry in batch])
            broken |= {entry.group for entry, answer in zip(fit, answers, strict=True) if not _may_be_followed(answer)}
        return got

    async def _batch(self, batch: Sequence[Entry]) -> list[PublishAnswer] | QueueUnavailable:
        """One request; and should it be refused as a whole, one for each entry."""
        entries = numbered([entry.request for entry in batch])
        url = self._url
        try:
            response = await self._client.change(lambda sqs: sqs.send_message_batch(QueueUrl=url, Entries=entries))
        except QueueUnavailable as error:
            return error
        except UsageError as error:  # credentials that were there when it was opened: other batches may have been sent
            return QueueUnavailable(str(error))
        except NoAnswer as error:
            return [Doubtful(entry.key, str(error)) for entry in batch]
        except Rejected as error:
            if len(batch) == 1:
                return [refused(batch[0].key, error.code, error.text)]
            return await each_alone(batch, self._batch, _unsent)
        return published(batch, response)


def _unsent(batch: Sequence[Entry], reason: str) -> list[PublishAnswer]:
    return [Refused(entry.key, reason, permanent=False) for entry in batch]


def _held_back(entry: Entry) -> Refused:
    return Refused(entry.key, "not sent: an earlier message of its partition was not accepted", permanent=False)


def _may_be_followed(answer: PublishAnswer) -> bool:
    """Whether successors may go: the message is in the queue, or can never be."""
    return isinstance(answer, Accepted) or (isinstance(answer, Refused) and answer.permanent)
