"""Looking at a stream and its consumer without taking anything."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import msgspec

from crossfoot.clock import Micros
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.nats.answers import NoAnswer, NobodyListens, Rejected
from crossfoot.queues.nats.connection import Connection

NO_MESSAGE = 10037
_NO_MESSAGE_CODE = 404
_NOT_DELETED = 10057
"""There is no message of that number any more."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """One message as it lies in a stream."""

    sequence: int
    body: bytes
    headers: dict[str, str]
    at_nanos: int

    @property
    def at(self) -> Micros:
        return self.at_nanos // 1_000


class Standing(msgspec.Struct, frozen=True):
    """How far a consumer is, by its own count."""

    ready: int
    in_flight: int
    delivered: int
    """The last message it has delivered, by its number in the stream."""

    @property
    def held(self) -> int:
        return self.ready + self.in_flight


class Reader:
    """Reads one stream and one of its consumers. Each method raises `QueueUnavailable` when it cannot."""

    def __init__(self, connection: Connection, stream: str, durable: str, subjects: tuple[str, ...]) -> None:
        self._connection = connection
        self._stream = stream
        self._durable = durable
        self._subjects = subjects
        """Those of its subjects that the consumer takes; empty: all."""

    async def standing(self) -> Standing:
        info = await self._ask(f"CONSUMER.INFO.{self._stream}.{self._durable}")
        return Standing(
            ready=int(info.get("num_pending", 0)),
            in_flight=int(info.get("num_ack_pending", 0)),
            delivered=int(info.get("delivered", {}).get("stream_seq", 0)),
        )

    async def count(self) -> int:
        """How many messages of those subjects the stream holds."""
        if not self._subjects:
            return int((await self._ask(f"STREAM.INFO.{self._stream}"))["state"].get("messages", 0))
        total = 0
        for subject in self._subjects:
            info = await self._ask(f"STREAM.INFO.{self._stream}", {"subjects_filter": subject})
            total += sum((info["state"].get("subjects") or {}).values())
        return total

    async def next(self, sequence: int) -> Stored | None:
        """The first message of those subjects at `sequence` or behind it."""
        found = [await self._get({"seq": sequence, "next_by_subj": subject}) for subject in self._subjects or (">",)]
        return min((one for one in found if one is not None), key=lambda one: one.sequence, default=None)

    async def get(self, sequence: int) -> Stored | None:
        return await self._get({"seq": sequence})

    async def walk(self, sequence: int = 1) -> AsyncIterator[Stored]:
        """Every message of those subjects from `sequence` on."""
        while (stored := await self.next(sequence)) is not None:
            yield stored
            sequence = stored.sequence + 1

    async def delete(self, sequence: int) -> bool:
        """Take a message out of the stream; false if it was gone."""
        try:
            await self._connection.api(f"STREAM.MSG.DELETE.{self._stream}", {"seq": sequence, "no_erase": True})
        except Rejected as error:
            if error.number in (NO_MESSAGE, _NOT_DELETED) or error.code == _NO_MESSAGE_CODE:
                return False
            raise self._unread(error) from error
        except (NoAnswer, NobodyListens) as error:
            raise self._unread(error) from error
        return True

    async def _get(self, which: dict[str, Any]) -> Stored | None:
        try:
            answer = await self._connection.api(f"STREAM.MSG.GET.{self._stream}", which)
        except Rejected as error:
            if error.number == NO_MESSAGE or error.code == _NO_MESSAGE_CODE:
                return None
            raise self._unread(error) from error
        except (NoAnswer, NobodyListens) as error:
            raise self._unread(error) from error
        message = answer["message"]
        return Stored(
            sequence=int(message["seq"]),
            body=base64.b64decode(message.get("data", "")),
            headers=_headers(base64.b64decode(message.get("hdrs", ""))),
            at_nanos=_nanos(message["time"]),
        )

    async def _ask(self, what: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            return await self._connection.api(what, request)
        except (Rejected, NoAnswer, NobodyListens) as error:
            raise self._unread(error) from error

    def _unread(self, error: Exception) -> QueueUnavailable:
        return QueueUnavailable(
            f"queue {self._connection.label}: stream {self._stream} could not be read: {error}. Try again"
        )


def _headers(block: bytes) -> dict[str, str]:
    """Names and values of a block of headers."""
    pairs = [line.partition(b":") for line in block.split(b"\r\n")[1:] if b":" in line]
    return {name.decode("ascii", "replace"): value.strip().decode("utf-8", "replace") for name, _, value in pairs}


def _nanos(text: str) -> int:
    """An RFC 3339 time, which the server writes with up to nine decimals, in nanoseconds."""
    whole, _, rest = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    return seconds * 1_000_000_000 + int((rest + "000000000")[:9])
