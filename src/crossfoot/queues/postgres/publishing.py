"""Publishing: many messages in one statement, none of them sent twice."""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.queues.batching import batches, one_after_another
from crossfoot.queues.postgres import sql
from crossfoot.queues.postgres.answers import NoAnswer, Rejected
from crossfoot.queues.postgres.bell import Bell
from crossfoot.queues.postgres.client import GROUP, GROUP_BYTES, Client
from crossfoot.queues.postgres.messages import Limits, Row
from crossfoot.queues.queue import Accepted, Doubtful, Outgoing, PublishAnswer, Refused


class Publisher:
    """Publishes to one queue."""

    def __init__(self, client: Client, bell: Bell, limits: Limits) -> None:
        self._client = client
        self._bell = bell
        self._limits = limits

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        """One answer per message, in order.

        Raises:
            QueueUnavailable: nothing was stored.
        """
        checked = [self._limits.refusal(message) for message in messages]
        rows = [one for one in checked if isinstance(one, Row)]
        turns = sorted(range(len(rows)), key=lambda turn: rows[turn].line or "")  # as everybody does who locks lines
        cut = batches([rows[turn] for turn in turns], lambda row: len(row.body), most=GROUP, most_bytes=GROUP_BYTES)
        stored = dict(zip(turns, await one_after_another(cut, self._store, _untried), strict=True))
        answers = (stored[turn] for turn in range(len(rows)))
        if any(not row.delay for row in rows):
            await self._bell.ring()
        return [one if isinstance(one, Refused) else next(answers) for one in checked]

    async def _store(self, rows: list[Row]) -> list[PublishAnswer]:
        try:
            keys = await self._client.ask(
                sql.PUBLISH,
                {
                    "queue": self._limits.queue,
                    "messages": [row.message for row in rows],
                    "lines": [row.line for row in rows],
                    "delays": [row.delay for row in rows],
                    "priorities": [row.priority for row in rows],
                    "attributes": [row.attributes for row in rows],
                    "bodies": [row.body for row in rows],
                },
            )
        except NoAnswer as error:
            return [Doubtful(row.message, str(error)) for row in rows]
        except Rejected as error:
            if len(rows) == 1:
                return [Refused(rows[0].message, str(error), permanent=error.for_good)]
            return [answer for row in rows for answer in await self._store([row])]  # which of them is it?
        return [Accepted(row.message, str(key)) for row, (key,) in zip(rows, keys, strict=True)]


def _untried(rows: Sequence[Row], reason: str) -> list[PublishAnswer]:
    return [Refused(row.message, reason, permanent=False) for row in rows]
