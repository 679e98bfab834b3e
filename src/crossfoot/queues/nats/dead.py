"""The stream of dead letters beside a queue's own: put there, look there, count.

JetStream has no dead letters. A message that is set aside is published to another stream, `<STREAM>-dead`, under the subject
`<STREAM>-dead.<DURABLE>`, and only when that is acknowledged is it terminated in its own. Its place in its own stream is the
deduplication id: should a process die in between, the second copy is dropped, as long as the stream of dead letters
remembers (its `duplicate_window`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.attempts import attempts_told
from crossfoot.queues.nats.answers import NoAnswer, NobodyListens, Rejected
from crossfoot.queues.nats.connection import Connection
from crossfoot.queues.nats.messages import (
    ATTEMPT,
    EXPECTED_STREAM,
    FRAME,
    MSG_ID,
    QUEUE,
    REASON,
    Entry,
    attributes_of,
    dead_headers,
    size_of,
)
from crossfoot.queues.nats.publishing import Sender
from crossfoot.queues.nats.receipts import broker_id, place_of
from crossfoot.queues.nats.stream import Reader, Stored
from crossfoot.queues.queue import Held, PublishAnswer

_NO_STREAM = 10059
_NANOS = 1_000_000_000
_REASON_CHARACTERS = 500


class Dying(Entry, frozen=True, kw_only=True):
    """A message on its way to the dead letters, its headers as they came."""

    dead_id: str
    attempt: int


class DeadLetters:
    """The dead letters of one queue.

    Args:
        max_bytes: of a message in their stream, headers included.
        retention: seconds after which their stream forgets them; `None` for never.
    """

    def __init__(
        self, connection: Connection, queue: str, stream: str, durable: str, *, max_bytes: int, retention: float | None
    ) -> None:
        self.stream = stream
        self.retention = retention
        self._queue = queue
        self._max_bytes = max_bytes
        self._sender = Sender(connection, f"{stream}.{durable}")
        self._reader = Reader(connection, stream, durable, (f"{stream}.{durable}",))

    async def put(self, dying: Sequence[Dying], reason: str) -> list[PublishAnswer]:
        """Publish them. Accepted is who lies there now, or lay there already.

        Raises:
            QueueUnavailable: not one left.
        """
        return await self._sender.send([self._entry(one, reason) for one in dying])

    async def count(self) -> int:
        return await self._reader.count()

    async def browse(self) -> AsyncIterator[Held]:
        async for stored in self._reader.walk():
            yield held_of(self.stream, stored, dead=True)

    async def forget(self, broker_ids: Collection[str]) -> int:
        """Delete those that are called so; how many were still there."""
        gone = 0
        async for stored in self._reader.walk():
            if held_of(self.stream, stored, dead=True).broker_id in broker_ids:
                gone += await self._reader.delete(stored.sequence)
        return gone

    def _entry(self, one: Dying, reason: str) -> Entry:
        told = {QUEUE: self._queue, ATTEMPT: str(one.attempt), REASON: reason[:_REASON_CHARACTERS] or "unknown"}
        own = {MSG_ID: one.dead_id, EXPECTED_STREAM: self.stream}
        headers = dead_headers(one.headers, {}, room=0)
        while own and len(one.body) + size_of({**headers, **own}) + FRAME > self._max_bytes:
            own.popitem()  # others may publish what leaves no room for these: rather twice there than never
        room = self._max_bytes - len(one.body) - size_of(own) - FRAME
        return Entry(key=one.key, body=one.body, headers={**dead_headers(one.headers, told, room=room), **own})


async def find(connection: Connection, queue: str, stream: str, durable: str) -> DeadLetters | None:
    """The dead letters of a queue, if there is a stream for them.

    Raises:
        QueueUnavailable: it cannot be told.
    """
    try:
        info = await connection.api(f"STREAM.INFO.{stream}")
    except Rejected as error:
        if error.number == _NO_STREAM:
            return None
        raise QueueUnavailable(f"queue {queue} cannot use its dead letters, {stream}: {error}") from error
    except (NoAnswer, NobodyListens) as error:
        raise QueueUnavailable(f"queue {queue} cannot use its dead letters, {stream}: {error}") from error
    most = (await connection.link()).client.max_payload
    config = info["config"]
    return DeadLetters(
        connection, queue, stream, durable, max_bytes=min(most, limit_of(config) or most), retention=max_age_of(config)
    )


def max_age_of(config: Mapping[str, Any]) -> float | None:
    """Seconds after which a stream forgets; `None` for never (`max_age`, in nanoseconds, 0 for never)."""
    nanos = int(config.get("max_age") or 0)
    return nanos / _NANOS if nanos > 0 else None


def limit_of(config: Mapping[str, Any]) -> int | None:
    """The largest message a stream takes, headers included."""
    limit = int(config.get("max_msg_size", -1))
    return limit if limit >= 0 else None


def held_of(stream: str, stored: Stored, *, dead: bool, attempt: int = 0) -> Held:
    """A message of a stream as it is seen there. A dead letter bears the broker's id of the message that died."""
    place = place_of(stored.headers.get(MSG_ID, "")) if dead else None
    return Held(
        body=stored.body,
        attempt=attempts_told(unquote(stored.headers.get(ATTEMPT, "")), attempt),
        enqueued_at=stored.at,
        broker_id=place or broker_id(stream, stored.sequence),
        attributes=attributes_of(stored.headers),
        dead=dead,
    )
