"""Receiving: short claims, and waits between them that take nothing.

A claim is one script: what it leases is leased when it answers, and its answer is waited for even by a receive that is
cancelled. A wait only looks whether the stream has a new entry. So no delivery is ever on its way to nobody, but for a
connection that breaks between the two: then its lease runs out.
"""

from __future__ import annotations

import logging
import math
import os
from typing import Any

import anyio
import msgspec

from crossfoot.clock import Clock, micros
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.queue import Delivery
from crossfoot.queues.redis.answers import NoAnswer, Rejected
from crossfoot.queues.redis.client import Client
from crossfoot.queues.redis.entries import body_and_attributes, entered_at, text_of
from crossfoot.queues.redis.receipts import receipt_of
from crossfoot.queues.redis.scripts import RECEIVE

MAX_RECEIVE = 100
MAX_RECEIVE_BYTES = 4 * 1024 * 1024
"""A claim that has as much takes no more."""

POLL = 0.5
"""Seconds a wait lasts at most: what somebody else hands back makes no entry that would end it."""

SHORTEST = 0.02
"""Seconds a wait lasts at least."""

_log = logging.getLogger("crossfoot.queues.redis")


class Claim(msgspec.Struct, frozen=True):
    """What one claim brought.

    Attributes:
        instead: entries that were looked at and not delivered: gone, set aside or buried. There may be more behind them.
        due: seconds until something held or delayed is due, `None` when nothing is.
        last: the last id the group was given.
    """

    deliveries: list[Delivery]
    instead: int
    due: float | None
    last: str


class Receiver:
    """Receives from one queue.

    Args:
        retention: seconds after which an entry is set aside, `None` for never.
        max_attempts: deliveries after which an entry is buried by the queue, `None` for never.
    """

    def __init__(self, client: Client, clock: Clock, *, retention: float | None, max_attempts: int | None) -> None:
        self._client = client
        self._clock = clock
        self._retention = math.ceil((retention or 0) * 1_000)
        self._most = max_attempts or 0

    async def receive(self, limit: int, *, lease: float, wait: float) -> list[Delivery]:
        """Up to `limit` deliveries; see `Queue.receive`.

        Raises:
            QueueUnavailable: no answer, or a refusal. Should entries have been leased, they come again.
        """
        until = anyio.current_time() + wait
        while True:
            claim = await self._claim(min(limit, MAX_RECEIVE), lease)
            if claim.deliveries:
                return claim.deliveries
            if claim.instead:
                continue
            left = until - anyio.current_time()
            if left <= 0:
                return []
            due = POLL if claim.due is None else min(POLL, max(SHORTEST, claim.due))
            await self._client.wait_for_entry(claim.last, min(left, due))

    async def _claim(self, limit: int, lease: float) -> Claim:
        token = os.urandom(8).hex()
        lease_until = self._clock.now() + micros(lease)
        try:
            given, gone, instead, due, last = await self._client.run(
                RECEIVE, limit, math.ceil(lease * 1_000), token, self._retention, self._most, MAX_RECEIVE_BYTES
            )
        except (NoAnswer, Rejected) as error:
            raise QueueUnavailable(f"queue {self._client.address.name} did not deliver: {error}. Try again") from error
        if gone:
            self._tell([text_of(one) for one in gone])
        deliveries = [_delivery(one, token, lease_until) for one in given]
        return Claim(deliveries, instead, due / 1_000 if due >= 0 else None, text_of(last))

    def _tell(self, gone: list[str]) -> None:
        _log.warning(
            "queue %s: %d entries that were delivered and not acked are gone from the stream, trimmed or deleted by somebody: "
            "%s; the next comparison with the book calls their messages vanished",
            self._client.address.name, len(gone), ", ".join(gone),
        )  # fmt: skip


def _delivery(one: Any, token: str, lease_until: int) -> Delivery:
    entry_id, attempt, fields = one
    broker_id = text_of(entry_id)
    body, attributes = body_and_attributes(fields)
    return Delivery(
        body=body, receipt=receipt_of(broker_id, token), attempt=attempt, lease_until=lease_until,
        enqueued_at=entered_at(broker_id), broker_id=broker_id, attributes=attributes,
    )  # fmt: skip
