"""Receiving: short claims, and waits between them that take nothing.

A claim is one statement: what it leases is leased when it answers, and its answer is waited for even by a receive that is
cancelled. So no delivery is ever on its way to nobody, but for a connection that breaks in between: then its lease runs out.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import msgspec

from crossfoot.clock import Clock, Micros, micros
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.postgres import sql
from crossfoot.queues.postgres.answers import NoAnswer, Rejected
from crossfoot.queues.postgres.bell import Bell
from crossfoot.queues.postgres.client import Client
from crossfoot.queues.postgres.messages import duration
from crossfoot.queues.postgres.places import Look, Places, after, columns
from crossfoot.queues.postgres.receipts import receipt_of
from crossfoot.queues.postgres.tables import WAITING
from crossfoot.queues.queue import Delivery

MAX_RECEIVE = 200
MAX_RECEIVE_BYTES = 4 * 1024 * 1024
"""A claim that has as much takes no more."""

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.25
"""Seconds between two looks of a waiting receive, doubling from the first to the longest."""

CLAIMS_A_LOOK = 4
"""So many claims begin at the same places: more would have each step over more of what the others took."""

WHOLE_LOOK = 60.0
SHARE = 100
"""Seconds between two looks from the beginning, and how many times their own duration it is at least."""

PATIENCE = 30.0
"""How many times as long as others a look from the beginning may take: it steps over everything that is not vacuumed."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Receiver:
    """Receives from one queue.

    Args:
        retention: seconds after which a message is set aside, `None` for never.
        max_attempts: deliveries after which the queue itself buries a message, `None` for never.
    """

    def __init__(
        self, client: Client, bell: Bell, clock: Clock, *, retention: float | None, max_attempts: int | None
    ) -> None:
        self._client = client
        self._bell = bell
        self._clock = clock
        self._name = client.address.name
        self._more = {
            "queue": self._name,
            "retention": None if retention is None else duration(retention, f"retention of queue {self._name}"),
            "most": max_attempts or 2**31 - 1,
            "reason": f"delivered {max_attempts} times, the most that queue {self._name} allows",
            "bytes": MAX_RECEIVE_BYTES,
        }
        self.places = Places()
        self._claims = 0
        self._next_whole = float("-inf")

    async def receive(self, limit: int, *, lease: float, wait: float) -> list[Delivery]:
        """Up to `limit` deliveries; see `Queue.receive`.

        Raises:
            QueueUnavailable: no answer, or a refusal. Should messages have been leased, they come again.
        """
        give_up_at = anyio.current_time() + wait
        pause = FIRST_PAUSE
        with self._bell.waiting() as bell:
            if wait > 0:
                await self._bell.listen()
            while True:
                deliveries, instead = await self._claim(min(limit, MAX_RECEIVE), lease)
                if deliveries:
                    return deliveries
                if instead:
                    continue
                left = give_up_at - anyio.current_time()
                if left <= 0:
                    return []
                rung = await bell.wait(min(pause, left))
                pause = FIRST_PAUSE if rung else min(2 * pause, LONGEST_PAUSE)

    def forget_places(self) -> None:
        """Begin from the beginning: the database may be another one by now."""
        self.places = Places()
        self._next_whole = float("-inf")

    async def _claim(self, limit: int, lease: float) -> tuple[list[Delivery], int]:
        """What was leased, and how many messages were set aside or buried instead."""
        await self._look_if_due()
        token = secrets.randbits(63)
        lease_until = self._clock.now() + micros(lease)
        asked = self.places
        try:
            rows = await self._client.ask(
                sql.CLAIM,
                {
                    **self._more, **columns(asked.ranges()), "since": instant(asked.since), "limit": limit, "token": token,
                    "lease": timedelta(seconds=lease),
                },
            )  # fmt: skip
        except (NoAnswer, Rejected) as error:
            self.forget_places()
            raise QueueUnavailable(f"queue {self._name} did not deliver: {error}. Try again") from error
        except QueueUnavailable:
            self.forget_places()
            raise
        self._claims += 1
        rows.sort()  # RETURNING keeps no order; turns are unique, so nothing else is compared
        deliveries = [_delivery(row, token, lease_until) for row in rows if row[1] == WAITING]
        return deliveries, len(rows) - len(deliveries)

    async def _look_if_due(self) -> None:
        """Move the places on, every few claims; and once in a while look at everything."""
        began = time.monotonic()
        whole = began >= self._next_whole
        if not whole and self._claims < CLAIMS_A_LOOK:
            return
        asked = Places() if whole else self.places
        self.places = after(asked, await self._look(asked, patience=PATIENCE if whole else 1.0))
        self._claims = 0
        if whole:
            ended = time.monotonic()
            self._next_whole = ended + max(WHOLE_LOOK * random.uniform(0.5, 1.5), SHARE * (ended - began))

    async def _look(self, asked: Places, *, patience: float) -> Look:
        more: dict[str, Any] = {"queue": self._name, "since": instant(asked.since), **columns(asked.ranges())}
        try:
            (row,) = await self._client.ask(sql.LOOK, more, patience=patience)
        except (NoAnswer, Rejected) as error:
            raise QueueUnavailable(f"queue {self._name} could not be looked at: {error}. Try again") from error
        return msgspec.convert(row, Look)


def instant(at: Micros) -> datetime:
    return EPOCH + timedelta(microseconds=at)


def _delivery(row: Sequence[Any], token: int, lease_until: Micros) -> Delivery:
    _, _, key, attempt, enqueued_at, attributes, body = row
    return Delivery(
        body=body, receipt=receipt_of(key, token), attempt=attempt, lease_until=lease_until, enqueued_at=enqueued_at,
        broker_id=str(key), attributes=msgspec.json.decode(attributes, type=dict[str, str]) if attributes else {},
    )  # fmt: skip
