"""The consumer as the event loop has it: what came, what is handed over, and what ends it.

A lease is kept at this end. What makes it true is the group: it gives our partitions to others after a session's silence and not
before, and it takes a commit only from who is its member in this generation. So a commit that was answered is good for a session;
a lease ends within one, is extended by another commit, and is void in the moment in which the partition is taken away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import anyio
from anyio import CancelScope

from crossfoot.clock import Clock, Micros, micros
from crossfoot.errors import QueueUnavailable
from crossfoot.queues.kafka.committing import Committer
from crossfoot.queues.kafka.flow import Flow
from crossfoot.queues.kafka.member import Member
from crossfoot.queues.kafka.messages import Came
from crossfoot.queues.kafka.shelf import Shelf
from crossfoot.queues.kafka.track import Item
from crossfoot.queues.queue import Delivery, Done, NotDone, ReceiptAnswer

_log = logging.getLogger("crossfoot.queues.kafka")

SHORTEST_WAIT = 0.03
"""Seconds. What was published a moment ago may be on its way."""

READING_SECONDS = 1.0
"""For which a receive waits while the broker has more than was read, however short its own wait."""

JOINING_SECONDS = 15.0
"""For which the first receive waits until the group has us."""

LONGEST_SLEEP = 3_600.0


class Consumer:
    """A member of the group, and what is in its hands.

    Args:
        label: the queue's name, for errors.
        session: seconds of silence after which the group gives our partitions to others.
        timeout: seconds until a request without an answer is given up.
    """

    def __init__(
        self, topic: str, settings: dict[str, Any], clock: Clock, *, label: str, session: float, ahead: int, timeout: float,
    ) -> None:  # fmt: skip
        self.tell: Callable[[Sequence[str]], None] = lambda receipts: None
        """Called with the receipts that are void, in the moment in which they become so."""
        self.forgot_at: Micros | None = None
        """When it was last seen that the log had let go of what was never read."""
        self.why = ""
        """Why it has ended, if so."""
        self.shelf = Shelf()
        self._label = label
        self._topic = topic
        self._clock = clock
        self._timeout = timeout
        self._flow = Flow(ahead)
        self._member = Member(topic, settings, self._flow, self)
        self._member.busy = lambda: self.shelf.anything_out
        self._committer = Committer(self._member, self.shelf, self._flow, clock, session=session, timeout=timeout)
        self._joined = False
        self._closing = False
        self._changed = anyio.Event()

    @property
    def up(self) -> bool:
        """Whether it can be used, here and now: it belongs to the event loop it was made in."""
        return not self.why and self._member.loop is asyncio.get_running_loop()

    def start(self) -> None:
        self._member.start()

    async def close(self) -> None:
        """Leave the group, with what is settled committed. What is in hand is the next one's.

        A group that does not answer within the timeout finds by itself that we are gone.
        """
        self._closing = True
        self._member.stop()
        with CancelScope(shield=True), anyio.move_on_after(self._timeout) as waiting:
            await asyncio.shield(asyncio.wrap_future(self._member.over))
        if waiting.cancelled_caught:
            _log.warning("queue %s: the group did not answer to our leaving it within %g s", self._label, self._timeout)

    # ---- for the queue -------------------------------------------------------------------------------------------------

    async def receive(self, limit: int, *, lease: float, wait: float) -> list[Delivery]:
        """Up to `limit` deliveries.

        Raises:
            QueueUnavailable: the group does not have us, or not any more; what was in hand comes again.
        """
        began = anyio.current_time()
        while True:
            if self.why:
                raise QueueUnavailable(f"queue {self._label} does not deliver: {self.why}")
            self._changed = changed = anyio.Event()
            now = self._clock.monotonic()
            if self.shelf.has_ready(now):
                with CancelScope(shield=True):  # what is handed over must be the caller's
                    failed = await self._committer.vouch(lease)
                if failed:
                    raise QueueUnavailable(f"queue {self._label} does not deliver: {failed}. Try again")
                if items := self.shelf.deliver(limit, now, lease):
                    return [self._delivery(item) for item in items]
            until = began + max(wait, SHORTEST_WAIT)
            if not self._joined:
                until = began + max(wait, JOINING_SECONDS)
            elif not self.shelf.caught_up:
                until = began + max(wait, READING_SECONDS)
            left = until - anyio.current_time()
            if left <= 0:
                return []
            soon = self.shelf.next_at(now)
            with anyio.move_on_after(min(left, LONGEST_SLEEP if soon is None else max(0.0, soon - now))):
                await changed.wait()

    async def settle(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        """They have their end: the offset may pass them, and what is behind them of their keys is free."""
        self._changed.set()  # whoever waits is woken in the loop's next turn, when they are noted
        return await self._committer.settle(receipts)

    def release(self, receipts: Sequence[str], delay: float) -> list[ReceiptAnswer]:
        """They come again, in so many seconds."""
        due = self._clock.monotonic() + delay
        answers: list[ReceiptAnswer] = []
        for receipt in receipts:
            item = self.shelf.out(receipt)
            if item is not None:
                self.shelf.release(item, due)
            answers.append(Done(receipt) if item is not None else void(receipt))
        self._changed.set()
        return answers

    async def extend(self, receipts: Sequence[str], lease: float) -> list[ReceiptAnswer]:
        """Lease for `lease` seconds from now."""
        now = self._clock.monotonic()
        failed = ""
        if any(self.shelf.out(receipt) for receipt in receipts):
            failed = await self._committer.vouch(lease)
        answers: list[ReceiptAnswer] = []
        for receipt in receipts:
            item = self.shelf.out(receipt)
            if item is None:
                answers.append(void(receipt))
            elif failed:
                answers.append(NotDone(receipt, failed, lost=False))
            else:
                item.lease_over = now + lease
                answers.append(Done(receipt))
        return answers

    # ---- what the member tells -------------------------------------------------------------------------------------------

    def assigned(self, starts: dict[int, int]) -> None:
        self.shelf.assign(starts)
        for partition in starts:
            self._flow.passed[partition] = 0
        self._joined = True
        self._changed.set()

    def taken_away(self, partitions: list[int], *, lost: bool) -> dict[int, int]:
        offsets = {} if lost else self._committer.offsets(partitions)
        why = "the group took them for dead" if lost else "the group gave them to others"
        self._drop(partitions, why)
        return offsets

    def came(self, messages: list[tuple[int, Came]]) -> None:
        now = self._clock.monotonic()
        for partition, came in messages:
            if self.shelf.take(partition, came, now) is None:
                self._flow.bytes_freed += came.size
                if partition in self._flow.passed:
                    self._flow.passed[partition] += 1
        self._changed.set()

    def reached(self, partition: int, end: int) -> None:
        track = self.shelf.tracks.get(partition)
        if track is not None:
            track.reached(end)
            if not track.items:  # nothing will be settled that would take the offset over what is no message
                self._committer.aside(partition)
        self._changed.set()

    def forgotten(self, partition: int, begin: int, start: int) -> None:
        track = self.shelf.tracks.get(partition)
        if track is None:
            return
        if start < begin:
            _log.error(
                "queue %s: the log of partition %d ends before offset %d, which was read already: it was cut off. It is read again "
                "from %d on; what was handled before is found complete", self._label, partition, begin, start,
            )  # fmt: skip
            self._drop([partition], "its log was cut off")
            self.shelf.assign({partition: start})
            self._changed.set()
            return
        self.forgot_at = self._clock.now()
        track.skip_to(start)
        _log.error(
            "queue %s: messages %d to %d of partition %d were gone from the log before this group had read them: its retention is over, "
            "or they were deleted", self._label, begin, start - 1, partition,
        )  # fmt: skip
        self._changed.set()

    def committed(self, error: str, offsets: dict[int, int]) -> None:
        self._committer.answered(error, offsets)

    def ended(self, why: str) -> None:
        self.why = why
        self._drop(list(self.shelf.tracks), why)
        self._committer.answered(why, {})
        self._changed.set()

    # ---- parts ---------------------------------------------------------------------------------------------------------------

    def _drop(self, partitions: list[int], why: str) -> None:
        for partition in partitions:
            items = self.shelf.tracks[partition].items.values() if partition in self.shelf.tracks else ()
            self._flow.bytes_freed += sum(item.size for item in items)
            if partition in self._flow.passed:
                self._flow.passed[partition] += len(items)
        gone = self.shelf.drop(partitions)
        if gone and not self._closing:
            _log.warning("queue %s: %d deliveries in hand are void: %s", self._label, len(gone), why)
            self.tell(gone)

    def _delivery(self, item: Item) -> Delivery:
        assert item.came is not None
        return Delivery(
            body=item.came.event,
            receipt=item.receipt,
            attempt=item.attempt,
            lease_until=self._clock.now() + micros(item.lease_over - self._clock.monotonic()),
            enqueued_at=item.came.at,
            broker_id=f"{self._topic}/{item.partition}/{item.offset}",
            attributes=item.came.attributes,
        )


def void(receipt: str) -> NotDone:
    return NotDone(receipt, "it is void: used, over, or taken away with its partition", lost=True)
