"""The order in which a demo is played: faults first, repair by the books, then the reckoning."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random

import anyio
import anyio.to_thread
import msgspec

from crossfoot.app import Crossfoot
from crossfoot.demo.log import Event
from crossfoot.demo.place import Place
from crossfoot.demo.plan import Act, Plan
from crossfoot.demo.progress import NOTHING_YET, Standing, held, in_work, standing
from crossfoot.demo.publisher import Publisher
from crossfoot.demo.recovery import Lost, lost, republish
from crossfoot.demo.waiting import until
from crossfoot.demo.workers import Crew, DemoBroken

LOOK = 0.25
"""Seconds between two looks into the book."""

WORKING = {
    "concurrency": 4, "prefetch": 100, "wait": 1.0, "grace": 30.0, "reconcile": 2.0,
    "attempts": 5, "backoff": 0.05, "backoff_cap": 0.5, "unknown_for": 0.0,
}  # fmt: skip
"""How the demo's workers work: like others, but less patient. A handler that waits for its own second delivery holds up
those behind it in its lane, 63 at most, and there must be room left to receive that delivery."""

ALONE = {"prefetch": 260}
"""A single worker must have that room when all its lanes are held up."""


class Watcher:
    """Whoever wants to know how far it is. This one does not."""

    def begin(self, phase: str, total: int) -> None:
        """A phase begins, `faults` or `repair`; it is over when so many more events have taken effect."""

    def step(self, now: Standing, published: int, killed: int, waiting: str) -> None:
        """How far it is, and what is waited for when nothing else is left to do."""

    def faults_over(self, now: Standing, found: Sequence[Lost]) -> None:
        """All faults have happened; the book names these messages as lost."""


class Played(msgspec.Struct, frozen=True):
    """What happened.

    Attributes:
        after_faults: messages by fate when all faults had happened and nothing was repaired.
        recovered: what the book named then, and what was published again.
        seconds: from the first event to the last settled; starting and ending processes is not counted.
        messages_per_second: settled while there was work: not counting the waits at the end, for leases to run out and
            for a queue to forget.
    """

    after_faults: Standing
    recovered: list[Lost]
    seconds: float
    messages_per_second: float


class Scene:
    """The actors of one demo."""

    def __init__(
        self, app: Crossfoot, late: Crossfoot, where: Place, publisher: Publisher, crew: Crew, plan: Plan, *,
        seed: int, workers: int,
    ) -> None:  # fmt: skip
        self.app = app
        self.late = late
        self._where = where
        self._publisher = publisher
        self._crew = crew
        self._plan = plan
        self._chance = Random(f"crossfoot demo kills {seed}")
        self._workers = workers
        alone = ALONE if workers == 1 else {}
        self._settings = {"database": app.database.path, "lease": where.lease, **WORKING, **alone, **where.settings}
        self._late_settings = {**self._settings, "reconcile": 1.0, **where.late_settings}
        self._now = NOTHING_YET
        self._killed = 0
        self._began = 0.0
        self._rate = 0.0
        self._late_from = 0.0
        self._last: object = None
        self._since = 0.0

    async def play(self, events: Sequence[Event], watcher: Watcher) -> Played:
        """Everything up to the last worker's end."""
        async with anyio.create_task_group() as starting:
            for _ in range(self._workers):
                starting.start_soon(self._crew.start, self._settings)
        self._began = anyio.current_time()
        watcher.begin("faults", len(events))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._publisher.run, events)
            tasks.start_soon(self._kill, len(events))
            tasks.start_soon(self._come_late)
            await self._until_over(watcher)
        after_faults = self._now
        recovered = await self._recover({event.sequence: event for event in events}, watcher)
        seconds = anyio.current_time() - self._began
        await self._crew.stop()
        self._now = await anyio.to_thread.run_sync(standing, self.app.book)
        return Played(after_faults, recovered, seconds, self._rate or self._now.done / seconds)

    # ---- phases --------------------------------------------------------------------------------------------------

    async def _recover(self, log: dict[int, Event], watcher: Watcher) -> list[Lost]:
        """Publish again what the book names, until it names nothing more."""
        recovered: dict[str, Lost] = {}
        while found := [one for one in await anyio.to_thread.run_sync(lost, self.app.book) if one.id not in recovered]:
            if not recovered:
                watcher.faults_over(self._now, found)
            watcher.begin("repair", len(log) - self._now.done)
            recovered |= {one.id: one for one in found}
            await republish(self.app, found, log)
            await self._until_over(watcher)
        return list(recovered.values())

    async def _until_over(self, watcher: Watcher) -> None:
        """Until nothing is in work any more, and nothing that was planned is still to come."""
        while True:
            self._crew.check()
            self._now = await anyio.to_thread.run_sync(standing, self.app.book)
            self._measure()
            watcher.step(self._now, self._publisher.published, self._killed, self._waiting)
            if self._all_happened and not self._now.in_work and not await held([self.app.queue, self.late.queue]):
                return
            await self._see_that_it_moves()
            await anyio.sleep(LOOK)

    def _measure(self) -> None:
        """The rate, at the first look that finds next to nothing left to do."""
        if self._publisher.done and not self._rate and self._now.in_work < max(20, self._now.known // 100):
            self._rate = self._now.done / (anyio.current_time() - self._began)

    @property
    def _waiting(self) -> str:
        """What the last messages wait for."""
        left = self._late_from - anyio.current_time()
        if not self._publisher.done or self._now.in_work > len(self._publisher.late_at) or left < 1:
            return ""
        return f"waiting {left:.0f} s more, until the late queue has forgotten its messages"

    @property
    def _all_happened(self) -> bool:
        return self._publisher.done and self._killed == len(self._plan.kills)

    # ---- tasks ---------------------------------------------------------------------------------------------------

    async def _kill(self, total: int) -> None:
        """Kill workers at the planned parts of the work, more or less, and put others in their place."""
        for part in self._plan.kills:
            await until(partial(self._has_come_to, part, total), every=LOOK / 5)
            await anyio.sleep(self._chance.uniform(0.0, 0.3))
            await until(self._kill_one, every=0.05)
            self._killed += 1
            await self._crew.start(self._settings)

    async def _kill_one(self) -> bool:
        return await self._crew.kill(self._chance) is not None

    async def _has_come_to(self, part: float, total: int) -> bool:
        """Whether that part of the work is done, or all that can be done."""
        handled = self._now.known - self._now.in_work
        return handled >= part * total or (self._publisher.done and not self._now.in_work)

    async def _come_late(self) -> None:
        """The consumer of the late queue starts when the queue has forgotten."""
        await until(self._all_are_late, every=LOOK)
        self._late_from = max(self._publisher.late_at) + self._where.late_retention + 0.5
        await anyio.sleep_until(self._late_from)
        await self._where.forget()
        await self._crew.start(self._late_settings, mortal=False)

    async def _all_are_late(self) -> bool:
        return len(self._publisher.late_at) == len(self._plan.of(Act.EXPIRE))

    async def _see_that_it_moves(self) -> None:
        moment = (self._now, self._publisher.published, self._killed)
        if moment != self._last:
            self._last, self._since = moment, anyio.current_time()
        elif anyio.current_time() > self._since + self._where.patience + self._where.late_retention:
            hanging = await anyio.to_thread.run_sync(in_work, self.app.book)
            raise DemoBroken(f"nothing moves any more; still in work: {', '.join(hanging) or 'copies in the queue'}")
