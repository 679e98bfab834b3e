"""Publishing a list of entries: every entry with its own acknowledgement, many under way at once, nothing sent twice."""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.nats.answers import NoAnswer, NobodyListens, Rejected, answer_of
from crossfoot.queues.nats.connection import Connection
from crossfoot.queues.nats.messages import Entry, wire_size
from crossfoot.queues.nats.together import all_of
from crossfoot.queues.queue import Accepted, Doubtful, PublishAnswer, Refused

_TOO_LARGE = 10054
_STORE_FAILED = 10077
"""Also said of whatever else went wrong while storing; only limits are told by their text."""


class Sender:
    """Sends to one subject."""

    def __init__(self, connection: Connection, subject: str) -> None:
        self._connection = connection
        self._subject = subject

    async def send(self, entries: Sequence[Entry]) -> list[PublishAnswer]:
        """One answer per entry, in order.

        Raises:
            QueueUnavailable: not one entry left. If some did, the others are refused, not permanently.
        """
        if entries:
            await self._connection.link()
        got = await all_of(entries, self._one)
        unsent = [one for one in got if isinstance(one, QueueUnavailable)]
        if unsent and len(unsent) == len(got):
            raise unsent[0]
        return [
            Refused(entry.key, str(one), permanent=False) if isinstance(one, QueueUnavailable) else one
            for entry, one in zip(entries, got, strict=True)
        ]

    async def _one(self, entry: Entry) -> PublishAnswer | QueueUnavailable:
        try:
            limit = (await self._connection.link()).client.max_payload
            if wire_size(entry) > limit:  # the server ends the connection of whoever sends more
                return Refused(entry.key, f"{wire_size(entry)} bytes, headers included; the server takes {limit}", True)
            msg = await self._connection.ask(self._subject, entry.body, entry.headers)
            answer = answer_of(msg.data)
            return Accepted(entry.key, f"{answer['stream']}:{answer['seq']}")
        except Rejected as error:
            return refused(entry.key, error)
        except (NoAnswer, KeyError) as error:
            return Doubtful(entry.key, str(error))
        except NobodyListens:
            return QueueUnavailable(
                f"queue {self._connection.label}: no stream takes what is published to {self._subject}: create it, or correct "
                "the subject"
            )
        except QueueUnavailable as error:
            return error


def refused(key: str, error: Rejected) -> PublishAnswer:
    """A refusal by the server; permanent where the bytes are at fault, in doubt where it proves nothing."""
    if error.number == _TOO_LARGE:
        return Refused(key, str(error), permanent=True)
    if 400 <= error.code < 500 or (error.number == _STORE_FAILED and error.text.startswith("maximum ")):
        return Refused(key, str(error), permanent=False)
    return Doubtful(key, str(error))
