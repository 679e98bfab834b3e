"""Publishing: many entries in one go, each answered by itself, none sent twice.

The stream is not made by the way: an entry in a stream without the group would be delivered to nobody.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.batching import batches, one_after_another
from crossfoot.queues.queue import Accepted, Doubtful, Outgoing, PublishAnswer, Refused
from crossfoot.queues.redis.answers import NoAnswer
from crossfoot.queues.redis.client import BATCH, BATCH_BYTES, Client, Command
from crossfoot.queues.redis.entries import fields_of, refusal, text_of, unlike_any_other
from crossfoot.queues.redis.scripts import DELAY


class Publisher:
    """Publishes to one queue."""

    def __init__(self, client: Client, *, max_bytes: int) -> None:
        self._client = client
        self._address = client.address
        self._max_bytes = max_bytes

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        """One answer per message, in order.

        Raises:
            QueueUnavailable: nothing was published. When only a later part could not be sent, that part is refused for now.
        """
        checked = [refusal(message, queue=self._address.name, max_bytes=self._max_bytes) for message in messages]
        fit = [message for message, refused in zip(messages, checked, strict=True) if refused is None]
        cut = batches(fit, lambda message: sum(map(len, fields_of(message))), most=BATCH, most_bytes=BATCH_BYTES)
        answers = iter(await one_after_another(cut, self._batch, _unsent))
        return [refused or next(answers) for refused in checked]

    async def _batch(self, batch: Sequence[Outgoing]) -> list[PublishAnswer]:
        said = await self._client.ask_all([self._command(message) for message in batch])
        said = [self._client.no_stream() if one is None else one for one in said]
        useless = [one for one in said if isinstance(one, QueueUnavailable)]
        if useless and len(useless) == len(said):
            raise useless[0]
        return [_answer(message, one) for message, one in zip(batch, said, strict=True)]

    def _command(self, message: Outgoing) -> Command:
        fields = fields_of(message)
        if message.delay > 0:
            keys = (self._address.stream, self._address.delayed)
            return ("EVAL", DELAY.text, len(keys), *keys, math.ceil(message.delay * 1_000), unlike_any_other(fields))
        return ("XADD", self._address.stream, "NOMKSTREAM", "*", *fields)


def _answer(message: Outgoing, said: Any) -> PublishAnswer:
    if isinstance(said, NoAnswer):
        return Doubtful(message.key, str(said))
    if isinstance(said, Exception):  # no refusal is about the bytes: a server that is full has room again one day
        return Refused(message.key, str(said), permanent=False)
    return Accepted(message.key, text_of(said))


def _unsent(batch: Sequence[Outgoing], reason: str) -> list[PublishAnswer]:
    return [Refused(message.key, f"not sent: {reason}", permanent=False) for message in batch]
