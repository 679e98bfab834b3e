"""Committing: how far the offsets go, one request at a time, each made of what is settled when its turn has come.

An ack is done when the broker has the offset behind it. Where an earlier message of the partition has no end yet, that cannot be:
then it is done when it is noted here, and a crash before the offset passes it brings a second copy, whose operation is complete.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

import anyio
from anyio import CancelScope, Lock

from crossfoot.clock import Clock
from crossfoot.queues.kafka.answers import VOID
from crossfoot.queues.kafka.flow import Flow
from crossfoot.queues.kafka.member import Member
from crossfoot.queues.kafka.shelf import Shelf
from crossfoot.queues.queue import Done, NotDone, ReceiptAnswer

REBALANCING = ("(REBALANCE_IN_PROGRESS)", "(ILLEGAL_GENERATION)")
"""What a commit is told that came while the group rebalanced, or that waited on its way until it had."""

PAUSE_SECONDS = 0.05

UNANSWERED = 64
"""Commits without an answer that are remembered."""


class Committer:
    """Commits for one member.

    Args:
        session: seconds for which an answered commit shows that the group has us.
        timeout: seconds until a commit without an answer is given up.
    """

    def __init__(
        self, member: Member, shelf: Shelf, flow: Flow, clock: Clock, *, session: float, timeout: float
    ) -> None:
        self._member = member
        self._shelf = shelf
        self._flow = flow
        self._clock = clock
        self._session = session
        self._timeout = timeout
        self._one_at_a_time = Lock()
        self._asked: deque[tuple[dict[int, int], float]] = deque(maxlen=UNANSWERED)
        """What was asked and not answered, and when."""
        self._wanted: dict[int, int] = {}
        """The offsets whose answer is waited for."""
        self._answer: asyncio.Future[tuple[str, float]] | None = None
        """What the latest came to, and since when that is known to be so."""
        self._sure_until = float("-inf")

    def offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """How far each may be committed, where that is further than it is."""
        tracks = [track for one in partitions if (track := self._shelf.tracks.get(one)) is not None]
        return {track.partition: track.prefix for track in tracks if track.dirty}

    async def settle(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        """Note their end, and commit what may be."""
        known = {receipt: item for receipt in receipts if (item := self._shelf.find(receipt)) is not None}
        for item in known.values():
            self._flow.bytes_freed += self._shelf.settle(item)
        failed = ""
        if known:
            with CancelScope(shield=True):
                failed = await self._commit({item.partition for item in known.values()})
        answers: list[ReceiptAnswer] = []
        for receipt in receipts:
            if (item := known.get(receipt)) is None:
                answers.append(NotDone(receipt, "it is void: used, over, or taken away with its partition", lost=True))
                continue
            track = self._shelf.tracks.get(item.partition)
            if not item.passed and (track is None or self._shelf.find(receipt) is not item):
                answers.append(NotDone(receipt, "its partition was taken away", lost=True))
            elif failed and not item.passed and track is not None and item.offset < track.prefix:
                answers.append(NotDone(receipt, failed, lost=False))
            else:
                answers.append(Done(receipt))
        return answers

    async def vouch(self, lease: float) -> str:
        """See that the group has us, for as long as the lease from now, which is no longer than a session; why not, if not."""
        wanted = self._clock.monotonic() + min(lease, self._session)
        until = anyio.current_time() + self._timeout
        with CancelScope(shield=True):
            # Without partitions there is nothing to lease. The answer may be that to an earlier commit, which shows less.
            while self._shelf.tracks and self._sure_until < wanted:
                if failed := await self._commit(self._shelf.tracks, anyway=True):
                    return failed
                if self._sure_until < wanted and anyio.current_time() >= until:
                    return f"no answer to a commit of this lease's own within {self._timeout:g} s"
        return ""

    def aside(self, partition: int) -> None:
        """Commit without waiting for it: nobody's ack depends on that."""
        if offsets := self.offsets([partition]):
            self._ask(offsets)

    def answered(self, error: str, offsets: dict[int, int]) -> None:
        """What a commit came to."""
        if not error:
            for partition, offset in offsets.items():
                passed = self._shelf.confirm(partition, offset)
                if partition in self._flow.passed:
                    self._flow.passed[partition] += len(passed)
        answer = self._answer
        if answer is None or answer.done():
            return
        if not offsets:
            answer.set_result((error, 0.0))
            return
        asked = self._since(offsets)
        if offsets == self._wanted and (not error or not any(one == offsets for one, _ in self._asked)):
            answer.set_result((error, asked))

    def _ask(self, offsets: dict[int, int]) -> None:
        now = self._clock.monotonic()
        while self._asked and self._asked[0][1] < now - self._session:  # whose answer would say nothing any more
            self._asked.popleft()
        self._asked.append((offsets, now))
        self._member.commit(offsets)

    def _since(self, offsets: dict[int, int]) -> float:
        """When the first of those was asked to which this may be the answer: the group had us then, and perhaps no longer."""
        for number, (one, asked) in enumerate(self._asked):
            if one == offsets:
                del self._asked[number]
                return asked
        return float("-inf")

    async def _commit(self, partitions: Iterable[int], *, anyway: bool = False) -> str:
        """Commit what is settled; `anyway`: what is committed already, too. Why it did not happen, if so.

        While the group rebalances it takes no commit, and what stays ours may be committed when that is over: then it is asked again. What
        does not is void by then, and left out.
        """
        until = anyio.current_time() + self._timeout
        failed = await self._once(partitions, anyway=anyway)
        while any(name in failed for name in REBALANCING) and anyio.current_time() < until:
            await anyio.sleep(PAUSE_SECONDS)
            failed = await self._once(partitions, anyway=anyway)
        return failed

    async def _once(self, partitions: Iterable[int], *, anyway: bool) -> str:
        async with self._one_at_a_time:  # by its turn, another one may have done it
            wanted = self.offsets(partitions)
            if anyway and not wanted:
                wanted = {track.partition: track.prefix for track in list(self._shelf.tracks.values())[:1]}
            if not wanted:
                return ""
            self._answer = asyncio.get_running_loop().create_future()
            self._wanted = wanted
            self._ask(wanted)
            failed, asked = f"no answer to a commit within {self._timeout:g} s", 0.0
            with anyio.move_on_after(self._timeout):
                failed, asked = await asyncio.shield(self._answer)
            if not failed:
                self._sure_until = asked + self._session
            elif any(f"({name})" in failed for name in VOID):
                self._sure_until = float("-inf")
            return f"its offset was not committed: {failed}" if failed else ""
